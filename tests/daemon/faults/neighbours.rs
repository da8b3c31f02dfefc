//! Other processes that hold the database, spoil rows, or change them while they are polled.

use std::time::Duration;

use receiptd::sandbox::{SandboxConfig, Script};

use super::harness::neighbour::Neighbour;
use super::harness::{DEFAULT_ACCOUNT, House, signal};
use super::ledger::every_call_is_counted;

/// Every call of these takes a while, so that answers arrive while somebody holds the database.
pub(crate) const SLOW: &str = "readers=2,median=1ms,never=0,latency=400ms";

/// A house with a daemon and `number` messages of which some are being asked for.
async fn busy_house(number: usize) -> House {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "10m");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "20m");
    house.start();
    insert(&house, SLOW, number);
    // In flight, and not yet answered.
    called(&house, 1).await;
    house
}

pub(crate) fn insert(house: &House, rule: &str, number: usize) {
    let rows: Vec<String> = (0..number)
        .map(|number| format!("('sb:{rule};{number}', 2)"))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES {}",
        rows.join(",")
    ));
}

pub(crate) async fn called(house: &House, times: usize) {
    house
        .until_true("the endpoint is called", || {
            house.sandbox.counts().queries >= u64::try_from(times).unwrap()
        })
        .await;
}

