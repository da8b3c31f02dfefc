//! The reconciler's group commit: many outcomes, one transaction, a handful of statements.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use sqlx::SqliteExecutor;
use sqlx::sqlite::{SqliteConnection, SqlitePool};

use super::quarantine::quarantine;
use super::readers::record_readers;
use super::rows::{number, read, select_messages, text};
use super::writer::Transaction;
use super::{SqliteStore, corp_param, events, execute, ids_json, json, lanes_json};
use crate::receipt::{Doubt, ErrorCode, LaneId, Message, MessageId, Outcome, SendStatus, UnixMs};
use crate::store::batch::{found, pending_and_changed, token};
use crate::store::cells::Unreadable;
use crate::store::{
    Begun, CallCount, Found, HabitsRow, Owed, ReadEvents, Result, Results, ResultsTransaction,
    Writes,
};

/// ?1: ids.
pub(super) const ROWS: &str =
    select_messages!(" FROM messages AS m WHERE m.id IN (SELECT value FROM json_each(?1))");

/// ?1: rows in the order of [`Owned`], of which the columns are set that are given. `jsonb_each` hands each row on as SQLite's
/// own binary form, out of which a cell is taken without parsing the row again (`json_each` took half as long again).
macro_rules! update {
    ($($also:literal)?) => {
        concat!(
            "UPDATE messages
            SET next_poll_at = value ->> 1, reader_count = value ->> 2, call_count = value ->> 3,
                last_polled_at = value ->> 4, last_complete_at = value ->> 5, answered_at = value ->> 6,
                blocked = value ->> 7, send_status = value ->> 8, last_error = value ->> 9,
                last_error_at = value ->> 10",
            $($also,)?
            " FROM jsonb_each(?1) AS new WHERE messages.id = new.value ->> 0"
        )
    };
}

/// A row that changes its state or its place.
pub(super) const UPDATE: &str = update!(
    ", state = value ->> 11, finished_at = value ->> 12, admitted_at = value ->> 13, last_chance_at = value ->> 14,
        failed_walks = value ->> 15, failed_calls = value ->> 16, doubt = value ->> 17, doubt_at = value ->> 18,
        listed = value ->> 19"
);

/// A row that stays pending, as most do: every column that is left out saves the indexes that depend on it, and the
/// triggers.
pub(super) const UPDATE_PENDING: &str = update!();

/// ?1: counts as `[account, corp_id, month, calls, throttled, messages, first_at]`.
const CALLS: &str =
    "INSERT INTO api_calls (account, corp_id, month, calls, throttled, messages, first_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
    FROM jsonb_each(?1) WHERE true
    ON CONFLICT (account, corp_id, month) DO UPDATE
    SET calls = calls + excluded.calls, throttled = throttled + excluded.throttled,
        messages = messages + excluded.messages,
        first_at = min(ifnull(first_at, excluded.first_at), ifnull(excluded.first_at, first_at))";

/// ?1: habits as `[account, corp_id, chat, habits]`.
const SAVE_HABITS: &str = "INSERT INTO habits (account, corp_id, chat, habits)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?1) WHERE true
    ON CONFLICT (account, corp_id, chat) DO UPDATE SET habits = excluded.habits";

/// A row of `habits AS h`. They are longer than other text.
macro_rules! habits {
    ($tail:literal) => {
        concat!(
            "SELECT json_group_array(json_array(",
            text!("h.account"),
            ", ",
            text!("h.corp_id"),
            ", ",
            text!("h.chat"),
            ", iif(h.habits >= x'', 0, h.habits)))",
            $tail
        )
    };
}

/// ?1: lanes as `[account, corp_id]`.
const HABITS: &str = habits!(
    " FROM json_each(?1) AS lane CROSS JOIN habits AS h
    ON h.account = lane.value ->> 0 AND h.corp_id = lane.value ->> 1"
);

