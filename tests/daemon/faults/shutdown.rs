//! Every way to stop: bounded, clean, and nothing charged that was not made.

use std::time::{Duration, Instant};

use receiptd::sandbox::{SandboxConfig, Script};

use super::harness::neighbour::Neighbour;
use super::harness::{DEFAULT_ACCOUNT, House};
use super::ledger::every_call_is_counted;

/// A serving daemon with one message in a group that is called for the first time.
async fn called_house(settings: &[(&'static str, &str)], rule: &str, expected: u32) -> House {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    for (variable, value) in settings {
        house.set(variable, value);
    }
    // Before the daemon hears of it: its readers have read it by the first call.
    house.sandbox.publish("k", Script::parse(rule).unwrap());
    house.start();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, chat, expected_readers) VALUES ('k', 'group', {expected})"
    ));
    house
        .until_true("the endpoint is called", || {
            house.sandbox.counts().queries > 0
        })
        .await;
    house
}

async fn stops(house: &mut House) {
    house.signal("TERM");
    ends_well(house).await;
}

async fn stops_and_leaves_the_row(house: &mut House) {
    let row = "SELECT state, next_poll_at, finished_at FROM messages";
    let before = house.sql(row);
    stops(house).await;
    assert_eq!(house.sql(row), before);
    every_call_is_counted(house);
}

async fn ends_well(house: &mut House) {
    let status = house.ended().await;
    assert!(status.success(), "{status}\n{}", house.log());
    assert!(house.is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_idle() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    house.until_logged("receiptd serves").await;
    stops(&mut house).await;
}

/// The walk goes on to its last page: within its grace it is no failed attempt.
#[tokio::test(flavor = "multi_thread")]
async fn between_the_pages_of_a_walk() {
    let rule = "readers=450,median=1ms,never=0,latency=300ms";
    let mut house = called_house(&[("RECEIPTD__WORKERS__SHUTDOWN_GRACE", "50s")], rule, 450).await;
    stops(&mut house).await;
    assert_eq!(
        house.sql("SELECT state, reader_count FROM messages"),
        ["complete|450"]
    );
    every_call_is_counted(&house);
}

/// Beyond its grace a call is given up: it was made and counts, and the row stays due as it was.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_call_that_outlasts_the_grace() {
    let settings = [
        ("RECEIPTD__WORKERS__SHUTDOWN_GRACE", "500ms"),
        ("RECEIPTD__ENDPOINT__REQUEST_TIMEOUT", "10m"),
    ];
    let mut house = called_house(&settings, "readers=1,latency=10m", 1).await;
    stops_and_leaves_the_row(&mut house).await;
}

/// A walk that waits for its next attempt has nothing to lose.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_backoff_of_a_walk() {
    let settings = [
        ("RECEIPTD__WORKERS__SHUTDOWN_GRACE", "10m"),
        ("RECEIPTD__RETRY__INITIAL_INTERVAL", "10m"),
        ("RECEIPTD__RETRY__MAX_INTERVAL", "10m"),
        ("RECEIPTD__RETRY__MAX_ELAPSED_TIME", "1h"),
    ];
    let mut house = called_house(&settings, "readers=1,code=system.error", 1).await;
    stops_and_leaves_the_row(&mut house).await;
}

/// What could not be written is polled again; the stop does not wait for whoever holds the lock.
#[tokio::test(flavor = "multi_thread")]
async fn while_another_process_holds_the_lock() {
    let rule = "readers=3,median=1ms,never=0,latency=1500ms";
    let mut house = called_house(&[], rule, 3).await;
    let mut neighbour = Neighbour::of(&house);
    neighbour.lock();
    house.until_logged("wait to be written").await;
    house.signal("TERM");
    let status = house.ended().await;
    // And the lock is held still.
    assert!(status.success(), "{status}\n{}", house.log());
    neighbour.run("COMMIT");
    assert_eq!(
        house.sql("SELECT state, reader_count, call_count FROM messages"),
        ["pending|0|0"]
    );
    house.start();
    house
        .until(
            "SELECT state, reader_count, call_count FROM messages",
            "complete|3|1",
        )
        .await;
}

