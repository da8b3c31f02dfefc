//! What is due now and then: counts, last chances, retention, and the file's own shape.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use tokio::time::Instant;

use super::error::{failure, is_constraint};
use super::lock::beside;
use super::open::JOURNAL_SIZE_LIMIT;
use super::rows::{read, text};
use super::{SqliteStore, corp_param, execute, ids_json, limit_param};
use crate::receipt::{LaneId, MessageId, State, UnixMs};
use crate::store::last_chances::begin_with;
use crate::store::totals::Totals;
use crate::store::{
    Health, LOCK_PATIENCE, LaneTotals, LastChanceFit, Pruned, Result, StoreError, Upkeep,
};

/// Counts of pending rows by lane: the lane, how many, how many of them due, and when the first is. ?1: now.
macro_rules! pending_totals {
    ($corp:literal, $due:literal, $tail:literal) => {
        concat!(
            "SELECT json_group_array(json_array(account, corp, pending, due, first)) FROM (
                SELECT ",
            text!("account"),
            " AS account, ",
            text!($corp),
            " AS corp, count(*) AS pending,
                    sum(",
            $due,
            " <= ?1) AS due, min(",
            $due,
            ") AS first
                FROM messages INDEXED BY ",
            $tail,
            "
            )"
        )
    };
}

pub(super) const PLACED_TOTALS: &str = pending_totals!(
    "lane_corp",
    "next_poll_at",
    "messages_due WHERE state = 'pending' AND lane_corp IS NOT NULL GROUP BY messages.account, lane_corp"
);

/// A new row waits from its insert on, or from its feeder's `next_poll_at`.
pub(super) const NEW_TOTALS: &str = pending_totals!(
    "ifnull(corp_id, '')",
    "ifnull(next_poll_at, inserted_at)",
    "messages_new WHERE admitted_at IS NULL AND state = 'pending'
    GROUP BY messages.account, ifnull(corp_id, '')"
);

/// They are not due for any lane, and pending all the same.
pub(super) const WAITING_TOTALS: &str = pending_totals!(
    "ifnull(corp_id, '')",
    "next_poll_at",
    "messages_waiting WHERE state = 'pending' AND lane_corp IS NULL AND admitted_at IS NOT NULL
    GROUP BY messages.account, ifnull(corp_id, '')"
);

pub(super) const FINAL_TOTALS: &str = concat!(
    "SELECT json_group_array(json_array(account, corp, word, finished)) FROM (
        SELECT ",
    text!("account"),
    " AS account, ",
    text!("ifnull(lane_corp, ifnull(corp_id, ''))"),
    " AS corp, ",
    text!("state"),
    " AS word, count(*) AS finished
        FROM messages INDEXED BY messages_final WHERE state <> 'pending'
        GROUP BY messages.account, ifnull(lane_corp, ifnull(corp_id, '')), state
    )"
);

/// The lane's last chances from `$from` on.
macro_rules! of_lane {
    ($from:literal) => {
        concat!(
            " FROM messages INDEXED BY messages_last_chance
            WHERE state = 'pending' AND lane_corp IS NOT NULL AND last_chance_at IS NOT NULL
                AND account = ?1 AND lane_corp = ?2 AND last_chance_at ",
            $from,
            " AND typeof(last_chance_at) = 'integer'"
        )
    };
}

