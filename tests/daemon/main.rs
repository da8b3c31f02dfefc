//! The built daemon, seen from outside: rows inserted by other processes, an endpoint in this one.
//!
//! `tests/README.md` says which promise each test holds.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "seeds and figures")]

mod budget;
mod check;
#[path = "../cluster/mod.rs"]
mod cluster;
mod commands;
mod dispositions;
mod end_to_end;
mod examples;
mod faults;
mod file;
#[path = "../harness/mod.rs"]
mod harness;
mod healing;
mod idle;
mod journal;
mod lanes;
mod learning;
mod logs;
mod memory;
mod monitoring;
mod notify;
mod persons;
mod pushed;
mod reload;
mod retention;
mod secrets;
mod status;
mod trouble;

/// Milliseconds by which two readings of the clock may differ: each is cut to whole ones.
const ROUNDING: i64 = 5;

/// Rows that wait, where nobody says how many.
const BACKLOG_ROWS: u64 = 300_000;

/// These tests have their database in a file.
async fn server() -> Option<harness::Server> {
    None
}
