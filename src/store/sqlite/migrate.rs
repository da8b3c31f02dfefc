//! The schema's versions, embedded.

use std::collections::HashMap;
use std::path::Path;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqlSafeStr as _};

use super::error::failure;
use super::open::OpenError;
use crate::store::{Migrating, StoreError};

/// Every migration: version, name, text. None is ever changed again: its checksum is in the files.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "tables",
        include_str!("../../../migrations/sqlite/0001_tables.sql"),
    ),
    (
        2,
        "lanes",
        include_str!("../../../migrations/sqlite/0002_lanes.sql"),
    ),
    (
        3,
        "persons",
        include_str!("../../../migrations/sqlite/0003_persons.sql"),
    ),
];

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
    Migrator::with_migrations(migrations.collect())
}

/// The newest version.
pub(super) const fn known() -> i64 {
    match MIGRATIONS {
        [.., (version, ..)] => *version,
        [] => 0,
    }
}

/// Brings the schema up to date in one IMMEDIATE transaction: of two starters one waits, then finds nothing to do.
pub(super) async fn migrate(
    path: &Path,
    connection: &mut SqliteConnection,
    migrating: &mut (dyn FnMut(Migrating<'_>) + Send),
) -> Result<(), OpenError> {
    let refused = |error: StoreError| OpenError::Store {
        path: path.to_owned(),
        error,
    };
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(|error| refused(failure(error)))?;
    let applied = applied(path, &mut transaction).await?;
    let migrator = migrator();
    for migration in migrator.iter() {
        if applied.contains(&migration.version) {
            continue;
        }
        migrating(Migrating {
            version: migration.version,
            description: &migration.description,
        });
        migrator
            .run_direct(Some(migration.version), &mut *transaction, false)
            .await
            .map_err(|source| failed(path, source))?;
        fail::fail_point!("store.migrate", |_| std::process::abort());
    }
    // Also where nothing is pending: proves that what was applied is what we know.
    migrator
        .run_direct(None, &mut *transaction, false)
        .await
        .map_err(|source| failed(path, source))?;
    mend(path, &mut transaction, migrating).await?;
    transaction
        .commit()
        .await
        .map_err(|error| refused(failure(error)))
}

/// Makes indexes and triggers that were lost or changed as the migrations made them.
async fn mend(
    path: &Path,
    connection: &mut SqliteConnection,
    migrating: &mut (dyn FnMut(Migrating<'_>) + Send),
) -> Result<(), OpenError> {
    let refused = |error: sqlx::Error| OpenError::Store {
        path: path.to_owned(),
        error: failure(error),
    };
    let lost = lost(connection).await.map_err(refused)?;
    if let Some(Lost { name, .. }) = lost.iter().find(|lost| lost.remade.is_none()) {
        return Err(OpenError::Incomplete {
            path: path.to_owned(),
            missing: name.clone(),
        });
    }
    for Lost {
        name,
        there,
        remade,
    } in lost
    {
        migrating(Migrating {
            version: known(),
            description: &name,
        });
        let drop = there.then(|| format!("DROP {name}"));
        for statement in drop.into_iter().chain(remade) {
            // Names and texts of our own migrations.
            sqlx::query(sqlx::AssertSqlSafe(statement))
                .execute(&mut *connection)
                .await
                .map_err(refused)?;
        }
    }
    // It does not survive a dump.
    sqlx::query("PRAGMA application_id = 1919119476")
        .execute(connection)
        .await
        .map_err(refused)?;
    Ok(())
}

/// Something that the migrations made and the file does not have, or not so.
struct Lost {
    /// Such as `index messages_due`.
    name: String,
    /// It is there, but another one.
    there: bool,
    /// The statement that makes it anew; `None` for a table or a column.
    remade: Option<String>,
}

/// What the file lacks of today's schema, found by comparing it with one that was just made.
async fn lost(connection: &mut SqliteConnection) -> Result<Vec<Lost>, sqlx::Error> {
    /// Columns, and what has a text of its own.
    const SCHEMA: &str = "SELECT 'column ' || m.name || '.' || c.name, NULL
        FROM sqlite_master AS m CROSS JOIN pragma_table_info(m.name) AS c
        WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' AND m.name <> '_sqlx_migrations'
        UNION ALL
        SELECT type || ' ' || name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL";
    type Named = (String, Option<String>);
    let memory = SqliteConnectOptions::new().in_memory(true);
    let mut model = memory.disable_statement_logging().connect().await?;
    migrator()
        .run_direct(None, &mut model, false)
        .await
        .map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
    let wanted: Vec<Named> = sqlx::query_as(SCHEMA).fetch_all(&mut model).await?;
    let found: Vec<Named> = sqlx::query_as(SCHEMA).fetch_all(connection).await?;
    let found: HashMap<String, Option<String>> = found.into_iter().collect();
    let words = |sql: &Option<String>| {
        let text = sql.as_deref().unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    Ok(wanted
        .into_iter()
        .filter_map(|(name, sql)| {
            let there = found.get(&name);
            let same = there.is_some_and(|found| words(found) == words(&sql));
            (!same).then(|| Lost {
                there: there.is_some(),
                name,
                remade: sql,
            })
        })
        .collect())
}

/// Refuses a schema that is not today's, or not whole.
pub(super) async fn check(path: &Path, connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let applied = applied(path, connection).await?;
    if MIGRATIONS
        .iter()
        .any(|(version, ..)| !applied.contains(version))
    {
        return Err(OpenError::Outdated(path.to_owned()));
    }
    let lost = lost(connection).await.map_err(|error| OpenError::Store {
        path: path.to_owned(),
        error: failure(error),
    })?;
    if lost.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = lost.into_iter().map(|lost| lost.name).collect();
    Err(OpenError::Incomplete {
        path: path.to_owned(),
        missing: names.join(", "),
    })
}

/// The versions in the file, none of them newer than we are.
async fn applied(path: &Path, connection: &mut SqliteConnection) -> Result<Vec<i64>, OpenError> {
    let refused = |error: sqlx::Error| OpenError::Store {
        path: path.to_owned(),
        error: failure(error),
    };
    let table = sqlx::query("SELECT 1 FROM sqlite_master WHERE name = '_sqlx_migrations'")
        .fetch_all(&mut *connection)
        .await
        .map_err(refused)?;
    if table.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query("SELECT version FROM _sqlx_migrations ORDER BY version")
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
            path: path.to_owned(),
            found,
            known: known(),
        }),
        _ => Ok(versions),
    }
}

/// A migration's error; a lock or a full disk keep their names, since they pass.
fn failed(path: &Path, error: MigrateError) -> OpenError {
    let path = path.to_owned();
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            match failure(error) {
                error @ (StoreError::Busy | StoreError::Full) => OpenError::Store { path, error },
                error => OpenError::Migration {
                    path,
                    error: error.with_source(),
                },
            }
        }
        error => OpenError::Migration {
            path,
            error: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_ascend_and_every_file_is_embedded() {
        assert!(MIGRATIONS.is_sorted_by(|a, b| a.0 < b.0));
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/sqlite");
        assert_eq!(std::fs::read_dir(dir).unwrap().count(), MIGRATIONS.len());
        assert_eq!(known(), 3);
    }

    /// Whoever opens waits for room, and must hear that there is none.
    #[tokio::test]
    async fn a_disk_that_is_full_within_a_migration_is_called_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receiptd.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .pragma("max_page_count", "5");
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let error = migrate(&path, &mut connection, &mut |_| ())
            .await
            .unwrap_err();
        let full = matches!(
            error,
            OpenError::Store {
                error: StoreError::Full,
                ..
            }
        );
        assert!(full, "{error}");
    }

    /// Feeders open the file with whatever SQLite they have: see the head of the first migration.
    #[test]
    fn the_schema_needs_nothing_newer_than_sqlite_3_24() {
        for (version, _, text) in MIGRATIONS {
            let code: String = text
                .lines()
                .map(|line| line.split("--").next().unwrap_or_default())
                .collect::<Vec<_>>()
                .join("\n")
                .to_lowercase();
            let newer = [
                "strict",
                "generated",
                "unixepoch",
                "octet_length",
                "returning",
                "iif(",
                "->",
                "nulls first",
                "nulls last",
                "subsec",
                "materialized",
                "update from",
                "drop column",
                "concat(",
                "unhex(",
                "if(",
                "json",
                "true",
                "false",
                "over (",
                "filter (",
            ];
            for word in newer {
                assert!(!code.contains(word), "migration {version} uses {word}");
            }
        }
    }
}
