//! `receiptd retry`: another life for messages that ended without success.

use std::path::Path;
use std::process::ExitCode;

use super::common;
use crate::receipt::{AccountName, MessageKey, State};
use crate::store::Role;
use crate::store::Selection;

/// Poll failed, expired or cancelled messages again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd retry 'the-processQueryKey='
  receiptd retry --state failed --account sales --limit 1000")]
pub(super) struct Args {
    /// Which messages
    #[arg(value_name = "KEY", value_parser = common::key, required_unless_present = "state", conflicts_with = "state")]
    keys: Vec<MessageKey>,
    /// All in this state: failed, expired or cancelled
    #[arg(long, value_parser = common::retryable_state)]
    state: Option<State>,
    /// Only of this account
    #[arg(long, value_name = "NAME", requires = "state")]
    account: Option<String>,
    /// So many at most
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Option<&Path>, args: Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    let which = match args.state {
        Some(state) => Selection::InState(state, args.account.map(AccountName::from)),
        None => Selection::Keys(args.keys),
    };
    let store = common::store(&loaded, Role::Writer).await?;
    // A moment for all: a message that ends again meanwhile is not fetched back for ever.
    let now = common::now();
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut retried = 0;
    while left > 0 {
        let step = left.min(common::BATCH);
        let some = store.retry(&which, now, step).await?;
        retried += some;
        let some = usize::try_from(some).unwrap_or(usize::MAX);
        left = left.saturating_sub(some);
        if some < step {
            break;
        }
    }
    store.close().await;
    common::say(&match args.json {
        true => serde_json::json!({ "retried": retried }).to_string(),
        false => format!("{retried} pending again"),
    })?;
    Ok(ExitCode::SUCCESS)
}
