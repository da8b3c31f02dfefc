//! `receiptd completions` and `receiptd man`: from the same grammar as the help.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  receiptd completions bash > /usr/share/bash-completion/completions/receiptd")]
pub(super) struct Completions {
    /// For which shell
    shell: clap_complete::Shell,
}

/// Write the manual pages into a directory, one for each command
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  receiptd man /usr/local/share/man/man1")]
pub(super) struct Man {
    /// Where to; it is created if it is missing
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

pub(super) fn completions(args: &Completions) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics where its output is closed.
    let mut script = Vec::new();
    let mut grammar = super::Cli::command();
    clap_complete::generate(args.shell, &mut grammar, "receiptd", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(args: &Man) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.directory)
        .and_then(|()| clap_mangen::generate_to(super::Cli::command(), &args.directory))
        .with_context(|| format!("{}", args.directory.display()))?;
    Ok(ExitCode::SUCCESS)
}
