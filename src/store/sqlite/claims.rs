//! What the scheduler asks: whose rows are due, and which.
//!
//! A claim is not written: one daemon owns the file, and it remembers what is in flight. Every statement has one text,
//! with ids passed as one JSON array, and names its index, so that neither its plan nor its place in the statement
//! cache depends on the data.

use sqlx::sqlite::SqliteRow;

use super::batch::{self, Query, Select, Source, select};
use super::rows::{Cells, Decoded, bounded_text};
use super::{SqliteStore, corp_word, ids_json, limit_word};
use crate::receipt::{Claim, ErrorCode, Lane, Message, MessageId, UnixMs};
use crate::store::{LaneDue, Result};

/// The first row of each lane in an index that begins with the lane, stepping from lane to lane and skipping what lies
/// between: a lane costs the same with one row or a million.
macro_rules! lane_heads {
    ($index:literal, $admitted:literal) => {
        concat!(
            "WITH RECURSIVE head(id) AS (
            SELECT (
                SELECT id FROM messages INDEXED BY ",
            $index,
            "
                WHERE state = 'pending' AND admitted_at ",
            $admitted,
            "
                ORDER BY account, ifnull(corp_id, '') LIMIT 1
            )
            UNION ALL
            SELECT coalesce(
                (
                    SELECT n.id FROM messages AS n INDEXED BY ",
            $index,
            "
                    WHERE n.state = 'pending' AND n.admitted_at ",
            $admitted,
            "
                        AND n.account = m.account AND ifnull(n.corp_id, '') > ifnull(m.corp_id, '')
                    ORDER BY ifnull(n.corp_id, '') LIMIT 1
                ),
                (
                    SELECT n.id FROM messages AS n INDEXED BY ",
            $index,
            "
                    WHERE n.state = 'pending' AND n.admitted_at ",
            $admitted,
            " AND n.account > m.account
                    ORDER BY n.account, ifnull(n.corp_id, '') LIMIT 1
                )
            )
            FROM head JOIN messages AS m ON m.id = head.id
        )"
        )
    };
}

/// The heads of the lanes with admitted rows, by `next_poll_at`.
macro_rules! due_heads {
    () => {
        lane_heads!("messages_due", "IS NOT NULL")
    };
}

/// ?1: ids in flight.
pub(super) const LANES: &str = concat!(
    due_heads!(),
    "SELECT m.id, ",
    bounded_text!("m.account"),
    ", ",
    bounded_text!("m.corp_id"),
    ", f.id, f.next_poll_at
    FROM head JOIN messages AS m ON m.id = head.id LEFT JOIN messages AS f ON f.id = (
        SELECT n.id FROM messages AS n INDEXED BY messages_due
        WHERE n.state = 'pending' AND n.admitted_at IS NOT NULL
            AND n.account = m.account AND ifnull(n.corp_id, '') = ifnull(m.corp_id, '')
            AND n.id NOT IN (SELECT value FROM json_each(?1))
        ORDER BY n.next_poll_at LIMIT 1
    )"
);

/// The lanes with rows that were never admitted.
pub(super) const NEW_LANES: &str = concat!(
    lane_heads!("messages_new", "IS NULL"),
    "SELECT m.id, ",
    bounded_text!("m.account"),
    ", ",
    bounded_text!("m.corp_id"),
    " FROM head JOIN messages AS m ON m.id = head.id"
);

/// ?1, ?2: the lane, ?3: ids in flight, ?4: how many.
pub(super) const ARRIVALS: Select = select!(
    " FROM messages INDEXED BY messages_new
    WHERE admitted_at IS NULL AND state = 'pending' AND account = ?1 AND ifnull(corp_id, '') = ?2
        AND id NOT IN (SELECT value FROM json_each(?3))
    ORDER BY id LIMIT ?4"
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
    LIMIT ?5"
);

