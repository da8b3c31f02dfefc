//! Everything from a SQLite file into an empty PostgreSQL database, with its ids: in one transaction, so that it is done
//! or not begun.

use std::time::Duration;

use sqlx::postgres::{PgConnection, Postgres};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::connect::{Connector, OpenError, Purpose};
use super::{PostgresStore, clean, sessions::Query};
use crate::settings::{PostgresUrl, SqliteFile};
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{Commands as _, Role};

/// Rows that are moved at once.
const ROWS: i64 = 5_000;

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The file cannot be opened.
    #[error(transparent)]
    From(#[from] sqlite::OpenError),
    /// The database cannot be opened.
    #[error(transparent)]
    To(#[from] OpenError),
    /// There is something already.
    #[error(
        "{database}: its table {table} has rows already: everything was moved before, or it is in use; move into an empty \
         database"
    )]
    NotEmpty {
        /// Which database.
        database: String,
        /// A table with rows.
        table: &'static str,
    },
    /// A row of the file is none.
    #[error(
        "{}: a row of {table} cannot be moved ({column} of the row with rowid {rowid}): mend it or delete it, and begin again",
        path.display()
    )]
    Row {
        /// The file.
        path: std::path::PathBuf,
        /// Of which table.
        table: &'static str,
        /// What of it cannot be read.
        column: &'static str,
        /// SQLite's number of the row.
        rowid: i64,
    },
    /// SQLite refused.
    #[error("{}: {error}", path.display())]
    Sqlite {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        error: sqlx::Error,
    },
    /// PostgreSQL refused.
    #[error("{database}: table {table}: {error}")]
    Postgres {
        /// Which database.
        database: String,
        /// Which table.
        table: &'static str,
        /// Why.
        error: sqlx::Error,
    },
}

/// How many rows were moved of a table.
pub type Moved = (&'static str, u64);

/// What a column holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
}

use Kind::{Number, Text};

struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Kind)],
}

const TABLES: [Table; 6] = [
    Table {
        name: "messages",
        columns: &[
            ("id", Number),
            ("process_query_key", Text),
            ("account", Text),
            ("corp_id", Text),
            ("robot_code", Text),
            ("open_conversation_id", Text),
            ("chat", Text),
            ("expected_readers", Number),
            ("sent_at", Number),
            ("next_poll_at", Number),
            ("state", Text),
            ("send_status", Text),
            ("reader_count", Number),
            ("last_polled_at", Number),
            ("finished_at", Number),
            ("call_count", Number),
            ("last_error", Text),
            ("last_error_at", Number),
            ("inserted_at", Number),
            ("admitted_at", Number),
            ("not_before", Number),
            ("last_complete_at", Number),
            ("answered_at", Number),
            ("last_chance_at", Number),
            ("retried_at", Number),
            ("blocked", Number),
            ("lane_corp", Text),
            ("failed_walks", Number),
            ("failed_calls", Number),
            ("doubt", Text),
            ("doubt_at", Number),
            ("listed", Number),
        ],
    },
    Table {
        name: "readers",
        columns: &[
            ("id", Number),
            ("process_query_key", Text),
            ("user_id", Text),
            ("seen_after", Number),
            ("seen_at", Number),
            ("read_at", Number),
            ("from_event", Number),
        ],
    },
    Table {
        name: "read_events",
        columns: &[
            ("id", Number),
            ("process_query_key", Text),
            ("user_id", Text),
            ("read_at", Number),
            ("inserted_at", Number),
            ("waits_since", Number),
            ("refused", Text),
        ],
    },
    Table {
        name: "suite_tickets",
        columns: &[
            ("suite_key", Text),
            ("ticket", Text),
            ("updated_at", Number),
        ],
    },
    Table {
        name: "api_calls",
        columns: &[
            ("account", Text),
            ("corp_id", Text),
            ("month", Text),
            ("calls", Number),
            ("throttled", Number),
            ("messages", Number),
            ("first_at", Number),
        ],
    },
    Table {
        name: "habits",
        columns: &[
            ("account", Text),
            ("corp_id", Text),
            ("chat", Text),
            ("habits", Text),
        ],
    },
];

/// Readers whose message was deleted.
const ORPHANS: &str = "INSERT INTO orphans (process_query_key)
    SELECT DISTINCT process_query_key FROM readers AS r
    WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = r.process_query_key)";

