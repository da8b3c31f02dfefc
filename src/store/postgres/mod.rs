//! The store in a PostgreSQL database, 15 or newer.
//!
//! One connection writes, a few read, one listens. `connect` (TLS, the session's settings, what is refused), `migrate` (the
//! schema), `sessions` (connections and transactions), `rows` (decoding), `claims`, `results`, `commands`, `upkeep` (the traits,
//! each where its SQL stands), `events` (reads that DingTalk pushed), `wakeup`, `nodes` (leases), `examine` (for `check`),
//! `transfer` (from a SQLite file), `error`.

#![allow(
    clippy::disallowed_methods,
    reason = "they are traps of SQLite's driver: PostgreSQL's reads to the end, and a transaction there takes no lock first"
)]

mod claims;
mod commands;
mod connect;
mod error;
mod events;
mod examine;
mod migrate;
mod nodes;
mod results;
mod rows;
mod sessions;
mod transfer;
mod upkeep;
mod wakeup;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;

pub use connect::OpenError;
pub use examine::{CLOCK_TOLERANCE, Server, examine};
pub use transfer::{Moved, TransferError, transfer};

use crate::receipt::{LaneId, MessageId, UnixMs};
use crate::settings::PostgresUrl;
use crate::store::{Migrating, Result, Role, corp_param, limit_param};
use connect::{ANSWER, Connector, LONG_ANSWER, Purpose};
use sessions::{Losses, Sessions};

/// Connections that read at once: the scheduler and what logs and commands ask meanwhile.
const READERS: usize = 3;

/// For a sign of life: one that comes later is tried again sooner.
const LEASE_ANSWER: Duration = Duration::from_secs(3);

/// The store in a PostgreSQL database.
#[derive(Debug)]
pub struct PostgresStore {
    readers: Sessions,
    /// For what reads a whole table.
    counting: Sessions,
    writer: Sessions,
    /// For signs of life and leases, which wait for nothing else.
    leasing: Sessions,
    wakeup: wakeup::Wakeup,
    /// This process: another one at each start.
    node: String,
    /// This process's life as a node, to which its leases belong; empty before the first.
    node_id: std::sync::Mutex<Arc<str>>,
    /// Whether it is not known if the last commit of results took place.
    unsure: AtomicBool,
    /// Where retention goes on.
    held: Mutex<Option<upkeep::Held>>,
}

impl PostgresStore {
    /// The version of the schema that this receiptd knows.
    pub const SCHEMA_VERSION: i64 = migrate::known();

    /// Opens the database; [`Role::Owner`] brings its schema up to date first. `migrating` hears of every change of the
    /// schema before it is made.
    pub async fn open(
        url: &PostgresUrl,
        role: Role,
        migrating: &mut (dyn FnMut(Migrating<'_>) + Send),
    ) -> std::result::Result<Self, OpenError> {
        let node = new_id();
        let connector = Connector::new(url, role, &node)?;
        if let Some(warning) = connector.exposed() {
            tracing::warn!("{warning}");
        }
        let mut connection = connector.connect(Purpose::Serving).await?;
        if role == Role::Owner {
            connector.check_pooler().await?;
            migrate::migrate(&connector, &mut connection, migrating).await?;
        } else {
            migrate::check(&connector, &mut connection).await?;
        }
        drop(connection);
        let losses = Losses::default();
        let sessions = |purpose, patience, places| {
            Sessions::new(connector.clone(), purpose, patience, places, &losses)
        };
        Ok(Self {
            readers: sessions(Purpose::Serving, ANSWER, READERS),
            counting: sessions(Purpose::Counting, LONG_ANSWER, 1),
            writer: sessions(Purpose::Serving, ANSWER, 1),
            leasing: sessions(Purpose::Serving, LEASE_ANSWER, 1),
            wakeup: wakeup::Wakeup::new(connector),
            node,
            node_id: std::sync::Mutex::new("".into()),
            unsure: AtomicBool::new(false),
            held: Mutex::new(None),
        })
    }

    fn node_id(&self) -> Arc<str> {
        let node_id = self.node_id.lock();
        Arc::clone(&node_id.unwrap_or_else(PoisonError::into_inner))
    }

    fn set_node_id(&self, id: String) {
        let node_id = self.node_id.lock();
        *node_id.unwrap_or_else(PoisonError::into_inner) = id.into();
    }

    /// The query plan of each statement that must not read or sort more than it needs, for tests.
    #[doc(hidden)]
    pub async fn plans(&self) -> Result<Vec<(&'static str, String)>> {
        let statements = [
            ("lanes", claims::LANES),
            ("lanes of accounts", claims::LANES_OF),
            ("new rows", claims::NEW_ROWS),
            ("new rows of accounts", claims::NEW_ROWS_OF),
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
            ("stale", claims::STALE),
            ("pull forward", claims::PULL_FORWARD),
            ("rows", results::ROWS),
            ("known readers", results::KNOWN_READERS),
            ("update", results::UPDATE),
            ("update pending", results::UPDATE_PENDING),
            ("owed", results::OWED),
            ("upcoming", upkeep::UPCOMING),
            ("finished", upkeep::FINISHED),
            ("events", events::EVENTS),
            ("events' messages", events::EVENTS_MESSAGES),
            ("events of placed messages", events::PLACED),
            ("events to take up", events::TAKE_UP),
            ("events to forget", events::FORGET),
        ];
        let mut plans = Vec::new();
        let mut session = self.readers.take().await?;
        session
            .execute(sqlx::query("SET plan_cache_mode = force_generic_plan"))
            .await?;
        for (name, statement) in statements {
            let parameters = (1..).take_while(|number| statement.contains(&format!("${number}")));
            let nulls = vec!["NULL"; parameters.count()].join(", ");
            let mut rows = Vec::new();
            for text in [
                format!("PREPARE receiptd_plan AS {statement}"),
                format!("EXPLAIN EXECUTE receiptd_plan ({nulls})"),
                "DEALLOCATE receiptd_plan".to_owned(),
            ] {
                let query = sqlx::query(sqlx::AssertSqlSafe(text)).persistent(false);
                rows.extend(session.fetch(query).await?);
            }
            let lines = rows
                .iter()
                .map(|row| rows::Cells::of(row).required_text("plan").to_owned());
            plans.push((name, lines.collect::<Vec<_>>().join("\n")));
        }
        Ok(plans)
    }
}

/// A name that nobody else bears.
fn new_id() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

fn accounts(lanes: &[LaneId]) -> Vec<&str> {
    lanes.iter().map(|lane| lane.account.as_str()).collect()
}

fn corps(lanes: &[LaneId]) -> Vec<&str> {
    lanes.iter().map(corp_param).collect()
}

fn ids(ids: &[MessageId]) -> Vec<i64> {
    ids.iter().map(|id| id.0).collect()
}

fn moment(at: Option<UnixMs>) -> Option<i64> {
    at.map(|at| at.0)
}

/// Text as PostgreSQL can hold it: without the character NUL, which would end a whole batch.
fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
