//! The poll ages in force for a lane.

use std::sync::Arc;
use std::time::Duration;

use super::curve::{Curve, Kind};
use super::grid::Grid;
use super::problem::Problem;
use super::solve::{Mixture, Next, mixture};
use super::spend::Start;
use super::{Habits, KeyHash, Missing, Pending, Rules};

/// Sets the hash that mixes two policies apart from those that spread and jitter.
const MIX: u64 = 0x6d69_7865;
/// Sets apart the hash that chooses the messages whose expiry is checked.
const EXPIRY_CHECK: u64 = 0x636f_6e66;
/// Up to this many calls a message no expiry is checked.
const CHECK_NONE: f64 = 2.0;
/// From this many on each is. In between the share grows evenly, so that a higher target is never spent on these checks
/// alone.
const CHECK_ALL: f64 = 3.0;
/// Above so many calls a message the bins of the grid are too coarse, and are split.
const CALLS_PER_GRID: f64 = 48.0;
/// Reads closer to the last chance than this share of a life cannot be told apart from it.
const SHORTEST_HORIZON: f64 = 1e-4;

/// The poll ages in force for one lane. Cheap to clone and to share.
#[derive(Clone, Debug)]
pub struct Policy {
    known: Arc<Mixture>,
    unknown: Arc<Mixture>,
    /// The share of expiries that are checked.
    checked: f64,
    /// The age of that check, after the last chance, in seconds.
    expiry_check: f64,
}

/// What a policy is expected to bring, as far as the habits it was solved for are true.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Metered calls a message.
    pub calls_per_message: f64,
    /// From a read to the poll that sees it, the mean over reads.
    pub mean_delay: Duration,
    /// Whether the target could be met within `min_interval` and `max_interval`.
    pub reachable: bool,
}

impl Policy {
    /// The policy of the prior alone, before anything was learned.
    pub fn prior(rules: &Rules) -> Self {
        Self::solve(&Habits::prior(rules), rules, rules.calls_per_message)
    }

    /// The policy that spends `target` calls a message where reads happen by `habits`. Takes milliseconds for single
    /// readers and an unknown number; up to a few hundred where a lane has groups of hundreds.
    ///
    /// At the same habits and rules a higher target never means a later next poll, up to 48 calls a message.
    pub fn solve(habits: &Habits, rules: &Rules, target: f64) -> Self {
        let horizon = horizon(rules, habits.lifetime(rules));
        let shape = Shape {
            grid: habits.grid(),
            rules,
            horizon,
            pieces: (target / CALLS_PER_GRID).ceil().clamp(1.0, 6.0),
            pages: habits.pages(),
        };
        let [known, unknown] = [Kind::PerReader, Kind::PerMessage].map(|kind| {
            let starts = match kind {
                Kind::PerReader => habits.starting_readers(),
                Kind::PerMessage => &[Start::ONE],
            };
            shape.mixture(&habits.curve(kind), starts, target)
        });
        Self::of(known, unknown, rules, habits.lifetime(rules), target)
    }

    /// The policy for readers whose habits are known exactly: `share_read` gives the share that has read by an age, and
    /// `readers` how many readers a message has. On a grid twice as fine: what the learned policies are measured against.
    pub fn optimal(
        share_read: impl Fn(Duration) -> f64,
        readers: u32,
        rules: &Rules,
        target: f64,
    ) -> Self {
        let grid = Grid::new(rules.key_lifetime);
        let shape = Shape {
            grid: &grid,
            rules,
            horizon: horizon(rules, rules.key_lifetime),
            pieces: 2.0,
            pages: 1.0,
        };
        let share = |age: f64| share_read(Duration::from_secs_f64(age));
        let known = Curve::known(Kind::PerReader, &grid, share);
        let unknown = Curve::known(Kind::PerMessage, &grid, |age| {
            f64::from(readers) * share(age)
        });
        let mut starts = vec![Start::default(); level_of(readers) + 1];
        starts[level_of(readers)].add(readers);
        Self::of(
            shape.mixture(&known, &starts, target),
            shape.mixture(&unknown, &[Start::ONE], target),
            rules,
            rules.key_lifetime,
            target,
        )
    }

    fn of(
        known: Mixture,
        unknown: Mixture,
        rules: &Rules,
        lifetime: Duration,
        target: f64,
    ) -> Self {
        Self {
            known: Arc::new(known),
            unknown: Arc::new(unknown),
            checked: checked(target),
            expiry_check: (lifetime + rules.last_chance).as_secs_f64(),
        }
    }

