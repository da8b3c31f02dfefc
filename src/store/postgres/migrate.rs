//! The schema's versions, embedded.

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _, SqlSafeStr as _};

use super::connect::{Connector, OpenError};
use super::error::failure;
use crate::store::{Migrating, StoreError};

/// Every migration: version, name, text. One that was released is never changed again: its checksum is in the databases.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "tables",
        include_str!("../../../migrations/postgres/0001_tables.sql"),
    ),
    (
        2,
        "persons",
        include_str!("../../../migrations/postgres/0002_persons.sql"),
    ),
    (
        3,
        "nodes",
        include_str!("../../../migrations/postgres/0003_nodes.sql"),
    ),
];

/// Versions that a daemon of an older one cannot work with: it is not migrated under its feet. What adds columns, tables or
/// indexes that an older daemon need not know is none of these.
const NOT_ADDITIVE: &[i64] = &[
    // Before, one daemon had all accounts and asked for no lease.
    3,
];

/// Not sqlx's own name for it: another service in the same schema may use that.
const TABLE: &str = "receiptd_migrations";

/// Names the lock that two starters wait at: "receiptd" in ASCII.
const LOCK: i64 = 0x7265_6365_6970_7464;

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|&(version, name, text)| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            text.into_sql_str(),
            false,
        )
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name(TABLE);
    // Its lock belongs to the session, and outlives an attempt that failed.
    migrator.set_locking(false);
    migrator
}

/// The newest version.
pub(super) const fn known() -> i64 {
    match MIGRATIONS {
        [.., (version, ..)] => *version,
        [] => 0,
    }
}

/// Brings the schema up to date in one transaction: of two starters one waits, then finds nothing to do.
pub(super) async fn migrate(
    connector: &Connector,
    connection: &mut PgConnection,
    migrating: &mut (dyn FnMut(Migrating<'_>) + Send),
) -> Result<(), OpenError> {
    let refused = |error| connector.failed(failure(error));
    let mut transaction = connection.begin().await.map_err(refused)?;
    // A large table takes its time.
    for statement in [
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = '60s'",
    ] {
        let set = sqlx::query(statement).execute(&mut *transaction).await;
        set.map_err(refused)?;
    }
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(refused)?;
    let applied = applied(connector, &mut transaction).await?;
    let migrator = migrator();
    for migration in migrator.iter() {
        if applied.contains(&migration.version) {
            continue;
        }
        if NOT_ADDITIVE.contains(&migration.version) {
            let older = older(&mut transaction, migration.version).await;
            let older = older.map_err(refused)?;
            if !older.is_empty() {
                return Err(connector.refused(format!(
                    "its tables cannot be brought to version {} while older receiptds serve it ({}): stop them first",
                    migration.version,
                    older.join(", ")
                )));
            }
        }
        migrating(Migrating {
            version: migration.version,
            description: &migration.description,
        });
        migrator
            .run_direct(Some(migration.version), &mut *transaction, false)
            .await
            .map_err(|error| failed(connector, error))?;
        fail::fail_point!("store.migrate", |_| std::process::abort());
    }
    if applied.len() == MIGRATIONS.len() {
        // Proves that what was applied is what we know; without the right to create anything.
        let rows =
            sqlx::query("SELECT version, checksum FROM receiptd_migrations ORDER BY version")
                .fetch_all(&mut *transaction)
                .await
                .map_err(refused)?;
        for (row, migration) in rows.iter().zip(migrator.iter()) {
            let checksum: Vec<u8> = row.try_get(1).map_err(refused)?;
            if checksum != *migration.checksum {
                let error = MigrateError::VersionMismatch(migration.version);
                return Err(failed(connector, error));
            }
        }
    }
    transaction.commit().await.map_err(refused)
}

/// $1: a version. Nodes whose programs know less.
const OLDER_NODES: &str = "SELECT name || ', version ' || version FROM nodes
    WHERE schema_version < $1 AND expires_at >= (extract(epoch FROM now()) * 1000)::BIGINT";

/// Daemons that are no nodes: of before there were any. They listen, and who only starts does not yet.
const BEFORE_NODES: &str = "SELECT 'of before version 3, on ' || coalesce(host(client_addr), 'this machine')
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'receiptd/%' AND query = 'LISTEN \"receiptd\"'";

/// The daemons of versions before `version` that serve the database now.
async fn older(connection: &mut PgConnection, version: i64) -> Result<Vec<String>, sqlx::Error> {
    let nodes: bool = sqlx::query("SELECT to_regclass('nodes') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    let rows = match nodes {
        true => {
            let query = sqlx::query(OLDER_NODES).bind(version);
            query.fetch_all(&mut *connection).await?
        }
        false => {
            sqlx::query(BEFORE_NODES)
                .fetch_all(&mut *connection)
                .await?
        }
    };
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Refuses a schema that is not today's.
pub(super) async fn check(
    connector: &Connector,
    connection: &mut PgConnection,
) -> Result<(), OpenError> {
    let applied = applied(connector, connection).await?;
    if MIGRATIONS
        .iter()
        .all(|(version, ..)| applied.contains(version))
    {
        Ok(())
    } else {
        Err(OpenError::Outdated(connector.database.clone()))
    }
}

/// The versions in the schema, none of them newer than we are.
async fn applied(
    connector: &Connector,
    connection: &mut PgConnection,
) -> Result<Vec<i64>, OpenError> {
    let refused = |error| connector.failed(failure(error));
    let table = sqlx::query("SELECT to_regclass($1) IS NOT NULL")
        .bind(TABLE)
        .fetch_one(&mut *connection)
        .await
        .map_err(refused)?;
    if !table.try_get::<bool, _>(0).map_err(refused)? {
        return Ok(Vec::new());
    }
    let rows = sqlx::query("SELECT version FROM receiptd_migrations ORDER BY version")
        .fetch_all(connection)
        .await
        .map_err(refused)?;
    let versions: Vec<i64> = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()
        .map_err(refused)?;
    match versions.last() {
        Some(&found) if found > known() => Err(OpenError::Newer {
            database: connector.database.clone(),
            found,
            known: known(),
        }),
        _ => Ok(versions),
    }
}

/// A migration's error; what passes by itself keeps its name.
fn failed(connector: &Connector, error: MigrateError) -> OpenError {
    let database = connector.database.clone();
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match failure(error) {
                error @ (StoreError::Busy | StoreError::Full | StoreError::Unavailable(_)) => {
                    OpenError::Store { database, error }
                }
                error => OpenError::Migration {
                    database,
                    error: error.with_source(),
                },
            }
        }
        error => OpenError::Migration {
            database,
            error: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn versions_ascend_and_every_file_is_embedded() {
        assert!(MIGRATIONS.is_sorted_by(|a, b| a.0 < b.0));
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/postgres");
        let files = std::fs::read_dir(dir).unwrap().flatten();
        let migrations = files.filter(|file| file.path().extension().is_some_and(|of| of == "sql"));
        assert_eq!(migrations.count(), MIGRATIONS.len());
    }

    /// PostgreSQL cuts a longer name off, and a feeder would read half a sentence.
    #[test]
    fn a_constraint_s_name_fits() {
        for (version, _, text) in MIGRATIONS {
            let mut words = text.split_whitespace();
            while let Some(word) = words.next() {
                if word == "CONSTRAINT" {
                    let name = words.next().unwrap_or_default();
                    assert!(name.len() <= 63, "migration {version}: {name}");
                }
            }
        }
    }
}
