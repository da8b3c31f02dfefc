//! Opening the database to serve it: whoever holds it, or fills the disk, is waited for.

use std::time::Duration;

use super::common;
use super::notify::Opening;
use crate::settings::Database;
use crate::store::StoreError;
use crate::store::sqlite::{OpenError, Role, SqliteStore};

/// Between attempts, each of which waits for a lock itself.
const AGAIN: Duration = Duration::from_millis(500);

/// Opens `database` and brings its schema up to date. A lock of another process and a full disk pass by themselves, so
/// they end nothing. Dropped half way, a migration is rolled back.
pub(super) async fn open(
    database: &Database,
    opening: &mut Opening,
) -> anyhow::Result<SqliteStore> {
    let mut waits = false;
    loop {
        let opened = SqliteStore::open_reporting(database, Role::Owner, &mut |step| {
            let (version, does) = (step.version, step.description);
            tracing::info!(
                schema.version = version,
                "database: bringing the schema to version {version}: {does}"
            );
            opening.takes_long(&format!(
                "database: bringing the schema to version {version}: {does}"
            ));
        })
        .await;
        match opened {
            Err(OpenError::Store {
                path,
                error: error @ (StoreError::Busy | StoreError::Full),
            }) => {
                if !waits {
                    waits = true;
                    tracing::warn!(
                        database.path = %path.display(),
                        error = %error,
                        "{}: {error}: receiptd waits for it",
                        path.display()
                    );
                    let line = format!("{}: {error}: receiptd waits for it", path.display());
                    opening.takes_long(&line);
                }
                tokio::time::sleep(AGAIN).await;
            }
            Ok(store) => return Ok(store),
            Err(error) => return Err(common::not_opened(&database.path, Role::Owner, error)),
        }
    }
}
