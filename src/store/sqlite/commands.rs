//! What the commands and the summary ask.

use std::collections::BTreeMap;

use super::rows::{Cells, bounded, columns, decode};
use super::{SqliteStore, count, lane_of, limit_word, not_json, writes};
use crate::receipt::{LaneId, Message, MessageKey, State, UnixMs};
use crate::store::{CallCount, LaneTotals, NewMessage, Reader, Result, Selection};

/// ?1: rows as `[process_query_key, account, corp_id, robot_code, open_conversation_id, chat, expected_readers, sent_at,
/// next_poll_at]`.
const ADD: &str = "INSERT INTO messages (
        process_query_key, account, corp_id, robot_code, open_conversation_id, chat, expected_readers,
        sent_at, next_poll_at
    )
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
        ifnull(value ->> 7, CAST(round((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)),
        value ->> 8
    FROM json_each(?1) WHERE true
    ON CONFLICT DO NOTHING";

/// ?1: now. A row that has a place in the cadence keeps it, and one that never had one is polled at once all the same.
macro_rules! retried {
    () => {
        "UPDATE messages
        SET state = 'pending', next_poll_at = ?1, retried_at = ?1, admitted_at = ifnull(admitted_at, ?1),
            finished_at = NULL, last_chance_at = NULL, blocked = 0, last_error = NULL,
            last_error_at = NULL, not_before = NULL,
            reader_count = (SELECT count(*) FROM readers AS r WHERE r.process_query_key = messages.process_query_key)
        WHERE state IN ('failed', 'expired', 'cancelled') AND id IN "
    };
}

/// ?1: now, ?2: how many, ?3: keys.
const RETRY_KEYS: &str = concat!(
    retried!(),
    "(SELECT id FROM messages WHERE state IN ('failed', 'expired', 'cancelled')
        AND process_query_key IN (SELECT value FROM json_each(?3)) LIMIT +?2)"
);

/// ?1: now, ?2: how many, ?3: the state, ?4: the account, or NULL for all.
const RETRY_STATE: &str = concat!(
    retried!(),
    "(SELECT id FROM messages INDEXED BY messages_final
        WHERE state <> 'pending' AND state = ?3 AND (?4 IS NULL OR account = ?4) LIMIT +?2)"
);

/// ?1: the key.
const MESSAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM messages WHERE process_query_key = ?1"
);

/// ?1: now.
pub(super) const PENDING_TOTALS: &str = concat!(
    "SELECT ",
    bounded!("account"),
    ", ifnull(",
    bounded!("corp_id"),
    ", ''), count(*),
        sum(next_poll_at <= ?1), min(next_poll_at)
    FROM messages INDEXED BY messages_due
    WHERE state = 'pending' AND admitted_at IS NOT NULL
    GROUP BY account, ifnull(corp_id, '')"
);

/// ?1: now. A new row waits from its insert on, or from its feeder's `next_poll_at`.
const NEW_TOTALS: &str = concat!(
    "SELECT ",
    bounded!("account"),
    ", ifnull(",
    bounded!("corp_id"),
    ", ''), count(*),
        sum(ifnull(next_poll_at, inserted_at) <= ?1), min(ifnull(next_poll_at, inserted_at))
    FROM messages INDEXED BY messages_new
    WHERE admitted_at IS NULL AND state = 'pending'
    GROUP BY account, ifnull(corp_id, '')"
);

pub(super) const FINAL_TOTALS: &str = concat!(
    "SELECT ",
    bounded!("account"),
    ", ifnull(",
    bounded!("corp_id"),
    ", ''), ",
    bounded!("state"),
    ", count(*)
    FROM messages INDEXED BY messages_final
    WHERE state <> 'pending'
    GROUP BY account, ifnull(corp_id, ''), state"
);

impl SqliteStore {
    pub(super) async fn insert(&self, messages: &[NewMessage]) -> Result<u64> {
        if messages.is_empty() {
            return Ok(0);
        }
        let rows: Vec<_> = messages
            .iter()
            .map(|new| {
                (
                    new.key.as_str(),
                    new.account.as_str(),
                    new.corp.as_ref().map(crate::receipt::CorpId::as_str),
                    new.robot_code
                        .as_ref()
                        .map(crate::receipt::RobotCode::as_str),
                    new.conversation
                        .as_ref()
                        .map(crate::receipt::ConversationId::as_str),
                    new.chat.as_str(),
                    new.expected_readers,
                    new.sent_at.map(|at| at.0),
                    new.next_poll_at.map(|at| at.0),
                )
            })
            .collect();
        let mut transaction = self.writer.begin().await?;
        let added = sqlx::query(ADD)
            .bind(serde_json::to_string(&rows).map_err(not_json)?)
            .execute(&mut transaction.connection)
            .await?
            .rows_affected();
        transaction.commit().await?;
        Ok(added)
    }

