//! What is learned of the readers is stored with the results, and outlives a kill.

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

/// How many messages the stored habits stand on.
const LEARNED: &str =
    "SELECT round(json_extract(habits, '$.totals.messages')) FROM habits WHERE account = 'default'";

fn insert(house: &House, name: &str, count: usize) {
    let values: Vec<String> = (0..count)
        .map(|n| format!("('sb:readers=1,median=300ms,sigma=0.3,never=0,expire=7s;{name}-{n}', 1)"))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES {}",
        values.join(",")
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn habits_are_stored_and_outlive_a_kill() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    insert(&house, "before", 60);
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "60",
        )
        .await;
    house.until(LEARNED, "60.0").await;

    house.kill();
    house.start();
    insert(&house, "after", 20);
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "80",
        )
        .await;
    // The new daemon went on from what the old one had learned.
    house.until(LEARNED, "80.0").await;
    house.until("SELECT count(*) FROM habits", "1").await;
    assert!(!house.log().contains("learned anew"), "{}", house.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_what_was_learned_and_where_the_month_will_end() {
    let account = format!("{DEFAULT_ACCOUNT}monthly_calls = 5000\n");
    let mut house = House::new(SandboxConfig::default(), &account).await;
    house.start();
    insert(&house, "m", 30);
    let complete = "SELECT count(*) FROM messages WHERE state = 'complete'";
    house.until(complete, "30").await;
    let status = || -> serde_json::Value {
        let said = house.command("status").arg("--json").output().unwrap();
        serde_json::from_slice(&said.stdout).unwrap()
    };
    let learned = |status: &serde_json::Value| {
        let reads = status["lanes"][0]["outlook"]["reads_learned_from"].as_f64();
        reads.is_some_and(|reads| reads > 29.5)
    };
    house
        .until_true("lessons are stored", || learned(&status()))
        .await;
    let status = status();
    let outlook = &status["lanes"][0]["outlook"];
    let number = |pointer: &str| {
        let value = outlook.pointer(pointer).and_then(serde_json::Value::as_f64);
        value.unwrap_or_else(|| panic!("{pointer} in {outlook}"))
    };
    let spent = house.sandbox.counts().metered;
    let spent_here = outlook["budget"]["spent"].as_u64();
    assert_eq!(spent_here, Some(spent));
    assert_eq!(outlook["budget"]["monthly_calls"], 5_000);
    assert!(outlook["budget"]["forecast"].as_u64() >= spent_here);
    assert!((number("/reads_learned_from") - 30.0).abs() < 0.5);
    let measured = number("/calls_per_message/measured");
    let a_message = f64::from(u32::try_from(spent).unwrap()) / 30.0;
    assert!((measured - a_message).abs() < 0.1, "{outlook}");
    assert!(number("/mean_delay_s/measured") > 0.0);
    assert!(number("/calls_per_message/expected") > 0.0);
    let curve = outlook["read_curve"].as_array().unwrap();
    let shares: Vec<f64> = curve.iter().map(|p| p[1].as_f64().unwrap()).collect();
    assert!(shares.is_sorted(), "{shares:?}");
    // All read within a second or so.
    assert!(shares[shares.len() - 1] > 0.9, "{shares:?}");

    let said = house.command("status").output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("learned from 30 reads"), "{text}");
    let budget = format!("account default: {spent} of 5000 calls spent");
    assert!(text.contains(&budget), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shorter_life_of_keys_is_learned_and_said() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    // Eight seconds, says the setting.
    let values: Vec<String> = (0..40)
        .map(|n| format!("('sb:readers=1,never=1,expire=3s;short-{n}')"))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key) VALUES {}",
        values.join(",")
    ));
    let expired = "SELECT count(*) FROM messages WHERE state = 'expired'";
    house.until(expired, "40").await;
    house.until_logged("keys were learned to answer for").await;
    let learned: Vec<u64> = house
        .log()
        .lines()
        .filter_map(|line| line.split(" lifetime_ms=").nth(1))
        .map(|rest| rest.split(' ').next().unwrap().parse().unwrap())
        .collect();
    // It lies between the last answer of any key and its end.
    assert!(
        learned.iter().all(|ms| (1_000..8_000).contains(ms)),
        "{learned:?}"
    );
}
