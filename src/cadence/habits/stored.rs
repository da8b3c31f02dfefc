//! Habits as the store keeps them: one line of JSON a lane.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Habits, Learned, Totals};
use crate::cadence::Rules;
use crate::cadence::activity::{Activity, HOURS};
use crate::cadence::estimate::{Kind, Table};
use crate::cadence::grid::Grid;
use crate::cadence::groups::{MOST_LEVELS, Start};

/// Changes when the meaning of the numbers does.
const VERSION: u32 = 3;

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
        let rows = |table: &Table| Rows {
            events: short(&table.events),
            exposure: short(&table.exposure),
        };
        let kind = |learned: &Learned| StoredKind {
            long: rows(&learned.table),
            recent: rows(&learned.recent),
            cusum: shorten(learned.cusum),
        };
        let stored = Stored {
            version: VERSION,
            key_lifetime_s: self.grid.lifetime(),
            updated_at: self.updated_at,
            known: kind(&self.known),
            unknown: kind(&self.unknown),
            starts: self
                .starts
                .iter()
                .map(|start| pair(start.messages, start.readers))
                .collect(),
            hours: [
                short(&self.activity.reads),
                short(&self.activity.expected),
                short(&self.activity.sent),
            ],
            days: self
                .activity
                .days
                .iter()
                .map(|day| pair(day.0, day.1))
                .collect(),
            rhythm_doubt: shorten(self.rhythm_doubt),
            totals: self.totals.map(shorten),
            lifetimes: self
                .lifetime
                .spans()
                .map(|(answered, gone)| pair(answered, gone))
                .collect(),
        };
        // Numbers and arrays of them cannot fail to become JSON; were it otherwise, an empty text is read as nothing.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// What [`Self::to_json`] wrote, for the present rules: habits learned under another `key_lifetime` are moved to
    /// its bins.
    pub fn from_json(json: &str, rules: &Rules) -> Result<Self, HabitsError> {
        let Version { version } = serde_json::from_str(json).map_err(HabitsError::Unreadable)?;
        if version != VERSION {
            return Err(HabitsError::Version(version));
        }
        let stored: Stored = serde_json::from_str(json).map_err(HabitsError::Unreadable)?;
        let lifetime = Duration::try_from_secs_f64(stored.key_lifetime_s)
            .ok()
            .filter(|lifetime| *lifetime > Duration::ZERO)
            .ok_or(HabitsError::Impossible)?;
        let mut habits = Self::prior(rules);
        let from = Grid::new(lifetime);
        let same = (from.lifetime() / habits.grid.lifetime() - 1.0).abs() < 1e-9;
        let table = |kind: Kind, rows: &Rows| {
            let table = Table {
                kind,
                events: possible(&rows.events, from.bins())?,
                exposure: possible(&rows.exposure, from.bins())?,
            };
            Ok::<Table, HabitsError>(if same {
                table
            } else {
                table.rebinned(&from, &habits.grid)
            })
        };
        let kind = |kind: Kind, stored: &StoredKind| {
            let cusum = sound(stored.cusum)?;
            let (long, recent) = (table(kind, &stored.long)?, table(kind, &stored.recent)?);
            Ok::<Learned, HabitsError>(Learned::new(long, recent, cusum, &habits.grid))
        };
        let known = kind(Kind::PerReader, &stored.known)?;
        let unknown = kind(Kind::PerMessage, &stored.unknown)?;
        (habits.known, habits.unknown) = (known, unknown);
        if stored.starts.len() != MOST_LEVELS {
            return Err(HabitsError::Impossible);
        }
        for (start, (messages, readers)) in habits.starts.iter_mut().zip(stored.starts) {
            *start = Start {
                messages: sound(messages)?,
                readers: sound(readers)?,
            };
        }
        habits.count_starts();
        let [reads, expected, sent] = &stored.hours;
        habits.activity = Activity {
            reads: possible(reads, HOURS)?,
            expected: possible(expected, HOURS)?,
            sent: possible(sent, HOURS)?,
            days: habits.activity.days,
        };
        if stored.days.len() != habits.activity.days.len() {
            return Err(HabitsError::Impossible);
        }
        for (day, (reads, usual)) in habits.activity.days.iter_mut().zip(stored.days) {
            *day = (sound(reads)?, sound(usual)?);
        }
        habits.rhythm = habits.activity.rhythm_by_hour();
        habits.rhythm_doubt = sound(stored.rhythm_doubt)?;
        habits.totals = stored.totals.try_map(sound)?;
        for (answered, gone) in stored.lifetimes {
            let age = |seconds: f32| {
                Duration::try_from_secs_f32(seconds).map_err(|_| HabitsError::Impossible)
            };
            habits.lifetime.expired(age(answered)?, age(gone)?);
        }
        habits.updated_at = stored.updated_at;
        Ok(habits)
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    key_lifetime_s: f64,
    updated_at: i64,
    known: StoredKind,
    unknown: StoredKind,
    starts: Vec<(f32, f32)>,
    /// Reads, expected reads and messages sent, by hour of the week.
    hours: [Vec<f32>; 3],
    /// Reads and usual reads by day of the week.
    days: Vec<(f32, f32)>,
    rhythm_doubt: f32,
    totals: Totals<f32>,
    lifetimes: Vec<(f32, f32)>,
}

#[derive(Serialize, Deserialize)]
struct StoredKind {
    long: Rows,
    recent: Rows,
    cusum: f32,
}

#[derive(Serialize, Deserialize)]
struct Rows {
    events: Vec<f32>,
    exposure: Vec<f32>,
}

/// Seven digits: more would only lengthen the row.
#[allow(
    clippy::cast_possible_truncation,
    reason = "precision is given up on purpose"
)]
fn shorten(number: f64) -> f32 {
    number as f32
}

fn short(numbers: &[f64]) -> Vec<f32> {
    numbers.iter().copied().map(shorten).collect()
}

fn pair(one: f64, other: f64) -> (f32, f32) {
    (shorten(one), shorten(other))
}

fn possible(numbers: &[f32], count: usize) -> Result<Vec<f64>, HabitsError> {
    if numbers.len() != count {
        return Err(HabitsError::Impossible);
    }
    numbers.iter().copied().map(sound).collect()
}

/// Refuses what no poll can have brought.
fn sound(number: f32) -> Result<f64, HabitsError> {
    if number.is_finite() && (0.0..1e18).contains(&number) {
        Ok(f64::from(number))
    } else {
        Err(HabitsError::Impossible)
    }
}
