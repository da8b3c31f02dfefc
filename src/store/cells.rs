//! A row's cells, taken in order and with suspicion, since other processes write the tables.

use std::ops::Deref;

use super::ReadEvent;
use crate::receipt::{
    Chat, Doubt, EventId, LaneId, Message, MessageId, MessageKey, SendStatus, State, UnixMs, UserId,
};

/// A cell that holds something else than what is asked for.
pub(super) struct WrongType;

/// Where the cells of a row come from, one after the other.
pub(super) trait Source {
    /// Text, borrowed where the backend can.
    type Text: Deref<Target = str> + Default;

    /// The next cell: a number or NULL.
    fn number(&mut self) -> Result<Option<i64>, WrongType>;

    /// The next cell: text or NULL.
    fn text(&mut self) -> Result<Option<Self::Text>, WrongType>;
}

/// The cells of a row, taken in order: each is of the type that is asked for, or it is refused.
pub(super) struct Cells<S> {
    source: S,
    /// The first column refused.
    pub(super) invalid: Option<&'static str>,
}

/// Rows that cannot be read, and the column that is to blame.
pub(super) type Unreadable = Vec<(MessageId, &'static str)>;

impl<S: Source> Cells<S> {
    pub(super) fn new(source: S) -> Self {
        Self {
            source,
            invalid: None,
        }
    }

    fn refuse(&mut self, column: &'static str) {
        self.invalid.get_or_insert(column);
    }

    /// A number or NULL.
    pub(super) fn number(&mut self, column: &'static str) -> Option<i64> {
        self.source.number().unwrap_or_else(|WrongType| {
            self.refuse(column);
            None
        })
    }

    /// A number.
    pub(super) fn required_number(&mut self, column: &'static str) -> i64 {
        let number = self.number(column);
        if number.is_none() {
            self.refuse(column);
        }
        number.unwrap_or_default()
    }

    /// A number of things.
    pub(super) fn count(&mut self, column: &'static str) -> u64 {
        u64::try_from(self.required_number(column)).unwrap_or(0)
    }

    /// A time or NULL.
    pub(super) fn moment(&mut self, column: &'static str) -> Option<UnixMs> {
        self.number(column).map(UnixMs)
    }

    /// Text or NULL.
    pub(super) fn text(&mut self, column: &'static str) -> Option<S::Text> {
        self.source.text().unwrap_or_else(|WrongType| {
            self.refuse(column);
            None
        })
    }

    /// Text.
    pub(super) fn required_text(&mut self, column: &'static str) -> S::Text {
        let text = self.text(column);
        if text.is_none() {
            self.refuse(column);
        }
        text.unwrap_or_default()
    }

    /// The lane in the next two cells; where it cannot be read, a column is refused.
    pub(super) fn lane(&mut self) -> LaneId {
        let account = self.required_text("account");
        let corp = self.text("corp_id").filter(|corp| !corp.is_empty());
        if account.is_empty() {
            self.refuse("account");
        }
        LaneId {
            account: (*account).into(),
            corp: corp.map(|corp| (*corp).into()),
        }
    }

    /// What was read, unless something of it was refused.
    pub(super) fn valid<T>(&self, read: T) -> Option<T> {
        self.invalid.is_none().then_some(read)
    }

    /// The message in its cells, in the order of [`Message`]'s columns that each backend's `rows` has. What cannot be read is a default, and refused.
    pub(super) fn message(&mut self) -> Message {
        let id = MessageId(self.required_number("id"));
        let key = self.required_text("process_query_key");
        let account = self.required_text("account");
        let fed_corp = self.text("corp_id");
        let lane_corp = self.text("lane_corp");
        let robot_code = self.text("robot_code");
        let conversation = self.text("open_conversation_id");
        let chat = Chat::parse(&self.required_text("chat"));
        let expected_readers = self.number("expected_readers");
        let sent_at = UnixMs(self.required_number("sent_at"));
        let sent_at = sent_at.min(UnixMs(self.required_number("inserted_at")));
        let lives_from = self
            .moment("retried_at")
            .map_or(sent_at, |retried| retried.max(sent_at));
        let state = State::parse(&self.required_text("state"));
        let next_poll_at = self.moment("next_poll_at");
        let admitted_at = self.moment("admitted_at");
        for (column, wrong) in [
            ("process_query_key", !is_key(&key)),
            ("account", account.is_empty()),
            ("corp_id", fed_corp.as_deref() == Some("")),
            ("robot_code", robot_code.as_deref() == Some("")),
            ("open_conversation_id", conversation.as_deref() == Some("")),
            ("chat", chat.is_none()),
            ("expected_readers", expected_readers.is_some_and(|n| n < 1)),
            ("state", state.is_none()),
            // Whatever its state: such a row can't be written back as it is.
            (
                "next_poll_at",
                admitted_at.is_some() && next_poll_at.is_none(),
            ),
        ] {
            if wrong {
                self.refuse(column);
            }
        }
        let corp = lane_corp.or(fed_corp).filter(|corp| !corp.is_empty());
        Message {
            id,
            key: MessageKey::from(&*key),
            lane: LaneId {
                account: (*account).into(),
                corp: corp.map(|corp| (*corp).into()),
            },
            robot_code: robot_code.map(|text| (*text).into()),
            conversation: conversation.map(|text| (*text).into()),
            chat: chat.unwrap_or(Chat::Private),
            expected_readers: expected_readers.map(clamp),
            sent_at,
            lives_from,
            state: state.unwrap_or(State::Failed),
            next_poll_at,
            admitted_at,
            last_polled_at: self.moment("last_polled_at"),
            last_complete_at: self.moment("last_complete_at"),
            answered_at: self.moment("answered_at"),
            reader_count: clamp(self.required_number("reader_count")),
            blocked: self.required_number("blocked") != 0,
            last_error: self.text("last_error").map(|text| (*text).into()),
            last_error_at: self.moment("last_error_at"),
            failed_walks: clamp(self.required_number("failed_walks")),
            failed_calls: clamp(self.required_number("failed_calls")),
            doubt: {
                let code = self.text("doubt");
                let at = self.moment("doubt_at");
                code.zip(at).map(|(code, at)| Doubt {
                    code: (*code).into(),
                    at,
                })
            },
            send_status: self
                .text("send_status")
                .map(|text| SendStatus::parse(&text)),
            call_count: clamp(self.required_number("call_count")),
            last_chance_at: self.moment("last_chance_at"),
            finished_at: self.moment("finished_at"),
            listed: self.number("listed").map(clamp),
        }
    }

    /// The kind of chat in the next cell, where it is one.
    pub(super) fn chat(&mut self) -> Chat {
        let chat = Chat::parse(&self.required_text("chat"));
        if chat.is_none() {
            self.refuse("chat");
        }
        chat.unwrap_or(Chat::Private)
    }

    /// The pushed read in its cells (number, key, reader, time), or a note of the row that is none.
    pub(super) fn event_or_bad(
        &mut self,
        bad: &mut Vec<(EventId, &'static str)>,
    ) -> Option<ReadEvent> {
        /// Characters of a `user_id`, as the schema's CHECK has it.
        const LONGEST_USER: usize = 256;
        const EARLIEST: UnixMs = UnixMs(1_500_000_000_000);
        let id = EventId(self.required_number("id"));
        let key = self.required_text("process_query_key");
        let user = self.required_text("user_id");
        let read_at = self.moment("read_at");
        for (column, wrong) in [
            ("process_query_key", !is_key(&key)),
            (
                "user_id",
                user.is_empty() || user.chars().count() > LONGEST_USER,
            ),
            ("read_at", read_at.is_some_and(|at| at < EARLIEST)),
        ] {
            if wrong {
                self.refuse(column);
            }
        }
        if let Some(column) = self.invalid {
            bad.push((id, column));
            return None;
        }
        Some(ReadEvent {
            id,
            key: MessageKey::from(&*key),
            user_id: UserId::from(&*user),
            read_at,
        })
    }

    /// The message, or a note of the row that is none.
    pub(super) fn message_or_bad(&mut self, bad: &mut Unreadable) -> Option<Message> {
        let message = self.message();
        match self.invalid {
            None => Some(message),
            Some(column) => {
                bad.push((message.id, column));
                None
            }
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