/// As [`LAST_CHANCES`], without the last parameter.
pub(super) const DUE: Select = select!(
    " FROM messages INDEXED BY messages_due
    WHERE state = 'pending' AND admitted_at IS NOT NULL
        AND account = ?1 AND ifnull(corp_id, '') = ?2 AND next_poll_at <= ?3
        AND id NOT IN (SELECT value FROM json_each(?4))
    ORDER BY next_poll_at LIMIT ?5"
);

/// ?1, ?2: the lane, ?3: lived from, ?4: ids in flight, ?5: how many.
pub(super) const OVERAGED: Select = select!(
    " FROM messages INDEXED BY messages_due
    WHERE state = 'pending' AND admitted_at IS NOT NULL
        AND account = ?1 AND ifnull(corp_id, '') = ?2
        AND max(min(sent_at, inserted_at), ifnull(retried_at, 0)) <= ?3
        AND id NOT IN (SELECT value FROM json_each(?4))
    ORDER BY next_poll_at LIMIT ?5"
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

/// As [`SET_ASIDE`], for all rows of the lanes of the given rows, a thousand rows at most.
macro_rules! set_lanes_aside {
    ($index:literal, $admitted:literal) => {
        concat!(
            "UPDATE messages
    SET state = 'failed', last_error = 'row.invalid: ' || bad.invalid,
        last_error_at = CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER),
        finished_at = CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)
    FROM (
        SELECT n.id, new.invalid
        FROM (SELECT value ->> 0 AS id, value ->> 1 AS invalid FROM jsonb_each(?1)) AS new
        CROSS JOIN messages AS m ON m.id = new.id
        CROSS JOIN messages AS n INDEXED BY ",
            $index,
            "
            ON n.state = 'pending' AND n.admitted_at ",
            $admitted,
            "
            AND n.account = m.account AND ifnull(n.corp_id, '') = ifnull(m.corp_id, '')
        LIMIT 1000
    ) AS bad
    WHERE messages.id = bad.id AND +messages.state = 'pending'"
        )
    };
}

/// ?1, ?2: the lane, ?3: the code, ?4: how many.
const WITHOUT_ERROR: &str = "SELECT id FROM messages INDEXED BY messages_due
    WHERE state = 'pending' AND admitted_at IS NOT NULL
        AND account = ?1 AND ifnull(corp_id, '') = ?2 AND last_error IS NOT ?3
    ORDER BY next_poll_at LIMIT ?4";

/// ?1: ids, ?2: the code, ?3: now.
const NOTE_ERROR: &str = "UPDATE messages SET last_error = ?2, last_error_at = ?3
    WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'pending' AND last_error IS NOT ?2";

/// ?1: claims as `[id, fence]`.
pub(super) const STALE: &str = "SELECT claim.id
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS fence FROM jsonb_each(?1)) AS claim
    LEFT JOIN messages AS m ON m.id = claim.id
    WHERE m.id IS NULL OR m.state <> 'pending' OR m.next_poll_at IS NOT claim.fence";

/// ?1: the latest moment, ?2: how many. A feeder's own "not before" holds.
const PULL_FORWARD: &str = concat!(
    "UPDATE messages SET next_poll_at = max(?1, ifnull(not_before, 0)) WHERE id IN (",
    due_heads!(),
    "SELECT n.id FROM head CROSS JOIN messages AS m ON m.id = head.id
    CROSS JOIN messages AS n INDEXED BY messages_due
        ON n.state = 'pending' AND n.admitted_at IS NOT NULL
        AND n.account = m.account AND ifnull(n.corp_id, '') = ifnull(m.corp_id, '')
        AND n.next_poll_at > ?1 AND typeof(n.next_poll_at) = 'integer'
    WHERE n.next_poll_at > ifnull(n.not_before, 0)
    LIMIT ?2)"
);

