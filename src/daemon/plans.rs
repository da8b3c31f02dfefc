//! What is learned of each lane and the cadence made from it, shared by the scheduler (first polls) and the reconciler
//! (next polls, and the learning).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::receipt::cadence::{Habits, Policy, Rules};
use crate::receipt::{Lane, Schedule};
use crate::settings::Settings;
use crate::store::HabitsRow;

/// A lane's policy is solved anew after so many messages, and a tenth of those that it stands on already.
const FEWEST_NEW: f64 = 50.0;
const NEW_SHARE: f64 = 0.1;

/// The plans and habits of all lanes.
#[derive(Debug)]
pub(super) struct Plans {
    kept: Mutex<Kept>,
    /// There may be a policy to solve.
    changed: Notify,
}

#[derive(Debug)]
struct Kept {
    /// For a lane of which nothing was learned; its policy is solved once for all of them.
    prior: Arc<Plan>,
    lanes: HashMap<Lane, Learned>,
}

#[derive(Debug)]
struct Learned {
    habits: Habits,
    plan: Arc<Plan>,
    /// Messages first polled since the policy was solved.
    new_messages: u32,
    /// Messages that the policy stands on; `None` where it is still the prior's.
    solved_on: Option<f64>,
}

/// One policy with the rules it was made from.
#[derive(Debug)]
pub(super) struct Plan {
    rules: Rules,
    policy: Policy,
    lifetime: Duration,
}

impl Plan {
    fn prior(rules: &Rules) -> Arc<Self> {
        Arc::new(Self {
            policy: Policy::prior(rules),
            lifetime: rules.key_lifetime,
            rules: rules.clone(),
        })
    }

    fn of(rules: &Rules, policy: Policy, habits: &Habits) -> Arc<Self> {
        Arc::new(Self {
            policy,
            lifetime: habits.lifetime(rules),
            rules: rules.clone(),
        })
    }

    /// When messages are polled.
    pub(super) fn schedule(&self) -> Schedule<'_> {
        Schedule {
            rules: &self.rules,
            policy: &self.policy,
            lifetime: self.lifetime,
            spread: Duration::ZERO,
        }
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }
}

/// A policy to be solved, away from the runtime's threads: it takes milliseconds, hundreds where groups are large.
pub(super) struct Task {
    lane: Lane,
    habits: Habits,
    rules: Rules,
}

/// A solved [`Task`].
pub(super) struct Solved {
    lane: Lane,
    plan: Arc<Plan>,
    on: f64,
}

impl Task {
    pub(super) fn solve(self) -> Solved {
        let policy = Policy::solve(&self.habits, &self.rules, self.rules.calls_per_message);
        Solved {
            plan: Plan::of(&self.rules, policy, &self.habits),
            on: messages(&self.habits),
            lane: self.lane,
        }
    }
}

impl Learned {
    /// Habits whose policy is still to be solved; until then the prior's serves.
    fn unsolved(habits: Habits, prior: &Plan) -> Self {
        Self {
            plan: Plan::of(&prior.rules, prior.policy.clone(), &habits),
            habits,
            new_messages: 0,
            solved_on: None,
        }
    }

    fn is_stale(&self) -> bool {
        let enough = match self.solved_on {
            Some(on) => FEWEST_NEW + NEW_SHARE * on,
            // Stored habits, or other rules: solved at once where they tell enough.
            None if messages(&self.habits) >= FEWEST_NEW => return true,
            None => FEWEST_NEW,
        };
        f64::from(self.new_messages) >= enough
    }
}

impl Plans {
    /// Begins with what was stored; what cannot be read is learned anew.
    pub(super) fn new(settings: &Settings, stored: &[HabitsRow]) -> Self {
        let prior = Plan::prior(&settings.cadence);
        let lanes = stored
            .iter()
            .filter_map(|row| match Habits::from_json(&row.habits, &prior.rules) {
                Ok(habits) => Some((row.lane.clone(), Learned::unsolved(habits, &prior))),
                Err(error) => {
                    tracing::warn!(
                        account = %row.lane.account,
                        "what was learned of the readers of account {} is not used, and is learned anew: {error}",
                        row.lane.account
                    );
                    None
                }
            })
            .collect();
        Self {
            kept: Mutex::new(Kept { prior, lanes }),
            changed: Notify::new(),
        }
    }

