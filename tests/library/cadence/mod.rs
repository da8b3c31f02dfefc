//! What the cadence promises, in a few seconds: the bench `cadence` measures the same with far more messages.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ages within a simulated month, in milliseconds, and counts of messages fit every type here"
)]

#[path = "../../../benches/cadence/change.rs"]
mod change;
#[path = "../../../benches/cadence/compare.rs"]
mod compare;
#[path = "../../../benches/cadence/crowd.rs"]
mod crowd;
#[path = "../../../benches/cadence/month.rs"]
mod month;
mod parity;
#[path = "../../../benches/cadence/pushed.rs"]
mod pushed;
#[path = "../../../benches/cadence/sim.rs"]
mod sim;

use std::time::Duration;

use compare::{Row, Scheme};
use crowd::Crowd;
use receiptd::cadence::Rules;

const SEED: u64 = 20_261_123;

#[test]
fn learned_calls_are_well_spent_in_every_crowd() {
    let rules = sim::open_rules();
    for crowd in Crowd::four() {
        let messages = sim::draw(&crowd, 2_000, SEED, rules.key_lifetime);
        let target = 8.0;
        let (learned, _) = compare::learned(&crowd, &messages, &rules, target, (1_000, SEED));
        let fixed = Scheme::Fixed.at(&messages, &rules, learned.calls, false);
        let optimum = compare::optimum(&crowd, &messages, &rules, learned.calls);
        let prior = compare::prior(&messages, &rules, learned.calls);
        let seen = format!(
            "{}, seed {SEED}: {learned:?} {fixed:?} {optimum:?}",
            crowd.name
        );
        // Wider than the bench's bounds: half the lessons, a tenth of the messages, one seed.
        assert!(learned.mean <= 1.2 * optimum.mean, "{seen}");
        assert!(learned.mean <= 0.42 * fixed.mean, "{seen}");
        assert!(prior.mean <= 0.8 * fixed.mean, "{seen} {prior:?}");
        assert!((learned.calls / target - 1.0).abs() < 0.12, "{seen}");
        // The optimum is one: nothing that was measured beats it by more than chance.
        for scheme in Scheme::ALL {
            let row = scheme.at(&messages, &rules, learned.calls, false);
            assert!(row.mean > 0.95 * optimum.mean, "{scheme:?} {row:?} {seen}");
        }
    }
}

#[test]
fn groups_are_served_with_their_size_known_and_unknown() {
    let rules = sim::open_rules();
    for known in [true, false] {
        let crowd = Crowd {
            readers: 50,
            known,
            ..Crowd::log_normal(5.0, 1.8, 0.15)
        };
        let messages = sim::draw(&crowd, 200, SEED, rules.key_lifetime);
        let (learned, _) = compare::learned(&crowd, &messages, &rules, 12.0, (60, SEED));
        let optimum = compare::optimum(&crowd, &messages, &rules, learned.calls);
        assert!(
            (learned.calls / 12.0 - 1.0).abs() < 0.05,
            "known {known}, seed {SEED}: {learned:?}"
        );
        assert!(
            learned.mean < 1.15 * optimum.mean,
            "known {known}, seed {SEED}: {learned:?} {optimum:?}"
        );
    }
}

#[test]
fn a_night_is_learned_and_kept_clear_of_calls() {
    let rules = sim::open_rules();
    let crowd = Crowd {
        quiet: Some((14, 24)),
        ..Crowd::log_normal(5.0, 1.8, 0.15)
    };
    let messages = sim::draw(&crowd, 1_000, SEED, rules.key_lifetime);
    let (learned, _) = compare::learned(&crowd, &messages, &rules, 8.0, (600, SEED));
    let by_age = compare::optimum(&crowd, &messages, &rules, learned.calls);
    let by_hour = compare::optimum_by_hour(&crowd, &messages, &rules, learned.calls);
    let seen = format!("seed {SEED}: {learned:?}, by age {by_age:?}, by hour {by_hour:?}");
    println!("{seen}");
    // Wider than the bench's bounds: a third of the lessons, one seed, and fewer messages.
    assert!(learned.mean < 0.25 * by_age.mean, "{seen}");
    assert!(learned.mean < 1.3 * by_hour.mean, "{seen}");
    assert!((learned.calls / 8.0 - 1.0).abs() < 0.12, "{seen}");
}

