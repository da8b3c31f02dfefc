//! Removing what is finished, and keeping the file in shape.

use std::time::Instant;

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::lock::beside;
use super::open::JOURNAL_SIZE_LIMIT;
use super::rows::Cells;
use super::{SqliteStore, count, limit_word};
use crate::receipt::{State, UnixMs};
use crate::store::{LOCK_PATIENCE, PruneBatch, Pruned, Result, WriteAheadLog};

/// The groups of final rows (lane and state) that hold a row finished before ?1, stepping from group to group through
/// the index; then rows of those, ?3 at most. ?2: a state, or NULL for all.
const PRUNE: &str = "DELETE FROM messages WHERE id IN (
    WITH RECURSIVE head(id) AS (
        SELECT (
            SELECT id FROM messages INDEXED BY messages_final WHERE state <> 'pending'
            ORDER BY account, ifnull(corp_id, ''), state LIMIT 1
        )
        UNION ALL
        SELECT coalesce(
            (
                SELECT n.id FROM messages AS n INDEXED BY messages_final
                WHERE n.state <> 'pending' AND n.account = m.account
                    AND ifnull(n.corp_id, '') = ifnull(m.corp_id, '') AND n.state > m.state
                ORDER BY n.state LIMIT 1
            ),
            (
                SELECT n.id FROM messages AS n INDEXED BY messages_final
                WHERE n.state <> 'pending' AND n.account = m.account
                    AND ifnull(n.corp_id, '') > ifnull(m.corp_id, '')
                ORDER BY ifnull(n.corp_id, ''), n.state LIMIT 1
            ),
            (
                SELECT n.id FROM messages AS n INDEXED BY messages_final
                WHERE n.state <> 'pending' AND n.account > m.account
                ORDER BY n.account, ifnull(n.corp_id, ''), n.state LIMIT 1
            )
        )
        FROM head JOIN messages AS m ON m.id = head.id
    )
    SELECT n.id FROM head CROSS JOIN messages AS m ON m.id = head.id
    CROSS JOIN messages AS n INDEXED BY messages_final
        ON n.state <> 'pending' AND n.account = m.account
        AND ifnull(n.corp_id, '') = ifnull(m.corp_id, '') AND n.state = m.state
        AND n.finished_at < ?1
    WHERE ?2 IS NULL OR m.state = ?2
    LIMIT +?3
)";

/// ?1: how many. Readers of keys without a message, which the trigger on DELETE wrote down.
const PRUNE_READERS: &str = "DELETE FROM readers WHERE id IN (
    SELECT r.id FROM orphans AS o CROSS JOIN readers AS r ON r.process_query_key = o.process_query_key
    WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
    LIMIT +?1
)";

/// Keys that have a message again, or no reader any more. ?1: how many.
const PRUNE_ORPHANS: &str = "DELETE FROM orphans WHERE process_query_key IN (
    SELECT o.process_query_key FROM orphans AS o
    WHERE EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
        OR NOT EXISTS (SELECT 1 FROM readers AS r WHERE r.process_query_key = o.process_query_key)
    LIMIT +?1
)";

/// ?1: before, ?2: a state, or NULL for all.
const PRUNABLE: &str = "SELECT count(*) FROM messages INDEXED BY messages_final
    WHERE state <> 'pending' AND finished_at < ?1 AND (?2 IS NULL OR state = ?2)";

/// As [`PRUNABLE`].
const PRUNABLE_READERS: &str = "SELECT (
        SELECT count(*) FROM messages AS m INDEXED BY messages_final
        CROSS JOIN readers AS r ON r.process_query_key = m.process_query_key
        WHERE m.state <> 'pending' AND m.finished_at < ?1 AND (?2 IS NULL OR m.state = ?2)
    ) + (
        SELECT count(*) FROM orphans AS o CROSS JOIN readers AS r ON r.process_query_key = o.process_query_key
        WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
    )";

/// Readers removed at once for each message: a group's go in several batches, each holding the lock for milliseconds.
const READERS_A_MESSAGE: usize = 8;

impl SqliteStore {
    pub(super) async fn prune_batch(
        &self,
        before: UnixMs,
        state: Option<State>,
        limit: usize,
    ) -> Result<PruneBatch> {
        let mut transaction = self.writer.begin().await?;
        let began = Instant::now();
        let connection = &mut transaction.connection;
        let messages = sqlx::query(PRUNE)
            .bind(before.0)
            .bind(state.map(State::as_str))
            .bind(limit_word(limit))
            .execute(&mut *connection)
            .await?
            .rows_affected();
        let readers = sqlx::query(PRUNE_READERS)
            .bind(limit_word(limit.saturating_mul(READERS_A_MESSAGE)))
            .execute(&mut *connection)
            .await?
            .rows_affected();
        sqlx::query(PRUNE_ORPHANS)
            .bind(limit_word(limit.saturating_mul(2)))
            .execute(&mut *connection)
            .await?;
        let work = began.elapsed();
        fail::fail_point!("store.prune", |_| std::process::abort());
        transaction.commit().await?;
        Ok(PruneBatch {
            pruned: Pruned { messages, readers },
            work,
        })
    }

