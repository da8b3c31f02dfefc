//! `receiptd status`: how it stands, or one message's history.

mod daemon;
mod message;
mod outlook;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use humantime::format_duration;
use serde_json::{Value, json};

use self::outlook::Outlook;
use super::{STALE, common};
use crate::daemon::Published;
use crate::receipt::{CorpId, MessageKey, State, UnixMs};
use crate::settings::Settings;
use crate::store::sqlite::DaemonLock;
use crate::store::{CallCount, LaneTotals};
use crate::store::{Role, Store};

/// Show how it stands account by account, or one message and its readers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd status
  receiptd status --json --stale-after 10m      # for a monitor: exits 3 where work lags behind
  receiptd status 'the-processQueryKey='

Exit codes: 0 all is in order, 3 no daemon runs though messages are pending, or a poll is overdue for longer than
--stale-after; 1 the question could not be answered, 2 wrong usage or configuration.")]
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
        Some(key) => message::show(&*store, key, args.json).await,
        None => all(&*store, &loaded.settings, args).await,
    };
    store.close().await;
    ended
}

async fn all(store: &dyn Store, settings: &Settings, args: &Args) -> anyhow::Result<ExitCode> {
    let database = &settings.database.local_path();
    let now = common::now();
    let lanes = store.totals(now).await?;
    let calls = store.calls_in(&now.quota_month()).await?;
    let holder = DaemonLock::holder(database);
    let published = common::published(database);
    let outlooks = outlook::of(store, settings, &lanes, &calls, now).await?;
    let pending: u64 = lanes.iter().map(|lane| lane.pending).sum();
    let overdue = lanes.iter().filter_map(|lane| overdue(lane, now)).max();
    let idle = holder.is_none() && pending > 0;
    let late = overdue.is_some_and(|age| age > args.stale_after);
    common::say(&match args.json {
        true => {
            let mut object = as_json(&lanes, &calls, &outlooks, holder, published.as_ref(), now);
            object["stale"] = (idle || late).into();
            object["overdue_s"] = overdue.map(|age| age.as_secs()).into();
            object.to_string()
        }
        false => {
            as_text(&lanes, &calls, holder, published.as_ref(), now) + &outlook::as_text(&outlooks)
        }
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

fn as_text(
    lanes: &[LaneTotals],
    calls: &[CallCount],
    holder: Option<u32>,
    published: Option<&Published>,
    now: UnixMs,
) -> String {
    let mut text = daemon::as_text(holder, published, now);
    // Writing to a String cannot fail, here and below.
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
    outlooks: &[Outlook],
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
                "outlook": outlooks.iter().find(|outlook| outlook.lane == lane.lane).map(Outlook::to_json),
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
