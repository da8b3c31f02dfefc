//! The reconciler's group commit: many outcomes, one transaction, a handful of statements.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use sqlx::sqlite::SqliteConnection;

use super::batch::{self, Select, Source, select};
use super::claims::set_aside;
use super::rows::Cells;
use super::writes::{json, write};
use super::{SqliteStore, ids_json, lane_of, not_json};
use crate::receipt::{Message, MessageId, Outcome, UserId};
use crate::store::{Found, HabitsRow, Result, Writes};

/// ?1: ids.
pub(super) const ROWS: Select =
    select!(" FROM messages WHERE id IN (SELECT value FROM json_each(?1))");

/// ?1: readers as `[process_query_key, user_id, seen_after, seen_at]`. Who is known already stays as recorded.
const READERS: &str = "INSERT INTO readers (process_query_key, user_id, seen_after, seen_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3 FROM jsonb_each(?1) WHERE true
    ON CONFLICT DO NOTHING";

/// ?1: keys, ?2: how many readers at most. As one text: see [`batch`].
const KNOWN_READERS: &str = "SELECT json_group_array(json_array(process_query_key, user_id)) FROM (
        SELECT process_query_key, user_id FROM readers
        WHERE process_query_key IN (SELECT value FROM json_each(?1))
            AND typeof(user_id) = 'text' AND octet_length(user_id) <= 512
        LIMIT +?2
    )";

const LAST_READER: &str = "SELECT ifnull(max(id), 0) FROM readers";

/// ?1: the last reader before. As one text: see [`batch`].
const NEW_READERS: &str = "SELECT json_group_array(json_array(process_query_key, user_id))
    FROM (SELECT process_query_key, user_id FROM readers WHERE id > ?1 ORDER BY id)";

/// ?1: the transaction's token.
const MARK: &str = "INSERT INTO last_commit (only_row, token) VALUES (1, ?1)
    ON CONFLICT (only_row) DO UPDATE SET token = excluded.token";

/// Readers a statement: bounds the text that carries them.
const READERS_A_STATEMENT: usize = 10_000;

/// Known readers that are asked for: bounds the text that they come in.
const MOST_KNOWN: i64 = 100_000;

/// A commit of which it is not known whether it took place.
#[derive(Debug)]
pub(super) struct Unsure {
    token: String,
    outcomes: u64,
}

/// Tells a repeated batch from another one: no walk starts and ends twice.
fn fingerprint(outcomes: &[Outcome]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for outcome in outcomes {
        let Outcome {
            claim,
            started_at,
            ended_at,
            calls,
            ..
        } = outcome;
        (claim.id, claim.fence, started_at, ended_at, calls).hash(&mut hasher);
    }
    hasher.finish()
}

impl SqliteStore {
    pub(super) async fn commit_outcomes<D>(&self, outcomes: &[Outcome], mut decide: D) -> Result<()>
    where
        D: FnMut(&[Found<'_>]) -> Writes + Send,
    {
        // Held to the end: there is one reconciler, and a repeat must see what the attempt before it left here.
        let mut unsure = self.unsure.lock().await;
        let mut transaction = self.writer.begin().await?;
        let connection = &mut transaction.connection;
        if let Some(attempt) = &*unsure {
            // Asked within the transaction: a COMMIT that was dropped on its way holds the lock until it is done.
            let took_place = last_token(&mut *connection).await?.as_ref() == Some(&attempt.token);
            let repeated = attempt.outcomes == fingerprint(outcomes);
            *unsure = None;
            if took_place && repeated {
                return Ok(());
            }
        }
        let mut found = find(connection, outcomes).await?;
        record_readers(connection, &mut found).await?;
        let writes = decide(&found);
        write(connection, &found, &writes).await?;
        let token = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        sqlx::query(MARK)
            .bind(&*token)
            .execute(&mut *connection)
            .await?;
        fail::fail_point!("store.commit.before", |_| std::process::abort());
        // Before the COMMIT and not after its failure: this future may be dropped while it waits for it.
        *unsure = Some(Unsure {
            token: token.clone(),
            outcomes: fingerprint(outcomes),
        });
        if let Err(error) = transaction.commit().await {
            // Ask at once: mostly the answer is clear. Where it can't be had, the repeat asks.
            // On a connection that reads what is committed, which the writer's may not after a failure.
            let took_place = match last_token(&self.readers).await {
                Ok(last) => last == Some(token),
                Err(_) => return Err(error),
            };
            if !took_place {
                *unsure = None;
                return Err(error);
            }
        }
        *unsure = None;
        fail::fail_point!("store.commit.after", |_| std::process::abort());
        Ok(())
    }

    pub(super) async fn stored_habits(&self) -> Result<Vec<HabitsRow>> {
        let rows = sqlx::query("SELECT account, corp_id, habits FROM habits")
            .fetch_all(&self.readers)
            .await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let mut cells = Cells::new(row);
                Some(HabitsRow {
                    lane: lane_of(&mut cells)?,
                    habits: cells.text("habits")?.to_owned(),
                })
            })
            .collect())
    }
}

