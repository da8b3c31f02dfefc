//! `receiptd add`: messages, as a feeder would insert them.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use super::common;
use crate::receipt::{AccountName, Chat, ConversationId, CorpId, MessageKey, RobotCode, UnixMs};
use crate::store::NewMessage;
use crate::store::Role;

/// Add messages to be polled; those that are there already stay as they are
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd add 'the-processQueryKey='
  receiptd add --chat group --conversation cidXYZ --expected-readers 40 key1 key2
  receiptd add --sent-at 2026-11-23T08:00:00Z key3")]
pub(super) struct Args {
    /// What the send call returned as processQueryKey
    #[arg(required = true, value_name = "KEY", value_parser = common::key)]
    keys: Vec<MessageKey>,
    /// Which account asks
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = short)]
    account: String,
    /// The organisation, for a third-party app
    #[arg(long, value_name = "ID", value_parser = short)]
    corp_id: Option<String>,
    /// The bot, where it is not the account's
    #[arg(long, value_name = "CODE", value_parser = middling)]
    robot_code: Option<String>,
    /// The conversation (openConversationId)
    #[arg(long, value_name = "ID", value_parser = long)]
    conversation: Option<String>,
    /// Where it was sent: private or group
    #[arg(long, default_value = "private", value_parser = chat)]
    chat: Chat,
    /// Finish as soon as so many have read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    expected_readers: Option<u32>,
    /// When it was sent, as 2026-11-23T08:00:00Z or Unix milliseconds [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    sent_at: Option<UnixMs>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Option<&Path>, args: Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    let account = AccountName::from(args.account);
    if !loaded.settings.accounts.contains_key(&account) {
        // It is added all the same: accounts may come later. Nowhere to complain if this cannot be written.
        let _ = writeln!(
            std::io::stderr().lock(),
            "receiptd: account {account} is not configured: its messages wait until [accounts.{account}] is"
        );
    }
    let messages: Vec<NewMessage> = args
        .keys
        .into_iter()
        .map(|key| NewMessage {
            key,
            account: account.clone(),
            corp: args.corp_id.clone().map(CorpId::from),
            robot_code: args.robot_code.clone().map(RobotCode::from),
            conversation: args.conversation.clone().map(ConversationId::from),
            chat: args.chat,
            expected_readers: args.expected_readers,
            sent_at: args.sent_at,
            next_poll_at: None,
        })
        .collect();
    let store = common::store(&loaded, Role::Writer).await?;
    let added = store.add(&messages).await;
    store.close().await;
    let added = added?;
    common::say(&match args.json {
        true => serde_json::json!({ "given": messages.len(), "added": added }).to_string(),
        false => format!("{added} of {} are new", messages.len()),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn short(text: &str) -> Result<String, String> {
    common::name(text, 128)
}

fn middling(text: &str) -> Result<String, String> {
    common::name(text, 256)
}

fn long(text: &str) -> Result<String, String> {
    common::name(text, 512)
}

fn chat(text: &str) -> Result<Chat, String> {
    Chat::parse(text).ok_or_else(|| "write private or group".to_owned())
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
