//! The cadence as its users see it.

use std::time::Duration;

use proptest::prelude::*;

use super::super::{MessageKey, Missing};
use super::{Habits, Policy, Rules};

fn ages_from(policy: &Policy, key: &MessageKey, missing: Missing, end: Duration) -> Vec<Duration> {
    let mut ages = vec![];
    let mut age = Duration::ZERO;
    while age < end && ages.len() < 10_000 {
        let next = policy.next_age(key, age, missing);
        assert!(next > age, "{next:?} after {age:?}");
        ages.push(next);
        age = next;
    }
    ages
}

proptest! {
    #[test]
    fn every_age_has_a_later_one(age in 0_u64..10_000_000_000, readers in proptest::option::of(1_u32..5_000)) {
        let policy = Policy::prior(&Rules::default());
        let age = Duration::from_millis(age);
        let missing = readers.map_or(Missing::Unknown, Missing::Known);
        prop_assert!(policy.next_age(&MessageKey::from("k"), age, missing) > age);
    }
}

#[test]
fn the_prior_meets_the_target_and_ends_at_the_last_chance() {
    let rules = Rules::default();
    let policy = Policy::prior(&rules);
    for expected in [policy.expected(), policy.expected_unknown()] {
        assert!(
            (expected.calls_per_message - 12.0).abs() < 1e-6,
            "{expected:?}"
        );
        assert!(expected.reachable);
    }
    let last_chance = rules.key_lifetime - rules.last_chance;
    for missing in [Missing::Known(1), Missing::Known(50), Missing::Unknown] {
        let ages = ages_from(&policy, &MessageKey::from("k"), missing, last_chance);
        assert_eq!(ages.last(), Some(&last_chance));
    }
}

#[test]
fn habits_survive_their_json() {
    let rules = Rules::default();
    let json = Habits::prior(&rules).to_json();
    assert_eq!(Habits::from_json(&json, &rules).unwrap().to_json(), json);
    assert!(Habits::from_json("", &rules).is_err());
}
