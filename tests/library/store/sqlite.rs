//! SQLite's own promises.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use receiptd::receipt::{ErrorCode, State, UnixMs};
use receiptd::settings::{SqliteFile, Synchronous};
use receiptd::store::sqlite::{Role, SqliteStore};
use receiptd::store::{
    Claims as _, Commands as _, Pruned, Reader, Results as _, Scope, StoreError, Upkeep as _,
};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::{
    Backend, READERS, ReaderRow, T0, add_placed, at, due_rows, keys, lane, new, new_of, new_rows,
    pruned, reader_of, show,
};

/// A store in a directory of its own; feeders come over a connection of their own, with their checks off.
pub(crate) struct SqliteBackend {
    pub store: SqliteStore,
    pub path: PathBuf,
    pub(crate) _dir: tempfile::TempDir,
}

pub(crate) fn database(path: impl Into<PathBuf>) -> SqliteFile {
    SqliteFile {
        path: path.into(),
        synchronous: Synchronous::Normal,
    }
}

impl SqliteBackend {
    /// A connection of another program.
    pub(crate) async fn foreign(&self) -> SqliteConnection {
        SqliteConnectOptions::new()
            .filename(&self.path)
            .connect()
            .await
            .unwrap()
    }

    async fn run(&self, statement: &'static str, key: &str, value: i64) {
        let mut connection = self.foreign().await;
        sqlx::query("PRAGMA ignore_check_constraints = ON")
            .execute(&mut connection)
            .await
            .unwrap();
        sqlx::query(statement)
            .bind(key)
            .bind(value)
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

impl Backend for SqliteBackend {
    type Store = SqliteStore;

    async fn fresh() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receiptd.db");
        let store = SqliteStore::open(&database(&path), Role::Owner)
            .await
            .unwrap();
        Self {
            store,
            path,
            _dir: dir,
        }
    }

    fn store(&self) -> &SqliteStore {
        &self.store
    }

    async fn cancel(&self, key: &str) {
        let statement =
            "UPDATE messages SET state = 'cancelled' WHERE process_query_key = ?1 AND ?2 = 0";
        self.run(statement, key, 0).await;
    }

    async fn delete(&self, key: &str) {
        let statement = "DELETE FROM messages WHERE process_query_key = ?1 AND ?2 = 0";
        self.run(statement, key, 0).await;
    }

    async fn rename(&self, key: &str, to: &str) {
        sqlx::query("UPDATE messages SET process_query_key = ?2 WHERE process_query_key = ?1")
            .bind(key)
            .bind(to)
            .execute(&mut self.foreign().await)
            .await
            .unwrap();
    }

    async fn give_to(&self, key: &str, account: &str) {
        sqlx::query("UPDATE messages SET account = ?2 WHERE process_query_key = ?1")
            .bind(key)
            .bind(account)
            .execute(&mut self.foreign().await)
            .await
            .unwrap();
    }

    async fn reschedule(&self, key: &str, at: UnixMs) {
        let statement = "UPDATE messages SET next_poll_at = ?2 WHERE process_query_key = ?1";
        self.run(statement, key, at.0).await;
    }

    async fn corrupt(&self, key: &str) {
        let statement =
            "UPDATE messages SET chat = x'00ff' WHERE process_query_key = ?1 AND ?2 = 0";
        self.run(statement, key, 0).await;
    }

    async fn remove_reader(&self, key: &str, user: &str) {
        sqlx::query("DELETE FROM readers WHERE process_query_key = ?1 AND user_id = ?2")
            .bind(key)
            .bind(user)
            .execute(&mut self.foreign().await)
            .await
            .unwrap();
    }

    async fn put_ticket(&self, suite: &str, ticket: &str) {
        let mut connection = self.foreign().await;
        let statement = "INSERT INTO suite_tickets (suite_key, ticket) VALUES (?1, ?2)
            ON CONFLICT (suite_key) DO UPDATE SET ticket = excluded.ticket";
        sqlx::query(statement)
            .bind(suite)
            .bind(ticket)
            .execute(&mut connection)
            .await
            .unwrap();
    }

    async fn push(&self, key: &str, user: &str, read_at: Option<UnixMs>) {
        let insert =
            "INSERT INTO read_events (process_query_key, user_id, read_at) VALUES (?1, ?2, ?3)";
        sqlx::query(insert)
            .bind(key)
            .bind(user)
            .bind(read_at.map(|at| at.0))
            .execute(&mut self.foreign().await)
            .await
            .unwrap();
    }

    async fn pushed(&self) -> Vec<(String, String)> {
        sqlx::query_as("SELECT process_query_key, user_id FROM read_events ORDER BY id")
            .fetch_all(&mut self.foreign().await)
            .await
            .unwrap()
    }

    async fn readers(&self) -> Vec<(String, Reader)> {
        let rows: Vec<ReaderRow> = sqlx::query_as(READERS)
            .fetch_all(&mut self.foreign().await)
            .await
            .unwrap();
        rows.into_iter().map(reader_of).collect()
    }

    async fn crash(self) -> Self {
        let Self { store, path, _dir } = self;
        // Not closed: what was under way ends as it can, behind our back.
        drop(store);
        let store = SqliteStore::open(&database(&path), Role::Owner)
            .await
            .unwrap();
        let backend = Self { store, path, _dir };
        // A COMMIT that was on its way has the write lock until it is done.
        let mut next = backend.foreign().await;
        execute(&mut next, "BEGIN IMMEDIATE").await.unwrap();
        execute(&mut next, "COMMIT").await.unwrap();
        backend
    }
}

pub(crate) async fn execute(
    connection: &mut SqliteConnection,
    statement: &str,
) -> Result<u64, sqlx::Error> {
    let statement = sqlx::AssertSqlSafe(statement.to_owned());
    let done = sqlx::query(statement).execute(connection).await?;
    Ok(done.rows_affected())
}

#[tokio::test]
async fn a_feeder_is_told_which_column_is_wrong() {
    let backend = SqliteBackend::fresh().await;
    let mut feeder = backend.foreign().await;
    let wrong = [
        (
            "(process_query_key) VALUES ('')",
            "process_query_key_is_1_to_512_printable_ascii_characters",
        ),
        (
            "(process_query_key) VALUES (x'6b6579')",
            "process_query_key_is_1_to_512_printable_ascii_characters",
        ),
        (
            "(process_query_key) VALUES ('a b')",
            "process_query_key_is_1_to_512_printable_ascii_characters",
        ),
        (
            "(process_query_key) VALUES ('a' || char(0) || 'b')",
            "process_query_key_is_1_to_512_printable_ascii_characters",
        ),
        (
            "(process_query_key) VALUES ('ké')",
            "process_query_key_is_1_to_512_printable_ascii_characters",
        ),
        (
            "(process_query_key) VALUES (hex(zeroblob(257)))",
            "process_query_key_is_1_to_512_printable_ascii_characters",
        ),
        (
            "(process_query_key) VALUES (NULL)",
            "NOT NULL constraint failed: messages.process_query_key",
        ),
        (
            "(process_query_key, account) VALUES ('k', '')",
            "account_is_text_of_1_to_128_characters",
        ),
        (
            "(process_query_key, account) VALUES ('k', x'00')",
            "account_is_text_of_1_to_128_characters",
        ),
        (
            "(process_query_key, corp_id) VALUES ('k', '')",
            "corp_id_is_null_or_text_of_1_to_128_characters",
        ),
        (
            "(process_query_key, robot_code) VALUES ('k', '')",
            "robot_code_is_null_or_text_of_1_to_256_characters",
        ),
        (
            "(process_query_key, open_conversation_id) VALUES ('k', '')",
            "open_conversation_id_is_null_or_text_of_1_to_512_characters",
        ),
        (
            "(process_query_key, chat) VALUES ('k', 'Group')",
            "chat_is_private_group_or_oto",
        ),
        (
            "(process_query_key, expected_readers) VALUES ('k', 0)",
            "expected_readers_is_null_or_a_whole_number_from_1",
        ),
        (
            "(process_query_key, expected_readers) VALUES ('k', 1.5)",
            "expected_readers_is_null_or_a_whole_number_from_1",
        ),
        (
            "(process_query_key, sent_at) VALUES ('k', 1700000000)",
            "sent_at_is_unix_milliseconds",
        ),
        (
            "(process_query_key, sent_at) VALUES ('k', '2026-11-30')",
            "sent_at_is_unix_milliseconds",
        ),
        (
            "(process_query_key, next_poll_at) VALUES ('k', 'soon')",
            "next_poll_at_is_null_or_unix_milliseconds",
        ),
        (
            "(process_query_key, state) VALUES ('k', 'canceled')",
            "state_is_pending_complete_recalled_expired_failed_or_cancelled",
        ),
    ];
    for (row, name) in wrong {
        let error = execute(&mut feeder, &format!("INSERT INTO messages {row}"))
            .await
            .expect_err(row);
        assert!(error.to_string().contains(name), "{row}: {error}");
    }
    assert_eq!(new_rows(&backend.store, 9).await, []);
    let good =
        "INSERT INTO messages (process_query_key) VALUES ('Kna29+/==') ON CONFLICT DO NOTHING";
    assert_eq!(execute(&mut feeder, good).await.unwrap(), 1);
    assert_eq!(execute(&mut feeder, good).await.unwrap(), 0);
    // A row in the cadence can't lose its schedule.
    add_placed(&backend.store, &[("placed", "x", at(5))]).await;
    let unplaced = "UPDATE messages SET next_poll_at = NULL WHERE process_query_key = 'placed'";
    let error = execute(&mut feeder, unplaced)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("next_poll_at_of_a_scheduled_message_is_not_null"),
        "{error}"
    );
}

