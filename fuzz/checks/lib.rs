//! What any input at all must not do. `targets/` hands these functions to libFuzzer, and `tests/library/bad_input.rs` of the main
//! crate replays `seeds/` through the same ones on any toolchain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub,
    reason = "a check that fails is a panic"
)]

pub mod answers;
pub mod rows;
pub mod settings;
