//! Opening the file: whose it is, and in which mode.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sqlx::sqlite::{Sqlite, SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::Mutex;

use super::error::failure;
use super::lock::open_for_all;
use super::migrate;
use super::wakeup::{FileId, Wakeup};
use super::writer::Writer;
use super::{APPLICATION_ID, SqliteStore};
use crate::settings::{SqliteFile, Synchronous};
use crate::store::{LOCK_PATIENCE, Migrating, Role, StoreError};

/// Why the database can't be used. Each text names the file and what to do, and tells the causes too: they are no `source`
/// that would be told again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing there.
    #[error("{}: there is no database yet: `receiptd run` or `receiptd migrate` creates it", .0.display())]
    Missing(PathBuf),
    /// The file could not be created or looked at.
    #[error("{}: the database file can't be opened or created: {error}", path.display())]
    File {
        /// The database.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another program's database.
    #[error("{}: this is another program's database ({found}): choose another file in [database] url", path.display())]
    Foreign {
        /// The database.
        path: PathBuf,
        /// What gives it away.
        found: String,
    },
    /// Written by a later receiptd.
    #[error(
        "{}: its schema has version {found}, this receiptd knows versions up to {known}: install the receiptd that wrote it, or a later one",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Written by an earlier receiptd, and this role does not migrate.
    #[error("{}: its schema is of an earlier receiptd: `receiptd migrate` brings it up to date", .0.display())]
    Outdated(PathBuf),
    /// Something that the statements or the contract need is not there: the schema was rebuilt by another tool, or restored
    /// in part.
    #[error(
        "{}: its schema lacks {missing}: `receiptd migrate` makes missing indexes and triggers anew; a table or column that \
         is missing has to come from a backup",
        path.display()
    )]
    Incomplete {
        /// The database.
        path: PathBuf,
        /// What is missing, by name.
        missing: String,
    },
    /// The file is not in the mode in which daemon and feeders can use it side by side.
    #[error(
        "{}: its journal_mode is {found}, not wal: `receiptd migrate` sets it (a restored file has lost it), unless another \
         process holds the file in that mode, or its file system has no shared memory for a write-ahead log (a network \
         share)",
        path.display()
    )]
    JournalMode {
        /// The database.
        path: PathBuf,
        /// What it is.
        found: String,
    },
    /// A migration failed, and was rolled back.
    #[error("{}: the schema could not be brought up to date, nothing was changed: {error}", path.display())]
    Migration {
        /// The database.
        path: PathBuf,
        /// Why.
        error: String,
    },
    /// SQLite refused.
    #[error("{}: {}", path.display(), error.with_source())]
    Store {
        /// The database.
        path: PathBuf,
        /// Why.
        error: StoreError,
    },
}

/// The WAL is cut back to this many bytes when it starts anew after it had to grow (a long reader).
pub const JOURNAL_SIZE_LIMIT: u64 = 64 << 20;
/// Pages after which a commit of ours also checkpoints: 16 MiB, so that a checkpoint's fsyncs are shared by many
/// commits (SQLite's own default is a quarter of it).
const AUTOCHECKPOINT_PAGES: i64 = 4000;
/// Connections that read at once: the scheduler's, the summary's, and one to spare.
const READERS: u32 = 3;
/// The page cache of a connection that only reads, a quarter of SQLite's own. A claim reads a dozen pages and a count reads
/// each page once, while every commit empties the cache; all of them full would be most of the daemon's memory.
const READERS_CACHE_KIB: u32 = 500;

/// Opens connections to one file.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    path: PathBuf,
    synchronous: Synchronous,
    role: Role,
}

impl Connector {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn options(&self) -> SqliteConnectOptions {
        let synchronous = match self.synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        SqliteConnectOptions::new()
            .filename(&self.path)
            .read_only(self.role == Role::Reader)
            .busy_timeout(LOCK_PATIENCE)
            .foreign_keys(true)
            .pragma("synchronous", synchronous)
            .pragma("journal_size_limit", JOURNAL_SIZE_LIMIT.to_string())
            .pragma("wal_autocheckpoint", AUTOCHECKPOINT_PAGES.to_string())
            // Who may write the file may write triggers and views into it: those get no function that could harm, and
            // a page that was forged is found out before it is used.
            .pragma("trusted_schema", "OFF")
            .pragma("cell_size_check", "ON")
            .thread_name(|number| format!("sqlite-{number}"))
            .disable_statement_logging()
    }

    fn reading_options(&self) -> SqliteConnectOptions {
        self.options()
            .pragma("query_only", "ON")
            .pragma("cache_size", format!("-{READERS_CACHE_KIB}"))
    }

    /// A connection that writes, or as much of one as the role allows.
    pub(super) async fn connect(&self) -> Result<SqliteConnection, StoreError> {
        self.options().connect().await.map_err(failure)
    }

    fn failed(&self, error: StoreError) -> OpenError {
        OpenError::Store {
            path: self.path.clone(),
            error,
        }
    }

    /// A pool of connections that can't write. They are never retired nor tested: a file does not hang up.
    fn reading_pool(&self) -> SqlitePool {
        SqlitePoolOptions::new()
            .max_connections(READERS)
            .min_connections(0)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(Duration::from_secs(4))
            .connect_lazy_with(self.reading_options())
    }

    /// SQLite ignores what it cannot set; the other pragmas always take.
    async fn check_journal_mode(&self, connection: &mut SqliteConnection) -> Result<(), OpenError> {
        let found: String = self.pragma(connection, "PRAGMA journal_mode").await?;
        if found == "wal" {
            return Ok(());
        }
        Err(OpenError::JournalMode {
            path: self.path.clone(),
            found,
        })
    }