/// Rows that only an older file or a feeder with its checks off can hold.
#[tokio::test]
async fn rows_that_went_round_the_checks_are_quarantined_and_stop_nobody() {
    let backend = SqliteBackend::fresh().await;
    let store = &backend.store;
    let rows = [
        ("blob-account", "x", at(1)),
        ("broken-account", "x", at(1)),
        ("blob-corp", "x", at(1)),
        ("text-due", "text", at(1)),
        ("null-due", "null", at(1)),
        ("real-sent", "x", at(1)),
        ("blob-status", "x", at(1)),
        ("wild-state", "x", at(1)),
        ("fine", "x", at(1)),
        ("zz-fine", "zz", at(1)),
    ];
    add_placed(store, &rows).await;
    store.add(&[new("blob-key")]).await.unwrap();
    let mut feeder = backend.foreign().await;
    execute(&mut feeder, "PRAGMA ignore_check_constraints = ON")
        .await
        .unwrap();
    for (key, change) in [
        ("blob-account", "account = x'ff00'"),
        ("broken-account", "account = CAST(x'ff80' AS TEXT)"),
        ("blob-corp", "corp_id = x'01'"),
        ("text-due", "next_poll_at = 'soon'"),
        ("null-due", "next_poll_at = NULL"),
        ("real-sent", "sent_at = 1700000000000.5"),
        ("blob-status", "send_status = x'ff'"),
        ("wild-state", "state = 'weird'"),
        ("blob-key", "process_query_key = x'626c6f62'"),
    ] {
        let change = format!("UPDATE messages SET {change} WHERE process_query_key = '{key}'");
        assert_eq!(execute(&mut feeder, &change).await.unwrap(), 1, "{change}");
    }
    assert_eq!(new_rows(store, 9).await, []);
    let first: Vec<_> = store.lanes(Scope::All, &[]).await.unwrap();
    for due in &first {
        due_rows(store, &due.lane, at(9), at(9), &[], 100).await;
    }
    let lanes = store.lanes(Scope::All, &[]).await.unwrap();
    let names: Vec<_> = lanes.iter().map(|due| due.lane.to_string()).collect();
    assert_eq!(names, ["x", "zz"]);
    assert_eq!(
        keys(&due_rows(store, &lane("x"), at(9), at(9), &[], 100).await),
        ["fine"]
    );
    let quarantined =
        "SELECT group_concat(last_error, '; ') FROM (SELECT DISTINCT last_error FROM messages
        WHERE state = 'failed' AND finished_at IS NOT NULL ORDER BY last_error)";
    let quarantined: (String,) = sqlx::query_as(quarantined)
        .fetch_one(&mut feeder)
        .await
        .unwrap();
    assert_eq!(
        quarantined.0,
        "row.invalid: account; row.invalid: corp_id; row.invalid: next_poll_at; \
         row.invalid: process_query_key; row.invalid: send_status; row.invalid: sent_at"
    );
}

