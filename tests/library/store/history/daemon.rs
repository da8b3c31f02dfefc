//! Does what a history says, as the daemon's three rooms would, and has every step judged.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::sync::LazyLock;
use std::time::Duration;

use proptest_state_machine::StateMachineTest;
use receiptd::cadence::Rules;
use receiptd::receipt::{
    Chat, ErrorCode, EventId, Message, MessageId, MessageKey, Outcome, Schedule, SeenReader,
    SendStatus, UnixMs, UserId, WalkEnd,
};
use receiptd::store::{
    CallCount, DueQuery, EventWrites, Found, NewMessage, Placement, Scope, Selection, Unplace,
    Wanted, Writes,
};
use receiptd::store::{Claims as _, Commands as _, Results as _, Upkeep as _};

use super::super::{Backend, decided, lane, new_rows, polled, pruned, try_commit};
use super::rules::{self, Calls, Tables};
use super::steps::{ACCOUNTS, Drop, End, KEYS, Meanwhile, Step, USERS, Walk, World};

/// Polls from any moment on to a message's end. The default cadence plans some 40 for one that nobody reads and 15 more
/// while its dead key still answers; a clock set back by days costs as many again, and never hundreds.
const MOST_POLLS: usize = 150;

static SCHEDULE: LazyLock<Schedule> = LazyLock::new(|| Schedule::prior(&Rules::default()));

/// What a row waits for that no lane serves.
pub(super) const UNKNOWN: &str = "account.unknown";

/// A history on one backend.
pub(super) struct History<B>(PhantomData<B>);

/// The daemon, and the tables as its last step left them.
pub(super) struct Daemon<B: Backend> {
    runtime: tokio::runtime::Runtime,
    /// `None` only while a crash is under way.
    backend: Option<B>,
    /// The claims that are out.
    in_flight: BTreeMap<MessageId, Message>,
    tables: Tables,
    /// Calls that were made, as far as their results were committed.
    calls: Calls,
}

impl<B: Backend + 'static> StateMachineTest for History<B> {
    type SystemUnderTest = Daemon<B>;
    type Reference = World;

    fn init_test(_: &World) -> Daemon<B> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let backend = runtime.block_on(B::fresh());
        Daemon {
            runtime,
            backend: Some(backend),
            in_flight: BTreeMap::new(),
            tables: Tables::default(),
            calls: Calls::new(),
        }
    }

    fn apply(mut daemon: Daemon<B>, world: &World, step: Step) -> Daemon<B> {
        daemon.take(world, step);
        daemon
    }

    fn check_invariants(daemon: &Daemon<B>, _: &World) {
        rules::always(&daemon.tables, &daemon.calls);
    }

    /// After finite faults and enough time every key is final.
    fn teardown(mut daemon: Daemon<B>, mut world: World) {
        daemon.drive_to_the_end(&mut world);
    }
}

impl<B: Backend> Daemon<B> {
    fn backend(&self) -> &B {
        self.backend.as_ref().unwrap()
    }

