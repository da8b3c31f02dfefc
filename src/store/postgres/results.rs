//! The reconciler's group commit: many outcomes, one transaction, a handful of statements.
//!
//! Locks are taken in one order by everybody: the daemon's row of `commits`, leases with their node, messages, `api_calls`,
//! `read_events`, `turn`, readers. The turn
//! comes last, since nobody else can record readers while it is held.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;

use super::claims::quarantine;
use super::nodes::fence;
use super::rows::{Cells, columns};
use super::sessions::{Query, Sessions, Transaction};
use super::{PostgresStore, accounts, clean, corp_param, corps, events, ids, limit_param, moment};
use crate::receipt::{LaneId, Lease, Message, MessageId, Outcome, UnixMs};
use crate::store::batch::{counted, found, pending_and_changed, token};
use crate::store::cells::Unreadable;
use crate::store::{
    Begun, CallCount, Found, HabitsRow, Owed, ReadEvents, Result, Results, ResultsTransaction,
    StoreError, Writes, earliest,
};

/// $1: ids. Locked, so that no feeder changes or deletes a row between what is found and what is written.
pub(super) const ROWS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM messages WHERE id = ANY($1::BIGINT[]) ORDER BY id FOR UPDATE"
);

/// $1: keys, $2: how many readers at most. The recorded readers as the place of the key (from 1) and the reader: to read
/// all that are known of a group costs less than to insert each that a poll names again.
pub(super) const KNOWN_READERS: &str = "SELECT k.place, r.user_id
    FROM unnest($1::TEXT[]) WITH ORDINALITY AS k(key, place)
    CROSS JOIN LATERAL (SELECT user_id FROM readers WHERE process_query_key = k.key) AS r
    LIMIT $2";

/// $1: keys. How many readers are recorded of each, in their order.
const COUNTED_READERS: &str =
    "SELECT (SELECT count(*) FROM readers WHERE process_query_key = k.key)
    FROM unnest($1::TEXT[]) WITH ORDINALITY AS k(key, place) ORDER BY k.place";

/// $1: keys, $2: readers, $3, $4: between when, $5: when, $6: whether an event told. Who is known already stays as recorded.
const READERS: &str = "INSERT INTO readers (process_query_key, user_id, seen_after, seen_at, read_at, from_event)
    SELECT * FROM unnest($1::TEXT[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[])
    ON CONFLICT DO NOTHING";

/// $1: keys, $2: recorded readers, $3: when they read. What is known already stays; what is not lies between two polls, or the
/// sending and a poll.
const TIMES: &str =
    "UPDATE readers AS r SET read_at = least(r.seen_at, greatest(r.seen_after, new.read_at))
    FROM unnest($1::TEXT[], $2::TEXT[], $3::BIGINT[]) AS new(key, user_id, read_at)
    WHERE r.process_query_key = new.key AND r.user_id = new.user_id AND r.read_at IS NULL";

/// Held until the commit: so readers get their ids in the order in which they become visible.
const TURN: &str = "SELECT only_row FROM turn WHERE only_row = 1 FOR UPDATE";

/// Rows in the order of [`update`], of which the columns are set that are given.
macro_rules! update {
    ($types:literal, $names:literal, $($also:literal)?) => {
        concat!(
            "UPDATE messages AS m
            SET next_poll_at = new.next_poll_at, reader_count = new.reader_count, call_count = new.call_count,
                last_polled_at = new.last_polled_at, last_complete_at = new.last_complete_at,
                answered_at = new.answered_at, blocked = new.blocked, send_status = new.send_status,
                last_error = new.last_error, last_error_at = new.last_error_at",
            $($also,)?
            " FROM unnest(
                $1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[],
                $8::BIGINT[], $9::TEXT[], $10::TEXT[], $11::BIGINT[]", $types, "
            ) AS new(
                id, next_poll_at, reader_count, call_count, last_polled_at, last_complete_at, answered_at, blocked,
                send_status, last_error, last_error_at", $names, "
            )
            WHERE m.id = new.id"
        )
    };
}

/// A row that changes its state or its place.
pub(super) const UPDATE: &str = update!(
    ", $12::TEXT[], $13::BIGINT[], $14::BIGINT[], $15::BIGINT[], $16::BIGINT[], $17::BIGINT[], $18::TEXT[], $19::BIGINT[],
                $20::BIGINT[]",
    ", state, finished_at, admitted_at, last_chance_at, failed_walks, failed_calls, doubt, doubt_at, listed",
    ", state = new.state, finished_at = new.finished_at, admitted_at = new.admitted_at,
        last_chance_at = new.last_chance_at, failed_walks = new.failed_walks, failed_calls = new.failed_calls,
        doubt = new.doubt, doubt_at = new.doubt_at, listed = new.listed"
);