#[tokio::test]
async fn claims_and_counts_use_their_indexes_and_sort_nothing() {
    let backend = SqliteBackend::fresh().await;
    // Whatever was once counted: the planner must not believe that the table is small.
    let mut feeder = backend.foreign().await;
    execute(&mut feeder, "ANALYZE").await.unwrap();
    let few = "INSERT INTO sqlite_stat1 VALUES ('messages', 'messages_due', '3 1 1 1 1')";
    execute(&mut feeder, few).await.unwrap();
    drop(feeder);
    let store = SqliteStore::open(&database(&backend.path), Role::Writer)
        .await
        .unwrap();
    let plans = store.plans().await.unwrap();
    const ROWID: &str = "SEARCH messages USING INTEGER PRIMARY KEY (rowid=?)";
    let indexes = [
        ("lanes", "messages_due"),
        ("new rows", "messages_new (account=? AND <expr>=?)"),
        (
            "due",
            "messages_due (account=? AND lane_corp=? AND <expr>=? AND next_poll_at<?)",
        ),
        (
            "due shuffled",
            "messages_due (account=? AND lane_corp=? AND <expr>=? AND next_poll_at<?)",
        ),
        (
            "due failing",
            "messages_due (account=? AND lane_corp=? AND <expr>=? AND next_poll_at<?)",
        ),
        (
            "last chances",
            "messages_last_chance (account=? AND lane_corp=? AND last_chance_at>? AND last_chance_at<?)",
        ),
        ("overaged", "messages_due (account=? AND lane_corp=?)"),
        ("overaged waiting", "USING INDEX messages_waiting"),
        ("place", ROWID),
        ("unplace lanes", "messages_due (account=? AND lane_corp=?)"),
        ("unplace waiting", "messages_waiting (account=?)"),
        ("unplace rows", "INTEGER PRIMARY KEY (rowid=?)"),
        (
            "pull forward",
            "messages_due (account=? AND lane_corp=? AND <expr>=? AND next_poll_at>?)",
        ),
        ("stale", "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)"),
        ("rows", "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)"),
        ("known readers", "(process_query_key=?)"),
        ("update", ROWID),
        ("update pending", ROWID),
        ("owed", "USING INDEX messages_last_chance"),
        (
            "upcoming",
            "messages_last_chance (account=? AND lane_corp=? AND last_chance_at>? AND last_chance_at<?)",
        ),
        ("placed totals", "messages_due"),
        ("new totals", "USING INDEX messages_new"),
        ("waiting totals", "USING INDEX messages_waiting"),
        ("final totals", "messages_final"),
        (
            "finished",
            "messages_finished (state=? AND finished_at>? AND finished_at<?)",
        ),
        ("events", "USING INDEX read_events_new"),
        ("events' messages", "(process_query_key=?)"),
        (
            "events of placed messages",
            "read_events_waiting (process_query_key=?)",
        ),
        (
            "events to take up",
            "read_events_waited (waits_since>? AND waits_since<?)",
        ),
        ("events to forget", "read_events_waited (waits_since<?)"),
    ];
    assert_eq!(plans.len(), indexes.len());
    for ((name, plan), (expected, index)) in plans.iter().zip(indexes) {
        assert_eq!(*name, expected);
        assert!(plan.contains(index), "{name}:\n{plan}");
        // Random order is sorted, and the rows that wait are few.
        let sorts = ["due shuffled", "waiting totals"].contains(name);
        assert!(
            sorts || !plan.contains("TEMP B-TREE"),
            "{name} sorts:\n{plan}"
        );
        for line in plan.lines().filter(|line| line.contains("SCAN messages")) {
            assert!(line.contains("INDEX"), "{name} reads the table:\n{plan}");
        }
    }
    let lanes = &plans[0].1;
    for step in [
        "messages_due (account=? AND lane_corp>?)",
        "messages_due (account>?)",
        "messages_due (account=? AND lane_corp=? AND <expr>=?)",
    ] {
        assert!(lanes.contains(step), "no {step}:\n{lanes}");
    }
}

