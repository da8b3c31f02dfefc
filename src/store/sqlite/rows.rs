//! A row of `messages` as a [`Message`]: cell by cell and suspiciously, since other processes write that table.

use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Decode, Row, TypeInfo, ValueRef};

use crate::receipt::{Chat, Lane, Message, MessageId, MessageKey, SendStatus, State, UnixMs};

/// The columns that [`decode`] reads, in its order.
macro_rules! columns {
    () => {
        "id, process_query_key, account, corp_id, robot_code, open_conversation_id, chat, \
         expected_readers, sent_at, inserted_at, retried_at, state, next_poll_at, admitted_at, \
         last_polled_at, last_complete_at, answered_at, reader_count, blocked, last_error, \
         last_error_at, send_status, call_count, last_chance_at, finished_at"
    };
}
pub(super) use columns;

/// A decoded row, and the first column that could not be read, if any; what could not be read is then a default.
pub(super) struct Decoded {
    pub(super) message: Message,
    pub(super) invalid: Option<&'static str>,
}

/// Reads a row of [`columns!`].
pub(super) fn decode(row: &SqliteRow) -> Decoded {
    let mut cells = Cells::new(row);
    let id = MessageId(cells.number("id").unwrap_or_default());
    let key = cells.required_text("process_query_key", is_key);
    let account = cells.required_text("account", |text| !text.is_empty());
    let corp = cells.filled_text("corp_id");
    let robot_code = cells.filled_text("robot_code");
    let conversation = cells.filled_text("open_conversation_id");
    let chat = cells.word("chat", Chat::parse).unwrap_or(Chat::Private);
    let expected_readers = cells.number("expected_readers");
    if expected_readers.is_some_and(|expected| expected < 1) {
        cells.refuse("expected_readers");
    }
    let sent_at = cells.required_number("sent_at");
    let inserted_at = cells.required_number("inserted_at");
    let sent_at = UnixMs(sent_at.min(inserted_at));
    let lives_from = cells
        .moment("retried_at")
        .map_or(sent_at, |retried| retried.max(sent_at));
    let message = Message {
        id,
        key: MessageKey::new(key),
        lane: Lane {
            account: account.into(),
            corp: corp.map(Into::into),
        },
        robot_code: robot_code.map(Into::into),
        conversation: conversation.map(Into::into),
        chat,
        expected_readers: expected_readers.map(clamp),
        sent_at,
        lives_from,
        state: cells.word("state", State::parse).unwrap_or(State::Failed),
        next_poll_at: cells.moment("next_poll_at"),
        admitted_at: cells.moment("admitted_at"),
        last_polled_at: cells.moment("last_polled_at"),
        last_complete_at: cells.moment("last_complete_at"),
        answered_at: cells.moment("answered_at"),
        reader_count: clamp(cells.required_number("reader_count")),
        blocked: cells.required_number("blocked") != 0,
        last_error: cells.text("last_error").map(Into::into),
        last_error_at: cells.moment("last_error_at"),
        send_status: cells.text("send_status").map(SendStatus::parse),
        call_count: clamp(cells.required_number("call_count")),
        last_chance_at: cells.moment("last_chance_at"),
        finished_at: cells.moment("finished_at"),
    };
    if message.state == State::Pending
        && message.admitted_at.is_some()
        && message.next_poll_at.is_none()
    {
        cells.refuse("next_poll_at");
    }
    Decoded {
        message,
        invalid: cells.invalid,
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

    pub(super) fn refuse(&mut self, column: &'static str) {
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

    /// Text for which `good` holds.
    pub(super) fn required_text(
        &mut self,
        column: &'static str,
        good: impl Fn(&str) -> bool,
    ) -> &'r str {
        let text = self.text(column).unwrap_or_default();
        if !good(text) {
            self.refuse(column);
        }
        text
    }

    /// Text that is not empty, or NULL.
    fn filled_text(&mut self, column: &'static str) -> Option<&'r str> {
        let text = self.text(column);
        if text == Some("") {
            self.refuse(column);
        }
        text
    }

    /// One of an enum's words.
    fn word<T>(&mut self, column: &'static str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let word = self.text(column).and_then(parse);
        if word.is_none() {
            self.refuse(column);
        }
        word
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
