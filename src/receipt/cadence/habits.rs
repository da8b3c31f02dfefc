//! What a lane's readers were seen to do.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::{Missing, UnixMs};
use super::Rules;
use super::grid::Grid;
use super::learned::Learned;
use super::lifetime::Lifetime;
use super::observe::Observation;
use super::policy::level_of;
use super::problem::MOST_LEVELS;
use super::spend::Start;
use super::table::{Curve, Kind, Table};

/// What is believed of the number of readers: it stands for one message with one.
const PRIOR_START: Start = Start::ONE;
/// So many walks of one call stand for what is believed of the calls a walk takes.
const PRIOR_WALKS: f64 = 20.0;
/// Changes when the meaning of the numbers does.
const VERSION: u32 = 2;
/// Had no recent past of its own.
const VERSION_WITHOUT_RECENT: u32 = 1;

/// Why stored habits cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HabitsError {
    /// Not JSON, or not of this form.
    #[error("the stored habits cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// Written by another version, or by something else.
    #[error("the stored habits are of version {0}, which is not known")]
    Version(u32),
    /// Numbers that no lane can have brought.
    #[error("the stored habits hold impossible numbers")]
    Impossible,
}

/// What was measured lately, with the same forgetting as the habits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Metered calls a message.
    pub calls_per_message: f64,
    /// From a read to the poll that saw it. An estimate, since the endpoint gives no times of reads.
    pub mean_delay: Duration,
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
    /// Up to when the past has faded.
    pub updated_at: UnixMs,
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
            updated_at: UnixMs(0),
        }
    }

    /// Takes in what one walk saw. Cheap: some hundred additions.
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
            self.lifetime.answered(seen.at_age);
        }
        if let Some(answered) = seen.expired_after {
            self.lifetime.expired(answered, seen.at_age);
        }
        if let Some(sight) = seen.sight.as_ref().filter(|sight| sight.from < sight.to) {
            let learned = match sight.kind {
                Kind::PerReader => &mut self.known,
                Kind::PerMessage => &mut self.unknown,
            };
            self.totals.delay += learned.add(&self.grid, sight);
            self.totals.reads += f64::from(sight.new_readers);
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

    /// [`Self::forget`] for the time since the last call of this; a clock that stands or runs backwards changes nothing.
    pub fn forget_until(&mut self, now: UnixMs, memory: Duration) {
        if now > self.updated_at {
            if self.updated_at != UnixMs(0) {
                self.forget(now.since(self.updated_at), memory);
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
        let mean_delay = totals.delay / totals.reads.max(f64::MIN_POSITIVE);
        (totals.messages > 0.0).then(|| Measured {
            calls_per_message: totals.calls / totals.messages,
            mean_delay: Duration::try_from_secs_f64(mean_delay).unwrap_or_default(),
            messages: totals.messages,
        })
    }

    /// For the store: one line of JSON.
    pub fn to_json(&self) -> String {
        let rows = |learned: &Learned| Rows {
            events: short(&learned.table.events),
            exposure: short(&learned.table.exposure),
            recent: Some(Recent {
                events: short(&learned.recent.events),
                exposure: short(&learned.recent.exposure),
                ahead: shorten(learned.ahead),
            }),
        };
        let stored = Stored {
            version: VERSION,
            key_lifetime_s: self.grid.lifetime(),
            updated_at: self.updated_at.0,
            known: rows(&self.known),
            unknown: rows(&self.unknown),
            starts: self
                .starts
                .iter()
                .map(|start| shorten(start.messages))
                .collect(),
            starting_readers: self
                .starts
                .iter()
                .map(|start| shorten(start.readers))
                .collect(),
            totals: self.totals.each(shorten),
            lifetimes: self
                .lifetime
                .spans()
                .map(|(answered, gone)| (shorten(answered), shorten(gone)))
                .collect(),
        };
        // Numbers and arrays of them cannot fail to become JSON; were it otherwise, an empty text is read as nothing.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// What [`Self::to_json`] wrote, for the present rules: habits learned under another `key_lifetime` are moved to
    /// its bins.
    pub fn from_json(json: &str, rules: &Rules) -> Result<Self, HabitsError> {
        let stored: Stored = serde_json::from_str(json).map_err(HabitsError::Unreadable)?;
        if ![VERSION, VERSION_WITHOUT_RECENT].contains(&stored.version) {
            return Err(HabitsError::Version(stored.version));
        }
        let lifetime = Duration::try_from_secs_f64(stored.key_lifetime_s)
            .ok()
            .filter(|lifetime| *lifetime > Duration::ZERO)
            .ok_or(HabitsError::Impossible)?;
        let mut habits = Self::prior(rules);
        let from = Grid::new(lifetime);
        let same = (from.lifetime() / habits.grid.lifetime() - 1.0).abs() < 1e-9;
        let table = |kind: Kind, events: Vec<f64>, exposure: Vec<f64>| {
            let table = Table {
                kind,
                events: possible(events, from.bins())?,
                exposure: possible(exposure, from.bins())?,
            };
            Ok::<Table, HabitsError>(if same {
                table
            } else {
                table.rebinned(&from, &habits.grid)
            })
        };
        let read = |kind: Kind, rows: Rows| {
            let long = table(kind, rows.events, rows.exposure)?;
            let (recent, ahead) = match rows.recent {
                Some(recent) => {
                    let ahead = possible(vec![recent.ahead], 1)?[0];
                    (table(kind, recent.events, recent.exposure)?, ahead)
                }
                None => (Table::new(kind, &habits.grid), 0.0),
            };
            Ok::<Learned, HabitsError>(Learned::new(long, recent, ahead, &habits.grid))
        };
        let known = read(Kind::PerReader, stored.known)?;
        let unknown = read(Kind::PerMessage, stored.unknown)?;
        (habits.known, habits.unknown) = (known, unknown);
        let messages = possible(stored.starts, MOST_LEVELS)?;
        habits.starts = if stored.starting_readers.is_empty() {
            Start::at_levels(&messages)
        } else {
            let readers = possible(stored.starting_readers, MOST_LEVELS)?;
            let starts = messages.into_iter().zip(readers);
            starts
                .map(|(messages, readers)| Start { messages, readers })
                .collect()
        };
        habits.count_starts();
        let totals = stored.totals;
        let sums = [
            totals.walks,
            totals.walk_calls,
            totals.messages,
            totals.calls,
            totals.reads,
            totals.delay,
        ];
        possible(sums.to_vec(), sums.len())?;
        habits.totals = totals;
        for (answered, gone) in stored.lifetimes {
            let age = |seconds: f64| {
                Duration::try_from_secs_f64(seconds).map_err(|_| HabitsError::Impossible)
            };
            habits.lifetime.expired(age(answered)?, age(gone)?);
        }
        habits.updated_at = UnixMs(stored.updated_at);
        Ok(habits)
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

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    key_lifetime_s: f64,
    updated_at: i64,
    known: Rows,
    unknown: Rows,
    starts: Vec<f64>,
    /// Readers of those messages; habits that were stored before they were counted have none.
    #[serde(default)]
    starting_readers: Vec<f64>,
    totals: Totals,
    lifetimes: Vec<(f64, f64)>,
}

#[derive(Serialize, Deserialize)]
struct Rows {
    events: Vec<f64>,
    exposure: Vec<f64>,
    recent: Option<Recent>,
}

#[derive(Serialize, Deserialize)]
struct Recent {
    events: Vec<f64>,
    exposure: Vec<f64>,
    ahead: f64,
}

fn short(numbers: &[f64]) -> Vec<f64> {
    numbers.iter().copied().map(shorten).collect()
}

/// Seven digits: more would only lengthen the row. By arithmetic, since a commit shortens a thousand numbers.
fn shorten(number: f64) -> f64 {
    let beyond = number.abs().log10().floor() - 6.0;
    // Powers of ten are exact up to 10²²; one below 1 would not be.
    let tens = 10f64.powf(beyond.abs());
    match beyond {
        _ if !tens.is_normal() => number,
        0.0.. => (number / tens).round() * tens,
        _ => (number * tens).round() / tens,
    }
}

/// Refuses what no walk can have brought.
fn possible(numbers: Vec<f64>, count: usize) -> Result<Vec<f64>, HabitsError> {
    let sound = numbers.len() == count
        && numbers
            .iter()
            .all(|number| number.is_finite() && *number >= 0.0 && *number < 1e18);
    if sound {
        Ok(numbers)
    } else {
        Err(HabitsError::Impossible)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stored_with_seven_digits() {
        for (number, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (1.0 / 3.0, "0.3333333"),
            (2.0 / 3.0 * 1e-5, "6.666667e-6"),
            (-0.001_234_567_89, "-0.001234568"),
            (1_234_567.8, "1234568.0"),
            (98_765_432_198.0, "98765430000.0"),
            (9.999_999_99, "10.0"),
            (1e-310, "1e-310"),
        ] {
            assert_eq!(serde_json::to_string(&shorten(number)).unwrap(), text);
        }
    }
}
