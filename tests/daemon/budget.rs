//! A month's calls are never overdrawn, and last chances come first.

use std::time::{Duration, Instant};

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

const PENDING: &str = "SELECT count(*) FROM messages WHERE state = 'pending'";

async fn house(accounts: &str) -> House {
    let mut house = House::new(SandboxConfig::default(), accounts).await;
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "1s");
    house.start();
    house
}

/// In one transaction: the daemon knows of all of them or of none.
fn insert(house: &House, accounts: &[&str], name: &str, count: usize) {
    let row = |account: &str, n: usize| {
        format!("('sb:readers=3,median=2s,expire=20s;{account}-{name}-{n}', '{account}')")
    };
    let values: Vec<String> = accounts
        .iter()
        .flat_map(|account| (0..count).map(move |n| row(account, n)))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, account) VALUES {}",
        values.join(",")
    ));
}

/// As [`insert`], of messages that were sent a while ago: their first poll is due when they come.
fn insert_late(house: &House, count: usize, sent_before: Duration) {
    let sent_at = (house.sandbox.now() - sent_before).0;
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, sent_at)
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
         SELECT 'sb:readers=3,median=2s,expire=20s;late-' || i, {sent_at} FROM n"
    ));
}

/// How many lines of the log say so.
fn said(house: &House, what: &str) -> usize {
    let log = house.log();
    log.lines().filter(|line| line.contains(what)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_month_thins_the_polls_and_keeps_every_last_chance() {
    let house = house(&format!("{DEFAULT_ACCOUNT}monthly_calls = 90\n")).await;
    // At 12 calls each they would cost 360.
    insert(&house, &["default"], "m", 30);
    house.until(PENDING, "0").await;
    let metered = house.sandbox.counts().metered;
    assert!(metered <= 90, "{metered} calls\n{}", house.log());
    let counted = house.sql("SELECT sum(calls), sum(messages) FROM api_calls");
    assert_eq!(counted, [format!("{metered}|30")]);
    // The last chance lies at 7.6 s.
    let without = "SELECT count(*) FROM messages WHERE last_polled_at - sent_at < 7500";
    assert_eq!(house.sql(without), ["0"], "{}", house.log());
    assert!(said(&house, "80 % of the 90 calls") <= 1, "{}", house.log());
    // Nothing failed: a poll that is left out is no error.
    let failed = "SELECT count(*) FROM messages WHERE state = 'failed'";
    assert_eq!(house.sql(failed), ["0"]);
}

/// Called before they have a place in the cadence, they would spend what their last chances need.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_come_late_leave_room_for_their_last_chances() {
    let house = house(&format!("{DEFAULT_ACCOUNT}monthly_calls = 20\n")).await;
    insert_late(&house, 20, Duration::from_secs(2));
    house.until(PENDING, "0").await;
    assert_eq!(house.sandbox.counts().metered, 20, "{}", house.log());
    let without =
        "SELECT count(*) FROM messages WHERE call_count <> 1 OR last_polled_at - sent_at < 7500";
    assert_eq!(house.sql(without), ["0"], "{}", house.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_that_share_a_budget_stop_together_and_the_log_says_what_was_dropped() {
    let shared = DEFAULT_ACCOUNT.to_owned() + "budget = \"both\"\n";
    let other = shared.replace("accounts.default", "accounts.other");
    let budget = "[budgets.both]\nmonthly_calls = 12\n";
    let mut house = house(&format!("{shared}{other}{budget}")).await;
    insert(&house, &["default", "other"], "m", 10);
    house.until(PENDING, "0").await;
    assert_eq!(house.sandbox.counts().metered, 12, "{}", house.log());
    for once in ["budget both: 80 % of the 12", "budget both: all 12 calls"] {
        assert_eq!(said(&house, once), 1, "{once}\n{}", house.log());
    }
    assert!(said(&house, "last chances were dropped") > 0);
    // Rows whose last chance was dropped say why their answer is lost.
    let dropped = "SELECT count(*) FROM messages WHERE last_error = 'budget.spent'";
    assert_eq!(house.sql(dropped), ["8"], "{}", house.log());
    // A restart does not forget what was spent.
    house.kill();
    house.start();
    insert(&house, &["default"], "late", 1);
    house.until(PENDING, "0").await;
    assert_eq!(house.sandbox.counts().metered, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_walk_that_a_kill_cuts_short_are_counted_as_far_as_known() {
    let mut house = house(DEFAULT_ACCOUNT).await;
    if house.is_on_a_server() {
        return;
    }
    // A hundred pages, a call each: their result is not written before the last.
    house.sql(
        "INSERT INTO messages (process_query_key, chat) VALUES
         ('sb:readers=20000,median=1ms,sigma=0.1,never=0,latency=300ms,expire=1h;long', 'group')",
    );
    let written = || -> u64 {
        let calls = house.sql("SELECT coalesce(sum(calls), 0) FROM api_calls");
        calls[0].parse().unwrap()
    };
    let published = || {
        let text = std::fs::read_to_string(house.database().with_extension("db.status"));
        let status: serde_json::Value = serde_json::from_str(&text.ok()?).ok()?;
        status["lanes"][0]["calls"].as_u64()
    };
    let since = Instant::now();
    let known = loop {
        match published() {
            Some(calls) if calls > written() + 3 => break calls,
            _ => assert!(since.elapsed().as_secs() < 60, "{}", house.log()),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    house.kill();
    house.start();
    let counted = format!("SELECT calls >= {known} FROM api_calls");
    house.until(&counted, "1").await;
    let told = "made before receiptd was killed";
    assert_eq!(said(&house, told), 1, "{}", house.log());
    // They are counted once: never are there more than were made.
    let calls: u64 = house.sql("SELECT calls FROM api_calls")[0].parse().unwrap();
    assert!(calls <= house.sandbox.counts().metered);
}

/// What waited for its turn until its last chance was refused as an ordinary poll, and its last chance lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_is_for_is_judged_when_it_goes_out() {
    let account = DEFAULT_ACCOUNT.replace("calls_per_second = 400", "calls_per_second = 1");
    let mut house = House::new(
        SandboxConfig::default(),
        &format!("{account}monthly_calls = 100\n"),
    )
    .await;
    // From the age of 8 s on a call is the last chance.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "30s");
    house.set("RECEIPTD__CADENCE__LAST_CHANCE", "22s");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "40s");
    // Claimed together before it, and called one after the other: the last of them after it.
    insert_late(&house, 4, Duration::from_millis(4500));
    house.start();
    house
        .until_true("three are asked for", || {
            house.sandbox.counts().metered >= 3
        })
        .await;
    // Enough for the last chances alone.
    house.configure(&format!("{account}monthly_calls = 7\n"));
    house.signal("HUP");
    house.until_logged("configuration: read again").await;
    house
        .until(
            "SELECT count(*) FROM messages WHERE last_polled_at - sent_at >= 8000 AND last_complete_at IS NOT NULL",
            "4",
        )
        .await;
    assert!(house.sandbox.counts().metered <= 7, "{}", house.log());
    let lost = "SELECT count(*) FROM messages WHERE last_error = 'budget.spent'";
    assert_eq!(house.sql(lost), ["0"], "{}", house.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jam_of_last_chances_begins_early_enough() {
    let account = DEFAULT_ACCOUNT.replace("calls_per_second = 400", "calls_per_second = 50");
    let house = house(&account).await;
    // Their last chances take four seconds at this rate, and come within 0.4 s.
    let values: Vec<String> = (0..200)
        .map(|n| format!("('sb:readers=1,median=1s,expire=8s;j{n}')"))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key) VALUES {}",
        values.join(",")
    ));
    house.until(PENDING, "0").await;
    // Each was answered as late as the rate allows, not only by its first poll, of which a third come before that.
    // On a machine that is busy with other tests, a few are late all the same.
    let early =
        "SELECT count(*) FROM messages WHERE coalesce(last_complete_at, 0) - sent_at < 2000";
    let early: u32 = house.sql(early)[0].parse().unwrap();
    assert!(early <= 10, "{early} of 200: {}", house.log());
}