    pub(super) async fn would_prune(&self, before: UnixMs, state: Option<State>) -> Result<Pruned> {
        let mut counts = [0; 2];
        for (place, statement) in counts.iter_mut().zip([PRUNABLE, PRUNABLE_READERS]) {
            let rows = sqlx::query(statement)
                .bind(before.0)
                .bind(state.map(State::as_str))
                .fetch_all(&self.readers)
                .await?;
            *place = rows
                .first()
                .map_or(0, |row| count(Cells::new(row).required_number("count")));
        }
        let [messages, readers] = counts;
        Ok(Pruned { messages, readers })
    }

    pub(super) async fn checkpoint_passively(&self) -> Result<WriteAheadLog> {
        self.wakeup.check_file()?;
        let (mut idle, mut connection) = self.writer.outside().await?;
        // PASSIVE takes what no reader holds back. The other modes wait for readers with the write lock held.
        let rows = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)")
            .fetch_all(&mut connection)
            .await?;
        // A row of (busy, frames, frames checkpointed). It is no error if another process checkpoints just now: frames
        // are -1 then.
        let (frames, done): (i64, i64) = match rows.first() {
            Some(row) => (row.try_get(1)?, row.try_get(2)?),
            None => (0, 0),
        };
        let wal = beside(self.writer.path(), "-wal");
        let size = || std::fs::metadata(&wal).map_or(0, |metadata| metadata.len());
        if frames == done && size() > JOURNAL_SIZE_LIMIT {
            cut_back(&mut connection).await?;
        }
        let page = sqlx::query("PRAGMA page_size")
            .fetch_all(&mut connection)
            .await?;
        let page: i64 = page.first().map_or(Ok(0), |row| row.try_get(0))?;
        idle.connection = Some(connection);
        drop(idle);
        Ok(WriteAheadLog {
            bytes: size(),
            held_bytes: count(frames - done) * count(page),
        })
    }

    pub(super) async fn optimize_statistics(&self) -> Result<()> {
        let (mut idle, mut connection) = self.writer.outside().await?;
        // It reads a bounded part of an index, and mostly finds nothing to do.
        sqlx::query("PRAGMA analysis_limit = 400")
            .execute(&mut connection)
            .await?;
        sqlx::query("PRAGMA optimize")
            .execute(&mut connection)
            .await?;
        idle.connection = Some(connection);
        Ok(())
    }
}

/// Cuts back a log that had to grow. The limit of this connection does so only where it happens to be the one that starts
/// the log anew; a feeder's connection has none. Without patience: whoever waits here holds the write lock.
async fn cut_back(connection: &mut SqliteConnection) -> Result<()> {
    let patience = format!("PRAGMA busy_timeout = {}", LOCK_PATIENCE.as_millis());
    for statement in [
        "PRAGMA busy_timeout = 0",
        // That a reader is in the way is no error but an answer.
        "PRAGMA wal_checkpoint(TRUNCATE)",
        &patience,
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()))
            .fetch_all(&mut *connection)
            .await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions as _, Executor as _};

    use super::super::testing;
    use super::*;

    /// Steps are sized by their work: were waiting counted, a busy neighbour would make them small, and many.
    #[tokio::test]
    async fn a_wait_for_the_lock_is_no_work() {
        let (_dir, store) = testing::store().await;
        let neighbour = SqliteConnectOptions::new().filename(store.writer.path());
        let mut neighbour = neighbour.connect().await.unwrap();
        neighbour.execute("BEGIN IMMEDIATE").await.unwrap();
        let began = Instant::now();
        let prune = async {
            let batch = store.prune_batch(UnixMs(0), None, 1).await.unwrap();
            (batch.work, began.elapsed())
        };
        let hold = async {
            tokio::time::sleep(LOCK_PATIENCE / 20).await;
            let held = began.elapsed();
            neighbour.execute("COMMIT").await.unwrap();
            held
        };
        let ((work, whole), held) = tokio::join!(prune, hold);
        assert!(work <= whole - held, "{work:?} of {whole:?}, {held:?} held");
    }
}