#[test]
fn changed_habits_are_followed_within_one_memory() {
    // The slower the crowd was, the fewer calls are left to notice that it is no more.
    let quick = Crowd::log_normal(1.0, 1.3, 0.05);
    let stages = [
        (0, Crowd::log_normal(60.0, 1.3, 0.30)),
        (10, quick.clone()),
        (25, quick),
    ];
    let days = change::run(&stages, 100, 8.0, 1_000, SEED);
    for day in &days {
        println!(
            "day {}: {}, {:.2} calls, {:.2} of the optimum",
            day.day,
            day.crowd,
            day.learned.calls,
            day.ratio()
        );
    }
    let followed = &days[days.len() - 1];
    assert_eq!(followed.changed, change::MEMORY_DAYS);
    // Wider than the bench's bounds: one seed, and fewer messages.
    assert!(followed.ratio() < 1.35, "seed {SEED}: {followed:?}");
    assert!(
        (followed.learned.calls / 8.0 - 1.0).abs() < 0.15,
        "seed {SEED}: {followed:?}"
    );
}

#[test]
fn the_bounds_of_the_operator_win_and_the_spend_follows() {
    let crowd = Crowd::log_normal(5.0, 1.8, 0.15);
    let rules = Rules {
        min_interval: Duration::from_secs(1_800),
        max_interval: Duration::from_secs(3 * 3_600),
        ..Rules::default()
    };
    let messages = sim::draw(&crowd, 1_000, SEED, rules.key_lifetime);
    for target in [4.0, 40.0] {
        let policy =
            receiptd::cadence::Policy::optimal(|age| crowd.share_read(age), 1, &rules, target);
        let row = Row::of(&sim::run(&messages, &rules, &policy, None));
        let expected = policy.expected();
        assert!(
            (row.calls / expected.calls_per_message - 1.0).abs() < 0.07,
            "target {target}, seed {SEED}: {row:?} {expected:?}"
        );
        assert_eq!(expected.reachable, target < 5.0, "{expected:?}");
    }
}

#[test]
fn a_month_is_never_a_call_over_its_budget_and_last_chances_come_first() {
    let crowd = Crowd::log_normal(5.0, 1.8, 0.15);
    let rules = Rules::default();
    // A tenth of the bench's months: 500 calls.
    let plan = |messages| month::Plan {
        messages,
        within: None,
        budget: 500,
        day: 0,
        usual: None,
    };
    let months = [30, 150, 400, 800].map(|messages| {
        let month = month::run(&crowd, &rules, plan(messages), SEED);
        println!(
            "{messages}: {} calls, {:.0} s",
            month.spent,
            month.tally.mean()
        );
        assert!(month.spent <= 500);
        if messages <= 400 {
            assert_eq!(month.dropped, 0, "{messages} messages, seed {SEED}");
            assert_eq!(month.tally.missed, 0, "{messages} messages, seed {SEED}");
        }
        month
    });
    let mean = months.each_ref().map(|month| month.tally.mean());
    assert!(
        mean.windows(2).all(|pair| pair[0] < pair[1]),
        "seed {SEED}: {mean:?}"
    );
    let [_, _, _, beyond] = months;
    assert!(beyond.dropped > 0);
    let served = beyond.last_chances - beyond.dropped;
    // What the others cost was spent before the month's rate was known.
    assert!(
        served >= 465,
        "{served} last chances of 500 calls, seed {SEED}"
    );
    // Where it is known from the start, all are last chances.
    let known = month::Plan {
        usual: Some(800.0),
        ..plan(800)
    };
    let known = month::run(&crowd, &rules, known, SEED);
    assert_eq!(
        (known.spent, known.last_chances - known.dropped),
        (500, 500)
    );
    // Lanes that begin in mid-month make the same calls last what is left of it.
    let late = month::Plan {
        day: 20,
        ..plan(150)
    };
    let late = month::run(&crowd, &rules, late, SEED);
    assert!(
        late.spent <= 500 && late.dropped == 0 && late.tally.missed == 0,
        "seed {SEED}: {late:?}"
    );
    assert!(
        late.tally.mean() < 1.5 * mean[1],
        "seed {SEED}: {} for {mean:?}",
        late.tally.mean()
    );
}

