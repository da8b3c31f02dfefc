//! Counts of rows by lane, gathered from several statements.

use std::collections::BTreeMap;

use super::cells::{Cells, Source};
use super::{LaneTotals, earliest};
use crate::receipt::{LaneId, State, UnixMs};

/// The counts so far.
#[derive(Default)]
pub(super) struct Totals(BTreeMap<LaneId, LaneTotals>);

impl Totals {
    /// Adds a row of: the lane, how many are pending, how many of them due, and when the first is.
    pub(super) fn add_pending(&mut self, cells: &mut Cells<impl Source>, now: UnixMs) {
        let lane = cells.lane();
        let (pending, due) = (cells.count("pending"), cells.count("due"));
        let first = cells.moment("first").filter(|first| *first <= now);
        if cells.invalid.is_none() {
            let totals = self.of(lane);
            totals.pending += pending;
            totals.due += due;
            totals.oldest_due = earliest(totals.oldest_due, first);
        }
    }

    /// Adds a row of: the lane, a final state, and how many are in it.
    pub(super) fn add_finished(&mut self, cells: &mut Cells<impl Source>) {
        let lane = cells.lane();
        let state = cells.text("state").and_then(|word| State::parse(&word));
        let finished = cells.count("finished");
        let mut finals = State::ALL.into_iter().filter(|state| state.is_final());
        let place = finals.position(|known| Some(known) == state);
        if let (Some(place), None) = (place, cells.invalid)
            && let Some(count) = self.of(lane).finished.get_mut(place)
        {
            *count += finished;
        }
    }

    /// Of each lane that has rows.
    pub(super) fn into_lanes(self) -> Vec<LaneTotals> {
        self.0.into_values().collect()
    }

    fn of(&mut self, lane: LaneId) -> &mut LaneTotals {
        self.0.entry(lane.clone()).or_insert_with(|| LaneTotals {
            lane,
            pending: 0,
            due: 0,
            oldest_due: None,
            finished: [0; 5],
        })
    }
}
