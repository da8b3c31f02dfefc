//! What was decided, written: a statement a table, whatever the number of rows.
//!
//! Rows travel as one JSON text. `jsonb_each` hands each on as SQLite's own binary form, out of which a cell is taken
//! without parsing the row again (`json_each` with as many `->>` took half as long again).

use std::collections::HashMap;

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;

use super::{corp_word, not_json};
use crate::receipt::{ErrorCode, Message, MessageId, SendStatus, State, UnixMs};
use crate::store::{CallCount, Found, Result, Writes};

/// ?1: rows in the order of [`Owned`]. All that receiptd owns, for a row that changes its state or its place.
pub(super) const UPDATE: &str = "UPDATE messages
    SET next_poll_at = new.next_poll_at, reader_count = new.reader_count, call_count = new.call_count,
        last_polled_at = new.last_polled_at, last_complete_at = new.last_complete_at,
        answered_at = new.answered_at, blocked = new.blocked, send_status = new.send_status,
        last_error = new.last_error, last_error_at = new.last_error_at, state = new.state,
        finished_at = new.finished_at, admitted_at = new.admitted_at, last_chance_at = new.last_chance_at
    FROM (
        SELECT value ->> 0 AS id, value ->> 1 AS next_poll_at, value ->> 2 AS reader_count,
            value ->> 3 AS call_count, value ->> 4 AS last_polled_at, value ->> 5 AS last_complete_at,
            value ->> 6 AS answered_at, value ->> 7 AS blocked, value ->> 8 AS send_status,
            value ->> 9 AS last_error, value ->> 10 AS last_error_at, value ->> 11 AS state,
            value ->> 12 AS finished_at, value ->> 13 AS admitted_at, value ->> 14 AS last_chance_at
        FROM jsonb_each(?1)
    ) AS new
    WHERE messages.id = new.id";

/// As [`UPDATE`], for a row that stays pending, which most do: every column that it leaves out saves the indexes that
/// depend on it, and the trigger on `state`.
pub(super) const MOVE_ON: &str = "UPDATE messages
    SET next_poll_at = new.next_poll_at, reader_count = new.reader_count, call_count = new.call_count,
        last_polled_at = new.last_polled_at, last_complete_at = new.last_complete_at,
        answered_at = new.answered_at, blocked = new.blocked, send_status = new.send_status,
        last_error = new.last_error, last_error_at = new.last_error_at
    FROM (
        SELECT value ->> 0 AS id, value ->> 1 AS next_poll_at, value ->> 2 AS reader_count,
            value ->> 3 AS call_count, value ->> 4 AS last_polled_at, value ->> 5 AS last_complete_at,
            value ->> 6 AS answered_at, value ->> 7 AS blocked, value ->> 8 AS send_status,
            value ->> 9 AS last_error, value ->> 10 AS last_error_at
        FROM jsonb_each(?1)
    ) AS new
    WHERE messages.id = new.id";

/// ?1: counts as `[account, corp_id, month, calls, throttled, messages, first_at]`.
const CALLS: &str =
    "INSERT INTO api_calls (account, corp_id, month, calls, throttled, messages, first_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
    FROM jsonb_each(?1) WHERE true
    ON CONFLICT (account, corp_id, month) DO UPDATE
    SET calls = calls + excluded.calls, throttled = throttled + excluded.throttled,
        messages = messages + excluded.messages,
        first_at = min(ifnull(first_at, excluded.first_at), ifnull(excluded.first_at, first_at))";

/// ?1: habits as `[account, corp_id, habits]`.
const HABITS: &str = "INSERT INTO habits (account, corp_id, habits)
    SELECT value ->> 0, value ->> 1, value ->> 2 FROM jsonb_each(?1) WHERE true
    ON CONFLICT (account, corp_id) DO UPDATE SET habits = excluded.habits";

/// What receiptd owns of a row, in the order of [`UPDATE`] and [`MOVE_ON`].
type Owned<'a> = (
    i64,
    Option<i64>,
    u32,
    u32,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    u8,
    Option<&'a str>,
    Option<&'a str>,
    Option<i64>,
    &'a str,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

/// Writes what was decided.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    found: &[Found<'_>],
    writes: &Writes,
) -> Result<()> {
    let before: HashMap<MessageId, &Message> = found
        .iter()
        .filter_map(|found| found.row.as_ref())
        .map(|row| (row.id, row))
        .collect();
    let (moved, changed): (Vec<&Message>, Vec<&Message>) = writes
        .messages
        .iter()
        .partition(|row| before.get(&row.id).is_some_and(|old| stays(old, row)));
    for (statement, rows) in [(MOVE_ON, moved), (UPDATE, changed)] {
        if !rows.is_empty() {
            let rows: Vec<Owned<'_>> = rows.into_iter().map(owned).collect();
            execute(connection, statement, &rows).await?;
        }
    }
    add_calls(connection, &writes.calls).await?;
    if !writes.habits.is_empty() {
        let habits: Vec<_> = writes
            .habits
            .iter()
            .map(|row| (row.lane.account.as_str(), corp_word(&row.lane), &row.habits))
            .collect();
        execute(connection, HABITS, &habits).await?;
    }
    Ok(())
}

/// Adds to what was spent.
pub(super) async fn add_calls(
    connection: &mut SqliteConnection,
    calls: &[CallCount],
) -> Result<()> {
    if calls.is_empty() {
        return Ok(());
    }
    let calls: Vec<_> = calls
        .iter()
        .map(|count| {
            let account = count.lane.account.as_str();
            (
                account,
                corp_word(&count.lane),
                &count.month,
                count.calls,
                count.throttled,
                count.messages,
                count.first_at.map(|at| at.0),
            )
        })
        .collect();
    execute(connection, CALLS, &calls).await
}

/// Whether [`MOVE_ON`] writes all that differs.
fn stays(old: &Message, new: &Message) -> bool {
    old.state == State::Pending
        && new.state == State::Pending
        && old.admitted_at == new.admitted_at
        && old.last_chance_at == new.last_chance_at
        && old.finished_at == new.finished_at
}

async fn execute<T: Serialize + Sync>(
    connection: &mut SqliteConnection,
    statement: &'static str,
    rows: &[T],
) -> Result<()> {
    sqlx::query(statement)
        .bind(json(rows)?)
        .execute(connection)
        .await?;
    Ok(())
}

/// Rows as a JSON array.
pub(super) fn json<T: Serialize>(rows: &[T]) -> Result<String> {
    serde_json::to_string(rows).map_err(not_json)
}

fn owned(row: &Message) -> Owned<'_> {
    let moment = |at: Option<UnixMs>| at.map(|at| at.0);
    (
        row.id.0,
        moment(row.next_poll_at),
        row.reader_count,
        row.call_count,
        moment(row.last_polled_at),
        moment(row.last_complete_at),
        moment(row.answered_at),
        u8::from(row.blocked),
        row.send_status.as_ref().map(SendStatus::as_str),
        row.last_error.as_ref().map(ErrorCode::as_str),
        moment(row.last_error_at),
        row.state.as_str(),
        moment(row.finished_at),
        moment(row.admitted_at),
        moment(row.last_chance_at),
    )
}
