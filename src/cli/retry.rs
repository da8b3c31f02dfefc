//! `receiptd retry`: polls messages again that ended without success.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::FAILED;
use super::common::{self, DatabaseArg};
use crate::receipt::{AccountName, MessageKey, State};
use crate::store::Role;
use crate::store::Selection;

/// Rows written in one go, so that the daemon and the feeders have their turn in between.
const BATCH: usize = 500;

/// Poll failed, expired or cancelled messages again
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("which").required(true).args(["keys", "state"]),
    after_long_help = "\
Examples:
  receiptd retry 'the-processQueryKey='
  receiptd retry --state failed --account sales --limit 1000

Exit codes: 0 done, 1 failed or a key is unknown, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// These messages
    #[arg(value_name = "KEY", value_parser = common::key)]
    keys: Vec<MessageKey>,
    /// All messages in this state
    #[arg(long, value_parser = common::state(is_retryable))]
    state: Option<State>,
    /// Only of this account
    #[arg(long, value_name = "NAME", conflicts_with = "keys")]
    account: Option<String>,
    /// At most this many
    #[arg(long, value_name = "N", conflicts_with = "keys")]
    limit: Option<usize>,
    #[command(flatten)]
    database: DatabaseArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Retried {
    retried: u64,
    /// Keys without a message.
    unknown: Vec<String>,
    /// Messages that are in no state to be retried.
    unchanged: Vec<Unchanged>,
}

#[derive(Serialize)]
struct Unchanged {
    process_query_key: String,
    state: &'static str,
}

impl fmt::Display for Retried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pending again", self.retried)?;
        for Unchanged {
            process_query_key,
            state,
        } in &self.unchanged
        {
            write!(
                f,
                "\n{process_query_key}: is {state}; only failed, expired and cancelled messages are retried"
            )?;
        }
        for key in &self.unknown {
            write!(
                f,
                "\n{key}: there is no such message; `receiptd add` adds it"
            )?;
        }
        Ok(())
    }
}

fn is_retryable(state: State) -> bool {
    matches!(state, State::Failed | State::Expired | State::Cancelled)
}

pub(super) async fn run(config: Option<&Path>, args: Args) -> anyhow::Result<ExitCode> {
    let settings = args.database.settings(config)?;
    let store = common::store(&settings.database, Role::Writer).await?;
    let (mut unknown, mut unchanged) = (Vec::new(), Vec::new());
    for key in &args.keys {
        match store.message(key).await? {
            None => unknown.push(key.to_string()),
            Some((message, _)) if !is_retryable(message.state) => unchanged.push(Unchanged {
                process_query_key: key.to_string(),
                state: message.state.as_str(),
            }),
            Some(_) => {}
        }
    }
    let which = match args.state {
        Some(state) => Selection::InState(state, args.account.map(AccountName::from)),
        None => Selection::Keys(args.keys),
    };
    // A moment for all: a message that ends again meanwhile is not fetched back for ever.
    let now = common::now();
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut retried = 0;
    while left > 0 {
        let step = left.min(BATCH);
        let some = store.retry(&which, now, step).await?;
        retried += some;
        let some = usize::try_from(some).unwrap_or(usize::MAX);
        left = left.saturating_sub(some);
        if some < step {
            break;
        }
    }
    store.close().await;
    let all_known = unknown.is_empty();
    common::tell(
        args.json,
        &Retried {
            retried,
            unknown,
            unchanged,
        },
    )?;
    Ok(if all_known {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}
