//! Reads that DingTalk pushed to another service: `read_events`.

use sqlx::sqlite::SqliteConnection;

use super::rows::{number, read, select_messages, text};
use super::{SqliteStore, execute, json, limit_param};
use crate::receipt::{EventId, MessageId, UnixMs};
use crate::store::{EventWrites, PLACING_MS, ReadEvents, Result};

/// ?1: how many.
pub(super) const EVENTS: &str = concat!(
    "SELECT json_group_array(json_array(id, process_query_key, user_id, read_at)) FROM (
        SELECT id, ",
    text!("process_query_key"),
    " AS process_query_key, ",
    text!("user_id"),
    " AS user_id, ",
    number!("read_at"),
    " AS read_at
        FROM read_events INDEXED BY read_events_new WHERE waits_since IS NULL ORDER BY id LIMIT +?1
    )"
);

/// ?1: keys.
pub(super) const EVENTS_MESSAGES: &str = select_messages!(
    " FROM messages AS m WHERE m.process_query_key IN (SELECT value FROM json_each(?1))"
);

/// ?1: rows as `[id, column]`, ?2: now.
const SET_ASIDE: &str = "UPDATE read_events SET waits_since = ?2, refused = new.value ->> 1
    FROM jsonb_each(?1) AS new WHERE read_events.id = new.value ->> 0";

/// ?1: ids.
const TAKEN: &str = "DELETE FROM read_events WHERE id IN (SELECT value FROM json_each(?1))";

/// ?1: rows as `[id, since when]`, ?2: [`PLACING_MS`]. Not those whose message was being placed when they were read: within
/// [`PLACING_MS`] before or after. It found nothing that waits, and they are read anew.
const WAITING: &str = "UPDATE read_events SET waits_since = new.value ->> 1
    FROM jsonb_each(?1) AS new WHERE read_events.id = new.value ->> 0 AND NOT EXISTS (
        SELECT 1 FROM messages AS m
        WHERE m.process_query_key = read_events.process_query_key AND m.admitted_at BETWEEN (new.value ->> 1) - ?2 AND (new.value ->> 1) + ?2
    )";

/// ?1: ids of messages that were placed.
pub(super) const PLACED: &str =
    "UPDATE read_events INDEXED BY read_events_waiting SET waits_since = NULL
    WHERE waits_since IS NOT NULL AND refused IS NULL AND process_query_key IN (
        SELECT process_query_key FROM messages WHERE id IN (SELECT value FROM json_each(?1))
    )";

/// ?1, ?2: waiting from when till when, ?3: how many. Those whose message may take them by now.
pub(super) const TAKE_UP: &str = "UPDATE read_events SET waits_since = NULL WHERE id IN (
    SELECT e.id FROM read_events AS e INDEXED BY read_events_waited
    CROSS JOIN messages AS m ON m.process_query_key = e.process_query_key
    WHERE e.waits_since BETWEEN ?1 AND ?2 AND e.refused IS NULL
        AND (m.admitted_at IS NOT NULL OR m.state <> 'pending')
    LIMIT +?3
)";

/// ?1: waiting since before, ?2: how many.
pub(super) const FORGET: &str = "DELETE FROM read_events WHERE id IN (
    SELECT id FROM read_events INDEXED BY read_events_waited WHERE waits_since < ?1 LIMIT +?2
)";

impl SqliteStore {
    pub(super) async fn pushed(&self, limit: usize, now: UnixMs) -> Result<ReadEvents> {
        let mut bad = Vec::new();
        let query = sqlx::query(EVENTS).bind(limit_param(limit));
        let rows = read(&self.readers, query, |cells| cells.event_or_bad(&mut bad)).await?;
        let more = rows.len() >= limit;
        if !bad.is_empty() {
            let bad: Vec<_> = bad.iter().map(|(id, column)| (id.0, column)).collect();
            self.write(sqlx::query(SET_ASIDE).bind(json(&bad)?).bind(now.0))
                .await?;
        }
        let events: Vec<_> = rows.into_iter().flatten().collect();
        let mut keys: Vec<&str> = events.iter().map(|event| event.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        let messages = if keys.is_empty() {
            Vec::new()
        } else {
            let query = sqlx::query(EVENTS_MESSAGES).bind(json(&keys)?);
            self.messages(query, Some(now)).await?.0
        };
        Ok(ReadEvents {
            events,
            messages,
            refused: bad.len() as u64,
            more,
        })
    }

    pub(super) async fn forget(&self, before: UnixMs, lately: UnixMs, limit: usize) -> Result<u64> {
        let mut transaction = self.writer.begin().await?;
        let connection = &mut transaction.connection;
        for (from, until) in [(lately.0, i64::MAX), (i64::MIN, before.0 - 1)] {
            let query = sqlx::query(TAKE_UP).bind(from).bind(until);
            execute(connection, query.bind(limit_param(limit))).await?;
        }
        let query = sqlx::query(FORGET).bind(before.0).bind(limit_param(limit));
        let removed = execute(connection, query).await?;
        transaction.commit().await?;
        Ok(removed)
    }
}

/// Writes what becomes of events, within a transaction of results.
pub(super) async fn write(connection: &mut SqliteConnection, events: &EventWrites) -> Result<()> {
    if !events.taken.is_empty() {
        let ids: Vec<i64> = events.taken.iter().map(|EventId(id)| *id).collect();
        execute(connection, sqlx::query(TAKEN).bind(json(&ids)?)).await?;
    }
    if !events.waiting.is_empty() {
        let rows: Vec<_> = events.waiting.iter().map(|(id, at)| (id.0, at.0)).collect();
        let query = sqlx::query(WAITING).bind(json(&rows)?).bind(PLACING_MS);
        execute(connection, query).await?;
    }
    Ok(())
}

/// Events that wait for messages which were just placed are to be taken.
pub(super) async fn placed(connection: &mut SqliteConnection, ids: &[MessageId]) -> Result<()> {
    let query = sqlx::query(PLACED).bind(super::ids_json(ids));
    execute(connection, query).await?;
    Ok(())
}
