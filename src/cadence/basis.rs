//! When a policy is solved anew.

use super::Habits;

/// A policy is solved anew after so many messages, and a tenth of those that it stands on already. Few: ten tell how
/// large a lane's groups are, of which the prior knows nothing, and which at its prices cost several times the target.
const FEWEST_NEW: f64 = 10.0;
const NEW_SHARE: f64 = 0.1;
/// How far the target moves, as a share of itself, before another policy is worth its solving.
const MOVED: f64 = 0.03;

/// What a policy was solved on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Basis {
    /// Messages that it stands on; `None` where it is still the prior's.
    messages: Option<f64>,
    /// Calls a message that it was solved for.
    target: f64,
    /// Messages first polled since.
    new_messages: u32,
}

impl Basis {
    /// Of the prior's policy, solved for `target` calls a message.
    pub fn prior(target: f64) -> Self {
        Self {
            messages: None,
            target,
            new_messages: 0,
        }
    }

    /// Of a policy that is solved on `habits` for `target` calls a message.
    pub fn of(habits: &Habits, target: f64) -> Self {
        Self {
            messages: Some(messages(habits)),
            ..Self::prior(target)
        }
    }

    /// So many more messages were polled for the first time.
    pub fn add(&mut self, new_messages: u32) {
        self.new_messages = self.new_messages.saturating_add(new_messages);
    }

    /// Whether `target` calls a message ask for another policy, whatever was learned.
    pub fn is_off(&self, target: f64) -> bool {
        (target - self.target).abs() > MOVED * self.target.max(1.0)
    }

    /// Whether the policy is to be solved anew, now that `habits` were learned and `target` is what can be afforded.
    pub fn is_stale(&self, habits: &Habits, target: f64) -> bool {
        let enough = match self.messages {
            Some(on) => FEWEST_NEW + NEW_SHARE * on,
            // Stored habits, or other rules: solved at once where they tell enough.
            None if messages(habits) >= FEWEST_NEW => return true,
            None => FEWEST_NEW,
        };
        self.is_off(target) || f64::from(self.new_messages) >= enough
    }
}

/// How many messages habits stand on, beyond the prior.
fn messages(habits: &Habits) -> f64 {
    habits.measured().map_or(0.0, |measured| measured.messages)
}
