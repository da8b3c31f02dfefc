//! The tables that the bench prints. Each function says whether its bounds hold.

use std::time::{Duration, Instant};

use receiptd::cadence::{Observation, Policy, Rules};

use super::change::{self, Stage};
use super::compare::{self, Row, Scheme};
use super::crowd::Crowd;
use super::month::{self, Plan};
use super::options::Options;
use super::pushed as push;
use super::sim::{self, Tally};

/// Learned against optimum, learned against fixed, prior against fixed: no more than this, as means over the seeds.
const BOUNDS: [(&str, f64); 4] = [
    ("learned/optimum by hour", 1.15),
    ("learned/optimum", 1.10),
    ("learned/fixed", 0.42),
    ("prior/fixed", 0.80),
];
/// How far the mean spend may lie from its target.
const SPEND: f64 = 0.05;
/// Quick, slow, quick again.
fn turns() -> Vec<(u32, Crowd)> {
    let crowd = |minutes, never| Crowd::log_normal(minutes, 1.3, never);
    let quick = crowd(1.0, 0.05);
    vec![
        (0, quick.clone()),
        (45, crowd(60.0, 0.30)),
        (85, quick.clone()),
        (120, quick),
    ]
}

/// A crowd without a night, with one, and without one again.
fn nights(crowd: &Crowd) -> Vec<(u32, Crowd)> {
    let crowd = |quiet, name: &str| Crowd {
        quiet,
        name: name.to_owned(),
        ..crowd.clone()
    };
    let (awake, night) = (
        crowd(None, "no night"),
        crowd(Some((14, 24)), "night 14-24"),
    );
    vec![
        (0, awake.clone()),
        (30, night),
        (60, awake.clone()),
        (90, awake),
    ]
}

/// All ways of polling one crowd, at the calls that the learned one spent.
struct Comparison {
    rows: Vec<(&'static str, Row)>,
}

impl Comparison {
    fn run(crowd: &Crowd, rules: &Rules, target: f64, options: &Options, seed: u64) -> Self {
        let messages = sim::draw(crowd, options.messages, seed, rules.key_lifetime);
        let lessons = (options.lessons, seed);
        let (learned, _) = compare::learned(crowd, &messages, rules, target, lessons);
        let calls = learned.calls;
        let [fixed, doubling, root] =
            Scheme::ALL.map(|scheme| scheme.at(&messages, rules, calls, false));
        let confirming = Scheme::Doubling.at(&messages, rules, calls, true);
        let prior = compare::prior(&messages, rules, calls);
        let optimum = compare::optimum(crowd, &messages, rules, calls);
        let by_hour = crowd
            .has_rhythm()
            .then(|| compare::optimum_by_hour(crowd, &messages, rules, calls));
        Self {
            rows: vec![
                ("fixed", fixed),
                ("doubling", doubling),
                ("  and 1", confirming),
                ("sqrt(age)", root),
                ("prior", prior),
                ("learned", learned),
                ("optimum", optimum),
                ("optimum by hour", by_hour.unwrap_or(optimum)),
            ],
        }
    }

    /// Means over several seeds.
    fn mean(runs: &[Self]) -> Self {
        let of = |index: usize, field: fn(&Row) -> f64| {
            runs.iter()
                .map(|run| field(&run.rows[index].1))
                .sum::<f64>()
                / runs.len() as f64
        };
        let rows = runs[0].rows.iter().enumerate().map(|(index, (name, _))| {
            let row = Row {
                calls: of(index, |row| row.calls),
                mean: of(index, |row| row.mean),
                median: of(index, |row| row.median),
                p95: of(index, |row| row.p95),
            };
            (*name, row)
        });
        Self {
            rows: rows.collect(),
        }
    }

    fn row(&self, name: &str) -> Row {
        let found = self.rows.iter().find(|(of, _)| *of == name);
        found.map(|(_, row)| *row).unwrap_or_default()
    }

    fn ratio(&self, of: &str, to: &str) -> f64 {
        self.row(of).mean / self.row(to).mean
    }