    /// The age at which a message is polled next that is `age` old and was polled just now. Always greater than `age`.
    pub fn next_age(&self, message: Pending, age: Duration) -> Duration {
        let (mixture, level) = match message.missing {
            Missing::Known(readers) => (&self.known, level_of(readers)),
            Missing::Unknown => (&self.unknown, 0),
        };
        let table: &Next = if message.key.fraction(MIX) < mixture.dense_share {
            &mixture.dense
        } else {
            &mixture.sparse
        };
        let row = &table[level.min(table.len() - 1)];
        let next = after(&mixture.ages, row, age.as_secs_f64()).unwrap_or(self.expiry_check);
        // Beyond everything that was planned the distance doubles; nothing plans there, but no interval may be zero.
        let next = Duration::try_from_secs_f64(next).unwrap_or(Duration::MAX);
        if next > age {
            next
        } else {
            age.saturating_mul(2).max(age + Duration::from_millis(1))
        }
    }

    /// How far a poll planned for `age` may be moved and is still followed by what was planned to follow it: half the way
    /// to the ages before and after. As far as one likes beyond what was planned.
    pub fn jitter_bounds(&self, message: Pending, age: Duration) -> (Duration, Duration) {
        let ages = match message.missing {
            Missing::Known(_) => &self.known.ages,
            Missing::Unknown => &self.unknown.ages,
        };
        // A `Duration` is a little less or more than the age that it was made from.
        let seconds = age.as_secs_f64() - 1e-6;
        let at = ages.partition_point(|at| *at < seconds);
        let span = |from: usize, to: usize| match (ages.get(from), ages.get(to)) {
            // A little less than half, since rows count whole milliseconds.
            (Some(from), Some(to)) => {
                Duration::try_from_secs_f64((to - from) * 0.49).unwrap_or(Duration::ZERO)
            }
            _ => Duration::MAX,
        };
        (span(at.saturating_sub(1), at), span(at, at + 1))
    }

    /// Whether it is worth a call at the present target to check that a key has expired.
    pub fn checks_expiry(&self, key: KeyHash) -> bool {
        key.fraction(EXPIRY_CHECK) < self.checked
    }

    /// What is expected of messages whose number of readers is known.
    pub fn expected(&self) -> Expected {
        Self::expectation(&self.known)
    }

    /// What is expected of messages whose number of readers is not known.
    pub fn expected_unknown(&self) -> Expected {
        Self::expectation(&self.unknown)
    }

    fn expectation(mixture: &Mixture) -> Expected {
        Expected {
            calls_per_message: mixture.calls,
            mean_delay: Duration::try_from_secs_f64(mixture.mean_delay).unwrap_or(Duration::MAX),
            reachable: mixture.reachable,
        }
    }
}

/// What the problems of both kinds of message have in common.
struct Shape<'a> {
    grid: &'a Grid,
    rules: &'a Rules,
    horizon: f64,
    /// Into how many pieces each bin of the grid is split.
    pieces: f64,
    /// Calls a walk.
    pages: f64,
}

impl Shape<'_> {
    fn mixture(&self, curve: &Curve, starts: &[Start], target: f64) -> Mixture {
        let target = if target.is_finite() {
            target.max(0.0)
        } else {
            f64::from(u16::MAX)
        };
        let mut problem = Problem::new(
            self.grid,
            curve,
            self.rules,
            self.horizon,
            self.pieces,
            starts.len(),
        );
        problem.pages = self.pages;
        mixture(problem, starts, target, checked(target))
    }
}

/// The share of expiries that are checked at a target.
fn checked(target: f64) -> f64 {
    ((target - CHECK_NONE) / (CHECK_ALL - CHECK_NONE)).clamp(0.0, 1.0)
}

/// The age of the last chance, in seconds.
fn horizon(rules: &Rules, lifetime: Duration) -> f64 {
    let last_chance = lifetime.saturating_sub(rules.last_chance);
    let shortest = rules.key_lifetime.mul_f64(SHORTEST_HORIZON);
    last_chance
        .min(rules.max_age)
        .max(shortest)
        .as_secs_f64()
        .max(1e-3)
}

/// Which of 1, 2, 4, … so many readers are closest to.
pub(super) fn level_of(readers: u32) -> usize {
    // Exact: a logarithm of a u32 lies between 0 and 32.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let level = f64::from(readers.max(1)).log2().round() as usize;
    level.min(super::problem::MOST_LEVELS - 1)
}

/// The age that follows `age`, which need not be one of `ages`: what follows the nearest of them. Jitter thus leads back to
/// the plan, and never to a poll just before the last chance. `None` from the last chance on.
fn after(ages: &[f64], next: &[usize], age: f64) -> Option<f64> {
    let above = ages.partition_point(|at| *at <= age);
    if above >= ages.len() {
        return None;
    }
    let below = above.max(1) - 1;
    let nearest = if age - ages[below] < ages[above] - age {
        below
    } else {
        above
    };
    Some(ages[next.get(nearest).copied().unwrap_or(ages.len() - 1)])
}
