//! The database behind small traits, by caller: leases, claims, results, commands, upkeep. They speak of rows and outcomes,
//! not of SQL, and are used behind `Arc<dyn Store>`, since the backend is chosen at run time.
//!
//! The behaviour suite in `tests/library/store` is what a backend has to pass.

mod batch;
mod cells;
mod due;
mod last_chances;
mod leases;
mod open;
pub mod postgres;
pub mod sqlite;
mod totals;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

pub use leases::{Beat, Granted, Group, Holding, Leases, Member, Members, NodeText, Promise};
pub use open::{Migrating, OpenError, Role, open, schema_version};

use crate::receipt::{
    AccountName, Chat, Claim, ConversationId, CorpId, ErrorCode, EventId, LaneId, Message,
    MessageId, MessageKey, Outcome, RobotCode, State, UnixMs, UserId,
};
pub use crate::receipt::{GroupId, Lease};

/// What went wrong, named by what the caller can do about it. A backend maps its own errors to these.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the write lock. Nothing was written: wait and try again.
    #[error("the database is locked by another process")]
    Busy,
    /// No room on the disk. Nothing was written: wait and try again.
    #[error("the disk is full")]
    Full,
    /// An error of the disk, the file system or the connection that may pass. Whether a commit took place may be unknown.
    #[error("the database could not be read or written")]
    Unavailable(#[source] sqlx::Error),
    /// The database is corrupt, is not ours, or was replaced while it was open: a person is needed.
    #[error("{0}")]
    Unusable(String),
    /// Anything else: a bug, or a schema that somebody changed.
    #[error("the database refused a statement")]
    Other(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether waiting may mend it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy | Self::Full | Self::Unavailable(_))
    }

    /// The error with what it came from, in one line.
    pub(crate) fn with_source(&self) -> String {
        match self {
            Self::Unavailable(cause) | Self::Other(cause) => format!("{self}: {cause}"),
            Self::Busy | Self::Full | Self::Unusable(_) => self.to_string(),
        }
    }
}

/// A store's answer.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The store as the daemon and the commands hold it.
pub type SharedStore = Arc<dyn Store>;

/// All that a backend offers.
pub trait Store: Leases + Claims + Results + Commands + Upkeep {}

impl<S: Leases + Claims + Results + Commands + Upkeep> Store for S {}

/// A lane with placed rows beyond those that were asked to be left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneDue {
    /// Whose rows.
    pub lane: LaneId,
    /// When the first row is due whose last walk did not fail.
    pub sound_at: Option<UnixMs>,
    /// When the first row is due whose last walks failed ([`Message::failed_walks`]).
    pub failing_at: Option<UnixMs>,
}

/// Rows that were never placed, some of each lane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewRows {
    /// The rows. Of each, `lane` names account and `corp_id` as the feeder wrote them.
    pub rows: Vec<Message>,
    /// Where to go on: the last lane that was looked at, where there may be more behind it or of it. `None`: that was the last
    /// lane. Of those before there may be more than was asked for of each: they come when these are placed.
    pub next: Option<LaneId>,
}

/// A row's first place in the schedule, or its place under another lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The row with its schedule, its lane and `admitted_at`.
    pub message: Message,
    /// Why no lane serves it for now; it becomes the row's `last_error`, and the row is not due until
    /// [`Claims::unplace`] makes it new again.
    pub waits_for: Option<ErrorCode>,
    /// The lease of its lane. Nothing is written where it is no longer ours.
    pub lease: Option<Lease>,
}

/// Which rows of a lane a claim wants. Of one round the first are asked for first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// Last chances alone, of sound and failing rows.
    LastChances,
    /// Rows whose last walk did not fail, last chances first, then in the order in which they are due.
    Sound,
    /// The same rows in random order (of the first ten thousand): where many fail, the others must not wait behind them.
    SoundShuffled,
    /// Rows whose last walks failed, in the order in which they are due.
    Failing,
}

