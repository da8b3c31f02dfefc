//! The built daemon under everything that a machine, a neighbour and an endpoint can do to it.
//!
//! `tests/README.md` says which promise each test holds, and how to run thousands of kills or hours of soak.

mod clocks;
mod disk;
mod feeder;
mod file;
mod kills;
mod ledger;
mod neighbours;
mod scenario;
mod shutdown;
mod soak;
mod verdict;

use super::{ROUNDING, harness};

/// Kills where nobody says how many, and in a round at the most.
const KILLS: usize = 25;
const A_ROUND: usize = 25;
