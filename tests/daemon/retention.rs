//! What is finished goes, what is not stays.

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

/// 600 messages that finished long ago with two readers each, 3 that finished just now, 2 that are pending, and the
/// reader of a message that a feeder deleted.
const ROWS: &str = "
    INSERT INTO messages (process_query_key, account, state, finished_at)
    SELECT 'old-' || value, CASE value % 2 WHEN 1 THEN 'default' ELSE 'gone' END,
        CASE value % 3 WHEN 0 THEN 'expired' ELSE 'complete' END, 1600000000000 + value
    FROM generate_series(1, 600) AS value;
    INSERT INTO readers (process_query_key, user_id, seen_after, seen_at)
    SELECT process_query_key, person, 1, 2 FROM messages, (SELECT 'a' AS person UNION SELECT 'b') AS persons;
    INSERT INTO messages (process_query_key, state) VALUES ('new-1', 'failed'), ('new-2', 'cancelled'), ('deleted', 'failed');
    INSERT INTO readers (process_query_key, user_id, seen_after, seen_at)
    VALUES ('new-1', 'a', 1, 2), ('deleted', 'a', 1, 2);
    DELETE FROM messages WHERE process_query_key = 'deleted';
    INSERT INTO messages (process_query_key, next_poll_at) VALUES ('pending-1', LATER), ('pending-2', LATER);
";

fn insert_rows(house: &House) {
    let later = house.sandbox.now().0 + 3_600_000;
    house.sql(&ROWS.replace("LATER", &later.to_string()));
}

const COUNTS: &str = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM readers)";

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_removes_what_finished_long_ago_and_nothing_else() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    insert_rows(&house);
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
    let left = house.sql("SELECT process_query_key FROM messages ORDER BY 1");
    assert_eq!(left, ["new-1", "new-2", "pending-1", "pending-2"]);
    house.until_logged(" readers removed").await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_says_what_it_would_remove_and_then_removes_just_that() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    insert_rows(&house);
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
    let waiting = format!(
        "INSERT INTO read_events (process_query_key, user_id, waits_since)
         VALUES ('never', 'a', 1600000000000), ('never', 'b', {})",
        house.sandbox.now().0
    );
    house.sql(&waiting);
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
    let left = "SELECT user_id FROM read_events";
    assert_eq!(house.sql(left), ["b"]);
    house.sql(&waiting);
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "200ms");
    house.start();
    house
        .until_logged("1 pushed reads removed whose message did not come within a day")
        .await;
    assert_eq!(house.sql(left), ["b", "b"]);
}
