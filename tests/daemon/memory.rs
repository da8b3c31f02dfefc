//! What others may heap up costs no memory.

use std::path::Path;
use std::time::{Duration, Instant};

use receiptd::sandbox::SandboxConfig;

use super::BACKLOG_ROWS;
use super::harness::{DEFAULT_ACCOUNT, House};

/// How much more memory may be resident at the worst moment than of a daemon with nothing to do, in KiB: the caches of
/// its connections to the database (2 MiB each), and what an allocator keeps.
pub(crate) const SLACK_KIB: u64 = 48 << 10;

/// A message that is as it should be, and how it is found again.
pub(crate) const SOUND: &str = "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=100ms,never=0;sound', 1)";
pub(crate) const SOUND_STATE: &str =
    "SELECT state FROM messages WHERE process_query_key LIKE '%;sound'";

/// The most that was ever resident, in KiB.
pub(crate) fn peak(house: &House) -> u64 {
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

pub(crate) async fn house() -> House {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "1s");
    // Long enough for a machine that has other things to do.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "60s");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "120s");
    house
}

/// The peak of a daemon that served one message.
pub(crate) async fn idle() -> u64 {
    let mut house = house().await;
    house.sql(SOUND);
    house.start();
    house.until(SOUND_STATE, "complete").await;
    peak(&house)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_costs_no_memory() {
    let asked = std::env::var("RECEIPTD_BACKLOG_ROWS");
    let rows: u64 = asked.map_or(BACKLOG_ROWS, |rows| rows.parse().unwrap());
    let idle = idle().await;
    let mut house = house().await;
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "24h");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, next_poll_at)
         SELECT 'key-' || value, {} + value FROM generate_series(1, {rows}) AS value",
        house.sandbox.now().0 + 3_600_000
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
async fn hostile_bodies_cost_no_memory() {
    let idle = idle().await;
    let mut house = house().await;
    // Answers of 2 MiB and without end, a hundred asked for at once, and a message of another account.
    house.configure(&format!(
        "{DEFAULT_ACCOUNT}{}",
        DEFAULT_ACCOUNT.replace("accounts.default", "accounts.other")
    ));
    house.sql(
        "INSERT INTO messages (process_query_key, account)
         SELECT 'sb:readers=1,median=100ms,never=0,' || CASE value % 2 WHEN 1 THEN 'huge' ELSE 'endless' END || ';body-' || value,
             'other'
         FROM generate_series(1, 100) AS value",
    );
    house.sql(SOUND);
    house.start();
    house.until(SOUND_STATE, "complete").await;
    let refused = "SELECT count(*) > 10 FROM messages WHERE last_error = 'http.tooLarge'";
    house.until(refused, "1").await;
    let peak = peak(&house);
    println!("hostile bodies: {peak} KiB at the most, {idle} KiB without");
    // A body of 1 MiB for each of the calls that may be under way at once.
    let bodies = 64 << 10;
    assert!(
        peak <= idle + SLACK_KIB + bodies,
        "{peak} KiB, {idle} KiB without"
    );
}
