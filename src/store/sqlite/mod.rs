//! The store in one SQLite file that other processes read and write too.
//!
//! One connection writes, a few read, one watches for other processes' commits. Files by concern: `open` (pragmas, roles),
//! `migrate` (the schema's versions), `lock` (one daemon a file), `writer` (transactions), `rows` and `batch` (decoding),
//! `lanes`, `claims`, `results` with `writes`, `counts`, `commands`, `retention` (the trait's methods by who calls them),
//! `wakeup`, `error`.

mod batch;
mod claims;
mod commands;
mod counts;
mod error;
mod lanes;
mod lock;
mod migrate;
mod open;
mod results;
mod retention;
mod rows;
mod wakeup;
mod writer;
mod writes;

use std::time::Duration;

use sqlx::Row as _;
use sqlx::sqlite::SqlitePool;

pub use lock::{DaemonLock, LockError, lock_path};
pub use migrate::Migrating;
pub use open::{JOURNAL_SIZE_LIMIT, OpenError, Role};

use crate::receipt::{
    Claim, ErrorCode, LaneId, Message, MessageId, MessageKey, Outcome, State, UnixMs, Upcoming,
};
use crate::settings::Database;
use crate::store::{
    CallCount, Found, HabitsRow, LaneDue, LaneTotals, NewMessage, Owed, PruneBatch, Pruned, Reader,
    Result, Selection, Store, StoreError, WriteAheadLog, Writes,
};

/// "rcpt": `PRAGMA application_id` of our files, as the first migration sets it.
pub const APPLICATION_ID: i32 = 0x7263_7074;

/// ?1: the suite.
const TICKET: &str = concat!(
    "SELECT ",
    rows::bounded!("ticket"),
    " FROM suite_tickets WHERE suite_key = ?1"
);

/// The store in a SQLite file. Safe to share; dropped, it closes its connections behind the caller's back, so that a
/// daemon that stops calls [`SqliteStore::close`].
#[derive(Debug)]
pub struct SqliteStore {
    readers: SqlitePool,
    writer: writer::Writer,
    wakeup: wakeup::Wakeup,
    /// The last commit, where it is not known whether it took place.
    unsure: tokio::sync::Mutex<Option<results::Unsure>>,
}

impl SqliteStore {
    /// The version of the schema that this receiptd knows.
    pub const SCHEMA_VERSION: i64 = migrate::known();

    /// Opens the file; [`Role::Owner`] creates it and brings its schema up to date first.
    pub async fn open(database: &Database, role: Role) -> std::result::Result<Self, OpenError> {
        Self::open_reporting(database, role, &mut |_| ()).await
    }

