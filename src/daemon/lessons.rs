//! What one batch teaches, lane by lane, until its commit is done.

use std::collections::HashMap;
use std::sync::Arc;

use super::plans::{Plan, Plans};
use crate::receipt::{self, LaneId, UnixMs};
use crate::store::HabitsRow;

/// Works on copies: a batch that is not committed teaches nothing.
#[derive(Default)]
pub(super) struct Lessons(HashMap<LaneId, Lesson>);

/// A lane's lesson, and the plan that its rows are settled by.
pub(super) struct Lesson {
    pub(super) plan: Arc<Plan>,
    pub(super) taught: receipt::Lesson,
}

impl Lessons {
    /// The lesson of a lane, up to `now` if it begins here.
    pub(super) fn of(&mut self, lane: &LaneId, plans: &Plans, now: UnixMs) -> &mut Lesson {
        self.0.entry(lane.clone()).or_insert_with(|| {
            let (plan, habits) = plans.study(lane);
            let taught = receipt::Lesson::begin(habits, now, plan.rules().memory);
            Lesson { plan, taught }
        })
    }

    /// The habits of the lanes that learned.
    pub(super) fn rows(&self) -> Vec<HabitsRow> {
        let learned = |(lane, lesson): (&LaneId, &Lesson)| {
            Some(HabitsRow {
                lane: lane.clone(),
                habits: lesson.taught.learned()?.to_json(),
            })
        };
        self.0.iter().filter_map(learned).collect()
    }

    /// The batch is committed: what it taught is kept.
    pub(super) fn keep(self, plans: &Plans) {
        for (lane, lesson) in self.0 {
            if let Some((habits, new_messages)) = lesson.taught.into_learned() {
                plans.keep(&lane, habits, new_messages, lesson.plan.rules());
            }
        }
    }
}