pub(super) const ALL_HABITS: &str = habits!(" FROM habits AS h");

/// ?1: the month.
const CALLS_IN: &str = concat!(
    "SELECT json_group_array(json_array(",
    text!("account"),
    ", ",
    text!("corp_id"),
    ", ",
    number!("calls"),
    ", ",
    number!("throttled"),
    ", ",
    number!("messages"),
    ", ",
    number!("first_at"),
    "))
    FROM api_calls WHERE month = ?1"
);

/// ?1: until when.
pub(super) const OWED: &str = concat!(
    "SELECT json_group_array(json_array(account, lane_corp, until, in_all)) FROM (
        SELECT ",
    text!("account"),
    " AS account, ",
    text!("lane_corp"),
    " AS lane_corp,
            sum(last_chance_at < ?1) AS until, count(*) AS in_all
        FROM messages INDEXED BY messages_last_chance
        WHERE state = 'pending' AND lane_corp IS NOT NULL AND last_chance_at IS NOT NULL
        GROUP BY messages.account, messages.lane_corp
    )"
);

/// ?1: the suite.
const TICKET: &str = concat!(
    "SELECT json_group_array(json_array(",
    text!("ticket"),
    ")) FROM suite_tickets WHERE suite_key = ?1"
);

const LAST_COMMIT: &str = "SELECT json_group_array(json_array(token)) FROM last_commit";

/// ?1: the transaction's token.
const MARK: &str = "INSERT INTO last_commit (only_row, token) VALUES (1, ?1)
    ON CONFLICT (only_row) DO UPDATE SET token = excluded.token";

