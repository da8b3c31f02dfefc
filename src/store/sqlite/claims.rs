//! What the scheduler asks: whose rows are due, and which.
//!
//! A claim is not written: one daemon owns the file, and it remembers what is in flight. Every statement has one text,
//! with ids passed as one JSON array, and names its index, so that neither its plan nor its place in the statement
//! cache depends on the data. A bound LIMIT has a plus before it: SQLite looks at the value of a bare one, and prepares the
//! statement anew whenever it is bound again, which costs more than a claim.

use sqlx::sqlite::SqliteRow;

use super::batch::{self, Query, Select, Source, select};
use super::rows::{Cells, Decoded};
use super::{SqliteStore, corp_word, ids_json, limit_word};
use crate::receipt::{Claim, ErrorCode, LaneId, Message, MessageId, UnixMs};
use crate::store::Result;

/// ?1, ?2: the lane, ?3: ids in flight, ?4: how many.
pub(super) const ARRIVALS: Select = select!(
    " FROM messages INDEXED BY messages_new
    WHERE admitted_at IS NULL AND state = 'pending' AND account = ?1 AND ifnull(corp_id, '') = ?2
        AND id NOT IN (SELECT value FROM json_each(?3))
    ORDER BY id LIMIT +?4"
);

/// ?1, ?2: the lane, ?3: now, ?4: ids in flight, ?5: how many, ?6: until when. One that is taken before its row is due is
/// not taken before its feeder's own "not before". Only the first few are looked at: were they all held back by their
/// feeders, the whole lane would be read, each time.
pub(super) const LAST_CHANCES: Select = select!(
    " FROM (
        SELECT id AS candidate FROM messages INDEXED BY messages_last_chance
        WHERE state = 'pending' AND last_chance_at IS NOT NULL
            AND account = ?1 AND ifnull(corp_id, '') = ?2 AND last_chance_at <= ?6
        ORDER BY last_chance_at LIMIT ?5 + 2000
    ) CROSS JOIN messages ON id = candidate
    WHERE admitted_at IS NOT NULL
        AND (next_poll_at <= ?3 OR (
            last_chance_at > ?3 AND next_poll_at <= last_chance_at AND ifnull(not_before, 0) <= ?3
        ))
        AND id NOT IN (SELECT value FROM json_each(?4))
    LIMIT +?5"
);

/// As [`LAST_CHANCES`], without the last parameter.
pub(super) const DUE: Select = select!(
    " FROM messages INDEXED BY messages_due
    WHERE state = 'pending' AND admitted_at IS NOT NULL
        AND account = ?1 AND ifnull(corp_id, '') = ?2 AND next_poll_at <= ?3
        AND id NOT IN (SELECT value FROM json_each(?4))
    ORDER BY next_poll_at LIMIT +?5"
);

/// ?1, ?2: the lane, ?3: lived from, ?4: ids in flight, ?5: how many.
pub(super) const OVERAGED: Select = select!(
    " FROM messages INDEXED BY messages_due
    WHERE state = 'pending' AND admitted_at IS NOT NULL
        AND account = ?1 AND ifnull(corp_id, '') = ?2
        AND max(min(sent_at, inserted_at), ifnull(retried_at, 0)) <= ?3
        AND id NOT IN (SELECT value FROM json_each(?4))
    ORDER BY next_poll_at LIMIT +?5"
);

/// ?1: rows as `[id, next_poll_at, last_chance_at, admitted_at]`. A key that was deleted and inserted again has readers.
pub(super) const ADMIT: &str = "UPDATE messages
    SET not_before = messages.next_poll_at, next_poll_at = new.next_poll_at,
        last_chance_at = new.last_chance_at, admitted_at = new.admitted_at,
        reader_count = (SELECT count(*) FROM readers AS r WHERE r.process_query_key = messages.process_query_key)
    FROM (
        SELECT value ->> 0 AS id, value ->> 1 AS next_poll_at, value ->> 2 AS last_chance_at,
            value ->> 3 AS admitted_at
        FROM jsonb_each(?1)
    ) AS new
    WHERE messages.id = new.id AND +messages.state = 'pending' AND +messages.admitted_at IS NULL";

