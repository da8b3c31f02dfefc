//! A day with nothing to do, at an interval of 20 ms instead of a minute.

use std::path::Path;
use std::time::{Duration, Instant};

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

/// Summaries of a day.
const A_DAY: usize = 1_440;
/// By then everything has been done once.
const WARM: usize = 240;
/// How much resident memory may differ at the end, in KiB: what an allocator may do, not what a leak does a day.
const NOISE_KIB: u64 = 512;

/// Resident memory in KiB, and how many descriptors are open.
fn resources(house: &House) -> (u64, usize) {
    let process = Path::new("/proc").join(house.pid().to_string());
    let status = std::fs::read_to_string(process.join("status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    let descriptors = std::fs::read_dir(process.join("fd")).unwrap().count();
    (memory, descriptors)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_day_says_its_summaries_and_nothing_else_and_grows_by_nothing() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "20ms");
    house.set("RECEIPTD__RETENTION__FINISHED", "90d");
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "24h");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    // Somewhat lived in: messages that wait for a far moment, and some that are done.
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, state, next_poll_at)
         SELECT 'key-' || value, CASE value % 2 WHEN 1 THEN 'complete' ELSE 'pending' END, {}
         FROM generate_series(1, 1000) AS value",
        house.sandbox.now().0 + 3_600_000
    ));
    house.start();
    let summaries = |log: &str| log.matches(" INFO summary: ").count();
    let reach = async |wanted: usize| {
        let since = Instant::now();
        while summaries(&house.log()) < wanted {
            let said = summaries(&house.log());
            assert!(
                since.elapsed() < Duration::from_secs(300),
                "{said} of {wanted}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    reach(WARM).await;
    let (memory, descriptors) = resources(&house);
    reach(A_DAY).await;
    let (memory_then, _) = resources(&house);
    // The status file is open for a moment now and then.
    house
        .until_true("no descriptor was added", || {
            resources(&house).1 <= descriptors
        })
        .await;
    assert!(
        memory_then <= memory + NOISE_KIB,
        "{memory} KiB after {WARM} summaries, {memory_then} KiB after {A_DAY}"
    );
    let log = house.log();
    let (_, idle) = log.split_once("receiptd serves").unwrap();
    let others: Vec<&str> = idle
        .lines()
        .skip(1)
        .filter(|line| !line.contains(" INFO summary: 500 pending, 0 due "))
        .take(5)
        .collect();
    assert_eq!(others, Vec::<&str>::new());
    // Nobody was asked for anything.
    assert_eq!(house.sandbox.counts().queries, 0);
}