/// A question for due rows.
#[derive(Clone, Copy, Debug)]
pub struct DueQuery<'a> {
    /// Of these lanes.
    pub lanes: &'a [LaneId],
    /// Which of their rows.
    pub wanted: Wanted,
    /// Rows due by then.
    pub now: UnixMs,
    /// Rows whose last chance is due by then count as due (unless their feeder's "not before" is later than `now`).
    pub last_chances_until: UnixMs,
    /// Left out: what is in flight, and what the caller does not want now.
    pub without: &'a [MessageId],
    /// Rows of each lane at most.
    pub per_lane: usize,
}

/// Rows that are to be placed anew; see [`Claims::unplace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unplace {
    /// The rows of lanes.
    Lanes(Vec<LaneId>),
    /// The rows of an account that wait for the configuration.
    Waiting(AccountName),
    /// These rows, as far as they are in lanes.
    Rows(Vec<MessageId>),
}

/// Whose rows a scheduler looks for.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Of every account.
    All,
    /// Of these accounts.
    Of(&'a [AccountName]),
    /// Of all but these.
    Except(&'a [AccountName]),
}

impl Scope<'_> {
    fn holds(&self, lane: &LaneId) -> bool {
        match self {
            Self::All => true,
            Self::Of(accounts) => accounts.contains(&lane.account),
            Self::Except(accounts) => !accounts.contains(&lane.account),
        }
    }
}

/// What the scheduler asks. A claim is not written: who holds the lease remembers what is in flight, and after a crash
/// everything due is simply due.
///
/// A row that cannot be read as a message is quarantined (`failed`, `last_error = row.invalid: COLUMN`) and left out of
/// every answer.
#[async_trait]
pub trait Claims: Send + Sync + 'static {
    /// Lanes in `scope` with placed pending rows beyond those `without`. Costs the same for a lane with one row or a
    /// million.
    async fn lanes(&self, scope: Scope<'_>, without: &[MessageId]) -> Result<Vec<LaneDue>>;

    /// Pending rows in `scope` that were never placed: lane by lane behind `after`, oldest first, `per_lane` of each and `limit` in
    /// all at most.
    async fn new_rows(
        &self,
        scope: Scope<'_>,
        after: Option<&LaneId>,
        per_lane: usize,
        limit: usize,
    ) -> Result<NewRows>;

    /// Writes places, of all lanes in one transaction. A row that is no longer pending, or was placed meanwhile, stays as
    /// it is. Pushed reads that wait for one of these rows are to be taken.
    async fn place(&self, places: &[Placement]) -> Result<()>;

    /// Due rows.
    async fn due(&self, query: &DueQuery<'_>) -> Result<Vec<Message>>;

    /// Rows of a lane, or with `None` rows that wait for the configuration, whose `lives_from` is not after `lived_from`.
    /// May read all of those rows: for once a while.
    async fn overaged(
        &self,
        lane: Option<&LaneId>,
        lived_from: UnixMs,
        without: &[MessageId],
        limit: usize,
    ) -> Result<Vec<Message>>;

    /// Makes pending placed rows new again, so that they are placed by the configuration as it is now; schedule, history
    /// and the feeder's "not before" stay. At most `limit`; how many.
    async fn unplace(&self, which: &Unplace, without: &[MessageId], limit: usize) -> Result<u64>;

    /// Claims whose row is gone, final, of another lane or re-scheduled by now.
    async fn stale(&self, claims: &[Claim]) -> Result<Vec<MessageId>>;

    /// Pulls pending rows of served lanes that receiptd scheduled after `latest` forward to `latest`, at most `limit` of
    /// them; how many. A feeder's own `next_poll_at` holds. For a wall clock that was set back.
    async fn pull_forward(&self, latest: UnixMs, limit: usize) -> Result<u64>;

    /// Resolves when another connection may have committed since the last call returned. May resolve in vain.
    async fn changed(&self) -> Result<()>;
}

/// What was found for an outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The row as it is now; `None` where a feeder deleted, renamed or corrupted it (its readers are then not recorded).
    pub row: Option<Message>,
    /// How many of the outcome's readers are new; they are recorded in the same transaction.
    pub new_readers: u32,
    /// When those of the new readers read of whom that is said.
    pub read_at: Vec<UnixMs>,
    /// How many readers are recorded in all, counted where the message may be complete with them.
    pub recorded: Option<u32>,
    /// The claim's lease is another's by now: its readers are facts, its state and its schedule are not ours to write.
    pub fenced: bool,
}

