//! The database behind a trait: claims, outcomes and wake-ups, not SQL.
//!
//! Methods are grouped by who calls them. The behaviour suite in `tests/store` is what a backend has to pass.

mod pruning;
pub mod sqlite;

use std::future::Future;
use std::time::Duration;

pub use pruning::{Pruning, Step};

use crate::receipt::{
    AccountName, Chat, ConversationId, CorpId, ErrorCode, LaneId, Message, MessageId, MessageKey,
    Outcome, RobotCode, State, UnixMs, Upcoming, UserId,
};

/// What went wrong, named by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the write lock. Nothing was written: wait and try again.
    #[error("the database is locked by another process")]
    Busy,
    /// No room on the disk. Nothing was written: wait and try again.
    #[error("the disk is full")]
    Full,
    /// An error of the disk or of the file system that may pass. Nothing was written.
    #[error("the database could not be read or written")]
    Io(#[source] sqlx::Error),
    /// The file is corrupt, is not ours, or was replaced while it was open: a person is needed.
    #[error("{0}")]
    Unusable(String),
    /// Anything else: a bug, or a schema that somebody changed.
    #[error("the database refused a statement")]
    Other(#[source] sqlx::Error),
}

impl StoreError {
    /// Whether waiting may mend it.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy | Self::Full | Self::Io(_))
    }

    /// The error with what it came from, in one line.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Io(cause) | Self::Other(cause) => format!("{self}: {cause}"),
            Self::Busy | Self::Full | Self::Unusable(_) => self.to_string(),
        }
    }
}

/// A store's answer.
pub type Result<T> = std::result::Result<T, StoreError>;

/// A lane with pending rows that have been admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneDue {
    /// Whose rows.
    pub lane: LaneId,
    /// When the first of those not in flight is due.
    pub next_poll_at: UnixMs,
}

/// What `commit` found for an outcome: the row as it is now, and how many of the outcome's readers are new.
#[derive(Clone, Debug)]
pub struct Found<'a> {
    /// What the walk brought.
    pub outcome: &'a Outcome,
    /// The row; `None` where a feeder deleted or spoiled it (its readers are then not recorded).
    pub row: Option<Message>,
    /// The readers recorded just now, in the order seen.
    pub new_readers: Vec<UserId>,
}

/// What is to be written with the readers, all or nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Writes {
    /// Rows as they shall stand. Of each, what receiptd owns is written, and nothing that a feeder owns.
    pub messages: Vec<Message>,
    /// Calls to add.
    pub calls: Vec<CallCount>,
    /// Cadence statistics to put in place of what is stored.
    pub habits: Vec<HabitsRow>,
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

/// A lane's learned habits, in a form that only the cadence reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HabitsRow {
    /// Whose.
    pub lane: LaneId,
    /// JSON, written and read by `cadence`.
    pub habits: String,
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
    /// The poll that saw them.
    pub seen_at: UnixMs,
}

/// Last chances that a lane's pending messages have still to take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
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
}

/// A batch of a prune.
#[derive(Clone, Copy, Debug)]
pub struct PruneBatch {
    /// What it removed; zeroes mean that nothing is left.
    pub pruned: Pruned,
    /// How long removing took. Without the wait for the lock and the COMMIT, which a smaller batch makes no shorter.
    pub work: Duration,
}

/// The write-ahead log after a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteAheadLog {
    /// How large it is on disk.
    pub bytes: u64,
    /// How much of it could not be moved into the file, since an open transaction may still need what the file holds.
    pub held_bytes: u64,
}

