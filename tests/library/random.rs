//! How random tests run: side by side, by seeds that are printed.

use proptest::test_runner::{Config, RngSeed};

/// Ways in which cases are gone through at once: those that reach a database wait mostly.
const WAYS: u32 = 4;

/// Parts so many cases, or as many as `$PROPTEST_CASES` says, and runs each part by a seed of its own. A seed that is given
/// (`$PROPTEST_RNG_SEED`) repeats one part.
pub(crate) fn side_by_side(cases: u32, run: impl Fn(Config) + Sync) {
    let mut config = Config {
        // The seed repeats a run; a file of old failures in the source tree would not outlive a change of the cases.
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    let ways = match config.rng_seed {
        RngSeed::Random => WAYS,
        RngSeed::Fixed(_) => 1,
    };
    config.cases = config.cases.div_ceil(ways);
    std::thread::scope(|scope| {
        for _ in 0..ways {
            let mut config = config.clone();
            if config.rng_seed == RngSeed::Random {
                config.rng_seed = RngSeed::Fixed(fastrand::u64(..));
            }
            scope.spawn(|| run(config));
        }
    });
}
