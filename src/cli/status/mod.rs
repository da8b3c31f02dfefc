//! `receiptd status`: the daemon and its accounts, or one message's history.

mod curve;
mod message;
mod text;
mod view;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use self::view::Status;
use super::STALE;
use super::common::{self, DatabaseArg};
use super::nodes;
use crate::receipt::MessageKey;
use crate::settings::Settings;
use crate::store::{Role, Store};

/// Show the status per account, or one message and its readers
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  receiptd status
  receiptd status --json --stale-after 10m      # for a monitor: exits 3 where work lags behind
  receiptd status --plot                        # after how long and at which hours people read, as learned
  receiptd status 'the-processQueryKey='
  receiptd status --database sqlite:///var/lib/receiptd/receiptd.db 'the-processQueryKey='

Exit codes: 0 all is in order, 1 the question could not be answered (or there is no such message), 2 wrong usage or configuration, 3 no daemon runs though messages are pending, or a poll is overdue for longer than --stale-after.")]
pub(super) struct Args {
    /// One message: its history and its readers
    #[arg(value_name = "KEY", value_parser = common::key)]
    key: Option<MessageKey>,
    /// Exit 3 if a poll is overdue for longer than this
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    stale_after: Duration,
    /// Show after how long, and at which hours of the week, people read, as learned for each account
    #[arg(long, conflicts_with = "key")]
    plot: bool,
    #[command(flatten)]
    database: DatabaseArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let settings = args.database.settings(config)?;
    let store = common::store(&settings.database, Role::Reader).await?;
    let ended = match &args.key {
        Some(key) => message::show(&*store, key, args.json).await,
        None => all(&*store, &settings, args).await,
    };
    store.close().await;
    ended
}

async fn all(store: &dyn Store, settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let found = nodes::look(&settings.database, store).await?;
    let now = common::now();
    let asked = view::Asked {
        settings,
        totals: store.totals(now).await?,
        calls: store.calls_in(&now.quota_month()).await?,
        habits: match args.plot {
            true => store.all_habits().await?,
            false => Vec::new(),
        },
        serving: found.serving,
        published: found.published,
        nodes: found.nodes,
        stale_after: args.stale_after,
        now,
    };
    let status = Status::of(asked);
    common::tell(args.json, &status)?;
    Ok(match status.stale {
        true => ExitCode::from(STALE),
        false => ExitCode::SUCCESS,
    })
}
