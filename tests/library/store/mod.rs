//! What a store has to do, told to every backend there is; then what is SQLite's own.
//!
//! Another database has only to implement [`Backend`] and to stand in [`for_every_backend`] and in `history/mod.rs`.

/// Makes a test of each function, for each backend.
macro_rules! for_every_backend {
    ($($name:ident)*) => {
        mod in_sqlite {
            $(#[tokio::test] async fn $name() { super::$name::<crate::store::sqlite::SqliteBackend>().await; })*
        }
        mod in_postgres {
            $(#[tokio::test] async fn $name() {
                if crate::store::postgres::available() {
                    super::$name::<crate::store::postgres::PostgresBackend>().await;
                }
            })*
        }
    };
}

#[path = "../../cluster/mod.rs"]
mod cluster;
mod edges;
mod history;
mod opening;
mod postgres;
mod readme;
mod sqlite;
mod suite;

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use receiptd::cadence::Rules;
use receiptd::receipt::{
    LaneId, Message, MessageId, MessageKey, Outcome, Schedule, SeenReader, SendStatus, UnixMs,
    UserId, WalkEnd, settle,
};
use receiptd::store::{
    self, Begun, DueQuery, Found, NewMessage, Placement, Pruned, Reader, Scope, SeenBy, Store,
    Wanted, Writes,
};

/// A row of [`READERS`].
type ReaderRow = (String, String, i64, i64, Option<i64>, i64);

const READERS: &str = "SELECT process_query_key, user_id, seen_after, seen_at, read_at, from_event FROM readers ORDER BY id";

/// The key, and who has read it.
fn reader_of(row: ReaderRow) -> (String, Reader) {
    let (key, user, seen_after, seen_at, read_at, from_event) = row;
    let reader = Reader {
        user_id: user.into(),
        seen_after: UnixMs(seen_after),
        seen_at: UnixMs(seen_at),
        read_at: read_at.map(UnixMs),
        seen_by: match from_event {
            0 => SeenBy::Poll,
            _ => SeenBy::Event,
        },
    };
    (key, reader)
}

/// A store, and what other processes do to its tables.
pub(crate) trait Backend: Sized {
    /// What is tested.
    type Store: Store;
    /// An empty store.
    fn fresh() -> impl Future<Output = Self>;
    /// The store.
    fn store(&self) -> &Self::Store;
    /// A feeder cancels.
    fn cancel(&self, key: &str) -> impl Future<Output = ()>;
    /// A feeder deletes.
    fn delete(&self, key: &str) -> impl Future<Output = ()>;
    /// A feeder gives a row another key.
    fn rename(&self, key: &str, to: &str) -> impl Future<Output = ()>;
    /// A feeder gives a row another account.
    fn give_to(&self, key: &str, account: &str) -> impl Future<Output = ()>;
    /// A feeder changes the schedule.
    fn reschedule(&self, key: &str, at: UnixMs) -> impl Future<Output = ()>;
    /// A feeder corrupts a row's `chat`, so that it is no message any more.
    fn corrupt(&self, key: &str) -> impl Future<Output = ()>;
    /// A consumer removes a recorded reader.
    fn remove_reader(&self, key: &str, user: &str) -> impl Future<Output = ()>;
    /// Another service inserts what DingTalk pushed to it.
    fn push(&self, key: &str, user: &str, read_at: Option<UnixMs>) -> impl Future<Output = ()>;
    /// Somebody stores a suite's ticket.
    fn put_ticket(&self, suite: &str, ticket: &str) -> impl Future<Output = ()>;
    /// The table of readers in the order recorded, those of deleted messages included.
    fn readers(&self) -> impl Future<Output = Vec<(String, Reader)>>;
    /// The table of pushed reads in the order of their insert: key and reader.
    fn pushed(&self) -> impl Future<Output = Vec<(String, String)>>;
    /// The process dies with whatever is open, and another one opens the same tables.
    fn crash(self) -> impl Future<Output = Self>;
}

/// The tests' moment zero, in the past of every insert.
pub(crate) const T0: UnixMs = UnixMs(1_700_000_000_000);

/// `seconds` after [`T0`].
pub(crate) fn at(seconds: u64) -> UnixMs {
    T0 + Duration::from_secs(seconds)
}

pub(crate) fn lane(account: &str) -> LaneId {
    LaneId {
        account: account.into(),
        corp: None,
    }
}

pub(crate) fn new(key: &str) -> NewMessage {
    new_of(key, "default")
}

pub(crate) fn new_of(key: &str, account: &str) -> NewMessage {
    NewMessage {
        sent_at: Some(T0),
        ..NewMessage::new(key, account)
    }
}

pub(crate) fn keys(rows: &[Message]) -> Vec<&str> {
    rows.iter().map(|row| row.key.as_str()).collect()
}

/// The first `limit` rows of all lanes that were never placed, in the order of their insert.
pub(crate) async fn new_rows<S: Store>(store: &S, limit: usize) -> Vec<Message> {
    let found = store
        .new_rows(Scope::All, None, limit, 10_000)
        .await
        .unwrap();
    assert_eq!(found.next, None);
    let mut rows = found.rows;
    rows.sort_by_key(|row| row.id);
    rows.truncate(limit);
    rows
}

