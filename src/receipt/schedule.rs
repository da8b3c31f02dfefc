//! A message's next poll: the cadence, and what stands around it (the ladder at the start, the last chance and the
//! checks of the expiry at the end, the operator's bounds).

use std::time::Duration;

use super::{Message, UnixMs, whole_ms};
use crate::cadence::{Call, Policy, Rules};

/// What a message is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// To be sent or generated: the short ladder, until `generation_grace`.
    Ladder,
    /// To be read.
    Cadence,
}

/// All that decides when a lane's messages are polled.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// What the operator says.
    pub rules: Rules,
    /// The poll ages in force.
    pub policy: Policy,
    /// How long a key answers: the setting, or what was learned.
    pub lifetime: Duration,
    /// Last chances that are due by then are taken now, so that all of the lane's fit its rate.
    pub last_chances_until: Option<UnixMs>,
}

/// The ladder's growth: each step lies so much farther from the sending than the one before.
const LADDER_GROWTH: f64 = 1.6;
/// How far jitter moves a poll either way at most, as a share of its interval.
const JITTER: f64 = 0.05;

impl Schedule {
    /// Of readers of whom nothing was learned.
    pub fn prior(rules: &Rules) -> Self {
        Self {
            policy: Policy::prior(rules),
            lifetime: rules.key_lifetime,
            rules: rules.clone(),
            last_chances_until: None,
        }
    }

    /// Places a row in the schedule. One that was never polled gets its first poll by the cadence, never before its
    /// feeder's own `next_poll_at`. One that was polled or retried before keeps its schedule: it only comes under a lane
    /// again.
    pub fn place(&self, row: &Message, now: UnixMs) -> Message {
        let mut placed = Message {
            admitted_at: Some(now),
            ..row.clone()
        };
        let has_schedule = row.last_polled_at.is_some() || row.lives_from > row.sent_at;
        if has_schedule && row.next_poll_at.is_some() {
            return placed;
        }
        let cadence = row.sent_at + self.policy.next_age(row.pending(), Duration::ZERO);
        let next = row
            .next_poll_at
            .map_or(cadence, |not_before| not_before.max(cadence));
        placed.next_poll_at = Some(next.min(self.end_of_life(row)));
        // One that its feeder wants later than that has none: it would stand before the others until then.
        placed.last_chance_at = self.last_chance_at(row, now).filter(|at| next <= *at);
        placed
    }

    /// When `row`, polled at `now`, is polled next. Each walk in a row that failed doubles the interval; once the calls of
    /// such walks are spent, only the last chance is left.
    pub fn next_poll_at(&self, row: &Message, now: UnixMs, phase: Phase) -> UnixMs {
        let age = self.age(row, now);
        let soonest = now + Duration::from_millis(1);
        let last_chance = self.last_chance_after(row, now);
        let end_of_life = self.end_of_life(row);
        if row.failed_walks > 0 && self.calls_while_failing(row) == 0 {
            // After its last chance one call is left, to find out whether the key is gone.
            let check = row.sent_at + self.lifetime + self.rules.last_chance;
            let check =
                (now < check && row.failed_calls <= self.calls_a_message()).then_some(check);
            let next = last_chance.or(check).unwrap_or(end_of_life);
            return next.min(end_of_life).max(soonest);
        }
        let life_is_over = self.is_last(row, age) && age < self.lifetime + self.rules.last_chance;
        if life_is_over && phase == Phase::Cadence && !self.policy.checks_expiry(row.key.hash()) {
            // A check is too dear at the present target: the row ends without a call.
            return end_of_life.max(soonest);
        }
        let last_chance_age = self.last_chance_age();
        let wanted = match phase {
            Phase::Ladder if age < self.rules.generation_grace => {
                age.mul_f64(LADDER_GROWTH).min(self.rules.generation_grace)
            }
            _ => self.next_age(row, age),
        };
        let interval = wanted.saturating_sub(age);
        // Jitter would pull the poll planned for the last chance forward, and cost one more.
        let interval = if age < last_chance_age && last_chance_age <= wanted {
            interval
        } else {
            self.jittered(row, age, wanted)
        };
        let bounded = interval
            .max(self.rules.min_interval)
            .saturating_mul(2_u32.saturating_pow(row.failed_walks))
            .min(self.rules.max_interval);
        let mut next = now + bounded;
        if let Some(last_chance) = last_chance {
            next = next.min(last_chance);
        }
        next.min(end_of_life).max(soonest)
    }

