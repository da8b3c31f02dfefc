//! Settling and learning in one step: what a lane's outcomes make of its rows and of its habits.

use std::time::Duration;

use super::{Message, Outcome, Schedule, UnixMs, observe, settle};
use crate::cadence::Habits;

/// What one batch of a lane's outcomes teaches, until the batch is committed. It works on a copy of the habits: a batch
/// that is not committed teaches nothing, and neither does one without a walk.
#[derive(Clone, Debug)]
pub struct Lesson {
    habits: Habits,
    walks: u32,
    new_messages: u32,
}

impl Lesson {
    /// A lesson that begins at `now`, until when the past fades by `memory`.
    pub fn begin(mut habits: Habits, now: UnixMs, memory: Duration) -> Self {
        habits.forget_until(now.0, memory);
        Self {
            habits,
            walks: 0,
            new_messages: 0,
        }
    }

    /// The row as [`settle`] leaves it, and what the walk taught is learned.
    pub fn settle(
        &mut self,
        before: &Message,
        outcome: &Outcome,
        new_readers: u32,
        schedule: &Schedule<'_>,
    ) -> Message {
        let after = settle(before, outcome, new_readers, schedule);
        if let Some(seen) = observe(before, outcome, new_readers, &after) {
            self.habits.learn(&seen);
            self.walks += 1;
            self.new_messages += u32::from(before.last_polled_at.is_none());
        }
        after
    }

    /// The habits, if a walk taught anything.
    pub fn learned(&self) -> Option<&Habits> {
        (self.walks > 0).then_some(&self.habits)
    }

    /// The habits and how many messages were polled for the first time, if a walk taught anything.
    pub fn into_learned(self) -> Option<(Habits, u32)> {
        (self.walks > 0).then_some((self.habits, self.new_messages))
    }
}
