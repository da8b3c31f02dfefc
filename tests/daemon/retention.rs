//! What is finished goes, what is not stays; and the write-ahead log comes back after it had to grow.

use std::io::Write as _;
use std::process::{Command, Stdio};

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

/// 600 messages that finished long ago with two readers each, 3 that finished just now, 2 that are pending, and the
/// reader of a message that a feeder deleted.
const ROWS: &str = "
    WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 600)
    INSERT INTO messages (process_query_key, account, state, finished_at)
    SELECT 'old-' || n, iif(n % 2, 'default', 'gone'), iif(n % 3, 'complete', 'expired'), 1600000000000 + n FROM n;
    INSERT INTO readers (process_query_key, user_id, seen_after, seen_at)
    SELECT process_query_key, user, 1, 2 FROM messages, (SELECT 'a' AS user UNION SELECT 'b');
    INSERT INTO messages (process_query_key, state) VALUES ('new-1', 'failed'), ('new-2', 'cancelled'), ('deleted', 'failed');
    INSERT INTO readers (process_query_key, user_id, seen_after, seen_at)
    VALUES ('new-1', 'a', 1, 2), ('deleted', 'a', 1, 2);
    DELETE FROM messages WHERE process_query_key = 'deleted';
    INSERT INTO messages (process_query_key, next_poll_at)
    SELECT 'pending-' || n, 1000 * strftime('%s', 'now') + 3600000 FROM (SELECT 1 AS n UNION SELECT 2);
";

const COUNTS: &str = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM readers)";

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_removes_what_finished_long_ago_and_nothing_else() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql(ROWS);
    assert_eq!(house.sql(COUNTS), ["604|1202"]);
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "200ms");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    house.start();
    house.until_logged("0 messages finished").await;
    // Nobody asked for it.
    assert_eq!(house.sql(COUNTS), ["604|1202"]);
    house.signal("TERM");
    assert!(house.ended().await.success());

    house.set("RECEIPTD__RETENTION__FINISHED", "1h");
    house.start();
    house.until(COUNTS, "4|1").await;
    let left = "SELECT group_concat(process_query_key) FROM (SELECT process_query_key FROM messages ORDER BY 1)";
    assert_eq!(house.sql(left), ["new-1,new-2,pending-1,pending-2"]);
    house.until_logged(" readers removed").await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_says_what_it_would_remove_and_then_removes_just_that() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql(ROWS);
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    house.start();
    house.until_logged("receiptd serves").await;
    let prune = |arguments: &[&str]| {
        let output = house
            .command("prune")
            .args(["--older-than", "30d", "--json"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(object["finished_before"].is_i64(), "{object}");
        ["messages", "readers", "events"].map(|count| object[count].as_u64().unwrap())
    };
    assert_eq!(prune(&["--dry-run"]), [600, 1201, 0]);
    assert_eq!(prune(&["--dry-run", "--state", "expired"]), [200, 401, 0]);
    assert_eq!(house.sql(COUNTS), ["604|1202"]);
    assert_eq!(prune(&["--state", "expired"]), [200, 401, 0]);
    assert_eq!(prune(&[]), [400, 800, 0]);
    assert_eq!(prune(&[]), [0, 0, 0]);
    assert_eq!(house.sql(COUNTS), ["4|1"]);
}

/// A daemon does it too, after a day.
#[tokio::test(flavor = "multi_thread")]
async fn pushed_reads_of_messages_that_never_came_go() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let waiting = "INSERT INTO read_events (process_query_key, user_id, waits_since)
        VALUES ('never', 'a', 1600000000000), ('never', 'b', 1000 * strftime('%s', 'now'))";
    house.sql(waiting);
    let prune = |arguments: &[&str]| {
        let output = house
            .command("prune")
            .args(["--older-than", "30d"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(prune(&["--dry-run"]).contains("1 pushed read without a message would be removed"));
    assert!(!prune(&["--dry-run", "--state", "failed"]).contains("pushed"));
    assert!(prune(&[]).contains("1 pushed read without a message removed"));
    assert_eq!(
        house.sql("SELECT group_concat(user_id) FROM read_events"),
        ["b"]
    );
    house.sql(waiting);
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "200ms");
    house.start();
    house
        .until_logged("1 pushed reads removed whose message did not come within a day")
        .await;
    assert_eq!(
        house.sql("SELECT group_concat(user_id) FROM read_events"),
        ["b,b"]
    );
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
    let mut reader = Command::new("sqlite3")
        .arg(house.database())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = reader.stdin.take().unwrap();
    writeln!(input, "BEGIN; SELECT count(*) FROM messages;").unwrap();
    let mut output = std::io::BufReader::new(reader.stdout.take().unwrap());
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut output, &mut answer).unwrap();
    assert_eq!(answer, "0\n");

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

    writeln!(input, "COMMIT;").unwrap();
    drop(input);
    reader.wait().unwrap();
    let since = std::time::Instant::now();
    while size() > 64 {
        assert!(
            since.elapsed().as_secs() < 60,
            "{} MiB\n{}",
            size(),
            house.log()
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Nothing of it was lost, and it is held no more.
    assert_eq!(house.sql("SELECT count(*) FROM messages"), ["80000"]);
    let said = house.log().len();
    let since = std::time::Instant::now();
    loop {
        let later = house.log().split_off(said);
        let last = later.lines().next_back().unwrap_or_default();
        if last.contains("summary: ") && !last.contains("cannot be checkpointed") {
            break;
        }
        assert!(since.elapsed().as_secs() < 60, "{later}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