/// What is to be written with the readers, all or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Writes {
    /// Rows as they shall stand. Of each, what receiptd owns is written, and nothing that a feeder owns.
    pub messages: Vec<Message>,
    /// Calls to add.
    pub calls: Vec<CallCount>,
    /// What becomes of pushed reads.
    pub events: EventWrites,
}

/// A read that DingTalk pushed to another service, which inserted it into `read_events`.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadEvent {
    /// The row.
    pub id: EventId,
    /// Of which message.
    pub key: MessageKey,
    /// Who.
    pub user_id: UserId,
    /// When, where the event says so.
    pub read_at: Option<UnixMs>,
}

/// Pushed reads that are to be taken over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadEvents {
    /// In the order of their insert.
    pub events: Vec<ReadEvent>,
    /// Their messages as they are now, as far as there are any.
    pub messages: Vec<Message>,
    /// How many rows could not be read as events, and were set aside.
    pub refused: u64,
    /// There may be more.
    pub more: bool,
}

/// What becomes of pushed reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EventWrites {
    /// Taken over with this transaction: deleted.
    pub taken: Vec<EventId>,
    /// Their message is not known, or not placed yet: they wait for it, from the given moment on, when they were read. Whose
    /// message was placed meanwhile stays new.
    pub waiting: Vec<(EventId, UnixMs)>,
}

/// A message is placed in the transaction that follows its `admitted_at` by no more than this, mostly: a pushed read that was
/// looked up in between found no message, and the placing found no read that waits.
const PLACING_MS: i64 = 10_000;

/// An open transaction of results. Dropped without a commit it is rolled back.
#[async_trait]
pub trait ResultsTransaction: Send {
    /// What was found, an entry for each outcome, in their order.
    fn found(&self) -> &[Found];

    /// Writes and commits.
    ///
    /// # Errors
    /// It may have taken place all the same: begin again with the same outcomes, alone, until that succeeds.
    async fn commit(self: Box<Self>, writes: &Writes) -> Result<()>;
}

/// How a transaction of results begins.
pub enum Begun<'s> {
    /// The readers are recorded in it, and the rows are found: decide and commit.
    Open(Box<dyn ResultsTransaction + 's>),
    /// An earlier attempt with the same outcomes took place after all: nothing is left to do.
    AlreadyCommitted,
}

/// What the reconciler asks.
#[async_trait]
pub trait Results: Send + Sync + 'static {
    /// Begins a transaction for many outcomes, no two of which name the same row: records their readers and finds their
    /// rows. After an error, here or at the commit, the same outcomes are to be given again, alone, until that
    /// succeeds: only so can the store tell that an attempt whose outcome was unknown took place, and nothing is counted
    /// twice.
    async fn begin<'s>(&'s self, outcomes: &[Outcome]) -> Result<Begun<'s>>;

    /// Pushed reads, oldest first, `limit` at most. Left out are those of messages in the lanes `without`, which another node
    /// serves, those that wait for their message, and those that were set aside. `now` is when a row is set aside.
    async fn read_events(
        &self,
        without: &[LaneId],
        limit: usize,
        now: UnixMs,
    ) -> Result<ReadEvents>;

    /// Stored habits of lanes.
    async fn habits(&self, lanes: &[LaneId]) -> Result<Vec<HabitsRow>>;

    /// Puts habits in place of what is stored.
    async fn save_habits(&self, habits: &[HabitsRow]) -> Result<()>;

    /// Calls counted in a month (`YYYY-MM` at UTC+8), by account and `corp_id` as they stand in `api_calls`.
    async fn calls_in(&self, month: &str) -> Result<Vec<CallCount>>;

    /// Last chances of all lanes with any: those due before `until`, and all. Reads an index entry for each.
    async fn owed(&self, until: UnixMs) -> Result<Vec<Owed>>;

    /// Adds calls that no outcome brings: a command's own, and those of a process that died before it wrote them.
    async fn count_calls(&self, calls: &[CallCount]) -> Result<()>;

    /// The newest ticket of a third-party suite.
    async fn suite_ticket(&self, suite_key: &str) -> Result<Option<String>>;
}

