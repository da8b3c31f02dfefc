//! The main job: 300 messages through both doors, thousands of readers, recalls, expiries, and a `kill -9`.

use std::collections::{BTreeMap, BTreeSet};

use receiptd::sandbox::SandboxConfig;

use super::ROUNDING;
use super::harness::neighbour::Neighbour;
use super::harness::{DEFAULT_ACCOUNT, House};

/// Key, chat, expected readers.
fn messages() -> Vec<(String, &'static str, Option<u32>)> {
    (0..300)
        .map(|n| match n % 10 {
            0 => (
                format!("sb:readers=350,median=1s,sigma=0.5,expire=18s;group-{n}"),
                "group",
                None,
            ),
            1 => (
                format!("sb:readers=30,median=1s,sigma=0.5,never=0,expire=18s;expected-{n}"),
                "group",
                Some(30),
            ),
            2 => (
                format!("sb:readers=5,median=500ms,recall=2s,expire=18s;recalled-{n}"),
                "private",
                None,
            ),
            3 => (
                format!("sb:readers=1,generate=500ms,processing=1s,expire=18s;late-{n}"),
                "private",
                None,
            ),
            4 => (
                format!(
                    "sb:readers=1,median=300ms,sigma=0.5,never=0,expire=18s,code=system.error*2;trouble-{n}"
                ),
                "private",
                Some(1),
            ),
            5 => (format!("sb:generate=1h;never-{n}"), "private", None),
            _ => (
                format!("sb:readers=3,median=800ms,sigma=0.8,expire=18s;plain-{n}"),
                "private",
                None,
            ),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_once_and_every_final_state_right_through_a_kill() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // Long enough for the kill, the restart and, on a server, the end of the killed one's lease: a key that was not answered by
    // the end of its grace counts as never generated.
    house.set("RECEIPTD__CADENCE__GENERATION_GRACE", "9s");
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "17s");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "28s");
    house.start();
    let rows: Vec<String> = messages()
        .into_iter()
        .map(|(key, chat, expected)| {
            let expected = expected.map_or("NULL".to_owned(), |n| n.to_string());
            format!("('{key}', '{chat}', {expected})")
        })
        .collect();
    // Half of them at once, and half one by one.
    let (at_once, one_by_one) = rows.split_at(rows.len() / 2);
    let insert = |values: &str| {
        format!(
            "INSERT INTO messages (process_query_key, chat, expected_readers) VALUES {values} ON CONFLICT DO NOTHING"
        )
    };
    house.sql(&insert(&at_once.join(",")));
    let mut feeder = Neighbour::of(&house);
    for row in one_by_one {
        feeder.run(&insert(row));
    }

    // Kill it in the middle: some results are written, most are not.
    house.until("SELECT count(*) > 200 FROM readers", "1").await;
    house.kill();
    house.start();

    house.until("SELECT count(*) FROM messages", "300").await;
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;

    let mut recorded: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in house.sql("SELECT process_query_key, user_id FROM readers") {
        let (key, user) = row.rsplit_once('|').unwrap();
        assert!(
            recorded
                .entry(key.to_owned())
                .or_default()
                .insert(user.to_owned()),
            "{row} twice"
        );
    }
    let mut readers = 0;
    for row in house.sql("SELECT process_query_key, state, coalesce(send_status, ''), reader_count, coalesce(last_error, ''), finished_at FROM messages") {
        let cells: Vec<&str> = row.split('|').collect();
        let (key, state, status, count, error) = (cells[0], cells[1], cells[2], cells[3], cells[4]);
        assert!(cells[5].parse::<i64>().is_ok(), "{row}: no finished_at");
        let seen = recorded.get(key).cloned().unwrap_or_default();
        assert_eq!(count, seen.len().to_string(), "{row}");
        readers += seen.len();
        let truth = house.sandbox.truth(key).unwrap();
        let kind = key.split(';').nth(1).unwrap().split('-').next().unwrap();
        let wanted = match kind {
            "recalled" => ("recalled", "RECALLED"),
            "expected" | "trouble" => ("complete", "SUCCESS"),
            "never" => ("expired", ""),
            _ => ("expired", "SUCCESS"),
        };
        assert_eq!((state, status), wanted, "{row}\n{}", house.log());
        if kind == "never" {
            assert_eq!(error, "processQueryKey.neverGenerated", "{row}");
        }
        // Nobody is recorded who did not read; and all are who read before the last poll that was answered.
        let all: BTreeSet<String> = truth.readers.iter().map(|read| read.user_id.clone()).collect();
        assert!(seen.is_subset(&all), "{row}: {seen:?} of {all:?}");
        if matches!(kind, "expected" | "trouble") {
            assert_eq!(seen, all, "{row}");
        }
        let last_answer = house
            .sql(&format!("SELECT coalesce(last_complete_at, 0) FROM messages WHERE process_query_key = '{key}'"))[0]
            .parse::<i64>()
            .unwrap();
        for read in truth
            .knowable()
            .filter(|read| read.read_at.0 + ROUNDING < last_answer)
         {
            assert!(seen.contains(&read.user_id), "{row}: {read:?} is missing");
        }
    }
    assert!(readers > 3_000, "{readers} readers");
    let violations = house.sandbox.violations();
    assert!(violations.is_empty(), "{violations:?}");

    // No call after a final state: what is final now stays uncalled while a new message is served.
    let last = house
        .sandbox
        .calls_after(0)
        .iter()
        .map(|call| call.seq)
        .max()
        .unwrap();
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;after', 1)");
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%;after'",
            "complete",
        )
        .await;
    for call in house.sandbox.calls_after(last) {
        assert!(
            call.key.is_empty() || call.key.ends_with(";after"),
            "{call:?}"
        );
    }
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
}
