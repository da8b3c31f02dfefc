//! Reads that DingTalk pushed to another service: `read_events`.

use super::rows::{Cells, columns};
use super::sessions::Transaction;
use super::{PostgresStore, accounts, corps, ids, limit_param};
use crate::receipt::{EventId, LaneId, MessageId, UnixMs};
use crate::store::{EventWrites, PLACING_MS, ReadEvents, Result};

/// $1: how many, $2, $3: lanes that another node serves.
pub(super) const EVENTS: &str =
    "SELECT id, process_query_key, user_id, read_at FROM read_events AS e
    WHERE waits_since IS NULL AND NOT EXISTS (
        SELECT 1 FROM messages AS m JOIN unnest($2::TEXT[], $3::TEXT[]) AS l(account, corp)
            ON m.account = l.account AND m.lane_corp = l.corp
        WHERE m.process_query_key = e.process_query_key AND cardinality($2::TEXT[]) > 0
    )
    ORDER BY id LIMIT $1";

/// $1: keys.
pub(super) const EVENTS_MESSAGES: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM messages WHERE process_query_key = ANY($1::TEXT[])"
);

/// $1: ids, $2: what is wrong with each, $3: now.
const SET_ASIDE: &str = "UPDATE read_events AS e SET waits_since = $3, refused = new.refused
    FROM unnest($1::BIGINT[], $2::TEXT[]) AS new(id, refused) WHERE e.id = new.id";

/// $1: ids.
const TAKEN: &str = "DELETE FROM read_events WHERE id = ANY($1::BIGINT[])";

/// $1: ids, $2: since when, $3: [`PLACING_MS`]. Not those whose message was being placed when they were read: within
/// [`PLACING_MS`] before or after. It found nothing that waits, and they are read anew.
const WAITING: &str = "UPDATE read_events AS e SET waits_since = new.waits_since
    FROM unnest($1::BIGINT[], $2::BIGINT[]) AS new(id, waits_since) WHERE e.id = new.id AND NOT EXISTS (
        SELECT 1 FROM messages AS m
        WHERE m.process_query_key = e.process_query_key AND m.admitted_at BETWEEN new.waits_since - $3 AND new.waits_since + $3
    )";

/// $1: ids of messages that were placed.
pub(super) const PLACED: &str = "UPDATE read_events SET waits_since = NULL
    WHERE waits_since IS NOT NULL AND refused IS NULL AND process_query_key IN (
        SELECT process_query_key FROM messages WHERE id = ANY($1::BIGINT[])
    )";

/// $1, $2: waiting from when till when, $3: how many. Those whose message may take them by now.
pub(super) const TAKE_UP: &str = "UPDATE read_events SET waits_since = NULL WHERE id IN (
    SELECT e.id FROM read_events AS e JOIN messages AS m ON m.process_query_key = e.process_query_key
    WHERE e.waits_since BETWEEN $1 AND $2 AND e.refused IS NULL
        AND (m.admitted_at IS NOT NULL OR m.state <> 'pending')
    LIMIT $3
)";

/// $1: waiting since before, $2: how many.
pub(super) const FORGET: &str = "DELETE FROM read_events WHERE id IN (
    SELECT id FROM read_events WHERE waits_since < $1 LIMIT $2
)";

impl PostgresStore {
    pub(super) async fn pushed(
        &self,
        without: &[LaneId],
        limit: usize,
        now: UnixMs,
    ) -> Result<ReadEvents> {
        let query = sqlx::query(EVENTS)
            .bind(limit_param(limit))
            .bind(accounts(without))
            .bind(corps(without));
        let rows = self.readers.fetch(query).await?;
        let mut bad = Vec::new();
        let events = rows
            .iter()
            .filter_map(|row| Cells::of(row).event_or_bad(&mut bad));
        let events: Vec<_> = events.collect();
        if !bad.is_empty() {
            let (ids, columns): (Vec<i64>, Vec<&str>) =
                bad.iter().map(|(id, column)| (id.0, *column)).unzip();
            let query = sqlx::query(SET_ASIDE).bind(ids).bind(columns).bind(now.0);
            self.writer.execute(query).await?;
        }
        let mut keys: Vec<&str> = events.iter().map(|event| event.key.as_str()).collect();
        keys.sort_unstable();
        keys.dedup();
        let messages = if keys.is_empty() {
            Vec::new()
        } else {
            let query = sqlx::query(EVENTS_MESSAGES).bind(keys);
            self.messages(&self.readers, query, Some(now)).await?.0
        };
        Ok(ReadEvents {
            events,
            messages,
            refused: bad.len() as u64,
            more: rows.len() >= limit,
        })
    }

    pub(super) async fn forget(&self, before: UnixMs, lately: UnixMs, limit: usize) -> Result<u64> {
        for (from, until) in [(lately.0, i64::MAX), (i64::MIN, before.0 - 1)] {
            let query = sqlx::query(TAKE_UP).bind(from).bind(until);
            self.writer.execute(query.bind(limit_param(limit))).await?;
        }
        let query = sqlx::query(FORGET).bind(before.0).bind(limit_param(limit));
        self.writer.execute(query).await
    }
}

/// Writes what becomes of events, within a transaction of results.
pub(super) async fn write(transaction: &mut Transaction<'_>, events: &EventWrites) -> Result<()> {
    if !events.taken.is_empty() {
        let ids: Vec<i64> = events.taken.iter().map(|EventId(id)| *id).collect();
        transaction.execute(sqlx::query(TAKEN).bind(ids)).await?;
    }
    if !events.waiting.is_empty() {
        let (ids, since): (Vec<i64>, Vec<i64>) =
            events.waiting.iter().map(|(id, at)| (id.0, at.0)).unzip();
        let query = sqlx::query(WAITING).bind(ids).bind(since).bind(PLACING_MS);
        transaction.execute(query).await?;
    }
    Ok(())
}

/// Events that wait for messages which were just placed are to be taken.
pub(super) async fn placed(transaction: &mut Transaction<'_>, placed: &[MessageId]) -> Result<()> {
    let query = sqlx::query(PLACED).bind(ids(placed));
    transaction.execute(query).await?;
    Ok(())
}
