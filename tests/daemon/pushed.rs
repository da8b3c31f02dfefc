//! Reads that DingTalk pushed to another service, which inserts them by SQL.

use futures_util::future::join_all;
use receiptd::sandbox::SandboxConfig;

use super::harness::neighbour::Neighbour;
use super::harness::{DEFAULT_ACCOUNT, House};

/// Another service hears of these reads one by one, each `times` times.
fn push(house: &House, events: &[(String, String, i64)], times: u32) {
    let mut service = Neighbour::of(house);
    for (key, user, read_at) in events {
        for _ in 0..times {
            service.run(&format!(
                "INSERT INTO read_events (process_query_key, user_id, read_at) VALUES ('{key}', '{user}', {read_at})"
            ));
        }
    }
}

const SENT: i64 = 1_780_000_000_000;

/// Thirty messages that nobody reads as far as a poll can see, and the events of all their readers.
fn thirty(house: &House) -> Vec<(String, String, i64)> {
    let mut events = Vec::new();
    for number in 0..30_i64 {
        let readers = 1 + number % 5;
        let key = format!("sb:readers={readers},median=9h,never=1;{number}");
        house.sql(&format!(
            "INSERT INTO messages (process_query_key, chat, expected_readers) VALUES ('{key}', '{}', {readers})",
            ["private", "group", "oto"][usize::try_from(number % 3).unwrap()]
        ));
        for reader in 0..readers {
            events.push((
                key.clone(),
                format!("u{reader}"),
                SENT + 1_000 * number + reader,
            ));
        }
    }
    events
}

/// Slow enough that each message is polled once at most while its events come.
async fn house() -> House {
    let account = format!("{DEFAULT_ACCOUNT}robot_code = \"ding1\"\n");
    let mut house = House::new(SandboxConfig::default(), &account).await;
    for (variable, value) in [
        ("RECEIPTD__CADENCE__CALLS_PER_MESSAGE", "2"),
        ("RECEIPTD__CADENCE__KEY_LIFETIME", "24h"),
        ("RECEIPTD__CADENCE__LAST_CHANCE", "5m"),
        ("RECEIPTD__CADENCE__MAX_INTERVAL", "24h"),
        ("RECEIPTD__CADENCE__MAX_AGE", "7d"),
    ] {
        house.set(variable, value);
    }
    house
}

/// Every message is complete by events, each reader once and with his time, and no event is left.
async fn all_taken(house: &House, events: &[(String, String, i64)]) {
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "30",
        )
        .await;
    house.until("SELECT count(*) FROM read_events", "0").await;
    let mut wanted: Vec<String> = events
        .iter()
        .map(|(key, user, _)| format!("{key}|{user}|1"))
        .collect();
    wanted.sort_unstable();
    let mut got = house.sql("SELECT process_query_key, user_id, from_event FROM readers");
    got.sort_unstable();
    assert_eq!(got, wanted);
    assert_eq!(
        house.sql(
            "SELECT count(*) FROM messages AS m WHERE reader_count <>
                (SELECT count(*) FROM readers AS r WHERE r.process_query_key = m.process_query_key)"
        ),
        ["0"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_messages_are_complete_by_what_was_pushed_alone() {
    let mut house = house().await;
    house.start();
    let events = thirty(&house);
    // Half of them come when their message is polled already, or waits for its first poll; half before it is there at all.
    let (known, early) = events.split_at(events.len() / 2);
    push(&house, known, 2);
    let unknown: Vec<_> = early
        .iter()
        .map(|(key, user, at)| (format!("later-{key}"), user.clone(), *at))
        .collect();
    push(&house, &unknown, 2);
    let waiting = format!(
        "SELECT count(*) = {} FROM read_events WHERE waits_since IS NOT NULL",
        2 * unknown.len()
    );
    house.until(&waiting, "1").await;
    house.sql(
        "UPDATE messages SET process_query_key = 'later-' || process_query_key
         WHERE process_query_key NOT IN (SELECT process_query_key FROM readers)",
    );
    let rename = |key: &str| {
        let later = format!("later-{key}");
        let there = format!("SELECT count(*) FROM messages WHERE process_query_key = '{later}'");
        if house.sql(&there) == ["1"] {
            later
        } else {
            key.to_owned()
        }
    };
    // One message may have got a part of its readers before it was given its other key: its other part is told again.
    let renamed: Vec<_> = events
        .iter()
        .map(|(key, user, at)| (rename(key), user.clone(), *at))
        .collect();
    push(&house, &renamed, 1);
    all_taken(&house, &renamed).await;
    let calls: u32 = house.sql("SELECT sum(call_count) FROM messages")[0]
        .parse()
        .unwrap();
    assert!(calls <= 30, "{calls} calls: more than a first poll each");
    let status = house.command("status").arg(&renamed[0].0).output().unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("by an event"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_the_insert_and_the_take_over_loses_and_doubles_nothing() {
    let points = ["store.commit.before", "store.commit.after"];
    join_all(points.map(|point| async move {
        let mut house = house().await;
        let events = thirty(&house);
        push(&house, &events, 2);
        // It dies in each of its first commits, of events and of polls.
        for nth in 0..3 {
            let points = format!("{point}={nth}*off->1*return");
            house.start_with(&[("FAILPOINTS", &points)]);
            let since = std::time::Instant::now();
            while house.is_running() && since.elapsed() < std::time::Duration::from_secs(10) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            // Where nothing was left to commit it waits for ever.
            house.kill();
        }
        house.start();
        all_taken(&house, &events).await;
        house.signal("TERM");
        assert!(house.ended().await.success(), "{}", house.log());
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_at_once_starve_no_poll_and_no_feeder() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    house.until_logged("receiptd serves").await;
    house.sql("INSERT INTO messages (process_query_key) SELECT 'sb:never=1;group-' || value FROM generate_series(1, 50) AS value");
    let flood = "INSERT INTO read_events (process_query_key, user_id)
        SELECT 'sb:never=1;group-' || (1 + value % 60), 'user-' || (value / 60) FROM generate_series(0, 9999) AS value";
    for _ in 0..3 {
        house.sql(flood);
    }
    // While they are taken over, new messages are fed, polled and read as ever.
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers)
         SELECT 'sb:readers=2,median=100ms,never=0;quick-' || value, 2 FROM generate_series(1, 20) AS value",
    );
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "20",
        )
        .await;
    // What nobody knows waits; of the rest each reader is there once.
    house
        .until(
            "SELECT count(*), count(*) - count(waits_since) FROM read_events",
            "4980|0",
        )
        .await;
    assert_eq!(
        house.sql("SELECT count(*), count(DISTINCT process_query_key || user_id) FROM readers WHERE from_event = 1"),
        ["8340|8340"]
    );
    assert_eq!(
        house.sql("SELECT sum(reader_count) FROM messages WHERE process_query_key LIKE '%group-%'"),
        ["8340"]
    );
}
