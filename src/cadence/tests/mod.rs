//! The cadence as its users see it. Random tests print their seed: proptest's own, or the one named in the message.

mod learning;
mod policies;

use std::time::Duration;

use proptest::prelude::*;

use super::{Habits, KeyHash, Missing, Observation, Pending, Policy, Rules};

const HOUR: Duration = Duration::from_secs(3_600);
/// A Monday, 14:13:20 UTC.
const SENT: i64 = 1_790_000_000_000;

/// A poll at `age` after one at `seen_until` that brought `new_readers` while the others (or an unknown number) were waited
/// for.
fn poll(
    expected: Option<u32>,
    seen_until: Duration,
    age: Duration,
    new_readers: u32,
) -> Observation {
    let first = seen_until == Duration::ZERO;
    Observation {
        sent_at: SENT,
        age,
        seen_until,
        calls: 1,
        begins: first.then(|| expected.map_or(Missing::Unknown, Missing::Known)),
        complete: true,
        new_readers,
        read_ages: vec![],
        still_missing: expected.map(|expected| expected.saturating_sub(new_readers)),
        expired_after: None,
    }
}

fn pending(key: &str, missing: Missing) -> Pending {
    Pending {
        key: KeyHash::of(key),
        sent_at: SENT,
        missing,
    }
}

fn ages_from(policy: &Policy, message: Pending, end: Duration) -> Vec<Duration> {
    let mut ages = vec![];
    let mut age = Duration::ZERO;
    while age < end {
        let next = policy.next_age(message, age);
        assert!(next > age, "{next:?} after {age:?}");
        ages.push(next);
        age = next;
        assert!(ages.len() < 5_000, "the ages do not end");
    }
    ages
}

/// Any lane's past: walks of any kind.
fn habits_of_any_kind(rules: Rules) -> impl Strategy<Value = Habits> {
    let any_walk = (
        proptest::option::of(1_u32..3_000),
        0_u64..90_000_000,
        1_u64..90_000_000,
        0_u32..3_000,
        proptest::collection::vec(0.0..1.0_f64, 0..6),
    );
    let walks = proptest::collection::vec(any_walk, 0..40);
    (walks, 0_u64..1_000).prop_map(move |(walks, days)| {
        let mut habits = Habits::prior(&rules);
        for (expected, from, length, new, timed) in walks {
            let (from, length) = (Duration::from_millis(from), Duration::from_millis(length));
            let timed = timed.into_iter().take(usize::try_from(new).unwrap());
            habits.learn(&Observation {
                read_ages: timed.map(|share| from + length.mul_f64(share)).collect(),
                ..poll(expected, from, from + length, new)
            });
        }
        habits.forget(HOUR * 24 * u32::try_from(days).unwrap(), rules.memory);
        habits
    })
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let life = prop_oneof![Just(10_u64), 1_000_u64..100_000, Just(86_400_000)];
    (life, 0.0..1.0_f64, 0.0..1.0_f64, 0.0..1.0_f64).prop_map(|(life, last, min, max)| {
        let key_lifetime = Duration::from_millis(life);
        let min_interval = key_lifetime.mul_f64(min.powi(6));
        Rules {
            key_lifetime,
            last_chance: key_lifetime.mul_f64(0.5 * last),
            min_interval,
            max_interval: min_interval + key_lifetime.mul_f64(max.powi(3)),
            max_age: key_lifetime * 7,
            ..Rules::default()
        }
    })
}
