//! The daemon and the simulator run the same code: the store's rows go through both, poll by poll.

use std::time::Duration;

use receiptd::cadence::{Basis, Habits, Policy, Rules};
use receiptd::receipt::{
    AccountName, Chat, ErrorCode, LaneId, Message, MessageId, Outcome, Schedule, SeenReader,
    SendStatus, State, UnixMs, UserId, WalkEnd, observe, settle,
};
use receiptd::settings::{SqliteFile, Synchronous};
use receiptd::store::sqlite::{Role, SqliteStore};
use receiptd::store::{
    Begun, Claims as _, Commands as _, DueQuery, HabitsRow, NewMessage, Placement, Results as _,
    Scope, Wanted, Writes,
};

use super::crowd::Crowd;
use super::sim::Learner;

const SEED: u64 = 20_261_124;
const TARGET: f64 = 9.0;
/// Messages of each crowd, one each [`GAP`].
const MESSAGES: u64 = 14;
const GAP: Duration = Duration::from_secs(2_221);
/// In the past of every insert: `sent_at` later than the insert counts as the insert.
const BEGIN: UnixMs = UnixMs(1_700_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

/// The daemon's way over a real store, in virtual time and one outcome a commit: the scheduler's queries and the
/// reconciler's commit, around what they share with the simulator.
struct Daemon {
    store: SqliteStore,
    rules: Rules,
    lane: LaneId,
    habits: Habits,
    policy: Policy,
    basis: Basis,
    /// For each message that was sent: the ages in milliseconds at which it is read.
    reads: Vec<Vec<i64>>,
    /// The row as each poll left it in the store.
    polled: Vec<Message>,
    /// From a read to the moment noted with its reader, in seconds.
    delays: Vec<f64>,
}

impl Daemon {
    async fn open(path: std::path::PathBuf, rules: &Rules) -> Self {
        let database = SqliteFile {
            path,
            synchronous: Synchronous::Normal,
        };
        let habits = Habits::prior(rules);
        Self {
            store: SqliteStore::open(&database, Role::Owner).await.unwrap(),
            rules: rules.clone(),
            lane: LaneId {
                account: AccountName::from("default"),
                corp: None,
            },
            policy: Policy::solve(&habits, rules, TARGET),
            habits,
            basis: Basis::prior(TARGET),
            reads: vec![],
            polled: vec![],
            delays: vec![],
        }
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            rules: self.rules.clone(),
            policy: self.policy.clone(),
            lifetime: self.habits.lifetime(&self.rules),
            last_chances_until: None,
        }
    }

    /// A crowd's messages from the first insert to the last final state.
    async fn serve(&mut self, crowd: &Crowd, from: UnixMs, random: &mut fastrand::Rng) {
        let mut sent = 0;
        loop {
            let arrival = from + GAP * u32::try_from(sent).unwrap();
            let due = self.store.lanes(Scope::All, &[]).await.unwrap();
            let due = due.first().and_then(|lane| lane.sound_at);
            if sent < MESSAGES && due.is_none_or(|due| arrival <= due) {
                self.reads.push(crowd.reads(random, arrival.0));
                self.add(crowd, arrival).await;
                sent += 1;
            } else if let Some(now) = due {
                self.poll(now).await;
            } else {
                break;
            }
        }
        self.solve();
    }

    async fn add(&self, crowd: &Crowd, now: UnixMs) {
        let number = self.reads.len() - 1;
        let message = NewMessage {
            expected_readers: crowd.known.then_some(crowd.readers),
            sent_at: Some(now),
            ..NewMessage::new(format!("key-{number}"), self.lane.account.clone())
        };
        assert_eq!(self.store.add(&[message]).await.unwrap(), 1);
        let arrived = self
            .store
            .new_rows(Scope::All, None, 10, 10)
            .await
            .unwrap()
            .rows;
        let places: Vec<_> = arrived
            .iter()
            .map(|row| Placement {
                message: self.schedule().place(row, now),
                waits_for: None,
                lease: None,
            })
            .collect();
        assert_eq!(places.len(), 1);
        self.store.place(&places).await.unwrap();
    }

    async fn poll(&mut self, now: UnixMs) {
        let query = DueQuery {
            lanes: std::slice::from_ref(&self.lane),
            wanted: Wanted::Sound,
            now,
            last_chances_until: now,
            without: &[],
            per_lane: 1,
        };
        let due = self.store.due(&query).await.unwrap();
        let row = &due[0];
        let outcome = self.walk(row, now);
        let begun = self.store.begin(std::slice::from_ref(&outcome)).await;
        let Begun::Open(transaction) = begun.unwrap() else {
            panic!("nothing was committed before");
        };
        let found = &transaction.found()[0];
        let (before, new_readers) = (found.row.clone().unwrap(), found.new_readers);
        let schedule = self.schedule();
        let after = settle(&before, &outcome, new_readers, found.recorded, &schedule);
        let writes = Writes {
            messages: vec![after.clone()],
            calls: vec![],
            ..Writes::default()
        };
        transaction.commit(&writes).await.unwrap();
        if let Some(seen) = observe(&before, &outcome, new_readers, &[], &after) {
            self.habits.forget_until(now.0, self.rules.memory);
            self.habits.learn(&seen);
            self.basis.add(u32::from(seen.begins.is_some()));
            if self.basis.is_stale(&self.habits, TARGET) {
                self.solve();
            }
        }
        // As it is in the file now.
        let (row, readers) = self.store.message(&row.key).await.unwrap().unwrap();
        if row.state.is_final() {
            for reader in readers {
                let number: usize = reader.user_id.as_str()[1..].parse().unwrap();
                let read_at = row.sent_at.0 + self.reads_of(&row)[number];
                self.delays
                    .push((reader.seen_at.0 - read_at) as f64 / 1_000.0);
            }
        }
        self.polled.push(row);
    }

    fn solve(&mut self) {
        self.policy = Policy::solve(&self.habits, &self.rules, TARGET);
        self.basis = Basis::of(&self.habits, TARGET);
    }

    /// What the endpoint answers: everybody who has read by `now`, whoever was seen before.
    fn walk(&self, row: &Message, now: UnixMs) -> Outcome {
        if now >= self.schedule().end_of_life(row) {
            return Outcome::without_call(row.claim(), now, WalkEnd::TooOld);
        }
        let age = now.0 - row.sent_at.0;
        let life = i64::try_from(self.rules.key_lifetime.as_millis()).unwrap();
        if age >= life {
            let code = ErrorCode::from("processQueryKey.expireTime");
            return Outcome {
                calls: 1,
                ..Outcome::without_call(row.claim(), now, WalkEnd::NotGeneratedOrExpired(code))
            };
        }
        let read = self.reads_of(row).iter().filter(|at| **at <= age).count();
        Outcome {
            calls: 1,
            readers: (0..read)
                .map(|reader| SeenReader {
                    user_id: UserId::from(format!("u{reader}")),
                    seen_at: now,
                    read_at: None,
                })
                .collect(),
            send_status: Some(SendStatus::Success),
            ..Outcome::without_call(row.claim(), now, WalkEnd::Complete)
        }
    }

    fn reads_of(&self, row: &Message) -> &[i64] {
        let number: usize = row.key.as_str()["key-".len()..].parse().unwrap();
        &self.reads[number]
    }
}

