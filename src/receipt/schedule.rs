//! A message's next poll: the cadence, and what stands around it (the ladder at the start, the last chance and the
//! confirming polls at the end, the operator's bounds).

use std::time::Duration;

use super::cadence::{Call, Policy, Rules};
use super::{Message, MessageKey, UnixMs};

/// What a message is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// To be sent or generated: the short ladder, until `generation_grace`.
    Ladder,
    /// To be read.
    Cadence,
}

/// All that decides when a lane's messages are polled.
#[derive(Clone, Copy, Debug)]
pub struct Schedule<'a> {
    /// What the operator says.
    pub rules: &'a Rules,
    /// The poll ages in force.
    pub policy: &'a Policy,
    /// How long a key answers: the setting, or what was learned.
    pub lifetime: Duration,
    /// How far the lane's last chances are spread backwards so that they fit its rate.
    pub spread: Duration,
}

/// The ladder's growth: each step lies so much farther from the sending than the one before.
const LADDER_GROWTH: f64 = 1.6;
/// How far jitter moves a poll either way, as a share of its interval.
const JITTER: f64 = 0.05;

impl Schedule<'_> {
    /// Places a new row in the cadence: its first poll, never before the feeder's own `next_poll_at`.
    pub fn admit(&self, row: &Message, now: UnixMs) -> Message {
        let cadence = row.sent_at
            + self
                .policy
                .next_age(&row.key, Duration::ZERO, row.missing());
        let next = row
            .next_poll_at
            .map_or(cadence, |not_before| not_before.max(cadence));
        Message {
            next_poll_at: Some(next.min(self.end_of_life(row))),
            last_chance_at: self.last_chance_at(row, now),
            admitted_at: Some(now),
            ..row.clone()
        }
    }

    /// When `row`, polled at `now`, is polled next.
    pub fn next_poll_at(&self, row: &Message, now: UnixMs, phase: Phase) -> UnixMs {
        let age = row.age(now);
        let last_chance_age = self.last_chance_age(&row.key);
        let life_is_over = last_chance_age <= age && age < self.lifetime + self.rules.last_chance;
        if life_is_over && phase == Phase::Cadence && !self.policy.confirms(&row.key) {
            // A confirming poll is too dear at the present target: the row ends without a call.
            return self.end_of_life(row).max(now + Duration::from_millis(1));
        }
        let wanted = match phase {
            Phase::Ladder if age < self.rules.generation_grace => {
                age.mul_f64(LADDER_GROWTH).min(self.rules.generation_grace)
            }
            _ => self.next_age(row, age),
        };
        let interval = wanted.saturating_sub(age);
        // The last chance has a spread of its own: jitter would pull the poll planned for it forward, and cost one more.
        let interval = if age < last_chance_age && last_chance_age <= wanted {
            interval
        } else {
            self.jittered(&row.key, age, interval)
        };
        let bounded = interval
            .max(self.rules.min_interval)
            .min(self.rules.max_interval);
        let mut next = now + bounded;
        if let Some(last_chance) = self.last_chance_at(row, now) {
            next = next.min(last_chance);
        }
        next.min(self.end_of_life(row))
            .max(now + Duration::from_millis(1))
    }

    /// What a call for `row` at `now` is for, as the budget sees it.
    pub fn call(&self, row: &Message, now: UnixMs) -> Call {
        let age = row.age(now);
        if age < self.last_chance_age(&row.key) {
            Call::Ordinary
        } else if self.last_chance_at(row, now).is_some() {
            Call::LastChance
        } else {
            Call::Confirm
        }
    }

    /// When `row` is due next whose call at `now` was refused by the budget: at its next age, and after its last
    /// chance no more, until the row ends without a call.
    pub fn refused(&self, row: &Message, now: UnixMs) -> UnixMs {
        match self.call(row, now) {
            Call::Ordinary => self.next_poll_at(row, now, Phase::Cadence),
            Call::LastChance | Call::Confirm => {
                self.end_of_life(row).max(now + Duration::from_millis(1))
            }
        }
    }

    /// When the last chance of `row` is due; `None` once it was taken.
    pub fn last_chance_at(&self, row: &Message, now: UnixMs) -> Option<UnixMs> {
        let at = row.sent_at + self.last_chance_age(&row.key);
        let taken = row.last_polled_at.is_some_and(|polled| polled >= at)
            || now >= row.sent_at + self.lifetime;
        (!taken).then_some(at)
    }

    /// The first moment at which `row` is ended without a call.
    pub fn end_of_life(&self, row: &Message) -> UnixMs {
        row.lives_from + self.rules.max_age
    }

    fn next_age(&self, row: &Message, age: Duration) -> Duration {
        let confirming = self.lifetime + self.rules.last_chance;
        if age < self.last_chance_age(&row.key) {
            self.policy.next_age(&row.key, age, row.missing())
        } else if age < confirming {
            confirming
        } else {
            // Still answered after its life: again at doubling distances from the end of that life.
            self.lifetime + (age - self.lifetime) * 2
        }
    }

    fn last_chance_age(&self, key: &MessageKey) -> Duration {
        let spread = self.spread.mul_f64(key.fraction(0));
        self.lifetime
            .saturating_sub(self.rules.last_chance)
            .saturating_sub(spread)
    }

    fn jittered(&self, key: &MessageKey, age: Duration, interval: Duration) -> Duration {
        let salt = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        interval.mul_f64(1.0 - JITTER + 2.0 * JITTER * key.fraction(salt))
    }
}
