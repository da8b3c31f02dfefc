//! What the tables and the transactions promise.

use receiptd::receipt::{Outcome, State, UserId};
use receiptd::store::postgres::PostgresStore;
use receiptd::store::{Claims as _, Commands as _, Results as _, Role, Scope, StoreError};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::super::{
    Backend as _, add_placed, at, claim, commit, keys, lane, new, new_rows, settled, show,
    try_commit, walk,
};
use super::{PostgresBackend, available, cluster, open, placed};

async fn run(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(connection).await?;
    Ok(())
}

#[tokio::test]
async fn a_feeder_is_told_which_column_is_wrong() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let mut feeder = cluster().connect(&backend.database).await;
    let long = "k".repeat(513);
    let key = "process_query_key_is_1_to_512_printable_ascii_characters";
    let wrong = [
        ("process_query_key", "''".to_owned(), key),
        ("process_query_key", "'a b'".to_owned(), key),
        ("process_query_key", "E'a\\n'".to_owned(), key),
        ("process_query_key", "'ké'".to_owned(), key),
        ("process_query_key", format!("'{long}'"), key),
        (
            "account",
            "''".to_owned(),
            "account_is_text_of_1_to_128_characters",
        ),
        (
            "corp_id",
            "''".to_owned(),
            "corp_id_is_null_or_text_of_1_to_128_characters",
        ),
        (
            "robot_code",
            "''".to_owned(),
            "robot_code_is_null_or_text_of_1_to_256_characters",
        ),
        (
            "open_conversation_id",
            "''".to_owned(),
            "open_conversation_id_is_null_or_text_of_1_to_512_characters",
        ),
        (
            "chat",
            "'channel'".to_owned(),
            "chat_is_private_group_or_oto",
        ),
        (
            "expected_readers",
            "0".to_owned(),
            "expected_readers_is_null_or_a_whole_number_from_1",
        ),
        (
            "sent_at",
            "1700000000".to_owned(),
            "sent_at_is_unix_milliseconds",
        ),
        (
            "state",
            "'done'".to_owned(),
            "state_is_pending_complete_recalled_expired_failed_or_cancelled",
        ),
    ];
    for (column, value, constraint) in wrong {
        let statement = match column {
            "process_query_key" => format!("INSERT INTO messages ({column}) VALUES ({value})"),
            _ => format!(
                "INSERT INTO messages (process_query_key, {column}) VALUES ('key', {value})"
            ),
        };
        let error = run(&mut feeder, &statement).await.unwrap_err();
        let told = error.as_database_error().unwrap().constraint();
        assert_eq!(told, Some(constraint), "{statement}");
    }
    run(
        &mut feeder,
        "INSERT INTO messages (process_query_key) VALUES ('key')",
    )
    .await
    .unwrap();
    assert_eq!(keys(&new_rows(backend.store(), 9).await), ["key"]);
}

/// As migrations/README.md grants them.
#[tokio::test]
async fn feeders_and_consumers_need_few_rights() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    let mut owner = cluster().connect(&backend.database).await;
    let (feeder, consumer) = (
        format!("feeder_{}", backend.database),
        format!("consumer_{}", backend.database),
    );
    for statement in [
        format!("CREATE ROLE {feeder}"),
        format!("CREATE ROLE {consumer}"),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON messages TO {feeder}"),
        format!("GRANT INSERT, UPDATE, SELECT ON suite_tickets TO {feeder}"),
        format!("GRANT SELECT ON messages, readers, api_calls TO {consumer}"),
    ] {
        run(&mut owner, &statement).await.unwrap();
    }
    add_placed(store, &[("seen", "x", at(5))]).await;
    let claimed = claim(store, "seen", at(5)).await;
    commit(store, &[walk(&claimed, at(6), &["u"])], settled).await;
    run(&mut owner, &format!("SET ROLE {feeder}"))
        .await
        .unwrap();
    for statement in [
        "INSERT INTO messages (process_query_key) VALUES ('a'), ('b') ON CONFLICT DO NOTHING",
        "UPDATE messages SET state = 'cancelled' WHERE process_query_key = 'a'",
        "UPDATE messages SET process_query_key = 'c' WHERE process_query_key = 'b'",
        "DELETE FROM messages WHERE process_query_key = 'seen'",
        "INSERT INTO suite_tickets (suite_key, ticket) VALUES ('s', 't')
            ON CONFLICT (suite_key) DO UPDATE SET ticket = excluded.ticket",
    ] {
        run(&mut owner, statement).await.unwrap();
    }
    for statement in [
        "INSERT INTO readers SELECT",
        "DELETE FROM commits",
        "UPDATE turn SET only_row = 1",
    ] {
        assert!(run(&mut owner, statement).await.is_err(), "{statement}");
    }
    run(&mut owner, &format!("SET ROLE {consumer}"))
        .await
        .unwrap();
    run(
        &mut owner,
        "SELECT * FROM readers JOIN messages USING (process_query_key)",
    )
    .await
    .unwrap();
    for statement in ["DELETE FROM readers", "UPDATE messages SET account = 'x'"] {
        assert!(run(&mut owner, statement).await.is_err(), "{statement}");
    }
    assert_eq!(show(store, "a").await.0.state, State::Cancelled);
    assert_eq!(store.prunable(at(9), None).await.unwrap().readers, 1);
    run(&mut owner, "RESET ROLE").await.unwrap();
    let drop = format!("DROP OWNED BY {feeder}, {consumer}; DROP ROLE {feeder}, {consumer}");
    run(&mut owner, &drop).await.unwrap();
}

