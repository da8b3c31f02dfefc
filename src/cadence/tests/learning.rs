//! What is learned, forgotten and kept.

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn habits_survive_their_json(habits in habits_of_any_kind(Rules::default())) {
        let json = habits.to_json();
        let read = Habits::from_json(&json, &Rules::default()).unwrap();
        prop_assert_eq!(read.to_json(), json);
        let (a, b) = (habits.reads(), read.reads());
        prop_assert!((a.0 - b.0).abs() <= 1e-4 * a.0 && (a.1 - b.1).abs() <= 1e-4 * a.1);
    }

    #[test]
    fn no_text_makes_habits_panic(text in ".{0,200}", cut in 0_usize..3_000) {
        let rules = Rules::default();
        let _ = Habits::from_json(&text, &rules);
        let mut json = Habits::prior(&rules).to_json();
        json.truncate(cut);
        prop_assert_eq!(Habits::from_json(&json, &rules).is_err(), true);
    }
}

#[test]
fn stored_habits_of_another_kind_are_refused() {
    let rules = Rules::default();
    let json = Habits::prior(&rules).to_json();
    for (from, to) in [
        ("\"version\":2", "\"version\":3"),
        ("\"ahead\":0.0", "\"ahead\":-1.0"),
        ("\"events\":[0.0,", "\"events\":["),
        ("\"events\":[0.0,", "\"events\":[-1.0,"),
        ("\"events\":[0.0,", "\"events\":[1e300,"),
        ("\"key_lifetime_s\":86400.0", "\"key_lifetime_s\":-1.0"),
    ] {
        let damaged = json.replacen(from, to, 1);
        assert_ne!(damaged, json);
        assert!(Habits::from_json(&damaged, &rules).is_err(), "{to}");
    }
}

/// Written before habits had a recent past of their own.
#[test]
fn habits_of_version_1_are_read() {
    let rules = Rules::default();
    let mut habits = Habits::prior(&rules);
    (0..100).for_each(|_| habits.learn(&poll(Some(1), Duration::ZERO, HOUR, 1)));
    let mut json: serde_json::Value = serde_json::from_str(&habits.to_json()).unwrap();
    json["version"] = 1.into();
    for kind in ["known", "unknown"] {
        json[kind].as_object_mut().unwrap().remove("recent");
    }
    let read = Habits::from_json(&json.to_string(), &rules).unwrap();
    assert!((read.reads().0 - 100.0).abs() < 0.1);
}

/// One message that 90 % read, after an exponential time of `mean` seconds, polled at six ages that vary from message to
/// message as jitter and two mixed policies make them vary.
fn one_read(habits: &mut Habits, random: &mut fastrand::Rng, expected: Option<u32>, mean: f64) {
    let read = (random.f64() < 0.9).then(|| -mean * (1.0 - random.f64()).ln());
    let (mut from, mut seen) = (0.0, false);
    for planned in [60.0, 300.0, 900.0, 2_400.0, 7_200.0, 86_100.0] {
        let to = planned * (0.8 + 0.4 * random.f64());
        let new = !seen && read.is_some_and(|read| read <= to);
        let [start, end] = [from, to].map(Duration::from_secs_f64);
        habits.learn(&poll(expected, start, end, u32::from(new)));
        seen |= new;
        from = to;
        if seen && expected.is_some() {
            break;
        }
    }
}

/// One message each six minutes for so many days, see [`one_read`]. The memory of 30 days fades it.
fn days_of_reads(habits: &mut Habits, expected: Option<u32>, mean: f64, days: u32, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let rules = Rules::default();
    for _ in 0..days * 240 {
        one_read(habits, &mut random, expected, mean);
        habits.forget(HOUR / 10, rules.memory);
    }
}

#[test]
fn what_was_learned_before_a_change_is_dropped_and_habits_that_stand_are_kept() {
    for expected in [Some(1), None] {
        for seed in 1..=3 {
            let mut habits = Habits::prior(&Rules::default());
            let reads = |habits: &Habits| match expected {
                Some(_) => habits.reads().0,
                None => habits.reads().1,
            };
            days_of_reads(&mut habits, expected, 1_200.0, 25, seed);
            // 216 a day, faded over 25 of 30 days.
            let kept = 216.0 * 30.0 * (1.0 - (-25.0_f64 / 30.0).exp());
            assert!(
                (reads(&habits) / kept - 1.0).abs() < 0.05,
                "expected {expected:?}, seed {seed}: {} for {kept}",
                reads(&habits)
            );
            days_of_reads(&mut habits, expected, 120.0, 4, seed);
            let dropped = reads(&habits);
            assert!(
                dropped < 0.5 * kept,
                "expected {expected:?}, seed {seed}: {dropped} of {kept}"
            );
            // In truth 0.9 of all; 0.35 before the change.
            let quick = habits.share_read_by(HOUR / 6, expected.is_some());
            assert!(quick > 0.65, "expected {expected:?}, seed {seed}: {quick}");
        }
    }
}

