//! `receiptd status`: how it stands, or one message's history.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use humantime::format_duration;
use serde_json::{Value, json};

use super::{STALE, common};
use crate::daemon::Published;
use crate::receipt::{CorpId, ErrorCode, Message, MessageKey, SendStatus, State, UnixMs};
use crate::store::sqlite::{DaemonLock, Role, SqliteStore};
use crate::store::{CallCount, LaneTotals, Reader, Store as _};

/// Show how it stands account by account, or one message and its readers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd status
  receiptd status --json --stale-after 10m      # for a monitor: exits 3 where work lags behind
  receiptd status 'the-processQueryKey='")]
pub(super) struct Args {
    /// One message: its history and its readers
    #[arg(value_name = "KEY", value_parser = common::key)]
    key: Option<MessageKey>,
    /// Exit 3 where a poll is overdue for longer
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = humantime::parse_duration)]
    stale_after: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    let store = common::store(&loaded, Role::Reader).await?;
    let ended = match &args.key {
        Some(key) => one(&store, key, args.json).await,
        None => all(&store, &loaded.settings.database.path, args).await,
    };
    store.close().await;
    ended
}

async fn all(store: &SqliteStore, database: &Path, args: &Args) -> anyhow::Result<ExitCode> {
    let now = common::now();
    let lanes = store.totals(now).await?;
    let calls = store.calls_in(&now.quota_month()).await?;
    let holder = DaemonLock::holder(database);
    let published = common::published(database);
    let pending: u64 = lanes.iter().map(|lane| lane.pending).sum();
    let overdue = lanes.iter().filter_map(|lane| overdue(lane, now)).max();
    let idle = holder.is_none() && pending > 0;
    let late = overdue.is_some_and(|age| age > args.stale_after);
    common::say(&match args.json {
        true => as_json(&lanes, &calls, holder, published.as_ref(), now).to_string(),
        false => as_text(&lanes, &calls, holder, published.as_ref(), now),
    })?;
    Ok(match idle || late {
        true => ExitCode::from(STALE),
        false => ExitCode::SUCCESS,
    })
}

/// How long the row has been due that has been due longest.
fn overdue(lane: &LaneTotals, now: UnixMs) -> Option<Duration> {
    lane.oldest_due.map(|due| now.since(due))
}

fn calls_of<'a>(calls: &'a [CallCount], lane: &LaneTotals) -> Option<&'a CallCount> {
    calls.iter().find(|count| count.lane == lane.lane)
}

/// The lanes' condition, a line each.
fn conditions(published: &Published) -> impl Iterator<Item = String> + '_ {
    published.lanes.iter().map(|lane| {
        let name = match &lane.corp_id {
            Some(corp) => format!("{}/{corp}", lane.account),
            None => lane.account.clone(),
        };
        match &lane.code {
            Some(code) => format!("{name}: {} ({code})", lane.condition),
            None => format!("{name}: {}", lane.condition),
        }
    })
}

fn as_text(
    lanes: &[LaneTotals],
    calls: &[CallCount],
    holder: Option<u32>,
    published: Option<&Published>,
    now: UnixMs,
) -> String {
    let mut text = match holder {
        Some(pid) => format!("A daemon runs (process {pid}).\n"),
        None => "No daemon runs: `receiptd run` starts one.\n".to_owned(),
    };
    // Writing to a String cannot fail, here and below.
    for line in published.into_iter().flat_map(conditions) {
        let _ = writeln!(text, "  {line}");
    }
    if lanes.is_empty() {
        let _ = writeln!(text, "No messages.");
        return text;
    }
    let _ = writeln!(
        text,
        "\n{:<24} {:>8} {:>7} {:>12} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9}",
        "account",
        "pending",
        "due",
        "overdue",
        "complete",
        "recalled",
        "expired",
        "failed",
        "cancelled",
        "calls"
    );
    for lane in lanes {
        let overdue = overdue(lane, now).map_or_else(|| "-".to_owned(), rounded);
        let [complete, recalled, expired, failed, cancelled] = lane.finished;
        let _ = writeln!(
            text,
            "{:<24} {:>8} {:>7} {overdue:>12} {complete:>9} {recalled:>9} {expired:>8} {failed:>8} {cancelled:>9} {:>9}",
            lane.lane.to_string(),
            lane.pending,
            lane.due,
            calls_of(calls, lane).map_or(0, |count| count.calls),
        );
    }
    let _ = writeln!(
        text,
        "\nCalls are those of {} (UTC+8), overdue is the oldest.",
        now.quota_month()
    );
    text
}

/// A span to the second.
fn rounded(span: Duration) -> String {
    format_duration(Duration::from_secs(span.as_secs())).to_string()
}