/// A statement that fails within the transaction leaves nothing of it, and the next attempt all of it.
#[tokio::test]
async fn what_a_commit_meets_is_named_and_leaves_nothing() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    let claimed = placed(store).await;
    let outcome = walk(&claimed, at(6), &["u", "v"]);
    let mut owner = cluster().connect(&backend.database).await;
    for (code, passes) in [
        ("55P03", true),
        ("40001", true),
        ("40P01", true),
        ("53100", true),
        ("53300", true),
        ("57P01", true),
        ("57014", true),
        ("25006", true),
        ("08006", true),
        ("58030", true),
        ("XX001", false),
        ("42501", false),
        ("23514", false),
    ] {
        // Raised by the last statement before the COMMIT.
        let raise = format!(
            "CREATE OR REPLACE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END; $$;
            CREATE OR REPLACE TRIGGER fails BEFORE INSERT ON readers EXECUTE FUNCTION fails()"
        );
        run(&mut owner, &raise).await.unwrap();
        let error = try_commit(store, std::slice::from_ref(&outcome), settled)
            .await
            .unwrap_err();
        assert_eq!(error.is_transient(), passes, "{code}: {error:?}");
        match code {
            "53100" => assert!(matches!(error, StoreError::Full)),
            "55P03" | "40001" | "40P01" => assert!(matches!(error, StoreError::Busy)),
            _ => {}
        }
        let (row, readers) = show(store, "a").await;
        assert_eq!((row.call_count, readers.len()), (0, 0), "{code}");
    }
    run(&mut owner, "DROP TRIGGER fails ON readers")
        .await
        .unwrap();
    commit(store, &[outcome], settled).await;
    let (row, readers) = show(store, "a").await;
    assert_eq!((row.call_count, row.reader_count, readers.len()), (1, 2, 2));
}

/// A feeder that holds the table makes everybody wait, and nobody fail.
#[tokio::test]
async fn a_locked_table_is_waited_for() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    let claimed = placed(store).await;
    let outcome = walk(&claimed, at(6), &["u"]);
    let mut feeder = cluster().connect(&backend.database).await;
    run(&mut feeder, "BEGIN; LOCK TABLE messages")
        .await
        .unwrap();
    for error in [
        try_commit(store, std::slice::from_ref(&outcome), settled)
            .await
            .unwrap_err(),
        store.lanes(Scope::All, &[]).await.unwrap_err(),
        store.add(&[new("b")]).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Busy), "{error:?}");
    }
    run(&mut feeder, "COMMIT").await.unwrap();
    commit(store, &[outcome], settled).await;
    assert_eq!(show(store, "a").await.1, ["u"]);
}

/// A reader that somebody records by hand between what is found and what is written: begun again, he is known.
#[tokio::test]
async fn a_reader_of_somebody_else_is_counted_once() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    let claimed = placed(store).await;
    let outcomes = [walk(&claimed, at(6), &["u", "v"])];
    let receiptd::store::Begun::Open(transaction) = store.begin(&outcomes).await.unwrap() else {
        panic!("nothing was committed yet")
    };
    let mut other = cluster().connect(&backend.database).await;
    run(
        &mut other,
        "INSERT INTO readers (process_query_key, user_id, seen_after, seen_at) VALUES ('a', 'u', 1, 2)",
    )
    .await
    .unwrap();
    let writes = settled(&outcomes, transaction.found());
    let error = transaction.commit(&writes).await.unwrap_err();
    assert!(matches!(error, StoreError::Busy), "{error:?}");
    commit(store, &outcomes, settled).await;
    let (row, readers) = show(store, "a").await;
    assert_eq!((row.reader_count, row.call_count), (2, 1));
    assert_eq!(readers, ["u", "v"]);
}