/// The token of the last transaction of results.
async fn last_token(source: impl sqlx::SqliteExecutor<'_>) -> Result<Option<String>> {
    let rows = sqlx::query("SELECT token FROM last_commit")
        .fetch_all(source)
        .await?;
    Ok(rows
        .first()
        .and_then(|row| Cells::new(row).text("token").map(str::to_owned)))
}

/// The outcomes' rows as they are now.
async fn find<'a>(
    connection: &mut SqliteConnection,
    outcomes: &'a [Outcome],
) -> Result<Vec<Found<'a>>> {
    let ids: Vec<MessageId> = outcomes.iter().map(|outcome| outcome.claim.id).collect();
    let ids = ids_json(&ids);
    let source = Source::Connection(&mut *connection);
    let rows = batch::read(source, &ROWS, |query| query.bind(ids.clone())).await?;
    let mut messages: HashMap<MessageId, Message> = HashMap::with_capacity(rows.len());
    let mut bad = Vec::new();
    for decoded in rows {
        match decoded.invalid {
            // Spoiled in flight: as good as deleted.
            Some(column) => bad.push((decoded.message.id, column)),
            None => drop(messages.insert(decoded.message.id, decoded.message)),
        }
    }
    if !bad.is_empty() {
        let now = outcomes.iter().map(|outcome| outcome.ended_at).max();
        set_aside(connection, &bad, now).await?;
    }
    Ok(outcomes
        .iter()
        .map(|outcome| Found {
            outcome,
            // A row that bears another key by now is another message.
            row: messages
                .remove(&outcome.claim.id)
                .filter(|row| row.key == outcome.claim.key),
            new_readers: Vec::new(),
        })
        .collect())
}

/// The readers that are recorded of messages that had some, as one JSON text of `[key, user_id]`. A group names all its
/// readers at each poll, and to find each known costs a third of an attempt to insert it. What is left out here is found at
/// the INSERT.
async fn known_readers(connection: &mut SqliteConnection, found: &[Found<'_>]) -> Result<String> {
    let keys: Vec<&str> = found
        .iter()
        .filter(|found| !found.outcome.readers.is_empty())
        .filter_map(|found| found.row.as_ref())
        .filter(|row| row.reader_count > 0)
        .map(|row| row.key.as_str())
        .collect();
    if keys.is_empty() {
        return Ok("[]".to_owned());
    }
    let rows = sqlx::query(KNOWN_READERS)
        .bind(json(&keys)?)
        .bind(MOST_KNOWN)
        .fetch_all(connection)
        .await?;
    let text = rows.first().and_then(|row| Cells::new(row).text("readers"));
    Ok(text.unwrap_or("[]").to_owned())
}

/// Readers as `[key, user_id]`.
fn named(text: &str) -> Result<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
    serde_json::from_str(text).map_err(not_json)
}