/// The promised bound, `shutdown_grace` + 5 s, with results that cannot be written; and with a call under way that does not
/// end: the results were then given up with it, and that passed for a database that is no longer usable.
#[tokio::test(flavor = "multi_thread")]
async fn five_seconds_after_its_grace_whoever_holds_the_lock() {
    const GRACE: Duration = Duration::from_secs(1);
    const PROMISED: Duration = Duration::from_secs(5);
    // For a machine that has better things to do; less than the grace of a daemon that nobody told another.
    const SLACK: Duration = Duration::from_secs(8);
    let settings = [
        ("RECEIPTD__WORKERS__SHUTDOWN_GRACE", "1s"),
        ("RECEIPTD__ENDPOINT__REQUEST_TIMEOUT", "10m"),
    ];
    for latency in ["1ms", "10m"] {
        // A lane that was never answered sends one walk ahead.
        let mut house = called_house(&settings, "readers=1,median=1ms,never=0", 1).await;
        house.until("SELECT state FROM messages", "complete").await;
        let scripts = [("answered", "400ms"), ("other", latency)];
        for (key, latency) in scripts {
            let script = Script::parse(&format!("readers=1,latency={latency}")).unwrap();
            house.sandbox.publish(key, script);
        }
        house.sql("INSERT INTO messages (process_query_key, chat) VALUES ('answered', 'group'), ('other', 'group')");
        house
            .until_true("both are called", || house.sandbox.counts().queries >= 3)
            .await;
        let mut neighbour = Neighbour::of(&house);
        neighbour.lock();
        house.until_logged("wait to be written").await;
        house.signal("TERM");
        let told = Instant::now();
        let status = house.ended_within(GRACE + PROMISED + SLACK).await;
        let took = told.elapsed();
        println!("a grace of {GRACE:?}, a call of {latency}: the end after {took:?}");
        // And the lock is held still.
        assert!(status.success(), "{status}\n{}", house.log());
        assert!(house.log().contains("they are polled again"));
        neighbour.run("COMMIT");
        assert_eq!(
            house.sql("SELECT state FROM messages WHERE process_query_key <> 'k'"),
            ["pending", "pending"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_migration() {
    let mut house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start_with(&[("FAILPOINTS", "store.migrate=sleep(2000)")]);
    house.until_logged("bringing the schema to version").await;
    stops(&mut house).await;
    assert!(house.command("migrate").status().unwrap().success());
    assert_eq!(house.sql("SELECT count(*) FROM messages"), ["0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_by_a_second_signal() {
    let settings = [
        ("RECEIPTD__WORKERS__SHUTDOWN_GRACE", "10m"),
        ("RECEIPTD__ENDPOINT__REQUEST_TIMEOUT", "10m"),
    ];
    let mut house = called_house(&settings, "readers=1,latency=10m", 1).await;
    house.signal("TERM");
    house.until_logged("receiptd stops").await;
    assert!(house.is_running(), "{}", house.log());
    house.signal("INT");
    ends_well(&mut house).await;
    assert_eq!(house.sql("SELECT state FROM messages"), ["pending"]);
    every_call_is_counted(&house);
}

/// Many lives under load, each stopped at a random moment: no call is lost from the books, no reader twice in them.
#[tokio::test(flavor = "multi_thread")]
async fn many_times_under_load() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    for (variable, value) in [
        ("RECEIPTD__CADENCE__CALLS_PER_MESSAGE", "500"),
        ("RECEIPTD__CADENCE__MAX_INTERVAL", "300ms"),
        ("RECEIPTD__CADENCE__KEY_LIFETIME", "10m"),
        ("RECEIPTD__CADENCE__MAX_AGE", "20m"),
    ] {
        house.set(variable, value);
    }
    let rows: Vec<String> = (0..60)
        .map(|number| {
            format!(
                "('sb:readers=220,median=6s,sigma=0.4,never=0,latency=30ms;{number}', 'group', 220)"
            )
        })
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, chat, expected_readers) VALUES {}",
        rows.join(",")
    ));
    let mut luck = fastrand::Rng::with_seed(1);
    // A node calls a second after its predecessor at the earliest: half of its lives wait for that.
    let lives = if house.is_on_a_server() { 20 } else { 50 };
    for life in 0..lives {
        let queries = house.sandbox.counts().queries;
        house.start();
        // Signals are watched before the lock is taken.
        house.until_locked().await;
        if house.is_on_a_server() && life % 2 == 0 {
            let pending = "SELECT count(*) FROM messages WHERE state = 'pending'";
            house
                .until_true("it calls, where anything is left", || {
                    house.sandbox.counts().queries > queries || house.sql(pending) == ["0"]
                })
                .await;
        }
        tokio::time::sleep(Duration::from_millis(luck.u64(..150))).await;
        house.signal("TERM");
        let status = house.ended().await;
        assert!(status.success(), "{status}\n{}", house.log());
    }
    every_call_is_counted(&house);
    house.start();
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "60",
        )
        .await;
    stops(&mut house).await;
    assert_eq!(
        house.sql(
            "SELECT count(*), count(DISTINCT process_query_key || ' ' || user_id) FROM readers"
        ),
        ["13200|13200"]
    );
    every_call_is_counted(&house);
}
