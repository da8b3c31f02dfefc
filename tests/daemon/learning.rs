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
