//! What a lane's readers were seen to do.

mod stored;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Rules;
use super::curve::{Curve, Kind};
use super::grid::Grid;
use super::learned::Learned;
use super::lifetime::Lifetime;
use super::observe::{Missing, Observation};
use super::policy::level_of;
use super::problem::MOST_LEVELS;
use super::spend::Start;

pub use stored::HabitsError;

/// What is believed of the number of readers: it stands for one message with one.
const PRIOR_START: Start = Start::ONE;
/// So many walks of one call stand for what is believed of the calls a walk takes.
const PRIOR_WALKS: f64 = 20.0;

/// What was measured lately, with the same forgetting as the habits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Metered calls a message.
    pub calls_per_message: f64,
    /// From a read to the poll that saw it, where any read was seen. An estimate, since the endpoint gives no times of reads.
    pub mean_delay: Option<Duration>,
    /// How many messages these figures stand for.
    pub messages: f64,
}

/// What a lane's readers were seen to do, and the prior. Grows by [`Self::learn`], fades by [`Self::forget`].
#[derive(Clone, Debug)]
pub struct Habits {
    grid: Grid,
    known: Learned,
    unknown: Learned,
    /// Messages that began with about 1, 2, 4, … readers, without the prior.
    starts: Vec<Start>,
    /// The prior and `starts`, up to the largest seen.
    starts_or_prior: Vec<Start>,
    totals: Totals,
    lifetime: Lifetime,
    /// Up to when the past has faded, in Unix milliseconds; zero where nothing was learned yet.
    updated_at: i64,
}

/// Sums that fade like the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Totals {
    /// Complete walks, and the calls they took.
    walks: f64,
    walk_calls: f64,
    /// Messages begun, and calls made.
    messages: f64,
    calls: f64,
    /// Reads seen, and their delay in seconds.
    reads: f64,
    delay: f64,
}

impl Totals {
    fn each(self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            walks: change(self.walks),
            walk_calls: change(self.walk_calls),
            messages: change(self.messages),
            calls: change(self.calls),
            reads: change(self.reads),
            delay: change(self.delay),
        }
    }
}

impl Habits {
    /// Nothing learned yet.
    pub fn prior(rules: &Rules) -> Self {
        let grid = Grid::new(rules.key_lifetime);
        let [known, unknown] =
            [Kind::PerReader, Kind::PerMessage].map(|kind| Learned::nothing(kind, &grid));
        Self {
            grid,
            known,
            unknown,
            starts: vec![Start::default(); MOST_LEVELS],
            starts_or_prior: vec![PRIOR_START],
            totals: Totals::default(),
            lifetime: Lifetime::default(),
            updated_at: 0,
        }
    }

    /// Takes in what one poll saw. Cheap: some hundred additions.
    pub fn learn(&mut self, seen: &Observation) {
        self.totals.calls += f64::from(seen.calls);
        if let Some(missing) = seen.begins {
            self.totals.messages += 1.0;
            if let Missing::Known(readers) = missing {
                self.starts[level_of(readers)].add(readers);
                self.count_starts();
            }
        }
        if seen.complete {
            self.totals.walks += 1.0;
            self.totals.walk_calls += f64::from(seen.calls.max(1));
            self.lifetime.answered(seen.age);
        }
        if let Some(answered) = seen.expired_after {
            self.lifetime.expired(answered, seen.age);
        }
        if (seen.complete || seen.new_readers > 0) && seen.seen_until < seen.age {
            let learned = match seen.still_missing {
                Some(_) => &mut self.known,
                None => &mut self.unknown,
            };
            self.totals.delay += learned.add(&self.grid, seen);
            self.totals.reads += f64::from(seen.new_readers);
        }
    }

    /// Lets what was learned fade toward the prior: after `memory` it weighs 1/e.
    pub fn forget(&mut self, elapsed: Duration, memory: Duration) {
        let lives = elapsed.as_secs_f64() / memory.as_secs_f64().max(1e-3);
        let factor = (-lives).exp();
        for learned in [&mut self.known, &mut self.unknown] {
            learned.fade(lives);
        }
        for start in &mut self.starts {
            start.fade(factor);
        }
        self.count_starts();
        self.totals = self.totals.each(|total| total * factor);
    }

    /// [`Self::forget`] for the time from the last call of this to `now` (Unix milliseconds); a clock that stands or runs
    /// backwards changes nothing.
    pub fn forget_until(&mut self, now: i64, memory: Duration) {
        if now > self.updated_at {
            if self.updated_at != 0 {
                let elapsed = now.saturating_sub(self.updated_at).unsigned_abs();
                self.forget(Duration::from_millis(elapsed), memory);
            }
            self.updated_at = now;
        }
    }

    /// How long a key answers: the setting, or less where that was learned.
    pub fn lifetime(&self, rules: &Rules) -> Duration {
        let learned = self.lifetime.shorter_than(rules.key_lifetime);
        learned.unwrap_or(rules.key_lifetime)
    }

    /// The share of readers that have read by `age`, and never more than 1; where the number of readers is unknown, the
    /// share of those that read within the life of a key.
    pub fn share_read_by(&self, age: Duration, known: bool) -> f64 {
        let age = age.as_secs_f64();
        let (learned, whole) = if known {
            (&self.known, 1.0)
        } else {
            let curve = &self.unknown.curve;
            (&self.unknown, curve.mass(&self.grid, self.grid.lifetime()))
        };
        (learned.curve.mass(&self.grid, age) / whole.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }

    /// Reads learned from, as far as they are remembered: with `expected_readers` known, and without.
    pub fn reads(&self) -> (f64, f64) {
        (self.known.table.weight(), self.unknown.table.weight())
    }

    /// What was measured lately; `None` before the first message.
    pub fn measured(&self) -> Option<Measured> {
        let totals = &self.totals;
        (totals.messages > 0.0).then(|| Measured {
            calls_per_message: totals.calls / totals.messages,
            mean_delay: Duration::try_from_secs_f64(totals.delay / totals.reads).ok(),
            messages: totals.messages,
        })
    }

    pub(super) fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The newest estimate.
    pub(super) fn curve(&self, kind: Kind) -> Curve {
        let learned = match kind {
            Kind::PerReader => &self.known,
            Kind::PerMessage => &self.unknown,
        };
        learned.table.curve(&self.grid)
    }

    /// How many messages begin with about 1, 2, 4, … readers, up to the largest seen.
    pub(super) fn starting_readers(&self) -> &[Start] {
        &self.starts_or_prior
    }

    /// Calls a complete walk takes: its pages, and what had to be repeated.
    pub(super) fn pages(&self) -> f64 {
        (self.totals.walk_calls + PRIOR_WALKS) / (self.totals.walks + PRIOR_WALKS)
    }

    fn count_starts(&mut self) {
        // What has faded to less than this is as good as never seen.
        let seen = self.starts.iter().rposition(|start| start.messages > 1e-3);
        self.starts_or_prior = self.starts[..=seen.unwrap_or(0)].to_vec();
        self.starts_or_prior[0].messages += PRIOR_START.messages;
        self.starts_or_prior[0].readers += PRIOR_START.readers;
    }
}