/// Places rows as they stand, each in its lane.
pub(crate) async fn place<S: Store>(store: &S, rows: &[Message]) {
    let place = |message: &Message| Placement {
        message: message.clone(),
        waits_for: None,
        lease: None,
    };
    let places: Vec<Placement> = rows.iter().map(place).collect();
    store.place(&places).await.unwrap();
}

/// Adds messages and places them at the given due moments, with no last chance.
pub(crate) async fn add_placed<S: Store>(store: &S, rows: &[(&str, &str, UnixMs)]) {
    let new: Vec<_> = rows
        .iter()
        .map(|(key, account, _)| new_of(key, account))
        .collect();
    assert_eq!(store.add(&new).await.unwrap(), rows.len() as u64);
    let placed: Vec<_> = new_rows(store, 10_000)
        .await
        .into_iter()
        .filter_map(|row| {
            let due = rows.iter().find(|(key, ..)| *key == row.key.as_str())?.2;
            Some(Message {
                next_poll_at: Some(due),
                admitted_at: Some(T0),
                ..row
            })
        })
        .collect();
    assert_eq!(placed.len(), rows.len());
    place(store, &placed).await;
}

/// What a claim of a lane gives whose walks did not fail.
pub(crate) async fn due_rows<S: Store>(
    store: &S,
    lane: &LaneId,
    now: UnixMs,
    last_chances_until: UnixMs,
    without: &[MessageId],
    limit: usize,
) -> Vec<Message> {
    let query = DueQuery {
        lanes: std::slice::from_ref(lane),
        wanted: Wanted::Sound,
        now,
        last_chances_until,
        without,
        per_lane: limit,
    };
    store.due(&query).await.unwrap()
}

/// All that a prune removes, step by step.
pub(crate) async fn pruned<S: Store>(
    store: &S,
    before: UnixMs,
    state: Option<receiptd::receipt::State>,
) -> Pruned {
    let mut sum = Pruned::default();
    loop {
        let step = store.prune(before, state).await.unwrap();
        if step == Pruned::default() {
            return sum;
        }
        sum.messages += step.messages;
        sum.readers += step.readers;
        sum.held += step.held;
        sum.events += step.events;
    }
}

/// The row and its readers' ids.
pub(crate) async fn show<S: Store>(store: &S, key: &str) -> (Message, Vec<String>) {
    let (message, readers) = store
        .message(&MessageKey::from(key))
        .await
        .unwrap()
        .unwrap_or_else(|| panic!("{key} is gone"));
    let readers = readers
        .iter()
        .map(|reader| reader.user_id.to_string())
        .collect();
    (message, readers)
}

/// The one due row of a key's lane.
pub(crate) async fn claim<S: Store>(store: &S, key: &str, now: UnixMs) -> Message {
    let (message, _) = show(store, key).await;
    let due = due_rows(store, &message.lane, now, now, &[], 10_000).await;
    due.into_iter()
        .find(|row| row.key.as_str() == key)
        .unwrap_or_else(|| panic!("{key} is not due"))
}

/// A complete walk that saw `readers`.
pub(crate) fn walk(claimed: &Message, now: UnixMs, readers: &[&str]) -> Outcome {
    let readers = readers.iter().map(|user| SeenReader {
        user_id: UserId::from(*user),
        seen_at: now,
        read_at: None,
    });
    Outcome {
        claim: claimed.claim(),
        started_at: now,
        ended_at: now + Duration::from_millis(5),
        calls: 1,
        throttled: 0,
        failed_calls: 0,
        readers: readers.collect(),
        listed: None,
        send_status: Some(SendStatus::Success),
        end: WalkEnd::Complete,
    }
}

/// Settles as the reconciler does.
pub(crate) fn settled(outcomes: &[Outcome], found: &[Found]) -> Writes {
    let schedule = Schedule::prior(&Rules::default());
    Writes {
        messages: decided(outcomes, found, &schedule),
        ..Writes::default()
    }
}

/// The rows as they stand after their outcomes.
pub(crate) fn decided(outcomes: &[Outcome], found: &[Found], schedule: &Schedule) -> Vec<Message> {
    let settle_one = |(outcome, found): (&Outcome, &Found)| {
        let row = found.row.as_ref()?;
        Some(settle(
            row,
            outcome,
            found.new_readers,
            found.recorded,
            schedule,
        ))
    };
    let pairs = outcomes.iter().zip(found);
    pairs.filter_map(settle_one).collect()
}

/// A transaction of results, as the reconciler makes it.
pub(crate) async fn try_commit<S: Store>(
    store: &S,
    outcomes: &[Outcome],
    mut decide: impl FnMut(&[Outcome], &[Found]) -> Writes,
) -> store::Result<()> {
    match store.begin(outcomes).await? {
        Begun::AlreadyCommitted => Ok(()),
        Begun::Open(transaction) => {
            assert_eq!(transaction.found().len(), outcomes.len());
            let writes = decide(outcomes, transaction.found());
            transaction.commit(&writes).await
        }
    }
}

/// The same, of which nothing goes wrong.
pub(crate) async fn commit<S: Store>(
    store: &S,
    outcomes: &[Outcome],
    decide: impl FnMut(&[Outcome], &[Found]) -> Writes,
) {
    try_commit(store, outcomes, decide).await.unwrap();
}

/// Polls a future so many times, and drops it then: at once, while what it waits for is under way, or when that is done.
pub(crate) async fn polled<F: Future>(future: F, polls: usize, at_once: bool) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 && at_once => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