    async fn pragma<T>(
        &self,
        connection: &mut SqliteConnection,
        statement: &'static str,
    ) -> Result<T, OpenError>
    where
        T: for<'r> sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
    {
        let read = async {
            let rows = sqlx::query(statement).fetch_all(connection).await?;
            rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
        };
        read.await.map_err(|error| self.failed(failure(error)))
    }

    /// Refuses another program's file; whether the file is still empty. A file that was restored from a dump has lost its
    /// application id, and is known by its tables.
    async fn is_empty(&self, connection: &mut SqliteConnection) -> Result<bool, OpenError> {
        let id: i32 = self.pragma(connection, "PRAGMA application_id").await?;
        if id == APPLICATION_ID {
            return Ok(false);
        }
        let tables = "SELECT ifnull((SELECT name FROM sqlite_master ORDER BY rowid LIMIT 1), '')";
        let table: String = self.pragma(connection, tables).await?;
        let ours = "SELECT count(*) = 4 FROM sqlite_master
            WHERE type = 'table' AND name IN ('_sqlx_migrations', 'messages', 'readers', 'suite_tickets')";
        match &*table {
            "" if id == 0 => Ok(true),
            "" => Err(self.foreign(format!("its application_id is {id}"))),
            _ if id == 0 && self.pragma::<bool>(connection, ours).await? => Ok(false),
            table => Err(self.foreign(format!("it holds {table:?}"))),
        }
    }

    fn foreign(&self, found: String) -> OpenError {
        OpenError::Foreign {
            path: self.path.clone(),
            found,
        }
    }

    /// Turns the write-ahead log on. That needs the file for a moment alone, and no busy time-out covers it.
    async fn turn_wal_on(&self, connection: &mut SqliteConnection) -> Result<(), OpenError> {
        let started = Instant::now();
        loop {
            let turned = sqlx::query("PRAGMA journal_mode = WAL")
                .execute(&mut *connection)
                .await
                .map_err(failure);
            match turned {
                Ok(_) => return Ok(()),
                Err(StoreError::Busy) if started.elapsed() < LOCK_PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }
}

/// Opens the store; `migrating` hears of every migration before it runs.
pub(super) async fn open(
    database: &SqliteFile,
    role: Role,
    migrating: &mut (dyn FnMut(Migrating<'_>) + Send),
) -> Result<SqliteStore, OpenError> {
    let path = &database.path;
    let file_error = |error| OpenError::File {
        path: path.clone(),
        error,
    };
    match role {
        // SQLite would create it for its owner alone to write, and gives -wal and -shm the mode of the file.
        Role::Owner => drop(open_for_all(path).map_err(file_error)?),
        Role::Writer | Role::Reader => match path.try_exists() {
            Ok(true) => {}
            Ok(false) => return Err(OpenError::Missing(path.clone())),
            Err(error) => return Err(file_error(error)),
        },
    }
    let connector = Connector {
        path: path.clone(),
        synchronous: database.synchronous,
        role,
    };
    let connect = || async {
        connector
            .connect()
            .await
            .map_err(|error| connector.failed(error))
    };
    let mut connection = connect().await?;
    let empty = connector.is_empty(&mut connection).await?;
    if role == Role::Owner {
        connector.turn_wal_on(&mut connection).await?;
        migrate::migrate(path, &mut connection, migrating).await?;
    } else if empty {
        return Err(OpenError::Missing(path.clone()));
    } else {
        migrate::check(path, &mut connection).await?;
    }
    connector.check_journal_mode(&mut connection).await?;
    let file = FileId::of(path).map_err(file_error)?;
    let watching = connector.reading_options().connect().await;
    let watching = watching.map_err(|error| connector.failed(failure(error)))?;
    let first = if role == Role::Reader {
        // Opened for reading only: an attempt to write says so.
        let _ = connection.close().await;
        None
    } else {
        Some(connection)
    };
    Ok(SqliteStore {
        readers: connector.reading_pool(),
        wakeup: Wakeup::new(path.clone(), file, watching),
        writer: Writer::new(connector, first),
        unsure: AtomicBool::new(false),
        held: Mutex::default(),
        optimized: Mutex::new(None),
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing;

    /// SQLite ignores a pragma that it does not know or like.
    #[tokio::test]
    async fn every_pragma_takes() {
        let (_dir, store) = testing::store().await;
        let mut transaction = store.writer.begin().await.unwrap();
        let mut reading = store.readers.acquire().await.unwrap();
        let wanted: [(&'static str, i64, i64); 9] = [
            ("PRAGMA synchronous", 1, 1),
            ("PRAGMA foreign_keys", 1, 1),
            ("PRAGMA busy_timeout", 2_000, 2_000),
            ("PRAGMA journal_size_limit", 64 << 20, 64 << 20),
            ("PRAGMA wal_autocheckpoint", 4_000, 4_000),
            ("PRAGMA trusted_schema", 0, 0),
            ("PRAGMA cell_size_check", 1, 1),
            ("PRAGMA query_only", 0, 1),
            ("PRAGMA cache_size", -2_000, -500),
        ];
        for (pragma, writing, read) in wanted {
            let found: (i64,) = sqlx::query_as(pragma)
                .fetch_one(&mut transaction.connection)
                .await
                .unwrap();
            assert_eq!(found.0, writing, "{pragma} of the writer");
            let found: (i64,) = sqlx::query_as(pragma)
                .fetch_one(&mut *reading)
                .await
                .unwrap();
            assert_eq!(found.0, read, "{pragma} of a reader");
        }
    }
}
