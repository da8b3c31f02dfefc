//! A row of `messages` as a [`Message`]: cell by cell and suspiciously, since other processes write that table.

use serde::Deserialize;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Decode, Row, TypeInfo, ValueRef};

use crate::receipt::{Chat, LaneId, Message, MessageId, MessageKey, SendStatus, State, UnixMs};

/// A cell that a feeder may have written, as long as it may be: one that went round the checks can hold a gigabyte, and
/// nothing of it is loaded. What is too long is a BLOB here, which no column may be. Of text `octet_length` asks the record's
/// head alone; a number has few digits (and `typeof` to find the numbers costs more than to count those).
macro_rules! bounded {
    ($cell:literal) => {
        concat!("iif(octet_length(", $cell, ") > 4096, x'', ", $cell, ")")
    };
}
pub(super) use bounded;

/// A list of cells, each under a name that is no column's: ORDER BY shall mean the column and its index.
macro_rules! cells {
    ($($cell:literal),+) => {
        /// The cells that [`decode`] reads, in its order.
        macro_rules! columns {
            () => {
                concat!("id AS c_id" $(, ", ", $crate::store::sqlite::rows::bounded!($cell), " AS c_", $cell)+)
            };
        }
        /// Their names in a SELECT from [`columns!`].
        macro_rules! column_names {
            () => {
                concat!("c_id" $(, ", c_", $cell)+)
            };
        }
    };
}

cells!(
    "process_query_key",
    "account",
    "corp_id",
    "robot_code",
    "open_conversation_id",
    "chat",
    "expected_readers",
    "sent_at",
    "inserted_at",
    "retried_at",
    "state",
    "next_poll_at",
    "admitted_at",
    "last_polled_at",
    "last_complete_at",
    "answered_at",
    "reader_count",
    "blocked",
    "last_error",
    "last_error_at",
    "send_status",
    "call_count",
    "last_chance_at",
    "finished_at"
);
pub(super) use {column_names, columns};

/// A decoded row, and the first column that could not be read, if any; what could not be read is then a default.
pub(super) struct Decoded {
    pub(super) message: Message,
    pub(super) invalid: Option<&'static str>,
}

/// The cells of [`columns!`] in its order, of the right types.
#[derive(Deserialize)]
pub(super) struct Raw<'a> {
    id: i64,
    process_query_key: &'a str,
    account: &'a str,
    corp_id: Option<&'a str>,
    robot_code: Option<&'a str>,
    open_conversation_id: Option<&'a str>,
    chat: &'a str,
    expected_readers: Option<i64>,
    sent_at: i64,
    inserted_at: i64,
    retried_at: Option<i64>,
    state: &'a str,
    next_poll_at: Option<i64>,
    admitted_at: Option<i64>,
    last_polled_at: Option<i64>,
    last_complete_at: Option<i64>,
    answered_at: Option<i64>,
    reader_count: i64,
    blocked: i64,
    last_error: Option<&'a str>,
    last_error_at: Option<i64>,
    send_status: Option<&'a str>,
    call_count: i64,
    last_chance_at: Option<i64>,
    finished_at: Option<i64>,
}

/// Reads a row of [`columns!`].
pub(super) fn decode(row: &SqliteRow) -> Decoded {
    let mut cells = Cells::new(row);
    let raw = Raw {
        id: cells.required_number("id"),
        process_query_key: cells.required_text("process_query_key"),
        account: cells.required_text("account"),
        corp_id: cells.text("corp_id"),
        robot_code: cells.text("robot_code"),
        open_conversation_id: cells.text("open_conversation_id"),
        chat: cells.required_text("chat"),
        expected_readers: cells.number("expected_readers"),
        sent_at: cells.required_number("sent_at"),
        inserted_at: cells.required_number("inserted_at"),
        retried_at: cells.number("retried_at"),
        state: cells.required_text("state"),
        next_poll_at: cells.number("next_poll_at"),
        admitted_at: cells.number("admitted_at"),
        last_polled_at: cells.number("last_polled_at"),
        last_complete_at: cells.number("last_complete_at"),
        answered_at: cells.number("answered_at"),
        reader_count: cells.required_number("reader_count"),
        blocked: cells.required_number("blocked"),
        last_error: cells.text("last_error"),
        last_error_at: cells.number("last_error_at"),
        send_status: cells.text("send_status"),
        call_count: cells.required_number("call_count"),
        last_chance_at: cells.number("last_chance_at"),
        finished_at: cells.number("finished_at"),
    };
    let decoded = raw.decoded();
    Decoded {
        // A cell of the wrong type reads as a default, which need not pass either: the type is what is wrong.
        invalid: cells.invalid.or(decoded.invalid),
        ..decoded
    }
}

