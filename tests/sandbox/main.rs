//! The imitation answers as the endpoint does, goes wrong as told, and sees what its client does wrong.

#![allow(clippy::expect_used, reason = "a test ends where its set-up fails")]

mod answers;
mod http;
mod limits;
mod mischief;
