//! One message's history.

use std::fmt;
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::super::common::{self, rounded};
use crate::receipt::{
    ConversationId, CorpId, ErrorCode, Message, MessageKey, RobotCode, SendStatus, State, UnixMs,
};
use crate::store::{Reader, SeenBy, Store};

pub(super) async fn show(
    store: &dyn Store,
    key: &MessageKey,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let Some((message, readers)) = store.message(key).await? else {
        bail!("{key}: there is no such message; `receiptd add` adds it");
    };
    common::tell(json, &View::of(&message, &readers, common::now()))?;
    Ok(ExitCode::SUCCESS)
}

/// Named as the columns are; times are Unix milliseconds.
#[derive(Serialize)]
struct View<'a> {
    process_query_key: &'a str,
    state: &'static str,
    account: &'a str,
    corp_id: Option<&'a str>,
    robot_code: Option<&'a str>,
    open_conversation_id: Option<&'a str>,
    chat: &'static str,
    expected_readers: Option<u32>,
    /// `expected_readers`, or how many an answer listed.
    #[serde(skip)]
    expected: Option<u32>,
    sent_at: i64,
    admitted_at: Option<i64>,
    answered_at: Option<i64>,
    last_polled_at: Option<i64>,
    last_complete_at: Option<i64>,
    next_poll_at: Option<i64>,
    finished_at: Option<i64>,
    send_status: Option<&'a str>,
    call_count: u32,
    last_error: Option<&'a str>,
    last_error_at: Option<i64>,
    /// An operator has to act, see `last_error`.
    blocked: bool,
    readers: Vec<ReaderView<'a>>,
    #[serde(skip)]
    now: UnixMs,
}

#[derive(Serialize)]
struct ReaderView<'a> {
    user_id: &'a str,
    seen_after: i64,
    seen_at: i64,
    read_at: Option<i64>,
    /// `poll` or `event`.
    seen_by: &'static str,
}

impl<'a> View<'a> {
    fn of(message: &'a Message, readers: &'a [Reader], now: UnixMs) -> Self {
        let time = |at: Option<UnixMs>| at.map(|at| at.0);
        let readers = readers.iter().map(|reader| ReaderView {
            user_id: reader.user_id.as_str(),
            seen_after: reader.seen_after.0,
            seen_at: reader.seen_at.0,
            read_at: time(reader.read_at),
            seen_by: match reader.seen_by {
                SeenBy::Poll => "poll",
                SeenBy::Event => "event",
            },
        });
        Self {
            process_query_key: message.key.as_str(),
            state: message.state.as_str(),
            account: message.lane.account.as_str(),
            corp_id: message.lane.corp.as_ref().map(CorpId::as_str),
            robot_code: message.robot_code.as_ref().map(RobotCode::as_str),
            open_conversation_id: message.conversation.as_ref().map(ConversationId::as_str),
            chat: message.chat.as_str(),
            expected_readers: message.expected_readers,
            expected: message.expected(),
            sent_at: message.sent_at.0,
            admitted_at: time(message.admitted_at),
            answered_at: time(message.answered_at),
            last_polled_at: time(message.last_polled_at),
            last_complete_at: time(message.last_complete_at),
            // In a final row it says nothing.
            next_poll_at: time(message.next_poll_at.filter(|_| !message.state.is_final())),
            finished_at: time(message.finished_at),
            send_status: message.send_status.as_ref().map(SendStatus::as_str),
            call_count: message.call_count,
            last_error: message.last_error.as_ref().map(ErrorCode::as_str),
            last_error_at: time(message.last_error_at),
            blocked: message.blocked,
            readers: readers.collect(),
            now,
        }
    }

    fn next_poll(&self, at: i64) -> String {
        let first = match self.call_count {
            0 => "; the first: it waits until readers are likely to have read",
            _ => "",
        };
        match at > self.now.0 {
            true => format!(
                "{} (in {}{first})",
                UnixMs(at),
                rounded(UnixMs(at).since(self.now))
            ),
            false => format!("{} (due)", UnixMs(at)),
        }
    }
}

impl fmt::Display for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.process_query_key)?;
        let mut line = |name: &str, value: Option<String>| match value {
            Some(value) => writeln!(f, "  {name:<16} {value}"),
            None => Ok(()),
        };
        let time = |at: Option<i64>| at.map(|at| UnixMs(at).to_string());
        let text = |text: Option<&str>| text.map(|text| text.escape_debug().to_string());
        line("state", Some(self.state.to_owned()))?;
        line("account", text(Some(self.account)))?;
        line("organisation", text(self.corp_id))?;
        line("chat", Some(self.chat.to_owned()))?;
        line("conversation", text(self.open_conversation_id))?;
        line("robot code", text(self.robot_code))?;
        line("sent", time(Some(self.sent_at)))?;
        line("first answered", time(self.answered_at))?;
        line("last polled", time(self.last_polled_at))?;
        line("last complete", time(self.last_complete_at))?;
        line("next poll", self.next_poll_at.map(|at| self.next_poll(at)))?;
        if self.state == State::Pending.as_str() && self.admitted_at.is_none() {
            line("", Some("no daemon has taken it up yet".to_owned()))?;
        }
        line("finished", time(self.finished_at))?;
        line("send status", text(self.send_status))?;
        line("calls", Some(self.call_count.to_string()))?;
        let at = self
            .last_error_at
            .map(|at| format!(" at {}", UnixMs(at)))
            .unwrap_or_default();
        line("last error", text(self.last_error).map(|code| code + &at))?;
        let act = "an operator has to act, see the last error".to_owned();
        line("blocked", self.blocked.then_some(act))?;
        let count = self.readers.len();
        let of = self
            .expected
            .map(|expected| format!(" of {expected}"))
            .unwrap_or_default();
        line("readers", Some(format!("{count}{of}")))?;
        for reader in &self.readers {
            let (after, at) = (UnixMs(reader.seen_after), UnixMs(reader.seen_at));
            let read = match reader.read_at {
                Some(at) => format!("read {}", UnixMs(at)),
                None => format!("read after {after}"),
            };
            writeln!(
                f,
                "    {}  {read}, seen {at} by {}",
                reader.user_id.escape_debug(),
                match reader.seen_by {
                    "event" => "an event",
                    _ => "a poll",
                }
            )?;
        }
        Ok(())
    }
}
