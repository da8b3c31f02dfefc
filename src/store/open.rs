//! Opening a database, whichever it is.

use std::sync::Arc;

use super::postgres::{self, PostgresStore};
use super::sqlite::{self, SqliteStore};
use super::{SharedStore, StoreError};
use crate::settings::Database;

/// What a database is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The daemon, `migrate`, `demo`: creates a file where there is none and brings the schema up to date.
    Owner,
    /// A command that writes, beside a daemon or without one: the tables must exist, as they are today.
    Writer,
    /// A command that reads: as `Writer`, and nothing can be written.
    Reader,
}

/// A change of the schema that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Migrating<'a> {
    /// The version it leads to.
    pub version: i64,
    /// What it does.
    pub description: &'a str,
}

/// Why a database cannot be opened. Each text names the database and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A SQLite file.
    #[error(transparent)]
    Sqlite(#[from] sqlite::OpenError),
    /// A PostgreSQL database.
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
}

impl OpenError {
    /// Whether waiting may mend it.
    pub fn passes(&self) -> bool {
        match self {
            Self::Sqlite(sqlite::OpenError::Store { error, .. }) => {
                matches!(error, StoreError::Busy | StoreError::Full)
            }
            Self::Postgres(postgres::OpenError::Store { error, .. }) => error.is_transient(),
            _ => false,
        }
    }
}

/// Opens the configured database; `migrating` hears of every change of the schema before it is made.
pub async fn open(
    database: &Database,
    role: Role,
    migrating: &mut (dyn FnMut(Migrating<'_>) + Send),
) -> Result<SharedStore, OpenError> {
    Ok(match database {
        Database::Sqlite(file) => {
            Arc::new(SqliteStore::open_reporting(file, role, migrating).await?)
        }
        Database::Postgres(url) => Arc::new(PostgresStore::open(url, role, migrating).await?),
    })
}

/// The version of the schema that this receiptd knows.
pub fn schema_version(database: &Database) -> i64 {
    match database {
        Database::Sqlite(_) => SqliteStore::SCHEMA_VERSION,
        Database::Postgres(_) => PostgresStore::SCHEMA_VERSION,
    }
}