    /// How many calls a walk may make while all of them fail: what is left of `calls_per_message`, one of which is kept for
    /// the check of the expiry. The last chance is apart.
    pub fn calls_while_failing(&self, row: &Message) -> u32 {
        let calls = self.calls_a_message().saturating_sub(1);
        calls.saturating_sub(row.failed_calls)
    }

    /// After the last chance of a failing key one call is left, to find out whether it is gone; `None` once it was made.
    fn check_while_failing(&self, row: &Message, now: UnixMs) -> Option<UnixMs> {
        let check = row.sent_at + self.lifetime + self.rules.last_chance;
        let is_left = row.failed_calls <= self.calls_a_message();
        (now < check && is_left).then_some(check)
    }

    /// Whether no call is left for a failing key: nothing more can be learned of it.
    pub fn is_spent(&self, row: &Message, now: UnixMs) -> bool {
        row.failed_walks > 0
            && self.calls_while_failing(row) == 0
            && self.last_chance_after(row, now).is_none()
            && self.check_while_failing(row, now).is_none()
    }

    fn calls_a_message(&self) -> u32 {
        // A share of a call is a call; what is beyond 32 bits is no bound, and NaN is 0.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let calls = self.rules.calls_per_message.ceil() as u32;
        calls
    }

    /// What a call for `row` at `now` is for, as the budget sees it.
    pub fn call(&self, row: &Message, now: UnixMs) -> Call {
        if !self.is_last(row, self.age(row, now)) {
            Call::Ordinary
        } else if self.last_chance_at(row, now).is_some() {
            Call::LastChance
        } else {
            Call::ExpiryCheck
        }
    }

    /// When `row` is due next whose call at `now` was refused by the budget: at its next age, and after its last
    /// chance no more, until the row ends without a call.
    pub fn refused(&self, row: &Message, now: UnixMs) -> UnixMs {
        match self.call(row, now) {
            Call::Ordinary => self.next_poll_at(row, now, Phase::Cadence),
            Call::LastChance | Call::ExpiryCheck => {
                self.end_of_life(row).max(now + Duration::from_millis(1))
            }
        }
    }

    /// When the last chance of `row` is due; `None` once its moment was polled or its life is over.
    fn last_chance_at(&self, row: &Message, now: UnixMs) -> Option<UnixMs> {
        let at = self.last_chance_moment(row);
        let taken = row.last_polled_at.is_some_and(|polled| polled >= at)
            || now >= row.sent_at + self.lifetime;
        (!taken).then_some(at)
    }

    /// The same of a row that was polled just now: where last chances of its moment are taken early, that poll was it.
    pub(super) fn last_chance_after(&self, row: &Message, now: UnixMs) -> Option<UnixMs> {
        self.last_chance_at(row, now)
            .filter(|at| row.last_polled_at.is_none() || !self.is_taken_early(*at))
    }

    /// The first moment at which `row` is ended without a call.
    pub fn end_of_life(&self, row: &Message) -> UnixMs {
        row.lives_from + self.rules.max_age
    }

    /// How old `row` is. A wall clock that says it was not even sent yet was set back: there the calls that were made
    /// stand in for time, each at the next age of the cadence. Counted as newly sent, it would be called at the
    /// shortest interval until the clock has come back to the sending: hundreds of times for a step of a day.
    fn age(&self, row: &Message, now: UnixMs) -> Duration {
        if now >= row.sent_at {
            return row.age(now);
        }
        let mut age = Duration::ZERO;
        for _ in 0..row.call_count {
            let next = self.policy.next_age(row.pending(), age);
            if next >= self.last_chance_age() {
                break;
            }
            age = next;
        }
        age
    }

