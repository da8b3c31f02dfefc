//! Several daemons on one PostgreSQL database, seen from outside: killed, stopped and continued, cut off, and with the server
//! restarted under them.
//!
//! Each node calls the sandbox by an address of its own, so that it shows who called. What is random follows from a seed;
//! `$NODES_SEED` and `$NODES_KILLS` ask for others and for more (see `tests/README.md`).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in a test, a failure is a panic"
)]

mod books;
#[path = "../cluster/mod.rs"]
mod cluster;
mod freezes;
mod kills;
mod moves;
mod outages;
mod town;
mod wire;