    /// The plan in force for a lane.
    pub(super) fn plan(&self, lane: &Lane) -> Arc<Plan> {
        let kept = self.lock();
        let learned = kept.lanes.get(lane).map(|learned| &learned.plan);
        learned.unwrap_or(&kept.prior).clone()
    }

    /// A lane's plan, and a copy of its habits to learn with.
    pub(super) fn study(&self, lane: &Lane) -> (Arc<Plan>, Habits) {
        let kept = self.lock();
        match kept.lanes.get(lane) {
            Some(learned) => (learned.plan.clone(), learned.habits.clone()),
            None => (kept.prior.clone(), Habits::prior(&kept.prior.rules)),
        }
    }

    /// Keeps habits that are committed, which `new_messages` more messages have taught under `rules`.
    pub(super) fn keep(&self, lane: Lane, habits: Habits, new_messages: u32, rules: &Rules) {
        let mut kept = self.lock();
        let prior = kept.prior.clone();
        // The rules may have been changed while the commit was under way.
        let habits = if *rules == prior.rules {
            habits
        } else {
            rebinned(&habits, &prior.rules)
        };
        let learned = kept
            .lanes
            .entry(lane)
            .or_insert_with(|| Learned::unsolved(Habits::prior(&prior.rules), &prior));
        learned.habits = habits;
        learned.new_messages = learned.new_messages.saturating_add(new_messages);
        let lifetime = learned.habits.lifetime(&prior.rules);
        if lifetime != learned.plan.lifetime {
            let policy = learned.plan.policy.clone();
            learned.plan = Plan::of(&prior.rules, policy, &learned.habits);
        }
        if learned.is_stale() {
            self.changed.notify_one();
        }
    }

    /// Resolves when there may be a policy to solve.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The next policy to solve, if any; its lane counts as served.
    pub(super) fn next_task(&self) -> Option<Task> {
        let mut kept = self.lock();
        let rules = kept.prior.rules.clone();
        let (lane, learned) = kept.lanes.iter_mut().find(|(_, l)| l.is_stale())?;
        learned.new_messages = 0;
        learned.solved_on = Some(messages(&learned.habits));
        Some(Task {
            lane: lane.clone(),
            habits: learned.habits.clone(),
            rules,
        })
    }

    /// Puts a solved policy in force, unless the rules have changed meanwhile.
    pub(super) fn install(&self, solved: Solved) {
        let mut kept = self.lock();
        if solved.plan.rules != kept.prior.rules {
            return;
        }
        if let Some(learned) = kept.lanes.get_mut(&solved.lane) {
            learned.plan = solved.plan;
            learned.solved_on = Some(solved.on);
        }
    }

    /// Takes new rules; what was learned stays.
    pub(super) fn reload(&self, settings: &Settings) {
        let mut kept = self.lock();
        if kept.prior.rules == settings.cadence {
            return;
        }
        let prior = Plan::prior(&settings.cadence);
        for learned in kept.lanes.values_mut() {
            *learned = Learned::unsolved(rebinned(&learned.habits, &prior.rules), &prior);
        }
        kept.prior = prior;
        drop(kept);
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many messages habits stand on, beyond the prior.
fn messages(habits: &Habits) -> f64 {
    habits.measured().map_or(0.0, |measured| measured.messages)
}

/// The same habits under other rules, whose grid of ages may differ.
fn rebinned(habits: &Habits, rules: &Rules) -> Habits {
    Habits::from_json(&habits.to_json(), rules).unwrap_or_else(|error| {
        tracing::warn!("what was learned does not fit the new [cadence] settings: {error}");
        Habits::prior(rules)
    })
}