impl SqliteStore {
    pub(super) async fn lanes_due(&self, in_flight: &[MessageId]) -> Result<Vec<LaneDue>> {
        let rows = sqlx::query(LANES)
            .bind(ids_json(in_flight))
            .fetch_all(&self.readers)
            .await?;
        let mut lanes = Vec::with_capacity(rows.len());
        let mut bad_lanes = Vec::new();
        let mut bad_rows = Vec::new();
        for row in &rows {
            let mut cells = Cells::new(row);
            let lane = match head(&mut cells) {
                Ok(lane) => lane,
                Err(bad) => {
                    bad_lanes.push(bad);
                    continue;
                }
            };
            let Some(first) = cells.number("id") else {
                // All of it is in flight.
                continue;
            };
            match cells.moment("next_poll_at") {
                Some(next_poll_at) => lanes.push(LaneDue { lane, next_poll_at }),
                None => bad_rows.push((MessageId(first), "next_poll_at")),
            }
        }
        self.set_lanes_aside(set_lanes_aside!("messages_due", "IS NOT NULL"), &bad_lanes)
            .await?;
        self.set_aside(&bad_rows, None).await?;
        Ok(lanes)
    }

    pub(super) async fn lanes_new(&self) -> Result<Vec<Lane>> {
        let rows = sqlx::query(NEW_LANES).fetch_all(&self.readers).await?;
        let mut lanes = Vec::with_capacity(rows.len());
        let mut bad_lanes = Vec::new();
        for row in &rows {
            match head(&mut Cells::new(row)) {
                Ok(lane) => lanes.push(lane),
                Err(bad) => bad_lanes.push(bad),
            }
        }
        self.set_lanes_aside(set_lanes_aside!("messages_new", "IS NULL"), &bad_lanes)
            .await?;
        Ok(lanes)
    }

    /// Sets the rows of lanes aside whose names cannot be read, by their heads.
    async fn set_lanes_aside(
        &self,
        statement: &'static str,
        heads: &[(i64, &'static str)],
    ) -> Result<()> {
        if heads.is_empty() {
            return Ok(());
        }
        let mut transaction = self.writer.begin().await?;
        sqlx::query(statement)
            .bind(serde_json::to_string(heads).map_err(super::not_json)?)
            .execute(&mut transaction.connection)
            .await?;
        transaction.commit().await
    }

    pub(super) async fn new_rows(
        &self,
        lane: &Lane,
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
        lane: &Lane,
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
        lane: &Lane,
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
        lane: &Lane,
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

    async fn set_aside(
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
        lane: &Lane,
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

    pub(super) async fn pull(&self, latest: UnixMs, limit: usize) -> Result<u64> {
        let mut transaction = self.writer.begin().await?;
        let pulled = sqlx::query(PULL_FORWARD)
            .bind(latest.0)
            .bind(limit_word(limit))
            .execute(&mut transaction.connection)
            .await?
            .rows_affected();
        transaction.commit().await?;
        Ok(pulled)
    }
}

/// Binds the lane, a moment, the ids in flight and how many.
fn of_lane(query: Query, lane: &Lane, until: UnixMs, in_flight: &str, limit: usize) -> Query {
    query
        .bind(lane.account.as_str().to_owned())
        .bind(corp_word(lane).to_owned())
        .bind(until.0)
        .bind(in_flight.to_owned())
        .bind(limit_word(limit))
}

/// A lane's head in the next three cells (id, account, `corp_id`); where the lane cannot be read, the head and the column.
fn head(cells: &mut Cells<'_>) -> std::result::Result<Lane, (i64, &'static str)> {
    let id = cells.required_number("id");
    let account = cells.required_text("account");
    let corp = cells.text("corp_id").filter(|corp| !corp.is_empty());
    let empty = account.is_empty().then_some("account");
    match cells.invalid.or(empty) {
        Some(column) => Err((id, column)),
        None => Ok(Lane {
            account: account.into(),
            corp: corp.map(Into::into),
        }),
    }
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
