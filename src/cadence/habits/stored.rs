//! Habits as the store keeps them: one line of JSON a lane.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Habits, Totals};
use crate::cadence::Rules;
use crate::cadence::curve::Kind;
use crate::cadence::grid::Grid;
use crate::cadence::learned::Learned;
use crate::cadence::problem::MOST_LEVELS;
use crate::cadence::spend::Start;
use crate::cadence::table::Table;

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

impl Habits {
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
            updated_at: self.updated_at,
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
        habits.updated_at = stored.updated_at;
        Ok(habits)
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