impl Raw<'_> {
    /// The message, and the first column whose value is none.
    pub(super) fn decoded(self) -> Decoded {
        let chat = Chat::parse(self.chat);
        let state = State::parse(self.state);
        // Whatever its state: such a row can't be written back as it is.
        let unscheduled = self.admitted_at.is_some() && self.next_poll_at.is_none();
        let wrong = [
            ("process_query_key", !is_key(self.process_query_key)),
            ("account", self.account.is_empty()),
            ("corp_id", self.corp_id == Some("")),
            ("robot_code", self.robot_code == Some("")),
            (
                "open_conversation_id",
                self.open_conversation_id == Some(""),
            ),
            ("chat", chat.is_none()),
            (
                "expected_readers",
                self.expected_readers.is_some_and(|n| n < 1),
            ),
            ("state", state.is_none()),
            ("next_poll_at", unscheduled),
        ];
        let sent_at = UnixMs(self.sent_at.min(self.inserted_at));
        let moment = |at: Option<i64>| at.map(UnixMs);
        let message = Message {
            id: MessageId(self.id),
            key: MessageKey::from(self.process_query_key),
            lane: LaneId {
                account: self.account.into(),
                corp: self.corp_id.map(Into::into),
            },
            robot_code: self.robot_code.map(Into::into),
            conversation: self.open_conversation_id.map(Into::into),
            chat: chat.unwrap_or(Chat::Private),
            expected_readers: self.expected_readers.map(clamp),
            sent_at,
            lives_from: moment(self.retried_at).map_or(sent_at, |retried| retried.max(sent_at)),
            state: state.unwrap_or(State::Failed),
            next_poll_at: moment(self.next_poll_at),
            admitted_at: moment(self.admitted_at),
            last_polled_at: moment(self.last_polled_at),
            last_complete_at: moment(self.last_complete_at),
            answered_at: moment(self.answered_at),
            reader_count: clamp(self.reader_count),
            blocked: self.blocked != 0,
            last_error: self.last_error.map(Into::into),
            last_error_at: moment(self.last_error_at),
            send_status: self.send_status.map(SendStatus::parse),
            call_count: clamp(self.call_count),
            last_chance_at: moment(self.last_chance_at),
            finished_at: moment(self.finished_at),
        };
        let invalid = wrong.iter().find(|(_, wrong)| *wrong);
        Decoded {
            message,
            invalid: invalid.map(|(column, _)| *column),
        }
    }
}

/// What the schema's CHECK says of a key, for rows that went round it.
fn is_key(text: &str) -> bool {
    (1..=512).contains(&text.len()) && text.bytes().all(|byte| (b'!'..=b'~').contains(&byte))
}

fn clamp(number: i64) -> u32 {
    u32::try_from(number.max(0)).unwrap_or(u32::MAX)
}

/// The cells of a row, taken in order. sqlx would read NULL as 0 or "", and a BLOB as text: here a cell is what its
/// storage class says, or it is refused.
pub(super) struct Cells<'r> {
    row: &'r SqliteRow,
    next: usize,
    /// The first column refused.
    pub(super) invalid: Option<&'static str>,
}

impl<'r> Cells<'r> {
    pub(super) fn new(row: &'r SqliteRow) -> Self {
        Self {
            row,
            next: 0,
            invalid: None,
        }
    }

    fn refuse(&mut self, column: &'static str) {
        self.invalid.get_or_insert(column);
    }

    /// A number or NULL.
    pub(super) fn number(&mut self, column: &'static str) -> Option<i64> {
        self.cell(column, "INTEGER", |value| i64::decode(value).ok())
    }

    /// A number.
    pub(super) fn required_number(&mut self, column: &'static str) -> i64 {
        let number = self.number(column);
        if number.is_none() {
            self.refuse(column);
        }
        number.unwrap_or_default()
    }

    /// A time or NULL.
    pub(super) fn moment(&mut self, column: &'static str) -> Option<UnixMs> {
        self.number(column).map(UnixMs)
    }

    /// Text or NULL.
    pub(super) fn text(&mut self, column: &'static str) -> Option<&'r str> {
        self.cell(column, "TEXT", |value| <&str>::decode(value).ok())
    }

    /// Text.
    pub(super) fn required_text(&mut self, column: &'static str) -> &'r str {
        let text = self.text(column);
        if text.is_none() {
            self.refuse(column);
        }
        text.unwrap_or_default()
    }

    fn cell<T>(
        &mut self,
        column: &'static str,
        class: &str,
        read: impl FnOnce(<Sqlite as sqlx::Database>::ValueRef<'r>) -> Option<T>,
    ) -> Option<T> {
        let index = self.next;
        self.next += 1;
        let value = self.row.try_get_raw(index).ok();
        let cell = match value {
            Some(value) if value.is_null() => return None,
            Some(value) if value.type_info().name() == class => read(value),
            _ => None,
        };
        if cell.is_none() {
            self.refuse(column);
        }
        cell
    }
}