/// Everything complete, every reader there, and every call counted that was made.
pub(crate) async fn all_is_well(house: &mut House, number: usize) {
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            &number.to_string(),
        )
        .await;
    assert_eq!(
        house.sql("SELECT count(*) FROM readers"),
        [(number * 2).to_string()]
    );
    every_call_is_counted(house);
    assert!(house.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_write_lock_costs_time_and_nothing_else() {
    let mut spans = vec![1, 10];
    if std::env::var_os("FAULTS_LONG").is_some() {
        spans.push(60);
    } else {
        println!("SKIPPED: a lock held for 60 s; FAULTS_LONG=1 has it");
    }
    for seconds in spans {
        let mut house = busy_house(20).await;
        let mut neighbour = Neighbour::of(&house);
        neighbour.lock();
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        assert!(house.is_running(), "{}", house.log());
        neighbour.run("COMMIT");
        all_is_well(&mut house, 20).await;
        let warnings = house.log().matches("wait to be written").count();
        assert!(
            warnings <= 1 + usize::try_from(seconds).unwrap() / 60,
            "{}",
            house.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_holder_that_is_stopped_or_killed_is_outlived() {
    for end in ["CONT", "KILL"] {
        let mut house = busy_house(20).await;
        let mut neighbour = Neighbour::of(&house);
        neighbour.lock();
        signal(neighbour.pid(), "STOP");
        house.until_logged("wait to be written").await;
        signal(neighbour.pid(), end);
        if end == "CONT" {
            neighbour.run("COMMIT");
        }
        all_is_well(&mut house, 20).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_changed_while_they_are_polled_keep_their_owners_word() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    // A lane that was never answered sends one walk ahead: that is behind us when the six are called at once.
    insert(&house, "readers=2,median=1ms,never=0", 1);
    house.until("SELECT state FROM messages", "complete").await;
    house.sql("DELETE FROM messages; DELETE FROM readers");
    let before = usize::try_from(house.sandbox.counts().queries).unwrap();
    let names = [
        "cancelled",
        "deleted",
        "postponed",
        "renamed",
        "moved",
        "left",
    ];
    for name in names {
        // Of another number than the key has that it is given, so that neither's readers pass for the other's.
        let readers = if name == "renamed" { 3 } else { 2 };
        let script = format!("readers={readers},median=1ms,never=0,latency=1500ms");
        house.sandbox.publish(name, Script::parse(&script).unwrap());
    }
    let rows = names.map(|name| format!("('{name}', 2)")).join(",");
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES {rows}"
    ));
    let afterwards = Script::parse("readers=2,median=1ms,never=0").unwrap();
    house.sandbox.publish("renamed-to", afterwards);
    called(&house, before + 6).await;
    let later = house.sandbox.now().0 + 3_600_000;
    house.sql(&format!(
        "UPDATE messages SET state = 'cancelled' WHERE process_query_key = 'cancelled';
         DELETE FROM messages WHERE process_query_key = 'deleted';
         UPDATE messages SET next_poll_at = {later} WHERE process_query_key = 'postponed';
         UPDATE messages SET process_query_key = 'renamed-to' WHERE process_query_key = 'renamed';
         UPDATE messages SET account = 'nobody' WHERE process_query_key = 'moved';"
    ));
    house
        .until(
            "SELECT process_query_key, state, reader_count, call_count FROM messages
             WHERE process_query_key IN ('cancelled', 'left', 'postponed', 'renamed-to') ORDER BY 1",
            "cancelled|cancelled|2|1\nleft|complete|2|1\npostponed|pending|2|1\nrenamed-to|complete|2|1",
        )
        .await;
    assert_eq!(
        house.sql("SELECT next_poll_at FROM messages WHERE process_query_key = 'postponed'"),
        [later.to_string()]
    );
    assert_eq!(
        house.sql(
            "SELECT process_query_key, count(*) FROM readers GROUP BY 1 HAVING process_query_key <> 'moved' ORDER BY 1"
        ),
        ["cancelled|2", "left|2", "postponed|2", "renamed-to|2"]
    );
    assert!(house.is_running());
}

/// Whatever a neighbour does to rows in flight: the daemon serves on, and its books agree with themselves.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_changes_rows_at_random_confuses_nobody() {
    let seed = std::env::var("FAULTS_SEED")
        .map_or(1, |seed| seed.parse().unwrap_or_else(|_| fastrand::u64(..)));
    println!("seed {seed}");
    let mut luck = fastrand::Rng::with_seed(seed);
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    let mut neighbour = Neighbour::of(&house);
    insert(
        &house,
        "readers=4,median=1s,sigma=1,latency=20ms,expire=6s",
        120,
    );
    for _ in 0..400 {
        let number = luck.u32(..120);
        let soon = house.sandbox.now().0 + luck.i64(-1000..3000);
        let change = match luck.u32(..8) {
            0 => "SET state = 'cancelled'".to_owned(),
            1 => "SET state = 'pending', finished_at = NULL".to_owned(),
            2 | 3 => format!("SET next_poll_at = {soon}"),
            4 => format!("SET expected_readers = {}", luck.u32(1..6)),
            5 => "SET chat = CASE chat WHEN 'group' THEN 'private' ELSE 'group' END".to_owned(),
            6 => "SET account = CASE account WHEN 'default' THEN 'nobody' ELSE 'default' END"
                .to_owned(),
            _ => {
                neighbour.run(&format!(
                    "DELETE FROM messages WHERE process_query_key LIKE '%;{number}'"
                ));
                continue;
            }
        };
        neighbour.run(&format!(
            "UPDATE messages {change} WHERE process_query_key LIKE '%;{number}'"
        ));
    }
    neighbour.run("UPDATE messages SET account = 'default'");
    insert(&house, "readers=2,median=1ms,never=0", 30);
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;
    assert_eq!(
        house.sql(
            "SELECT process_query_key FROM messages AS m WHERE reader_count <>
             (SELECT count(*) FROM readers AS r WHERE r.process_query_key = m.process_query_key)"
        ),
        Vec::<String>::new()
    );
    assert!(house.is_sound());
    let log = house.log();
    assert!(house.is_running() && !log.contains("panicked"), "{log}");
}

/// A refused walk kept its place among the calls under way while it waited for its lane's turn, and whoever had the
/// turn waited for that place: with as many refusals at once as places, nobody ever called again.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_die_under_every_call_at_once_stop_nobody() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__WORKERS__CONCURRENCY", "1");
    house.start();
    insert(
        &house,
        "readers=2,median=1ms,never=0,latency=50ms,dead-token*1",
        8,
    );
    all_is_well(&mut house, 8).await;
}
