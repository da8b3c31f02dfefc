//! What was learned of a lane's readers, and the schedule made from it: for each kind of chat, since people read their own
//! messages otherwise than a group's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cadence::{Basis, Habits, HabitsError, Observation, Policy, Rules};
use crate::receipt::{Chat, LaneId, Schedule, UnixMs, whole_ms};

/// A lane's habits and the schedules in force. It outlives a reload that makes its lane anew.
#[derive(Debug)]
pub(in crate::daemon) struct LanePolicy {
    lane: LaneId,
    /// In the order of [`Chat::ALL`].
    kinds: [Mutex<State>; Chat::ALL.len()],
}

#[derive(Debug)]
struct State {
    /// `None` while nothing was learned.
    habits: Option<Box<Habits>>,
    schedule: Arc<Schedule>,
    /// What the policy was solved on.
    basis: Basis,
    /// The lifetime of keys that was logged last.
    logged_lifetime: Duration,
    /// Lessons that are not stored yet.
    unsaved: bool,
    /// Whether a message of this kind was met: policies for others are not solved.
    in_use: bool,
}

/// A policy to be solved, away from the runtime's threads: it takes milliseconds, hundreds where groups are large.
pub(in crate::daemon) struct Task {
    habits: Habits,
    rules: Rules,
    /// Calls a message.
    target: f64,
}

/// A solved [`Task`].
pub(in crate::daemon) struct Solved {
    rules: Rules,
    policy: Policy,
}