/// A row that stays pending, as most do: without the trigger on `state`.
pub(super) const UPDATE_PENDING: &str = update!("", "",);

/// $1 to $7: counts, sorted, since two daemons that add in different orders would wait for each other.
const CALLS: &str =
    "INSERT INTO api_calls AS c (account, corp_id, month, calls, throttled, messages, first_at)
    SELECT * FROM unnest(
        $1::TEXT[], $2::TEXT[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[]
    )
    ON CONFLICT (account, corp_id, month) DO UPDATE
    SET calls = c.calls + excluded.calls, throttled = c.throttled + excluded.throttled,
        messages = c.messages + excluded.messages, first_at = least(c.first_at, excluded.first_at)";

/// $1 to $4: habits, sorted.
const SAVE_HABITS: &str = "INSERT INTO habits (account, corp_id, chat, habits)
    SELECT * FROM unnest($1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[])
    ON CONFLICT (account, corp_id, chat) DO UPDATE SET habits = excluded.habits";

/// $1, $2: lanes.
const HABITS: &str = "SELECT account, corp_id, chat, habits FROM habits
    WHERE (account, corp_id) IN (SELECT * FROM unnest($1::TEXT[], $2::TEXT[]))";

pub(super) const ALL_HABITS: &str = "SELECT account, corp_id, chat, habits FROM habits";

/// $1: the month.
const CALLS_IN: &str =
    "SELECT account, corp_id, calls, throttled, messages, first_at FROM api_calls WHERE month = $1";

/// $1: until when.
pub(super) const OWED: &str =
    "SELECT account, lane_corp, count(*) FILTER (WHERE last_chance_at < $1), count(*)
    FROM messages WHERE state = 'pending' AND lane_corp IS NOT NULL AND last_chance_at IS NOT NULL
    GROUP BY account, lane_corp";

/// $1: the suite.
const TICKET: &str = "SELECT ticket FROM suite_tickets WHERE suite_key = $1";

/// $1: the daemon. While another transaction of it is open, this waits: one whose COMMIT is on its way, or that a server which
/// lost its client has not ended yet.
const LAST_COMMIT: &str = "SELECT token FROM commits WHERE node_id = $1 FOR UPDATE";

/// $1: the daemon.
const REGISTER: &str =
    "INSERT INTO commits (node_id, token) VALUES ($1, '') ON CONFLICT DO NOTHING";

/// Of daemons that ended long ago: no COMMIT of theirs can be in doubt any more.
const FORGET: &str = "DELETE FROM commits
    WHERE began_at < (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT - 30 * 86400000::BIGINT AND node_id <> $1";

/// $1: the daemon, $2: the transaction's token.
const MARK: &str = "UPDATE commits SET token = $2, began_at = (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT
    WHERE node_id = $1";

/// Readers a statement: bounds what is sent at once.
const READERS_A_STATEMENT: usize = 10_000;

/// Known readers that are asked for: bounds what is held in memory.
const MOST_KNOWN: usize = 100_000;

#[async_trait]
impl Results for PostgresStore {
    async fn begin<'s>(&'s self, outcomes: &[Outcome]) -> Result<Begun<'s>> {
        let token = token(outcomes);
        let mut transaction = self.writer.begin().await?;
        let mut last = last_token(&mut transaction, &self.node).await?;
        if last.is_none() {
            // For the first time, or since somebody emptied the table: committed at once, so that it can be locked from
            // now on.
            for statement in [REGISTER, FORGET] {
                transaction
                    .execute(sqlx::query(statement).bind(&*self.node))
                    .await?;
            }
            transaction.commit().await?;
            transaction = self.writer.begin().await?;
            last = last_token(&mut transaction, &self.node).await?;
        }
        if self.unsure.load(Ordering::Acquire) && last.as_ref() == Some(&token) {
            transaction.commit().await?;
            self.unsure.store(false, Ordering::Release);
            return Ok(Begun::AlreadyCommitted);
        }
        self.unsure.store(false, Ordering::Release);
        let leases: HashSet<&Lease> = outcomes
            .iter()
            .filter_map(|outcome| outcome.claim.lease.as_ref())
            .collect();
        let held = fence(&mut transaction, &self.node_id(), leases).await?;
        let mut found = find(&mut transaction, outcomes).await?;
        for (outcome, found) in outcomes.iter().zip(&mut found) {
            let lease = outcome.claim.lease.as_ref();
            found.fenced = lease.is_some_and(|lease| !held.contains(&lease.group));
        }
        let new_readers = new_readers(&mut transaction, outcomes, &mut found).await?;
        Ok(Begun::Open(Box::new(Open {
            transaction,
            found,
            new_readers,
            token,
            node: &self.node,
            unsure: &self.unsure,
        })))
    }

    async fn read_events(
        &self,
        without: &[LaneId],
        limit: usize,
        now: UnixMs,
    ) -> Result<ReadEvents> {
        self.pushed(without, limit, now).await
    }

    async fn habits(&self, lanes: &[LaneId]) -> Result<Vec<HabitsRow>> {
        let query = sqlx::query(HABITS).bind(accounts(lanes)).bind(corps(lanes));
        self.read_habits(&self.readers, query).await
    }

    async fn save_habits(&self, habits: &[HabitsRow]) -> Result<()> {
        if habits.is_empty() {
            return Ok(());
        }
        let mut transaction = self.writer.begin().await?;
        let leases: HashSet<&Lease> = habits.iter().filter_map(|row| row.lease.as_ref()).collect();
        let held = fence(&mut transaction, &self.node_id(), leases).await?;
        let ours = |row: &&HabitsRow| {
            let lease = row.lease.as_ref();
            lease.is_none_or(|lease| held.contains(&lease.group))
        };
        let mut habits: Vec<&HabitsRow> = habits.iter().filter(ours).collect();
        habits.sort_unstable_by_key(|row| (&row.lane, row.chat.as_str()));
        let query = sqlx::query(SAVE_HABITS)
            .bind(
                habits
                    .iter()
                    .map(|row| row.lane.account.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                habits
                    .iter()
                    .map(|row| corp_param(&row.lane))
                    .collect::<Vec<_>>(),
            )
            .bind(
                habits
                    .iter()
                    .map(|row| row.chat.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                habits
                    .iter()
                    .map(|row| row.habits.as_str())
                    .collect::<Vec<_>>(),
            );
        transaction.execute(query).await?;
        transaction.commit().await
    }

    async fn calls_in(&self, month: &str) -> Result<Vec<CallCount>> {
        let rows = self
            .readers
            .fetch(sqlx::query(CALLS_IN).bind(month))
            .await?;
        let calls = rows.iter().filter_map(|row| {
            let mut cells = Cells::of(row);
            let count = CallCount {
                lane: cells.lane(),
                month: month.to_owned(),
                calls: cells.count("calls"),
                throttled: cells.count("throttled"),
                messages: cells.count("messages"),
                first_at: cells.moment("first_at"),
            };
            cells.valid(count)
        });
        Ok(calls.collect())
    }

    async fn owed(&self, until: UnixMs) -> Result<Vec<Owed>> {
        let rows = self.counting.fetch(sqlx::query(OWED).bind(until.0)).await?;
        let owed = rows.iter().filter_map(|row| {
            let mut cells = Cells::of(row);
            let owed = Owed {
                lane: cells.lane(),
                until: cells.count("until"),
                in_all: cells.count("in_all"),
            };
            cells.valid(owed)
        });
        Ok(owed.collect())
    }

    async fn count_calls(&self, calls: &[CallCount]) -> Result<()> {
        if calls.is_empty() {
            return Ok(());
        }
        self.writer.execute(add_calls(calls)).await?;
        Ok(())
    }

    async fn suite_ticket(&self, suite_key: &str) -> Result<Option<String>> {
        let rows = self
            .readers
            .fetch(sqlx::query(TICKET).bind(suite_key))
            .await?;
        Ok(rows
            .first()
            .and_then(|row| Cells::of(row).text("ticket"))
            .map(str::to_owned))
    }
}

impl PostgresStore {
    pub(super) async fn read_habits(
        &self,
        sessions: &Sessions,
        query: Query<'_>,
    ) -> Result<Vec<HabitsRow>> {
        let rows = sessions.fetch(query).await?;
        let habits = rows.iter().filter_map(|row| {
            let mut cells = Cells::of(row);
            let row = HabitsRow {
                lane: cells.lane(),
                chat: cells.chat(),
                habits: cells.required_text("habits").to_owned(),
                lease: None,
            };
            cells.valid(row)
        });
        Ok(habits.collect())
    }
}

/// An open transaction of results.
struct Open<'s> {
    transaction: Transaction<'s>,
    found: Vec<Found>,
    new_readers: NewReaders,
    token: String,
    node: &'s str,
    unsure: &'s AtomicBool,
}

#[async_trait]
impl ResultsTransaction for Open<'_> {
    fn found(&self) -> &[Found] {
        &self.found
    }

    async fn commit(self: Box<Self>, writes: &Writes) -> Result<()> {
        let Self {
            mut transaction,
            found,
            new_readers,
            token,
            node,
            unsure,
        } = *self;
        let (pending, changed) = pending_and_changed(&found, &writes.messages);
        if !pending.is_empty() {
            transaction
                .execute(update(UPDATE_PENDING, &pending))
                .await?;
        }
        if !changed.is_empty() {
            let moments = |of: fn(&Message) -> Option<UnixMs>| -> Vec<Option<i64>> {
                changed.iter().map(|row| moment(of(row))).collect()
            };
            let counts = |of: fn(&Message) -> u32| -> Vec<i64> {
                changed.iter().map(|row| i64::from(of(row))).collect()
            };
            let doubts = changed.iter().map(|row| row.doubt.as_ref());
            let query = update(UPDATE, &changed)
                .bind(
                    changed
                        .iter()
                        .map(|row| row.state.as_str())
                        .collect::<Vec<_>>(),
                )
                .bind(moments(|row| row.finished_at))
                .bind(moments(|row| row.admitted_at))
                .bind(moments(|row| row.last_chance_at))
                .bind(counts(|row| row.failed_walks))
                .bind(counts(|row| row.failed_calls))
                .bind(
                    doubts
                        .map(|doubt| doubt.map(|doubt| clean(doubt.code.as_str())))
                        .collect::<Vec<_>>(),
                )
                .bind(moments(|row| row.doubt.as_ref().map(|doubt| doubt.at)))
                .bind(
                    changed
                        .iter()
                        .map(|row| row.listed.map(i64::from))
                        .collect::<Vec<_>>(),
                );
            transaction.execute(query).await?;
        }
        if !writes.calls.is_empty() {
            transaction.execute(add_calls(&writes.calls)).await?;
        }
        events::write(&mut transaction, &writes.events).await?;
        let marked = transaction
            .execute(sqlx::query(MARK).bind(node).bind(&*token))
            .await?;
        if marked != 1 {
            // Somebody removed the row that was locked when the transaction began. It is written anew.
            return Err(StoreError::Busy);
        }
        new_readers.insert(&mut transaction).await?;
        fail::fail_point!("store.commit.before", |_| std::process::abort());
        // Before the COMMIT and not after its failure: this future may be dropped while it waits for it.
        unsure.store(true, Ordering::Release);
        transaction.commit().await?;
        unsure.store(false, Ordering::Release);
        fail::fail_point!("store.commit.after", |_| std::process::abort());
        Ok(())
    }
}

