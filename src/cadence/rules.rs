//! What the operator says about the cadence.

use std::time::Duration;

/// The `[cadence]` settings, as the domain uses them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The mean number of calls to spend on a message.
    pub calls_per_message: f64,
    /// No two polls of a message lie closer together.
    pub min_interval: Duration,
    /// No two polls of a message lie farther apart.
    pub max_interval: Duration,
    /// How long a key that was never answered may still become known.
    pub generation_grace: Duration,
    /// How long after sending a key answers.
    pub key_lifetime: Duration,
    /// How long before the end of that life the last poll goes out.
    pub last_chance: Duration,
    /// Older messages are not polled.
    pub max_age: Duration,
    /// How fast old habits are forgotten: after so long an observation weighs 1/e.
    pub memory: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(86_400);
        Self {
            calls_per_message: 12.0,
            min_interval: Duration::from_secs(2),
            max_interval: DAY,
            generation_grace: 10 * MINUTE,
            key_lifetime: DAY,
            last_chance: 5 * MINUTE,
            max_age: 7 * DAY,
            memory: 30 * DAY,
        }
    }
}
