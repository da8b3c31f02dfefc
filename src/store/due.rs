//! Which of the rows that were found are handed out, and in what order, the same way on every backend.

use std::collections::HashMap;

use super::{DueQuery, NewRows, Wanted};
use crate::receipt::{LaneId, Message};

impl DueQuery<'_> {
    /// Puts the rows in the order that is wanted, and leaves of each lane as many as are wanted.
    pub(super) fn choose(&self, rows: &mut Vec<Message>) {
        let until = self.last_chances_until;
        match self.wanted {
            Wanted::SoundShuffled => fastrand::shuffle(rows),
            Wanted::Failing => rows.sort_by_key(|row| row.next_poll_at),
            Wanted::Sound | Wanted::LastChances => rows.sort_by_key(|row| {
                let last_chance = row.last_chance_at.filter(|at| *at <= until);
                (last_chance.is_none(), last_chance.or(row.next_poll_at))
            }),
        }
        // Of a lane there may be so many last chances, and as many others.
        let mut taken: HashMap<LaneId, usize> = HashMap::with_capacity(self.lanes.len());
        rows.retain(|row| {
            let taken = match taken.get_mut(&row.lane) {
                Some(taken) => taken,
                None => taken.entry(row.lane.clone()).or_default(),
            };
            *taken += 1;
            *taken <= self.per_lane
        });
    }
}

impl NewRows {
    /// Rows that were found behind the lane `after`; `more`: as many as were asked for, the unreadable ones included.
    pub(super) fn of(mut rows: Vec<Message>, more: bool, after: Option<&LaneId>) -> Self {
        rows.sort_by(|a, b| (&a.lane, a.id).cmp(&(&b.lane, b.id)));
        let last = || rows.last().map(|row| row.lane.clone());
        let next = more.then(|| last().or(after.cloned())).flatten();
        Self { rows, next }
    }
}
