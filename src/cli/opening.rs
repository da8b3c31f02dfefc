//! Opening the database to serve it: whoever holds it, or fills the disk, is waited for.

use std::time::Duration;

use super::common;
use super::notify::Opening;
use crate::settings::Database;
use crate::store::{self, Role, SharedStore};

/// Between attempts, each of which waits for a lock itself.
const AGAIN: Duration = Duration::from_millis(500);

/// Opens `database` and brings its schema up to date. A lock of another process and a full disk pass by themselves, so
/// they end nothing. Dropped half way, a migration is rolled back.
pub(super) async fn open(
    database: &Database,
    opening: &mut Opening,
) -> anyhow::Result<SharedStore> {
    let mut waits = false;
    loop {
        let opened = store::open(database, Role::Owner, &mut |step| {
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
            Err(error) if error.passes() => {
                if !waits {
                    waits = true;
                    tracing::warn!(
                        database.path = %database,
                        error = %error,
                        "{error}: receiptd waits for it"
                    );
                    let line = format!("{error}: receiptd waits for it");
                    opening.takes_long(&line);
                }
                tokio::time::sleep(AGAIN).await;
            }
            Ok(store) => return Ok(store),
            Err(error) => return Err(common::not_opened(database, Role::Owner, error)),
        }
    }
}
