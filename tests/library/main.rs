//! The rooms of the library, each by itself and through its public names; what crosses them in a daemon is in `../daemon`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "in a test, a failure is a panic, and what is skipped is said"
)]

mod bad_input;
mod cadence;
mod dingtalk;
mod events;
mod random;
mod sandbox;
mod settings;
mod statements;
mod store;
mod telemetry;
mod translations;
