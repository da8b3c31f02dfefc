//! What the cadence is worth: the real cadence code in virtual time, against other ways to spend as many calls.
//!
//! `cargo bench --bench cadence` prints the table of the project's bounds; `cargo bench --bench cadence -- --help` says
//! what else there is. Every run names its seed and comes out the same again.

#![allow(
    clippy::print_stdout,
    reason = "a report on the terminal is what this program is for"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ages within a simulated month, in milliseconds, and counts of messages fit every type here"
)]

mod change;
mod compare;
mod crowd;
mod month;
mod options;
mod pushed;
mod report;
mod sim;

use std::process::ExitCode;

use options::{HELP, Mode, Options};

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)) {
        Ok(None) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(options)) => {
            let held = match options.mode {
                Mode::Bounds => report::bounds(&options),
                Mode::Crowd => report::crowd(&options),
                Mode::Month(messages) => report::month(&options, messages),
                Mode::Change => report::change(&options),
                Mode::Rhythm => report::rhythm(&options),
                Mode::Solving => report::solving(&options),
                Mode::Groups => report::groups(&options),
                Mode::Pushed => report::pushed(&options),
            };
            if held {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(message) => {
            println!("{message}");
            ExitCode::from(2)
        }
    }
}
