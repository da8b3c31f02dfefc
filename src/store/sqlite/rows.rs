//! Rows as they come from SQLite, cell by cell and suspiciously, since other processes write the tables.
//!
//! A statement that reads many rows gives them as one JSON text: a row that sqlx hands over costs a duplicate of each value
//! and, mostly, a wake-up of the waiting thread, more than all that SQLite does for it. [`text!`] and [`number!`] make a
//! cell that JSON cannot hold, or that is larger than any should be, one of the wrong type: it costs its own row alone.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sqlx::sqlite::{Sqlite, SqliteArguments};
use sqlx::{Row as _, SqliteExecutor};

use super::error::failure;
use crate::store::cells::{self, Source, WrongType};
use crate::store::{Result, StoreError};

/// A cell of text that somebody else may have written: a BLOB, which is greater than any text, and text of more than 4 KiB
/// come as a number. Of text `octet_length` asks the record's head alone, so that nothing large is loaded.
macro_rules! text {
    ($cell:literal) => {
        concat!(
            "iif(",
            $cell,
            " >= x'' OR octet_length(",
            $cell,
            ") > 4096, 0, ",
            $cell,
            ")"
        )
    };
}
pub(super) use text;

/// A cell that holds a whole number: text, BLOBs and infinite numbers come as text.
macro_rules! number {
    ($cell:literal) => {
        concat!(
            "iif(",
            $cell,
            " BETWEEN -9223372036854775808 AND 9223372036854775807, ",
            $cell,
            ", iif(",
            $cell,
            " IS NULL, NULL, ''))"
        )
    };
}
pub(super) use number;

/// The cells of a row of `messages AS m` as a JSON array, in the order in which [`cells::Cells::message`] takes them.
macro_rules! message {
    () => {
        $crate::store::sqlite::rows::message!(
            text "process_query_key", text "account", text "corp_id", text "lane_corp", text "robot_code",
            text "open_conversation_id", text "chat", number "expected_readers", number "sent_at",
            number "inserted_at", number "retried_at", text "state", number "next_poll_at",
            number "admitted_at", number "last_polled_at", number "last_complete_at", number "answered_at",
            number "reader_count", number "blocked", text "last_error", number "last_error_at",
            number "failed_walks", number "failed_calls", text "doubt", number "doubt_at", text "send_status",
            number "call_count", number "last_chance_at", number "finished_at", number "listed"
        )
    };
    ($($kind:ident $column:literal),+) => {
        concat!("json_array(m.id" $(, ", ", $crate::store::sqlite::rows::message!(@$kind $column))+, ")")
    };
    (@text $column:literal) => {
        concat!(
            "iif(m.", $column, " >= x'' OR octet_length(m.", $column, ") > 4096, 0, m.", $column, ")"
        )
    };
    (@number $column:literal) => {
        concat!(
            "iif(m.", $column, " BETWEEN -9223372036854775808 AND 9223372036854775807, m.", $column,
            ", iif(m.", $column, " IS NULL, NULL, ''))"
        )
    };
}
pub(super) use message;

/// A SELECT that gives many rows of `messages AS m` as one text; what follows the columns is given, for `concat!`.
macro_rules! select_messages {
    ($($tail:tt)+) => {
        concat!(
            "SELECT json_group_array(",
            $crate::store::sqlite::rows::message!(),
            ")",
            $($tail)+
        )
    };
}
pub(super) use select_messages;

/// A statement with what is bound to it.
pub(super) type Query<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments>;

