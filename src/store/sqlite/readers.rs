//! Recording the readers that a batch of outcomes names, each once.

use std::borrow::Cow;
use std::collections::HashSet;

use sqlx::sqlite::SqliteConnection;

use super::rows::{fetch, read};
use super::{execute, json, limit_param};
use crate::receipt::Outcome;
use crate::store::batch::counted;
use crate::store::{Found, Result};

/// ?1: keys, ?2: how many readers at most. The recorded readers as `[place of the key, user_id]`: to read all that are
/// known of a group costs less than to look for each that a poll names, and far less than to insert it again. A corrupt
/// `user_id` is left out, but not from the count.
pub(super) const KNOWN_READERS: &str = "SELECT json_group_array(json_array(key, user_id)) FROM (
        SELECT k.key, iif(r.user_id >= x'' OR octet_length(r.user_id) > 512, NULL, r.user_id) AS user_id
        FROM json_each(?1) AS k CROSS JOIN readers AS r ON r.process_query_key = k.value
        LIMIT +?2
    )";

/// ?1: keys. How many readers are recorded of each.
const COUNTED_READERS: &str = "SELECT json_group_array(json_array(
        (SELECT count(*) FROM readers WHERE process_query_key = k.value)
    )) FROM json_each(?1) AS k";

/// ?1: readers as `[process_query_key, user_id, seen_after, seen_at, read_at, from_event]`. Who is known already stays as
/// recorded.
const READERS: &str = "INSERT INTO readers (process_query_key, user_id, seen_after, seen_at, read_at, from_event)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM jsonb_each(?1) WHERE true
    ON CONFLICT DO NOTHING";

/// ?1: recorded readers as `[process_query_key, user_id, read_at]`. What is known already stays; what is not lies between
/// two polls, or the sending and a poll.
const TIMES: &str = "UPDATE readers SET read_at = min(seen_at, max(seen_after, new.value ->> 2))
    FROM jsonb_each(?1) AS new
    WHERE process_query_key = new.value ->> 0 AND user_id = new.value ->> 1 AND read_at IS NULL";

/// Readers a statement: bounds the text that carries them.
const READERS_A_STATEMENT: usize = 10_000;

/// Known readers that are asked for: bounds the text that they come in.
const MOST_KNOWN: usize = 100_000;

/// Inserts the readers, and notes how many were new and how many are recorded now.
pub(super) async fn record_readers(
    connection: &mut SqliteConnection,
    outcomes: &[Outcome],
    found: &mut [Found],
) -> Result<()> {
    let counted = counted(outcomes, found);
    if counted.is_empty() {
        return Ok(());
    }
    let keys: Vec<&str> = counted
        .iter()
        .filter_map(|&place| outcomes.get(place))
        .map(|outcome| outcome.claim.key.as_str())
        .collect();
    let keys = json(&keys)?;
    let mut known: Vec<Known<'_>> = counted.iter().map(|_| Known::default()).collect();
    let query = sqlx::query(KNOWN_READERS)
        .bind(&*keys)
        .bind(limit_param(MOST_KNOWN));
    let recorded = fetch(&mut *connection, query).await?;
    let recorded = recorded.decode(|cells| {
        let place = usize::try_from(cells.required_number("key")).unwrap_or(usize::MAX);
        if let Some(known) = known.get_mut(place) {
            known.count += 1;
            known.users.extend(cells.text("user_id"));
        }
    })?;
    let all_read = recorded.len() < MOST_KNOWN;
    if !all_read {
        for (known, count) in known
            .iter_mut()
            .zip(count_readers(connection, &keys).await?)
        {
            known.count = count;
        }
    }
    let mut new_rows = Vec::new();
    let mut times = Vec::new();
    for (&place, known) in counted.iter().zip(&mut known) {
        let (Some(outcome), Some(found)) = (outcomes.get(place), found.get_mut(place)) else {
            continue;
        };
        let Some(row) = &found.row else { continue };
        let key = outcome.claim.key.as_str();
        let from_event = u8::from(outcome.end.is_pushed());
        let mut told = HashSet::new();
        for reader in &outcome.readers {
            let (user, read_at) = (reader.user_id.as_str(), reader.read_at(row));
            // Of a reader named twice, the first counts, and so does the first time that is told.
            if known.users.insert(Cow::Borrowed(user)) {
                known.new += 1;
                found.read_at.extend(read_at);
                let read_at = read_at.map(|at| at.0);
                let (after, at) = (row.seen_until().0, reader.seen_at.0);
                new_rows.push((key, user, after, at, read_at, from_event));
            } else if let Some(read) = reader.read_at
                && told.insert(user)
            {
                times.push((key, user, read.0));
            }
        }
    }
    let mut inserted = 0;
    for rows in new_rows.chunks(READERS_A_STATEMENT) {
        inserted += execute(connection, sqlx::query(READERS).bind(json(rows)?)).await?;
    }
    // Behind them, since one that is named twice may be one of them.
    for rows in times.chunks(READERS_A_STATEMENT) {
        execute(connection, sqlx::query(TIMES).bind(json(rows)?)).await?;
    }
    let counts = if all_read && inserted == new_rows.len() as u64 {
        known.iter().map(|known| known.count + known.new).collect()
    } else {
        // Some were known that could not be read as text, or lie behind what is read at most.
        count_readers(connection, &keys).await?
    };
    for ((place, known), recorded) in counted.into_iter().zip(known).zip(counts) {
        if let Some(found) = found.get_mut(place) {
            found.new_readers = recorded.saturating_sub(known.count);
            found.recorded = Some(recorded);
        }
    }
    Ok(())
}

