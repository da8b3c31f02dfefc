//! What commands ask, beside a daemon or without one.

use async_trait::async_trait;

use super::rows::{number, read, select_messages, text};
use super::{SqliteStore, json, limit_param, results, upkeep};
use crate::receipt::{ConversationId, CorpId, Message, MessageKey, RobotCode, State, UnixMs};
use crate::store::{Commands, HabitsRow, NewMessage, Pruned, Reader, Result, SeenBy, Selection};

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

/// ?1: now. A retried row is new, with a first poll at once: what was learned of its key stays, what went wrong does not.
macro_rules! retried {
    ($ids:literal) => {
        concat!(
            "UPDATE messages
            SET state = 'pending', next_poll_at = ?1, retried_at = ?1, admitted_at = NULL, lane_corp = NULL,
                not_before = NULL, finished_at = NULL, last_chance_at = NULL, blocked = 0, last_error = NULL,
                last_error_at = NULL, failed_walks = 0, failed_calls = 0, doubt = NULL, doubt_at = NULL
            WHERE state IN ('failed', 'expired', 'cancelled') AND id IN (",
            $ids,
            ")"
        )
    };
}

/// ?2: how many, ?3: keys.
const RETRY_KEYS: &str = retried!(
    "SELECT id FROM messages WHERE state IN ('failed', 'expired', 'cancelled')
        AND process_query_key IN (SELECT value FROM json_each(?3)) LIMIT +?2"
);

/// ?2: how many, ?3: the state, ?4: the account, or NULL for all.
const RETRY_STATE: &str = retried!(
    "SELECT id FROM messages INDEXED BY messages_final
        WHERE state <> 'pending' AND state = ?3 AND (?4 IS NULL OR account = ?4) LIMIT +?2"
);

/// ?1: the key.
const MESSAGE: &str = select_messages!(" FROM messages AS m WHERE m.process_query_key = ?1");

/// ?1: the key.
const READERS: &str = concat!(
    "SELECT json_group_array(json_array(user_id, seen_after, seen_at, read_at, from_event)) FROM (
        SELECT ",
    text!("user_id"),
    " AS user_id, ",
    number!("seen_after"),
    " AS seen_after, ",
    number!("seen_at"),
    " AS seen_at, ",
    number!("read_at"),
    " AS read_at, ",
    number!("from_event"),
    " AS from_event
        FROM readers WHERE process_query_key = ?1 ORDER BY id
    )"
);

#[async_trait]
impl Commands for SqliteStore {
    async fn add(&self, messages: &[NewMessage]) -> Result<u64> {
        if messages.is_empty() {
            return Ok(0);
        }
        let rows: Vec<_> = messages
            .iter()
            .map(|new| {
                (
                    new.key.as_str(),
                    new.account.as_str(),
                    new.corp.as_ref().map(CorpId::as_str),
                    new.robot_code.as_ref().map(RobotCode::as_str),
                    new.conversation.as_ref().map(ConversationId::as_str),
                    new.chat.as_str(),
                    new.expected_readers,
                    new.sent_at.map(|at| at.0),
                    new.next_poll_at.map(|at| at.0),
                )
            })
            .collect();
        self.write(sqlx::query(ADD).bind(json(&rows)?)).await
    }

    async fn retry(&self, which: &Selection, now: UnixMs, limit: usize) -> Result<u64> {
        let limit = limit_param(limit);
        let statement = match which {
            Selection::Keys(keys) => {
                let keys: Vec<&str> = keys.iter().map(MessageKey::as_str).collect();
                sqlx::query(RETRY_KEYS)
                    .bind(now.0)
                    .bind(limit)
                    .bind(json(&keys)?)
            }
            Selection::InState(state, account) => sqlx::query(RETRY_STATE)
                .bind(now.0)
                .bind(limit)
                .bind(state.as_str())
                .bind(account.as_ref().map(|account| account.as_str().to_owned())),
        };
        self.write(statement).await
    }

    async fn message(&self, key: &MessageKey) -> Result<Option<(Message, Vec<Reader>)>> {
        let query = sqlx::query(MESSAGE).bind(key.as_str());
        // A row that was quarantined is shown as far as it can be read: its error says what is wrong with it.
        let rows = read(&self.readers, query, |cells| Some(cells.message()));
        let Some(message) = rows.await?.pop().flatten() else {
            return Ok(None);
        };
        let query = sqlx::query(READERS).bind(key.as_str());
        let readers = read(&self.readers, query, |cells| Reader {
            user_id: (*cells.required_text("user_id")).into(),
            seen_after: UnixMs(cells.required_number("seen_after")),
            seen_at: UnixMs(cells.required_number("seen_at")),
            read_at: cells.moment("read_at"),
            seen_by: SeenBy::of_column(cells.required_number("from_event")),
        });
        Ok(Some((message, readers.await?)))
    }

    async fn all_habits(&self) -> Result<Vec<HabitsRow>> {
        self.read_habits(sqlx::query(results::ALL_HABITS)).await
    }

    async fn prunable(&self, before: UnixMs, state: Option<State>) -> Result<Pruned> {
        let query = sqlx::query(upkeep::PRUNABLE)
            .bind(before.0)
            .bind(state.map(State::as_str));
        let counts = read(&self.readers, query, |cells| Pruned {
            messages: cells.count("messages"),
            readers: cells.count("readers"),
            held: 0,
            events: cells.count("events"),
        });
        Ok(counts.await?.pop().unwrap_or_default())
    }

    /// The writer's connection last: the last one to close writes the log back into the file.
    async fn close(&self) {
        self.readers.close().await;
        self.wakeup.close().await;
        self.writer.close().await;
    }
}
