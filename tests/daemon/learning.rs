//! What is learned of the readers is stored with the results, and outlives a kill.

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

/// Waits until the stored habits stand on so many messages.
async fn until_learned(house: &House, messages: f64) {
    let learned = || {
        let stored = house.sql("SELECT habits FROM habits WHERE account = 'default'");
        stored.first().is_some_and(|habits| {
            let habits: serde_json::Value = serde_json::from_str(habits).unwrap();
            let found = habits["totals"]["messages"].as_f64().unwrap();
            (found - messages).abs() < 0.5
        })
    };
    house.until_true("the habits are stored", learned).await;
}

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
    until_learned(&house, 60.0).await;

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
    until_learned(&house, 80.0).await;
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
    // What the daemon reckons is published every 5 s.
    let json = |house: &House| {
        let arguments = ["--plot", "--json"];
        let said = house.command("status").args(arguments).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&said.stdout).unwrap()
    };
    house
        .until_true("the forecast is published", || {
            let status = json(&house);
            let reads = status["accounts"][0]["learned"]["private"]["reads"].as_f64();
            status["budgets"][0]["forecast"].is_u64() && reads.is_some_and(|reads| reads > 29.5)
        })
        .await;
    let status = json(&house);
    let learned = &status["accounts"][0]["learned"]["private"];
    let number = |name: &str| {
        let value = learned[name].as_f64();
        value.unwrap_or_else(|| panic!("{name} in {learned}"))
    };
    let spent = house.sandbox.counts().metered;
    let budget = &status["budgets"][0];
    assert_eq!(budget["name"], "account default");
    assert_eq!(budget["spent"].as_u64(), Some(spent));
    assert_eq!(budget["monthly_calls"], 5_000);
    assert!(budget["forecast"].is_u64(), "{budget}");
    assert!(budget["calls_per_message"].as_f64() > Some(0.0), "{budget}");
    assert!((number("reads") - 30.0).abs() < 0.5);
    let a_message = f64::from(u32::try_from(spent).unwrap()) / 30.0;
    assert!(
        (number("calls_per_message") - a_message).abs() < 0.1,
        "{learned}"
    );
    assert!(number("mean_delay_s") > 0.0);
    let curve = learned["read_curve"].as_array().unwrap();
    let shares: Vec<f64> = curve.iter().map(|p| p[1].as_f64().unwrap()).collect();
    assert!(shares.is_sorted(), "{shares:?}");
    // All read within a second or so.
    assert!(shares[shares.len() - 1] > 0.9, "{shares:?}");

    let said = house.command("status").arg("--plot").output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("from 30 reads"), "{text}");
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
    let learned: Vec<u128> = house
        .log()
        .lines()
        .filter_map(|line| {
            line.split_once("keys were learned to answer for ")?
                .1
                .split_once(',')
        })
        .map(|(span, _)| humantime::parse_duration(span).unwrap().as_millis())
        .collect();
    // It lies between the last answer of any key and its end.
    assert!(
        learned.iter().all(|ms| (1_000..8_000).contains(ms)),
        "{learned:?}"
    );
}
