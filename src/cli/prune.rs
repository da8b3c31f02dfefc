//! `receiptd prune`: removes finished messages and their readers, and pushed reads whose message never came.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::MISUSED;
use super::common::{self, DatabaseArg};
use crate::receipt::{State, UnixMs};
use crate::store::Pruned;
use crate::store::Role;

/// Remove messages that finished long ago, with their readers, and pushed reads that have waited as long for a message
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  receiptd prune --older-than 90d --dry-run
  receiptd prune --older-than 30d --state expired

It removes in small steps with pauses in between, so that feeders and the daemon are not delayed. What is removed is gone for good. The file keeps its size; new rows reuse the space.

In durations, m is minutes and M is months of 30.44 days.")]
pub(super) struct Args {
    /// Messages that finished longer ago than this, as 90d
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Duration,
    /// Only in this state
    #[arg(long, value_parser = common::state(State::is_final))]
    state: Option<State>,
    /// Only count them
    #[arg(long)]
    dry_run: bool,
    /// Remove also what finished less than a day ago
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    database: DatabaseArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What finished so lately is removed on an explicit word only: "3m" is three minutes.
const A_DAY: Duration = Duration::from_secs(86_400);

/// Pushed reads removed in one transaction.
const EVENTS_A_STEP: usize = 1_000;

#[derive(Serialize)]
struct Removed {
    messages: u64,
    readers: u64,
    /// Messages that stay, since rows of another table refer to them.
    held: u64,
    /// Rows of `read_events` that waited as long for their message.
    events: u64,
    /// Unix milliseconds: what finished earlier.
    finished_before: i64,
    dry_run: bool,
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages = common::counted(self.messages, "message");
        let readers = common::counted(self.readers, "reader");
        let verb = if self.dry_run {
            "would be removed"
        } else {
            "removed"
        };
        let before = UnixMs(self.finished_before);
        write!(
            f,
            "{messages} finished before {before} and {readers} {verb}"
        )?;
        if self.events > 0 {
            let events = common::counted(self.events, "pushed read");
            write!(f, "; {events} without a message {verb}")?;
        }
        match self.held {
            0 => Ok(()),
            held => {
                let held = common::counted(held, "message");
                write!(
                    f,
                    "; {held} kept, since rows of another table refer to them"
                )
            }
        }
    }
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let before = common::now() - args.older_than;
    if args.older_than < A_DAY && !args.yes && !args.dry_run {
        common::warn(format_args!(
            "nothing is removed: --older-than {} means everything that finished before {before}; add --yes if that is \
             meant (m is minutes, M months)",
            humantime::format_duration(args.older_than)
        ));
        return Ok(ExitCode::from(MISUSED));
    }
    let settings = args.database.settings(config)?;
    let role = if args.dry_run {
        Role::Reader
    } else {
        Role::Writer
    };
    let store = common::store(&settings.database, role).await?;
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
        while args.state.is_none() {
            let began = std::time::Instant::now();
            let never = UnixMs(i64::MAX);
            let removed = store.forget_events(before, never, EVENTS_A_STEP).await?;
            all.events += removed;
            if removed == 0 {
                break;
            }
            tokio::time::sleep(began.elapsed()).await;
        }
    }
    store.close().await;
    let removed = Removed {
        messages: all.messages,
        readers: all.readers,
        held: all.held,
        events: all.events,
        finished_before: before.0,
        dry_run: args.dry_run,
    };
    common::tell(args.json, &removed)?;
    Ok(ExitCode::SUCCESS)
}
