//! What is learned of each lane and the cadence made from it, shared by the scheduler (first polls) and the reconciler
//! (next polls, and the learning).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

pub(super) use super::plan::Plan;
use super::plan::{Solved, Task};
use crate::cadence::{Basis, Habits, Rules};
use crate::receipt::{Lane, whole_ms};
use crate::settings::Settings;
use crate::store::HabitsRow;

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
    /// What the policy was solved on.
    basis: Basis,
    /// Calls a message that the lane can afford by now.
    target: f64,
    /// The lifetime of keys that the log was told last.
    told: Duration,
}

impl Learned {
    /// Habits whose policy is still to be solved; until then the prior's serves.
    fn unsolved(habits: Habits, prior: &Plan) -> Self {
        Self {
            plan: Plan::of(&prior.rules, prior.policy.clone(), &habits, prior.spread),
            habits,
            basis: Basis::prior(prior.rules.calls_per_message),
            target: prior.rules.calls_per_message,
            told: prior.rules.key_lifetime,
        }
    }

    /// Says in the log what was learned of the lifetime of keys, where that is news: a tenth more or less.
    fn tell_lifetime(&mut self, lane: &Lane, key_lifetime: Duration) {
        let lifetime = self.plan.lifetime;
        if lifetime.abs_diff(self.told) <= self.told / 10 {
            return;
        }
        self.told = lifetime;
        let spoken = |span| humantime::format_duration(Duration::from_millis(whole_ms(span)));
        tracing::info!(
            account = %lane.account,
            corp_id = lane.corp.as_ref().map(tracing::field::display),
            lifetime_ms = whole_ms(lifetime),
            key_lifetime_ms = whole_ms(key_lifetime),
            "account {lane}: keys were learned to answer for {}, key_lifetime says {}; last chances go by what was learned",
            spoken(lifetime),
            spoken(key_lifetime),
        );
    }

