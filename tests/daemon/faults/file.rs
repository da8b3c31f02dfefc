//! What other processes do to a file, and cannot do to a server.

use receiptd::sandbox::SandboxConfig;

use super::harness::neighbour::Neighbour;
use super::harness::{DEFAULT_ACCOUNT, House};
use super::ledger::every_call_is_counted;
use super::neighbours::{SLOW, all_is_well, called, insert};

/// The lock may be held when the daemon starts, by a backup or a feeder's long transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_finds_the_database_locked_waits_for_it() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    insert(&house, SLOW, 5);
    let mut neighbour = Neighbour::of(&house);
    neighbour.lock();
    house.start();
    house.until_logged("waits for it").await;
    assert!(house.is_running(), "{}", house.log());
    neighbour.run("COMMIT");
    all_is_well(&mut house, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_waits_for_the_lock_is_stopped() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let mut neighbour = Neighbour::of(&house);
    neighbour.lock();
    house.start();
    house.until_logged("waits for it").await;
    house.signal("TERM");
    let status = house.ended().await;
    assert!(status.success(), "{status}\n{}", house.log());
    neighbour.run("COMMIT");
}

/// A write-ahead log cannot be cut back behind a reader: it grows, and results go on being written.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_read_transaction_holds_nothing_up() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "1s");
    house.start();
    let mut neighbour = Neighbour::of(&house);
    neighbour.run("BEGIN");
    assert_eq!(neighbour.run("SELECT count(*) FROM readers"), "[(0,)]");
    insert(&house, "readers=2,median=1ms,never=0", 300);
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "300",
        )
        .await;
    assert_eq!(neighbour.run("SELECT count(*) FROM readers"), "[(0,)]");
    neighbour.run("COMMIT");
    assert_eq!(neighbour.run("SELECT count(*) FROM readers"), "[(600,)]");
    // The daemon's housekeeping takes the log over into the file, so that it begins anew and does not grow.
    let summaries = house.log().matches("summary:").count();
    house.until_logs("summary:", summaries + 2).await;
    let log = house.database().with_extension("db-wal");
    let size = std::fs::metadata(&log).unwrap().len();
    insert(&house, "readers=2,median=2ms,never=0", 100);
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "400",
        )
        .await;
    assert_eq!(std::fs::metadata(&log).unwrap().len(), size);
    every_call_is_counted(&house);
}

/// Finished rows with long keys; some 1.2 KiB of the write-ahead log each.
fn rows(from: u32) -> String {
    format!(
        "PRAGMA wal_autocheckpoint = 0;
         WITH RECURSIVE n(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM n WHERE n < {from} + 9999)
         INSERT INTO messages (process_query_key, state)
         SELECT substr(hex(zeroblob(250)), 1, 490) || '-' || n, 'cancelled' FROM n;"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_a_long_reader_holds_is_named_and_comes_back_after() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "200ms");
    house.start();
    house.until_logged("receiptd serves").await;
    // Somebody reads, and forgets to end it.
    let mut neighbour = Neighbour::of(&house);
    neighbour.run("BEGIN");
    assert_eq!(neighbour.run("SELECT count(*) FROM messages"), "[(0,)]");

    for part in 0..8 {
        house.sql(&rows(part * 10_000));
    }
    let wal = house.dir.path().join("receiptd.db-wal");
    let size = || std::fs::metadata(&wal).unwrap().len() >> 20;
    assert!(size() > 64, "{} MiB", size());
    house
        .until_logged(
            "of the write-ahead log cannot be checkpointed: a process keeps a transaction open",
        )
        .await;
    house
        .until_logged("WARN the write-ahead log has grown to ")
        .await;

    neighbour.run("COMMIT");
    house.until_true("it is small", || size() <= 64).await;
    // Nothing of it was lost, and it is held no more.
    assert_eq!(house.sql("SELECT count(*) FROM messages"), ["80000"]);
    let said = house.log().len();
    let is_told_no_more = || {
        let later = house.log().split_off(said);
        let last = later.lines().next_back().unwrap_or_default();
        last.contains("summary: ") && !last.contains("cannot be checkpointed")
    };
    house
        .until_true("it is held no more", is_told_no_more)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_constraint_stopped_are_set_aside() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    let mut neighbour = Neighbour::of(&house);
    neighbour.run("PRAGMA ignore_check_constraints = ON");
    for columns in [
        "(process_query_key) VALUES (x'00ff')",
        "(process_query_key) VALUES ('')",
        "(process_query_key) VALUES ('two' || char(10) || 'lines')",
        "(process_query_key, account) VALUES ('bad-1', x'ff')",
        "(process_query_key, chat) VALUES ('bad-2', 'party')",
        "(process_query_key, sent_at) VALUES ('bad-3', 'soon')",
        "(process_query_key, expected_readers) VALUES ('bad-4', -5)",
        "(process_query_key, next_poll_at) VALUES ('bad-5', x'00')",
        "(process_query_key, reader_count) VALUES ('bad-6', 'many')",
    ] {
        neighbour.run(&format!("INSERT INTO messages {columns}"));
    }
    insert(&house, SLOW, 20);
    // Spoiled while they are asked for.
    called(&house, 5).await;
    neighbour.run("UPDATE messages SET chat = 'party' WHERE process_query_key LIKE '%;1_'");
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;
    assert_eq!(
        house.sql(
            "SELECT state, substr(last_error, 1, 11), count(*) FROM messages GROUP BY 1, 2 ORDER BY 1"
        ),
        ["complete||10", "failed|row.invalid|19"]
    );
    assert!(house.is_running());
}