/// The recorded readers of a key.
#[derive(Default)]
struct Known<'a> {
    users: HashSet<Cow<'a, str>>,
    /// Those that cannot be read included.
    count: u32,
    new: u32,
}

/// How many readers are recorded of each key.
async fn count_readers(connection: &mut SqliteConnection, keys: &str) -> Result<Vec<u32>> {
    let query = sqlx::query(COUNTED_READERS).bind(keys);
    read(connection, query, |cells| {
        u32::try_from(cells.count("count")).unwrap_or(u32::MAX)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, claim, commit};
    use super::*;
    use crate::receipt::{Claim, SeenReader, UnixMs, UserId, WalkEnd};
    use crate::store::Writes;
    use crate::store::sqlite::SqliteStore;

    /// A group's readers come again with every poll, and a neighbour may have put anything beside them.
    #[tokio::test]
    async fn known_readers_use_up_no_ids_and_corrupt_ones_stop_no_commit() {
        let (_dir, store) = testing::store().await;
        let (_, claim) = claim(&store).await;
        assert_eq!(new_readers(&store, &claim, 0..3).await, (3, Some(3)));
        assert_eq!(new_readers(&store, &claim, 0..4).await, (1, Some(4)));
        let last: (i64,) = sqlx::query_as("SELECT max(id) FROM readers")
            .fetch_one(&store.readers)
            .await
            .unwrap();
        assert_eq!(last.0, 4);
        let mut transaction = store.writer.begin().await.unwrap();
        sqlx::raw_sql(
            "INSERT INTO readers (process_query_key, user_id, seen_after, seen_at)
             VALUES ('a', x'ff00', 1, 1), ('a', CAST(x'ff' AS TEXT), 1, 1),
                ('a', printf('user-%01000d', 7), 1, 1)",
        )
        .execute(&mut transaction.connection)
        .await
        .unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(new_readers(&store, &claim, 0..5).await, (1, Some(8)));
        // One that is known and too long to be looked for is no news either.
        let long = format!("user-{:01000}", 7);
        assert_eq!(
            named(&store, &claim, &[&long, "user-9"]).await,
            (1, Some(9))
        );
    }

    async fn new_readers(
        store: &SqliteStore,
        claim: &Claim,
        users: std::ops::Range<u32>,
    ) -> (u32, Option<u32>) {
        let users: Vec<String> = users.map(|number| format!("user-{number}")).collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        named(store, claim, &users).await
    }

    /// Commits a walk that saw those; how many of them were new, and how many are recorded.
    async fn named(store: &SqliteStore, claim: &Claim, users: &[&str]) -> (u32, Option<u32>) {
        let reader = |user: &&str| SeenReader {
            user_id: UserId::from(*user),
            seen_at: UnixMs(2),
            read_at: None,
        };
        let outcome = Outcome {
            readers: users.iter().map(reader).collect(),
            ..Outcome::without_call(claim.clone(), UnixMs(1), WalkEnd::Complete)
        };
        let found = commit(store, &[outcome], &Writes::default()).await;
        (found[0].new_readers, found[0].recorded)
    }
}
