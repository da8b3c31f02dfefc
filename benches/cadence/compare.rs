//! Ways of polling, side by side at equal calls per message.

use std::time::Duration;

use receiptd::cadence::{Habits, Missing, Pending, Policy, Rules};

use super::crowd::Crowd;
use super::sim::{self, Learner, Live, START, Tally};

/// Calls a message and the delays that they buy, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Row {
    pub(crate) calls: f64,
    pub(crate) mean: f64,
    pub(crate) median: f64,
    pub(crate) p95: f64,
}

impl Row {
    pub(crate) fn of(tally: &Tally) -> Self {
        Self {
            calls: tally.calls_per_message(),
            mean: tally.mean(),
            median: tally.quantile(0.5),
            p95: tally.quantile(0.95),
        }
    }

    /// The row that mixing these two gives at so many calls.
    fn between(low: Self, high: Self, calls: f64) -> Self {
        let span = high.calls - low.calls;
        let share = if span.abs() < 1e-9 {
            0.0
        } else {
            (calls - low.calls) / span
        };
        let mix = |low: f64, high: f64| low + share * (high - low);
        Self {
            calls,
            mean: mix(low.mean, high.mean),
            median: mix(low.median, high.median),
            p95: mix(low.p95, high.p95),
        }
    }
}

/// The schemes that learn nothing, each with one parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Every so many milliseconds.
    Fixed,
    /// Each interval twice the one before.
    Doubling,
    /// Each interval proportional to the square root of the age: ages as 1, 4, 9, 16 …
    SquareRoot,
}

impl Scheme {
    pub(crate) const ALL: [Self; 3] = [Self::Fixed, Self::Doubling, Self::SquareRoot];

    fn next(self, parameter: f64, age: i64) -> i64 {
        let age = age as f64;
        let next = match self {
            Self::Fixed => age + parameter,
            // Ages p, 3p, 7p, 15p …
            Self::Doubling => 2.0 * age + parameter,
            Self::SquareRoot => (age.sqrt() + parameter.sqrt()).powi(2),
        };
        // Rounded up, so that a short interval still gets anywhere.
        next.ceil() as i64
    }

    /// What the scheme brings at `calls` a message: its parameter is found by bisection.
    /// `confirming`: it pays for the call that finds a key expired, as the cadence does.
    pub(crate) fn at(self, messages: &[Live], rules: &Rules, calls: f64, confirming: bool) -> Row {
        let run = |log: f64| {
            let parameter = log.exp2();
            Row::of(&sim::run_ages(messages, rules, confirming, |_, age, _| {
                self.next(parameter, age)
            }))
        };
        // From a millisecond to three days.
        let (mut short, mut long) = (0.0, 28.0);
        let (mut dear, mut cheap) = (None, None);
        for _ in 0..18 {
            let middle = f64::midpoint(short, long);
            let row = run(middle);
            if row.calls > calls {
                (short, dear) = (middle, Some(row));
            } else {
                (long, cheap) = (middle, Some(row));
            }
        }
        match (cheap, dear) {
            (Some(cheap), Some(dear)) => Row::between(cheap, dear, calls),
            (one, other) => one.or(other).unwrap_or_default(),
        }
    }
}

/// The optimum: the dynamic programme with the true distribution, no jitter, as many obligations as the cadence has
/// (the last chance, and the confirming poll).
pub(crate) fn optimum(crowd: &Crowd, messages: &[Live], rules: &Rules, calls: f64) -> Row {
    around(calls, |target| {
        let share = |age: Duration| crowd.share_read(age);
        let policy = Policy::optimal(share, crowd.readers, rules, target);
        by_policy(crowd, messages, rules, &policy)
    })
}

/// The same with a policy for each hour of the week in which a message may be sent.
pub(crate) fn optimum_by_hour(crowd: &Crowd, messages: &[Live], rules: &Rules, calls: f64) -> Row {
    let hours: [(f64, f64); 168] = std::array::from_fn(|hour| {
        let awake = f64::from(u8::from(!crowd.is_quiet(hour as i64)));
        (
            awake,
            f64::from(u8::from(crowd.sends_in(hour as i64 * 3_600_000))),
        )
    });
    let share = |sent: usize, age: Duration| crowd.share_read_of(sent as i64 * 3_600_000, age);
    around(calls, |target| {
        let policy = Policy::optimal_by_hour(share, Some(hours), crowd.readers, rules, target);
        by_policy(crowd, messages, rules, &policy)
    })
}

/// Two targets around, since what is spent on these messages differs a little from what is expected.
fn around(calls: f64, run: impl Fn(f64) -> Row) -> Row {
    let target = calls * calls / run(calls).calls;
    let (low, high) = (run(target * 0.98), run(target * 1.02));
    Row::between(low, high, calls)
}

fn by_policy(crowd: &Crowd, messages: &[Live], rules: &Rules, policy: &Policy) -> Row {
    Row::of(&sim::run_ages(
        messages,
        rules,
        true,
        |row, age, missing| {
            let missing = if crowd.known {
                Missing::Known(missing)
            } else {
                Missing::Unknown
            };
            let message = Pending {
                missing,
                ..row.pending()
            };
            let age = Duration::from_millis(age as u64);
            policy.next_age(message, age).as_millis() as i64
        },
    ))
}

/// The prior's policy at `calls` a message: since its crowd is not this one, its target is moved until it spends so.
pub(crate) fn prior(messages: &[Live], rules: &Rules, calls: f64) -> Row {
    let habits = Habits::prior(rules);
    let mut target = calls;
    let mut nearest = Row::default();
    for _ in 0..4 {
        let policy = Policy::solve(&habits, rules, target);
        let row = Row::of(&sim::run(messages, rules, &policy, None));
        if (row.calls - calls).abs() < (nearest.calls - calls).abs() {
            nearest = row;
        }
        target *= calls / row.calls;
    }
    nearest
}

/// Learns from so many messages, then stands still: what it brings, and the habits.
pub(crate) fn learned(
    crowd: &Crowd,
    messages: &[Live],
    rules: &Rules,
    target: f64,
    (lessons, seed): (u64, u64),
) -> (Row, Learner) {
    let mut learner = Learner::new(rules, target);
    let mut random = fastrand::Rng::with_seed(seed ^ 0x1ea2_2e55);
    let gap = Duration::from_secs(600);
    learner.feed(crowd, rules, (lessons, gap), START, &mut random);
    let row = Row::of(&sim::run(
        messages,
        rules,
        &learner.policy,
        Some(&learner.habits),
    ));
    (row, learner)
}
