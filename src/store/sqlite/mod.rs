//! The store in one SQLite file that other processes read and write too.
//!
//! One connection writes, a few read, one watches for other processes' commits.
//!
//! | file | what it is about |
//! |---|---|
//! | `open`, `migrate`, `lock` | roles and pragmas; the schema, and what a file lacks of it; one daemon a file |
//! | `writer`, `wakeup`, `error` | transactions; other processes' commits; SQLite's result codes |
//! | `rows`, `quarantine` | decoding; rows that are no messages |
//! | `claims`, `results`, `commands`, `upkeep` | the traits, each where its SQL stands |
//! | `readers` | the readers of a batch |
//! | `events` | reads that DingTalk pushed to another service |

mod claims;
mod commands;
mod error;
mod events;
mod lock;
mod migrate;
mod open;
mod quarantine;
mod readers;
mod results;
mod rows;
mod upkeep;
mod wakeup;
mod writer;

use std::sync::atomic::AtomicBool;

use serde::Serialize;
use sqlx::sqlite::{SqliteConnection, SqlitePool};
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use lock::{DaemonLock, LockError, lock_path};
pub use open::{JOURNAL_SIZE_LIMIT, OpenError};

use crate::receipt::{LaneId, MessageId};
use crate::settings::SqliteFile;
use crate::store::{Leases, Result, corp_param, limit_param};
pub use crate::store::{Migrating, Role};
use error::{failure, not_json};

/// "rcpt": `PRAGMA application_id` of our files, as the first migration sets it.
pub const APPLICATION_ID: i32 = 0x7263_7074;

/// The store in a SQLite file. Dropped, it closes its connections some time later, so that a daemon that stops calls
/// [`Commands::close`](crate::store::Commands::close).
#[derive(Debug)]
pub struct SqliteStore {
    readers: SqlitePool,
    writer: writer::Writer,
    wakeup: wakeup::Wakeup,
    /// Whether it is not known if the last commit of results took place.
    unsure: AtomicBool,
    /// Where retention goes on.
    held: Mutex<upkeep::HeldRows>,
    /// When the planner's statistics were looked after last.
    optimized: Mutex<Option<Instant>>,
}

impl SqliteStore {
    /// The version of the schema that this receiptd knows.
    pub const SCHEMA_VERSION: i64 = migrate::known();

    /// Opens the file; [`Role::Owner`] creates it and brings its schema up to date first.
    pub async fn open(database: &SqliteFile, role: Role) -> std::result::Result<Self, OpenError> {
        Self::open_reporting(database, role, &mut |_| ()).await
    }