/// What commands ask, beside a daemon or without one.
#[async_trait]
pub trait Commands: Send + Sync + 'static {
    /// Inserts messages as a feeder would; how many were new.
    async fn add(&self, messages: &[NewMessage]) -> Result<u64>;

    /// Makes failed, expired and cancelled messages pending and due at `now`; how many. `limit` rows at most.
    async fn retry(&self, which: &Selection, now: UnixMs, limit: usize) -> Result<u64>;

    /// One message and its readers, in the order recorded.
    async fn message(&self, key: &MessageKey) -> Result<Option<(Message, Vec<Reader>)>>;

    /// Every stored habit.
    async fn all_habits(&self) -> Result<Vec<HabitsRow>>;

    /// What `prune` would remove in all, and, of every state, what [`Upkeep::forget_events`] would.
    async fn prunable(&self, before: UnixMs, state: Option<State>) -> Result<Pruned>;

    /// Closes every connection, so that the file alone is all there is of a database in a file.
    async fn close(&self);
}

/// What is due now and then rather than at once.
#[async_trait]
pub trait Upkeep: Send + Sync + 'static {
    /// Counts over the table, lane by lane. Reads every index entry: at most once a summary interval.
    async fn totals(&self, now: UnixMs) -> Result<Vec<LaneTotals>>;

    /// The last chances of a lane that must be begun with now, so that all fit its rate: those due up to the answer.
    /// `None`: none needs to be taken before its moment.
    async fn last_chances_to_begin(
        &self,
        lane: &LaneId,
        fit: &LastChanceFit,
    ) -> Result<Option<UnixMs>>;

    /// Removes finished messages (of one state, where given) that finished before `before`, with their readers, and
    /// readers that no message has any more; one small batch. Rows that a foreign key of another table holds are left, and
    /// counted.
    async fn prune(&self, before: UnixMs, state: Option<State>) -> Result<Pruned>;

    /// Looks after pushed reads that wait. Those whose message is there by now are taken up again: of those that wait since
    /// `lately`, since their message may have come while they were looked up, and of those that wait since before `before`, all
    /// others of which are removed, with those that were set aside by then. How many were removed; `limit` of each at most.
    async fn forget_events(&self, before: UnixMs, lately: UnixMs, limit: usize) -> Result<u64>;

    /// Looks after the database itself, as far as that is due: checkpoints, statistics. For once a summary interval.
    async fn maintain(&self) -> Result<Health>;
}

/// What [`Upkeep::last_chances_to_begin`] plans with. If all are begun with now, the n-th ends n / rate from now; it must
/// not be later than `slack` after its moment. A start is needed now where the next look, `again` from now, would be too late.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LastChanceFit {
    /// Now.
    pub now: UnixMs,
    /// Calls a second that may be planned with.
    pub calls_per_second: f64,
    /// How long after its moment a last chance may still be taken.
    pub slack: Duration,
    /// When this is asked again.
    pub again: Duration,
}

impl LastChanceFit {
    /// Last chances this many milliseconds apart are counted together: fine enough for the slack, and few rows to read.
    fn together_ms(&self) -> i64 {
        i64::try_from(self.slack.as_millis() / 4)
            .unwrap_or(i64::MAX)
            .max(1)
    }
}

/// Calls of a lane in a month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallCount {
    /// Who called.
    pub lane: LaneId,
    /// `YYYY-MM` at UTC+8.
    pub month: String,
    /// Metered calls.
    pub calls: u64,
    /// Throttled calls, which are not metered.
    pub throttled: u64,
    /// Messages polled for the first time …
    pub messages: u64,
    /// … and the first such moment.
    pub first_at: Option<UnixMs>,
}

impl CallCount {
    /// Nothing counted yet.
    pub fn nothing(lane: LaneId, month: String) -> Self {
        Self {
            lane,
            month,
            calls: 0,
            throttled: 0,
            messages: 0,
            first_at: None,
        }
    }
}

/// The learned habits of a lane's messages of one kind, in a form that only the cadence reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HabitsRow {
    /// Whose.
    pub lane: LaneId,
    /// Of which messages.
    pub chat: Chat,
    /// JSON, written and read by the cadence.
    pub habits: String,
    /// The lease of the lane, where it is written: nothing is where it is no longer ours.
    pub lease: Option<Lease>,
}

