//! Readers whose habits change in mid-run.

use std::time::Duration;

use receiptd::cadence::Rules;

use super::compare::{self, Row};
use super::crowd::Crowd;
use super::sim::{self, Learner, START};

/// The memory of these runs.
pub(crate) const MEMORY_DAYS: u32 = 15;
/// Measured each so many days.
const STEP_DAYS: u32 = 5;
const DAY: Duration = Duration::from_secs(86_400);

/// How matters stand on a day.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) day: u32,
    /// Days since the habits last changed.
    pub(crate) changed: u32,
    pub(crate) crowd: String,
    pub(crate) learned: Row,
    pub(crate) optimum: Row,
}

impl Stage {
    pub(crate) fn ratio(&self) -> f64 {
        self.learned.mean / self.optimum.mean
    }
}

/// Lives through `stages` (from which day on there is which crowd; the last one only ends the run) with so many messages a
/// day; each fifth day what is in force is measured on `messages` that
/// teach nothing.
pub(crate) fn run(
    stages: &[(u32, Crowd)],
    daily: u32,
    target: f64,
    messages: u64,
    seed: u64,
) -> Vec<Stage> {
    let rules = Rules {
        memory: DAY * MEMORY_DAYS,
        ..sim::open_rules()
    };
    let mut learner = Learner::new(&rules, target);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut seen = vec![];
    for pair in stages.windows(2) {
        let ((from, crowd), to) = (&pair[0], pair[1].0);
        let from = *from;
        let drawn = sim::draw(crowd, messages, seed, rules.key_lifetime);
        for day in (from..to).step_by(STEP_DAYS as usize) {
            let lessons = (u64::from(daily * STEP_DAYS), DAY / daily);
            learner.feed(crowd, &rules, lessons, START + DAY * day, &mut random);
            let learned = Row::of(&sim::run(
                &drawn,
                &rules,
                &learner.policy,
                Some(&learner.habits),
            ));
            seen.push(Stage {
                day: day + STEP_DAYS,
                changed: day + STEP_DAYS - from,
                crowd: crowd.name.clone(),
                optimum: match crowd.has_rhythm() {
                    true => compare::optimum_by_hour(crowd, &drawn, &rules, learned.calls),
                    false => compare::optimum(crowd, &drawn, &rules, learned.calls),
                },
                learned,
            });
        }
    }
    seen
}
