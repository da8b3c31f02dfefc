//! The one connection that writes.

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::error::failure;
use super::open::Connector;
use crate::store::{Result, StoreError};

/// Hands out IMMEDIATE transactions, one at a time.
///
/// The connection is *taken* for a transaction and comes back only after its COMMIT succeeded. Whatever else happens
/// (an error, a future that was dropped half way), the connection is closed, which rolls back, and the next
/// transaction opens another: after a failure inside a transaction SQLite and sqlx may disagree on whether one is
/// open, and such a connection would refuse every later statement.
///
/// After a transaction the lock is left to feeders for as long as it was held: who waits for it looks now and then, and
/// would starve beside a writer that takes it again at once, the more so the slower the machine.
#[derive(Debug)]
pub(super) struct Writer {
    connector: Connector,
    idle: Mutex<Idle>,
}

/// The connection between two transactions.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) connection: Option<SqliteConnection>,
    rests_until: Instant,
}

/// Left to others at least.
const SHORTEST_REST: Duration = Duration::from_millis(5);
/// Left to others at most: who waits with SQLite's busy time-out looks every 100 ms, or more often.
const LONGEST_REST: Duration = Duration::from_millis(150);

impl Writer {
    /// Starts with `first`, or with none.
    pub(super) fn new(connector: Connector, first: Option<SqliteConnection>) -> Self {
        Self {
            connector,
            idle: Mutex::new(Idle {
                connection: first,
                rests_until: Instant::now(),
            }),
        }
    }

    /// Waits for its turn and for foreign locks, the latter no longer than [`crate::store::LOCK_PATIENCE`].
    pub(super) async fn begin(&self) -> Result<Transaction<'_>> {
        let mut idle = self.idle.lock().await;
        tokio::time::sleep_until(idle.rests_until).await;
        let mut connection = match idle.connection.take() {
            Some(connection) => connection,
            None => self.connector.connect().await?,
        };
        // Deferred, it would fail at its first write whenever another process committed in between. By a
        // statement and not by sqlx's `begin_with`, whose book-keeping is what goes wrong after a failure.
        match sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await
        {
            Ok(_) => Ok(Transaction {
                idle,
                connection,
                began: Instant::now(),
            }),
            Err(error) => {
                let error = failure(error);
                if matches!(error, StoreError::Busy) {
                    idle.connection = Some(connection);
                }
                Err(error)
            }
        }
    }

    /// The idle connection, for statements that belong into no transaction. It goes back with
    /// [`Transaction`]'s rule: only if all went well.
    pub(super) async fn outside(&self) -> Result<(MutexGuard<'_, Idle>, SqliteConnection)> {
        let mut idle = self.idle.lock().await;
        let connection = match idle.connection.take() {
            Some(connection) => connection,
            None => self.connector.connect().await?,
        };
        Ok((idle, connection))
    }

    /// The database file.
    pub(super) fn path(&self) -> &std::path::Path {
        self.connector.path()
    }

    /// Closes the connection.
    pub(super) async fn close(&self) {
        use sqlx::Connection as _;
        if let Some(connection) = self.idle.lock().await.connection.take() {
            // Nothing is open on it, so nothing can be lost: an error here is of no use to anybody.
            let _ = connection.close().await;
        }
    }
}

/// An open IMMEDIATE transaction; rolled back when dropped.
pub(super) struct Transaction<'w> {
    idle: MutexGuard<'w, Idle>,
    /// To run statements on.
    pub(super) connection: SqliteConnection,
    began: Instant,
}

impl Transaction<'_> {
    /// Commits. After an error the outcome is unknown: a failed fsync may be read back as a commit after a crash.
    pub(super) async fn commit(mut self) -> Result<()> {
        let committed = sqlx::query("COMMIT").execute(&mut self.connection).await;
        let held = self.began.elapsed();
        self.idle.rests_until = Instant::now() + held.clamp(SHORTEST_REST, LONGEST_REST);
        committed.map_err(failure)?;
        self.idle.connection = Some(self.connection);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::store::Commands as _;

    /// After one SQLITE_FULL inside a transaction the connection was wedged: every later transaction failed.
    #[tokio::test]
    async fn a_full_disk_passes() {
        let (_dir, store) = testing::store().await;
        let mut transaction = store.writer.begin().await.unwrap();
        sqlx::query("PRAGMA max_page_count = 40")
            .execute(&mut transaction.connection)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
        let new: Vec<_> = (0..5000)
            .map(|number| testing::new(&format!("key-{number}")))
            .collect();
        let error = store.add(&new).await.unwrap_err();
        assert!(matches!(error, StoreError::Full), "{error:?}");
        // The bound went with the connection: there is room again.
        assert_eq!(store.add(&new).await.unwrap(), 5000);
        assert_eq!(store.add(&new).await.unwrap(), 0);
    }

    /// A COMMIT that fails may leave its transaction open: the connection kept would hold the lock until the next one, and
    /// refuse that.
    #[tokio::test]
    async fn a_failed_commit_leaves_nothing_open() {
        let (_dir, store) = testing::store().await;
        let mut transaction = store.writer.begin().await.unwrap();
        for statement in [
            "CREATE TABLE parents (id INTEGER PRIMARY KEY)",
            "CREATE TABLE children (parent INTEGER REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
        ] {
            sqlx::query(statement)
                .execute(&mut transaction.connection)
                .await
                .unwrap();
        }
        transaction.commit().await.unwrap();
        let mut transaction = store.writer.begin().await.unwrap();
        sqlx::query("INSERT INTO children VALUES (1)")
            .execute(&mut transaction.connection)
            .await
            .unwrap();
        let error = transaction.commit().await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
        assert_eq!(store.add(&[testing::new("after")]).await.unwrap(), 1);
    }

    /// A neighbour that looks for the lock now and then gets it, though the daemon always wants it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_busy_writer_starves_nobody() {
        let (_dir, store) = testing::store().await;
        let store = std::sync::Arc::new(store);
        let connector = store.writer.connector.clone();
        let mut neighbour = connector.connect().await.unwrap();
        sqlx::query("PRAGMA busy_timeout = 0")
            .execute(&mut neighbour)
            .await
            .unwrap();
        let busy = tokio::spawn(async move {
            loop {
                let transaction = store.writer.begin().await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
                transaction.commit().await.unwrap();
            }
        });
        let (mut got, began) = (0, Instant::now());
        while got < 100 {
            assert!(began.elapsed() < Duration::from_secs(30), "{got} of 100");
            let inserted = sqlx::query("INSERT INTO messages (process_query_key) VALUES (?1)")
                .bind(got.to_string())
                .execute(&mut neighbour)
                .await;
            got += i32::from(inserted.is_ok());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        busy.abort();
    }

    /// A future dropped half way must not leave its transaction open for the next one.
    #[tokio::test]
    async fn a_dropped_transaction_is_rolled_back() {
        let (_dir, store) = testing::store().await;
        let mut transaction = store.writer.begin().await.unwrap();
        sqlx::query("INSERT INTO messages (process_query_key) VALUES ('lost')")
            .execute(&mut transaction.connection)
            .await
            .unwrap();
        drop(transaction);
        assert_eq!(store.add(&[testing::new("kept")]).await.unwrap(), 1);
        assert_eq!(store.message(&"lost".into()).await.unwrap(), None);
    }
}
