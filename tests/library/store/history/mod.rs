//! Random histories: what feeders, the endpoint, the clock and crashes may do to a store, in any order, with the daemon's
//! own `settle`, `Schedule` and policy deciding; and after every step, what of it may have changed.
//!
//! ```text
//! steps    what may happen, and what is true outside (who has read what, and what time it is)
//! daemon   does it: places, claims, walks, commits, crashes
//! rules    compares the tables before and after a step: the promises
//! ```
//! A run prints its seed. `PROPTEST_RNG_SEED=...` repeats it, `PROPTEST_CASES=5000` goes through more histories.

mod daemon;
mod rules;
mod steps;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::test_runner::{Config, TestError, TestRunner};
use proptest_state_machine::{ReferenceStateMachine as _, StateMachineTest as _};

use receiptd::receipt::Chat;

use super::postgres::PostgresBackend;
use super::sqlite::SqliteBackend;
use super::{Backend, T0};
use crate::random::side_by_side;
use daemon::History;
use steps::{ACCOUNTS, End, KEYS, Step, Walk, World};

/// Steps of a history at most.
const LONGEST: usize = 60;

/// Goes through `cases` histories, or as many as the environment says.
fn run<B: Backend + 'static>(cases: u32) {
    side_by_side(cases, |config| {
        run_by::<B>(&Config {
            max_shrink_iters: 1_000,
            ..config
        });
    });
}

fn run_by<B: Backend + 'static>(config: &Config) {
    let told = format!(
        "{} histories of up to {LONGEST} steps, PROPTEST_RNG_SEED={}",
        config.cases, config.rng_seed
    );
    println!("{told}");
    let strategy = World::sequential_strategy(1..LONGEST);
    let mut runner = TestRunner::new(config.clone());
    let ran = runner.run(&strategy, |(world, steps, seen)| {
        History::<B>::test_sequential(config.clone(), world, steps, seen);
        Ok(())
    });
    match ran {
        Ok(()) => {}
        Err(TestError::Fail(why, (_, steps, _))) => panic!("{told}\n{why}\nafter {steps:#?}"),
        Err(error) => panic!("{told}\n{error}"),
    }
}

#[test]
fn the_promises_hold_in_any_history_in_sqlite() {
    run::<SqliteBackend>(48);
}

#[test]
fn the_promises_hold_in_any_history_in_postgres() {
    if super::postgres::available() {
        run::<PostgresBackend>(16);
    }
}

/// What random histories found, for good.
#[test]
fn histories_that_failed_once() {
    let insert = |expected_readers| Step::Insert {
        key: KEYS[0],
        chat: Chat::Private,
        account: ACCOUNTS[0],
        expected_readers,
        sent_before: Duration::ZERO,
        not_before: None,
    };
    let histories = [
        // A message of the future, as its clock then said, was called at the shortest interval for two days.
        vec![
            insert(Some(1)),
            Step::Place {
                limit: 1,
                some_wait: false,
            },
            Step::SetBack(Duration::from_secs(2 * 86_400)),
        ],
        // A key that came back had readers, and a count of nought.
        vec![
            insert(None),
            Step::Read {
                key: KEYS[0],
                user: "u0",
            },
            Step::Pass(Duration::from_secs(3_600)),
            Step::Place {
                limit: 1,
                some_wait: false,
            },
            Step::Claim {
                account: ACCOUNTS[0],
                failing: false,
                limit: 1,
            },
            Step::Commit {
                walks: vec![Walk {
                    claim: 0,
                    end: End::Complete,
                    status: Some("SUCCESS"),
                    sees: 1,
                    calls: 1,
                    throttled: 0,
                    failed_calls: 0,
                }],
                meanwhile: None,
                drop: None,
            },
            Step::Delete { key: KEYS[0] },
            insert(Some(1)),
        ],
        // A complete message that is given another key keeps its state, without readers of that key.
        vec![
            insert(Some(1)),
            Step::Push {
                key: KEYS[0],
                user: "u0",
                read_before: None,
                times: 1,
            },
            Step::Place {
                limit: 1,
                some_wait: false,
            },
            Step::TakePushed {
                limit: 1,
                meanwhile: None,
                drop: None,
            },
            Step::Rename {
                key: KEYS[0],
                to: KEYS[1],
            },
        ],
    ];
    for steps in histories {
        let world = || World {
            now: T0,
            truth: BTreeMap::new(),
        };
        let config = Config::default;
        History::<SqliteBackend>::test_sequential(config(), world(), steps.clone(), None);
        if super::postgres::available() {
            History::<PostgresBackend>::test_sequential(config(), world(), steps, None);
        }
    }
}
