//! What was learned of an account's readers.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::super::common::rounded;
use crate::cadence::{Habits, Rules, read_curve};
use crate::store::HabitsRow;

/// Ages of the read curve in JSON: this many for each tenfold,
const POINTS_A_DECADE: i32 = 4;
/// from a second to this many tenfolds of it: eleven days and a half.
const DECADES: i32 = 6;

#[derive(Serialize)]
pub(super) struct Learned {
    /// Reads that were learned from; those of long ago weigh less.
    reads: f64,
    /// How long keys answer.
    key_lifetime_s: f64,
    calls_per_message: Option<f64>,
    /// From a read to the poll that noticed it. `None`: no read was noticed yet.
    mean_delay_s: Option<f64>,
    /// `[age in seconds, share of the readers that have read by then]`
    read_curve: Vec<[f64; 2]>,
    #[serde(skip)]
    plot: String,
}

impl Learned {
    /// `None`: nothing was learned yet, or it cannot be read.
    pub(super) fn of(row: &HabitsRow, rules: &Rules) -> Option<Self> {
        let habits = Habits::from_json(&row.habits, rules).ok()?;
        let (known, unknown) = habits.reads();
        let reads = known + unknown;
        if reads < 1.0 {
            return None;
        }
        // By the messages that more of the reads were learned from: those that say how many readers they expect, or not.
        let share = |age: Duration| habits.share_read_by(age, known >= unknown);
        let lifetime = habits.lifetime(rules);
        let measured = habits.measured();
        let points = (0..=POINTS_A_DECADE * DECADES).map(|point| {
            let age = 10_f64.powf(f64::from(point) / f64::from(POINTS_A_DECADE));
            [age, share(Duration::from_secs_f64(age))]
        });
        Some(Self {
            reads,
            key_lifetime_s: lifetime.as_secs_f64(),
            calls_per_message: measured.map(|measured| measured.calls_per_message),
            mean_delay_s: measured
                .and_then(|measured| measured.mean_delay)
                .map(|delay| delay.as_secs_f64()),
            read_curve: points.collect(),
            plot: read_curve(share, lifetime),
        })
    }
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "share of the readers that have read, by the message's age; from {:.0} reads",
            self.reads
        )?;
        f.write_str(&self.plot)?;
        if let (Some(calls), Some(delay)) = (self.calls_per_message, self.mean_delay_s) {
            let delay = rounded(Duration::from_secs_f64(delay));
            writeln!(
                f,
                "  {calls:.1} calls for each message; a read is noticed {delay} later on average"
            )?;
        }
        Ok(())
    }
}