/// The database as receiptd uses it. Every write is all or nothing, and idempotent where it may be repeated after an
/// error whose outcome is unknown.
pub trait Store: Send + Sync + 'static {
    // --- the scheduler -----------------------------------------------------------------------------------------

    /// Lanes with admitted pending rows beyond those in flight.
    fn lanes(&self, in_flight: &[MessageId]) -> impl Future<Output = Result<Vec<LaneDue>>> + Send;

    /// Lanes with pending rows that were never admitted, in flight or not.
    fn new_lanes(&self) -> impl Future<Output = Result<Vec<LaneId>>> + Send;

    /// Pending rows of a lane that were never admitted, oldest first. A row that cannot be read as a message is set
    /// aside (`failed`, `last_error = row.invalid`) and left out.
    fn arrivals(
        &self,
        lane: &LaneId,
        in_flight: &[MessageId],
        limit: usize,
        now: UnixMs,
    ) -> impl Future<Output = Result<Vec<Message>>> + Send;

    /// Writes the schedule of rows that are still pending and not admitted.
    fn admit(&self, rows: &[Message]) -> impl Future<Output = Result<()>> + Send;

    /// Due rows of a lane, by `next_poll_at`, after those whose last chance is due by `last_chances_until`, which need
    /// not be due themselves before; set aside as in [`Self::arrivals`].
    fn due(
        &self,
        lane: &LaneId,
        now: UnixMs,
        last_chances_until: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Message>>> + Send;

    /// Admitted rows of a lane whose `lives_from` is not after `lived_from`: rows at the end of their life in a lane
    /// that may not call. May read all of the lane's rows: for once a while, not for every beat.
    fn overaged(
        &self,
        lane: &LaneId,
        lived_from: UnixMs,
        in_flight: &[MessageId],
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Message>>> + Send;

    /// Notes `code` on a lane's admitted pending rows that do not bear it yet, at most `limit` of them; how many were
    /// noted. May read all of the lane's rows: for once a while, not for every beat.
    fn note_lane_error(
        &self,
        lane: &LaneId,
        code: &ErrorCode,
        now: UnixMs,
        limit: usize,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Claims whose row is gone, final or re-scheduled by now.
    fn stale(
        &self,
        claims: &[crate::receipt::Claim],
    ) -> impl Future<Output = Result<Vec<MessageId>>> + Send;

    /// Pulls pending rows that receiptd scheduled after `latest` forward to `latest`, at most `limit` of them; how
    /// many were pulled. A feeder's own `next_poll_at` holds. For a wall clock that was set back.
    fn pull_forward(
        &self,
        latest: UnixMs,
        limit: usize,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Resolves when another connection may have committed since the last call returned. May resolve in vain.
    fn changed(&self) -> impl Future<Output = Result<()>> + Send;

    // --- the reconciler ----------------------------------------------------------------------------------------

    /// One IMMEDIATE transaction for many outcomes: records the readers, asks `decide` what follows, writes that.
    /// No two outcomes name the same row. `decide` may be called again when the store has to begin again.
    ///
    /// After an error the same outcomes are to be given again, alone, until that succeeds: only so can the store tell
    /// that an attempt whose outcome was unknown took place after all (`decide` is not called then), and nothing is
    /// counted twice. Not to be dropped half way without such a repeat, for the same reason.
    fn commit<D>(&self, outcomes: &[Outcome], decide: D) -> impl Future<Output = Result<()>> + Send
    where
        D: FnMut(&[Found<'_>]) -> Writes + Send;

    /// The stored habits of every lane.
    fn habits(&self) -> impl Future<Output = Result<Vec<HabitsRow>>> + Send;

    /// The last chances of a lane's pending messages, those before `until` apart. Reads an index entry for each.
    fn owed(&self, lane: &LaneId, until: UnixMs) -> impl Future<Output = Result<Owed>> + Send;

    /// The last chances of a lane in order of time, those together that lie within `step`. Reads an index entry for each.
    fn last_chances(
        &self,
        lane: &LaneId,
        step: Duration,
    ) -> impl Future<Output = Result<Vec<Upcoming>>> + Send;

    /// Calls counted in a month, lane by lane.
    fn calls_in(&self, month: &str) -> impl Future<Output = Result<Vec<CallCount>>> + Send;

    // --- the tokens --------------------------------------------------------------------------------------------

    /// The newest ticket of a third-party suite.
    fn suite_ticket(&self, suite_key: &str) -> impl Future<Output = Result<Option<String>>> + Send;

    // --- commands, retention and the summary -------------------------------------------------------------------

    /// Inserts messages as a feeder would; how many were new.
    fn add(&self, messages: &[NewMessage]) -> impl Future<Output = Result<u64>> + Send;

    /// Adds calls that no outcome brings: a command's own, and those of a process that died before it wrote them.
    fn count_calls(&self, calls: &[CallCount]) -> impl Future<Output = Result<()>> + Send;

    /// Makes failed, expired and cancelled messages pending and due at `now`; how many. `limit` rows at most.
    fn retry(
        &self,
        which: &Selection,
        now: UnixMs,
        limit: usize,
    ) -> impl Future<Output = Result<u64>> + Send;

    /// Removes finished messages (of one state, where given) that finished before `before`, with their readers, and
    /// readers that no message has any more; one small batch of at most `limit` messages.
    fn prune(
        &self,
        before: UnixMs,
        state: Option<State>,
        limit: usize,
    ) -> impl Future<Output = Result<PruneBatch>> + Send;

    /// What `prune` would remove in all.
    fn prunable(
        &self,
        before: UnixMs,
        state: Option<State>,
    ) -> impl Future<Output = Result<Pruned>> + Send;

    /// One message and its readers, in the order recorded.
    fn message(
        &self,
        key: &MessageKey,
    ) -> impl Future<Output = Result<Option<(Message, Vec<Reader>)>>> + Send;

    /// Counts over the table, lane by lane. Reads every index entry: at most once a summary interval.
    fn totals(&self, now: UnixMs) -> impl Future<Output = Result<Vec<LaneTotals>>> + Send;

    /// Moves what is in the write-ahead log into the file, as far as no reader holds it back.
    fn checkpoint(&self) -> impl Future<Output = Result<WriteAheadLog>> + Send;

    /// Lets the database bring its statistics up to date, where it thinks that worth while. For once an hour or so.
    fn optimize(&self) -> impl Future<Output = Result<()>> + Send;
}

/// How long a statement waits for another process's lock before it says [`StoreError::Busy`]. Shorter than the
/// loops' beat, so that a wait for a lock is seen as a wait and not as a hang.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(2);