/// The token of the daemon's last transaction of results; `None` where it has no row yet.
async fn last_token(transaction: &mut Transaction<'_>, node: &str) -> Result<Option<String>> {
    let rows = transaction
        .fetch(sqlx::query(LAST_COMMIT).bind(node))
        .await?;
    Ok(rows
        .first()
        .map(|row| Cells::of(row).required_text("token").to_owned()))
}

/// The outcomes' rows as they are now.
async fn find(transaction: &mut Transaction<'_>, outcomes: &[Outcome]) -> Result<Vec<Found>> {
    let mut wanted: Vec<MessageId> = outcomes.iter().map(|outcome| outcome.claim.id).collect();
    wanted.sort_unstable();
    let rows = transaction
        .fetch(sqlx::query(ROWS).bind(ids(&wanted)))
        .await?;
    let mut bad = Unreadable::new();
    let messages = rows
        .iter()
        .filter_map(|row| Cells::of(row).message_or_bad(&mut bad));
    let messages: Vec<Message> = messages.collect();
    if !bad.is_empty() {
        // Spoiled in flight: as good as deleted.
        let now = outcomes.iter().map(|outcome| outcome.ended_at).max();
        quarantine(transaction, &bad, now).await?;
    }
    Ok(found(outcomes, messages))
}