/// ?1, ?2: the lane, ?3: milliseconds that belong together. The moment of the last of each part, and how many there are.
/// From part to part through the index: grouping would sort all of the lane.
pub(super) const UPCOMING: &str = concat!(
    "WITH RECURSIVE part(first) AS (
        SELECT (SELECT last_chance_at",
    of_lane!(">= 0"),
    " ORDER BY last_chance_at LIMIT 1)
        UNION ALL
        SELECT (SELECT last_chance_at",
    of_lane!(">= part.first + ?3"),
    " ORDER BY last_chance_at LIMIT 1)
        FROM part WHERE part.first IS NOT NULL
    )
    SELECT json_group_array(json_array(
        (SELECT max(last_chance_at)",
    of_lane!(">= part.first AND last_chance_at < part.first + ?3"),
    "),
        (SELECT count(*)",
    of_lane!(">= part.first AND last_chance_at < part.first + ?3"),
    ")
    ))
    FROM part WHERE part.first IS NOT NULL"
);

/// ?1: before, ?2: the state, ?3, ?4: the row behind which to begin, ?5: how many. Oldest first.
pub(super) const FINISHED: &str = "SELECT json_group_array(json_array(id, finished_at)) FROM (
        SELECT id, finished_at FROM messages INDEXED BY messages_finished
        WHERE state <> 'pending' AND state = ?2 AND finished_at >= ?3 AND finished_at < ?1
            AND (finished_at > ?3 OR id > ?4)
        ORDER BY finished_at, id LIMIT +?5
    )";

/// ?1: ids.
const DELETE: &str =
    "DELETE FROM messages WHERE id IN (SELECT value FROM json_each(?1)) AND state <> 'pending'";

/// ?1: how many. Readers of keys without a message, which the trigger on DELETE wrote down.
const DELETE_READERS: &str = "DELETE FROM readers WHERE id IN (
    SELECT r.id FROM orphans AS o CROSS JOIN readers AS r ON r.process_query_key = o.process_query_key
    WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
    LIMIT +?1
)";

/// Keys that have a message again, or no reader any more. ?1: how many.
const DELETE_ORPHANS: &str = "DELETE FROM orphans WHERE process_query_key IN (
    SELECT o.process_query_key FROM orphans AS o
    WHERE EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
        OR NOT EXISTS (SELECT 1 FROM readers AS r WHERE r.process_query_key = o.process_query_key)
    LIMIT +?1
)";

/// ?1: before, ?2: a state, or NULL for all.
pub(super) const PRUNABLE: &str = "SELECT json_array(json_array(
        (
            SELECT count(*) FROM messages INDEXED BY messages_finished
            WHERE state <> 'pending' AND finished_at < ?1 AND (?2 IS NULL OR state = ?2)
        ),
        (
            SELECT count(*) FROM messages AS m INDEXED BY messages_finished
            CROSS JOIN readers AS r ON r.process_query_key = m.process_query_key
            WHERE m.state <> 'pending' AND m.finished_at < ?1 AND (?2 IS NULL OR m.state = ?2)
        ) + (
            SELECT count(*) FROM orphans AS o CROSS JOIN readers AS r ON r.process_query_key = o.process_query_key
            WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
        ),
        (SELECT count(*) FROM read_events INDEXED BY read_events_waited WHERE waits_since < ?1 AND ?2 IS NULL)
    ))";

/// Messages a step of [`Upkeep::prune`]: the write lock is held for some milliseconds.
const MESSAGES_A_STEP: usize = 100;
/// Readers a step: a group's go in several.
const READERS_A_STEP: usize = 800;
/// Rows that were held are tried again when what is to be removed is so much younger.
const HELD_ARE_TRIED_AGAIN: Duration = Duration::from_secs(86_400);
/// How often the statistics of the query planner are looked after.
const OPTIMIZE_EVERY: Duration = Duration::from_secs(3_600);
/// So much of the write-ahead log held back is worth a warning: a checkpoint that met a short read holds less.
const HELD_WAL_WARNING: u64 = 64 << 20;

/// Where [`Upkeep::prune`] goes on in each state, since rows before it are held by other tables.
pub(super) type HeldRows = HashMap<State, Held>;

/// The last row that was passed over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    behind: (UnixMs, MessageId),
    /// What was to be removed when the first of them was met.
    before: UnixMs,
}