#[tokio::test]
async fn a_locked_file_is_busy_and_then_free_again() {
    let backend = SqliteBackend::fresh().await;
    let mut feeder = backend.foreign().await;
    execute(&mut feeder, "BEGIN IMMEDIATE").await.unwrap();
    execute(
        &mut feeder,
        "INSERT INTO messages (process_query_key) VALUES ('theirs')",
    )
    .await
    .unwrap();
    let error = backend.store.add(&[new("ours")]).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy), "{error:?}");
    assert!(error.is_transient());
    // Reading goes on beside a writer.
    assert_eq!(new_rows(&backend.store, 9).await, []);
    execute(&mut feeder, "COMMIT").await.unwrap();
    backend.store.add(&[new("ours")]).await.unwrap();
    let arrived = new_rows(&backend.store, 9).await;
    assert_eq!(keys(&arrived), ["theirs", "ours"]);
}

#[tokio::test]
async fn a_foreign_commit_wakes_the_waiting() {
    let backend = SqliteBackend::fresh().await;
    backend.store.changed().await.unwrap();
    let mut feeder = backend.foreign().await;
    let waits = std::sync::Mutex::new(Vec::new());
    for round in 0..30 {
        let insert = format!("INSERT INTO messages (process_query_key) VALUES ('k{round}')");
        let feed = async {
            // Let the wait begin, at a different point of its beat every time.
            tokio::time::sleep(Duration::from_millis(7 * (round % 5))).await;
            execute(&mut feeder, &insert).await.unwrap();
            Instant::now()
        };
        let wait = async {
            tokio::time::timeout(Duration::from_secs(10), backend.store.changed())
                .await
                .unwrap_or_else(|_| panic!("round {round}: no wake-up"))
                .unwrap();
            Instant::now()
        };
        let (committed, woken) = tokio::join!(feed, wait);
        waits
            .lock()
            .unwrap()
            .push(woken.saturating_duration_since(committed));
        let arrived = new_rows(&backend.store, 99).await;
        assert_eq!(
            arrived.len() as u64,
            round + 1,
            "woken before the commit could be seen"
        );
    }
    let mut waits = waits.into_inner().unwrap();
    waits.sort();
    println!(
        "woken after {:?} (median), {:?} (longest)",
        waits[15], waits[29]
    );
}

