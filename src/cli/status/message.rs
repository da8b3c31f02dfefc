//! One message's history.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};

use crate::cli::common;
use crate::receipt::{CorpId, ErrorCode, Message, MessageKey, SendStatus, UnixMs};
use crate::store::Reader;
use crate::store::Store;

pub(super) async fn show(
    store: &dyn Store,
    key: &MessageKey,
    json: bool,
) -> anyhow::Result<ExitCode> {
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