    fn is_stale(&self) -> bool {
        self.basis.is_stale(&self.habits, self.target)
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
                    let lane = &row.lane;
                    tracing::warn!(
                        account = %lane.account,
                        corp_id = lane.corp.as_ref().map(tracing::field::display),
                        error = %error,
                        "account {lane}: what was learned of its readers is not used, and is learned anew: {error}"
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
        self.lock().plan(lane).clone()
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
    pub(super) fn keep(&self, lane: &Lane, habits: Habits, new_messages: u32, rules: &Rules) {
        let mut kept = self.lock();
        let prior = kept.prior.clone();
        // The rules may have been changed while the commit was under way.
        let habits = if *rules == prior.rules {
            habits
        } else {
            rebinned(&habits, &prior.rules)
        };
        let learned = kept.learned(lane);
        learned.habits = habits;
        learned.basis.add(new_messages);
        let lifetime = learned.habits.lifetime(&prior.rules);
        if lifetime != learned.plan.lifetime {
            let (policy, spread) = (learned.plan.policy.clone(), learned.plan.spread);
            learned.plan = Plan::of(&prior.rules, policy, &learned.habits, spread);
            learned.tell_lifetime(lane, prior.rules.key_lifetime);
        }
        if learned.is_stale() {
            self.changed.notify_one();
        }
    }

    /// The calls a message that the lane can afford from now on.
    pub(super) fn aim(&self, lane: &Lane, target: f64) {
        let mut kept = self.lock();
        let prior = Basis::prior(kept.prior.rules.calls_per_message);
        if !kept.lanes.contains_key(lane) && !prior.is_off(target) {
            return;
        }
        let learned = kept.learned(lane);
        learned.target = target;
        if learned.is_stale() {
            self.changed.notify_one();
        }
    }

    /// How long before their moment the lane's last chances are taken from now on.
    pub(super) fn set_spread(&self, lane: &Lane, spread: Duration) {
        let mut kept = self.lock();
        if kept.plan(lane).spread == spread {
            return;
        }
        let learned = kept.learned(lane);
        let (rules, policy) = (learned.plan.rules.clone(), learned.plan.policy.clone());
        learned.plan = Plan::of(&rules, policy, &learned.habits, spread);
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
        learned.basis = Basis::of(&learned.habits, learned.target);
        Some(Task {
            lane: lane.clone(),
            habits: learned.habits.clone(),
            rules,
            target: learned.target,
        })
    }

    /// Puts a solved policy in force, unless the rules have changed meanwhile.
    pub(super) fn install(&self, solved: Solved) {
        let mut kept = self.lock();
        if solved.rules != kept.prior.rules {
            return;
        }
        if let Some(learned) = kept.lanes.get_mut(&solved.lane) {
            let spread = learned.plan.spread;
            learned.plan = Plan::of(&solved.rules, solved.policy, &solved.habits, spread);
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

impl Kept {
    fn plan(&self, lane: &Lane) -> &Arc<Plan> {
        self.lanes
            .get(lane)
            .map_or(&self.prior, |learned| &learned.plan)
    }

    /// What is learned of a lane; it begins with the prior.
    fn learned(&mut self, lane: &Lane) -> &mut Learned {
        let prior = &self.prior;
        self.lanes
            .entry(lane.clone())
            .or_insert_with(|| Learned::unsolved(Habits::prior(&prior.rules), prior))
    }
}

/// The same habits under other rules, whose grid of ages may differ.
fn rebinned(habits: &Habits, rules: &Rules) -> Habits {
    Habits::from_json(&habits.to_json(), rules).unwrap_or_else(|error| {
        tracing::warn!(
            error = %error,
            "what was learned of an account's readers does not fit the new [cadence] settings: {error}"
        );
        Habits::prior(rules)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{Message, MessageId, Outcome, UnixMs, WalkEnd, observe};
    use crate::settings;

    const DAY: Duration = Duration::from_secs(86_400);

    fn lane() -> Lane {
        Lane {
            account: "a".into(),
            corp: None,
        }
    }

    fn settings(text: &str) -> Settings {
        let path = std::path::Path::new("test.toml");
        let loaded = settings::from_text(path, text, std::iter::empty());
        loaded.unwrap().settings
    }

    /// When a message that was just sent is polled first.
    fn first_poll(plans: &Plans) -> Duration {
        let plan = plans.plan(&lane());
        let schedule = plan.schedule();
        let row = Message {
            expected_readers: Some(1),
            ..Message::inserted(MessageId(1), "key".into(), lane(), UnixMs(0))
        };
        schedule.policy.next_age(row.pending(), Duration::ZERO)
    }

    fn solve_all(plans: &Plans) -> usize {
        std::iter::from_fn(|| plans.next_task())
            .map(|task| plans.install(task.solve()))
            .count()
    }

    /// Habits of a crowd of which each reads within seconds.
    fn quick(mut habits: Habits, messages: u32) -> Habits {
        let sent_at = UnixMs(1_800_000_000_000);
        for _ in 0..messages {
            let row = Message {
                last_complete_at: Some(sent_at + Duration::from_secs(2)),
                expected_readers: Some(1),
                ..Message::inserted(MessageId(1), "key".into(), lane(), sent_at)
            };
            let at = sent_at + Duration::from_secs(4);
            let walk = Outcome {
                calls: 1,
                ..Outcome::without_call(row.claim(), at, WalkEnd::Complete)
            };
            habits.learn(&observe(&row, &walk, 1, &row).unwrap());
        }
        habits
    }

    #[test]
    fn a_smaller_target_is_solved_once_and_polls_later() {
        let plans = Plans::new(&settings(""), &[]);
        assert_eq!(solve_all(&plans), 0);
        let before = first_poll(&plans);
        plans.aim(&lane(), 12.2);
        assert_eq!(solve_all(&plans), 0, "less than 3 % is no other target");
        plans.aim(&lane(), 3.0);
        assert_eq!(solve_all(&plans), 1);
        assert!(first_poll(&plans) > before);
        plans.aim(&lane(), 3.0);
        assert_eq!(solve_all(&plans), 0);
        plans.aim(&lane(), 12.0);
        assert_eq!(solve_all(&plans), 1);
        assert_eq!(first_poll(&plans), before);
    }

    #[test]
    fn enough_new_messages_are_solved_for() {
        let plans = Plans::new(&settings(""), &[]);
        let before = first_poll(&plans);
        let (plan, habits) = plans.study(&lane());
        let few = quick(habits, 9);
        plans.keep(&lane(), few.clone(), 9, plan.rules());
        assert_eq!(solve_all(&plans), 0);
        let enough = quick(few, 1);
        plans.keep(&lane(), enough.clone(), 1, plan.rules());
        assert_eq!(solve_all(&plans), 1);
        assert!(first_poll(&plans) < before);
        // From then on, ten and a tenth of what it stands on.
        let more = quick(enough, 11);
        plans.keep(&lane(), more.clone(), 10, plan.rules());
        assert_eq!(solve_all(&plans), 0);
        plans.keep(&lane(), more, 1, plan.rules());
        assert_eq!(solve_all(&plans), 1);
    }

    #[test]
    fn new_rules_keep_what_was_learned_and_drop_what_was_solved_for_the_old_ones() {
        let plans = Plans::new(&settings(""), &[]);
        let (plan, habits) = plans.study(&lane());
        plans.keep(&lane(), quick(habits, 400), 400, plan.rules());
        let task = plans.next_task().unwrap();
        plans.reload(&settings(
            "[cadence]\nkey_lifetime = \"12h\"\nmax_interval = \"12h\"\n",
        ));
        // Solved for rules that are no longer in force.
        plans.install(task.solve());
        let plan = plans.plan(&lane());
        assert_eq!(plan.schedule().lifetime, DAY / 2);
        let (_, habits) = plans.study(&lane());
        assert!(
            (habits.reads().0 - 400.0).abs() < 1.0,
            "{:?}",
            habits.reads()
        );
        assert_eq!(solve_all(&plans), 1);
    }

    #[test]
    fn stored_habits_are_solved_for_at_once_and_what_cannot_be_read_is_learned_anew() {
        let rules = settings("").cadence;
        let stored = quick(Habits::prior(&rules), 400).to_json();
        let row = |habits: &str| HabitsRow {
            lane: lane(),
            habits: habits.to_owned(),
        };
        let plans = Plans::new(&settings(""), &[row(&stored)]);
        assert_eq!(solve_all(&plans), 1);
        let plans = Plans::new(&settings(""), &[row("{")]);
        assert_eq!(plans.study(&lane()).1.reads(), (0.0, 0.0));
    }
}