fn as_json(
    lanes: &[LaneTotals],
    calls: &[CallCount],
    holder: Option<u32>,
    published: Option<&Published>,
    now: UnixMs,
) -> Value {
    let lanes: Vec<Value> = lanes
        .iter()
        .map(|lane| {
            let count = calls_of(calls, lane);
            let finished: serde_json::Map<String, Value> = State::ALL
                .into_iter()
                .filter(|state| state.is_final())
                .zip(lane.finished)
                .map(|(state, rows)| (state.to_string(), rows.into()))
                .collect();
            json!({
                "account": lane.lane.account.as_str(),
                "corp_id": lane.lane.corp.as_ref().map(CorpId::as_str),
                "pending": lane.pending,
                "due": lane.due,
                "overdue_s": overdue(lane, now).map(|age| age.as_secs()),
                "finished": finished,
                "calls": count.map_or(0, |count| count.calls),
                "throttled": count.map_or(0, |count| count.throttled),
            })
        })
        .collect();
    json!({
        "running": holder.is_some(),
        "pid": holder,
        "month": now.quota_month(),
        "lanes": lanes,
        "daemon": published,
    })
}

async fn one(store: &SqliteStore, key: &MessageKey, json: bool) -> anyhow::Result<ExitCode> {
    let Some((message, readers)) = store.message(key).await? else {
        bail!("{key}: there is no such message: `receiptd add` adds it");
    };
    common::say(&match json {
        true => message_json(&message, &readers).to_string(),
        false => message_text(&message, &readers),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn message_text(message: &Message, readers: &[Reader]) -> String {
    let mut text = format!("{}\n", message.key);
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {name:<16} {value}");
        }
    };
    let time = |at: Option<UnixMs>| at.map(|at| at.to_string());
    line("state", Some(message.state.to_string()));
    line("account", Some(message.lane.to_string()));
    line("chat", Some(message.chat.as_str().to_owned()));
    line(
        "conversation",
        message.conversation.as_ref().map(ToString::to_string),
    );
    line(
        "robot code",
        message.robot_code.as_ref().map(ToString::to_string),
    );
    line("sent", Some(message.sent_at.to_string()));
    line("admitted", time(message.admitted_at));
    line("first answered", time(message.answered_at));
    line("last polled", time(message.last_polled_at));
    line("last complete", time(message.last_complete_at));
    line(
        "next poll",
        time(message.next_poll_at.filter(|_| !message.state.is_final())),
    );
    line("finished", time(message.finished_at));
    line(
        "send status",
        message
            .send_status
            .as_ref()
            .map(|status| status.as_str().escape_debug().to_string()),
    );
    line("calls", Some(message.call_count.to_string()));
    line(
        "last error",
        message
            .last_error
            .as_ref()
            .map(|code| match message.last_error_at {
                Some(at) => format!("{code} at {at}"),
                None => code.to_string(),
            }),
    );
    if message.blocked {
        line(
            "blocked",
            Some("an operator has to act, see the last error".to_owned()),
        );
    }
    line(
        "readers",
        Some(match message.expected_readers {
            Some(expected) => format!("{} of {expected}", readers.len()),
            None => readers.len().to_string(),
        }),
    );
    for reader in readers {
        let _ = writeln!(
            text,
            "    {}  read after {}, seen {}",
            reader.user_id, reader.seen_after, reader.seen_at
        );
    }
    text
}

fn message_json(message: &Message, readers: &[Reader]) -> Value {
    let time = |at: Option<UnixMs>| at.map(|at| at.0);
    let readers: Vec<Value> = readers
        .iter()
        .map(|reader| {
            json!({
                "user_id": reader.user_id.as_str(),
                "seen_after": reader.seen_after.0,
                "seen_at": reader.seen_at.0,
            })
        })
        .collect();
    json!({
        "process_query_key": message.key.as_str(),
        "state": message.state.as_str(),
        "account": message.lane.account.as_str(),
        "corp_id": message.lane.corp.as_ref().map(CorpId::as_str),
        "chat": message.chat.as_str(),
        "sent_at": message.sent_at.0,
        "admitted_at": time(message.admitted_at),
        "answered_at": time(message.answered_at),
        "last_polled_at": time(message.last_polled_at),
        "last_complete_at": time(message.last_complete_at),
        "next_poll_at": time(message.next_poll_at),
        "finished_at": time(message.finished_at),
        "send_status": message.send_status.as_ref().map(SendStatus::as_str),
        "call_count": message.call_count,
        "last_error": message.last_error.as_ref().map(ErrorCode::as_str),
        "last_error_at": time(message.last_error_at),
        "blocked": message.blocked,
        "expected_readers": message.expected_readers,
        "readers": readers,
    })
}
