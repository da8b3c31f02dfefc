//! `receiptd man`: the manual pages, from the same grammar as the help.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

/// Write the manual pages into a directory, one for each command
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  receiptd man /usr/local/share/man/man1")]
pub(super) struct Args {
    /// Where to; made where it is missing
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(super::Cli::command(), &args.directory))
        .with_context(|| format!("{}", args.directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