#[test]
fn the_first_burst_of_an_account_is_no_rate_of_its_month() {
    let crowd = Crowd::log_normal(5.0, 1.8, 0.15);
    let rules = Rules::default();
    for seed in SEED..SEED + 3 {
        let burst = |budget, usual| {
            let plan = month::Plan {
                messages: 100,
                within: Some(Duration::from_secs(360)),
                budget,
                day: 0,
                usual,
            };
            month::run(&crowd, &rules, plan, seed)
        };
        // What is asked for, or less where messages are complete before.
        let lavish = burst(1_000_000, None).spent.min(1_200);
        for usual in [None, Some(300.0)] {
            let month = burst(4_000, usual);
            let seen = format!("usual {usual:?}, seed {seed}: {} of {lavish}", month.spent);
            assert!(3 * month.spent >= 2 * lavish, "{seen}");
            assert_eq!((month.dropped, month.tally.missed), (0, 0), "{seen}");
        }
    }
}

/// Where readers do as the policy takes them to do, it spends what it says: any crowd, group and target. It is solved for
/// the very messages that it then polls, so that what a draw has by chance (4,000 messages may spend 6 % less, for having
/// fewer that nobody reads) is no part of the difference.
#[test]
fn the_mean_spend_meets_the_target_in_any_crowd() {
    let rules = sim::open_rules();
    let mut random = fastrand::Rng::with_seed(SEED);
    for case in 0..16_usize {
        let minutes = 60.0_f64.powf(random.f64()) * 0.5;
        let crowd = Crowd {
            readers: [1, 8, 50, 12][case % 4],
            known: case % 5 != 3,
            ..Crowd::log_normal(minutes, 1.0 + random.f64(), 0.4 * random.f64())
        };
        let target = 3.0 + 20.0 * random.f64();
        let messages = (1_000 / u64::from(crowd.readers)).max(200);
        let drawn: Vec<_> = (0..messages)
            .map(|_| crowd.reads(&mut random, sim::START.0))
            .collect();
        let mut reads: Vec<i64> = drawn.iter().flatten().copied().collect();
        reads.sort_unstable();
        let everybody = messages as f64 * f64::from(crowd.readers);
        let share = |age: Duration| {
            reads.partition_point(|at| *at <= age.as_millis() as i64) as f64 / everybody
        };
        let policy = receiptd::cadence::Policy::optimal(share, crowd.readers, &rules, target);
        let messages: Vec<_> = (0..)
            .zip(drawn)
            .map(|(number, reads)| {
                sim::Live::new(number, &crowd, sim::START, reads, rules.key_lifetime)
            })
            .collect();
        let row = Row::of(&sim::run(&messages, &rules, &policy, None));
        let seen = format!(
            "case {case}, seed {SEED}: {} readers, known {}, {}, target {target:.2}: {:.2} spent",
            crowd.readers, crowd.known, crowd.name, row.calls
        );
        println!("{seen}");
        assert!((row.calls / target - 1.0).abs() < 0.05, "{seen}");
    }
}

/// A month of messages to persons: with pushed reads the calls are a safety net, and hardly anything waits for them.
#[test]
fn pushed_reads_spare_calls_and_waiting() {
    let crowd = Crowd {
        readers: 3,
        ..Crowd::log_normal(5.0, 1.8, 0.15)
    };
    let month = |target, pushed, timed| {
        let plan = pushed::Plan {
            messages: 300,
            target,
            pushed,
            timed,
        };
        pushed::run(&crowd, &Rules::default(), plan, SEED)
    };
    let polled = month(12.0, 0.0, true);
    let few = month(2.0, 0.0, true);
    let all = month(2.0, 1.0, true);
    let most = month(2.0, 0.9, true);
    let seen = |tally: &sim::Tally| (tally.calls_per_message(), tally.mean(), tally.missed);
    let said = format!(
        "{:?} {:?} {:?} {:?}",
        seen(&polled),
        seen(&few),
        seen(&all),
        seen(&most)
    );
    assert!(all.mean() < 1.0 && all.missed == 0, "{said}");
    assert!(most.mean() < 0.2 * few.mean(), "{said}");
    for tally in [&all, &most] {
        assert!(
            tally.calls_per_message() < 0.4 * polled.calls_per_message(),
            "{said}"
        );
    }
    // The readers are those that they were, however they became known.
    let readers = |tally: &sim::Tally| tally.delays.len() as u64 + tally.missed;
    assert_eq!(readers(&all), readers(&month(2.0, 1.0, false)), "{said}");
}
