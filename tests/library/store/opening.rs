//! What a file may be that is opened as a database: none yet, another program's, an older one, a damaged one.

use std::path::Path;
use std::time::Duration;

use receiptd::receipt::{Chat, Message, State, UnixMs};
use receiptd::store::sqlite::{APPLICATION_ID, Migrating, OpenError, Role, SqliteStore};
use receiptd::store::{
    Claims as _, Commands as _, Results as _, Scope, Selection, StoreError, Upkeep as _,
};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::sqlite::{SqliteBackend, database, execute};
use super::{Backend, claim, commit, keys, new, new_rows, place, pruned, settled, show, walk};

async fn refused(path: &Path, role: Role) -> OpenError {
    SqliteStore::open(&database(path), role).await.unwrap_err()
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.db");
    for role in [Role::Writer, Role::Reader] {
        let error = refused(&path, role).await;
        assert!(matches!(error, OpenError::Missing(_)), "{error}");
        assert!(!path.exists());
    }
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut theirs = options.connect().await.unwrap();
    execute(&mut theirs, "CREATE TABLE invoices (id INTEGER)")
        .await
        .unwrap();
    drop(theirs);
    let before = std::fs::read(&path).unwrap();
    for role in [Role::Owner, Role::Writer, Role::Reader] {
        let error = refused(&path, role).await;
        assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("invoices"), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
    let text = dir.path().join("notes.txt");
    std::fs::write(
        &text,
        "no database at all, and long enough to be looked at by SQLite".repeat(20),
    )
    .unwrap();
    let error = refused(&text, Role::Owner).await;
    let unusable = matches!(
        &error,
        OpenError::Store {
            error: StoreError::Unusable(_),
            ..
        }
    );
    assert!(unusable, "{error}");
    let nowhere = dir.path().join("missing/receiptd.db");
    let error = refused(&nowhere, Role::Owner).await;
    assert!(matches!(error, OpenError::File { .. }), "{error}");
    let empty = dir.path().join("empty.db");
    std::fs::write(&empty, "").unwrap();
    let error = refused(&empty, Role::Reader).await;
    assert!(matches!(error, OpenError::Missing(_)), "{error}");
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused() {
    let backend = SqliteBackend::fresh().await;
    let mut connection = backend.foreign().await;
    let later =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (999, 'later', 1, x'00', 0)";
    execute(&mut connection, later).await.unwrap();
    for role in [Role::Owner, Role::Writer, Role::Reader] {
        let error = refused(&backend.path, role).await;
        assert!(
            matches!(error, OpenError::Newer { found: 999, .. }),
            "{error}"
        );
    }
    execute(&mut connection, "DELETE FROM _sqlx_migrations")
        .await
        .unwrap();
    for role in [Role::Writer, Role::Reader] {
        let error = refused(&backend.path, role).await;
        assert!(matches!(error, OpenError::Outdated(_)), "{error}");
    }
}

#[tokio::test]
async fn a_file_in_another_journal_mode_is_refused_until_its_owner_turns_it() {
    let backend = SqliteBackend::fresh().await;
    backend.store.close().await;
    // Nobody else has it open: the mode can be changed.
    let SqliteBackend { store, path, _dir } = backend;
    drop(store);
    let mut connection = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    let changed = async {
        loop {
            match execute(&mut connection, "PRAGMA journal_mode = DELETE").await {
                Ok(_) => return,
                // The store's last connection is still closing behind its back.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed)
        .await
        .unwrap();
    let error = refused(&path, Role::Reader).await;
    let OpenError::JournalMode { found, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(found, "delete");
    SqliteStore::open(&database(&path), Role::Owner)
        .await
        .unwrap();
}

#[tokio::test]
async fn two_starters_at_once_both_find_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("receiptd.db");
    let settings = database(&path);
    let (a, b) = tokio::join!(
        SqliteStore::open(&settings, Role::Owner),
        SqliteStore::open(&settings, Role::Owner)
    );
    a.unwrap().add(&[new("a")]).await.unwrap();
    assert_eq!(b.unwrap().add(&[new("a")]).await.unwrap(), 0);
}

/// A file as the first version of the schema left it, but for what `application_id` says.
async fn version_1(path: &Path, application_id: i32) {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(include_str!("version-1.sql"))
        .execute(&mut connection)
        .await
        .unwrap();
    let id = format!("PRAGMA application_id = {application_id}");
    execute(&mut connection, &id).await.unwrap();
}

#[tokio::test]
async fn a_database_of_the_first_version_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("receiptd.db");
    version_1(&path, APPLICATION_ID).await;
    for role in [Role::Writer, Role::Reader] {
        let error = refused(&path, role).await;
        assert!(matches!(error, OpenError::Outdated(_)), "{error}");
    }
    let mut versions = Vec::new();
    let settings = database(&path);
    let mut heard =
        |step: Migrating<'_>| versions.push((step.version, step.description.to_owned()));
    let store = SqliteStore::open_reporting(&settings, Role::Owner, &mut heard);
    let store = store.await.unwrap();
    assert_eq!(
        versions,
        [(2, "lanes".to_owned()), (3, "persons".to_owned())]
    );

    let now = UnixMs(1_795_656_000_000);
    for (key, state) in [
        ("complete", State::Complete),
        ("recalled", State::Recalled),
        ("expired", State::Expired),
        ("failed", State::Failed),
        ("cancelled-before-placed", State::Cancelled),
        ("cancelled-later", State::Cancelled),
        ("placed-with-readers", State::Pending),
    ] {
        assert_eq!(show(&store, key).await.0.state, state, "{key}");
    }
    let lanes = store.lanes(Scope::All, &[]).await.unwrap();
    let names: Vec<String> = lanes.iter().map(|due| due.lane.to_string()).collect();
    assert_eq!(names, ["default", "default/corpX", "vendor/corp1"]);
    let waiting = store.overaged(None, now, &[], 9).await.unwrap();
    assert_eq!(keys(&waiting), ["nobodys", "third-party-without-corp"]);
    assert!(
        lanes
            .iter()
            .all(|due| due.sound_at.is_some() && due.failing_at.is_none())
    );
    let rows = new_rows(&store, 9).await;
    assert_eq!(keys(&rows), ["failing", "fresh"]);
    let placed: Vec<Message> = rows
        .into_iter()
        .map(|row| Message {
            next_poll_at: Some(now),
            admitted_at: Some(now),
            ..row
        })
        .collect();
    place(&store, &placed).await;
    let due = UnixMs(now.0 + 3_600_000);
    let (row, readers) = show(&store, "placed-with-readers").await;
    assert_eq!((row.reader_count, readers.len(), row.call_count), (5, 5, 1));
    let claimed = [
        claim(&store, "placed-with-readers", due).await,
        claim(&store, "fresh", due).await,
        claim(&store, "blocked", due).await,
        claim(&store, "internal-with-corp", due).await,
    ];
    let outcomes: Vec<_> = claimed
        .iter()
        .map(|row| walk(row, due, &["manager123", "user31061944"]))
        .collect();
    commit(&store, &outcomes, settled).await;
    assert_eq!(show(&store, "placed-with-readers").await.0.reader_count, 6);
    assert_eq!(show(&store, "fresh").await.0.state, State::Complete);
    let which = Selection::InState(State::Expired, None);
    assert_eq!(store.retry(&which, due, 9).await.unwrap(), 2);
    assert_eq!(
        keys(&new_rows(&store, 9).await),
        ["expired", "neverGenerated"]
    );
    assert_eq!(store.calls_in("2026-11").await.unwrap().len(), 2);
    // Of each lane, for private chats and for groups.
    assert_eq!(store.all_habits().await.unwrap().len(), 4);
    assert_eq!(
        store.suite_ticket("suite1").await.unwrap().as_deref(),
        Some("ticket-1")
    );
    let totals = store.totals(due).await.unwrap();
    let pending: u64 = totals.iter().map(|totals| totals.pending).sum();
    let finished: u64 = totals.iter().flat_map(|totals| totals.finished).sum();
    assert_eq!((pending, finished), (10, 6));
    let gone = pruned(&store, UnixMs(i64::MAX), None).await;
    assert_eq!((gone.messages, gone.readers, gone.held), (6, 7, 0));
}

/// A dump holds no application id and no journal mode, and one that was taken table by table less.
#[tokio::test]
async fn a_restored_dump_is_known_and_made_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("receiptd.db");
    version_1(&path, 0).await;
    let mut restored = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    execute(&mut restored, "DROP INDEX messages_due")
        .await
        .unwrap();
    execute(&mut restored, "DROP TRIGGER messages_deleted")
        .await
        .unwrap();
    drop(restored);
    let error = refused(&path, Role::Reader).await;
    assert!(error.to_string().contains("`receiptd migrate`"), "{error}");
    let store = SqliteStore::open(&database(&path), Role::Owner)
        .await
        .unwrap();
    store.close().await;
    let mut connection = SqliteConnectOptions::new()
        .filename(&path)
        .connect()
        .await
        .unwrap();
    let id: (i32,) = sqlx::query_as("PRAGMA application_id")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(id.0, APPLICATION_ID);
    // The same of today's version, where only the id is gone.
    execute(&mut connection, "PRAGMA application_id = 0")
        .await
        .unwrap();
    let reader = SqliteStore::open(&database(&path), Role::Reader)
        .await
        .unwrap();
    assert_eq!(show(&reader, "complete").await.0.state, State::Complete);
}

/// A tool that rebuilds a table drops its indexes and triggers; another one keeps their names and not what they are.
#[tokio::test]
async fn a_lost_index_or_trigger_is_named_and_made_anew() {
    let backend = SqliteBackend::fresh().await;
    let mut feeder = backend.foreign().await;
    for change in [
        "DROP INDEX messages_due",
        "DROP TRIGGER messages_ended",
        "DROP INDEX messages_new",
        "CREATE INDEX messages_new ON messages (account)",
    ] {
        execute(&mut feeder, change).await.unwrap();
    }
    let names = [
        "index messages_due",
        "index messages_new",
        "trigger messages_ended",
    ];
    for role in [Role::Writer, Role::Reader] {
        let error = refused(&backend.path, role).await;
        let OpenError::Incomplete { missing, .. } = &error else {
            panic!("{error}");
        };
        for name in names {
            assert!(missing.contains(name), "{missing}");
        }
        assert!(error.to_string().contains("`receiptd migrate`"), "{error}");
    }
    let mut made = Vec::new();
    let settings = database(&backend.path);
    let mut heard = |step: Migrating<'_>| made.push(step.description.to_owned());
    let store = SqliteStore::open_reporting(&settings, Role::Owner, &mut heard);
    let store = store.await.unwrap();
    made.sort();
    assert_eq!(made, names);
    store.add(&[new("a")]).await.unwrap();
    backend.cancel("a").await;
    assert!(show(&store, "a").await.0.finished_at.is_some());
    SqliteStore::open(&settings, Role::Reader).await.unwrap();

    execute(&mut feeder, "ALTER TABLE messages DROP COLUMN doubt")
        .await
        .unwrap();
    for role in [Role::Owner, Role::Reader] {
        let error = refused(&backend.path, role).await;
        assert!(
            error.to_string().contains("column messages.doubt"),
            "{error}"
        );
    }
}

/// What a feeder hung on the table: rows of its own that refer to messages, by key and by id, and a trigger.
const HUNG_ON: &str = "
    CREATE TABLE mails (
        key TEXT NOT NULL REFERENCES messages (process_query_key) ON DELETE CASCADE ON UPDATE CASCADE,
        message INTEGER REFERENCES messages (id) ON DELETE SET NULL
    );
    INSERT INTO mails SELECT process_query_key, id FROM messages;
    CREATE TABLE ended (key TEXT NOT NULL, state TEXT NOT NULL);
    CREATE TRIGGER feeders_own AFTER UPDATE OF state ON messages WHEN NEW.state <> 'pending'
    BEGIN INSERT INTO ended VALUES (NEW.process_query_key, NEW.state); END;
    DELETE FROM messages WHERE id = 16;";

/// The rows of messages, their ids, what feeders hung on them and the next id are the same after a migration from either version,
/// and `oto` is a chat.
#[tokio::test]
async fn a_migration_keeps_ids_and_what_feeders_hung_on_messages() {
    for version in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receiptd.db");
        version_1(&path, APPLICATION_ID).await;
        let mut feeder = SqliteConnectOptions::new()
            .filename(&path)
            .connect()
            .await
            .unwrap();
        if version == 2 {
            let text = include_str!("../../../migrations/sqlite/0002_lanes.sql");
            sqlx::raw_sql(text).execute(&mut feeder).await.unwrap();
            let migration = sqlx::migrate::Migration::new(
                2,
                "lanes".into(),
                sqlx::migrate::MigrationType::Simple,
                sqlx::SqlSafeStr::into_sql_str(text),
                false,
            );
            sqlx::query("INSERT INTO _sqlx_migrations VALUES (2, 'lanes', '', 1, ?1, 1)")
                .bind(&*migration.checksum)
                .execute(&mut feeder)
                .await
                .unwrap();
        }
        sqlx::raw_sql(HUNG_ON).execute(&mut feeder).await.unwrap();
        let kept = "SELECT (SELECT group_concat(id || process_query_key || state || chat || ifnull(next_poll_at, ''))
                FROM (SELECT * FROM messages ORDER BY id)),
            (SELECT group_concat(key || ifnull(message, '-')) FROM mails),
            (SELECT seq FROM sqlite_sequence WHERE name = 'messages')";
        let before: (String, String, i64) =
            sqlx::query_as(kept).fetch_one(&mut feeder).await.unwrap();
        let oto = "INSERT INTO messages (process_query_key, chat) VALUES ('to-persons', 'oto')";
        let refused = execute(&mut feeder, oto).await.unwrap_err();
        assert!(
            refused.to_string().contains("chat_is_private_or_group"),
            "{refused}"
        );

        let settings = database(&path);
        let store = SqliteStore::open(&settings, Role::Owner).await.unwrap();
        // On the connection that was open before, too.
        let after: (String, String, i64) =
            sqlx::query_as(kept).fetch_one(&mut feeder).await.unwrap();
        assert_eq!(before, after);
        execute(&mut feeder, oto).await.unwrap();
        let (row, _) = show(&store, "to-persons").await;
        assert_eq!((row.chat, row.id.0), (Chat::Oto, 17));
        let refused = "INSERT INTO messages (process_query_key, chat) VALUES ('x', 'person')";
        let refused = execute(&mut feeder, refused).await.unwrap_err();
        assert!(
            refused.to_string().contains("chat_is_private_group_or_oto"),
            "{refused}"
        );
        for change in [
            "PRAGMA foreign_keys = ON",
            "UPDATE messages SET process_query_key = 'renamed' WHERE process_query_key = 'not-before'",
            "UPDATE messages SET state = 'cancelled' WHERE process_query_key = 'renamed'",
            "DELETE FROM messages WHERE process_query_key = 'blocked'",
        ] {
            execute(&mut feeder, change).await.unwrap();
        }
        let hung: (String, i64, String) = sqlx::query_as(
            "SELECT (SELECT key FROM mails WHERE message = 10),
                (SELECT count(*) FROM mails WHERE key = 'blocked'),
                (SELECT group_concat(key || ' ' || state) FROM ended)",
        )
        .fetch_one(&mut feeder)
        .await
        .unwrap();
        assert_eq!(hung, ("renamed".into(), 0, "renamed cancelled".into()));
        let whole: (String,) = sqlx::query_as("PRAGMA integrity_check")
            .fetch_one(&mut feeder)
            .await
            .unwrap();
        assert_eq!(whole.0, "ok");
        store.close().await;
    }
}

/// A tool that writes a table's text anew may have changed more than it shows.
#[tokio::test]
async fn a_table_that_somebody_rewrote_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("receiptd.db");
    version_1(&path, APPLICATION_ID).await;
    let options = SqliteConnectOptions::new().filename(&path);
    let mut tool = options.connect().await.unwrap();
    let rewrite = "PRAGMA writable_schema = ON;
        UPDATE sqlite_master SET sql = replace(sql, 'IN (''private'', ''group'')', 'IN(''private'',''group'')')
        WHERE name = 'messages'";
    sqlx::raw_sql(rewrite).execute(&mut tool).await.unwrap();
    drop(tool);
    let error = refused(&path, Role::Owner).await;
    let said = error.to_string();
    assert!(
        said.contains("the_table_messages_is_as_receiptd_made_it"),
        "{said}"
    );
    let mut connection = options.connect().await.unwrap();
    let versions: (i64,) = sqlx::query_as("SELECT max(version) FROM _sqlx_migrations")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(versions.0, 1);
}

/// However many messages there are, none is copied.
#[tokio::test]
async fn a_large_table_is_migrated_without_a_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("receiptd.db");
    version_1(&path, APPLICATION_ID).await;
    let options = SqliteConnectOptions::new().filename(&path);
    let mut feeder = options.connect().await.unwrap();
    let text = include_str!("../../../migrations/sqlite/0002_lanes.sql");
    sqlx::raw_sql(text).execute(&mut feeder).await.unwrap();
    let rows = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
        INSERT INTO messages (process_query_key) SELECT 'key-' || i FROM n";
    execute(&mut feeder, rows).await.unwrap();
    let pages = async |connection: &mut SqliteConnection| -> i64 {
        let pages = sqlx::query_as("PRAGMA page_count");
        let (pages,): (i64,) = pages.fetch_one(connection).await.unwrap();
        pages
    };
    let before = pages(&mut feeder).await;
    let text = include_str!("../../../migrations/sqlite/0003_persons.sql");
    sqlx::raw_sql(text).execute(&mut feeder).await.unwrap();
    // A few tables and indexes, whatever the number of messages.
    let grown = pages(&mut feeder).await - before;
    assert!(grown < 64, "{grown} of {before} pages");
}
