//! The built daemon, seen from outside: rows inserted by other processes, an endpoint in this one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod budget;
mod check;
mod commands;
mod dispositions;
mod end_to_end;
#[path = "../harness/mod.rs"]
mod harness;
mod healing;
mod idle;
mod journal;
mod lanes;
mod learning;
mod logs;
mod memory;
mod notify;
mod persons;
mod pushed;
mod reload;
mod retention;
mod secrets;
mod status;
mod trouble;

/// These tests have their database in a file.
async fn server() -> Option<harness::Server> {
    None
}