impl LanePolicy {
    /// With what was stored of the lane, if anything; until its policy is solved the prior's serves.
    ///
    /// # Errors
    /// What was stored cannot be read; it is to be learned anew.
    pub(in crate::daemon) fn load<'s>(
        lane: LaneId,
        stored: impl Fn(Chat) -> Option<&'s str>,
        prior: &Arc<Schedule>,
    ) -> (Self, Result<(), HabitsError>) {
        let mut result = Ok(());
        let kinds = Chat::ALL.map(|chat| {
            let read = stored(chat).map(|json| Habits::from_json(json, &prior.rules));
            let habits = match read.transpose() {
                Ok(habits) => habits.map(Box::new),
                Err(error) => {
                    result = Err(error);
                    None
                }
            };
            Mutex::new(State::unsolved(habits, prior))
        });
        (Self { lane, kinds }, result)
    }

    /// What the operator says of the cadence.
    pub(in crate::daemon) fn rules(&self) -> Rules {
        self.state(Chat::Private).schedule.rules.clone()
    }

    /// When the lane's messages of a kind are polled.
    pub(in crate::daemon) fn schedule(&self, chat: Chat) -> Arc<Schedule> {
        let mut state = self.state(chat);
        state.in_use = true;
        state.schedule.clone()
    }

    /// Last chances that are due by then are taken now.
    pub(in crate::daemon) fn last_chances_until(&self) -> Option<UnixMs> {
        self.state(Chat::Private).schedule.last_chances_until
    }

    /// Takes in what was seen of messages of a kind, up to `now`.
    pub(in crate::daemon) fn learn(&self, chat: Chat, seen: &[Observation], now: UnixMs) {
        let mut state = self.state(chat);
        let rules = state.schedule.rules.clone();
        let habits = state
            .habits
            .get_or_insert_with(|| Box::new(Habits::prior(&rules)));
        habits.forget_until(now.0, rules.memory);
        for seen in seen {
            habits.learn(seen);
        }
        let lifetime = habits.lifetime(&rules);
        let new_messages = seen.iter().filter(|seen| seen.begins.is_some()).count();
        state
            .basis
            .add(u32::try_from(new_messages).unwrap_or(u32::MAX));
        state.unsaved = true;
        if lifetime != state.schedule.lifetime {
            state.change(|schedule| schedule.lifetime = lifetime);
            state.log_lifetime(&self.lane, chat);
        }
    }

    /// Last chances that are due by `until` are taken now.
    pub(in crate::daemon) fn set_last_chances_until(&self, until: Option<UnixMs>) {
        for chat in Chat::ALL {
            let mut state = self.state(chat);
            if state.schedule.last_chances_until != until {
                state.change(|schedule| schedule.last_chances_until = until);
            }
        }
    }

    /// The kinds for which `target` calls a message, or what was learned since, ask for another policy.
    pub(in crate::daemon) fn stale(&self, target: f64) -> impl Iterator<Item = Chat> {
        Chat::ALL.into_iter().filter(move |chat| {
            let state = self.state(*chat);
            match &state.habits {
                Some(habits) => state.in_use && state.basis.is_stale(habits, target),
                None => state.in_use && state.basis.is_off(target),
            }
        })
    }

    /// The policy to solve for `target`; the kind counts as served.
    pub(in crate::daemon) fn task(&self, chat: Chat, target: f64) -> Task {
        let mut state = self.state(chat);
        let rules = state.schedule.rules.clone();
        let habits = match &state.habits {
            Some(habits) => Habits::clone(habits),
            None => Habits::prior(&rules),
        };
        state.basis = match &state.habits {
            Some(_) => Basis::of(&habits, target),
            None => Basis::prior(target),
        };
        Task {
            habits,
            rules,
            target,
        }
    }

    /// Puts a solved policy in force, unless the rules have changed meanwhile.
    pub(in crate::daemon) fn install(&self, chat: Chat, solved: Solved) {
        let mut state = self.state(chat);
        if solved.rules == state.schedule.rules {
            state.change(|schedule| schedule.policy = solved.policy);
        }
    }

    /// Takes the rules of `prior`; what was learned stays.
    pub(in crate::daemon) fn reload(&self, prior: &Arc<Schedule>) {
        for chat in Chat::ALL {
            let mut state = self.state(chat);
            if state.schedule.rules != prior.rules {
                self.take_rules(&mut state, prior);
            }
        }
    }

    fn take_rules(&self, state: &mut State, prior: &Arc<Schedule>) {
        let rebinned = state.habits.take().map(|habits| {
            // The grid of ages may be another under other rules.
            Habits::from_json(&habits.to_json(), &prior.rules).unwrap_or_else(|error| {
                let lane = &self.lane;
                tracing::warn!(
                    account = %lane.account,
                    corp_id = lane.corp.as_ref().map(tracing::field::display),
                    error = %error,
                    "account {lane}: what was learned of its readers does not fit the new [cadence] settings and is learned anew: {error}"
                );
                Habits::prior(&prior.rules)
            })
        });
        let in_use = state.in_use;
        *state = State::unsolved(rebinned.map(Box::new), prior);
        state.unsaved = true;
        state.in_use = in_use;
    }

    /// The habits to store, of the kinds of which they changed since the last call.
    pub(in crate::daemon) fn take_unsaved(&self) -> Vec<(Chat, String)> {
        let changed = Chat::ALL.into_iter().filter_map(|chat| {
            let mut state = self.state(chat);
            if !std::mem::take(&mut state.unsaved) {
                return None;
            }
            let habits = state.habits.as_ref()?;
            Some((chat, habits.to_json()))
        });
        changed.collect()
    }

    /// What [`Self::take_unsaved`] gave was not stored after all.
    pub(in crate::daemon) fn mark_unsaved(&self) {
        for chat in Chat::ALL {
            self.state(chat).unsaved = true;
        }
    }

    fn state(&self, chat: Chat) -> MutexGuard<'_, State> {
        let [private, group, oto] = &self.kinds;
        let state = match chat {
            Chat::Private => private,
            Chat::Group => group,
            Chat::Oto => oto,
        };
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn unsolved(habits: Option<Box<Habits>>, prior: &Arc<Schedule>) -> Self {
        let rules = &prior.rules;
        let lifetime = habits
            .as_ref()
            .map_or(rules.key_lifetime, |habits| habits.lifetime(rules));
        let mut state = Self {
            habits,
            schedule: prior.clone(),
            basis: Basis::prior(rules.calls_per_message),
            logged_lifetime: rules.key_lifetime,
            unsaved: false,
            in_use: false,
        };
        if lifetime != prior.lifetime {
            state.change(|schedule| schedule.lifetime = lifetime);
        }
        state
    }

    fn change(&mut self, change: impl FnOnce(&mut Schedule)) {
        change(Arc::make_mut(&mut self.schedule));
    }

    /// Logs what was learned of the lifetime of keys, where that is news: a tenth more or less.
    fn log_lifetime(&mut self, lane: &LaneId, chat: Chat) {
        let lifetime = self.schedule.lifetime;
        if lifetime.abs_diff(self.logged_lifetime) <= self.logged_lifetime / 10 {
            return;
        }
        self.logged_lifetime = lifetime;
        let key_lifetime = self.schedule.rules.key_lifetime;
        let spoken = |span| humantime::format_duration(Duration::from_millis(whole_ms(span)));
        tracing::info!(
            account = %lane.account,
            corp_id = lane.corp.as_ref().map(tracing::field::display),
            chat = chat.as_str(),
            lifetime_ms = whole_ms(lifetime),
            key_lifetime_ms = whole_ms(key_lifetime),
            "account {lane}: keys were learned to answer for {}, key_lifetime says {}; last chances of chat {} go by what was learned",
            spoken(lifetime),
            spoken(key_lifetime),
            chat.as_str(),
        );
    }
}

