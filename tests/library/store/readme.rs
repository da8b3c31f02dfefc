//! The examples of `migrations/README.md`, run as printed.

use std::path::Path;
use std::process::Command;

use receiptd::receipt::{State, UnixMs};
use receiptd::store::{Commands as _, Results as _};

use super::sqlite::{SqliteBackend, execute};
use super::{Backend, add_placed, at, claim, commit, keys, new, new_rows, settled, show, walk};

/// The fenced blocks of one language, with the path of the documentation led to the test's file.
fn examples(language: &str, database: &Path) -> Vec<String> {
    let text = include_str!("../../../migrations/README.md");
    let fence = format!("```{language}\n");
    let blocks = text.split(&*fence).skip(1);
    let blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    blocks
        .map(|block| block.replace("/var/lib/receiptd/receiptd.db", database.to_str().unwrap()))
        .collect()
}

/// What a program says to a script; `None` where the machine has no such program.
fn run(program: &[&str], script: &str) -> Option<String> {
    let output = Command::new(program[0])
        .args(&program[1..])
        .arg(script)
        .output();
    let output = match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("not run: there is no {} on this machine", program[0]);
            return None;
        }
        output => output.unwrap(),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && errors.is_empty(),
        "{script}\n{errors}"
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

fn has(program: &str, args: &[&str]) -> bool {
    let found = Command::new(program)
        .args(args)
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        println!("not run: {program} {args:?} does not work on this machine");
    }
    found
}

#[tokio::test]
async fn the_shells_examples_work_as_printed() {
    if !has("sqlite3", &["--version"]) {
        return;
    }
    let backend = SqliteBackend::fresh().await;
    let [insert, cancel, list] = &examples("sh", &backend.path)[..] else {
        panic!("the README has another number of examples");
    };
    let said = run(&["sh", "-c"], insert).unwrap();
    assert!(said.ends_with("Kna29Ax0Q=|pending|0\n"), "{said}");
    let arrived = new_rows(&backend.store, 9).await;
    assert_eq!(keys(&arrived), ["Kna29Ax0Q="]);
    assert_eq!(arrived[0].expected_readers, Some(2));
    let said = run(&["sh", "-c"], cancel).unwrap();
    assert!(said.ends_with("default|cancelled|1\n"), "{said}");
    let (row, _) = show(&backend.store, "Kna29Ax0Q=").await;
    assert_eq!(row.state, State::Cancelled);
    assert!(row.finished_at.is_some());
    add_placed(&backend.store, &[("k", "x", at(1))]).await;
    let claimed = claim(&backend.store, "k", at(1)).await;
    let outcome = walk(&claimed, at(2), &["manager123"]);
    commit(&backend.store, &[outcome], settled).await;
    let said = run(&["sh", "-c"], list).unwrap();
    assert!(
        said.contains("manager123  2023-11-14 22:13:20  2023-11-14 22:13:22"),
        "{said}"
    );
}

#[tokio::test]
async fn pythons_examples_work_as_printed() {
    if !has("python3", &["-c", "import sqlite3"]) {
        return;
    }
    let backend = SqliteBackend::fresh().await;
    let [feed, adjust, follow, pushed] = &examples("python", &backend.path)[..] else {
        panic!("the README has another number of examples");
    };
    for _ in 0..2 {
        assert_eq!(run(&["python3", "-c"], feed).as_deref(), Some("fed 2\n"));
    }
    let arrived = new_rows(&backend.store, 9).await;
    assert_eq!(keys(&arrived), ["Kna29By1R=", "Kna29Cz2S="]);
    let said = run(&["python3", "-c"], adjust).unwrap();
    assert_eq!(said, "waits for 39\n");
    let (row, _) = show(&backend.store, "Kna29By1R=").await;
    assert_eq!(row.expected_readers, Some(39));
    assert_eq!(run(&["python3", "-c"], follow).as_deref(), Some(""));
    add_placed(&backend.store, &[("k", "x", at(1))]).await;
    let claimed = claim(&backend.store, "k", at(1)).await;
    let outcome = walk(&claimed, at(2), &["u2", "u1"]);
    commit(&backend.store, &[outcome], settled).await;
    let said = run(&["python3", "-c"], follow).unwrap();
    assert_eq!(said, "u2 has read k\nu1 has read k\n");
    for times in 1..=2 {
        let said = run(&["python3", "-c"], pushed).unwrap();
        assert_eq!(said, format!("pushed {times}\n"));
    }
    let events = backend.store.read_events(&[], 9, at(3)).await.unwrap();
    assert_eq!(keys(&events.messages), ["Kna29By1R="]);
    let event = &events.events[1];
    assert_eq!(event.user_id.as_str(), "manager123");
    assert_eq!(event.read_at, Some(UnixMs(1_790_000_000_123)));
}

