//! `receiptd add`: messages, as a feeder would insert them.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::common::{self, DatabaseArg};
use crate::receipt::{AccountName, Chat, ConversationId, CorpId, MessageKey, RobotCode, UnixMs};
use crate::settings::Settings;
use crate::store::{NewMessage, Role};

/// Add messages to be polled; those that exist already stay as they are
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  receiptd add 'the-processQueryKey='
  receiptd add --chat group --conversation cidXYZ --expected-readers 40 key1 key2
  receiptd add --sent-at 2026-11-23T08:00:00Z key3
  receiptd add --database sqlite:///var/lib/receiptd/receiptd.db key4")]
pub(super) struct Args {
    /// What the send call returned as processQueryKey
    #[arg(required = true, value_name = "KEY", value_parser = common::key)]
    keys: Vec<MessageKey>,
    /// The account that polls them
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = common::name::<128>)]
    account: String,
    /// The organisation, for a third-party app
    #[arg(long, value_name = "ID", value_parser = common::name::<128>)]
    corp_id: Option<String>,
    /// The robot, if it is not the account's
    #[arg(long, value_name = "CODE", value_parser = common::name::<256>)]
    robot_code: Option<String>,
    /// The conversation (openConversationId)
    #[arg(long, value_name = "ID", value_parser = common::name::<512>)]
    conversation: Option<String>,
    /// Where they were sent
    #[arg(long, default_value = "private", value_parser = common::chat())]
    chat: Chat,
    /// Finish as soon as this many have read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    expected_readers: Option<u32>,
    /// When they were sent, as 2026-11-23T08:00:00Z or Unix milliseconds [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    sent_at: Option<UnixMs>,
    #[command(flatten)]
    database: DatabaseArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Added {
    given: usize,
    added: u64,
    /// Those that were there before.
    existing: Vec<String>,
}

impl fmt::Display for Added {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} added", self.added, self.given)?;
        match self.existing.is_empty() {
            true => Ok(()),
            false => write!(f, "; already there: {}", self.existing.join(" ")),
        }
    }
}

pub(super) async fn run(config: Option<&Path>, args: Args) -> anyhow::Result<ExitCode> {
    let settings = args.database.settings(config)?;
    warnings(&settings, &args);
    let messages: Vec<NewMessage> = args
        .keys
        .into_iter()
        .map(|key| NewMessage {
            key,
            account: AccountName::from(&*args.account),
            corp: args.corp_id.clone().map(CorpId::from),
            robot_code: args.robot_code.clone().map(RobotCode::from),
            conversation: args.conversation.clone().map(ConversationId::from),
            chat: args.chat,
            expected_readers: args.expected_readers,
            sent_at: args.sent_at,
            next_poll_at: None,
        })
        .collect();
    let store = common::store(&settings.database, Role::Writer).await?;
    let mut existing = Vec::new();
    for message in &messages {
        if store.message(&message.key).await?.is_some() {
            existing.push(message.key.to_string());
        }
    }
    let added = store.add(&messages).await;
    store.close().await;
    let given = messages.len();
    common::tell(
        args.json,
        &Added {
            given,
            added: added?,
            existing,
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What is accepted, and probably not meant.
fn warnings(settings: &Settings, args: &Args) {
    let account = &args.account;
    let known = settings
        .accounts
        .contains_key(&AccountName::from(&**account));
    if args.database.database.is_none() && !known {
        common::warn(format_args!(
            "account {account} is not configured: its messages wait until [accounts.{account}] is"
        ));
    }
    let (now, max_age) = (common::now(), settings.cadence.max_age);
    match args.sent_at {
        Some(at) if at > now => common::warn("--sent-at is in the future: now is taken instead"),
        Some(at) if now.since(at) > max_age => common::warn(format_args!(
            "--sent-at is longer ago than [cadence] max_age ({}): the messages end without a call",
            humantime::format_duration(max_age)
        )),
        _ => {}
    }
}

fn moment(text: &str) -> Result<UnixMs, String> {
    /// The table takes nothing earlier: such a number is in seconds.
    const EARLIEST: i64 = 1_500_000_000_000;
    let ms = match text.parse::<i64>() {
        Ok(ms) => ms,
        Err(_) => text
            .parse::<jiff::Timestamp>()
            .map_err(|error| error.to_string())?
            .as_millisecond(),
    };
    match ms >= EARLIEST {
        true => Ok(UnixMs(ms)),
        false => Err("it lies before July 2017; Unix times are in milliseconds here".to_owned()),
    }
}
