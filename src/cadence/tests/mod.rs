//! The cadence as its users see it. Random tests print their seed: proptest's own, or the one named in the message.

mod learning;
mod policies;

use std::time::Duration;

use proptest::prelude::*;

use super::{Call, Habits, Observation, Policy, Rules};
use crate::receipt::{
    ErrorCode, Lane, Message, MessageId, MessageKey, Missing, Outcome, Phase, Schedule, State,
    UnixMs, WalkEnd,
};

const HOUR: Duration = Duration::from_secs(3_600);
const SENT: UnixMs = UnixMs(1_790_000_000_000);

fn message(expected_readers: Option<u32>) -> Message {
    let lane = Lane {
        account: "a".into(),
        corp: None,
    };
    Message {
        expected_readers,
        ..Message::inserted(MessageId(1), "key".into(), lane, SENT)
    }
}

fn outcome(row: &Message, age: Duration, calls: u32, end: WalkEnd) -> Outcome {
    Outcome {
        claim: row.claim(),
        started_at: SENT + age,
        ended_at: SENT + age,
        calls,
        throttled: 0,
        readers: vec![],
        send_status: None,
        end,
    }
}

/// A walk at `to` after one at `from` that brought `new` readers while `missing` (or an unknown number) were waited for.
fn walk(expected: Option<u32>, from: Duration, to: Duration, new: u32) -> Observation {
    let mut before = message(expected);
    if from > Duration::ZERO {
        before.last_complete_at = Some(SENT + from);
        before.last_polled_at = before.last_complete_at;
    }
    let outcome = outcome(&before, to, 1, WalkEnd::Complete);
    Observation::of(&before, &outcome, new, &before).unwrap()
}

fn ages_from(policy: &Policy, key: &MessageKey, missing: Missing, end: Duration) -> Vec<Duration> {
    let mut ages = vec![];
    let mut age = Duration::ZERO;
    while age < end {
        let next = policy.next_age(key, age, missing);
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
    );
    let walks = proptest::collection::vec(any_walk, 0..40);
    (walks, 0_u64..1_000).prop_map(move |(walks, days)| {
        let mut habits = Habits::prior(&rules);
        for (expected, from, length, new) in walks {
            let from = Duration::from_millis(from);
            habits.learn(&walk(
                expected,
                from,
                from + Duration::from_millis(length),
                new,
            ));
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