    fn print(&self) {
        // "and 1": with the call that finds the key expired, which the cadence and the optimum pay.
        println!(
            "  {:<15} {:>8} {:>10} {:>10} {:>10}",
            "", "calls", "mean s", "median s", "p95 s"
        );
        for (name, row) in &self.rows {
            println!(
                "  {name:<15} {:>8.2} {:>10.1} {:>10.1} {:>10.1}",
                row.calls, row.mean, row.median, row.p95
            );
        }
    }
}

/// A crowd at a target over all seeds: the table, the ratios (as means over the seeds), and whether they hold.
fn compare_crowd(crowd: &Crowd, rules: &Rules, target: f64, options: &Options) -> (Vec<f64>, f64) {
    let runs: Vec<Comparison> = seeds(options)
        .map(|seed| Comparison::run(crowd, rules, target, options, seed))
        .collect();
    let mean = Comparison::mean(&runs);
    println!("\n{}, target {target}", crowd.name);
    mean.print();
    let ratios = BOUNDS.map(|(name, _)| {
        let (of, to) = name.split_once('/').unwrap_or((name, name));
        runs.iter().map(|run| run.ratio(of, to)).sum::<f64>() / runs.len() as f64
    });
    (ratios.to_vec(), mean.row("learned").calls)
}

fn introduce(options: &Options) {
    println!(
        "{} messages after {} to learn from, seeds {}..={}",
        options.messages,
        options.lessons,
        options.seed,
        options.seed + options.seeds.max(1) - 1
    );
}

/// The four crowds.
pub(crate) fn bounds(options: &Options) -> bool {
    introduce(options);
    let rules = sim::open_rules();
    let mut held = true;
    for crowd in Crowd::four() {
        for target in &options.targets {
            let (ratios, calls) = compare_crowd(&crowd, &rules, *target, options);
            for ((name, bound), ratio) in BOUNDS.iter().zip(&ratios) {
                held &= verdict(name, *ratio, *bound);
            }
            held &= verdict(
                "|spend - target| / target",
                (calls / target - 1.0).abs(),
                SPEND,
            );
        }
    }
    println!(
        "\n{}",
        if held {
            "every bound holds"
        } else {
            "NOT every bound holds"
        }
    );
    held
}

fn verdict(name: &str, value: f64, bound: f64) -> bool {
    let holds = value <= bound;
    println!(
        "  {name} {value:.3} (at most {bound}) {}",
        if holds { "holds" } else { "FAILS" }
    );
    holds
}

/// One crowd, no bounds.
pub(crate) fn crowd(options: &Options) -> bool {
    introduce(options);
    for target in &options.targets {
        let (ratios, _) = compare_crowd(&options.crowd, &sim::open_rules(), *target, options);
        for ((name, _), ratio) in BOUNDS.iter().zip(&ratios) {
            println!("  {name} {ratio:.3}");
        }
    }
    true
}

/// Groups of 50, with `expected_readers` and without.
pub(crate) fn groups(options: &Options) -> bool {
    for known in [true, false] {
        let group = Crowd {
            readers: 50,
            known,
            name: format!(
                "50 readers, expected_readers {}",
                if known { "given" } else { "absent" }
            ),
            ..options.crowd.clone()
        };
        let options = Options {
            crowd: group,
            messages: options.messages / 10,
            lessons: options.lessons / 10,
            ..options.clone()
        };
        crowd(&options);
    }
    true
}

/// Months on a budget.
pub(crate) fn month(options: &Options, messages: u64) -> bool {
    let rules = Rules::default();
    let series = match messages {
        0 => vec![150, 300, 600, 1_000, 1_500, 2_500, 4_000, 4_800, 8_000],
        messages => vec![messages],
    };
    println!(
        "{}, {} calls a month, seed {}",
        options.crowd.name, options.budget, options.seed
    );
    println!(
        "{:>9} {:>7} {:>14} {:>8} {:>10} {:>9} {:>7}",
        "messages", "calls", "last chances", "dropped", "mean s", "reads", "missed"
    );
    let mut held = true;
    for messages in series {
        let plan = Plan {
            messages,
            within: options.within,
            budget: options.budget,
            day: options.day,
            usual: options.usual,
        };
        let month = month::run(&options.crowd, &rules, plan, options.seed);
        held &= month.spent <= options.budget;
        held &= messages > options.budget || month.dropped == 0;
        println!(
            "{messages:>9} {:>7} {:>14} {:>8} {:>10.0} {:>9} {:>7}",
            month.spent,
            month.last_chances,
            month.dropped,
            month.tally.mean(),
            month.tally.delays.len(),
            month.tally.missed,
        );
    }
    held
}

/// A crowd that changes from quick to slow in mid-run, and back.
pub(crate) fn change(options: &Options) -> bool {
    stages(options, &turns())
}

/// A crowd that begins to sleep at night in mid-run, and ends to.
pub(crate) fn rhythm(options: &Options) -> bool {
    stages(options, &nights(&options.crowd))
}

fn stages(options: &Options, stages: &[(u32, Crowd)]) -> bool {
    let target = options.targets[0];
    introduce(options);
    println!(
        "{} messages a day, memory 15 days, target {target}",
        options.daily
    );
    let runs: Vec<Vec<Stage>> = seeds(options)
        .map(|seed| {
            let daily = options.daily;
            change::run(stages, daily, target, options.messages / 4, seed)
        })
        .collect();
    println!(
        "{:>6} {:<24} {:>7} {:>10} {:>10} {:>6}",
        "day", "crowd", "calls", "learned s", "optimum s", "ratio"
    );
    let (mut ratios, mut spends) = (0.0_f64, 0.0_f64);
    for (index, stage) in runs[0].iter().enumerate() {
        let mean = |of: fn(&Stage) -> f64| {
            runs.iter().map(|run| of(&run[index])).sum::<f64>() / runs.len() as f64
        };
        let (calls, ratio) = (mean(|stage| stage.learned.calls), mean(Stage::ratio));
        // From one memory after a change on.
        if stage.changed >= change::MEMORY_DAYS {
            ratios = ratios.max(ratio);
            spends = spends.max((calls / target - 1.0).abs());
        }
        println!(
            "{:>6} {:<24} {calls:>7.2} {:>10.1} {:>10.1} {ratio:>6.2}",
            stage.day,
            stage.crowd,
            mean(|stage| stage.learned.mean),
            mean(|stage| stage.optimum.mean),
        );
    }
    let followed = verdict(
        "worst ratio from one memory after a change on",
        ratios,
        1.25,
    );
    verdict("worst |spend - target| / target from then on", spends, 0.10) && followed
}

/// What a policy costs to solve and to keep, by lanes of several kinds.
pub(crate) fn solving(options: &Options) -> bool {
    let night = Crowd {
        quiet: Some((14, 24)),
        ..Crowd::log_normal(5.0, 1.8, 0.15)
    };
    let kinds = [
        ("no night", Crowd::log_normal(5.0, 1.8, 0.15)),
        ("night, sent all day", night.clone()),
        (
            "night and weekends, sent all day",
            Crowd {
                weekends: true,
                ..night.clone()
            },
        ),
        (
            "night, sent by day",
            Crowd {
                sends: (0, 14),
                ..night.clone()
            },
        ),
        (
            "night, groups of 50",
            Crowd {
                readers: 50,
                ..night
            },
        ),
    ];
    println!(
        "{:<34} {:>9} {:>9} {:>11} {:>9}",
        "lane", "ms/solve", "us/poll", "policy, KB", "JSON, KB"
    );
    let rules = sim::open_rules();
    let mut held = true;
    for (name, crowd) in kinds {
        let mut learner = sim::Learner::new(&rules, options.targets[0]);
        let mut random = fastrand::Rng::with_seed(options.seed);
        let lessons = (options.lessons, Duration::from_secs(600));
        learner.feed(&crowd, &rules, lessons, sim::START, &mut random);
        let each = |times: u32, run: &mut dyn FnMut()| {
            let begin = Instant::now();
            (0..times).for_each(|_| run());
            begin.elapsed().as_secs_f64() / f64::from(times)
        };
        let solve = 1e3
            * each(10, &mut || {
                std::hint::black_box(Policy::solve(&learner.habits, &rules, learner.target));
            });
        let seen = Observation {
            sent_at: sim::START.0,
            age: Duration::from_secs(45_000),
            seen_until: Duration::from_secs(30_000),
            calls: 1,
            begins: None,
            complete: true,
            new_readers: 0,
            read_ages: vec![],
            still_missing: Some(crowd.readers),
            expired_after: None,
        };
        let mut habits = learner.habits.clone();
        let learn = 1e6 * each(2_000, &mut || habits.learn(&seen));
        let size = learner.policy.size() as f64 / 1_024.0;
        let stored = learner.habits.to_json().len() as f64 / 1_024.0;
        println!("{name:<34} {solve:>9.1} {learn:>9.1} {size:>11.1} {stored:>9.1}");
        held &= crowd.readers > 1 || (size <= 64.0 && solve <= 100.0);
    }
    held
}

fn seeds(options: &Options) -> std::ops::Range<u64> {
    options.seed..options.seed + options.seeds.max(1)
}

/// A month of messages to three persons each, with the reads that DingTalk pushes and without; whether events spare what the
/// guide says.
pub(crate) fn pushed(options: &Options) -> bool {
    let crowd = Crowd {
        readers: 3,
        ..Crowd::log_normal(5.0, 1.8, 0.15)
    };
    println!("{}, means over seeds {:?}", crowd.name, seeds(options));
    println!(
        "{:<34} {:>6} {:>8} {:>9} {:>8} {:>8}",
        "reads", "target", "calls", "delay, s", "95 %, s", "missed"
    );
    let mut delays = Vec::new();
    for (name, target, pushed, timed) in [
        ("polled, no times", 12.0, 0.0, false),
        ("polled, with times", 12.0, 0.0, true),
        ("polled, with times", 2.0, 0.0, true),
        ("pushed, a tenth lost", 2.0, 0.9, true),
        ("pushed, all", 2.0, 1.0, true),
        ("pushed, all", 12.0, 1.0, true),
    ] {
        let plan = push::Plan {
            messages: 1_000,
            target,
            pushed,
            timed,
        };
        let runs: Vec<_> = seeds(options)
            .map(|seed| push::run(&crowd, &Rules::default(), plan, seed))
            .collect();
        let mean = |of: fn(&Tally) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let delay = mean(Tally::mean);
        println!(
            "{name:<34} {target:>6} {:>8.2} {delay:>9.1} {:>8.0} {:>8.1}",
            mean(Tally::calls_per_message),
            mean(|tally| tally.quantile(0.95)),
            mean(|tally| tally.missed as f64),
        );
        delays.push(delay);
    }
    // With all pushed nothing waits for a poll; with a tenth lost, a tenth does.
    delays[4] < 1.0 && delays[3] < 0.2 * delays[2] && delays[5] < 1.0
}
