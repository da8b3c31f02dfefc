//! The imitation answers as the endpoint does, goes wrong as told, and sees what its client does wrong.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test ends where its set-up fails, and says what it skipped"
)]

mod answers;
mod books;
mod faults;
mod first_hour;
mod http;
mod limits;
