//! The simulator: the cadence, the schedule and the settling of the daemon, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use receiptd::cadence::{Basis, Habits, Policy, Rules};
use receiptd::receipt::{
    AccountName, ErrorCode, LaneId, Message, MessageId, MessageKey, Outcome, Schedule, SeenReader,
    SendStatus, UnixMs, UserId, WalkEnd, observe, settle,
};

use super::crowd::Crowd;

/// A Monday, 00:00 UTC.
pub(crate) const START: UnixMs = UnixMs(1_790_553_600_000);
/// A page of the endpoint.
const PAGE: u32 = 200;

/// What a run cost and brought.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Messages sent.
    pub(crate) messages: u64,
    /// Calls made.
    pub(crate) calls: u64,
    /// From a read to the poll that saw it, in seconds.
    pub(crate) delays: Vec<f64>,
    /// Reads within the life of a key that no poll saw.
    pub(crate) missed: u64,
}

impl Tally {
    pub(crate) fn calls_per_message(&self) -> f64 {
        self.calls as f64 / self.messages.max(1) as f64
    }

    pub(crate) fn mean(&self) -> f64 {
        self.delays.iter().sum::<f64>() / self.delays.len().max(1) as f64
    }

    /// The delay that a share of the reads stays below, in seconds.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut delays = self.delays.clone();
        delays.sort_by(f64::total_cmp);
        let index = (share * delays.len() as f64) as usize;
        delays.get(index).or(delays.last()).copied().unwrap_or(0.0)
    }
}

/// The rules of the comparison: the settings' defaults with the bounds opened wide.
pub(crate) fn open_rules() -> Rules {
    Rules {
        min_interval: Duration::from_millis(100),
        max_interval: Duration::from_secs(48 * 3_600),
        ..Rules::default()
    }
}

/// The schedule as the daemon would have it.
pub(crate) fn schedule(rules: &Rules, policy: &Policy, habits: Option<&Habits>) -> Schedule {
    Schedule {
        rules: rules.clone(),
        policy: policy.clone(),
        lifetime: habits.map_or(rules.key_lifetime, |habits| habits.lifetime(rules)),
        last_chances_until: None,
    }
}

/// Settling and learning in one step, as the reconciler does after its commit.
pub(crate) struct Lesson {
    habits: Habits,
    walks: u32,
    new_messages: u32,
}

impl Lesson {
    /// A lesson that begins at `now`, until when the past fades by `memory`.
    pub(crate) fn begin(mut habits: Habits, now: UnixMs, memory: Duration) -> Self {
        habits.forget_until(now.0, memory);
        Self {
            habits,
            walks: 0,
            new_messages: 0,
        }
    }

    /// The row as the walk leaves it, and what the walk taught is learned.
    pub(crate) fn settle(
        &mut self,
        before: &Message,
        outcome: &Outcome,
        new_readers: u32,
        schedule: &Schedule,
    ) -> Message {
        let after = settle(before, outcome, new_readers, None, schedule);
        // Of a simulated walk every reader is new.
        let read_at: Vec<UnixMs> = outcome
            .readers
            .iter()
            .filter_map(|reader| reader.read_at(before))
            .collect();
        if let Some(seen) = observe(before, outcome, new_readers, &read_at, &after) {
            self.habits.learn(&seen);
            self.walks += 1;
            self.new_messages += u32::from(seen.begins.is_some());
        }
        after
    }

    /// The habits and how many messages were polled for the first time, if a walk taught anything.
    pub(crate) fn into_learned(self) -> Option<(Habits, u32)> {
        (self.walks > 0).then_some((self.habits, self.new_messages))
    }
}

/// A message under way.
pub(crate) struct Live {
    pub(crate) row: Message,
    /// Ages in milliseconds, in order.
    reads: Vec<i64>,
    seen: usize,
    /// How long this key answers.
    life: i64,
}

impl Live {
    pub(crate) fn new(
        number: u64,
        crowd: &Crowd,
        sent_at: UnixMs,
        reads: Vec<i64>,
        life: Duration,
    ) -> Self {
        let lane = LaneId {
            account: AccountName::from("default"),
            corp: None,
        };
        let key = MessageKey::from(format!("key-{number}"));
        let row = Message {
            expected_readers: crowd.known.then_some(crowd.readers),
            ..Message::inserted(MessageId(number as i64), key, lane, sent_at)
        };
        Self {
            row,
            reads,
            seen: 0,
            life: life.as_millis() as i64,
        }
    }

