//! One lane's policy with what goes with it, and how another is solved.

use std::sync::Arc;
use std::time::Duration;

use crate::cadence::{Habits, Policy, Rules};
use crate::receipt::{LaneId, Schedule};

/// One policy with the rules it was made from.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) rules: Rules,
    pub(super) policy: Policy,
    pub(super) lifetime: Duration,
    pub(super) spread: Duration,
}

impl Plan {
    pub(super) fn prior(rules: &Rules) -> Arc<Self> {
        Arc::new(Self {
            policy: Policy::prior(rules),
            lifetime: rules.key_lifetime,
            spread: Duration::ZERO,
            rules: rules.clone(),
        })
    }

    pub(super) fn of(
        rules: &Rules,
        policy: Policy,
        habits: &Habits,
        spread: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            policy,
            lifetime: habits.lifetime(rules),
            spread,
            rules: rules.clone(),
        })
    }

    /// When messages are polled.
    pub(super) fn schedule(&self) -> Schedule<'_> {
        Schedule {
            rules: &self.rules,
            policy: &self.policy,
            lifetime: self.lifetime,
            spread: self.spread,
        }
    }

    /// What it was made from.
    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// A policy to be solved, away from the runtime's threads: it takes milliseconds, hundreds where groups are large.
pub(super) struct Task {
    pub(super) lane: LaneId,
    pub(super) habits: Habits,
    pub(super) rules: Rules,
    /// Calls a message.
    pub(super) target: f64,
}

/// A solved [`Task`].
pub(super) struct Solved {
    pub(super) lane: LaneId,
    pub(super) rules: Rules,
    pub(super) habits: Habits,
    pub(super) policy: Policy,
}

impl Task {
    pub(super) fn solve(self) -> Solved {
        Solved {
            policy: Policy::solve(&self.habits, &self.rules, self.target),
            lane: self.lane,
            rules: self.rules,
            habits: self.habits,
        }
    }
}
