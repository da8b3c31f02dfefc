//! The built daemon under everything that a machine, a neighbour and an endpoint can do to it.
//!
//! `tests/README.md` says which promise each test holds, and how to run thousands of kills or hours of soak.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "seeds and figures")]

mod clocks;
mod disk;
mod feeder;
mod file;
#[path = "../harness/mod.rs"]
mod harness;
mod kills;
mod ledger;
mod neighbour;
mod neighbours;
mod scenario;
mod shutdown;
mod soak;
mod verdict;

/// Kills where nobody says how many, and in a round at the most.
const KILLS: usize = 25;
const A_ROUND: usize = 25;
/// Milliseconds by which two readings of the clock may differ: each is cut to whole ones.
const ROUNDING: i64 = 5;

/// These tests have their database in a file.
async fn server() -> Option<harness::Server> {
    None
}
