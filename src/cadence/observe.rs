//! What a walk teaches.

use std::time::Duration;

use super::curve::Kind;
use crate::receipt::{Message, Missing, Outcome, State, UnixMs, WalkEnd};

/// What one walk teaches of a lane's habits.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When the walk began.
    pub at: UnixMs,
    /// Metered calls that it made.
    pub calls: u32,
    pub(super) at_age: Duration,
    /// On a message's first walk: how many readers it waited for.
    pub(super) begins: Option<Missing>,
    /// Every page was read.
    pub(super) complete: bool,
    /// The key had answered at this age and does no longer.
    pub(super) expired_after: Option<Duration>,
    pub(super) sight: Option<Sight>,
}

/// Reads that lie in an interval of age.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sight {
    pub(super) kind: Kind,
    pub(super) from: Duration,
    pub(super) to: Duration,
    pub(super) new_readers: u32,
    /// Readers (or the one message) that were waited for throughout.
    pub(super) waiting: u32,
    /// It tells of those who did not read, too.
    pub(super) complete: bool,
}

impl Observation {
    /// What `outcome` teaches, which found the row as `before` and left it as `after`; `None` where it made no call.
    pub fn of(
        before: &Message,
        outcome: &Outcome,
        new_readers: u32,
        after: &Message,
    ) -> Option<Self> {
        if outcome.calls == 0 {
            return None;
        }
        let at_age = before.age(outcome.started_at);
        let last_answer = before.last_complete_at.or(before.answered_at);
        let gone = matches!(outcome.end, WalkEnd::NotGeneratedOrExpired(_));
        Some(Self {
            at: outcome.started_at,
            calls: outcome.calls,
            at_age,
            begins: before.last_polled_at.is_none().then(|| before.missing()),
            complete: outcome.end == WalkEnd::Complete,
            expired_after: last_answer
                .filter(|_| gone && after.state == State::Expired)
                .map(|answered| before.age(answered)),
            sight: sight(before, outcome, new_readers),
        })
    }
}

/// A complete walk tells of those who read and of those who did not. One that was cut short tells only of the former: it
/// is the next complete walk, over an interval that begins at the same moment, that tells of the rest.
fn sight(before: &Message, outcome: &Outcome, new_readers: u32) -> Option<Sight> {
    let complete = outcome.end == WalkEnd::Complete;
    if !complete && new_readers == 0 {
        return None;
    }
    let (kind, waiting) = match before.expected_readers {
        Some(expected) => {
            let seen = before.reader_count.saturating_add(new_readers);
            (Kind::PerReader, expected.saturating_sub(seen))
        }
        None => (Kind::PerMessage, 1),
    };
    let from = before.last_complete_at.unwrap_or(before.sent_at);
    Some(Sight {
        kind,
        from: before.age(from),
        to: before.age(outcome.started_at),
        new_readers,
        waiting: if complete { waiting } else { 0 },
        complete,
    })
}