#[async_trait]
impl Results for SqliteStore {
    async fn begin<'s>(&'s self, outcomes: &[Outcome]) -> Result<Begun<'s>> {
        let token = token(outcomes);
        let mut transaction = self.writer.begin().await?;
        let connection = &mut transaction.connection;
        // Asked within the transaction: a COMMIT that was dropped on its way holds the lock until it is done.
        if self.unsure.load(Ordering::Acquire) {
            let took_place = last_token(&mut *connection).await?.as_ref() == Some(&token);
            self.unsure.store(false, Ordering::Release);
            if took_place {
                transaction.commit().await?;
                return Ok(Begun::AlreadyCommitted);
            }
        }
        let mut found = find(connection, outcomes).await?;
        record_readers(connection, outcomes, &mut found).await?;
        Ok(Begun::Open(Box::new(Open {
            transaction,
            found,
            token,
            unsure: &self.unsure,
            readers: &self.readers,
        })))
    }

    /// A file has one owner: no lane is another's.
    async fn read_events(
        &self,
        _without: &[LaneId],
        limit: usize,
        now: UnixMs,
    ) -> Result<ReadEvents> {
        self.pushed(limit, now).await
    }

    async fn habits(&self, lanes: &[LaneId]) -> Result<Vec<HabitsRow>> {
        self.read_habits(sqlx::query(HABITS).bind(lanes_json(lanes)?))
            .await
    }

    async fn save_habits(&self, habits: &[HabitsRow]) -> Result<()> {
        if habits.is_empty() {
            return Ok(());
        }
        let habits: Vec<_> = habits
            .iter()
            .map(|row| {
                (
                    row.lane.account.as_str(),
                    corp_param(&row.lane),
                    row.chat.as_str(),
                    &row.habits,
                )
            })
            .collect();
        self.write(sqlx::query(SAVE_HABITS).bind(json(&habits)?))
            .await?;
        Ok(())
    }

    async fn calls_in(&self, month: &str) -> Result<Vec<CallCount>> {
        let query = sqlx::query(CALLS_IN).bind(month);
        let rows = read(&self.readers, query, |cells| {
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
        Ok(rows.await?.into_iter().flatten().collect())
    }

    async fn owed(&self, until: UnixMs) -> Result<Vec<Owed>> {
        let query = sqlx::query(OWED).bind(until.0);
        let rows = read(&self.readers, query, |cells| {
            let owed = Owed {
                lane: cells.lane(),
                until: cells.count("until"),
                in_all: cells.count("in_all"),
            };
            cells.valid(owed)
        });
        Ok(rows.await?.into_iter().flatten().collect())
    }

    async fn count_calls(&self, calls: &[CallCount]) -> Result<()> {
        if calls.is_empty() {
            return Ok(());
        }
        let calls = call_rows(calls)?;
        self.write(sqlx::query(CALLS).bind(calls)).await?;
        Ok(())
    }

    async fn suite_ticket(&self, suite_key: &str) -> Result<Option<String>> {
        let query = sqlx::query(TICKET).bind(suite_key);
        let rows = read(&self.readers, query, |cells| {
            cells.text("ticket").map(Cow::into_owned)
        });
        Ok(rows.await?.pop().flatten())
    }
}

impl SqliteStore {
    pub(super) async fn read_habits(
        &self,
        query: super::rows::Query<'_>,
    ) -> Result<Vec<HabitsRow>> {
        let rows = read(&self.readers, query, |cells| {
            let row = HabitsRow {
                lane: cells.lane(),
                chat: cells.chat(),
                habits: cells.required_text("habits").into_owned(),
                lease: None,
            };
            cells.valid(row)
        });
        Ok(rows.await?.into_iter().flatten().collect())
    }
}

/// An open transaction of results.
struct Open<'s> {
    transaction: Transaction<'s>,
    found: Vec<Found>,
    token: String,
    unsure: &'s AtomicBool,
    readers: &'s SqlitePool,
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
            token,
            unsure,
            readers,
        } = *self;
        let connection = &mut transaction.connection;
        let (pending, changed) = pending_and_changed(&found, &writes.messages);
        for (statement, rows) in [(UPDATE_PENDING, pending), (UPDATE, changed)] {
            if !rows.is_empty() {
                let rows: Vec<Owned<'_>> = rows.into_iter().map(owned).collect();
                execute(connection, sqlx::query(statement).bind(json(&rows)?)).await?;
            }
        }
        if !writes.calls.is_empty() {
            let query = sqlx::query(CALLS).bind(call_rows(&writes.calls)?);
            execute(connection, query).await?;
        }
        events::write(connection, &writes.events).await?;
        execute(connection, sqlx::query(MARK).bind(&*token)).await?;
        fail::fail_point!("store.commit.before", |_| std::process::abort());
        // Before the COMMIT and not after its failure: this future may be dropped while it waits for it.
        unsure.store(true, Ordering::Release);
        if let Err(error) = transaction.commit().await {
            // Ask at once: mostly the answer is clear. Where it can't be had, the repeat asks. On a connection that reads
            // what is committed, which the writer's may not after a failure.
            let Ok(last) = last_token(readers).await else {
                return Err(error);
            };
            unsure.store(false, Ordering::Release);
            if last != Some(token) {
                return Err(error);
            }
        }
        unsure.store(false, Ordering::Release);
        fail::fail_point!("store.commit.after", |_| std::process::abort());
        Ok(())
    }
}

/// The token of the last transaction of results.
async fn last_token(source: impl SqliteExecutor<'_>) -> Result<Option<String>> {
    let tokens = read(source, sqlx::query(LAST_COMMIT), |cells| {
        cells.text("token").map(Cow::into_owned)
    });
    Ok(tokens.await?.pop().flatten())
}

/// The outcomes' rows as they are now.
async fn find(connection: &mut SqliteConnection, outcomes: &[Outcome]) -> Result<Vec<Found>> {
    let ids: Vec<MessageId> = outcomes.iter().map(|outcome| outcome.claim.id).collect();
    let query = sqlx::query(ROWS).bind(ids_json(&ids));
    let mut bad = Unreadable::new();
    let rows = read(&mut *connection, query, |cells| {
        cells.message_or_bad(&mut bad)
    })
    .await?;
    if !bad.is_empty() {
        // Spoiled in flight: as good as deleted.
        let now = outcomes.iter().map(|outcome| outcome.ended_at).max();
        quarantine(connection, &bad, now).await?;
    }
    Ok(found(outcomes, rows.into_iter().flatten()))
}

