//! What a file may be that is opened as a database: none yet, another program's, an older one, a damaged one.

use std::path::Path;
use std::time::Duration;

use receiptd::receipt::{Message, State, UnixMs};
use receiptd::store::sqlite::{APPLICATION_ID, Migrating, OpenError, Role, SqliteStore};
use receiptd::store::{
    Claims as _, Commands as _, Results as _, Scope, Selection, StoreError, Upkeep as _,
};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::SqliteConnectOptions;

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
    assert_eq!(versions, [(2, "lanes".to_owned())]);

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
    assert_eq!(store.all_habits().await.unwrap().len(), 2);
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