    /// As [`SqliteStore::open`]; `migrating` hears of every migration before it runs.
    pub async fn open_reporting(
        database: &Database,
        role: Role,
        migrating: &mut (dyn FnMut(Migrating<'_>) + Send),
    ) -> std::result::Result<Self, OpenError> {
        open::open(database, role, migrating).await
    }

    /// Closes every connection, the writer's last: the last one to close writes the log back into the file, so that the
    /// file alone is all there is of the database.
    pub async fn close(&self) {
        self.readers.close().await;
        self.wakeup.close().await;
        self.writer.close().await;
    }

    /// The query plan of a statement, for tests.
    #[doc(hidden)]
    pub async fn plans(&self) -> Result<Vec<(&'static str, String)>> {
        let statements = [
            ("lanes", lanes::LANES),
            ("new lanes", lanes::NEW_LANES),
            ("arrivals", claims::ARRIVALS.text),
            ("owed", counts::OWED),
            ("upcoming", counts::UPCOMING),
            ("last chances", claims::LAST_CHANCES.text),
            ("due", claims::DUE.text),
            ("overaged", claims::OVERAGED.text),
            ("admit", claims::ADMIT),
            ("rows", results::ROWS.text),
            ("update", writes::UPDATE),
            ("move on", writes::MOVE_ON),
            ("stale", claims::STALE),
            ("pending totals", commands::PENDING_TOTALS),
            ("final totals", commands::FINAL_TOTALS),
        ];
        let mut plans = Vec::new();
        for (name, statement) in statements {
            let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
            let rows = sqlx::query(explain).fetch_all(&self.readers).await?;
            let steps: Vec<String> = rows
                .iter()
                .map(|row| row.try_get::<String, _>("detail"))
                .collect::<std::result::Result<_, _>>()?;
            plans.push((name, steps.join("\n")));
        }
        Ok(plans)
    }
}

/// A lane's organisation as the tables of counts and the indexes hold it.
fn corp_word(lane: &LaneId) -> &str {
    lane.corp.as_ref().map_or("", |corp| corp.as_str())
}

/// The lane in the next two cells; `None` where it can't be read.
fn lane_of(cells: &mut rows::Cells<'_>) -> Option<LaneId> {
    let account = cells.text("account");
    let corp = cells.text("corp_id");
    Some(LaneId {
        account: account?.into(),
        corp: corp.filter(|corp| !corp.is_empty()).map(Into::into),
    })
}

/// Ids as a JSON array, for `json_each`: one text whatever their number.
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

fn limit_word(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn not_json(error: serde_json::Error) -> StoreError {
    StoreError::Other(sqlx::Error::Encode(Box::new(error)))
}

impl Store for SqliteStore {
    async fn lanes(&self, in_flight: &[MessageId]) -> Result<Vec<LaneDue>> {
        self.lanes_due(in_flight).await
    }

    async fn new_lanes(&self) -> Result<Vec<LaneId>> {
        self.lanes_new().await
    }

    async fn arrivals(
        &self,
        lane: &LaneId,
        in_flight: &[MessageId],
        limit: usize,
        now: UnixMs,
    ) -> Result<Vec<Message>> {
        self.new_rows(lane, in_flight, limit, now).await
    }

    async fn admit(&self, rows: &[Message]) -> Result<()> {
        self.admit_rows(rows).await
    }

    async fn due(
        &self,
        lane: &LaneId,
        now: UnixMs,
        last_chances_until: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
    ) -> Result<Vec<Message>> {
        self.due_rows(lane, now, last_chances_until, in_flight, limit)
            .await
    }

    async fn overaged(
        &self,
        lane: &LaneId,
        lived_from: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
    ) -> Result<Vec<Message>> {
        self.overaged_rows(lane, lived_from, in_flight, limit).await
    }

    async fn note_lane_error(
        &self,
        lane: &LaneId,
        code: &ErrorCode,
        now: UnixMs,
        limit: usize,
    ) -> Result<u64> {
        self.note_error(lane, code, now, limit).await
    }

    async fn stale(&self, claims: &[Claim]) -> Result<Vec<MessageId>> {
        self.stale_claims(claims).await
    }

    async fn pull_forward(&self, latest: UnixMs, limit: usize) -> Result<u64> {
        self.pull(latest, limit).await
    }

    async fn changed(&self) -> Result<()> {
        self.wakeup.changed().await
    }

    async fn commit<D>(&self, outcomes: &[Outcome], decide: D) -> Result<()>
    where
        D: FnMut(&[Found<'_>]) -> Writes + Send,
    {
        self.commit_outcomes(outcomes, decide).await
    }

    async fn habits(&self) -> Result<Vec<HabitsRow>> {
        self.stored_habits().await
    }

    async fn owed(&self, lane: &LaneId, until: UnixMs) -> Result<Owed> {
        self.owed_until(lane, until).await
    }

    async fn last_chances(&self, lane: &LaneId, step: Duration) -> Result<Vec<Upcoming>> {
        self.last_chances_by(lane, step).await
    }

    async fn calls_in(&self, month: &str) -> Result<Vec<CallCount>> {
        self.calls_of(month).await
    }

    async fn suite_ticket(&self, suite_key: &str) -> Result<Option<String>> {
        let rows = sqlx::query(TICKET)
            .bind(suite_key)
            .fetch_all(&self.readers)
            .await?;
        Ok(rows
            .first()
            .and_then(|row| rows::Cells::new(row).text("ticket").map(str::to_owned)))
    }

    async fn add(&self, messages: &[NewMessage]) -> Result<u64> {
        self.insert(messages).await
    }

    async fn count_calls(&self, calls: &[CallCount]) -> Result<()> {
        self.add_calls(calls).await
    }

    async fn retry(&self, which: &Selection, now: UnixMs, limit: usize) -> Result<u64> {
        self.retry_final(which, now, limit).await
    }

    async fn prune(
        &self,
        before: UnixMs,
        state: Option<State>,
        limit: usize,
    ) -> Result<PruneBatch> {
        self.prune_batch(before, state, limit).await
    }

    async fn prunable(&self, before: UnixMs, state: Option<State>) -> Result<Pruned> {
        self.would_prune(before, state).await
    }

    async fn message(&self, key: &MessageKey) -> Result<Option<(Message, Vec<Reader>)>> {
        self.one_message(key).await
    }

    async fn totals(&self, now: UnixMs) -> Result<Vec<LaneTotals>> {
        self.lane_totals(now).await
    }

    async fn checkpoint(&self) -> Result<WriteAheadLog> {
        self.checkpoint_passively().await
    }

    async fn optimize(&self) -> Result<()> {
        self.optimize_statistics().await
    }
}

#[cfg(test)]
mod testing {
    use super::{Database, Role, SqliteStore};
    use crate::receipt::Chat;
    use crate::settings::Synchronous;
    use crate::store::NewMessage;

    /// An empty store in a directory of its own.
    pub(super) async fn store() -> (tempfile::TempDir, SqliteStore) {
        let dir = tempfile::tempdir().unwrap();
        let database = Database {
            path: dir.path().join("receiptd.db"),
            synchronous: Synchronous::Normal,
        };
        let store = SqliteStore::open(&database, Role::Owner).await.unwrap();
        (dir, store)
    }

    /// A message with nothing but its key.
    pub(super) fn new(key: &str) -> NewMessage {
        NewMessage {
            key: key.into(),
            account: "default".into(),
            corp: None,
            robot_code: None,
            conversation: None,
            chat: Chat::Private,
            expected_readers: None,
            sent_at: None,
            next_poll_at: None,
        }
    }
}