#[tokio::test]
async fn perls_example_works_as_printed() {
    if !has("perl", &["-MDBD::SQLite", "-e", "1"]) {
        return;
    }
    let backend = SqliteBackend::fresh().await;
    let [example] = &examples("perl", &backend.path)[..] else {
        panic!("the README has another number of examples");
    };
    let said = run(&["perl", "-e"], example).unwrap();
    assert_eq!(said, "fed 1\nKna29Da3T= pending 0 -\n");
    let said = run(&["perl", "-e"], example).unwrap();
    assert!(said.starts_with("fed 0\n"), "{said}");
}

#[tokio::test]
async fn the_tickets_statement_works_as_printed() {
    let backend = SqliteBackend::fresh().await;
    let [statement] = &examples("sql", &backend.path)[..] else {
        panic!("the README has another number of examples");
    };
    for _ in 0..2 {
        let mut connection = backend.foreign().await;
        let statement = sqlx::AssertSqlSafe(statement.clone());
        sqlx::query(statement)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let ticket = backend.store.suite_ticket("suitekey").await.unwrap();
    assert_eq!(ticket.as_deref(), Some("the newest ticket"));
}

/// What the first rule says of a transaction that reads and then writes.
#[tokio::test]
async fn a_transaction_that_reads_and_then_writes_begins_immediate() {
    let backend = SqliteBackend::fresh().await;
    let mut feeder = backend.foreign().await;
    for (begin, goes_through) in [("BEGIN", false), ("BEGIN IMMEDIATE", true)] {
        execute(&mut feeder, begin).await.unwrap();
        let read = "SELECT count(*) FROM messages";
        let before: (i64,) = sqlx::query_as(read).fetch_one(&mut feeder).await.unwrap();
        let between = async {
            let added = backend.store.add(&[new(&begin.replace(' ', "-"))]).await;
            assert_eq!(added.is_err(), goes_through, "{begin}: {before:?}");
        };
        let key =
            format!("INSERT INTO messages (process_query_key) VALUES ('after-{goes_through}')");
        between.await;
        assert_eq!(
            execute(&mut feeder, &key).await.is_ok(),
            goes_through,
            "{begin}"
        );
        execute(
            &mut feeder,
            if goes_through { "COMMIT" } else { "ROLLBACK" },
        )
        .await
        .unwrap();
    }
}

/// Every column of the contract, and no other that a feeder must give.
#[tokio::test]
async fn the_columns_are_those_of_the_documentation() {
    let backend = SqliteBackend::fresh().await;
    let mut connection = backend.foreign().await;
    let text = include_str!("../../../migrations/README.md");
    let internal = [
        "id",
        "inserted_at",
        "admitted_at",
        "not_before",
        "last_complete_at",
        "answered_at",
        "last_chance_at",
        "retried_at",
        "blocked",
        "lane_corp",
        "failed_walks",
        "failed_calls",
        "doubt",
        "doubt_at",
        "listed",
    ];
    let columns: Vec<(String,)> = sqlx::query_as("SELECT name FROM pragma_table_info('messages')")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    for (column,) in columns {
        let documented = text.contains(&format!("| `{column}` |"));
        let known = documented || internal.contains(&&*column);
        assert!(known, "{column} is neither documented nor internal");
    }
}