/// Counts as [`CALLS`] takes them.
fn call_rows(calls: &[CallCount]) -> Result<String> {
    let calls: Vec<_> = calls
        .iter()
        .map(|count| {
            (
                count.lane.account.as_str(),
                corp_param(&count.lane),
                &count.month,
                count.calls,
                count.throttled,
                count.messages,
                count.first_at.map(|at| at.0),
            )
        })
        .collect();
    json(&calls)
}

/// What receiptd owns of a row, in the order of [`UPDATE`].
#[derive(serde::Serialize)]
struct Owned<'a>(
    i64,
    Option<i64>,
    u32,
    u32,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    u8,
    Option<&'a str>,
    Option<&'a str>,
    Option<i64>,
    &'a str,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    u32,
    u32,
    Option<&'a str>,
    Option<i64>,
    Option<u32>,
);

fn owned(row: &Message) -> Owned<'_> {
    let moment = |at: Option<UnixMs>| at.map(|at| at.0);
    Owned(
        row.id.0,
        moment(row.next_poll_at),
        row.reader_count,
        row.call_count,
        moment(row.last_polled_at),
        moment(row.last_complete_at),
        moment(row.answered_at),
        u8::from(row.blocked),
        row.send_status.as_ref().map(SendStatus::as_str),
        row.last_error.as_ref().map(ErrorCode::as_str),
        moment(row.last_error_at),
        row.state.as_str(),
        moment(row.finished_at),
        moment(row.admitted_at),
        moment(row.last_chance_at),
        row.failed_walks,
        row.failed_calls,
        row.doubt.as_ref().map(|Doubt { code, .. }| code.as_str()),
        row.doubt.as_ref().map(|doubt| doubt.at.0),
        row.listed,
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, claim, commit};
    use super::*;
    use crate::receipt::{Claim, WalkEnd};
    use crate::store::EventWrites;

    /// A COMMIT that failed may have taken place all the same: repeated, its calls must not be counted twice.
    #[tokio::test]
    async fn a_repeated_commit_that_took_place_is_not_counted_twice() {
        let (_dir, store) = testing::store().await;
        let (row, claim) = claim(&store).await;
        // Neither this one's row nor that of a message that is gone could tell.
        let without_a_call = Outcome::without_call(claim.clone(), UnixMs(1), WalkEnd::Released);
        let gone = Claim {
            id: MessageId(99),
            ..claim
        };
        let of_nobody = Outcome {
            calls: 3,
            throttled: 1,
            ..Outcome::without_call(gone, UnixMs(1), WalkEnd::Complete)
        };
        let outcomes = [without_a_call, of_nobody];
        let writes = Writes {
            messages: vec![row.clone()],
            calls: vec![CallCount {
                calls: 3,
                throttled: 1,
                ..CallCount::nothing(row.lane.clone(), "2026-11".to_owned())
            }],
            events: EventWrites::default(),
        };
        let counted = async || store.calls_in("2026-11").await.unwrap()[0].calls;
        assert_eq!(commit(&store, &outcomes, &writes).await.len(), 2);
        assert_eq!(counted().await, 3);
        store.unsure.store(true, Ordering::Release);
        assert_eq!(commit(&store, &outcomes, &writes).await, []);
        assert_eq!(counted().await, 3);
        // One that did not take place is done now.
        store.unsure.store(true, Ordering::Release);
        assert_eq!(commit(&store, &outcomes[..1], &writes).await.len(), 1);
        assert_eq!(counted().await, 6);
    }
}