#[async_trait]
impl Upkeep for SqliteStore {
    async fn totals(&self, now: UnixMs) -> Result<Vec<LaneTotals>> {
        let mut totals = Totals::default();
        for statement in [PLACED_TOTALS, NEW_TOTALS, WAITING_TOTALS] {
            let query = sqlx::query(statement).bind(now.0);
            read(&self.readers, query, |cells| totals.add_pending(cells, now)).await?;
        }
        let query = sqlx::query(FINAL_TOTALS);
        read(&self.readers, query, |cells| totals.add_finished(cells)).await?;
        Ok(totals.into_lanes())
    }

    async fn last_chances_to_begin(
        &self,
        lane: &LaneId,
        fit: &LastChanceFit,
    ) -> Result<Option<UnixMs>> {
        let query = sqlx::query(UPCOMING)
            .bind(lane.account.as_str())
            .bind(corp_param(lane))
            .bind(fit.together_ms());
        let upcoming = read(&self.readers, query, |cells| {
            (UnixMs(cells.required_number("until")), cells.count("count"))
        });
        Ok(begin_with(&upcoming.await?, fit))
    }

    async fn prune(&self, before: UnixMs, state: Option<State>) -> Result<Pruned> {
        let mut held = self.held.lock().await;
        held.retain(|_, held| before < held.before + HELD_ARE_TRIED_AGAIN);
        let states = State::ALL.into_iter().filter(|state| state.is_final());
        for state in states.filter(|of| state.is_none_or(|wanted| wanted == *of)) {
            let before_it = held.get(&state).copied();
            let finished = self.finished(before, state, before_it).await?;
            let Some(last) = finished.last() else {
                continue;
            };
            let ids: Vec<MessageId> = finished.iter().map(|(_, id)| *id).collect();
            let pruned = self.remove_each(&ids).await?;
            if pruned.held > 0 {
                let held_row = Held {
                    behind: *last,
                    before: before_it.map_or(before, |held| held.before),
                };
                held.insert(state, held_row);
            }
            return Ok(pruned);
        }
        // No message is left; readers of deleted ones may be.
        self.remove_each(&[]).await
    }

    async fn forget_events(&self, before: UnixMs, lately: UnixMs, limit: usize) -> Result<u64> {
        self.forget(before, lately, limit).await
    }

    async fn maintain(&self) -> Result<Health> {
        self.wakeup.check_file()?;
        let (mut idle, mut connection) = self.writer.outside().await?;
        // PASSIVE takes what no reader holds back. The other modes wait for readers with the write lock held.
        let rows = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
            .fetch_all(&mut connection)
            .await
            .map_err(failure)?;
        // A row of (busy, frames, frames checkpointed). It is no error if another process checkpoints just now: frames
        // are -1 then.
        let (frames, done): (i64, i64) = match rows.first() {
            Some(row) => (
                row.try_get(1).map_err(failure)?,
                row.try_get(2).map_err(failure)?,
            ),
            None => (0, 0),
        };
        let wal = beside(self.writer.path(), "-wal");
        let size = || std::fs::metadata(&wal).map_or(0, |metadata| metadata.len());
        if frames == done && size() > JOURNAL_SIZE_LIMIT {
            truncate_wal(&mut connection).await?;
        }
        let mut optimized = self.optimized.lock().await;
        if optimized.is_none_or(|at| at.elapsed() >= OPTIMIZE_EVERY) {
            // It reads a bounded part of an index, and mostly finds nothing to do.
            for statement in ["PRAGMA analysis_limit = 400", "PRAGMA optimize"] {
                execute(&mut connection, sqlx::query(statement)).await?;
            }
            *optimized = Some(Instant::now());
        }
        idle.connection = Some(connection);
        drop(idle);
        let wal_bytes = size();
        let wal_held_bytes = u64::try_from(frames - done).unwrap_or(0) * PAGE_BYTES;
        let warning = (wal_held_bytes >= HELD_WAL_WARNING).then(|| {
            format!(
                "the write-ahead log has grown to {} MiB and cannot be checkpointed: a process keeps a transaction \
                 open; find it with: fuser -v {}",
                wal_bytes >> 20,
                self.writer.path().display()
            )
        });
        Ok(Health {
            wal_bytes,
            wal_held_bytes,
            warning,
        })
    }
}

