//! What the daemon publishes of itself: on a channel for its own process, and in a small file for the commands.

use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::receipt::{LaneId, UnixMs, whole_ms};
use crate::store::{CallCount, LaneTotals, WriteAheadLog};

/// What the daemon publishes of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The daemon's process.
    pub pid: u32,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds; older than a few beats means that the daemon hangs or is gone.
    pub updated_at: i64,
    /// Claims that are out.
    pub in_flight: usize,
    /// Each core loop, and how long ago it turned.
    pub loops: Vec<LoopBeat>,
    /// What the table held when it was counted last; absent before the first summary.
    pub backlog: Option<Backlog>,
    /// Each lane that was met, and those with pending messages that no configuration serves.
    pub lanes: Vec<LaneCondition>,
    /// Each budget that a lane was met of.
    #[serde(default)]
    pub budgets: Vec<BudgetCondition>,
    /// The settings, read again.
    #[serde(default)]
    pub reloads: Reloads,
}

/// How often the settings were read again since the start, and how that ended the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloads {
    /// Attempts.
    pub count: u64,
    /// Why the last attempt left the old settings in force.
    pub refused: Option<String>,
}

/// When a core loop turned last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoopBeat {
    /// Its name.
    pub name: String,
    /// Milliseconds before `updated_at`.
    pub turned_ms_ago: u64,
}

/// Counts over the table, as of the last summary.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Backlog {
    /// Unix milliseconds of the count.
    pub counted_at: i64,
    /// Pending messages.
    pub pending: u64,
    /// Of those, messages whose poll is due.
    pub due: u64,
    /// For how many milliseconds the one is due that is due longest.
    pub lag_ms: u64,
    /// The size of the write-ahead log.
    pub wal_bytes: u64,
    /// How much of it a foreign transaction holds back from the file.
    #[serde(default)]
    pub wal_held_bytes: u64,
    /// Metered calls of the month (UTC+8), of all lanes.
    #[serde(default)]
    pub calls_this_month: u64,
    /// Lanes with pending messages, for the publisher to say which of them no configuration serves.
    #[serde(skip)]
    pub waiting: Vec<LaneId>,
}

/// A feeder may write any account's name; so many lanes are enough to show that something is wrong.
const MOST_WAITING: usize = 100;

impl Backlog {
    pub(super) fn of(
        totals: &[LaneTotals],
        calls: &[CallCount],
        now: UnixMs,
        wal: WriteAheadLog,
    ) -> Self {
        let oldest = totals.iter().filter_map(|lane| lane.oldest_due).min();
        let lag_ms = oldest.map_or(0, |at| whole_ms(now.since(at)));
        Self {
            counted_at: now.0,
            pending: totals.iter().map(|lane| lane.pending).sum(),
            due: totals.iter().map(|lane| lane.due).sum(),
            lag_ms,
            wal_bytes: wal.bytes,
            wal_held_bytes: wal.held_bytes,
            calls_this_month: calls.iter().map(|count| count.calls).sum(),
            waiting: totals
                .iter()
                .filter(|lane| lane.pending > 0)
                .map(|lane| lane.lane.clone())
                .take(MOST_WAITING)
                .collect(),
        }
    }
}

/// How a lane fares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneCondition {
    /// Its account.
    pub account: String,
    /// Its organisation, for third-party apps.
    pub corp_id: Option<String>,
    /// `ok`, `throttled`, `blocked`, `quota`, `unreachable` or `unconfigured`.
    pub condition: String,
    /// The code that closed it.
    pub code: Option<String>,
    /// Unix milliseconds of its last answered call.
    pub last_success_at: Option<i64>,
    /// The month (`YYYY-MM`, UTC+8) of its last metered call …
    #[serde(default)]
    pub month: String,
    /// … and its metered calls in that month, those included whose result is not written yet.
    #[serde(default)]
    pub calls: u64,
}

/// How a budget stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BudgetCondition {
    /// `account NAME` or `budget NAME`.
    pub name: String,
    /// Metered calls that the month may cost.
    pub monthly_calls: u64,
    /// Metered calls made this month.
    pub spent: u64,
    /// Last chances that the month still owes.
    pub owed: u64,
    /// Calls a message that the cadence aims at now.
    pub calls_per_message: f64,
    /// Where the month's spend will end at its present rate.
    pub forecast: u64,
}

/// The largest file that is read: some hundred bytes a lane.
const LARGEST: u64 = 64 << 20;

impl Published {
    /// What was published in the file at `path`; `None` where nothing is there or it makes no sense. Feeders may write to
    /// that directory: a pipe there is not waited for, and a file without end is not read to its end.
    pub fn read(path: &Path) -> Option<Self> {
        if !std::fs::metadata(path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).ok()?;
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// What the lanes had called in `month` beyond what is `counted`.
    pub(super) fn unwritten(&self, month: &str, counted: &[CallCount]) -> Vec<CallCount> {
        let of_month = self.lanes.iter().filter(|lane| lane.month == month);
        of_month
            .filter_map(|published| {
                let lane = LaneId {
                    account: published.account.as_str().into(),
                    corp: published.corp_id.as_deref().map(Into::into),
                };
                let written = counted.iter().find(|count| count.lane == lane);
                let calls = published
                    .calls
                    .saturating_sub(written.map_or(0, |count| count.calls));
                (calls > 0).then(|| CallCount {
                    calls,
                    ..CallCount::nothing(lane, month.to_owned())
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_killed_daemon_are_those_that_no_row_counts() {
        let lane = |account: &str, month: &str, calls| LaneCondition {
            account: account.to_owned(),
            corp_id: None,
            condition: "ok".to_owned(),
            code: None,
            last_success_at: None,
            month: month.to_owned(),
            calls,
        };
        let published = Published {
            pid: 1,
            started_at: 0,
            updated_at: 0,
            in_flight: 0,
            loops: Vec::new(),
            backlog: None,
            lanes: vec![
                lane("a", "2026-11", 7),
                lane("b", "2026-11", 3),
                lane("c", "2026-10", 9),
            ],
            budgets: Vec::new(),
            reloads: Reloads::default(),
        };
        let count = |account: &str, calls| {
            let lane = LaneId {
                account: account.into(),
                corp: None,
            };
            CallCount {
                calls,
                ..CallCount::nothing(lane, "2026-11".to_owned())
            }
        };
        let counted = [count("a", 5), count("b", 4)];
        assert_eq!(published.unwritten("2026-11", &counted), [count("a", 2)]);
        // Counted once, they are not counted again.
        let counted = [count("a", 7), count("b", 4)];
        assert_eq!(published.unwritten("2026-11", &counted), []);
    }
}