#[tokio::test]
async fn a_file_that_was_replaced_or_deleted_is_the_end() {
    for replace in [true, false] {
        let backend = SqliteBackend::fresh().await;
        backend.store.changed().await.unwrap();
        std::fs::remove_file(&backend.path).unwrap();
        if replace {
            std::fs::write(&backend.path, "").unwrap();
        }
        let error = backend.store.maintain().await.unwrap_err();
        assert!(matches!(error, StoreError::Unusable(_)), "{error:?}");
        assert!(error.to_string().contains("receiptd.db"), "{error}");
        let waiting = tokio::time::timeout(Duration::from_secs(10), async {
            loop {
                if let Err(error) = backend.store.changed().await {
                    return error;
                }
            }
        });
        assert!(matches!(waiting.await.unwrap(), StoreError::Unusable(_)));
    }
}

/// Sixty finished messages, and what another program made of the file with them.
async fn with_neighbour(statements: &[&str]) -> SqliteBackend {
    let backend = SqliteBackend::fresh().await;
    let keys: Vec<String> = (0..60).map(|number| format!("k{number:02}")).collect();
    let messages: Vec<_> = keys.iter().map(|key| new(key)).collect();
    backend.store.add(&messages).await.unwrap();
    let mut feeder = backend.foreign().await;
    let ended = format!(
        "UPDATE messages SET state = 'cancelled', finished_at = {} + id",
        T0.0
    );
    for statement in [&*ended].iter().chain(statements) {
        execute(&mut feeder, statement).await.unwrap();
    }
    backend
}

