//! The DingTalk client against bytes: every code, every lie, and the wire itself.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test that unwraps fails the test"
)]

mod calls;
mod codes;
mod counting;
mod pages;
mod server;
mod tls;
mod tokens;