    pub(super) async fn add_calls(&self, calls: &[CallCount]) -> Result<()> {
        let mut transaction = self.writer.begin().await?;
        writes::add_calls(&mut transaction.connection, calls).await?;
        transaction.commit().await
    }

    pub(super) async fn retry_final(
        &self,
        which: &Selection,
        now: UnixMs,
        limit: usize,
    ) -> Result<u64> {
        let statement = match which {
            Selection::Keys(keys) => {
                let keys: Vec<&str> = keys.iter().map(MessageKey::as_str).collect();
                sqlx::query(RETRY_KEYS)
                    .bind(now.0)
                    .bind(limit_word(limit))
                    .bind(serde_json::to_string(&keys).map_err(not_json)?)
            }
            Selection::InState(state, account) => sqlx::query(RETRY_STATE)
                .bind(now.0)
                .bind(limit_word(limit))
                .bind(state.as_str())
                .bind(account.as_ref().map(|account| account.as_str().to_owned())),
        };
        let mut transaction = self.writer.begin().await?;
        let retried = statement
            .execute(&mut transaction.connection)
            .await?
            .rows_affected();
        transaction.commit().await?;
        Ok(retried)
    }

    pub(super) async fn one_message(
        &self,
        key: &MessageKey,
    ) -> Result<Option<(Message, Vec<Reader>)>> {
        let rows = sqlx::query(MESSAGE)
            .bind(key.as_str())
            .fetch_all(&self.readers)
            .await?;
        // A row that was set aside is shown as far as it can be read: its error says what is wrong with it.
        let Some(message) = rows.first().map(|row| decode(row).message) else {
            return Ok(None);
        };
        let rows = sqlx::query(
            "SELECT user_id, seen_after, seen_at FROM readers WHERE process_query_key = ?1 ORDER BY id",
        )
        .bind(key.as_str())
        .fetch_all(&self.readers)
        .await?;
        let readers = rows.iter().map(|row| {
            let mut cells = Cells::new(row);
            Reader {
                user_id: cells.text("user_id").unwrap_or_default().into(),
                seen_after: UnixMs(cells.required_number("seen_after")),
                seen_at: UnixMs(cells.required_number("seen_at")),
            }
        });
        Ok(Some((message, readers.collect())))
    }

    pub(super) async fn lane_totals(&self, now: UnixMs) -> Result<Vec<LaneTotals>> {
        let mut lanes: BTreeMap<LaneId, LaneTotals> = BTreeMap::new();
        let entry = |lanes: &mut BTreeMap<LaneId, LaneTotals>,
                     lane: LaneId,
                     add: &dyn Fn(&mut LaneTotals)| {
            add(lanes.entry(lane.clone()).or_insert_with(|| LaneTotals {
                lane,
                pending: 0,
                due: 0,
                oldest_due: None,
                finished: [0; 5],
            }));
        };
        for statement in [PENDING_TOTALS, NEW_TOTALS] {
            let rows = sqlx::query(statement)
                .bind(now.0)
                .fetch_all(&self.readers)
                .await?;
            for row in &rows {
                let mut cells = Cells::new(row);
                let Some(lane) = lane_of(&mut cells) else {
                    continue;
                };
                let pending = count(cells.required_number("pending"));
                let due = count(cells.required_number("due"));
                let first = cells.moment("first").filter(|&first| first <= now);
                entry(&mut lanes, lane, &|totals| {
                    totals.pending += pending;
                    totals.due += due;
                    totals.oldest_due = match (totals.oldest_due, first) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    };
                });
            }
        }
        let rows = sqlx::query(FINAL_TOTALS).fetch_all(&self.readers).await?;
        for row in &rows {
            let mut cells = Cells::new(row);
            let Some(lane) = lane_of(&mut cells) else {
                continue;
            };
            let state = cells.text("state").and_then(State::parse);
            let number = count(cells.required_number("count"));
            let place = State::ALL
                .iter()
                .skip(1)
                .position(|known| Some(*known) == state);
            entry(&mut lanes, lane, &|totals| {
                if let Some(cell) = place.and_then(|place| totals.finished.get_mut(place)) {
                    *cell += number;
                }
            });
        }
        Ok(lanes.into_values().collect())
    }
}