#[test]
fn habits_move_to_another_key_lifetime() {
    let rules = Rules::default();
    let mut habits = Habits::prior(&rules);
    for _ in 0..500 {
        habits.learn(&poll(Some(1), 2 * HOUR, 3 * HOUR, 1));
    }
    let shorter = Rules {
        key_lifetime: 6 * HOUR,
        ..rules
    };
    let moved = Habits::from_json(&habits.to_json(), &shorter).unwrap();
    assert!((moved.reads().0 - 500.0).abs() < 0.1);
    // Of those that had not read after an hour and a half, nearly all have after four.
    let [before, after] = [HOUR * 3 / 2, 4 * HOUR].map(|age| 1.0 - moved.share_read_by(age, true));
    assert!(after < 0.3 * before, "{before} {after}");
}

#[test]
fn what_was_learned_fades_toward_the_prior() {
    let rules = Rules::default();
    let prior = Habits::prior(&rules).share_read_by(HOUR / 60, true);
    let mut habits = Habits::prior(&rules);
    for _ in 0..2_000 {
        habits.learn(&poll(Some(1), Duration::ZERO, HOUR / 60, 1));
    }
    let learned = habits.share_read_by(HOUR / 60, true);
    assert!(learned > 0.9, "{learned}");
    habits.forget(rules.memory, rules.memory);
    assert!((habits.reads().0 - 2_000.0 / std::f64::consts::E).abs() < 1.0);
    habits.forget(rules.memory * 30, rules.memory);
    let json = habits.to_json();
    let faded = Habits::from_json(&json, &rules)
        .unwrap()
        .share_read_by(HOUR / 60, true);
    assert!((faded - prior).abs() < 0.01, "{faded} {prior}");
    // A clock that was set back changes nothing.
    habits.forget_until(SENT, rules.memory);
    let before = habits.reads();
    habits.forget_until(5, rules.memory);
    assert_eq!(habits.reads(), before);
}

/// The readers' mean time is 20 minutes.
#[test]
fn the_learned_curve_comes_close_to_the_truth() {
    let mut random = fastrand::Rng::with_seed(4_711);
    let rules = Rules::default();
    let truth = |age: Duration| 0.9 * (1.0 - (-age.as_secs_f64() / 1_200.0).exp());
    for expected in [Some(1), None] {
        let mut habits = Habits::prior(&rules);
        for _ in 0..2_000 {
            one_read(&mut habits, &mut random, expected, 1_200.0);
        }
        let read_at_all = if expected.is_some() {
            1.0
        } else {
            truth(24 * HOUR)
        };
        for minutes in [1, 2, 5, 10, 20, 40, 90, 600] {
            let age = HOUR * minutes / 60;
            let learned = habits.share_read_by(age, expected.is_some());
            let true_share = truth(age) / read_at_all;
            assert!(
                (learned - true_share).abs() < 0.035,
                "expected {expected:?}, {minutes} min: {learned} for {true_share}"
            );
        }
    }
}

#[test]
fn a_cut_poll_teaches_its_readers_and_leaves_the_rest_to_the_next() {
    let rules = Rules::default();
    let mut habits = Habits::prior(&rules);
    let cut = |new_readers| Observation {
        complete: false,
        calls: 2,
        ..poll(Some(5), Duration::ZERO, HOUR, new_readers)
    };
    habits.learn(&cut(0));
    let unread = habits.measured().unwrap();
    assert_eq!((unread.calls_per_message, unread.messages), (2.0, 1.0));
    assert_eq!(unread.mean_delay, None, "no read was ever seen");
    let before = habits.share_read_by(HOUR / 6, true);
    (0..100).for_each(|_| habits.learn(&cut(0)));
    assert_eq!(habits.share_read_by(HOUR / 6, true), before);
    habits.learn(&cut(2));
    assert!((habits.reads().0 - 2.0).abs() < 1e-9);
    assert!(habits.measured().unwrap().mean_delay.unwrap() < HOUR);
}

#[test]
fn a_lifetime_is_learned_from_expiries_and_planned_for() {
    let rules = Rules::default();
    let mut habits = Habits::prior(&rules);
    let expired = Observation {
        complete: false,
        expired_after: Some(8 * HOUR),
        ..poll(Some(1), 8 * HOUR, 12 * HOUR, 0)
    };
    (0..20).for_each(|_| habits.learn(&expired));
    assert_eq!(habits.lifetime(&rules), 10 * HOUR);
    let read = Habits::from_json(&habits.to_json(), &rules).unwrap();
    assert_eq!(read.lifetime(&rules), 10 * HOUR);
    let policy = Policy::solve(&read, &rules, 12.0);
    let last_chance = 10 * HOUR - rules.last_chance;
    let ages = ages_from(&policy, pending("k", Missing::Known(1)), last_chance);
    assert_eq!(ages.last(), Some(&last_chance));
}
