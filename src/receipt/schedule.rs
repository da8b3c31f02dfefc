//! A message's next poll: the cadence, and what stands around it (the ladder at the start, the last chance and the
//! checks of the expiry at the end, the operator's bounds).

use std::time::Duration;

use super::{Message, UnixMs, real, whole_ms};
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
#[derive(Clone, Copy, Debug)]
pub struct Schedule<'a> {
    /// What the operator says.
    pub rules: &'a Rules,
    /// The poll ages in force.
    pub policy: &'a Policy,
    /// How long a key answers: the setting, or what was learned.
    pub lifetime: Duration,
    /// How long before their proper moment last chances are taken, so that all of a lane's fit its rate; see [`spread`].
    pub spread: Duration,
}

/// Last chances of a lane: up to when, after the ones before, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upcoming {
    /// The latest of them is due at this moment.
    pub until: UnixMs,
    /// How many they are.
    pub count: u64,
}

/// Part of the time between a last chance and the end of its key's life that is planned with; the rest is for trouble.
const PLANNED_SHARE: f64 = 0.5;

/// How long before their proper moment a lane's last chances must be taken from now on, so that all of them are called
/// before their keys' lives end, at `calls_per_second`. `upcoming` in order of time; each key lives `last_chance` longer
/// than its last chance is due. Zero where there is time enough, or where a jam need not be begun with before this is
/// asked again, in `again`.
///
/// They are served in the order in which they are due. Where some would come too late if each waited for its moment, the
/// n-th of them can be served n/rate after a start, which must be before its key's end: the earliest such start is when
/// they must begin. Once begun, each is taken as soon as its turn comes.
pub fn spread(
    upcoming: &[Upcoming],
    now: UnixMs,
    calls_per_second: f64,
    last_chance: Duration,
    again: Duration,
) -> Duration {
    let rate = calls_per_second.max(f64::MIN_POSITIVE);
    // Seconds after now, negative for what is overdue.
    let ahead = |at: UnixMs| at.since(now).as_secs_f64() - now.since(at).as_secs_f64();
    let slack = last_chance.as_secs_f64() * PLANNED_SHARE;
    let mut served = 0.0;
    // If each waits for its moment, they are done by then.
    let mut finished = 0.0_f64;
    let mut must_start = f64::INFINITY;
    let mut spread = 0.0_f64;
    let mut wanted = 0.0;
    for part in upcoming {
        let count = real(part.count);
        let due = ahead(part.until);
        spread = spread.max(due - served / rate);
        served += count;
        finished = finished.max(due) + count / rate;
        let start = due + slack - served / rate;
        if finished > due + slack && start < must_start {
            must_start = start;
            // What lies behind the narrowest place needs no hurry.
            wanted = spread;
        }
    }
    if must_start > again.as_secs_f64() {
        return Duration::ZERO;
    }
    Duration::try_from_secs_f64(wanted).unwrap_or(Duration::ZERO)
}

/// The ladder's growth: each step lies so much farther from the sending than the one before.
const LADDER_GROWTH: f64 = 1.6;
/// How far jitter moves a poll either way at most, as a share of its interval.
const JITTER: f64 = 0.05;

