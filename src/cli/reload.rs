//! `receiptd reload`: has a daemon read its configuration again, and waits for how that ended.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::common;
use crate::daemon::{Published, status_path};

/// Have a running daemon read its configuration again; returns once it is in force
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  receiptd reload 1234            # by hand; under systemd: systemctl reload receiptd

Where the new configuration is refused the old one stays, and the exit code says so.")]
pub(super) struct Args {
    /// The daemon's process
    #[arg(value_name = "PID")]
    pid: u32,
}

/// How long the daemon may take: a scheduler that waits for another process's lock takes new settings when it turns.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks at what it published.
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    // What is refused here the daemon would refuse too; and it says where the daemon publishes.
    let loaded = common::settings(config)?;
    let database = &loaded.settings.database.path;
    let published = status_path(database);
    // Replaced as a whole, it is never read half.
    let before = Published::read(&published)
        .filter(|found| found.pid == args.pid)
        .with_context(|| {
            format!(
                "process {} does not serve {}; a change of [database] needs a restart",
                args.pid,
                database.display()
            )
        })?
        .reloads
        .count;
    let pid = i32::try_from(args.pid).ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| format!("{} is no process", args.pid))?;
    kill_process(pid, Signal::HUP).with_context(|| format!("process {}", args.pid))?;
    let since = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let found = Published::read(&published);
        let reloads = found.as_ref().map(|found| &found.reloads);
        if let Some(reloads) = reloads.filter(|reloads| reloads.count != before) {
            return match &reloads.refused {
                None => Ok(ExitCode::SUCCESS),
                Some(why) => bail!("the new configuration is refused, the old one stays: {why}"),
            };
        }
        ensure!(
            since.elapsed() < PATIENCE,
            "process {} did not say how the reload ended; see its log",
            args.pid
        );
    }
}
