//! What commands ask, beside a daemon or without one.

use async_trait::async_trait;

use super::results::ALL_HABITS;
use super::rows::{Cells, columns};
use super::{PostgresStore, clean, limit_param, moment, upkeep};
use crate::receipt::{ConversationId, CorpId, Message, MessageKey, RobotCode, State, UnixMs};
use crate::store::{Commands, HabitsRow, NewMessage, Pruned, Reader, Result, SeenBy, Selection};

/// $1 to $9: rows, sorted by key.
const ADD: &str = "INSERT INTO messages (
        process_query_key, account, corp_id, robot_code, open_conversation_id, chat, expected_readers,
        sent_at, next_poll_at
    )
    SELECT key, account, corp_id, robot_code, conversation, chat, expected_readers,
        coalesce(sent_at, (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT), next_poll_at
    FROM unnest(
        $1::TEXT[], $2::TEXT[], $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::BIGINT[], $8::BIGINT[], $9::BIGINT[]
    ) AS new(key, account, corp_id, robot_code, conversation, chat, expected_readers, sent_at, next_poll_at)
    ON CONFLICT DO NOTHING";

/// $1: now. A retried row is new, with a first poll at once: what was learned of its key stays, what went wrong does not.
macro_rules! retried {
    ($ids:literal) => {
        concat!(
            "UPDATE messages
            SET state = 'pending', next_poll_at = $1, retried_at = $1, admitted_at = NULL, lane_corp = NULL,
                not_before = NULL, finished_at = NULL, last_chance_at = NULL, blocked = 0, last_error = NULL,
                last_error_at = NULL, failed_walks = 0, failed_calls = 0, doubt = NULL, doubt_at = NULL
            WHERE state IN ('failed', 'expired', 'cancelled') AND id IN (",
            $ids,
            ")"
        )
    };
}

/// $2: how many, $3: keys.
const RETRY_KEYS: &str = retried!(
    "SELECT id FROM messages WHERE state IN ('failed', 'expired', 'cancelled')
        AND process_query_key = ANY($3::TEXT[]) LIMIT $2"
);

/// $2: how many, $3: the state, $4: the account, or NULL for all.
const RETRY_STATE: &str = retried!(
    "SELECT id FROM messages WHERE state <> 'pending' AND state = $3 AND ($4::TEXT IS NULL OR account = $4) LIMIT $2"
);

/// $1: the key.
const MESSAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM messages WHERE process_query_key = $1"
);

/// $1: the key.
const READERS: &str = "SELECT user_id, seen_after, seen_at, read_at, from_event FROM readers WHERE process_query_key = $1 ORDER BY id";

#[async_trait]
impl Commands for PostgresStore {
    async fn add(&self, messages: &[NewMessage]) -> Result<u64> {
        if messages.is_empty() {
            return Ok(0);
        }
        let texts = |of: fn(&NewMessage) -> Option<&str>| -> Vec<Option<String>> {
            messages.iter().map(|new| of(new).map(clean)).collect()
        };
        let query = sqlx::query(ADD)
            .bind(texts(|new| Some(new.key.as_str())))
            .bind(texts(|new| Some(new.account.as_str())))
            .bind(texts(|new| new.corp.as_ref().map(CorpId::as_str)))
            .bind(texts(|new| new.robot_code.as_ref().map(RobotCode::as_str)))
            .bind(texts(|new| {
                new.conversation.as_ref().map(ConversationId::as_str)
            }))
            .bind(texts(|new| Some(new.chat.as_str())))
            .bind(
                messages
                    .iter()
                    .map(|new| new.expected_readers.map(i64::from))
                    .collect::<Vec<_>>(),
            )
            .bind(
                messages
                    .iter()
                    .map(|new| moment(new.sent_at))
                    .collect::<Vec<_>>(),
            )
            .bind(
                messages
                    .iter()
                    .map(|new| moment(new.next_poll_at))
                    .collect::<Vec<_>>(),
            );
        self.writer.execute(query).await
    }

    async fn retry(&self, which: &Selection, now: UnixMs, limit: usize) -> Result<u64> {
        let limit = limit_param(limit);
        let statement = match which {
            Selection::Keys(keys) => sqlx::query(RETRY_KEYS).bind(now.0).bind(limit).bind(
                keys.iter()
                    .map(|key| clean(key.as_str()))
                    .collect::<Vec<_>>(),
            ),
            Selection::InState(state, account) => sqlx::query(RETRY_STATE)
                .bind(now.0)
                .bind(limit)
                .bind(state.as_str())
                .bind(account.as_ref().map(|account| clean(account.as_str()))),
        };
        self.writer.execute(statement).await
    }

    async fn message(&self, key: &MessageKey) -> Result<Option<(Message, Vec<Reader>)>> {
        let key = clean(key.as_str());
        let rows = self.readers.fetch(sqlx::query(MESSAGE).bind(&*key)).await?;
        // A row that was quarantined is shown as far as it can be read: its error says what is wrong with it.
        let Some(message) = rows.first().map(|row| Cells::of(row).message()) else {
            return Ok(None);
        };
        let rows = self.readers.fetch(sqlx::query(READERS).bind(&*key)).await?;
        let readers = rows.iter().map(|row| {
            let mut cells = Cells::of(row);
            Reader {
                user_id: cells.required_text("user_id").into(),
                seen_after: UnixMs(cells.required_number("seen_after")),
                seen_at: UnixMs(cells.required_number("seen_at")),
                read_at: cells.moment("read_at"),
                seen_by: SeenBy::of_column(cells.required_number("from_event")),
            }
        });
        Ok(Some((message, readers.collect())))
    }

    async fn all_habits(&self) -> Result<Vec<HabitsRow>> {
        self.read_habits(&self.counting, sqlx::query(ALL_HABITS))
            .await
    }

    async fn prunable(&self, before: UnixMs, state: Option<State>) -> Result<Pruned> {
        let query = sqlx::query(upkeep::PRUNABLE)
            .bind(before.0)
            .bind(state.map(State::as_str));
        let rows = self.counting.fetch(query).await?;
        Ok(rows.first().map_or_else(Pruned::default, |row| {
            let mut cells = Cells::of(row);
            Pruned {
                messages: cells.count("messages"),
                readers: cells.count("readers"),
                held: 0,
                events: cells.count("events"),
            }
        }))
    }

    async fn close(&self) {
        self.wakeup.close();
        for sessions in [&self.readers, &self.counting, &self.writer, &self.leasing] {
            sessions.close().await;
        }
    }
}