/// Readers that are not recorded yet, in columns. They are inserted with the commit, so that the turn is held no longer.
#[derive(Default)]
struct NewReaders {
    keys: Vec<String>,
    users: Vec<String>,
    seen_after: Vec<i64>,
    seen_at: Vec<i64>,
    read_at: Vec<Option<i64>>,
    from_event: Vec<i64>,
    /// Of readers that are recorded, when they read: keys, readers, times.
    times: (Vec<String>, Vec<String>, Vec<i64>),
}

impl NewReaders {
    async fn insert(&self, transaction: &mut Transaction<'_>) -> Result<()> {
        self.insert_new(transaction).await?;
        let (keys, users, read_at) = &self.times;
        if keys.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(TIMES).bind(keys).bind(users).bind(read_at);
        transaction.execute(query).await?;
        Ok(())
    }

    async fn insert_new(&self, transaction: &mut Transaction<'_>) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        if transaction.fetch(sqlx::query(TURN)).await?.len() != 1 {
            return Err(StoreError::Unusable(
                "the table turn has lost its row: INSERT INTO turn VALUES (1)".to_owned(),
            ));
        }
        let mut inserted = 0;
        for start in (0..self.keys.len()).step_by(READERS_A_STATEMENT) {
            let end = (start + READERS_A_STATEMENT).min(self.keys.len());
            fn part<T>(column: &[T], start: usize, end: usize) -> &[T] {
                column.get(start..end).unwrap_or_default()
            }
            let query = sqlx::query(READERS)
                .bind(part(&self.keys, start, end))
                .bind(part(&self.users, start, end))
                .bind(part(&self.seen_after, start, end))
                .bind(part(&self.seen_at, start, end))
                .bind(part(&self.read_at, start, end))
                .bind(part(&self.from_event, start, end));
            inserted += transaction.execute(query).await?;
        }
        if inserted == self.keys.len() as u64 {
            return Ok(());
        }
        // Somebody recorded one of them meanwhile, though the message was locked: what was counted is wrong. Begun again, it
        // is known.
        Err(StoreError::Busy)
    }
}