/// The size of a page of a file that SQLite made without being told another one.
const PAGE_BYTES: u64 = 4096;

impl SqliteStore {
    /// The oldest messages of a state that finished before `before`, behind those that were held.
    async fn finished(
        &self,
        before: UnixMs,
        state: State,
        held: Option<Held>,
    ) -> Result<Vec<(UnixMs, MessageId)>> {
        let (at, id) = held.map_or((UnixMs(i64::MIN), MessageId(0)), |held| held.behind);
        let query = sqlx::query(FINISHED)
            .bind(before.0)
            .bind(state.as_str())
            .bind(at.0)
            .bind(id.0)
            .bind(limit_param(MESSAGES_A_STEP));
        read(&self.readers, query, |cells| {
            let id = MessageId(cells.required_number("id"));
            (UnixMs(cells.required_number("finished_at")), id)
        })
        .await
    }

    /// Removes messages, together or, where that is refused as a whole, one by one.
    async fn remove_each(&self, ids: &[MessageId]) -> Result<Pruned> {
        if let Some(pruned) = self.remove(ids).await? {
            return Ok(pruned);
        }
        // A foreign key that is looked at only at the COMMIT: it tells of no row.
        let mut sum = Pruned::default();
        for id in ids {
            match self.remove(&[*id]).await? {
                Some(pruned) => {
                    sum.messages += pruned.messages;
                    sum.readers += pruned.readers;
                    sum.held += pruned.held;
                }
                None => sum.held += 1,
            }
        }
        Ok(sum)
    }

    /// Removes messages and a part of the readers without a message. A row that another table's foreign key or trigger holds
    /// is left. `None`: something is held, and nothing was removed.
    async fn remove(&self, ids: &[MessageId]) -> Result<Option<Pruned>> {
        let mut transaction = self.writer.begin().await?;
        let connection = &mut transaction.connection;
        let mut pruned = Pruned::default();
        let mut parts = vec![ids];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let deleted = sqlx::query(DELETE)
                .bind(ids_json(part))
                .execute(&mut *connection)
                .await;
            match deleted {
                Ok(done) => pruned.messages += done.rows_affected(),
                // The statement alone is undone.
                Err(error) if is_constraint(&error) && part.len() == 1 => pruned.held += 1,
                Err(error) if is_constraint(&error) => {
                    let (one, other) = part.split_at(part.len() / 2);
                    parts.extend([one, other]);
                }
                Err(error) => return Err(failure(error)),
            }
        }
        let readers = sqlx::query(DELETE_READERS).bind(limit_param(READERS_A_STEP));
        pruned.readers = execute(&mut *connection, readers).await?;
        let orphans = sqlx::query(DELETE_ORPHANS).bind(limit_param(2 * MESSAGES_A_STEP));
        execute(&mut *connection, orphans).await?;
        fail::fail_point!("store.prune", |_| std::process::abort());
        match transaction.commit().await {
            Ok(()) => Ok(Some(pruned)),
            Err(StoreError::Other(error)) if is_constraint(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Cuts back a log that had to grow. The limit of this connection does so only where it happens to be the one that starts
/// the log anew; a feeder's connection has none. Without patience: whoever waits here holds the write lock.
async fn truncate_wal(connection: &mut SqliteConnection) -> Result<()> {
    let patience = format!("PRAGMA busy_timeout = {}", LOCK_PATIENCE.as_millis());
    for statement in [
        "PRAGMA busy_timeout = 0",
        // That a reader is in the way is no error but an answer.
        "PRAGMA wal_checkpoint(TRUNCATE)",
        &patience,
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()))
            .fetch_all(&mut *connection)
            .await
            .map_err(failure)?;
    }
    Ok(())
}
