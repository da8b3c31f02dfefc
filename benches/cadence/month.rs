//! A month on a budget: messages arrive evenly by chance, and every call is asked for first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use receiptd::cadence::{Basis, Call, Habits, Month, Policy, Rules};
use receiptd::receipt::{Outcome, QuotaMonth, UnixMs, WalkEnd, settle};

use super::crowd::Crowd;
use super::sim::{Lesson, Live, Tally, schedule};

/// 2026-10-31T16:00:00Z: November begins at UTC+8.
const MONTH: UnixMs = UnixMs(1_793_462_400_000);

/// What a month cost and brought.
#[derive(Debug, Default)]
pub(crate) struct MonthTally {
    pub(crate) tally: Tally,
    /// Calls counted within the month.
    pub(crate) spent: u64,
    /// Messages whose last chance came within the month, and those that did not get it.
    pub(crate) last_chances: u64,
    pub(crate) dropped: u64,
    /// The smallest and the largest target that was set, in calls a message.
    pub(crate) targets: (f64, f64),
}

/// What a month is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Messages sent, evenly by chance, from `day` on and within `within` of it.
    pub(crate) messages: u64,
    /// `None`: until the month ends.
    pub(crate) within: Option<Duration>,
    /// Calls that it may cost.
    pub(crate) budget: u64,
    /// The day, from 0, on which the first is sent.
    pub(crate) day: u32,
    /// Messages a month that are believed to be usual.
    pub(crate) usual: Option<f64>,
}

/// Lives a month and polls until it ends.
pub(crate) fn run(crowd: &Crowd, rules: &Rules, plan: Plan, seed: u64) -> MonthTally {
    let mut random = fastrand::Rng::with_seed(seed);
    let end = QuotaMonth::of(MONTH).ends_at();
    let begin = MONTH + Duration::from_secs(86_400) * plan.day;
    let length = plan.within.unwrap_or(end.since(begin)).as_secs_f64();
    let mut arrivals: Vec<UnixMs> = (0..plan.messages)
        .map(|_| begin + Duration::from_secs_f64(length * random.f64()))
        .collect();
    arrivals.sort_unstable();
    let mut arrivals = arrivals.into_iter().peekable();

    let mut habits = Habits::prior(rules);
    let mut result = MonthTally {
        targets: (f64::INFINITY, 0.0),
        ..MonthTally::default()
    };
    let mut month = Month::new(plan.budget, MONTH.0, end.0, begin.0);
    month.usual = plan.usual;
    let mut policy = Policy::prior(rules);
    let mut basis = Basis::prior(rules.calls_per_message);
    let mut in_force = rules.calls_per_message;
    let mut alive: Vec<Live> = vec![];
    let mut due = BinaryHeap::new();
    loop {
        // As the daemon would: off the hot path, when the target or the habits have moved enough.
        let target = month.target(rules);
        if basis.is_stale(&habits, target) {
            policy = Policy::solve(&habits, rules, target);
            basis = Basis::of(&habits, target);
            in_force = target;
        }
        let (least, most) = result.targets;
        result.targets = (least.min(in_force), most.max(in_force));
        let schedule = schedule(rules, &policy, Some(&habits));
        let first = due.peek().map(|Reverse((at, _))| *at);
        let next_arrival = arrivals.peek().copied();
        match (next_arrival, first) {
            (Some(arrival), _) if first.is_none_or(|at| arrival <= at) => {
                arrivals.next();
                month.now = arrival.0;
                let reads = crowd.reads(&mut random, arrival.0);
                let mut live = Live::new(month.messages, crowd, arrival, reads, rules.key_lifetime);
                live.row = schedule.place(&live.row, arrival);
                due.extend(live.due().map(|at| Reverse((at, alive.len()))));
                month.begin(1);
                month.owed += u64::from(owes(&live, end));
                result.tally.messages += 1;
                alive.push(live);
            }
            (_, Some(at)) if at < end => {
                let Some(Reverse((_, index))) = due.pop() else {
                    break;
                };
                month.now = at.0;
                let live = &mut alive[index];
                // A row at the end of its life ends without a call: nobody is asked.
                let call = Some(schedule.call(&live.row, at))
                    .filter(|_| at < schedule.end_of_life(&live.row));
                result.last_chances += u64::from(call == Some(Call::LastChance));
                month.owed -= u64::from(owes(live, end));
                if call.is_none_or(|call| month.allows(call)) {
                    let before = result.tally.calls;
                    let (outcome, new_readers) = live.walk(&schedule, at, &mut result.tally);
                    month.spent += result.tally.calls - before;
                    let mut lesson = Lesson::begin(habits.clone(), at, rules.memory);
                    let after = lesson.settle(&live.row, &outcome, new_readers, &schedule);
                    live.settle(after, &mut result.tally);
                    if let Some((learned, new_messages)) = lesson.into_learned() {
                        habits = learned;
                        basis.add(new_messages);
                    }
                } else {
                    result.dropped += u64::from(call == Some(Call::LastChance));
                    let refused = Outcome::without_call(live.row.claim(), at, WalkEnd::OverBudget);
                    let after = settle(&live.row, &refused, 0, None, &schedule);
                    live.settle(after, &mut result.tally);
                }
                month.owed += u64::from(owes(live, end));
                due.extend(live.due().map(|at| Reverse((at, index))));
            }
            _ => break,
        }
        assert!(month.spent <= plan.budget, "a call over budget");
    }
    result.spent = month.spent;
    result
}

/// Whether a message's last chance is still to come within the month.
fn owes(live: &Live, end: UnixMs) -> bool {
    live.due().is_some() && live.row.last_chance_at.is_some_and(|at| at < end)
}