/// A message to be added, as a feeder would insert it.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    /// The message's name at DingTalk.
    pub key: MessageKey,
    /// Which account asks.
    pub account: AccountName,
    /// The organisation, for third-party apps.
    pub corp: Option<CorpId>,
    /// The bot, where it is not the account's.
    pub robot_code: Option<RobotCode>,
    /// The conversation.
    pub conversation: Option<ConversationId>,
    /// Which endpoint answers.
    pub chat: Chat,
    /// Finish as soon as so many have read.
    pub expected_readers: Option<u32>,
    /// When it was sent; now, where absent.
    pub sent_at: Option<UnixMs>,
    /// Not before.
    pub next_poll_at: Option<UnixMs>,
}

/// Which final messages `retry` or `prune` means.
#[derive(Clone, Debug, PartialEq)]
pub enum Selection {
    /// Those keys.
    Keys(Vec<MessageKey>),
    /// All in a state, of one account where it is named.
    InState(State, Option<AccountName>),
}

/// Counts of one lane, for `status` and the summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneTotals {
    /// Whose rows.
    pub lane: LaneId,
    /// Pending rows, new ones included.
    pub pending: u64,
    /// Pending rows that are due; a new one is due from its insert on, or from its feeder's `next_poll_at`.
    pub due: u64,
    /// The due moment of the row that has been due longest.
    pub oldest_due: Option<UnixMs>,
    /// Final rows by state, in the order of [`State::ALL`] without `Pending`.
    pub finished: [u64; 5],
}

/// A recorded reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Who.
    pub user_id: UserId,
    /// The last complete walk that had not seen them, or the sending.
    pub seen_after: UnixMs,
    /// The poll that saw them, or when what DingTalk pushed of them was taken over.
    pub seen_at: UnixMs,
    /// When they read, where DingTalk says so.
    pub read_at: Option<UnixMs>,
    /// How they were seen.
    pub seen_by: SeenBy,
}

/// What a reader was seen by first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeenBy {
    /// A poll.
    Poll,
    /// An event that DingTalk pushed.
    Event,
}

impl SeenBy {
    /// What the column `from_event` says.
    fn of_column(from_event: i64) -> Self {
        if from_event == 0 {
            Self::Poll
        } else {
            Self::Event
        }
    }
}

/// Last chances that a lane's pending messages have still to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Whose.
    pub lane: LaneId,
    /// Those before the moment that was asked for.
    pub until: u64,
    /// All of them.
    pub in_all: u64,
}

/// How many rows a prune removed, or would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Finished messages.
    pub messages: u64,
    /// Readers of those, and of messages that a feeder deleted.
    pub readers: u64,
    /// Messages that could not be removed, since a row of another table refers to them.
    pub held: u64,
    /// Pushed reads that wait, or lie aside, for so long.
    pub events: u64,
}

/// What is worth knowing of the database itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// How large the write-ahead log is on disk, in bytes; 0 where there is none.
    pub wal_bytes: u64,
    /// How much of it could not be moved into the file, since an open transaction may still need what the file holds.
    pub wal_held_bytes: u64,
    /// What a person should know of it now, with what to do.
    pub warning: Option<String>,
}

/// How long a statement waits for another process's lock before it says [`StoreError::Busy`]. Shorter than the interval of
/// the loops' heartbeats, so that a wait for a lock is seen as a wait and not as a hang.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(2);

impl NewMessage {
    /// A private message with nothing but its key and its account.
    pub fn new(key: impl Into<MessageKey>, account: impl Into<AccountName>) -> Self {
        Self {
            key: key.into(),
            account: account.into(),
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

/// A lane's organisation as the tables hold it.
fn corp_param(lane: &LaneId) -> &str {
    lane.corp.as_ref().map_or("", |corp| corp.as_str())
}

/// The earlier of two moments that may be missing.
fn earliest(one: Option<UnixMs>, other: Option<UnixMs>) -> Option<UnixMs> {
    one.into_iter().chain(other).min()
}

/// A number of rows as a statement takes it.
fn limit_param(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
