//! When the next call goes out: spend calls where reads happen.

mod rules;

use std::time::Duration;

pub use rules::Rules;

use super::{MessageKey, Missing};

/// The poll ages in force for one lane.
#[derive(Clone, Debug)]
pub struct Policy {
    first: Duration,
    growth: f64,
}

impl Policy {
    /// The policy of the prior alone, before anything was learned.
    pub fn prior(rules: &Rules) -> Self {
        // Geometric ages from a first poll to the end of the key's life, so many as the target says.
        let first = rules.key_lifetime.as_secs_f64() / 2880.0;
        let polls = rules.calls_per_message.max(2.0);
        let growth = (2880.0_f64).powf(1.0 / (polls - 1.0));
        Self {
            first: Duration::from_secs_f64(first),
            growth,
        }
    }

    /// The age at which a message is polled next that is `age` old and was polled just now.
    pub fn next_age(&self, _key: &MessageKey, age: Duration, _missing: Missing) -> Duration {
        let mut next = self.first;
        while next <= age {
            next = next.mul_f64(self.growth);
        }
        next
    }
}