/// Retention met a neighbour's foreign key, and the daemon ended, again after each start.
#[tokio::test]
async fn what_another_table_holds_is_left_and_the_rest_is_pruned() {
    const HELD: &str = "INSERT INTO sends SELECT process_query_key FROM messages
        WHERE process_query_key IN ('k00', 'k31', 'k59')";
    let neighbours: [&[&str]; 3] = [
        &[
            "CREATE TABLE sends (key TEXT REFERENCES messages (process_query_key))",
            HELD,
        ],
        // Looked at only at the COMMIT.
        &[
            "CREATE TABLE sends (
                key TEXT REFERENCES messages (process_query_key) DEFERRABLE INITIALLY DEFERRED
            )",
            HELD,
        ],
        &[
            "CREATE TABLE sends (key TEXT)",
            HELD,
            "CREATE TRIGGER kept BEFORE DELETE ON messages
            WHEN EXISTS (SELECT 1 FROM sends WHERE key = OLD.process_query_key)
            BEGIN SELECT RAISE(ABORT, 'sent'); END",
        ],
    ];
    for statements in neighbours {
        let backend = with_neighbour(statements).await;
        let store = &backend.store;
        let counts = pruned(store, at(9), None).await;
        assert_eq!((counts.messages, counts.held), (57, 3), "{statements:?}");
        // Once said, they are left alone for a day; what finishes meanwhile goes.
        assert_eq!(pruned(store, at(90), None).await, Pruned::default());
        let mut feeder = backend.foreign().await;
        execute(&mut feeder, "DELETE FROM sends").await.unwrap();
        let counts = pruned(store, at(9 + 86_400), None).await;
        assert_eq!((counts.messages, counts.held), (3, 0), "{statements:?}");
    }
}