/// Moves everything. The caller holds the file's lock, so that no daemon writes to it; the file stays as it is. `moving`
/// hears of each table before it is moved.
///
/// # Errors
/// Nothing was moved.
pub async fn transfer(
    from: &SqliteFile,
    to: &PostgresUrl,
    moving: &mut (dyn FnMut(&'static str) + Send),
) -> Result<Vec<Moved>, TransferError> {
    // Both schemas are today's.
    SqliteStore::open(from, Role::Owner).await?.close().await;
    let store = PostgresStore::open(to, Role::Owner, &mut |_| ()).await?;
    store.close().await;
    let sqlite_failed = |error| TransferError::Sqlite {
        path: from.path.clone(),
        error,
    };
    let mut source = SqliteConnectOptions::new()
        .filename(&from.path)
        .read_only(true)
        .disable_statement_logging()
        .connect()
        .await
        .map_err(sqlite_failed)?;
    // A feeder may write on: one moment's state is moved.
    sqlx::query("BEGIN")
        .execute(&mut source)
        .await
        .map_err(sqlite_failed)?;
    let connector = Connector::new(to, Role::Owner, "transfer")?;
    let mut target = connector.connect(Purpose::Counting).await?;
    let failed = |table, error| TransferError::Postgres {
        database: connector.database.clone(),
        table,
        error,
    };
    let mut transaction = target
        .begin()
        .await
        .map_err(|error| failed("messages", error))?;
    for statement in [
        "SET LOCAL statement_timeout = 0",
        "SET LOCAL idle_in_transaction_session_timeout = '60s'",
        "LOCK TABLE messages, readers, read_events, suite_tickets, api_calls, habits IN SHARE ROW EXCLUSIVE MODE",
    ] {
        let done = sqlx::query(statement).execute(&mut *transaction).await;
        done.map_err(|error| failed("messages", error))?;
    }
    let mut moved = Vec::new();
    for table in &TABLES {
        let occupied = AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {})", table.name));
        let row = sqlx::query(occupied)
            .fetch_one(&mut *transaction)
            .await
            .map_err(|error| failed(table.name, error))?;
        if row.try_get(0).map_err(|error| failed(table.name, error))? {
            return Err(TransferError::NotEmpty {
                database: connector.database.clone(),
                table: table.name,
            });
        }
    }
    for table in &TABLES {
        moving(table.name);
        let mut last = i64::MIN;
        let mut rows = 0;
        loop {
            let found = read(&mut source, table, last)
                .await
                .map_err(sqlite_failed)?;
            let Some(end) = found.last() else { break };
            last = end.try_get(0).map_err(sqlite_failed)?;
            rows += write(&mut transaction, table, &found, from, &failed).await?;
        }
        moved.push((table.name, rows));
        if matches!(table.columns, [("id", _), ..]) {
            let next = next_id(&mut source, table.name)
                .await
                .map_err(sqlite_failed)?;
            let statement = AssertSqlSafe(format!(
                "SELECT setval(pg_get_serial_sequence('{}', 'id'), $1, false)",
                table.name
            ));
            let set = sqlx::query(statement)
                .bind(next)
                .execute(&mut *transaction)
                .await;
            set.map_err(|error| failed(table.name, error))?;
        }
    }
    let orphans = sqlx::query(ORPHANS).execute(&mut *transaction).await;
    orphans.map_err(|error| failed("orphans", error))?;
    transaction
        .commit()
        .await
        .map_err(|error| failed("messages", error))?;
    // The planner knows nothing of the new rows yet.
    let analyzed = sqlx::query("ANALYZE").execute(&mut target).await;
    analyzed.map_err(|error| failed("messages", error))?;
    let _ = tokio::time::timeout(Duration::from_secs(2), target.close()).await;
    let _ = source.close().await;
    Ok(moved)
}

/// The next rows behind `last`, their rowid first.
async fn read(
    source: &mut SqliteConnection,
    table: &Table,
    last: i64,
) -> Result<Vec<SqliteRow>, sqlx::Error> {
    let names: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
    let statement = AssertSqlSafe(format!(
        "SELECT rowid, {} FROM {} WHERE rowid > ?1 ORDER BY rowid LIMIT {ROWS}",
        names.join(", "),
        table.name
    ));
    sqlx::query(statement).bind(last).fetch_all(source).await
}

async fn write(
    target: &mut PgConnection,
    table: &Table,
    rows: &[SqliteRow],
    from: &SqliteFile,
    failed: &(dyn Fn(&'static str, sqlx::Error) -> TransferError + Sync),
) -> Result<u64, TransferError> {
    let mut names = Vec::new();
    let mut arrays = Vec::new();
    for (place, (name, kind)) in table.columns.iter().enumerate() {
        names.push(*name);
        let kind = match kind {
            Text => "TEXT",
            Number => "BIGINT",
        };
        arrays.push(format!("${}::{kind}[]", place + 1));
    }
    let statement = AssertSqlSafe(format!(
        "INSERT INTO {} ({}) SELECT * FROM unnest({})",
        table.name,
        names.join(", "),
        arrays.join(", ")
    ));
    let mut query: Query<'_> = sqlx::query::<Postgres>(statement);
    for (place, (name, kind)) in table.columns.iter().enumerate() {
        let broken = |row: &SqliteRow| TransferError::Row {
            path: from.path.clone(),
            table: table.name,
            column: name,
            rowid: row.try_get(0).unwrap_or_default(),
        };
        query = match kind {
            Text => {
                let mut column: Vec<Option<String>> = Vec::with_capacity(rows.len());
                for row in rows {
                    let text: Option<String> = row.try_get(place + 1).map_err(|_| broken(row))?;
                    column.push(text.map(|text| clean(&text)));
                }
                query.bind(column)
            }
            Number => {
                let mut column: Vec<Option<i64>> = Vec::with_capacity(rows.len());
                for row in rows {
                    column.push(row.try_get(place + 1).map_err(|_| broken(row))?);
                }
                query.bind(column)
            }
        };
    }
    let done = query
        .execute(target)
        .await
        .map_err(|error| failed(table.name, error))?;
    Ok(done.rows_affected())
}

/// The number that SQLite would give next: none is ever given again, so that cursors and claims stay right.
async fn next_id(source: &mut SqliteConnection, table: &str) -> Result<i64, sqlx::Error> {
    let rows = sqlx::query("SELECT seq FROM sqlite_sequence WHERE name = ?1")
        .bind(table)
        .fetch_all(source)
        .await?;
    let last = rows.first().map_or(Ok(0), |row| row.try_get::<i64, _>(0))?;
    Ok(last + 1)
}
