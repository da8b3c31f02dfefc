//! What others may heap up costs no memory.

use std::path::Path;
use std::time::{Duration, Instant};

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

/// How much more memory may be resident at the worst moment than of a daemon with nothing to do, in KiB: the caches of
/// its connections to the database (2 MiB each), and what an allocator keeps.
const SLACK_KIB: u64 = 48 << 10;

/// The most that was ever resident, in KiB.
fn peak(house: &House) -> u64 {
    let status = Path::new("/proc")
        .join(house.pid().to_string())
        .join("status");
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

async fn house() -> House {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "1s");
    // Long enough for a machine that has other things to do.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "60s");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "120s");
    house
}

/// The peak of a daemon that served one message.
async fn idle() -> u64 {
    let mut house = house().await;
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=100ms,never=0;one', 1)");
    house.start();
    let done = "SELECT state FROM messages";
    house.until(done, "complete").await;
    peak(&house)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_costs_no_memory() {
    let rows: u64 = std::env::var("RECEIPTD_BACKLOG_ROWS").map_or(300_000, |n| n.parse().unwrap());
    let idle = idle().await;
    let mut house = house().await;
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "24h");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    house.sql(&format!(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {rows})
         INSERT INTO messages (process_query_key, next_poll_at)
         SELECT 'key-' || n, 1000 * strftime('%s', 'now') + 3600000 + n FROM n"
    ));
    house.start();
    let since = Instant::now();
    let bound = Duration::from_secs(120) + Duration::from_millis(rows);
    let new = "SELECT count(*) FROM messages WHERE admitted_at IS NULL AND account = 'default'";
    while house.sql(new) != ["0"] {
        assert!(since.elapsed() < bound, "{:?} are new", house.sql(new));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Counted over once more, by a summary.
    house.until_logged(&format!("{rows} pending")).await;
    let peak = peak(&house);
    println!("{rows} rows waiting: {peak} KiB at the most, {idle} KiB without");
    assert!(peak <= idle + SLACK_KIB, "{peak} KiB, {idle} KiB without");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_rows_and_bodies_cost_no_memory() {
    let idle = idle().await;
    let mut house = house().await;
    // Cells of 3 MB that went round the checks, 180 MB in all: a third in each of three columns.
    house.sql(
        "PRAGMA ignore_check_constraints = ON;
         WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 59)
         INSERT INTO messages (process_query_key, open_conversation_id, robot_code, account)
         SELECT 'hostile-' || n, iif(n % 3 = 0, hex(zeroblob(1500000)), NULL),
             iif(n % 3 = 1, zeroblob(3000000), NULL), iif(n % 3 = 2, hex(zeroblob(1500000)), 'default')
         FROM n",
    );
    // And answers of 2 MiB and without end, of another account, a hundred asked for at once.
    house.configure(&format!(
        "{DEFAULT_ACCOUNT}{}",
        DEFAULT_ACCOUNT.replace("accounts.default", "accounts.other")
    ));
    house.sql(
        "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100)
         INSERT INTO messages (process_query_key, account)
         SELECT 'sb:readers=1,median=100ms,never=0,' || iif(n % 2, 'huge', 'endless') || ';body-' || n, 'other' FROM n",
    );
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=100ms,never=0;sound', 1)");
    house.start();
    let sound = "SELECT state FROM messages WHERE process_query_key LIKE '%sound'";
    house.until(sound, "complete").await;
    let aside =
        "SELECT count(*) FROM messages WHERE state = 'failed' AND last_error LIKE 'row.invalid: %'";
    house.until(aside, "60").await;
    let refused = "SELECT count(*) > 10 FROM messages WHERE last_error = 'http.tooLarge'";
    house.until(refused, "1").await;
    let peak = peak(&house);
    println!("hostile rows and bodies: {peak} KiB at the most, {idle} KiB without");
    // A body of 1 MiB for each of the calls that may be under way at once.
    let bodies = 64 << 10;
    assert!(
        peak <= idle + SLACK_KIB + bodies,
        "{peak} KiB, {idle} KiB without"
    );
}