#[tokio::test]
async fn a_reader_role_reads_beside_a_daemon_and_writes_nothing() {
    let backend = SqliteBackend::fresh().await;
    add_placed(&backend.store, &[("a", "x", at(1))]).await;
    let reader = SqliteStore::open(&database(&backend.path), Role::Reader)
        .await
        .unwrap();
    assert_eq!(show(&reader, "a").await.0.state, State::Pending);
    assert_eq!(reader.totals(at(2)).await.unwrap()[0].pending, 1);
    reader.add(&[new("b")]).await.unwrap_err();
    let writer = SqliteStore::open(&database(&backend.path), Role::Writer)
        .await
        .unwrap();
    assert_eq!(writer.add(&[new_of("b", "x")]).await.unwrap(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn the_file_is_not_for_everybody() {
    use std::os::unix::fs::PermissionsExt as _;
    let backend = SqliteBackend::fresh().await;
    backend.store.add(&[new("a")]).await.unwrap();
    let mode = |suffix: &str| {
        let path = format!("{}{suffix}", backend.path.display());
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(
        mode("") & 0o607,
        0o600,
        "the owner's and, by the umask, the group's"
    );
    assert_eq!((mode("-wal"), mode("-shm")), (mode(""), mode("")));
}

#[tokio::test]
async fn a_quarantined_row_says_why() {
    let backend = SqliteBackend::fresh().await;
    backend.store.add(&[new("a")]).await.unwrap();
    backend.corrupt("a").await;
    new_rows(&backend.store, 9).await;
    let (row, _) = show(&backend.store, "a").await;
    assert_eq!(row.last_error, Some(ErrorCode::from("row.invalid: chat")));
    assert!(row.last_error_at.is_some() && row.finished_at.is_some());
}

/// The connection that watches for changes was left open: where it closed last, the log stayed beside the file, and whoever
/// copied the file of a daemon that had stopped had not all of it.
#[tokio::test]
async fn a_closed_database_is_one_file() {
    for round in 0..20 {
        let backend = SqliteBackend::fresh().await;
        backend.store.add(&[new("a")]).await.unwrap();
        backend.store.changed().await.unwrap();
        backend.store.close().await;
        for suffix in ["-wal", "-shm"] {
            let mut left = backend.path.clone().into_os_string();
            left.push(suffix);
            assert!(!Path::new(&left).exists(), "round {round}: {left:?}");
        }
    }
}

/// A service that turned the checks off: what it inserts is set aside, says what is wrong, and holds up nothing.
#[tokio::test]
async fn a_malformed_pushed_read_is_set_aside_and_stops_no_other() {
    let backend = SqliteBackend::fresh().await;
    add_placed(&backend.store, &[("a", "x", at(5))]).await;
    let mut service = backend.foreign().await;
    let refused = "INSERT INTO read_events (process_query_key, user_id, read_at) VALUES ('a', 'u', 1778481700)";
    let error = execute(&mut service, refused).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("read_at_is_null_or_unix_milliseconds"),
        "{error}"
    );
    // Text of digits becomes a number, as DingTalk's event has it.
    for insert in [
        "PRAGMA ignore_check_constraints = ON",
        "INSERT INTO read_events (process_query_key, user_id, read_at) VALUES
            (x'ff00', 'u', NULL), ('a', x'ff', NULL), ('a', '', NULL), ('a', 'u', 1778481700), ('a', 'u', 'soon'),
            ('a', printf('%0300d', 7), NULL), (CAST(x'ff' AS TEXT), 'u', NULL), (printf('%09000d', 7), 'u', NULL),
            ('a', 'good', '1778481700123')",
    ] {
        execute(&mut service, insert).await.unwrap();
    }
    let found = backend.store.read_events(&[], 100, at(9)).await.unwrap();
    assert_eq!(
        (found.refused, found.more, found.events.len()),
        (8, false, 1)
    );
    assert_eq!(found.events[0].read_at, Some(UnixMs(1_778_481_700_123)));
    let aside: (String,) = sqlx::query_as(
        "SELECT group_concat(refused || '@' || waits_since, ' ') FROM
            (SELECT * FROM read_events WHERE refused IS NOT NULL ORDER BY id)",
    )
    .fetch_one(&mut service)
    .await
    .unwrap();
    let now = at(9).0;
    let wrong = [
        "process_query_key",
        "user_id",
        "user_id",
        "read_at",
        "read_at",
        "user_id",
        "process_query_key",
        "process_query_key",
    ];
    let wrong: Vec<String> = wrong
        .iter()
        .map(|column| format!("{column}@{now}"))
        .collect();
    assert_eq!(aside.0, wrong.join(" "));
    let again = backend.store.read_events(&[], 100, at(10)).await.unwrap();
    assert_eq!((again.refused, again.events.len()), (0, 1));
    // They go as those do whose message never came.
    assert_eq!(
        backend
            .store
            .forget_events(at(10), at(20), 100)
            .await
            .unwrap(),
        8
    );
}
