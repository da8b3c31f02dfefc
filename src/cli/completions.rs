//! `receiptd completions`: what a shell needs to complete our words.

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory as _;

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  receiptd completions bash > /usr/share/bash-completion/completions/receiptd")]
pub(super) struct Args {
    /// For which shell
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    // Into memory first: the generator panics where its output is closed.
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "receiptd",
        &mut script,
    );
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
