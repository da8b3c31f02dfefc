//! The one connection that writes.

use sqlx::sqlite::SqliteConnection;
use tokio::sync::{Mutex, MutexGuard};

use super::open::Connector;
use crate::store::{Result, StoreError};

/// Hands out IMMEDIATE transactions, one at a time.
///
/// The connection is *taken* for a transaction and comes back only after its COMMIT succeeded. Whatever else happens
/// (an error, a future that was dropped half way), the connection is closed, which rolls back, and the next
/// transaction opens another: after a failure inside a transaction SQLite and sqlx may disagree on whether one is
/// open, and such a connection would refuse every later statement.
#[derive(Debug)]
pub(super) struct Writer {
    connector: Connector,
    idle: Mutex<Option<SqliteConnection>>,
}

impl Writer {
    /// Starts with `first`, or with none.
    pub(super) fn new(connector: Connector, first: Option<SqliteConnection>) -> Self {
        Self {
            connector,
            idle: Mutex::new(first),
        }
    }

    /// Waits for its turn and for foreign locks, the latter no longer than [`crate::store::LOCK_PATIENCE`].
    pub(super) async fn begin(&self) -> Result<Transaction<'_>> {
        let mut idle = self.idle.lock().await;
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => self.connector.connect().await?,
        };
        // Deferred, it would fail at its first write whenever another process committed in between. In so many words
        // and not by sqlx's `begin_with`, whose book-keeping is what goes wrong after a failure.
        match sqlx::query("BEGIN IMMEDIATE")
            .execute(&mut connection)
            .await
        {
            Ok(_) => Ok(Transaction { idle, connection }),
            Err(error) => {
                let error = StoreError::from(error);
                if matches!(error, StoreError::Busy) {
                    *idle = Some(connection);
                }
                Err(error)
            }
        }
    }

    /// The idle connection, for statements that belong into no transaction. It goes back with
    /// [`Transaction`]'s rule: only if all went well.
    pub(super) async fn outside(
        &self,
    ) -> Result<(MutexGuard<'_, Option<SqliteConnection>>, SqliteConnection)> {
        let mut idle = self.idle.lock().await;
        let connection = match idle.take() {
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
        if let Some(connection) = self.idle.lock().await.take() {
            // Nothing is open on it, so nothing can be lost: an error here is of no use to anybody.
            let _ = connection.close().await;
        }
    }
}

/// An open IMMEDIATE transaction; rolled back when dropped.
pub(super) struct Transaction<'w> {
    idle: MutexGuard<'w, Option<SqliteConnection>>,
    /// To run statements on.
    pub(super) connection: SqliteConnection,
}

impl Transaction<'_> {
    /// Commits. After an error the outcome is unknown: a failed fsync may be read back as a commit after a crash.
    pub(super) async fn commit(mut self) -> Result<()> {
        sqlx::query("COMMIT").execute(&mut self.connection).await?;
        *self.idle = Some(self.connection);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use crate::store::{Store as _, StoreError};

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
