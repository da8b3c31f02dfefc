//! `receiptd config`: the default configuration, and what is in force.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::common;
use crate::settings::{DEFAULTS, InForce};

/// Print the built-in default configuration, or with --show what is in force
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  receiptd config > receiptd.toml                   # every setting with its default and what it means
  receiptd config --show --config receiptd.toml     # what is in force, and where each value comes from

Secrets are redacted.")]
pub(super) struct Args {
    /// What is in force: defaults, file and environment, with the source of each value
    #[arg(long)]
    show: bool,
    /// Print JSON
    #[arg(long, requires = "show")]
    json: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Shown(Vec<InForce>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for setting in &self.0 {
            if setting.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                section = &setting.section;
                writeln!(f, "{gap}[{section}]")?;
            }
            let line = format!("{} = {}", setting.key, setting.value);
            writeln!(f, "{line:<48} # {}", setting.place)?;
        }
        Ok(())
    }
}

pub(super) fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    match args.show {
        true => common::tell(args.json, &Shown(common::settings(config)?.in_force()))?,
        false => common::say(DEFAULTS)?,
    }
    Ok(ExitCode::SUCCESS)
}