    fn store(&self) -> &B::Store {
        self.backend().store()
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn ids(&self) -> Vec<MessageId> {
        self.in_flight.keys().copied().collect()
    }

    /// The tables as they are now; `before` is what they were.
    fn look(&mut self) -> Tables {
        let months: Vec<String> = self.calls.keys().map(|(_, month)| month.clone()).collect();
        let after = self.wait(async {
            let mut tables = Tables::default();
            for key in KEYS {
                let found = self.store().message(&MessageKey::from(key)).await.unwrap();
                tables
                    .rows
                    .extend(found.map(|(row, _)| (key.to_owned(), row)));
            }
            tables.readers = self.backend().readers().await;
            tables.pushed = self.backend().pushed().await;
            for month in months {
                for count in self.store().calls_in(&month).await.unwrap() {
                    let lane = (count.lane, count.month);
                    tables.calls.insert(lane, (count.calls, count.throttled));
                }
            }
            tables
        });
        rules::completed(&self.tables, &after);
        std::mem::replace(&mut self.tables, after)
    }

    fn is_pending(&self, key: &str) -> bool {
        let row = self.tables.rows.get(key);
        row.is_some_and(|row| !row.state.is_final())
    }

    fn take(&mut self, world: &World, step: Step) {
        let now = world.now;
        match step {
            Step::Read { .. } | Step::Pass(_) => {}
            Step::SetBack(_) => {
                let latest = now + SCHEDULE.rules.max_interval;
                let pulled = self.wait(self.store().pull_forward(latest, 100)).unwrap();
                let before = self.look();
                rules::pulled(&before, &self.tables, latest, pulled);
            }
            Step::Insert {
                key,
                chat,
                account,
                expected_readers,
                sent_before,
                not_before,
            } => {
                let new = NewMessage {
                    key: key.into(),
                    account: account.into(),
                    corp: None,
                    robot_code: None,
                    conversation: None,
                    chat,
                    expected_readers,
                    sent_at: Some(now - sent_before),
                    next_poll_at: not_before.map(|by| now + by),
                };
                let added = self.wait(self.store().add(std::slice::from_ref(&new)));
                let before = self.look();
                rules::inserted(&before, &self.tables, &new, added.unwrap());
            }
            Step::Place { limit, some_wait } => self.place(limit, some_wait, now),
            Step::Claim {
                account,
                failing,
                limit,
            } => {
                let ids = self.ids();
                let due = self.due(account, failing, now, limit);
                let before = self.look();
                rules::claimed(&before, &due, account, failing, now, &ids, limit);
                rules::unchanged(&before, &self.tables);
                self.in_flight
                    .extend(due.into_iter().map(|row| (row.id, row)));
            }
            Step::Commit {
                walks,
                meanwhile,
                drop,
            } => {
                let outcomes = self.walked(world, &walks);
                if let Some(first) = outcomes.first() {
                    if let Some(meanwhile) = meanwhile {
                        self.interfere(world, &first.claim.key, meanwhile);
                    }
                    self.commit(&outcomes, &Pushed::default(), drop);
                }
            }
            Step::Push {
                key,
                user,
                read_before,
                times,
            } => {
                let read_at = read_before.map(|seconds| UnixMs(now.0 - seconds * 1000));
                for _ in 0..times {
                    self.wait(self.backend().push(key, user, read_at));
                }
                let before = self.look();
                rules::pushed(&before, &self.tables, key, user, times);
            }
            Step::TakePushed {
                limit,
                meanwhile,
                drop,
            } => {
                let (outcomes, events) = self.pushed(now, limit);
                if let (Some(first), Some(meanwhile)) = (outcomes.first(), meanwhile) {
                    self.interfere(world, &first.claim.key, meanwhile);
                }
                self.commit(&outcomes, &events, drop);
            }
            Step::Crash => {
                self.crash();
                let before = self.look();
                rules::unchanged(&before, &self.tables);
            }
            Step::Cancel { key } if self.is_pending(key) => {
                self.wait(self.backend().cancel(key));
                let before = self.look();
                rules::cancelled(&before, &self.tables, key);
            }
            Step::Delete { key } if self.tables.rows.contains_key(key) => {
                self.wait(self.backend().delete(key));
                let before = self.look();
                rules::deleted(&before, &self.tables, key);
            }
            Step::Reschedule { key, seconds } if self.is_pending(key) => {
                let at = UnixMs(now.0 + seconds * 1000);
                self.wait(self.backend().reschedule(key, at));
                let before = self.look();
                rules::rescheduled(&before, &self.tables, key, at);
            }
            Step::Rename { key, to }
                if self.tables.rows.contains_key(key) && !self.tables.rows.contains_key(to) =>
            {
                self.wait(self.backend().rename(key, to));
                let before = self.look();
                rules::renamed(&before, &self.tables, key, to);
            }
            Step::GiveTo { key, account } if self.is_pending(key) => {
                self.wait(self.backend().give_to(key, account));
                let before = self.look();
                rules::given(&before, &self.tables, key, account);
            }
            Step::Cancel { .. }
            | Step::Delete { .. }
            | Step::Rename { .. }
            | Step::GiveTo { .. }
            | Step::Reschedule { .. } => {}
            Step::RetryKey { key } => self.retry(&Selection::Keys(vec![key.into()]), now, 9),
            Step::RetryState { state, limit } => {
                self.retry(&Selection::InState(state, None), now, limit);
            }
            Step::Unplace {
                account,
                waiting,
                limit,
            } => {
                let which = if waiting {
                    Unplace::Waiting(account.into())
                } else {
                    Unplace::Lanes(vec![lane(account)])
                };
                let ids = self.ids();
                let unplaced = self.wait(self.store().unplace(&which, &ids, limit));
                let before = self.look();
                let unplaced = unplaced.unwrap();
                rules::unplaced(
                    &before,
                    &self.tables,
                    account,
                    waiting,
                    &ids,
                    limit,
                    unplaced,
                );
            }
            Step::Prune { older_than } => {
                let limits = now - older_than;
                let pruned = self.wait(pruned(self.store(), limits, None));
                let before = self.look();
                rules::pruned(&before, &self.tables, limits, &pruned);
            }
            Step::RemoveReader { key, user } => {
                self.wait(self.backend().remove_reader(key, user));
                let before = self.look();
                rules::reader_removed(&before, &self.tables, key, user);
            }
        }
    }

    fn interfere(&mut self, world: &World, key: &MessageKey, meanwhile: Meanwhile) {
        let Some(key) = KEYS.into_iter().find(|known| *known == key.as_str()) else {
            return;
        };
        match meanwhile {
            Meanwhile::Cancels => self.take(world, Step::Cancel { key }),
            Meanwhile::Deletes => self.take(world, Step::Delete { key }),
            Meanwhile::Renames(to) => self.take(world, Step::Rename { key, to }),
            Meanwhile::Reschedules(seconds) => {
                self.take(world, Step::Reschedule { key, seconds });
            }
            Meanwhile::GivesTo(account) => self.take(world, Step::GiveTo { key, account }),
            Meanwhile::Retries => {
                self.take(world, Step::Cancel { key });
                self.take(world, Step::RetryKey { key });
            }
        }
    }

    fn place(&mut self, limit: usize, some_wait: bool, now: UnixMs) {
        let waits = |place: usize| some_wait && place % 2 == 1;
        let placed: Vec<Placement> = self.wait(async {
            let rows = new_rows(self.store(), limit).await;
            let place = |(place, row): (usize, &Message)| Placement {
                message: SCHEDULE.place(row, now),
                waits_for: waits(place).then(|| ErrorCode::from(UNKNOWN)),
                lease: None,
            };
            let places: Vec<Placement> = rows.iter().enumerate().map(place).collect();
            self.store().place(&places).await.unwrap();
            places
        });
        let before = self.look();
        rules::placed(&before, &self.tables, &SCHEDULE, &placed, limit, now);
    }

    fn due(&self, account: &str, failing: bool, now: UnixMs, limit: usize) -> Vec<Message> {
        let ids = self.ids();
        let lane = lane(account);
        let query = DueQuery {
            lanes: std::slice::from_ref(&lane),
            wanted: if failing {
                Wanted::Failing
            } else {
                Wanted::Sound
            },
            now,
            last_chances_until: now,
            without: &ids,
            per_lane: limit,
        };
        self.wait(self.store().due(&query)).unwrap()
    }

    fn retry(&mut self, which: &Selection, now: UnixMs, limit: usize) {
        let retried = self.wait(self.store().retry(which, now, limit)).unwrap();
        let before = self.look();
        rules::retried(&before, &self.tables, which, now, limit, retried);
    }

    /// The outcomes of walks over claims that are out, each claim once.
    fn walked(&self, world: &World, walks: &[Walk]) -> Vec<Outcome> {
        let claims: Vec<&Message> = self.in_flight.values().collect();
        let mut outcomes: Vec<Outcome> = Vec::new();
        for walk in walks {
            let Some(row) = claims.get(walk.claim % claims.len().max(1)) else {
                continue;
            };
            if outcomes.iter().all(|other| other.claim.id != row.id) {
                outcomes.push(outcome(row, walk, world));
            }
        }
        outcomes
    }

    /// The next pushed reads, an outcome for each message that may take them, as the daemon sorts them.
    fn pushed(&self, now: UnixMs, limit: usize) -> (Vec<Outcome>, Pushed) {
        let read = self
            .wait(self.store().read_events(&[], limit, now))
            .unwrap();
        assert_eq!(read.refused, 0);
        let takes = |row: &&Message| row.admitted_at.is_some() || row.state.is_final();
        let rows: HashMap<&MessageKey, &Message> = read
            .messages
            .iter()
            .filter(takes)
            .map(|row| (&row.key, row))
            .collect();
        let (mut outcomes, mut pushed) = (Vec::<Outcome>::new(), Pushed::default());
        for event in &read.events {
            let Some(row) = rows.get(&event.key) else {
                pushed.waiting.push((event.id, now));
                continue;
            };
            let known = outcomes
                .iter()
                .position(|outcome| outcome.claim.id == row.id);
            let place = known.unwrap_or_else(|| {
                let in_flight = self.in_flight.contains_key(&row.id);
                let end = WalkEnd::Pushed { in_flight };
                outcomes.push(Outcome::without_call(row.claim(), now, end));
                pushed.of.push(Vec::new());
                outcomes.len() - 1
            });
            outcomes[place].readers.push(SeenReader {
                user_id: event.user_id.clone(),
                seen_at: now,
                read_at: event.read_at,
            });
            pushed.of[place].push(event.id);
        }
        (outcomes, pushed)
    }

    fn commit(&mut self, outcomes: &[Outcome], pushed: &Pushed, drop: Option<Drop>) {
        let (polls, at_once) = drop.map_or((usize::MAX, false), |drop| (drop.after, drop.at_once));
        let decide = |outcomes: &[Outcome], found: &[Found]| Writes {
            events: pushed.writes(found),
            ..decide(outcomes, found)
        };
        let commit = try_commit(self.store(), outcomes, decide);
        let done = self.wait(polled(commit, polls, at_once));
        let done = done.transpose().unwrap().is_some();
        let crashed = !done && drop.is_some_and(|drop| drop.crash);
        if crashed {
            self.crash();
        } else if !done {
            // As the trait asks: the same again, alone, until it succeeds.
            let again = try_commit(self.store(), outcomes, decide);
            self.wait(again).unwrap();
        }
        for outcome in outcomes.iter().filter(|outcome| !outcome.end.is_pushed()) {
            self.in_flight.remove(&outcome.claim.id);
            let month = outcome.started_at.quota_month();
            let count = self.calls.entry((outcome.claim.lane.clone(), month));
            // Looked at even where nothing was written.
            count.or_default();
        }
        let before = self.look();
        if crashed && rules::same(&before, &self.tables) {
            return;
        }
        rules::committed(&before, &self.tables, outcomes, &SCHEDULE);
        rules::count(&mut self.calls, outcomes);
    }

    /// The process is gone, and another one opens the same tables.
    fn crash(&mut self) {
        self.in_flight.clear();
        let backend = self.backend.take().unwrap();
        self.backend = Some(self.wait(backend.crash()));
    }

    /// Places, claims and walks with an endpoint that answers, until nothing is pending.
    fn drive_to_the_end(&mut self, world: &mut World) {
        let bound = MOST_POLLS * self.tables.rows.len();
        for account in ACCOUNTS {
            let which = Unplace::Waiting(account.into());
            self.wait(self.store().unplace(&which, &[], 100)).unwrap();
        }
        self.look();
        for _ in 0..=bound {
            let now = world.now;
            self.place(100, false, now);
            // What waited is taken too, and what was pushed completes or moves what is left.
            self.wait(self.store().forget_events(UnixMs(0), UnixMs(0), 100))
                .unwrap();
            let (outcomes, pushed) = self.pushed(now, 100);
            self.commit(&outcomes, &pushed, None);
            if KEYS.iter().all(|key| !self.is_pending(key)) {
                rules::all_taken(&self.tables);
                return;
            }
            let lanes = self
                .wait(self.store().lanes(Scope::All, &self.ids()))
                .unwrap();
            let claimed = self.in_flight.values().next().cloned();
            let row = claimed.or_else(|| {
                let moments = lanes.iter().flat_map(|due| [due.sound_at, due.failing_at]);
                world.now = world.now.max(moments.flatten().min()?);
                let kinds = ACCOUNTS
                    .iter()
                    .flat_map(|account| [(account, false), (account, true)]);
                let mut due = kinds.filter_map(|(account, failing)| {
                    self.due(account, failing, world.now, 1).pop()
                });
                due.next()
            });
            let Some(row) = row else {
                panic!("a pending row is in no lane: {:#?}", self.tables.rows);
            };
            let outcome = if world.now >= SCHEDULE.end_of_life(&row) {
                Outcome::without_call(row.claim(), world.now, WalkEnd::TooOld)
            } else {
                let all = Walk {
                    claim: 0,
                    end: End::Complete,
                    status: Some("SUCCESS"),
                    sees: usize::MAX,
                    calls: 1,
                    throttled: 0,
                    failed_calls: 0,
                };
                outcome(&row, &all, world)
            };
            self.commit(&[outcome], &Pushed::default(), None);
            rules::always(&self.tables, &self.calls);
        }
        panic!(
            "not final after {bound} polls: {:#?}",
            self.tables.rows.values()
        );
    }
}

fn outcome(row: &Message, walk: &Walk, world: &World) -> Outcome {
    let truth = world.truth.get(row.key.as_str());
    let readers = truth.into_iter().flatten().take(walk.sees);
    let is_oto = row.chat == Chat::Oto;
    let code = ErrorCode::from;
    Outcome {
        claim: row.claim(),
        started_at: world.now,
        ended_at: world.now + Duration::from_millis(3),
        calls: walk.calls,
        throttled: walk.throttled,
        failed_calls: walk.failed_calls,
        readers: readers
            .map(|(user, read_at)| SeenReader {
                user_id: UserId::from(*user),
                seen_at: world.now,
                read_at: is_oto.then_some(*read_at),
            })
            .collect(),
        // A list may leave somebody out.
        listed: is_oto.then(|| u32::try_from(walk.sees.min(USERS.len())).unwrap()),
        send_status: walk.status.map(SendStatus::parse),
        end: match walk.end {
            End::Complete => WalkEnd::Complete,
            End::Failed => WalkEnd::Failed(code("http.timeout")),
            End::Cut => WalkEnd::Cut(code("pages.nothingNew")),
            End::NotGeneratedOrExpired => {
                WalkEnd::NotGeneratedOrExpired(code("processQueryKey.expireTime"))
            }
            End::Rejected => WalkEnd::Rejected(code("invalid.processQueryKey")),
            End::Blocked => WalkEnd::Blocked(code("bot.stopped")),
            End::LaneBlocked => WalkEnd::LaneBlocked(code("invalidClientIdOrSecret")),
            End::Released => WalkEnd::Released,
        },
    }
}

/// What becomes of pushed reads.
#[derive(Default)]
struct Pushed {
    /// Those of each outcome.
    of: Vec<Vec<EventId>>,
    waiting: Vec<(EventId, UnixMs)>,
}

impl Pushed {
    fn writes(&self, found: &[Found]) -> EventWrites {
        let pairs = self.of.iter().zip(found);
        let taken = pairs.filter(|(_, found)| found.row.is_some());
        EventWrites {
            taken: taken.flat_map(|(ids, _)| ids).copied().collect(),
            waiting: self.waiting.clone(),
        }
    }
}

/// Settles and counts as the reconciler does.
fn decide(outcomes: &[Outcome], found: &[Found]) -> Writes {
    let called = outcomes
        .iter()
        .filter(|outcome| outcome.calls > 0 || outcome.throttled > 0);
    let calls = called.map(|outcome| {
        let lane = outcome.claim.lane.clone();
        CallCount {
            calls: outcome.calls.into(),
            throttled: outcome.throttled.into(),
            ..CallCount::nothing(lane, outcome.started_at.quota_month())
        }
    });
    Writes {
        messages: decided(outcomes, found, &SCHEDULE),
        calls: calls.collect(),
        ..Writes::default()
    }
}