    /// When it is due; `None` once it is final.
    pub(crate) fn due(&self) -> Option<UnixMs> {
        (!self.row.state.is_final()).then_some(self.row.next_poll_at?)
    }

    /// One poll at its due time, as scheduler and worker would do it: what the walk brought, and how many readers are
    /// new. To be settled by [`Self::settle`].
    pub(crate) fn walk(
        &mut self,
        schedule: &Schedule,
        now: UnixMs,
        tally: &mut Tally,
    ) -> (Outcome, u32) {
        let age = now.0 - self.row.sent_at.0;
        let mut outcome = Outcome::without_call(self.row.claim(), now, WalkEnd::TooOld);
        let mut new_readers = 0;
        if now >= schedule.end_of_life(&self.row) {
            // Ended without a call.
        } else if age >= self.life {
            outcome.calls = 1;
            outcome.end =
                WalkEnd::NotGeneratedOrExpired(ErrorCode::from("processQueryKey.expireTime"));
        } else {
            let read = self.reads.partition_point(|at| *at <= age);
            for reader in self.seen..read {
                tally
                    .delays
                    .push((age - self.reads[reader]) as f64 / 1_000.0);
                outcome.readers.push(SeenReader {
                    user_id: UserId::from(format!("u{reader}")),
                    seen_at: now,
                    read_at: None,
                });
                new_readers += 1;
            }
            self.seen = read;
            outcome.calls = (read as u32).div_ceil(PAGE).max(1);
            outcome.send_status = Some(SendStatus::Success);
            outcome.end = WalkEnd::Complete;
        }
        tally.calls += u64::from(outcome.calls);
        (outcome, new_readers)
    }

    /// The row as it stands after a walk.
    pub(crate) fn settle(&mut self, after: Message, tally: &mut Tally) {
        self.row = after;
        if self.row.state.is_final() {
            self.close(tally);
        }
    }

    /// Counts what was missed.
    fn close(&self, tally: &mut Tally) {
        let within_life = self.reads.partition_point(|at| *at < self.life);
        tally.missed += (within_life - self.seen.min(within_life)) as u64;
    }
}

/// A crowd's messages, drawn once, so that every way of polling meets the same.
pub(crate) fn draw(crowd: &Crowd, messages: u64, seed: u64, life: Duration) -> Vec<Live> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..messages)
        .map(|number| {
            let sent_at = std::iter::repeat_with(|| random.u64(0..7 * 86_400_000))
                .find(|at| crowd.sends_in(*at as i64))
                .map_or(START, |at| START + Duration::from_millis(at));
            let reads = crowd.reads(&mut random, sent_at.0);
            Live::new(number, crowd, sent_at, reads, life)
        })
        .collect()
}

/// Polls messages by a policy that does not change.
pub(crate) fn run(
    messages: &[Live],
    rules: &Rules,
    policy: &Policy,
    habits: Option<&Habits>,
) -> Tally {
    let schedule = schedule(rules, policy, habits);
    let mut tally = Tally::default();
    for drawn in messages {
        let mut live = Live {
            row: schedule.place(&drawn.row, drawn.row.sent_at),
            reads: drawn.reads.clone(),
            seen: 0,
            life: drawn.life,
        };
        tally.messages += 1;
        while let Some(now) = live.due() {
            let (outcome, new_readers) = live.walk(&schedule, now, &mut tally);
            let after = settle(&live.row, &outcome, new_readers, None, &schedule);
            live.settle(after, &mut tally);
        }
    }
    tally
}