/// PostgreSQL cannot hold it, and would refuse the whole batch.
#[tokio::test]
async fn a_nul_in_an_answer_stops_nothing() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    let claimed = placed(store).await;
    let mut outcome: Outcome = walk(&claimed, at(6), &["u\0v", "w"]);
    outcome.send_status = Some(receiptd::receipt::SendStatus::Other("A\0B".to_owned()));
    for at_once in [
        outcome.clone(),
        Outcome {
            ended_at: at(7),
            ..outcome
        },
    ] {
        commit(store, &[at_once], settled).await;
    }
    let (row, readers) = show(store, "a").await;
    assert_eq!(readers, ["u\u{fffd}v", "w"]);
    assert_eq!(row.reader_count, 2);
    let nul = store
        .message(&UserId::from("\0").as_str().into())
        .await
        .unwrap();
    assert_eq!(nul, None);
}

/// Of two that start together one waits.
#[tokio::test]
async fn two_starters_bring_the_schema_up_once() {
    if !available() {
        return;
    }
    let cluster = cluster();
    let database = cluster.database().await;
    let url = cluster.url(&database);
    let start = || async {
        let mut steps = 0;
        let opened =
            PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| steps += 1).await;
        (opened.unwrap(), steps)
    };
    let (first, second) = tokio::join!(start(), start());
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres"));
    let files = files.unwrap().flatten();
    let migrations = files.filter(|file| file.path().extension().is_some_and(|of| of == "sql"));
    assert_eq!(
        first.1 + second.1,
        migrations.count(),
        "each migration once"
    );
    drop((first, second));
    for role in [Role::Writer, Role::Reader] {
        let opened = PostgresStore::open(&url.parse().unwrap(), role, &mut |_| {
            panic!("nothing to do")
        })
        .await;
        let store = opened.unwrap();
        let added = store.add(&[new("a")]).await;
        assert_eq!(added.is_ok(), role == Role::Writer, "{added:?}");
    }
    cluster.drop_database(&database);
}

/// No statement of a loop reads a whole table or sorts a lane.
#[tokio::test]
async fn statements_read_no_more_than_they_need() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let mut owner = cluster().connect(&backend.database).await;
    run(
        &mut owner,
        "INSERT INTO messages (process_query_key, account, lane_corp, next_poll_at, admitted_at, last_chance_at, failed_walks)
        SELECT 'k' || i, 'a' || i % 20, '', i, 1, 2 * i, CASE WHEN i % 10 = 0 THEN 1 ELSE 0 END
        FROM generate_series(1, 20000) AS i;
        INSERT INTO readers (process_query_key, user_id, seen_after, seen_at)
        SELECT 'k' || i, 'u', 1, 1 FROM generate_series(1, 20000) AS i;
        ANALYZE",
    )
    .await
    .unwrap();
    let plans = open(&backend.database)
        .await
        .unwrap()
        .plans()
        .await
        .unwrap();
    assert!(plans.len() > 10);
    for (name, plan) in plans {
        assert!(!plan.contains("Seq Scan on messages"), "{name}\n{plan}");
        assert!(!plan.contains("Seq Scan on readers"), "{name}\n{plan}");
        // To lock rows in the order of their ids, and to shuffle, is to sort them; and lanes are sorted that are found by
        // account.
        if !["rows", "due shuffled", "new rows of accounts"].contains(&name) {
            assert!(!plan.contains("Sort Key"), "{name}\n{plan}");
        }
    }
}

/// Of messages that another node serves nothing is taken, and they hold up nobody else's.
#[tokio::test]
async fn pushed_reads_of_another_nodes_lanes_are_left_to_it() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "theirs", at(5)), ("b", "ours", at(5))]).await;
    for number in 0..20 {
        backend.push("a", &format!("u{number}"), None).await;
    }
    backend.push("b", "u", None).await;
    backend.push("unknown", "u", None).await;
    let found = store
        .read_events(&[lane("theirs")], 10, at(9))
        .await
        .unwrap();
    let keys: Vec<&str> = found
        .events
        .iter()
        .map(|event| event.key.as_str())
        .collect();
    assert_eq!(keys, ["b", "unknown"]);
    assert_eq!(
        store
            .read_events(&[], 100, at(9))
            .await
            .unwrap()
            .events
            .len(),
        22
    );
}