/// The number of a row is the store's own.
fn unnumbered(row: &Message) -> Message {
    Message {
        id: MessageId(0),
        ..row.clone()
    }
}

fn crowds() -> Vec<Crowd> {
    let single = Crowd::log_normal(5.0, 1.8, 0.15);
    let unknown = Crowd {
        known: false,
        ..Crowd::log_normal(30.0, 1.5, 0.30)
    };
    let group = Crowd {
        readers: 9,
        quiet: Some((14, 22)),
        ..Crowd::log_normal(5.0, 1.3, 0.05)
    };
    let unknown_group = Crowd {
        known: false,
        ..group.clone()
    };
    let weekends = Crowd {
        quiet: Some((14, 24)),
        weekends: true,
        ..Crowd::log_normal(5.0, 1.8, 0.05)
    };
    vec![single, unknown, group, unknown_group, weekends]
}

#[tokio::test]
async fn the_stores_rows_go_the_same_way_through_daemon_and_simulator() {
    let dir = tempfile::tempdir().unwrap();
    let rules = Rules::default();
    let mut daemon = Daemon::open(dir.path().join("receiptd.db"), &rules).await;
    let mut learner = Learner::new(&rules, TARGET);
    let mut simulated = vec![];
    let (mut calls, mut delays) = (0, vec![]);
    let randoms = || fastrand::Rng::with_seed(SEED);
    let (mut here, mut there) = (randoms(), randoms());
    for (crowd, days) in crowds().iter().zip([0, 10, 20, 30, 40]) {
        let from = BEGIN + DAY * days;
        daemon.serve(crowd, from, &mut here).await;
        let tally = learner.feed_watched(
            crowd,
            &rules,
            (MESSAGES, GAP),
            from,
            &mut there,
            &mut |row| simulated.push(row.clone()),
        );
        calls += tally.calls;
        delays.extend(tally.delays);
    }
    println!("seed {SEED}: {} polls, {calls} calls", simulated.len());
    // Poll by poll: the moment, the calls so far, the readers, the state, the next moment and all else that a row holds.
    for (number, (stored, simulated)) in daemon.polled.iter().zip(&simulated).enumerate() {
        assert_eq!(
            unnumbered(stored),
            unnumbered(simulated),
            "poll {number}, seed {SEED}"
        );
    }
    assert_eq!(daemon.polled.len(), simulated.len(), "seed {SEED}");
    let last = |state| {
        daemon
            .polled
            .iter()
            .filter(|row| row.state == state)
            .count()
    };
    assert!(last(State::Complete) > 0 && last(State::Expired) > 0);
    let finished = daemon.polled.iter().filter(|row| row.state.is_final());
    let spent: u64 = finished.map(|row| u64::from(row.call_count)).sum();
    assert_eq!(spent, calls, "seed {SEED}");
    daemon.delays.sort_by(f64::total_cmp);
    delays.sort_by(f64::total_cmp);
    assert!(delays.len() > 100, "{} reads", delays.len());
    assert_eq!(daemon.delays, delays, "seed {SEED}");
    let learned = learner.habits.to_json();
    assert_eq!(daemon.habits.to_json(), learned, "seed {SEED}");
    let row = HabitsRow {
        chat: Chat::Private,
        lane: daemon.lane.clone(),
        habits: learned.clone(),
        lease: None,
    };
    daemon.store.save_habits(&[row]).await.unwrap();
    let kept = daemon.store.all_habits().await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].habits, learned, "seed {SEED}");
    daemon.store.close().await;
}