impl Task {
    pub(in crate::daemon) fn solve(self) -> Solved {
        Solved {
            policy: Policy::solve(&self.habits, &self.rules, self.target),
            rules: self.rules,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cadence::{KeyHash, Missing, Pending};

    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: UnixMs = UnixMs(1_800_000_000_000);

    fn lane() -> LaneId {
        LaneId {
            account: "a".into(),
            corp: None,
        }
    }

    fn policy(rules: &Rules, stored: Option<&str>) -> LanePolicy {
        let of_groups = |chat| stored.filter(|_| chat == Chat::Group);
        let (policy, read) = LanePolicy::load(lane(), of_groups, &Arc::new(Schedule::prior(rules)));
        policy.schedule(Chat::Group);
        assert_eq!(read.is_ok(), stored != Some("{"));
        policy
    }

    /// When a message that was just sent is polled first.
    fn first_poll(policy: &LanePolicy) -> Duration {
        first_poll_of(policy, Chat::Group)
    }

    fn first_poll_of(policy: &LanePolicy, chat: Chat) -> Duration {
        let message = Pending {
            key: KeyHash::of("key"),
            sent_at: NOW.0,
            missing: Missing::Known(1),
        };
        let schedule = policy.schedule(chat);
        schedule.policy.next_age(message, Duration::ZERO)
    }

    /// Whether a policy was solved.
    fn solve(policy: &LanePolicy, target: f64) -> bool {
        let stale: Vec<Chat> = policy.stale(target).collect();
        for chat in &stale {
            policy.install(*chat, policy.task(*chat, target).solve());
        }
        !stale.is_empty()
    }

    /// A crowd of which each reads within seconds.
    fn quick(messages: usize) -> Vec<Observation> {
        let seen = Observation {
            sent_at: NOW.0,
            age: Duration::from_secs(4),
            seen_until: Duration::from_secs(2),
            calls: 1,
            begins: Some(Missing::Known(1)),
            complete: true,
            new_readers: 1,
            read_ages: vec![],
            still_missing: Some(0),
            expired_after: None,
        };
        vec![seen; messages]
    }

    #[test]
    fn a_smaller_target_is_solved_once_and_polls_later() {
        let policy = policy(&Rules::default(), None);
        assert!(!solve(&policy, 12.0));
        let before = first_poll(&policy);
        assert!(!solve(&policy, 12.2), "less than 3 % is no other target");
        assert!(solve(&policy, 3.0));
        assert!(first_poll(&policy) > before);
        assert!(!solve(&policy, 3.0));
        assert!(solve(&policy, 12.0));
        assert_eq!(first_poll(&policy), before);
    }

    #[test]
    fn enough_new_messages_are_solved_for() {
        let policy = policy(&Rules::default(), None);
        let before = first_poll(&policy);
        policy.learn(Chat::Group, &quick(9), NOW);
        assert!(!solve(&policy, 12.0));
        policy.learn(Chat::Group, &quick(1), NOW);
        assert!(solve(&policy, 12.0));
        assert!(first_poll(&policy) < before);
        // From then on, ten and a tenth of what it stands on.
        policy.learn(Chat::Group, &quick(10), NOW);
        assert!(!solve(&policy, 12.0));
        policy.learn(Chat::Group, &quick(1), NOW);
        assert!(solve(&policy, 12.0));
    }

    #[test]
    fn new_rules_keep_what_was_learned_and_drop_what_was_solved_for_the_old_ones() {
        let policy = policy(&Rules::default(), None);
        policy.learn(Chat::Group, &quick(400), NOW);
        let task = policy.task(Chat::Group, 12.0);
        let rules = Rules {
            key_lifetime: DAY / 2,
            max_interval: DAY / 2,
            ..Rules::default()
        };
        policy.reload(&Arc::new(Schedule::prior(&rules)));
        // Solved for rules that are no longer in force.
        policy.install(Chat::Group, task.solve());
        assert_eq!(policy.schedule(Chat::Group).lifetime, DAY / 2);
        assert!(solve(&policy, 12.0), "what was learned is solved for");
    }

    #[test]
    fn stored_habits_are_solved_for_at_once_and_what_cannot_be_read_is_learned_anew() {
        let learned = policy(&Rules::default(), None);
        assert_eq!(learned.take_unsaved(), []);
        learned.learn(Chat::Group, &quick(400), NOW);
        let (chat, stored) = learned.take_unsaved().remove(0);
        assert_eq!(chat, Chat::Group);
        assert_eq!(learned.take_unsaved(), [], "once");
        assert!(solve(&policy(&Rules::default(), Some(&stored)), 12.0));
        assert!(!solve(&policy(&Rules::default(), Some("{")), 12.0));
    }

    #[test]
    fn what_is_learned_of_groups_says_nothing_of_persons() {
        let policy = policy(&Rules::default(), None);
        let before = first_poll_of(&policy, Chat::Oto);
        policy.learn(Chat::Group, &quick(400), NOW);
        assert!(solve(&policy, 12.0));
        assert!(first_poll(&policy) < before);
        assert_eq!(first_poll_of(&policy, Chat::Oto), before);
        policy.learn(Chat::Oto, &quick(400), NOW);
        assert!(solve(&policy, 12.0));
        assert!(first_poll_of(&policy, Chat::Oto) < before);
        let saved = policy.take_unsaved();
        let kinds: Vec<Chat> = saved.into_iter().map(|(chat, _)| chat).collect();
        assert_eq!(kinds, [Chat::Group, Chat::Oto]);
    }
}
