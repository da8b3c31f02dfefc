//! `receiptd prune`: removes finished messages and their readers.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::common;
use crate::receipt::State;
use crate::store::Pruned;
use crate::store::Role;

/// Remove messages that finished long ago, with their readers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd prune --older-than 90d --dry-run
  receiptd prune --older-than 30d --state expired

Removes in small steps with pauses in between, so that feeders and the daemon are not held up. What it removes is gone
for good; the file keeps its size and fills the room again.")]
pub(super) struct Args {
    /// Those that finished so long ago
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    older_than: Duration,
    /// Only in this state: complete, recalled, expired, failed or cancelled
    #[arg(long, value_parser = common::final_state)]
    state: Option<State>,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    let before = common::now() - args.older_than;
    let role = match args.dry_run {
        true => Role::Reader,
        false => Role::Writer,
    };
    let store = common::store(&loaded, role).await?;
    let mut all = Pruned::default();
    if args.dry_run {
        all = store.prunable(before, args.state).await?;
    } else {
        loop {
            let began = std::time::Instant::now();
            let step = store.prune(before, args.state).await?;
            all.messages += step.messages;
            all.readers += step.readers;
            all.held += step.held;
            if step == Pruned::default() {
                break;
            }
            // As long as the step took: the longer others had to wait, the more of the time is left to them.
            tokio::time::sleep(began.elapsed()).await;
        }
    }
    store.close().await;
    common::say(&match (args.json, args.dry_run) {
        (true, dry_run) => serde_json::json!({
            "messages": all.messages, "readers": all.readers, "dry_run": dry_run,
        })
        .to_string(),
        (false, true) => format!(
            "{} messages and {} readers would be removed",
            all.messages, all.readers
        ),
        (false, false) => format!(
            "{} messages and {} readers removed",
            all.messages, all.readers
        ),
    })?;
    Ok(ExitCode::SUCCESS)
}
