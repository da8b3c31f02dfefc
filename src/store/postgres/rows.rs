//! Rows as they come from PostgreSQL, with suspicion, since other processes write the tables and may alter them.

use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::store::cells::{self, Source, WrongType};

/// The columns of a row of `messages`, in the order in which [`cells::Cells::message`] takes them.
macro_rules! columns {
    () => {
        "id, process_query_key, account, corp_id, lane_corp, robot_code, open_conversation_id, chat, expected_readers, \
        sent_at, inserted_at, retried_at, state, next_poll_at, admitted_at, last_polled_at, last_complete_at, \
        answered_at, reader_count, blocked, last_error, last_error_at, failed_walks, failed_calls, doubt, doubt_at, \
        send_status, call_count, last_chance_at, finished_at, listed"
    };
}
pub(super) use columns;

/// The cells of a row.
pub(super) type Cells<'r> = cells::Cells<Row<'r>>;

/// A row, and the next cell.
pub(super) struct Row<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Cells<'r> {
    pub(super) fn of(row: &'r PgRow) -> Self {
        Self::new(Row { row, next: 0 })
    }
}

impl<'r> Row<'r> {
    fn take<T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>>(
        &mut self,
    ) -> Result<T, WrongType> {
        let place = self.next;
        self.next += 1;
        self.row.try_get(place).map_err(|_| WrongType)
    }
}

impl<'r> Source for Row<'r> {
    type Text = &'r str;

    fn number(&mut self) -> Result<Option<i64>, WrongType> {
        self.take()
    }

    fn text(&mut self) -> Result<Option<&'r str>, WrongType> {
        self.take()
    }
}
