//! `kill -9`, again and again, under an endpoint that misbehaves and with feeders at work.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use receiptd::sandbox::{SandboxConfig, Script};

use super::feeder::Feeder;
use super::harness::{DEFAULT_ACCOUNT, House};
use super::ledger::Ledger;
use super::scenario::{Death, Life, Scenario};
use super::{A_ROUND, KILLS, verdict};

/// A daemon that has not come by its point by then is killed where it is.
const LONGEST_LIFE: Duration = Duration::from_secs(2);

/// What a run of rounds was.
#[derive(Default)]
struct Figures {
    kills: usize,
    at_points: BTreeMap<&'static str, usize>,
    messages: usize,
    readers: usize,
    queries: u64,
    faults: u64,
    cut: usize,
    seeds: Vec<u64>,
}

/// How many kills and which seeds: `FAULTS_KILLS=1000 FAULTS_SEED=random`, or a seed to repeat.
fn rounds() -> Vec<(u64, usize)> {
    let said = |name| std::env::var(name).ok();
    let kills: usize = said("FAULTS_KILLS").map_or(KILLS, |number| number.parse().unwrap());
    let first: u64 = match said("FAULTS_SEED").as_deref() {
        None => 1,
        Some("random") => fastrand::u64(1..u64::MAX / 2),
        Some(seed) => seed.parse().unwrap(),
    };
    // Two rounds at the least: one that is watched and one that is not.
    let a_round = A_ROUND.min(kills.div_ceil(2)).max(1);
    (0..kills.div_ceil(a_round))
        .map(|number| {
            let left = kills - number * a_round;
            (first + u64::try_from(number).unwrap(), left.min(a_round))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_through_kills_and_faults() {
    let mut figures = Figures::default();
    let mut rounds = rounds().into_iter();
    // Two at a time, as there are cores: a round mostly waits.
    while let Some((seed, kills)) = rounds.next() {
        let first = round(seed, kills);
        match rounds.next() {
            Some((seed, kills)) => {
                let (first, second) = tokio::join!(first, round(seed, kills));
                figures.add(first);
                figures.add(second);
            }
            None => figures.add(first.await),
        }
        println!("{figures}");
    }
}

async fn round(seed: u64, kills: usize) -> Figures {
    println!("seed {seed}: {kills} kills");
    let scenario = Scenario::new(seed, kills);
    let config = SandboxConfig {
        seed,
        faults: Some(scenario.faults.clone()),
        log_capacity: usize::MAX,
        ..SandboxConfig::default()
    };
    let account = format!("{DEFAULT_ACCOUNT}robot_code = \"ding1\"\n");
    let mut house = House::new(config, &account).await;
    // Keys outlive the kills; those that nothing ends but their readers live on.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "12s");
    house.set("RECEIPTD__CADENCE__LAST_CHANCE", "1s");
    house.set("RECEIPTD__CADENCE__MAX_INTERVAL", "2s");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "30m");
    // Nor does one end since its share of failing calls is spent: an outage at its last chance can take 17 of them.
    house.set("RECEIPTD__CADENCE__CALLS_PER_MESSAGE", "40");
    let mut ledger = Ledger::default();
    let mut figures = Figures::default();
    let mut acknowledged = Vec::new();
    let mut feeders = Vec::new();
    let mut unfed = scenario.messages.iter();
    for (number, life) in scenario.lives.iter().enumerate() {
        house.start_with(&[("FAILPOINTS", &points(life))]);
        if feeders.is_empty() {
            feeders = [false, true]
                .map(|careless| Feeder::new(&house, careless))
                .into();
        }
        for message in unfed.by_ref().take(life.fed) {
            let script = Script::parse(&message.rule).unwrap();
            house.sandbox.publish(&message.key, script);
            let feeder = message.key.len() % feeders.len();
            feeders[feeder].feed(message);
        }
        let status = die(&mut house, life).await;
        ledger.kills.push(house.sandbox.now().0);
        if status.signal() == Some(6)
            && let Death::At { point, .. } = life.death
        {
            *figures.at_points.entry(point).or_default() += 1;
        }
        if scenario.watched {
            let context = format!("seed {seed}, kill {number}: {:?}", life.death);
            ledger.audit(&house, &context).await;
            ledger.tail(&house);
        } else {
            acknowledged.extend(feeders.drain(..).flat_map(Feeder::finish));
        }
    }
    house.start();
    acknowledged.extend(feeders.drain(..).flat_map(Feeder::finish));
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
    ledger.hear(&house);
    ledger.tail(&house);
    figures.readers = verdict::pass(&house, &scenario, &ledger, &acknowledged);
    let counts = house.sandbox.counts();
    figures.kills = ledger.kills.len();
    figures.messages = scenario.messages.len();
    (figures.queries, figures.faults) = (counts.queries, counts.faults);
    figures.cut = ledger.cut.values().sum();
    figures.seeds.push(seed);
    nothing_final_is_called(&mut house, seed).await;
    figures
}

/// Says what stands in `$FAILPOINTS` in this life.
fn points(life: &Life) -> String {
    let mut points = String::new();
    if life.dawdles {
        points.push_str("store.commit.before=30%sleep(40);store.commit.after=30%sleep(40);");
    }
    if let Death::At { point, nth } = life.death {
        // The last word on a point holds.
        write!(points, "{point}={nth}*off->return").unwrap();
    }
    points
}

/// Lets a life end as it is laid down; never by itself.
async fn die(house: &mut House, life: &Life) -> ExitStatus {
    if house.is_on_a_server() {
        // Its predecessor's lease comes to its end first.
        house.until_locked().await;
    }
    let started = Instant::now();
    match life.death {
        Death::After(time) => tokio::time::sleep(time).await,
        Death::At { .. } => {
            while house.is_running() && started.elapsed() < LONGEST_LIFE {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }
    let status = house.kill();
    let by_point = matches!(life.death, Death::At { .. }) && status.signal() == Some(6);
    assert!(
        by_point || status.signal() == Some(9),
        "the daemon ended by itself: {status}\n{}",
        house.log()
    );
    status
}

/// What is final stays uncalled by a new daemon that serves a new message.
async fn nothing_final_is_called(house: &mut House, seed: u64) {
    let calls = house.sandbox.calls_after(0);
    let last = calls.iter().map(|call| call.seq).max().unwrap();
    house.start();
    let after = "sb:readers=1,median=1ms,never=0;after";
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('{after}', 1)"
    ));
    house
        .until(
            &format!("SELECT state FROM messages WHERE process_query_key = '{after}'"),
            "complete",
        )
        .await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
    for call in house.sandbox.calls_after(last) {
        assert!(
            call.key.is_empty() || call.key == after,
            "seed {seed}: {call:?}"
        );
    }
}

impl Figures {
    fn add(&mut self, more: Self) {
        self.kills += more.kills;
        for (point, times) in more.at_points {
            *self.at_points.entry(point).or_default() += times;
        }
        self.messages += more.messages;
        self.readers += more.readers;
        self.queries += more.queries;
        self.faults += more.faults;
        self.cut += more.cut;
        self.seeds.extend(more.seeds);
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} kills ({:?} at their points) in {} rounds: {} messages, {} readers, {} calls of which {} met a fault; \
             nothing lost, nothing doubled; {} calls cut off before they were counted; seeds {:?}",
            self.kills,
            self.at_points,
            self.seeds.len(),
            self.messages,
            self.readers,
            self.queries,
            self.faults,
            self.cut,
            self.seeds
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_was_killed_begins_again() {
    let mut house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start_with(&[("FAILPOINTS", "store.migrate=return")]);
    assert_eq!(house.ended().await.signal(), Some(6), "{}", house.log());
    assert_eq!(house.tables(), Vec::<String>::new());
    house.start();
    house
        .until_true("there are tables", || {
            house.tables().contains(&"messages".to_owned())
        })
        .await;
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;k', 1)");
    house.until("SELECT state FROM messages", "complete").await;
    assert!(house.is_sound());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_was_killed_is_finished_by_the_next() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=3,median=1ms,never=0;k', 3)");
    house.until("SELECT state FROM messages", "complete").await;
    let prune = |points| {
        let mut command = house.command("prune");
        command
            .args(["--older-than", "0s", "--yes"])
            .env("FAILPOINTS", points);
        command.output().unwrap().status
    };
    let rows = "SELECT (SELECT count(*) FROM messages), (SELECT count(*) FROM readers)";
    assert_eq!(prune("store.prune=return").signal(), Some(6));
    // One transaction in a file; on a server the readers follow in steps, which the next one goes on with.
    let left = if house.is_on_a_server() { "0|3" } else { "1|3" };
    assert_eq!(house.sql(rows), [left]);
    assert!(prune("").success());
    assert_eq!(house.sql(rows), ["0|0"]);
    assert!(house.is_sound());
}

/// The tests' own dependency switches the points on; a build for others must not know them.
#[test]
fn what_cargo_build_makes_has_no_points_of_failure() {
    let features = |edges| {
        let output = Command::new(env!("CARGO"))
            .args([
                "tree",
                "--offline",
                "--locked",
                "--invert",
                "fail",
                "--edges",
                edges,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(features("features").contains("\"failpoints\""));
    assert!(!features("features,no-dev").contains("failpoints"));
}
