//! What one batch teaches, lane by lane, until its commit is done.

use std::collections::HashMap;
use std::sync::Arc;

use super::plans::{Plan, Plans};
use crate::receipt::cadence::{Habits, Observation};
use crate::receipt::{Lane, Message, Outcome, UnixMs};
use crate::store::HabitsRow;

/// Works on copies: a batch that is not committed teaches nothing.
#[derive(Default)]
pub(super) struct Lessons(HashMap<Lane, Lesson>);

pub(super) struct Lesson {
    pub(super) plan: Arc<Plan>,
    habits: Habits,
    walks: u32,
    new_messages: u32,
}

impl Lessons {
    /// The lesson of a lane, up to `now` if it begins here.
    pub(super) fn of(&mut self, lane: &Lane, plans: &Plans, now: UnixMs) -> &mut Lesson {
        self.0.entry(lane.clone()).or_insert_with(|| {
            let (plan, mut habits) = plans.study(lane);
            habits.forget_until(now, plan.rules().memory);
            Lesson {
                plan,
                habits,
                walks: 0,
                new_messages: 0,
            }
        })
    }

    /// The habits of the lanes that learned.
    pub(super) fn rows(&self) -> Vec<HabitsRow> {
        let learned = self.0.iter().filter(|(_, lesson)| lesson.walks > 0);
        learned
            .map(|(lane, lesson)| HabitsRow {
                lane: lane.clone(),
                habits: lesson.habits.to_json(),
            })
            .collect()
    }

    /// The batch is committed: what it taught is kept.
    pub(super) fn keep(self, plans: &Plans) {
        for (lane, lesson) in self.0 {
            if lesson.walks > 0 {
                plans.keep(
                    &lane,
                    lesson.habits,
                    lesson.new_messages,
                    lesson.plan.rules(),
                );
            }
        }
    }
}

impl Lesson {
    pub(super) fn learn(
        &mut self,
        before: &Message,
        outcome: &Outcome,
        new_readers: u32,
        after: &Message,
    ) {
        if let Some(seen) = Observation::of(before, outcome, new_readers, after) {
            self.habits.learn(&seen);
            self.walks += 1;
            self.new_messages += u32::from(before.last_polled_at.is_none());
        }
    }
}
