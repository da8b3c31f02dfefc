//! When the next call goes out.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_table_gives_a_zero_or_endless_interval(
        (rules, habits) in any_rules().prop_flat_map(|rules| (Just(rules.clone()), habits_of_any_kind(rules))),
        target in prop_oneof![0.0..3.0_f64, 0.0..500.0_f64, Just(f64::NAN), Just(f64::INFINITY), Just(-1.0)],
        readers in proptest::option::of(1_u32..5_000),
        age in 0.0..3.0_f64,
    ) {
        let policy = Policy::solve(&habits, &rules, target);
        for expected in [policy.expected(), policy.expected_unknown()] {
            prop_assert!(expected.calls_per_message.is_finite() && expected.calls_per_message > 0.0);
            prop_assert!(expected.mean_delay <= rules.key_lifetime);
        }
        let missing = readers.map_or(Missing::Unknown, Missing::Known);
        let message = pending("k", missing);
        let ages = ages_from(&policy, message, rules.key_lifetime - rules.last_chance);
        prop_assert!(ages.len() < 2_000);
        // The last of them is the last chance, not later.
        let last = ages.last().copied().unwrap_or_default();
        prop_assert!(last <= rules.key_lifetime.max(Duration::from_millis(10)), "{ages:?}");
        let age = rules.key_lifetime.mul_f64(age);
        prop_assert!(policy.next_age(message, age) > age);
    }

    #[test]
    fn a_higher_target_never_means_a_later_next_poll(
        habits in habits_of_any_kind(Rules::default()),
        low in 0.5..40.0_f64,
        more in 0.0..8.0_f64,
        key in 0_u32..1_000,
    ) {
        let rules = Rules::default();
        let [thrifty, lavish] = [low, low + more].map(|target| Policy::solve(&habits, &rules, target));
        for missing in [Missing::Known(1), Missing::Known(7), Missing::Known(600), Missing::Unknown] {
            let message = pending(&format!("key-{key}"), missing);
            for step in 0..200 {
                let age = Duration::from_secs_f64(86_100.0 * 1.06_f64.powi(-step));
                let (later, sooner) = (thrifty.next_age(message, age), lavish.next_age(message, age));
                prop_assert!(sooner <= later, "{missing:?} at {age:?}: {sooner:?} after {later:?}");
            }
        }
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
        let ages = ages_from(&policy, pending("k", missing), last_chance);
        assert_eq!(ages.last(), Some(&last_chance));
    }
}

#[test]
fn a_life_of_seconds_is_polled_as_a_day_is() {
    let day = Rules::default();
    let demo = Rules {
        key_lifetime: day.key_lifetime / 2_880,
        last_chance: day.last_chance / 2_880,
        min_interval: Duration::ZERO,
        ..day.clone()
    };
    let day = Rules {
        min_interval: Duration::ZERO,
        ..day
    };
    let [long, short] = [day, demo].map(|rules| {
        ages_from(
            &Policy::prior(&rules),
            pending("k", Missing::Known(1)),
            rules.key_lifetime - rules.last_chance,
        )
    });
    assert_eq!(long.len(), short.len());
    for (long, short) in long.iter().zip(&short) {
        assert!((long.as_secs_f64() / 2_880.0 - short.as_secs_f64()).abs() < 1e-3);
    }
}

#[test]
fn walks_of_several_pages_are_paid_from_the_same_target() {
    let rules = Rules::default();
    let mut habits = Habits::prior(&rules);
    for _ in 0..2_000 {
        habits.learn(&Observation {
            calls: 3,
            ..poll(Some(1), Duration::ZERO, HOUR, 0)
        });
    }
    let polls = |habits: &Habits| {
        let policy = Policy::solve(habits, &rules, 24.0);
        assert!((policy.expected_unknown().calls_per_message - 24.0).abs() < 1e-6);
        ages_from(&policy, pending("k", Missing::Unknown), 23 * HOUR).len()
    };
    let (paged, plain) = (polls(&habits), polls(&Habits::prior(&rules)));
    assert!(
        paged * 2 < plain,
        "{paged} walks of three calls, {plain} of one"
    );
}

#[test]
fn at_small_targets_the_expiry_checks_go_first() {
    let rules = Rules::default();
    let habits = Habits::prior(&rules);
    let checked = |target: f64| {
        let policy = Policy::solve(&habits, &rules, target);
        let keys = (0..1_000).map(|n| KeyHash::of(&format!("key-{n}")));
        keys.filter(|key| policy.checks_expiry(*key)).count()
    };
    assert_eq!(checked(1.2), 0);
    assert!((400..600).contains(&checked(2.5)), "{}", checked(2.5));
    assert_eq!(checked(8.0), 1_000);
}