/// Finds out which readers are new, and notes how many and how many are recorded with them. The messages are locked, and
/// whoever records readers locks theirs first, so that this stays true until the commit.
async fn new_readers(
    transaction: &mut Transaction<'_>,
    outcomes: &[Outcome],
    found: &mut [Found],
) -> Result<NewReaders> {
    let counted = counted(outcomes, found);
    let mut new = NewReaders::default();
    if counted.is_empty() {
        return Ok(new);
    }
    let keys: Vec<&str> = counted
        .iter()
        .filter_map(|&place| outcomes.get(place))
        .map(|outcome| outcome.claim.key.as_str())
        .collect();
    let mut known = known_readers(transaction, &keys).await?;
    for (&place, known) in counted.iter().zip(&mut known) {
        let (Some(outcome), Some(found)) = (outcomes.get(place), found.get_mut(place)) else {
            continue;
        };
        let Some(row) = &found.row else { continue };
        let from_event = i64::from(outcome.end.is_pushed());
        let mut told = HashSet::new();
        for reader in &outcome.readers {
            let (user, read_at) = (clean(reader.user_id.as_str()), reader.read_at(row));
            let key = || outcome.claim.key.as_str().to_owned();
            // Of a reader named twice, the first counts, and so does the first time that is told.
            if known.users.insert(user.clone()) {
                found.new_readers += 1;
                found.read_at.extend(read_at);
                new.keys.push(key());
                new.users.push(user);
                new.seen_after.push(row.seen_until().0);
                new.seen_at.push(reader.seen_at.0);
                new.read_at.push(moment(read_at));
                new.from_event.push(from_event);
            } else if let Some(read) = reader.read_at
                && told.insert(user.clone())
            {
                new.times.0.push(key());
                new.times.1.push(user);
                new.times.2.push(read.0);
            }
        }
        found.recorded = Some(known.count + found.new_readers);
    }
    Ok(new)
}

/// The recorded readers of a key.
#[derive(Default)]
struct Known {
    users: HashSet<String>,
    count: u32,
}

