//! Rows that are no messages, since a feeder went round the checks: quarantined, so that they stop nobody.

use sqlx::sqlite::SqliteConnection;

use super::rows::{Query, read};
use super::{SqliteStore, execute, json};
use crate::receipt::{Message, UnixMs};
use crate::store::Result;
use crate::store::cells::Unreadable;

/// ?1: rows as `[id, column]`, ?2: now, or NULL for SQLite's.
const QUARANTINE: &str = "UPDATE messages
    SET state = 'failed', last_error = 'row.invalid: ' || new.invalid,
        last_error_at = ifnull(?2, CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
        finished_at = ifnull(?2, CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER))
    FROM (SELECT value ->> 0 AS id, value ->> 1 AS invalid FROM jsonb_each(?1)) AS new
    WHERE messages.id = new.id AND +messages.state = 'pending'";

impl SqliteStore {
    /// The rows that are messages, and how many were found; the others are quarantined.
    pub(super) async fn messages(
        &self,
        query: Query<'_>,
        now: Option<UnixMs>,
    ) -> Result<(Vec<Message>, usize)> {
        let mut bad = Unreadable::new();
        let rows = read(&self.readers, query, |cells| cells.message_or_bad(&mut bad)).await?;
        let found = rows.len();
        self.quarantine(&bad, now).await?;
        Ok((rows.into_iter().flatten().collect(), found))
    }

    pub(super) async fn quarantine(&self, bad: &Unreadable, now: Option<UnixMs>) -> Result<()> {
        if bad.is_empty() {
            return Ok(());
        }
        let mut transaction = self.writer.begin().await?;
        quarantine(&mut transaction.connection, bad, now).await?;
        transaction.commit().await
    }
}

/// Ends rows that are no messages, within a transaction.
pub(super) async fn quarantine(
    connection: &mut SqliteConnection,
    bad: &Unreadable,
    now: Option<UnixMs>,
) -> Result<()> {
    let bad: Vec<_> = bad.iter().map(|(id, column)| (id.0, column)).collect();
    let query = sqlx::query(QUARANTINE)
        .bind(json(&bad)?)
        .bind(now.map(|now| now.0));
    execute(connection, query).await?;
    Ok(())
}