/// Polls at ages that a rule gives, from zero to the last chance: no confirming poll, no jitter, no bounds.
pub(crate) fn run_ages(
    messages: &[Live],
    rules: &Rules,
    confirming: bool,
    next_age: impl Fn(&Message, i64, u32) -> i64,
) -> Tally {
    let last_chance = (rules.key_lifetime - rules.last_chance).as_millis() as i64;
    let mut tally = Tally::default();
    for live in messages {
        let (mut age, mut seen) = (0_i64, 0);
        tally.messages += 1;
        loop {
            let missing = live
                .row
                .expected_readers
                .map_or(0, |expected| expected - seen as u32);
            age = next_age(&live.row, age, missing).clamp(age + 1, last_chance.max(age + 1));
            let read = live.reads.partition_point(|at| *at <= age);
            tally.calls += (read as u64).div_ceil(u64::from(PAGE)).max(1);
            let delays = live.reads[seen..read]
                .iter()
                .map(|at| (age - at) as f64 / 1_000.0);
            tally.delays.extend(delays);
            seen = read;
            if live.row.expected_readers == Some(seen as u32) {
                break;
            }
            if age >= last_chance {
                tally.calls += u64::from(confirming);
                break;
            }
        }
    }
    tally
}

/// Learns while it polls, as a daemon does.
pub(crate) struct Learner {
    pub(crate) habits: Habits,
    pub(crate) policy: Policy,
    pub(crate) target: f64,
    basis: Basis,
    messages: u64,
}

impl Learner {
    pub(crate) fn new(rules: &Rules, target: f64) -> Self {
        let habits = Habits::prior(rules);
        let policy = Policy::solve(&habits, rules, target);
        Self {
            habits,
            policy,
            target,
            basis: Basis::prior(target),
            messages: 0,
        }
    }

    /// Messages of `crowd`, one each `gap`, all polled in the order in which they are due.
    pub(crate) fn feed(
        &mut self,
        crowd: &Crowd,
        rules: &Rules,
        (messages, gap): (u64, Duration),
        from: UnixMs,
        random: &mut fastrand::Rng,
    ) -> Tally {
        self.feed_watched(crowd, rules, (messages, gap), from, random, &mut |_| {})
    }

    /// [`Self::feed`], and `watch` sees each row as a poll leaves it.
    pub(crate) fn feed_watched(
        &mut self,
        crowd: &Crowd,
        rules: &Rules,
        (messages, gap): (u64, Duration),
        from: UnixMs,
        random: &mut fastrand::Rng,
        watch: &mut dyn FnMut(&Message),
    ) -> Tally {
        let mut tally = Tally::default();
        let mut due = BinaryHeap::new();
        let mut alive: Vec<Live> = vec![];
        let mut sent = 0;
        loop {
            let arrival = from + crowd.in_sending_hours(gap.mul_f64(sent as f64));
            let first = due.peek().map(|Reverse((at, _))| *at);
            if sent < messages && first.is_none_or(|at| arrival <= at) {
                let reads = crowd.reads(random, arrival.0);
                let mut live = Live::new(self.messages, crowd, arrival, reads, rules.key_lifetime);
                live.row =
                    schedule(rules, &self.policy, Some(&self.habits)).place(&live.row, arrival);
                due.extend(live.due().map(|at| Reverse((at, alive.len()))));
                alive.push(live);
                sent += 1;
                self.messages += 1;
                tally.messages += 1;
            } else if let Some(Reverse((at, index))) = due.pop() {
                let schedule = schedule(rules, &self.policy, Some(&self.habits));
                let live = &mut alive[index];
                let (outcome, new_readers) = live.walk(&schedule, at, &mut tally);
                let mut lesson = Lesson::begin(self.habits.clone(), at, rules.memory);
                let after = lesson.settle(&live.row, &outcome, new_readers, &schedule);
                live.settle(after, &mut tally);
                watch(&live.row);
                due.extend(live.due().map(|at| Reverse((at, index))));
                self.keep(lesson, rules);
            } else {
                break;
            }
        }
        self.solve(rules);
        tally
    }

    /// Keeps what a lesson taught, and solves the policy anew where the daemon would.
    fn keep(&mut self, lesson: Lesson, rules: &Rules) {
        let Some((habits, new_messages)) = lesson.into_learned() else {
            return;
        };
        self.habits = habits;
        self.basis.add(new_messages);
        if self.basis.is_stale(&self.habits, self.target) {
            self.solve(rules);
        }
    }

    fn solve(&mut self, rules: &Rules) {
        self.policy = Policy::solve(&self.habits, rules, self.target);
        self.basis = Basis::of(&self.habits, self.target);
    }
}
