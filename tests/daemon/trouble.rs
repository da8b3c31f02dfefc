//! A key that always fails is that key's trouble; an endpoint that fails is the lane's.

use std::time::Duration;

use futures_util::future::join_all;
use receiptd::sandbox::{FaultPlan, Outages, SandboxConfig};

use super::harness::{DEFAULT_ACCOUNT, House};

const HEALTHY: &str = "SELECT count(*) FROM messages WHERE process_query_key LIKE '%;healthy-%' AND last_complete_at IS NOT NULL";

/// A daemon with the default waits at 20 calls a second, and a life of keys that lets nothing end within a test.
async fn house() -> House {
    let account = DEFAULT_ACCOUNT.replace("calls_per_second = 400", "calls_per_second = 20");
    let mut house = House::new(SandboxConfig::default(), &account).await;
    for (variable, value) in [
        ("RECEIPTD__RETRY__INITIAL_INTERVAL", "500ms"),
        ("RECEIPTD__RETRY__MAX_INTERVAL", "30s"),
        ("RECEIPTD__RETRY__MAX_ELAPSED_TIME", "2m"),
        ("RECEIPTD__CADENCE__KEY_LIFETIME", "24h"),
        ("RECEIPTD__CADENCE__MAX_INTERVAL", "24h"),
        ("RECEIPTD__CADENCE__LAST_CHANCE", "5m"),
        ("RECEIPTD__CADENCE__MAX_AGE", "7d"),
    ] {
        house.set(variable, value);
    }
    house
}

/// In one transaction, sent an hour ago: they are due when they come, and in the order in which they stand here.
fn insert(house: &House, rules: &[(&str, usize)]) {
    let sent_at = house.sandbox.now().0 - 3_600_000;
    let values: Vec<String> = rules
        .iter()
        .flat_map(|(rule, count)| {
            (0..*count).map(move |n| format!("('sb:{rule}-{n}', 1, {sent_at})"))
        })
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, expected_readers, sent_at) VALUES {}",
        values.join(",")
    ));
}

/// 25 of them kept each of 20 healthy ones from being asked within a minute, and 12 for four minutes.
#[tokio::test(flavor = "multi_thread")]
async fn sick_keys_do_not_stop_their_account() {
    let kinds = [
        ("code=system.error", 12),
        ("code=system.error", 100),
        ("html-ok", 25),
        ("redirect", 25),
        ("drop=before", 25),
    ];
    join_all(kinds.map(|(sickness, keys)| async move {
        let mut house = house().await;
        insert(
            &house,
            &[
                (&format!("{sickness};sick"), keys),
                ("readers=1,median=1ms,never=0;healthy", 20),
            ],
        );
        house.start();
        house.until(HEALTHY, "20").await;
    }))
    .await;
}

/// One poll of it took nine calls, and the next nine more.
#[tokio::test(flavor = "multi_thread")]
async fn sick_keys_cost_no_more_than_their_share_and_keep_their_last_chance() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__CADENCE__CALLS_PER_MESSAGE", "6");
    // It lies at 6 s, and nothing is asked for after 8 s but whether the key is gone.
    house.set("RECEIPTD__CADENCE__LAST_CHANCE", "2s");
    house.start();
    // The answers for the others keep the lane open: there failing rows go one at a time.
    let kinds = [
        "code=system.error",
        "html",
        "drop=before",
        "readers=1,never=1",
    ];
    let values: Vec<String> = kinds
        .iter()
        .flat_map(|kind| (0..8).map(move |n| format!("('sb:{kind};key-{n}', 1)")))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES {}",
        values.join(",")
    ));
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;
    let calls = house.sandbox.calls_after(0);
    for row in house.sql("SELECT process_query_key, sent_at, failed_calls FROM messages WHERE process_query_key NOT LIKE '%never=1%'") {
        let cells: Vec<&str> = row.split('|').collect();
        let (key, sent_at): (_, i64) = (cells[0], cells[1].parse().unwrap());
        let of_its_share: u32 = cells[2].parse().unwrap();
        let ages: Vec<i64> = calls
            .iter()
            .filter(|call| call.key == key)
            .map(|call| call.at - sent_at)
            .collect();
        assert!(of_its_share <= 7, "{key}: {of_its_share}, {ages:?}");
        // Where the others' answers come late, their account is in trouble for a moment: such calls are not the key's.
        assert!(ages.len() <= 12, "{key}: {ages:?}");
        let last_chances = ages.iter().filter(|age| (6_000..8_000).contains(*age));
        assert!(last_chances.count() >= 1, "{key}: {ages:?}\n{}", house.log());
    }
}

/// Of the rows that are due, one at a time is asked for while nobody answers, and all soon after the first answer.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_costs_one_probe_at_a_time_and_a_restart_within_it_changes_nothing() {
    let mut house = house().await;
    let hour = Duration::from_secs(3600);
    let without_end = FaultPlan {
        outages: Some(Outages {
            every: hour,
            length: hour,
        }),
        ..FaultPlan::default()
    };
    house.sandbox.set_faults(Some(without_end));
    insert(&house, &[("readers=1,median=1ms,never=0;healthy", 200)]);
    house.start();
    house.until_logged("one call at a time probes").await;
    let asked = |house: &House| house.sandbox.calls_after(0).len();
    let before = asked(&house);
    // Ten failures close the lane; what was under way then is all that comes besides.
    assert!(before <= 40, "{before} calls before the lane was closed");
    house
        .until_true("it probes", || asked(&house) >= before + 4)
        .await;
    house.kill();
    let first = asked(&house);
    house.start();
    house
        .until_true("it probes after the restart", || {
            house.log().matches("one call at a time probes").count() >= 2
        })
        .await;
    assert!(
        asked(&house) - first <= 40,
        "{} calls",
        asked(&house) - first
    );
    house.sandbox.set_faults(None);
    house.until(HEALTHY, "200").await;
    // Nobody was asked twice who had been answered.
    let answered = house.sql("SELECT max(call_count) FROM messages");
    assert!(answered[0].parse::<u32>().unwrap() <= 12, "{answered:?}");
}