impl Schedule<'_> {
    /// Places a new row in the cadence: its first poll, never before the feeder's own `next_poll_at`.
    pub fn admit(&self, row: &Message, now: UnixMs) -> Message {
        let cadence = row.sent_at + self.policy.next_age(row.pending(), Duration::ZERO);
        let next = row
            .next_poll_at
            .map_or(cadence, |not_before| not_before.max(cadence));
        Message {
            next_poll_at: Some(next.min(self.end_of_life(row))),
            // One that its feeder wants later than that has none: it would stand before the others until then.
            last_chance_at: self.last_chance_at(row, now).filter(|at| next <= *at),
            admitted_at: Some(now),
            ..row.clone()
        }
    }

    /// When `row`, polled at `now`, is polled next.
    pub fn next_poll_at(&self, row: &Message, now: UnixMs, phase: Phase) -> UnixMs {
        let age = self.age(row, now);
        let last_chance_age = self.last_chance_age();
        let life_is_over = self.is_last(age) && age < self.lifetime + self.rules.last_chance;
        if life_is_over && phase == Phase::Cadence && !self.policy.checks_expiry(row.key.hash()) {
            // A check is too dear at the present target: the row ends without a call.
            return self.end_of_life(row).max(now + Duration::from_millis(1));
        }
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
        if !self.is_last(self.age(row, now)) {
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

    /// When the last chance of `row` is due; `None` once it was taken.
    pub fn last_chance_at(&self, row: &Message, now: UnixMs) -> Option<UnixMs> {
        let at = row.sent_at + self.last_chance_age();
        let taken = row
            .last_polled_at
            .is_some_and(|polled| polled >= at - self.spread)
            || now >= row.sent_at + self.lifetime;
        (!taken).then_some(at)
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
            if self.is_last(next) {
                break;
            }
            age = next;
        }
        age
    }

    fn next_age(&self, row: &Message, age: Duration) -> Duration {
        let expiry_check = self.lifetime + self.rules.last_chance;
        if !self.is_last(age) {
            self.policy.next_age(row.pending(), age)
        } else if age < expiry_check {
            expiry_check
        } else {
            // Still answered after its life: again at doubling distances from the end of that life.
            self.lifetime + (age - self.lifetime) * 2
        }
    }

    /// Whether a poll at `age` is the last chance, or comes after it.
    fn is_last(&self, age: Duration) -> bool {
        age + self.spread >= self.last_chance_age()
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
    use crate::receipt::{Lane, MessageId, MessageKey};

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    /// Serves last chances in their order at `rate`, taking each as soon as `spread` lets it; how many came too late.
    fn late(due: &[u64], rate: u64, last_chance: Duration) -> usize {
        let mut queue: Vec<UnixMs> = due.iter().map(|s| NOW + Duration::from_secs(*s)).collect();
        queue.sort_unstable();
        let (mut now, mut next, mut late) = (NOW, 0, 0);
        while next < queue.len() {
            let upcoming: Vec<Upcoming> = queue[next..]
                .chunk_by(|a, b| a.0 / 60_000 == b.0 / 60_000)
                .map(|part| Upcoming {
                    until: part[part.len() - 1],
                    count: part.len() as u64,
                })
                .collect();
            let lead = spread(&upcoming, now, rate as f64, last_chance, MINUTE);
            // Until it is looked at again.
            for _ in 0..60 {
                for _ in 0..rate {
                    if next < queue.len() && queue[next] <= now + lead {
                        late += usize::from(now > queue[next] + last_chance);
                        next += 1;
                    }
                }
                now = now + Duration::from_secs(1);
            }
        }
        late
    }

    #[test]
    fn a_burst_of_last_chances_fits_the_rate() {
        // 36,000 at once take half an hour at 20 a second, and live for five minutes more.
        let burst = vec![7_200; 36_000];
        assert_eq!(late(&burst, 20, 5 * MINUTE), 0);
        // A second burst behind the first.
        let two: Vec<u64> = (0..20_000).map(|n| 4_000 + 500 * (n % 2)).collect();
        assert_eq!(late(&two, 20, 5 * MINUTE), 0);
    }

    #[test]
    fn what_comes_evenly_is_taken_at_its_time() {
        let evenly: Vec<Upcoming> = (1..1_000)
            .map(|n| Upcoming {
                until: NOW + n * MINUTE,
                count: 900,
            })
            .collect();
        for upcoming in [&evenly[..], &[]] {
            let spread = spread(upcoming, NOW, 20.0, 5 * MINUTE, MINUTE);
            assert_eq!(spread, Duration::ZERO);
        }
    }

    #[test]
    fn a_jam_is_begun_with_when_it_must_be_and_not_before() {
        // Ten minutes of calls, and two and a half until the half of their last five minutes is over.
        let jam = |minutes: u32| {
            let part = Upcoming {
                until: NOW + minutes * MINUTE,
                count: 12_000,
            };
            spread(&[part], NOW, 20.0, 5 * MINUTE, MINUTE)
        };
        assert_eq!(jam(600), Duration::ZERO);
        assert_eq!(jam(9), Duration::ZERO);
        assert_eq!(jam(8), 8 * MINUTE);
    }

    #[test]
    fn the_schedule_keeps_the_last_chance_whole() {
        const HOUR: Duration = Duration::from_secs(3_600);
        let lane = Lane {
            account: "a".into(),
            corp: None,
        };
        let new = Message {
            expected_readers: Some(1),
            ..Message::inserted(MessageId(1), "key".into(), lane, NOW)
        };
        let rules = Rules::default();
        let policy = Policy::prior(&rules);
        let schedule = Schedule {
            rules: &rules,
            policy: &policy,
            lifetime: rules.key_lifetime,
            spread: Duration::ZERO,
        };
        let last_chance = NOW + (rules.key_lifetime - rules.last_chance);
        for number in 0..200 {
            let mut row = Message {
                key: MessageKey::from(format!("key-{number}")),
                ..new.clone()
            };
            row = schedule.admit(&row, NOW);
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
            assert!(check > NOW + rules.key_lifetime);
            assert_eq!(schedule.call(&row, check), Call::ExpiryCheck);
        }
    }
}