    /// As [`SqliteStore::open`]; `migrating` hears of every change of the schema before it is made.
    pub async fn open_reporting(
        database: &SqliteFile,
        role: Role,
        migrating: &mut (dyn FnMut(Migrating<'_>) + Send),
    ) -> std::result::Result<Self, OpenError> {
        open::open(database, role, migrating).await
    }

    /// The query plan of each statement that must not read or sort more than it needs, for tests.
    #[doc(hidden)]
    pub async fn plans(&self) -> Result<Vec<(&'static str, String)>> {
        let statements = [
            ("lanes", claims::LANES),
            ("new rows", claims::NEW_ROWS),
            ("due", claims::DUE),
            ("due shuffled", claims::DUE_SHUFFLED),
            ("due failing", claims::DUE_FAILING),
            ("last chances", claims::LAST_CHANCES),
            ("overaged", claims::OVERAGED),
            ("overaged waiting", claims::OVERAGED_WAITING),
            ("place", claims::PLACE),
            ("unplace lanes", claims::UNPLACE_LANES),
            ("unplace waiting", claims::UNPLACE_WAITING),
            ("unplace rows", claims::UNPLACE_ROWS),
            ("pull forward", claims::PULL_FORWARD),
            ("stale", claims::STALE),
            ("rows", results::ROWS),
            ("known readers", readers::KNOWN_READERS),
            ("update", results::UPDATE),
            ("update pending", results::UPDATE_PENDING),
            ("owed", results::OWED),
            ("upcoming", upkeep::UPCOMING),
            ("placed totals", upkeep::PLACED_TOTALS),
            ("new totals", upkeep::NEW_TOTALS),
            ("waiting totals", upkeep::WAITING_TOTALS),
            ("final totals", upkeep::FINAL_TOTALS),
            ("finished", upkeep::FINISHED),
            ("events", events::EVENTS),
            ("events' messages", events::EVENTS_MESSAGES),
            ("events of placed messages", events::PLACED),
            ("events to take up", events::TAKE_UP),
            ("events to forget", events::FORGET),
        ];
        let mut plans = Vec::new();
        for (name, statement) in statements {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let steps: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain)
                .fetch_all(&self.readers)
                .await
                .map_err(failure)?;
            let steps: Vec<String> = steps.into_iter().map(|(.., detail)| detail).collect();
            plans.push((name, steps.join("\n")));
        }
        Ok(plans)
    }

    /// One statement in a transaction of its own; how many rows it wrote.
    async fn write(&self, query: rows::Query<'_>) -> Result<u64> {
        let mut transaction = self.writer.begin().await?;
        let written = execute(&mut transaction.connection, query).await?;
        transaction.commit().await?;
        Ok(written)
    }
}

/// The file has one owner, by the lock beside it: every group is his.
impl Leases for SqliteStore {}

/// Runs a statement that writes; how many rows it wrote.
async fn execute(connection: &mut SqliteConnection, query: rows::Query<'_>) -> Result<u64> {
    let done = query.execute(connection).await.map_err(failure)?;
    Ok(done.rows_affected())
}

/// Rows as a JSON array, to be bound as one text whatever their number.
fn json<T: Serialize>(rows: &[T]) -> Result<String> {
    serde_json::to_string(rows).map_err(not_json)
}

/// Lanes as a JSON array of `[account, corp]`.
fn lanes_json(lanes: &[LaneId]) -> Result<String> {
    let lanes = lanes
        .iter()
        .map(|lane| (lane.account.as_str(), corp_param(lane)));
    json(&lanes.collect::<Vec<_>>())
}

/// Ids as a JSON array.
fn ids_json(ids: &[MessageId]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(2 + ids.len() * 8);
    text.push('[');
    for (place, id) in ids.iter().enumerate() {
        let comma = if place == 0 { "" } else { "," };
        // Writing into a String can't fail.
        let _ = write!(text, "{comma}{}", id.0);
    }
    text.push(']');
    text
}

#[cfg(test)]
mod testing {
    use super::{Role, SqliteFile, SqliteStore};
    use crate::receipt::{Claim, Message, Outcome};
    use crate::settings::Synchronous;
    use crate::store::{
        Begun, Claims as _, Commands as _, Found, NewMessage, Results as _, Writes,
    };

    /// An empty store in a directory of its own.
    pub(super) async fn store() -> (tempfile::TempDir, SqliteStore) {
        let dir = tempfile::tempdir().unwrap();
        let database = SqliteFile {
            path: dir.path().join("receiptd.db"),
            synchronous: Synchronous::Normal,
        };
        let store = SqliteStore::open(&database, Role::Owner).await.unwrap();
        (dir, store)
    }

    /// A message with nothing but its key.
    pub(super) fn new(key: &str) -> NewMessage {
        NewMessage::new(key, "default")
    }

    /// The only message of a store, and its claim.
    pub(super) async fn claim(store: &SqliteStore) -> (Message, Claim) {
        store.add(&[new("a")]).await.unwrap();
        let row = store
            .new_rows(crate::store::Scope::All, None, 1, 1)
            .await
            .unwrap()
            .rows
            .remove(0);
        let claim = row.claim();
        (row, claim)
    }

    /// Commits those writes with the outcomes; what was found for these.
    pub(super) async fn commit(
        store: &SqliteStore,
        outcomes: &[Outcome],
        writes: &Writes,
    ) -> Vec<Found> {
        match store.begin(outcomes).await.unwrap() {
            Begun::AlreadyCommitted => Vec::new(),
            Begun::Open(open) => {
                let found = open.found().to_vec();
                open.commit(writes).await.unwrap();
                found
            }
        }
    }
}
