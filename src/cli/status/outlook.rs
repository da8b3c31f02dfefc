//! What was learned of an account's readers, what its calls bring, and where its month will end.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cadence::Month;
use crate::cadence::{Expected, Habits, Policy, Rules, read_curve};
use crate::daemon::{MonthCounts, budget_of};
use crate::receipt::{LaneId, QuotaMonth, UnixMs, whole_ms};
use crate::settings::Settings;
use crate::store::Store;
use crate::store::{CallCount, LaneTotals};

/// Ages of the read curve in JSON: so many for each tenfold.
const POINTS_A_DECADE: i32 = 4;
/// From a second to this many tenfolds of it: eleven days and a half.
const DECADES: i32 = 6;
/// Plots shown as text; more would bury the table, and `--json` has them all.
const MOST_PLOTS: usize = 5;

/// One lane's.
pub(super) struct Outlook {
    pub(super) lane: LaneId,
    habits: Habits,
    rules: Rules,
    policy: Policy,
    /// Metered calls of the month.
    calls: u64,
    month: String,
    /// The name and the month of its budget.
    budget: Option<(String, Month)>,
}

/// The outlook of every lane with messages, a month of calls or habits.
pub(super) async fn of(
    store: &dyn Store,
    settings: &Settings,
    lanes: &[LaneTotals],
    calls: &[CallCount],
    now: UnixMs,
) -> anyhow::Result<Vec<Outlook>> {
    let rules = &settings.cadence;
    let stored = store.all_habits().await?;
    let quota_month = QuotaMonth::of(now);
    let counts = MonthCounts {
        this_month: calls.to_vec(),
        before: store.calls_in(&quota_month.before().to_string()).await?,
        owed: store.owed(quota_month.ends_at()).await?,
    };
    let outlooks = lanes.iter().map(|totals| {
        let lane = &totals.lane;
        let row = stored.iter().find(|row| row.lane == *lane);
        // What cannot be read is learned anew by the daemon, which says so.
        let habits = row
            .and_then(|row| Habits::from_json(&row.habits, rules).ok())
            .unwrap_or_else(|| Habits::prior(rules));
        let of_lane = calls.iter().filter(|count| count.lane == *lane);
        let budget = budget_of(settings, lane, counts.clone(), now);
        let target = budget
            .as_ref()
            .map_or(rules.calls_per_message, |(_, month)| month.target(rules));
        Outlook {
            lane: lane.clone(),
            policy: Policy::solve(&habits, rules, target),
            habits,
            rules: rules.clone(),
            calls: of_lane.map(|count| count.calls).sum(),
            month: quota_month.to_string(),
            budget,
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

    fn target(&self) -> f64 {
        let budget = self.budget.as_ref();
        budget.map_or(self.rules.calls_per_message, |(_, month)| {
            month.target(&self.rules)
        })
    }

    fn reads(&self) -> f64 {
        let (known, unknown) = self.habits.reads();
        known + unknown
    }

    fn share_read_by(&self, age: Duration) -> f64 {
        self.habits.share_read_by(age, self.is_known())
    }

    pub(super) fn to_json(&self) -> Value {
        let expected = self.expected();
        let measured = self.habits.measured();
        let points = (0..=POINTS_A_DECADE * DECADES).map(|point| {
            let age = 10_f64.powf(f64::from(point) / f64::from(POINTS_A_DECADE));
            json!([age, self.share_read_by(Duration::from_secs_f64(age))])
        });
        json!({
            "reads_learned_from": self.reads(),
            "key_lifetime_s": self.habits.lifetime(&self.rules).as_secs_f64(),
            "read_curve": points.collect::<Vec<_>>(),
            "calls_per_message": {
                "target": self.target(),
                "expected": expected.calls_per_message,
                "measured": measured.map(|measured| measured.calls_per_message),
            },
            "mean_delay_s": {
                "expected": expected.mean_delay.as_secs_f64(),
                "measured": measured.and_then(|measured| Some(measured.mean_delay?.as_secs_f64())),
            },
            "budget": self.budget.as_ref().map(|(name, month)| json!({
                "name": name,
                "monthly_calls": month.budget,
                "spent": month.spent,
                "owed": month.owed,
                "forecast": month.forecast(&self.rules),
            })),
        })
    }

    fn to_text(&self) -> String {
        let expected = self.expected();
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
        let (calls, month) = (self.calls, &self.month);
        let _ = match &self.budget {
            Some((name, budget)) => writeln!(
                text,
                "  {name}: {} of {} calls spent in {month}, it ends at about {}; {:.1} calls a message are left",
                budget.spent,
                budget.budget,
                budget.forecast(&self.rules),
                self.target(),
            ),
            None => writeln!(text, "  {calls} calls in {month}"),
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