/// The recorded readers of each key.
async fn known_readers(transaction: &mut Transaction<'_>, keys: &[&str]) -> Result<Vec<Known>> {
    let mut known: Vec<Known> = keys.iter().map(|_| Known::default()).collect();
    // Many readers of one message or few of many: in parts, so that a batch of large groups stays within bounds.
    let counts = sqlx::query(COUNTED_READERS).bind(keys);
    let rows = transaction.fetch(counts).await?;
    for (known, row) in known.iter_mut().zip(&rows) {
        known.count = u32::try_from(Cells::of(row).count("count")).unwrap_or(u32::MAX);
    }
    let mut first = 0;
    while first < keys.len() {
        let mut last = first;
        let mut readers = 0;
        while let Some(next) = known.get(last)
            && (last == first || readers + next.count as usize <= MOST_KNOWN)
        {
            readers += next.count as usize;
            last += 1;
        }
        if readers > 0 {
            let query = sqlx::query(KNOWN_READERS)
                .bind(keys.get(first..last).unwrap_or_default())
                .bind(limit_param(readers));
            for row in &transaction.fetch(query).await? {
                let mut cells = Cells::of(row);
                let place = usize::try_from(cells.required_number("place")).unwrap_or_default();
                if let (Some(known), Some(user)) = (
                    known.get_mut(first + place.saturating_sub(1)),
                    cells.text("user_id"),
                ) {
                    known.users.insert(user.to_owned());
                }
            }
        }
        first = last;
    }
    Ok(known)
}

/// Binds what [`UPDATE`] and [`UPDATE_PENDING`] begin with.
fn update<'q>(statement: &'static str, rows: &[&Message]) -> Query<'q> {
    let moments = |of: fn(&Message) -> Option<UnixMs>| -> Vec<Option<i64>> {
        rows.iter().map(|row| moment(of(row))).collect()
    };
    let counts = |of: fn(&Message) -> u32| -> Vec<i64> {
        rows.iter().map(|row| i64::from(of(row))).collect()
    };
    sqlx::query(statement)
        .bind(rows.iter().map(|row| row.id.0).collect::<Vec<_>>())
        .bind(moments(|row| row.next_poll_at))
        .bind(counts(|row| row.reader_count))
        .bind(counts(|row| row.call_count))
        .bind(moments(|row| row.last_polled_at))
        .bind(moments(|row| row.last_complete_at))
        .bind(moments(|row| row.answered_at))
        .bind(counts(|row| u32::from(row.blocked)))
        .bind(
            rows.iter()
                .map(|row| {
                    row.send_status
                        .as_ref()
                        .map(|status| clean(status.as_str()))
                })
                .collect::<Vec<_>>(),
        )
        .bind(
            rows.iter()
                .map(|row| row.last_error.as_ref().map(|code| clean(code.as_str())))
                .collect::<Vec<_>>(),
        )
        .bind(moments(|row| row.last_error_at))
}

/// Binds counts as [`CALLS`] takes them: one for each lane and month, in their order.
fn add_calls<'q>(calls: &[CallCount]) -> Query<'q> {
    // A row cannot be inserted and updated by one statement.
    let mut sums: HashMap<(&LaneId, &str), CallCount> = HashMap::with_capacity(calls.len());
    for count in calls {
        let sum = sums
            .entry((&count.lane, &count.month))
            .or_insert_with(|| CallCount::nothing(count.lane.clone(), count.month.clone()));
        sum.calls += count.calls;
        sum.throttled += count.throttled;
        sum.messages += count.messages;
        sum.first_at = earliest(sum.first_at, count.first_at);
    }
    let mut calls: Vec<CallCount> = sums.into_values().collect();
    calls.sort_unstable_by(|a, b| (&a.lane, &a.month).cmp(&(&b.lane, &b.month)));
    let numbers = |of: fn(&CallCount) -> u64| -> Vec<i64> {
        calls
            .iter()
            .map(|count| i64::try_from(of(count)).unwrap_or(i64::MAX))
            .collect()
    };
    let texts = |of: fn(&CallCount) -> &str| -> Vec<String> {
        calls.iter().map(|count| of(count).to_owned()).collect()
    };
    sqlx::query(CALLS)
        .bind(texts(|count| count.lane.account.as_str()))
        .bind(texts(|count| corp_param(&count.lane)))
        .bind(texts(|count| &count.month))
        .bind(numbers(|count| count.calls))
        .bind(numbers(|count| count.throttled))
        .bind(numbers(|count| count.messages))
        .bind(
            calls
                .iter()
                .map(|count| moment(count.first_at))
                .collect::<Vec<_>>(),
        )
}
