//! What is learned, forgotten and kept.

use super::super::activity::hour_of_week;
use super::*;

const DAY_MS: i64 = 86_400_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn habits_survive_their_json(habits in habits_of_any_kind(Rules::default())) {
        let json = habits.to_json();
        let read = Habits::from_json(&json, &Rules::default()).unwrap();
        prop_assert!(read.to_json() == json, "not as it was: {}", json.len());
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
        ("\"version\":3", "\"version\":2"),
        ("\"cusum\":0.0", "\"cusum\":-1.0"),
        ("\"hours\":[[0.0,", "\"hours\":[["),
        ("\"events\":[0.0,", "\"events\":["),
        ("\"events\":[0.0,", "\"events\":[-1.0,"),
        ("\"events\":[0.0,", "\"events\":[1e30,"),
        ("\"key_lifetime_s\":86400.0", "\"key_lifetime_s\":-1.0"),
    ] {
        let damaged = json.replacen(from, to, 1);
        assert!(damaged != json, "{from}");
        assert!(Habits::from_json(&damaged, &rules).is_err(), "{to}");
    }
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

/// Messages that are sent at all hours, each read after an exponential time of 10 minutes, but by nobody from 14:00 to 24:00
/// nor on a Sunday; polled at their policy's ages. Returns the last policy.
fn weeks_with_nights(
    habits: &mut Habits,
    rules: &Rules,
    weeks: i64,
    daily: i64,
    seed: u64,
) -> Policy {
    let mut random = fastrand::Rng::with_seed(seed);
    let begin = SENT - SENT.rem_euclid(DAY_MS);
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap();
    let quiet = |at: i64| {
        let hour = hour_of_week(at, 0.0);
        hour % 24 >= 14 || hour >= 144
    };
    let mut policy = Policy::solve(habits, rules, 3.0);
    for number in 0..weeks * 7 * daily {
        let sent_at = begin + number * DAY_MS / daily;
        let mut read = sent_at + ms((HOUR / 6).mul_f64(-(1.0 - random.f64()).ln()));
        if quiet(read) {
            while quiet(read) {
                read += 3_600_000 - read.rem_euclid(3_600_000);
            }
            read += random.i64(0..600_000);
        }
        if number % daily == 0 {
            habits.forget_until(sent_at, rules.memory);
            policy = Policy::solve(habits, rules, 3.0);
        }
        let message = Pending {
            sent_at,
            ..pending(&format!("key-{number}"), Missing::Known(1))
        };
        let (mut from, mut seen) = (Duration::ZERO, false);
        while !seen && from < HOUR * 23 {
            let age = policy.next_age(message, from);
            seen = sent_at + ms(age) >= read;
            habits.learn(&Observation {
                sent_at,
                ..poll(Some(1), from, age, u32::from(seen))
            });
            from = age;
        }
    }
    policy
}

#[test]
fn nights_and_days_off_are_learned_and_no_call_goes_into_them() {
    let rules = Rules::default();
    for seed in 1..2 {
        let mut habits = Habits::prior(&rules);
        let policy = weeks_with_nights(&mut habits, &rules, 3, 96, seed);
        assert!(policy.has_rhythm(), "seed {seed}");
        let awake = habits.awake().unwrap();
        // Tuesday noon, Tuesday night, Sunday noon.
        assert!(
            awake[36] > 0.7 && awake[42] < 0.15 && awake[156] < 0.15,
            "seed {seed}: {awake:?}"
        );
        // Sent on a Tuesday at 16:20: the first call is at midnight, or in the middle of the night for a few.
        let monday = SENT - i64::try_from(hour_of_week(SENT, 0.0)).unwrap() * 3_600_000;
        let sent_at = monday - monday.rem_euclid(3_600_000) + 40 * 3_600_000 + 1_200_000;
        let first = |number: u32| {
            let key = pending(&format!("key-{number}"), Missing::Known(1));
            policy.next_age(Pending { sent_at, ..key }, Duration::ZERO)
        };
        let midnight = HOUR * 23 / 3..HOUR * 8;
        let firsts: Vec<_> = (0..100).map(first).collect();
        let at_midnight = firsts.iter().filter(|first| midnight.contains(*first));
        assert!(at_midnight.count() > 80, "seed {seed}: {firsts:?}");
        // What was stored goes on as it was.
        let read = Habits::from_json(&habits.to_json(), &rules).unwrap();
        assert!(
            Policy::solve(&read, &rules, 3.0).has_rhythm(),
            "seed {seed}"
        );
    }
}

#[test]
fn an_account_that_never_had_an_answer_asks_early_whatever_the_hour() {
    let rules = Rules::default();
    let mut habits = Habits::prior(&rules);
    // A month of messages of the day that nobody can be asked of.
    for number in 0..300 {
        habits.learn(&Observation {
            sent_at: SENT + number * DAY_MS / 10,
            complete: false,
            ..poll(Some(1), Duration::ZERO, HOUR / 60, 0)
        });
    }
    let policy = Policy::solve(&habits, &rules, 12.0);
    for hour in 0..168 {
        let message = Pending {
            sent_at: SENT + hour * 3_600_000,
            ..pending("k", Missing::Known(1))
        };
        let first = policy.next_age(message, Duration::ZERO);
        assert!(first < HOUR / 12, "hour {hour}: {first:?}");
    }
}

