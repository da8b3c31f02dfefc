//! Moving a SQLite file into PostgreSQL: all of it, or nothing.

use receiptd::receipt::Chat;
use receiptd::settings::SqliteFile;
use receiptd::store::postgres::{PostgresStore, TransferError, transfer};
use receiptd::store::{
    CallCount, Commands as _, HabitsRow, NewMessage, Results as _, Role, Upkeep as _, Writes,
};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::super::sqlite::{SqliteBackend, database, execute};
use super::super::{
    Backend, add_placed, at, claim, commit, lane, new, new_rows, polled, settled, show, walk,
};
use super::{available, cluster};

/// A file with something of everything, and what a reader with a cursor last saw.
async fn filled() -> (SqliteBackend, SqliteFile) {
    let backend = SqliteBackend::fresh().await;
    let store = backend.store();
    add_placed(
        store,
        &[
            ("open", "x", at(5)),
            ("gone", "x", at(5)),
            ("done", "y", at(5)),
        ],
    )
    .await;
    let new_row = NewMessage {
        corp: Some("corp".into()),
        robot_code: Some("机器人".into()),
        next_poll_at: Some(at(60)),
        ..new("new")
    };
    store.add(&[new_row]).await.unwrap();
    for key in ["open", "gone", "done"] {
        let claimed = claim(store, key, at(5)).await;
        let counted = |outcomes: &[_], found: &[_]| Writes {
            calls: vec![CallCount {
                calls: 1,
                ..CallCount::nothing(lane("x"), "2023-11".to_owned())
            }],
            ..settled(outcomes, found)
        };
        commit(
            store,
            &[walk(&claimed, at(6), &["u", "阅读者", "w"])],
            counted,
        )
        .await;
    }
    backend.delete("gone").await;
    backend.cancel("done").await;
    // The highest id that was ever given is nobody's any more.
    backend.remove_reader("done", "w").await;
    backend.put_ticket("suite", "ticket").await;
    let event = "INSERT INTO read_events (process_query_key, user_id, read_at) VALUES ('later', 'u', 1700000000001)";
    execute(&mut backend.foreign().await, event).await.unwrap();
    let habits = HabitsRow {
        chat: Chat::Oto,
        lane: lane("x"),
        habits: "{\"some\": [1, 2]}".to_owned(),
        lease: None,
    };
    store.save_habits(&[habits]).await.unwrap();
    let file = database(&backend.path);
    (backend, file)
}

async fn one(connection: &mut PgConnection, statement: &str) -> i64 {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::query_scalar(statement)
        .fetch_one(connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn everything_is_moved_with_its_ids() {
    if !available() {
        return;
    }
    let (backend, file) = filled().await;
    let name = cluster().database().await;
    let url = cluster().url(&name).parse().unwrap();
    let mut tables = Vec::new();
    let moved = transfer(&file, &url, &mut |table| tables.push(table))
        .await
        .unwrap();
    assert_eq!(
        tables,
        [
            "messages",
            "readers",
            "read_events",
            "suite_tickets",
            "api_calls",
            "habits"
        ]
    );
    let rows: Vec<u64> = moved.iter().map(|(_, rows)| *rows).collect();
    assert_eq!(rows, [3, 8, 1, 1, 1, 1]);
    let store = PostgresStore::open(&url, Role::Owner, &mut |_| ())
        .await
        .unwrap();
    let old = backend.store();
    for key in ["open", "done", "new"] {
        assert_eq!(show(&store, key).await, show(old, key).await, "{key}");
    }
    assert_eq!(store.message(&"gone".into()).await.unwrap(), None);
    assert_eq!(
        store.calls_in("2023-11").await.unwrap(),
        old.calls_in("2023-11").await.unwrap()
    );
    assert_eq!(
        store.all_habits().await.unwrap(),
        old.all_habits().await.unwrap()
    );
    assert_eq!(
        store.suite_ticket("suite").await.unwrap().as_deref(),
        Some("ticket")
    );
    let far = receiptd::receipt::UnixMs(i64::MAX);
    assert_eq!(
        store.totals(far).await.unwrap(),
        old.totals(far).await.unwrap()
    );
    let prunable = store.prunable(far, None).await.unwrap();
    assert_eq!(prunable, old.prunable(far, None).await.unwrap());
    assert_eq!(
        prunable.readers, 5,
        "two of a cancelled message, three of a deleted one"
    );
    // A consumer's cursor stands behind the ninth reader: the next one comes after it, and not before.
    let mut connection = cluster().connect(&name).await;
    assert_eq!(one(&mut connection, "SELECT max(id) FROM readers").await, 8);
    let claimed = claim(&store, "open", far).await;
    commit(&store, &[walk(&claimed, at(7_000), &["later"])], settled).await;
    assert_eq!(
        one(&mut connection, "SELECT max(id) FROM readers").await,
        10
    );
    store.add(&[new("next")]).await.unwrap();
    let rows = new_rows(&store, 9).await;
    assert_eq!(rows.iter().map(|row| row.id.0).collect::<Vec<_>>(), [4, 5]);
    // Once more would double it.
    let again = transfer(&file, &url, &mut |_| ()).await.unwrap_err();
    assert!(matches!(again, TransferError::NotEmpty { .. }), "{again}");
    drop(store);
    cluster().drop_database(&name);
}

#[tokio::test]
async fn what_was_interrupted_is_begun_again() {
    if !available() {
        return;
    }
    let (_backend, file) = filled().await;
    let name = cluster().database().await;
    let url = cluster().url(&name).parse().unwrap();
    let mut polls = 1;
    let ended = loop {
        // Dropped at any of its waits, as a process that is killed drops it.
        if let Some(ended) = polled(transfer(&file, &url, &mut |_| ()), polls, true).await {
            break ended;
        }
        polls += 7;
        let mut connection = cluster().connect(&name).await;
        // What is dropped last runs on until the server notices: its COMMIT may be under way.
        let ended = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()";
        one(&mut connection, ended).await;
        if one(&mut connection, "SELECT count(to_regclass('messages'))").await == 1 {
            let messages = one(&mut connection, "SELECT count(*) FROM messages").await;
            let readers = one(&mut connection, "SELECT count(*) FROM readers").await;
            assert!(
                [(0, 0), (3, 8)].contains(&(messages, readers)),
                "all or nothing after {polls} polls: {messages} messages, {readers} readers"
            );
            if messages == 3 {
                break transfer(&file, &url, &mut |_| ()).await;
            }
        }
    };
    match ended {
        Ok(moved) => assert_eq!(moved[0], ("messages", 3)),
        // The COMMIT had arrived before its answer was dropped.
        Err(again) => assert!(matches!(again, TransferError::NotEmpty { .. }), "{again}"),
    }
    assert!(polls > 20, "{polls}");
    cluster().drop_database(&name);
}

#[tokio::test]
async fn a_row_that_cannot_be_moved_is_named() {
    if !available() {
        return;
    }
    let (backend, file) = filled().await;
    backend.corrupt("done").await;
    let name = cluster().database().await;
    let url = cluster().url(&name).parse().unwrap();
    let refused = transfer(&file, &url, &mut |_| ()).await.unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("a row of messages cannot be moved (chat of the row with rowid 3)"),
        "{refused}"
    );
    let mut connection = cluster().connect(&name).await;
    for table in ["messages", "readers", "habits"] {
        assert_eq!(
            one(&mut connection, &format!("SELECT count(*) FROM {table}")).await,
            0
        );
    }
    cluster().drop_database(&name);
}