/// ?1: rows as `[id, column]`, ?2: now, or NULL for SQLite's.
const SET_ASIDE: &str = "UPDATE messages
    SET state = 'failed', last_error = 'row.invalid: ' || new.invalid,
        last_error_at = ifnull(?2, CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
        finished_at = ifnull(?2, CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER))
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS invalid FROM jsonb_each(?1)) AS new
    WHERE messages.id = new.id AND +messages.state = 'pending'";

/// ?1, ?2: the lane, ?3: the code, ?4: how many.
const WITHOUT_ERROR: &str = "SELECT id FROM messages INDEXED BY messages_due
    WHERE state = 'pending' AND admitted_at IS NOT NULL
        AND account = ?1 AND ifnull(corp_id, '') = ?2 AND last_error IS NOT ?3
    ORDER BY next_poll_at LIMIT +?4";

/// ?1: ids, ?2: the code, ?3: now.
const NOTE_ERROR: &str = "UPDATE messages SET last_error = ?2, last_error_at = ?3
    WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending' AND last_error IS NOT ?2";

/// ?1: claims as `[id, fence]`.
pub(super) const STALE: &str = "SELECT claim.id
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS fence FROM jsonb_each(?1)) AS claim
    LEFT JOIN messages AS m ON m.id = claim.id
    WHERE m.id IS NULL OR m.state <> 'pending' OR m.next_poll_at IS NOT claim.fence";

impl SqliteStore {
    pub(super) async fn new_rows(
        &self,
        lane: &LaneId,
        in_flight: &[MessageId],
        limit: usize,
        now: UnixMs,
    ) -> Result<Vec<Message>> {
        let in_flight = ids_json(in_flight);
        let rows = batch::read(Source::Pool(&self.readers), &ARRIVALS, |query| {
            query
                .bind(lane.account.as_str().to_owned())
                .bind(corp_word(lane).to_owned())
                .bind(in_flight.clone())
                .bind(limit_word(limit))
        });
        self.sound(rows.await?, Some(now)).await
    }