    fn next_age(&self, row: &Message, age: Duration) -> Duration {
        let expiry_check = self.lifetime + self.rules.last_chance;
        if !self.is_last(row, age) {
            self.policy.next_age(row.pending(), age)
        } else if age < expiry_check {
            expiry_check
        } else {
            // Still answered after its life: again at doubling distances from the end of that life.
            self.lifetime + (age - self.lifetime) * 2
        }
    }

    /// Whether a poll of `row` at `age` is the last chance, or comes after it.
    fn is_last(&self, row: &Message, age: Duration) -> bool {
        age >= self.last_chance_age() || self.is_taken_early(self.last_chance_moment(row))
    }

    fn is_taken_early(&self, last_chance_at: UnixMs) -> bool {
        self.last_chances_until
            .is_some_and(|until| last_chance_at <= until)
    }

    fn last_chance_moment(&self, row: &Message) -> UnixMs {
        row.sent_at + self.last_chance_age()
    }

    fn last_chance_age(&self) -> Duration {
        self.lifetime.saturating_sub(self.rules.last_chance)
    }

    /// The interval from `age` to about `wanted`. Moved farther than the plan's ages lie apart, a poll would be followed by
    /// what follows another age, which costs up to 4 % more calls than were planned.
    fn jittered(&self, row: &Message, age: Duration, wanted: Duration) -> Duration {
        let interval = wanted.saturating_sub(age);
        let (back, on) = self.policy.jitter_bounds(row.pending(), wanted);
        let far = interval.mul_f64(JITTER);
        let (back, on) = (far.min(back), far.min(on));
        let salt = whole_ms(age);
        interval - back + (back + on).mul_f64(row.key.hash().fraction(salt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{LaneId, MessageId, MessageKey};

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn new_row() -> Message {
        let lane = LaneId {
            account: "a".into(),
            corp: None,
        };
        Message {
            expected_readers: Some(1),
            ..Message::inserted(MessageId(1), "key".into(), lane, NOW)
        }
    }

    fn schedule() -> Schedule {
        Schedule::prior(&Rules::default())
    }

    #[test]
    fn a_row_that_is_placed_again_keeps_its_schedule() {
        let schedule = schedule();
        let new = new_row();
        let first = schedule.place(&new, NOW);
        assert!(first.next_poll_at.unwrap() > NOW);
        assert_eq!(
            (first.admitted_at, first.last_chance_at),
            (Some(NOW), Some(NOW + (24 * HOUR - 5 * MINUTE)))
        );
        let not_before = NOW + 30 * HOUR;
        let wanted_late = Message {
            next_poll_at: Some(not_before),
            ..new.clone()
        };
        let late = schedule.place(&wanted_late, NOW);
        assert_eq!(
            (late.next_poll_at, late.last_chance_at),
            (Some(not_before), None)
        );
        let polled = Message {
            last_polled_at: Some(NOW + HOUR),
            next_poll_at: Some(NOW + HOUR + MINUTE),
            ..new.clone()
        };
        let again = schedule.place(&polled, NOW + 2 * HOUR);
        assert_eq!(again.next_poll_at, polled.next_poll_at);
        assert_eq!(again.last_chance_at, polled.last_chance_at);
        // Never polled, but somebody wants one call at once.
        let retried = Message {
            lives_from: NOW + HOUR,
            next_poll_at: Some(NOW + HOUR),
            ..new
        };
        let again = schedule.place(&retried, NOW + HOUR);
        assert_eq!(again.next_poll_at, Some(NOW + HOUR));
    }

    #[test]
    fn a_last_chance_may_be_taken_early_and_is_then_over() {
        let mut schedule = schedule();
        let at = NOW + (24 * HOUR - 5 * MINUTE);
        let mut row = schedule.place(&new_row(), NOW);
        let now = at - 3 * HOUR;
        row.last_polled_at = Some(now - HOUR);
        schedule.last_chances_until = Some(at - Duration::from_millis(1));
        assert_eq!(schedule.call(&row, now), Call::Ordinary);
        schedule.last_chances_until = Some(at);
        assert_eq!(schedule.call(&row, now), Call::LastChance);
        assert_eq!(schedule.refused(&row, now), schedule.end_of_life(&row));
        row.last_polled_at = Some(now);
        assert_eq!(schedule.last_chance_after(&row, now), None);
        let check = schedule.next_poll_at(&row, now, Phase::Cadence);
        assert!(check >= NOW + 24 * HOUR, "{check}");
        // What follows it is no last chance again, whenever the next ones are begun with.
        schedule.last_chances_until = None;
        assert_eq!(schedule.call(&row, check), Call::ExpiryCheck);
    }

    #[test]
    fn each_walk_that_failed_doubles_the_wait_until_only_the_last_chance_is_left() {
        let schedule = schedule();
        let last_chance = NOW + (24 * HOUR - 5 * MINUTE);
        let now = NOW + HOUR;
        let failed = |failed_walks, failed_calls| Message {
            last_polled_at: Some(now),
            failed_walks,
            failed_calls,
            ..schedule.place(&new_row(), NOW)
        };
        let wait = |row: &Message| schedule.next_poll_at(row, now, Phase::Cadence).since(now);
        let planned = wait(&failed(0, 0));
        for (failed, factor) in [(failed(1, 3), 2), (failed(2, 6), 4)] {
            // Rows count whole milliseconds.
            assert!(wait(&failed).abs_diff(planned * factor) < Duration::from_millis(5));
        }
        assert_eq!(wait(&failed(40, 6)), last_chance.since(now));
        assert_eq!(schedule.calls_while_failing(&failed(1, 3)), 8);
        assert_eq!(schedule.calls_while_failing(&failed(9, 13)), 0);
        let spent = failed(1, 12);
        assert_eq!(
            schedule.next_poll_at(&spent, now, Phase::Ladder),
            last_chance
        );
        let over = Message {
            last_polled_at: Some(last_chance),
            ..spent
        };
        let check = over.sent_at + schedule.lifetime + schedule.rules.last_chance;
        let next = |row: &Message, now| schedule.next_poll_at(row, now, Phase::Cadence);
        assert_eq!(next(&over, last_chance), check);
        let checked = Message {
            failed_calls: 13,
            ..over.clone()
        };
        assert!(!schedule.is_spent(&over, last_chance));
        assert!(schedule.is_spent(&checked, check));
    }

    #[test]
    fn the_schedule_keeps_the_last_chance_whole() {
        let new = new_row();
        let schedule = schedule();
        let last_chance = NOW + (24 * HOUR - 5 * MINUTE);
        for number in 0..200 {
            let mut row = Message {
                key: MessageKey::from(format!("key-{number}")),
                ..new.clone()
            };
            row = schedule.place(&row, NOW);
            // Jitter never makes one more poll of the one that was planned for the last chance.
            let mut gap = Duration::ZERO;
            while row.next_poll_at.unwrap() < last_chance {
                let now = row.next_poll_at.unwrap();
                assert_eq!(schedule.call(&row, now), Call::Ordinary);
                assert_eq!(
                    schedule.refused(&row, now),
                    schedule.next_poll_at(&row, now, Phase::Cadence)
                );
                row.last_polled_at = Some(now);
                row.next_poll_at = Some(schedule.next_poll_at(&row, now, Phase::Cadence));
                gap = row.next_poll_at.unwrap().since(now);
            }
            assert_eq!(row.next_poll_at, Some(last_chance));
            assert!(gap > HOUR / 2, "{gap:?}");
            assert_eq!(schedule.call(&row, last_chance), Call::LastChance);
            assert_eq!(
                schedule.refused(&row, last_chance),
                schedule.end_of_life(&row)
            );
            row.last_polled_at = Some(last_chance);
            let check = schedule.next_poll_at(&row, last_chance, Phase::Cadence);
            assert!(check > NOW + 24 * HOUR);
            assert_eq!(schedule.call(&row, check), Call::ExpiryCheck);
        }
    }
}