/// What is learned of a crowd whose reads come `mean` seconds after the sending, each message polled once in ten minutes: with
/// the times of the reads, or without.
fn polled_every_ten_minutes(expected: Option<u32>, timed: bool) -> Habits {
    let rules = Rules::default();
    let mut habits = Habits::prior(&rules);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..500 {
        let read = -60.0 * (1.0 - random.f64()).ln();
        let (start, end) = (Duration::ZERO, Duration::from_secs(600));
        habits.learn(&Observation {
            read_ages: match timed {
                true => vec![Duration::from_secs_f64(read.min(599.0))],
                false => vec![],
            },
            ..poll(expected, start, end, 1)
        });
    }
    habits
}

#[test]
fn a_read_whose_time_is_known_teaches_with_its_age_and_its_delay() {
    for expected in [Some(1), None] {
        let known = expected.is_some();
        let [timed, untimed] = [true, false].map(|timed| polled_every_ten_minutes(expected, timed));
        let by = |habits: &Habits, age| habits.share_read_by(Duration::from_secs(age), known);
        // The truth: half within 42 s, and 86 % within two minutes.
        for (age, truth) in [(42, 0.5), (120, 0.86), (300, 0.99)] {
            let (near, far) = (by(&timed, age) - truth, by(&untimed, age) - truth);
            assert!(near.abs() < 0.06, "{known}, {age}: {}", by(&timed, age));
            assert!(near.abs() < far.abs(), "{known}, {age}: {near} {far}");
        }
        // Each read is one, however it was told.
        let [(k, u), (l, v)] = [timed.reads(), untimed.reads()];
        assert!((k + u - (l + v)).abs() < 5.0, "{k} {u} {l} {v}");
        let delay = timed.measured().unwrap().mean_delay.unwrap().as_secs_f64();
        assert!((530.0..550.0).contains(&delay), "{delay}");
    }
}

/// Of a message with many readers the times of some are told.
#[test]
fn some_times_are_known_and_others_are_not() {
    let seconds = Duration::from_secs;
    let mut habits = Habits::prior(&Rules::default());
    for _ in 0..400 {
        habits.learn(&Observation {
            read_ages: vec![seconds(10), seconds(20), seconds(30)],
            ..poll(Some(10), Duration::ZERO, seconds(3_600), 5)
        });
        habits.learn(&poll(Some(5), seconds(3_600), seconds(86_000), 0));
    }
    let by = |age| habits.share_read_by(seconds(age), true);
    // Of the others nothing speaks against their having read as these did.
    assert!((0.42..0.52).contains(&by(60)), "{}", by(60));
    assert!((0.45..0.56).contains(&by(3_700)), "{}", by(3_700));
    let (known, _) = habits.reads();
    assert!((1_990.0..2_010.0).contains(&known), "{known}");
    let delay = habits.measured().unwrap().mean_delay.unwrap();
    assert!(delay > seconds(1_800), "{delay:?}");
}

/// No poll is made for what was pushed, and the hour of a read is its own.
#[test]
fn pushed_reads_alone_teach_ages_hours_and_that_no_call_was_made() {
    let rules = Rules::default();
    let mut habits = Habits::prior(&rules);
    let mut random = fastrand::Rng::with_seed(9);
    for number in 0..3_000_i64 {
        // Sent at any hour; who would read between 14 and 24 h reads soon after midnight.
        let sent_at = SENT + number * 1_200_000;
        let mut read = -300.0 * (1.0 - random.f64()).ln();
        let hour = hour_of_week(sent_at, read) % 24;
        if hour >= 14 {
            let midnight = (sent_at / DAY_MS + 1) * DAY_MS;
            let wait = Duration::from_millis((midnight - sent_at).unsigned_abs());
            read = wait.as_secs_f64() + 600.0 * random.f64();
        }
        let read = Duration::from_secs_f64(read);
        habits.learn(&Observation {
            sent_at,
            age: read + Duration::from_secs(1),
            seen_until: Duration::ZERO,
            calls: 0,
            begins: Some(Missing::Known(1)),
            complete: false,
            new_readers: 1,
            read_ages: vec![read],
            still_missing: Some(0),
            expired_after: None,
        });
    }
    let measured = habits.measured().unwrap();
    assert_eq!(measured.calls_per_message, 0.0);
    assert!(measured.mean_delay.unwrap() < Duration::from_millis(1_100));
    let awake = habits.awake().unwrap();
    let monday = |hour: usize| awake[hour];
    assert!(monday(18) < 0.3 && monday(8) > 0.6, "{awake:?}");
    let soon = habits.share_read_by(Duration::from_secs(1_200), true);
    assert!(soon > 0.9, "{soon}: but for sleep they read within minutes");
}
