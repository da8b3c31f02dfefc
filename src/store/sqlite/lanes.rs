//! Which lanes have rows, found by stepping from lane to lane through an index.

use super::rows::{Cells, bounded};
use super::{SqliteStore, ids_json, limit_word, not_json};
use crate::receipt::{LaneId, MessageId, UnixMs};
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
    bounded!("m.account"),
    ", ",
    bounded!("m.corp_id"),
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
    bounded!("m.account"),
    ", ",
    bounded!("m.corp_id"),
    " FROM head JOIN messages AS m ON m.id = head.id"
);

/// As [`SqliteStore::set_aside`], for all rows of the lanes of the given rows, a thousand rows at most.
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
    LIMIT +?2)"
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

    pub(super) async fn lanes_new(&self) -> Result<Vec<LaneId>> {
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
            .bind(serde_json::to_string(heads).map_err(not_json)?)
            .execute(&mut transaction.connection)
            .await?;
        transaction.commit().await
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

/// A lane's head in the next three cells (id, account, `corp_id`); where the lane cannot be read, the head and the column.
fn head(cells: &mut Cells<'_>) -> std::result::Result<LaneId, (i64, &'static str)> {
    let id = cells.required_number("id");
    let account = cells.required_text("account");
    let corp = cells.text("corp_id").filter(|corp| !corp.is_empty());
    let empty = account.is_empty().then_some("account");
    match cells.invalid.or(empty) {
        Some(column) => Err((id, column)),
        None => Ok(LaneId {
            account: account.into(),
            corp: corp.map(Into::into),
        }),
    }
}