/// Reads the rows of a statement whose one row holds them all as a JSON array of arrays.
pub(super) async fn read<T>(
    source: impl SqliteExecutor<'_>,
    query: Query<'_>,
    decode: impl FnMut(&mut Cells<'_>) -> T,
) -> Result<Vec<T>> {
    fetch(source, query).await?.decode(decode)
}

/// The rows of a statement, as they came.
pub(super) struct Rows(String);

/// As [`read`], for rows that are to be borrowed from.
pub(super) async fn fetch(source: impl SqliteExecutor<'_>, query: Query<'_>) -> Result<Rows> {
    let found = query.fetch_all(source).await.map_err(failure)?;
    let value = match found.first() {
        Some(row) => row.try_get_raw(0).map_err(failure)?,
        None => return Ok(Rows("[]".to_owned())),
    };
    let bytes = <&[u8] as sqlx::Decode<'_, Sqlite>>::decode(value)
        .map_err(|error| StoreError::Other(sqlx::Error::Decode(error)))?;
    Ok(Rows(marked(bytes).into_owned()))
}

impl Rows {
    pub(super) fn decode<'r, T>(
        &'r self,
        mut decode: impl FnMut(&mut Cells<'r>) -> T,
    ) -> Result<Vec<T>> {
        let rows: Vec<Vec<Cell<'r>>> = serde_json::from_str(&self.0)
            .map_err(|error| StoreError::Other(sqlx::Error::Decode(Box::new(error))))?;
        let decoded = rows
            .into_iter()
            .map(|row| decode(&mut Cells::new(row.into_iter())));
        Ok(decoded.collect())
    }
}

/// Stands for bytes that are no UTF-8. It is no character, so that no text of anybody's holds it.
const NO_TEXT: char = '\u{fdd0}';

/// The text, with [`NO_TEXT`] in place of what is no UTF-8.
fn marked(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(NO_TEXT);
        }
    }
    Cow::Owned(text)
}

/// A cell of a row.
#[derive(Debug)]
pub(super) enum Cell<'a> {
    Null,
    Number(i64),
    Text(Cow<'a, str>),
    /// Of no use to anybody: a number with a fraction, text that is none.
    Other,
}

impl<'de: 'a, 'a> Deserialize<'de> for Cell<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OneCell;
        impl<'de> Visitor<'de> for OneCell {
            type Value = Cell<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a cell")
            }

            fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
                Ok(Cell::Null)
            }

            fn visit_i64<E>(self, number: i64) -> std::result::Result<Self::Value, E> {
                Ok(Cell::Number(number))
            }

            fn visit_u64<E>(self, number: u64) -> std::result::Result<Self::Value, E> {
                Ok(i64::try_from(number).map_or(Cell::Other, Cell::Number))
            }

            fn visit_f64<E>(self, _: f64) -> std::result::Result<Self::Value, E> {
                Ok(Cell::Other)
            }

            fn visit_bool<E>(self, _: bool) -> std::result::Result<Self::Value, E> {
                Ok(Cell::Other)
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Self::Value, E> {
                Ok(as_text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> std::result::Result<Self::Value, E> {
                Ok(as_text(Cow::Owned(text.to_owned())))
            }

            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut cells: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                while cells.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Cell::Other)
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut cells: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                while cells.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Cell::Other)
            }
        }
        deserializer.deserialize_any(OneCell)
    }
}

fn as_text(text: Cow<'_, str>) -> Cell<'_> {
    if text.contains(NO_TEXT) {
        Cell::Other
    } else {
        Cell::Text(text)
    }
}

/// The cells of a row.
pub(super) type Cells<'r> = cells::Cells<std::vec::IntoIter<Cell<'r>>>;

impl<'r> Source for std::vec::IntoIter<Cell<'r>> {
    type Text = Cow<'r, str>;

    fn number(&mut self) -> std::result::Result<Option<i64>, WrongType> {
        match self.next() {
            Some(Cell::Number(number)) => Ok(Some(number)),
            Some(Cell::Null) => Ok(None),
            _ => Err(WrongType),
        }
    }

    fn text(&mut self) -> std::result::Result<Option<Self::Text>, WrongType> {
        match self.next() {
            Some(Cell::Text(text)) => Ok(Some(text)),
            Some(Cell::Null) => Ok(None),
            _ => Err(WrongType),
        }
    }
}
