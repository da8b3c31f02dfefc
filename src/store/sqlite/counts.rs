//! What a month's budget and the last chances are planned from.

use std::time::Duration;

use super::rows::Cells;
use super::{SqliteStore, corp_word, count, lane_of};
use crate::receipt::{LaneId, UnixMs, Upcoming};
use crate::store::{CallCount, Owed, Result};

/// ?1, ?2: the lane, ?3: until when.
pub(super) const OWED: &str = "SELECT ifnull(sum(last_chance_at < ?3), 0), count(*)
    FROM messages INDEXED BY messages_last_chance
    WHERE state = 'pending' AND last_chance_at IS NOT NULL
        AND account = ?1 AND ifnull(corp_id, '') = ?2";

/// The lane's last chances from `$from` on.
macro_rules! of_lane {
    ($from:literal) => {
        concat!(
            " FROM messages INDEXED BY messages_last_chance
        WHERE state = 'pending' AND last_chance_at IS NOT NULL
            AND account = ?1 AND ifnull(corp_id, '') = ?2 AND last_chance_at ",
            $from,
            " AND typeof(last_chance_at) = 'integer'"
        )
    };
}

/// ?1, ?2: the lane, ?3: milliseconds that belong together. From part to part through the index: grouping would sort
/// all of the lane.
pub(super) const UPCOMING: &str = concat!(
    "WITH RECURSIVE part(first) AS (
        SELECT (SELECT last_chance_at",
    of_lane!(">= 0"),
    " ORDER BY last_chance_at LIMIT 1)
        UNION ALL
        SELECT (SELECT last_chance_at",
    of_lane!(">= part.first + ?3"),
    " ORDER BY last_chance_at LIMIT 1)
        FROM part WHERE part.first IS NOT NULL
    )
    SELECT (SELECT max(last_chance_at)",
    of_lane!(">= part.first AND last_chance_at < part.first + ?3"),
    "), (SELECT count(*)",
    of_lane!(">= part.first AND last_chance_at < part.first + ?3"),
    ")
    FROM part WHERE part.first IS NOT NULL"
);

impl SqliteStore {
    pub(super) async fn owed_until(&self, lane: &LaneId, until: UnixMs) -> Result<Owed> {
        let rows = sqlx::query(OWED)
            .bind(lane.account.as_str())
            .bind(corp_word(lane))
            .bind(until.0)
            .fetch_all(&self.readers)
            .await?;
        Ok(rows.first().map_or_else(Owed::default, |row| {
            let mut cells = Cells::new(row);
            Owed {
                until: count(cells.required_number("until")),
                in_all: count(cells.required_number("in all")),
            }
        }))
    }

    pub(super) async fn last_chances_by(
        &self,
        lane: &LaneId,
        step: Duration,
    ) -> Result<Vec<Upcoming>> {
        let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX).max(1);
        let rows = sqlx::query(UPCOMING)
            .bind(lane.account.as_str())
            .bind(corp_word(lane))
            .bind(step)
            .fetch_all(&self.readers)
            .await?;
        Ok(rows
            .iter()
            .map(|row| {
                let mut cells = Cells::new(row);
                Upcoming {
                    until: UnixMs(cells.required_number("until")),
                    count: count(cells.required_number("count")),
                }
            })
            .collect())
    }

    pub(super) async fn calls_of(&self, month: &str) -> Result<Vec<CallCount>> {
        let rows = sqlx::query(
            "SELECT account, corp_id, calls, throttled, messages, first_at FROM api_calls WHERE month = ?1",
        )
        .bind(month)
        .fetch_all(&self.readers)
        .await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let mut cells = Cells::new(row);
                Some(CallCount {
                    lane: lane_of(&mut cells)?,
                    month: month.to_owned(),
                    calls: count(cells.number("calls")?),
                    throttled: count(cells.number("throttled")?),
                    messages: count(cells.number("messages")?),
                    first_at: cells.moment("first_at"),
                })
            })
            .collect())
    }
}
