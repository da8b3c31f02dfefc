//! What was learned of an account's readers.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::super::common::rounded;
use crate::cadence::{Habits, Rules, read_curve, week_hours};
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
    /// The share of people that is awake in each hour of the week, from Monday, 00:00 UTC. `None`: no hour differs.
    awake_by_hour: Option<Vec<f64>>,
    #[serde(skip)]
    plot: String,
    #[serde(skip)]
    week: Option<String>,
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
        let awake = habits.awake();
        Some(Self {
            reads,
            key_lifetime_s: lifetime.as_secs_f64(),
            calls_per_message: measured.map(|measured| measured.calls_per_message),
            mean_delay_s: measured
                .and_then(|measured| measured.mean_delay)
                .map(|delay| delay.as_secs_f64()),
            read_curve: points.collect(),
            week: awake.as_ref().map(week_hours),
            awake_by_hour: awake.map(Vec::from),
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
        if let Some(week) = &self.week {
            writeln!(
                f,
                "hours of the week in which people read; empty: nobody does"
            )?;
            f.write_str(week)?;
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "in a test, a failure is a panic")]
mod tests {
    use super::*;
    use crate::cadence::{Missing, Observation};
    use crate::receipt::{AccountName, Chat, LaneId};

    const HOUR_MS: i64 = 3_600_000;

    /// What is learned in four weeks of a message an hour, each read within half an hour, but only from `morning` (UTC) on.
    fn learned(morning: i64) -> Learned {
        let rules = Rules::default();
        let mut habits = Habits::prior(&rules);
        for hour in 0..24 * 28 {
            let sent_at = (490_000 + hour) * HOUR_MS;
            let asleep = (morning - (490_000 + hour) % 24).max(0) * 2;
            for poll in 0..=asleep {
                let age = |polls: i64| Duration::from_secs(u64::try_from(polls).unwrap() * 1_800);
                let seen = poll == asleep;
                habits.learn(&Observation {
                    sent_at,
                    age: age(poll + 1),
                    seen_until: age(poll),
                    calls: 1,
                    begins: (poll == 0).then_some(Missing::Known(1)),
                    complete: true,
                    new_readers: u32::from(seen),
                    read_ages: vec![],
                    still_missing: Some(u32::from(!seen)),
                    expired_after: None,
                });
            }
            if hour % 24 == 0 {
                habits.forget_until(sent_at, rules.memory);
            }
        }
        let row = HabitsRow {
            lane: LaneId {
                account: AccountName::from("default"),
                corp: None,
            },
            chat: Chat::Private,
            habits: habits.to_json(),
            lease: None,
        };
        Learned::of(&row, &rules).unwrap()
    }

    #[test]
    fn the_hours_are_shown_where_they_differ() {
        let night = learned(8);
        let awake = night.awake_by_hour.as_ref().unwrap();
        assert_eq!(awake.len(), 168);
        assert!(awake[3] < 0.2 && awake[12] > 0.7, "{awake:?}");
        let text = night.to_string();
        assert!(text.contains("\n Mon |     "), "{text}");
        let even = learned(0);
        assert_eq!(even.awake_by_hour, None);
        assert!(!even.to_string().contains(" Mon "));
    }
}
