//! Connections that are taken for a statement or a transaction, and given back only if all went well.
//!
//! sqlx's pool is not used: a `begin` of it that is dropped half way may hand an open transaction to the next borrower, and
//! its `commit` calls a ROLLBACK a success. Here every wait is bounded, and a connection on which anything failed, or
//! whose user was dropped in the middle, is closed, which rolls back.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::connect::{Connector, Purpose};
use super::error::{failure, no_answer};
use crate::store::{LOCK_PATIENCE, Result, StoreError};

/// A statement with what is bound to it.
pub(super) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// At most so many connections for one purpose.
#[derive(Debug)]
pub(super) struct Sessions {
    connector: Connector,
    purpose: Purpose,
    /// How long an answer is waited for.
    patience: Duration,
    places: Semaphore,
    /// Each with how often the server had been lost when it was opened.
    idle: Mutex<Vec<(u64, PgConnection)>>,
    losses: Losses,
}

/// How often the server was lost: what was opened before is closed and not tried, whatever it was for.
pub(super) type Losses = Arc<AtomicU64>;

impl Sessions {
    pub(super) fn new(
        connector: Connector,
        purpose: Purpose,
        patience: Duration,
        places: usize,
        losses: &Losses,
    ) -> Self {
        Self {
            connector,
            purpose,
            patience,
            places: Semaphore::new(places),
            idle: Mutex::new(Vec::new()),
            losses: Arc::clone(losses),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(u64, PgConnection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn, no longer than for a lock.
    pub(super) async fn take(&self) -> Result<Session<'_>> {
        let place = tokio::time::timeout(LOCK_PATIENCE, self.places.acquire()).await;
        let place = match place {
            Ok(Ok(place)) => place,
            Ok(Err(_)) => return Err(StoreError::Other(sqlx::Error::PoolClosed)),
            Err(_) => return Err(StoreError::Busy),
        };
        let losses = self.losses.load(Ordering::Acquire);
        let idle = {
            let mut idle = self.idle();
            idle.retain(|(opened_after, _)| *opened_after == losses);
            idle.pop()
        };
        let connection = match idle {
            Some((_, connection)) => connection,
            None => self.connector.reconnect(self.purpose).await?,
        };
        Ok(Session {
            home: self,
            connection: Some(connection),
            opened_after: losses,
            sound: true,
            _place: place,
        })
    }

    /// The rows of one statement.
    pub(super) async fn fetch(&self, query: Query<'_>) -> Result<Vec<PgRow>> {
        self.take().await?.fetch(query).await
    }

    /// One statement in a transaction of its own; how many rows it wrote.
    pub(super) async fn execute(&self, query: Query<'_>) -> Result<u64> {
        self.take().await?.execute(query).await
    }

    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Transaction<'_>> {
        let mut session = self.take().await?;
        session.control("BEGIN").await?;
        session.sound = false;
        Ok(Transaction { session })
    }

    /// Closes what is idle, and hands out no more.
    pub(super) async fn close(&self) {
        use sqlx::Connection as _;
        self.places.close();
        let idle = std::mem::take(&mut *self.idle());
        for (_, connection) in idle {
            // Nothing is open on it: an error, or silence, is of no use to anybody.
            let _ = tokio::time::timeout(LOCK_PATIENCE, connection.close()).await;
        }
    }
}

/// A connection in use; given back when dropped, if it is sound.
pub(super) struct Session<'s> {
    home: &'s Sessions,
    /// `Some` until it is dropped or broken.
    connection: Option<PgConnection>,
    opened_after: u64,
    sound: bool,
    _place: SemaphorePermit<'s>,
}

impl Session<'_> {
    pub(super) async fn fetch(&mut self, query: Query<'_>) -> Result<Vec<PgRow>> {
        let mut connection = self.out()?;
        let rows = bounded(self.home.patience, query.fetch_all(&mut connection)).await;
        self.keep(connection, rows)
    }

    pub(super) async fn execute(&mut self, query: Query<'_>) -> Result<u64> {
        let mut connection = self.out()?;
        let done = bounded(self.home.patience, query.execute(&mut connection)).await;
        self.keep(connection, done.map(|done| done.rows_affected()))
    }

    /// A statement without parameters and rows, sent at once.
    async fn control(&mut self, statement: &'static str) -> Result<()> {
        let mut connection = self.out()?;
        let query = sqlx::raw_sql(statement).execute(&mut connection);
        let done = bounded(self.home.patience, query).await;
        self.keep(connection, done.map(|_| ()))
    }

    /// The connection is out of reach while a statement runs, so that whatever ends this but success closes it.
    fn out(&mut self) -> Result<PgConnection> {
        let connection = self.connection.take();
        connection.ok_or_else(|| StoreError::Other(sqlx::Error::PoolClosed))
    }

    fn keep<T>(&mut self, connection: PgConnection, done: Result<T>) -> Result<T> {
        match &done {
            Ok(_) => self.connection = Some(connection),
            // A server that went away took the others with it.
            Err(StoreError::Unavailable(_)) => {
                self.home.losses.fetch_add(1, Ordering::AcqRel);
            }
            Err(_) => {}
        }
        done
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let (Some(connection), true) = (self.connection.take(), self.sound)
            && !self.home.places.is_closed()
        {
            self.home.idle().push((self.opened_after, connection));
        }
    }
}

/// An open transaction. Dropped without a commit, or after any error in it, its connection is closed.
pub(super) struct Transaction<'s> {
    session: Session<'s>,
}

impl Transaction<'_> {
    pub(super) async fn fetch(&mut self, query: Query<'_>) -> Result<Vec<PgRow>> {
        self.session.fetch(query).await
    }

    pub(super) async fn execute(&mut self, query: Query<'_>) -> Result<u64> {
        self.session.execute(query).await
    }

    /// Commits. After an error the outcome is unknown. A transaction in which a statement failed has no connection any more
    /// and cannot come here: the server would answer such a COMMIT with ROLLBACK, which is no error.
    pub(super) async fn commit(mut self) -> Result<()> {
        self.session.control("COMMIT").await?;
        self.session.sound = true;
        Ok(())
    }
}

/// Ends a future that takes longer than `patience`.
async fn bounded<T>(
    patience: Duration,
    future: impl Future<Output = std::result::Result<T, sqlx::Error>>,
) -> Result<T> {
    match tokio::time::timeout(patience, future).await {
        Ok(done) => done.map_err(failure),
        Err(_) => Err(no_answer(patience)),
    }
}
