//! What happened since the last summary: the reconciler counts, the keeper tells.

use std::sync::{Mutex, PoisonError};

use crate::store::Pruned;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counted>);

/// Numbers since the last summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Walks that made a call.
    pub(super) polls: u64,
    /// Metered calls.
    pub(super) calls: u64,
    /// Throttled calls.
    pub(super) throttled: u64,
    /// Readers recorded.
    pub(super) readers: u64,
    /// Messages that became final.
    pub(super) finished: u64,
    /// What retention removed.
    pub(super) pruned: Pruned,
    /// Lines about messages that the log was spared.
    pub(super) lines_left_out: u64,
}

impl Tally {
    pub(super) fn add(&self, more: Counted) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sum.polls += more.polls;
        sum.calls += more.calls;
        sum.throttled += more.throttled;
        sum.readers += more.readers;
        sum.finished += more.finished;
        sum.pruned.messages += more.pruned.messages;
        sum.pruned.readers += more.pruned.readers;
        sum.lines_left_out += more.lines_left_out;
    }

    /// Takes what was counted; counting begins again.
    pub(super) fn take(&self) -> Counted {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
