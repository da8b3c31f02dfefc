//! The commands, a file each; what they share is in `common`.

mod access;
mod add;
mod check;
mod common;
mod config;
mod demo;
mod demo_report;
mod generate;
mod migrate;
mod nodes;
mod notify;
mod opening;
mod prune;
mod reload;
mod retry;
mod run;
mod sandbox;
mod status;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::settings::{SettingsError, process_environment};
use crate::telemetry::Surroundings;

/// Something failed.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const MISUSED: u8 = 2;
/// `status`: nobody works on what is pending, or the work lags behind.
const STALE: u8 = 3;

/// Polls DingTalk for the read receipts of bot messages and writes the readers to SQLite
#[derive(Debug, Parser)]
#[command(name = "receiptd", version, after_long_help = EXAMPLES)]
struct Cli {
    /// The configuration file
    ///
    /// Without it: the file that $RECEIPTD_CONFIG names, else /etc/receiptd/receiptd.toml if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  receiptd demo                                   # see it work, without an account
  receiptd config > receiptd.toml                 # a configuration to begin with
  receiptd check --config receiptd.toml           # does everything work?
  receiptd run --config receiptd.toml

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 (status) no daemon runs or work is overdue.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Reload(reload::Args),
    Migrate(migrate::Args),
    Check(check::Args),
    Config(config::Args),
    Status(status::Args),
    Add(add::Args),
    Retry(retry::Args),
    Prune(prune::Args),
    Sandbox(sandbox::Args),
    Demo(demo::Args),
    Completions(generate::Completions),
    Man(generate::Man),
}

impl Command {
    fn needs_no_configuration(&self) -> bool {
        matches!(
            self,
            Self::Sandbox(_) | Self::Demo(_) | Self::Completions(_) | Self::Man(_)
        )
    }
}

/// Parses, runs the command and says how it ended; `args` begins with the program's name.
pub fn main_with<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nowhere to complain if this cannot be written.
            let _ = error.print();
            return match error.use_stderr() {
                true => ExitCode::from(MISUSED),
                false => ExitCode::SUCCESS,
            };
        }
    };
    // One does for many times the vendor's ceiling, and more of them would wake each other up at every call (an eighth of
    // a poll's CPU). That it hangs is seen by a thread of its own, the watchdog's.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(cli)),
        Err(error) => Err(anyhow::Error::new(error).context("no threads can be started")),
    };
    ended.unwrap_or_else(|error| failed(&error))
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let config = cli.config.as_deref();
    if config.is_some() && cli.command.needs_no_configuration() {
        common::warn("--config has no effect on this command");
        return Ok(ExitCode::from(MISUSED));
    }
    match cli.command {
        Command::Run(args) => run::run(config, &args).await,
        Command::Reload(args) => reload::run(config, &args).await,
        Command::Migrate(args) => migrate::run(config, &args).await,
        Command::Check(args) => check::run(config, &args).await,
        Command::Config(args) => config::run(config, &args),
        Command::Status(args) => status::run(config, &args).await,
        Command::Add(args) => add::run(config, args).await,
        Command::Retry(args) => retry::run(config, args).await,
        Command::Prune(args) => prune::run(config, &args).await,
        Command::Sandbox(args) => sandbox::run(args).await.map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => demo::run(&args).await,
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    let reader_gone = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
    if reader_gone {
        // `receiptd status | head` has what it wanted.
        return ExitCode::SUCCESS;
    }
    // The journal reads a line's priority from its beginning, and takes one without for informational.
    let surroundings = Surroundings::of_process(process_environment());
    let priority = match surroundings.stderr_is_the_journal() {
        true => "<3>",
        false => "",
    };
    let text = format!("{error:#}");
    let text: Vec<String> = text
        .lines()
        .map(|line| format!("{priority}error: {line}\n"))
        .collect();
    // Nowhere to complain if this cannot be written.
    let _ = io::stderr().lock().write_all(text.concat().as_bytes());
    match error.downcast_ref::<SettingsError>() {
        Some(_) => ExitCode::from(MISUSED),
        None => ExitCode::from(FAILED),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_sound_and_every_command_shows_an_example() {
        let mut grammar = Cli::command();
        grammar.build();
        grammar.clone().debug_assert();
        for command in grammar.get_subcommands_mut() {
            let name = command.get_name().to_owned();
            if name == "help" {
                continue;
            }
            let help = command.render_long_help().to_string();
            assert!(help.contains(&format!("receiptd {name}")), "{help}");
            assert!(help.contains("Example"), "{name}: {help}");
        }
    }

    #[test]
    fn every_command_has_a_manual_page_with_its_example() {
        let directory = tempfile::tempdir().unwrap();
        let pages = directory.path().to_str().unwrap();
        main_with(["receiptd", "man", pages]);
        let mut grammar = Cli::command();
        grammar.build();
        let mut names = vec!["receiptd.1".to_owned()];
        for command in grammar.get_subcommands() {
            if command.get_name() != "help" {
                names.push(format!("receiptd-{}.1", command.get_name()));
            }
        }
        for name in &names {
            let page = std::fs::read_to_string(directory.path().join(name)).unwrap();
            assert!(page.contains("Example"), "{name}: {page}");
        }
        let written = std::fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(written, names.len());
    }

    #[test]
    fn the_short_help_is_short_and_no_help_is_ragged() {
        let mut grammar = Cli::command().term_width(100);
        grammar.build();
        for command in grammar.get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let short = command.render_help().to_string();
            let long = command.render_long_help().to_string();
            if name != "sandbox" && name != "demo" {
                assert!(!short.contains("Example"), "{name}: {short}");
            }
            // A paragraph that was broken by hand and is wrapped again has lines of a few words between full ones.
            for pair in long.lines().collect::<Vec<_>>().windows(3) {
                let [before, line, after] = pair else {
                    continue;
                };
                let ragged =
                    before.len() > 80 && !line.is_empty() && line.len() < 40 && !after.is_empty();
                assert!(
                    !ragged || line.starts_with(' ') || name == "sandbox",
                    "{name}: {line:?} in\n{long}"
                );
            }
        }
    }

    #[test]
    fn a_key_is_what_the_table_takes() {
        assert!(common::key("abc=;sb:").is_ok());
        for wrong in ["", "a b", "ä", &"x".repeat(513)] {
            assert!(common::key(wrong).is_err(), "{wrong}");
        }
    }
}