    pub(super) async fn admit_rows(&self, rows: &[Message]) -> Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                let moment = |at: Option<UnixMs>| at.map(|at| at.0);
                (
                    row.id.0,
                    moment(row.next_poll_at),
                    moment(row.last_chance_at),
                    moment(row.admitted_at),
                )
            })
            .collect();
        let mut transaction = self.writer.begin().await?;
        sqlx::query(ADMIT)
            .bind(serde_json::to_string(&rows).map_err(super::not_json)?)
            .execute(&mut transaction.connection)
            .await?;
        transaction.commit().await
    }

    pub(super) async fn due_rows(
        &self,
        lane: &LaneId,
        now: UnixMs,
        last_chances_until: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
    ) -> Result<Vec<Message>> {
        let taken = ids_json(in_flight);
        let rows = batch::read(Source::Pool(&self.readers), &LAST_CHANCES, |query| {
            of_lane(query, lane, now, &taken, limit).bind(last_chances_until.0)
        });
        let mut due = self.sound(rows.await?, Some(now)).await?;
        if due.len() < limit {
            let mut taken = in_flight.to_vec();
            taken.extend(due.iter().map(|row| row.id));
            let rest = limit - due.len();
            due.extend(
                self.lane_rows(&DUE, lane, now, &taken, rest, Some(now))
                    .await?,
            );
        }
        Ok(due)
    }

    pub(super) async fn overaged_rows(
        &self,
        lane: &LaneId,
        lived_from: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
    ) -> Result<Vec<Message>> {
        self.lane_rows(&OVERAGED, lane, lived_from, in_flight, limit, None)
            .await
    }

    async fn lane_rows(
        &self,
        select: &Select,
        lane: &LaneId,
        until: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
        now: Option<UnixMs>,
    ) -> Result<Vec<Message>> {
        let in_flight = ids_json(in_flight);
        let rows = batch::read(Source::Pool(&self.readers), select, |query| {
            of_lane(query, lane, until, &in_flight, limit)
        });
        self.sound(rows.await?, now).await
    }

    /// The rows that are messages; the others are set aside.
    async fn sound(&self, rows: Vec<Decoded>, now: Option<UnixMs>) -> Result<Vec<Message>> {
        let mut sound = Vec::with_capacity(rows.len());
        let mut bad = Vec::new();
        for decoded in rows {
            match decoded.invalid {
                None => sound.push(decoded.message),
                Some(column) => bad.push((decoded.message.id, column)),
            }
        }
        self.set_aside(&bad, now).await?;
        Ok(sound)
    }

    pub(super) async fn set_aside(
        &self,
        bad: &[(MessageId, &'static str)],
        now: Option<UnixMs>,
    ) -> Result<()> {
        if bad.is_empty() {
            return Ok(());
        }
        let mut transaction = self.writer.begin().await?;
        set_aside(&mut transaction.connection, bad, now).await?;
        transaction.commit().await
    }

    pub(super) async fn note_error(
        &self,
        lane: &LaneId,
        code: &ErrorCode,
        now: UnixMs,
        limit: usize,
    ) -> Result<u64> {
        // Looked for on a read connection: a lane of a million rows that all bear the code must not hold the lock.
        let rows = sqlx::query(WITHOUT_ERROR)
            .bind(lane.account.as_str())
            .bind(corp_word(lane))
            .bind(code.as_str())
            .bind(limit_word(limit))
            .fetch_all(&self.readers)
            .await?;
        if rows.is_empty() {
            return Ok(0);
        }
        let mut transaction = self.writer.begin().await?;
        let noted = sqlx::query(NOTE_ERROR)
            .bind(ids_json(&ids(&rows)))
            .bind(code.as_str())
            .bind(now.0)
            .execute(&mut transaction.connection)
            .await?
            .rows_affected();
        transaction.commit().await?;
        Ok(noted)
    }

    pub(super) async fn stale_claims(&self, claims: &[Claim]) -> Result<Vec<MessageId>> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let claims: Vec<_> = claims
            .iter()
            .map(|claim| (claim.id.0, claim.fence.map(|fence| fence.0)))
            .collect();
        let rows = sqlx::query(STALE)
            .bind(serde_json::to_string(&claims).map_err(super::not_json)?)
            .fetch_all(&self.readers)
            .await?;
        Ok(ids(&rows))
    }
}

/// Binds the lane, a moment, the ids in flight and how many.
fn of_lane(query: Query, lane: &LaneId, until: UnixMs, in_flight: &str, limit: usize) -> Query {
    query
        .bind(lane.account.as_str().to_owned())
        .bind(corp_word(lane).to_owned())
        .bind(until.0)
        .bind(in_flight.to_owned())
        .bind(limit_word(limit))
}

/// Ends rows that are no messages, within a transaction.
pub(super) async fn set_aside(
    connection: &mut sqlx::sqlite::SqliteConnection,
    bad: &[(MessageId, &'static str)],
    now: Option<UnixMs>,
) -> Result<()> {
    let bad: Vec<_> = bad.iter().map(|(id, column)| (id.0, column)).collect();
    sqlx::query(SET_ASIDE)
        .bind(serde_json::to_string(&bad).map_err(super::not_json)?)
        .bind(now.map(|now| now.0))
        .execute(connection)
        .await?;
    Ok(())
}

/// The ids in the first column.
fn ids(rows: &[SqliteRow]) -> Vec<MessageId> {
    rows.iter()
        .map(|row| MessageId(Cells::new(row).required_number("id")))
        .collect()
}