/// Inserts the readers, and notes which were new.
async fn record_readers(connection: &mut SqliteConnection, found: &mut [Found<'_>]) -> Result<()> {
    let known = known_readers(&mut *connection, found).await?;
    // A neighbour's row that is no JSON costs the short cut, not the commit.
    let known = named(&known).unwrap_or_default();
    let known: HashSet<(&str, &str)> = known.iter().map(|(key, user)| (&**key, &**user)).collect();
    let mut readers = Vec::new();
    // Whose a reader is; of a key's readers named twice in a batch, the first counts.
    let mut owner: HashMap<(&str, &str), usize> = HashMap::new();
    for (index, found) in found.iter().enumerate() {
        let Some(row) = &found.row else { continue };
        let seen_after = row.last_complete_at.unwrap_or(row.sent_at);
        for reader in &found.outcome.readers {
            let key = found.outcome.claim.key.as_str();
            let user = reader.user_id.as_str();
            if known.contains(&(key, user)) {
                continue;
            }
            owner.entry((key, user)).or_insert(index);
            readers.push((key, user, seen_after.0, reader.seen_at.0));
        }
    }
    if readers.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(LAST_READER).fetch_all(&mut *connection).await?;
    let last = rows
        .first()
        .map_or(0, |row| Cells::new(row).required_number("max"));
    let mut recorded = 0;
    for chunk in readers.chunks(READERS_A_STATEMENT) {
        recorded += sqlx::query(READERS)
            .bind(json(chunk)?)
            .execute(&mut *connection)
            .await?
            .rows_affected();
    }
    if recorded == 0 {
        return Ok(());
    }
    // Nobody else writes in this transaction, and ids only grow: what lies beyond the last one is ours.
    let rows = sqlx::query(NEW_READERS)
        .bind(last)
        .fetch_all(&mut *connection)
        .await?;
    let text = rows.first().and_then(|row| Cells::new(row).text("readers"));
    let recorded = named(text.unwrap_or("[]"))?;
    let mut new: Vec<(usize, UserId)> = Vec::with_capacity(recorded.len());
    for (key, user) in &recorded {
        if let Some(&index) = owner.get(&(&**key, &**user)) {
            new.push((index, UserId::from(&**user)));
        }
    }
    drop(owner);
    for (index, user) in new {
        if let Some(found) = found.get_mut(index) {
            found.new_readers.push(user);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use crate::receipt::{Claim, SeenReader, State, UnixMs, WalkEnd};
    use crate::store::{CallCount, Store as _};

    /// A COMMIT that failed may have taken place all the same: repeated, its calls must not be counted twice.
    #[tokio::test]
    async fn a_repeated_commit_that_took_place_is_not_counted_twice() {
        let (_dir, store) = testing::store().await;
        store.add(&[testing::new("a")]).await.unwrap();
        let lane = store.new_lanes().await.unwrap().remove(0);
        let arrived = store.arrivals(&lane, &[], 1, UnixMs(0)).await.unwrap();
        let row = arrived[0].clone();
        let outcome = Outcome {
            claim: row.claim(),
            started_at: UnixMs(1),
            ended_at: UnixMs(2),
            calls: 3,
            throttled: 0,
            readers: Vec::new(),
            send_status: None,
            end: WalkEnd::Released,
        };
        let outcomes = [outcome];
        let decide = |found: &[Found<'_>]| Writes {
            messages: vec![Message {
                state: State::Expired,
                ..found[0].row.clone().unwrap()
            }],
            calls: vec![CallCount {
                lane: row.lane.clone(),
                month: "2026-11".to_owned(),
                calls: 3,
                throttled: 1,
                messages: 1,
                first_at: None,
            }],
            habits: Vec::new(),
        };
        store.commit(&outcomes, decide).await.unwrap();
        let counted = store.calls_in("2026-11").await.unwrap();
        let unsure = |token: String| Unsure {
            token,
            outcomes: fingerprint(&outcomes),
        };
        let token = last_token(&store.readers).await.unwrap().unwrap();
        *store.unsure.lock().await = Some(unsure(token));
        store.commit(&outcomes, decide).await.unwrap();
        assert_eq!(store.calls_in("2026-11").await.unwrap(), counted);
        // One that did not take place is done now.
        *store.unsure.lock().await = Some(unsure("another".to_owned()));
        store.commit(&outcomes, decide).await.unwrap();
        assert_eq!(store.calls_in("2026-11").await.unwrap()[0].calls, 6);
    }

    /// A group's readers come again with every poll, and a neighbour may have put anything beside them.
    #[tokio::test]
    async fn known_readers_use_up_no_ids_and_spoiled_ones_stop_no_commit() {
        let (_dir, store) = testing::store().await;
        store.add(&[testing::new("a")]).await.unwrap();
        let lane = store.new_lanes().await.unwrap().remove(0);
        let row = store.arrivals(&lane, &[], 1, UnixMs(0)).await.unwrap();
        let claim = row[0].claim();
        assert_eq!(new_readers(&store, &claim, 3).await, 3);
        assert_eq!(new_readers(&store, &claim, 4).await, 1);
        let rows = sqlx::query(LAST_READER).fetch_all(&store.readers).await;
        assert_eq!(Cells::new(&rows.unwrap()[0]).required_number("max"), 4);
        let mut transaction = store.writer.begin().await.unwrap();
        sqlx::raw_sql(
            "INSERT INTO readers (process_query_key, user_id, seen_after, seen_at)
             VALUES ('a', x'ff00', 1, 1), ('a', CAST(x'ff' AS TEXT), 1, 1)",
        )
        .execute(&mut transaction.connection)
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(new_readers(&store, &claim, 5).await, 1);
    }

    /// Commits a walk that saw so many readers; how many of them were new.
    async fn new_readers(store: &SqliteStore, claim: &Claim, users: u32) -> usize {
        let reader = |number| SeenReader {
            user_id: UserId::from(format!("user-{number}")),
            seen_at: UnixMs(2),
        };
        let outcome = Outcome {
            readers: (0..users).map(reader).collect(),
            ..Outcome::without_call(claim.clone(), UnixMs(1), WalkEnd::Complete)
        };
        let mut new = 0;
        let decide = |found: &[Found<'_>]| {
            new = found[0].new_readers.len();
            let row = found[0].row.clone().unwrap();
            Writes {
                messages: vec![Message {
                    reader_count: users,
                    ..row
                }],
                ..Writes::default()
            }
        };
        store.commit(&[outcome], decide).await.unwrap();
        new
    }
}
