//! What was learned of an account's readers, what its calls bring, and where its month will end.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cadence::{Expected, Habits, Policy, Rules, read_curve};
use crate::daemon::{Counted, Standing, standing};
use crate::receipt::{Lane, UnixMs, whole_ms};
use crate::settings::Settings;
use crate::store::sqlite::SqliteStore;
use crate::store::{CallCount, LaneTotals, Store as _};

/// Ages of the read curve in JSON: so many for each tenfold.
const POINTS_A_DECADE: i32 = 4;
/// From a second to this many tenfolds of it: eleven days and a half.
const DECADES: i32 = 6;
/// Plots shown as text; more would bury the table, and `--json` has them all.
const MOST_PLOTS: usize = 5;

/// One lane's.
pub(super) struct Outlook {
    pub(super) lane: Lane,
    habits: Habits,
    rules: Rules,
    policy: Policy,
    standing: Standing,
}

/// The outlook of every lane with messages, a month of calls or habits.
pub(super) async fn of(
    store: &SqliteStore,
    settings: &Settings,
    lanes: &[LaneTotals],
    calls: &[CallCount],
    now: UnixMs,
) -> anyhow::Result<Vec<Outlook>> {
    let rules = &settings.cadence;
    let stored = store.habits().await?;
    let month_before = (now.quota_month_start() - Duration::from_secs(1)).quota_month();
    let before = store.calls_in(&month_before).await?;
    let mut counted = Vec::with_capacity(lanes.len());
    for totals in lanes {
        let lane = &totals.lane;
        counted.push(Counted {
            lane,
            this_month: calls.iter().find(|count| count.lane == *lane),
            before: before.iter().find(|count| count.lane == *lane),
            owed: store.owed(lane, now.next_quota_month()).await?.until,
        });
    }
    let outlooks = counted.iter().map(|of_lane| {
        let lane = of_lane.lane;
        let row = stored.iter().find(|row| row.lane == *lane);
        // What cannot be read is learned anew by the daemon, which says so.
        let habits = row
            .and_then(|row| Habits::from_json(&row.habits, rules).ok())
            .unwrap_or_else(|| Habits::prior(rules));
        let standing = standing(settings, lane, &counted, now);
        Outlook {
            lane: lane.clone(),
            policy: Policy::solve(&habits, rules, standing.month.target(rules)),
            habits,
            rules: rules.clone(),
            standing,
        }
    });
    Ok(outlooks.collect())
}

impl Outlook {
    /// Whether most reads were learned from messages that say how many readers they expect.
    fn is_known(&self) -> bool {
        let (known, unknown) = self.habits.reads();
        known >= unknown
    }

    fn expected(&self) -> Expected {
        match self.is_known() {
            true => self.policy.expected(),
            false => self.policy.expected_unknown(),
        }
    }

    fn reads(&self) -> f64 {
        let (known, unknown) = self.habits.reads();
        known + unknown
    }

    fn share_read_by(&self, age: Duration) -> f64 {
        self.habits.share_read_by(age, self.is_known())
    }

    /// The month's budget, if it has one.
    fn budget(&self) -> Option<u64> {
        Some(self.standing.month.budget).filter(|calls| *calls < u64::MAX)
    }

    pub(super) fn to_json(&self) -> Value {
        let expected = self.expected();
        let measured = self.habits.measured();
        let month = &self.standing.month;
        let points = (0..=POINTS_A_DECADE * DECADES).map(|point| {
            let age = 10_f64.powf(f64::from(point) / f64::from(POINTS_A_DECADE));
            json!([age, self.share_read_by(Duration::from_secs_f64(age))])
        });
        json!({
            "reads_learned_from": self.reads(),
            "key_lifetime_s": self.habits.lifetime(&self.rules).as_secs_f64(),
            "read_curve": points.collect::<Vec<_>>(),
            "calls_per_message": {
                "target": month.target(&self.rules),
                "expected": expected.calls_per_message,
                "measured": measured.map(|measured| measured.calls_per_message),
            },
            "mean_delay_s": {
                "expected": expected.mean_delay.as_secs_f64(),
                "measured": measured.and_then(|measured| Some(measured.mean_delay?.as_secs_f64())),
            },
            "budget": {
                "name": self.budget().map(|_| &self.standing.name),
                "monthly_calls": self.budget(),
                "spent": month.spent,
                "owed": month.owed,
                "forecast": month.forecast(&self.rules),
            },
        })
    }

    fn to_text(&self) -> String {
        let expected = self.expected();
        let month = &self.standing.month;
        let mut text = format!("\n{}", self.lane);
        // Writing to a String cannot fail, here and below.
        let _ = match self.reads() {
            reads if reads < 1.0 => {
                writeln!(text, ": nothing is learned of its readers yet; assumed is")
            }
            reads => writeln!(
                text,
                ": share of the readers that have read by an age, learned from {reads:.0} reads"
            ),
        };
        let lifetime = self.habits.lifetime(&self.rules);
        text += &read_curve(|age| self.share_read_by(age), lifetime);
        let measured = self.habits.measured();
        let of_measured = |say: &dyn Fn(crate::cadence::Measured) -> String| {
            measured.map_or_else(|| "nothing measured yet".to_owned(), say)
        };
        let _ = writeln!(
            text,
            "  calls a message: {:.1} expected, {}",
            expected.calls_per_message,
            of_measured(&|measured| format!("{:.1} measured", measured.calls_per_message)),
        );
        let _ = writeln!(
            text,
            "  from a read to its sight: {} expected, {}",
            spoken(expected.mean_delay),
            measured
                .and_then(|measured| measured.mean_delay)
                .map_or_else(
                    || "no read seen yet".to_owned(),
                    |delay| format!("{} measured", spoken(delay))
                ),
        );
        let forecast = month.forecast(&self.rules);
        let _ = match self.budget() {
            Some(calls) => writeln!(
                text,
                "  {}: {} of {calls} calls spent in {}, it ends at about {forecast}; {:.1} calls a message are left",
                self.standing.name,
                month.spent,
                UnixMs(month.now).quota_month(),
                month.target(&self.rules),
            ),
            None => writeln!(
                text,
                "  {} calls spent in {}, it ends at about {forecast}; no budget",
                month.spent,
                UnixMs(month.now).quota_month(),
            ),
        };
        text
    }
}

/// A span as precise as a person wants it.
fn spoken(span: Duration) -> String {
    let rounded = match span.as_secs() {
        0..10 => Duration::from_millis(whole_ms(span)),
        seconds => Duration::from_secs(seconds),
    };
    humantime::format_duration(rounded).to_string()
}

/// The first few, in full.
pub(super) fn as_text(outlooks: &[Outlook]) -> String {
    let mut text: String = outlooks
        .iter()
        .take(MOST_PLOTS)
        .map(Outlook::to_text)
        .collect();
    if outlooks.len() > MOST_PLOTS {
        let _ = writeln!(
            text,
            "\n{} more accounts: see --json",
            outlooks.len() - MOST_PLOTS
        );
    }
    text
}
