//! What is learned of one kind of message, and the watch for the day on which its readers change.
//!
//! An old habit that merely fades still weighs 1/e after one memory, and most where it hurts: a crowd that turned quick is
//! polled as a slow one. So the newest messages are counted twice, once more in a table of their own that forgets
//! fast. Each walk is foretold by both. While habits stand, the short table, being the noisier, foretells worse; when it
//! has foretold better by [`ALARM`] (Page's cumulative sum of log-likelihood ratios, 1954) the habits have changed,
//! and it takes the place of the long one.

use super::curve::{Curve, Kind};
use super::grid::Grid;
use super::observe::Observation;
use super::spread::Spread;
use super::table::Table;

/// The estimate that spreads reads is computed anew after so many walks at first, later after a larger number.
const REFRESH_FIRST: u32 = 16;
/// The recent table forgets so many times as fast: five days of the usual thirty, so that a night or a Sunday is no change.
const RECENT_FASTER: f64 = 6.0;
/// How much better, in nats, the recent table must have foretold the walks. By chance alone that happens less than once
/// in e¹² = 160,000 walks (Lorden 1971).
const ALARM: f64 = 12.0;
/// What is left then of the recent past, a part of which is from before the change.
const AT_A_CHANGE: f64 = 0.5;
/// No walk says more than so many nats for either: one odd message is no change.
const MOST_SAID: f64 = 2.0;

/// A table, the estimate that reads are spread by, which lags a little behind, and the same of the recent past.
#[derive(Clone, Debug)]
pub(super) struct Learned {
    pub(super) table: Table,
    pub(super) curve: Curve,
    since_refresh: u32,
    until_refresh: u32,
    pub(super) recent: Table,
    recent_curve: Curve,
    /// By how many nats the recent table has lately foretold better; never below zero.
    pub(super) ahead: f64,
}

impl Learned {
    pub(super) fn new(table: Table, recent: Table, ahead: f64, grid: &Grid) -> Self {
        Self {
            curve: table.curve(grid),
            table,
            since_refresh: 0,
            until_refresh: REFRESH_FIRST,
            recent_curve: recent.curve(grid),
            recent,
            ahead,
        }
    }

    pub(super) fn nothing(kind: Kind, grid: &Grid) -> Self {
        Self::new(Table::new(kind, grid), Table::new(kind, grid), 0.0, grid)
    }

    /// Takes in a walk; returns the delay of its reads in seconds, as far as the estimate tells.
    pub(super) fn add(&mut self, grid: &Grid, seen: &Observation) -> f64 {
        let interval = (seen.seen_until.as_secs_f64(), seen.age.as_secs_f64());
        let reads = f64::from(seen.new_readers);
        let waiting = match seen.complete {
            true => f64::from(seen.still_missing.unwrap_or(1)),
            false => 0.0,
        };
        if seen.complete {
            let [recent, long] = [&self.recent_curve, &self.curve]
                .map(|curve| curve.foretells(grid, interval, reads, waiting));
            let said = (recent - long).clamp(-MOST_SAID, MOST_SAID);
            self.ahead = (self.ahead + said).max(0.0);
        }
        let mut delay = 0.0;
        if let Some(spread) = Spread::new(grid, &self.curve, interval) {
            self.table.add(&spread, reads, waiting);
            delay = reads * spread.delay(interval.1);
        }
        if let Some(spread) = Spread::new(grid, &self.recent_curve, interval) {
            self.recent.add(&spread, reads, waiting);
        }
        self.since_refresh += 1;
        if self.since_refresh.is_multiple_of(REFRESH_FIRST) {
            self.recent_curve = self.recent.curve(grid);
        }
        if self.since_refresh >= self.until_refresh {
            self.curve = self.table.curve(grid);
            self.since_refresh = 0;
            // A tenth more each time: the more was learned, the less one walk changes.
            self.until_refresh = (self.until_refresh + self.until_refresh / 10 + 1).min(1_000);
        }
        if self.ahead > ALARM {
            self.change(grid);
        }
        delay
    }

    /// Lets what was learned fade: after `lives` = 1 it weighs 1/e.
    pub(super) fn fade(&mut self, lives: f64) {
        self.table.fade((-lives).exp());
        self.recent.fade((-RECENT_FASTER * lives).exp());
    }

    /// The habits have changed: only the recent past counts.
    fn change(&mut self, grid: &Grid) {
        self.recent.fade(AT_A_CHANGE);
        self.table = self.recent.clone();
        self.curve = self.table.curve(grid);
        self.recent_curve = self.curve.clone();
        (self.since_refresh, self.until_refresh) = (0, REFRESH_FIRST);
        self.ahead = 0.0;
    }
}
