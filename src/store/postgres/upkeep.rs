//! What is due now and then: counts, last chances that jam, retention, and what ails the database.

use std::time::Duration;

use async_trait::async_trait;

use super::error::is_constraint;
use super::rows::Cells;
use super::{PostgresStore, corp_param, ids, limit_param};
use crate::receipt::{LaneId, MessageId, State, UnixMs};
use crate::store::last_chances::begin_with;
use crate::store::totals::Totals;
use crate::store::{Health, LaneTotals, LastChanceFit, Pruned, Result, Upkeep};

/// Counts of pending rows by lane: the lane, how many, how many of them due, and when the first is. $1: now.
macro_rules! pending_totals {
    ($corp:literal, $due:literal, $rows:literal) => {
        concat!(
            "SELECT account, ",
            $corp,
            ", count(*), count(*) FILTER (WHERE ",
            $due,
            " <= $1), min(",
            $due,
            ")
            FROM messages WHERE state = 'pending' AND ",
            $rows,
            " GROUP BY 1, 2"
        )
    };
}

pub(super) const PLACED_TOTALS: &str =
    pending_totals!("lane_corp", "next_poll_at", "lane_corp IS NOT NULL");

/// A new row waits from its insert on, or from its feeder's `next_poll_at`.
pub(super) const NEW_TOTALS: &str = pending_totals!(
    "coalesce(corp_id, '')",
    "coalesce(next_poll_at, inserted_at)",
    "admitted_at IS NULL"
);

/// They are not due for any lane, and pending all the same.
pub(super) const WAITING_TOTALS: &str = pending_totals!(
    "coalesce(corp_id, '')",
    "next_poll_at",
    "lane_corp IS NULL AND admitted_at IS NOT NULL"
);

pub(super) const FINAL_TOTALS: &str =
    "SELECT account, coalesce(lane_corp, corp_id, ''), state, count(*)
    FROM messages WHERE state <> 'pending' GROUP BY 1, 2, 3";

/// The lane's last chances from `$from` on.
macro_rules! of_lane {
    ($from:literal) => {
        concat!(
            " FROM messages WHERE state = 'pending' AND lane_corp IS NOT NULL AND last_chance_at IS NOT NULL
                AND account = $1 AND lane_corp = $2 AND last_chance_at ", $from
        )
    };
}

/// $1, $2: the lane, $3: milliseconds that belong together. The moment of the last of each part, and how many there are.
/// From part to part through the index: grouping would sort all of the lane.
pub(super) const UPCOMING: &str = concat!(
    "WITH RECURSIVE part(first) AS (
        SELECT (SELECT last_chance_at",
    of_lane!(">= 0"),
    " ORDER BY last_chance_at LIMIT 1)
        UNION ALL
        SELECT (SELECT last_chance_at",
    of_lane!(">= part.first + $3"),
    " ORDER BY last_chance_at LIMIT 1)
        FROM part WHERE part.first IS NOT NULL
    )
    SELECT
        (SELECT max(last_chance_at)",
    of_lane!(">= part.first AND last_chance_at < part.first + $3"),
    "),
        (SELECT count(*)",
    of_lane!(">= part.first AND last_chance_at < part.first + $3"),
    ")
    FROM part WHERE part.first IS NOT NULL"
);

/// $1: before, $2: a state, or NULL for all, $3, $4: the row behind which to begin, $5: how many. Oldest first.
pub(super) const FINISHED: &str = "SELECT id, finished_at FROM messages
    WHERE state <> 'pending' AND finished_at < $1 AND (finished_at, id) > ($3, $4) AND ($2::TEXT IS NULL OR state = $2)
    ORDER BY finished_at, id LIMIT $5";

/// $1: ids.
const DELETE: &str = "DELETE FROM messages WHERE id = ANY($1::BIGINT[]) AND state <> 'pending'";

/// $1: how many. Readers of keys without a message, which the trigger on DELETE wrote down.
const DELETE_READERS: &str = "DELETE FROM readers WHERE id IN (
    SELECT r.id FROM orphans AS o CROSS JOIN LATERAL (
        SELECT id FROM readers WHERE process_query_key = o.process_query_key LIMIT $1
    ) AS r
    WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
    LIMIT $1
)";

/// Keys that have a message again, or no reader any more. $1: how many.
const DELETE_ORPHANS: &str = "DELETE FROM orphans WHERE process_query_key IN (
    SELECT o.process_query_key FROM orphans AS o
    WHERE EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
        OR NOT EXISTS (SELECT 1 FROM readers AS r WHERE r.process_query_key = o.process_query_key)
    LIMIT $1
)";

/// $1: before, $2: a state, or NULL for all.
pub(super) const PRUNABLE: &str = "SELECT
    (
        SELECT count(*) FROM messages
        WHERE state <> 'pending' AND finished_at < $1 AND ($2::TEXT IS NULL OR state = $2)
    ),
    (
        SELECT count(*) FROM messages AS m JOIN readers AS r ON r.process_query_key = m.process_query_key
        WHERE m.state <> 'pending' AND m.finished_at < $1 AND ($2::TEXT IS NULL OR m.state = $2)
    ) + (
        SELECT count(*) FROM orphans AS o JOIN readers AS r ON r.process_query_key = o.process_query_key
        WHERE NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.process_query_key = o.process_query_key)
    ),
    (SELECT count(*) FROM read_events WHERE waits_since < $1 AND $2::TEXT IS NULL)";

/// Whoever keeps dead rows from being removed longest, in seconds, and how full the queue of notifications is. What other
/// users' sessions do is shown to members of `pg_read_all_stats` alone.
const HOLDERS: &str = "SELECT
    (
        SELECT concat_ws(' ', 'pid', pid, 'of', usename, nullif(application_name, '')) || E'\\n'
            || extract(epoch FROM clock_timestamp() - coalesce(xact_start, state_change))::BIGINT
        FROM pg_stat_activity
        WHERE datname = current_database() AND backend_xmin IS NOT NULL AND backend_type = 'client backend'
            AND pid <> pg_backend_pid() AND coalesce(xact_start, state_change) IS NOT NULL
        ORDER BY coalesce(xact_start, state_change) LIMIT 1
    ),
    (pg_notification_queue_usage() * 100)::BIGINT";

/// Messages a step of [`Upkeep::prune`].
const MESSAGES_A_STEP: usize = 100;
/// Readers a step: a group's go in several.
const READERS_A_STEP: usize = 800;
/// Rows that were held are tried again when what is to be removed is so much younger.
const HELD_ARE_TRIED_AGAIN: Duration = Duration::from_secs(86_400);
/// A transaction that is open for so long is worth a warning: by then the search for due rows has become slow.
const OLD_TRANSACTION: i64 = 1_800;
/// So many hundredths of the queue of notifications: full, it stops whoever notifies.
const FULL_QUEUE: i64 = 25;

/// Where [`Upkeep::prune`] goes on, since rows before it are held by other tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    behind: (UnixMs, MessageId),
    /// What was to be removed when the first of them was met.
    before: UnixMs,
}

#[async_trait]
impl Upkeep for PostgresStore {
    async fn totals(&self, now: UnixMs) -> Result<Vec<LaneTotals>> {
        let mut totals = Totals::default();
        for statement in [PLACED_TOTALS, NEW_TOTALS, WAITING_TOTALS] {
            let query = sqlx::query(statement).bind(now.0);
            for row in &self.counting.fetch(query).await? {
                totals.add_pending(&mut Cells::of(row), now);
            }
        }
        for row in &self.counting.fetch(sqlx::query(FINAL_TOTALS)).await? {
            totals.add_finished(&mut Cells::of(row));
        }
        Ok(totals.into_lanes())
    }

    async fn last_chances_to_begin(
        &self,
        lane: &LaneId,
        fit: &LastChanceFit,
    ) -> Result<Option<UnixMs>> {
        let query = sqlx::query(UPCOMING)
            .bind(lane.account.as_str())
            .bind(corp_param(lane))
            .bind(fit.together_ms());
        let rows = self.counting.fetch(query).await?;
        let upcoming: Vec<_> = rows
            .iter()
            .map(|row| {
                let mut cells = Cells::of(row);
                (UnixMs(cells.required_number("until")), cells.count("count"))
            })
            .collect();
        Ok(begin_with(&upcoming, fit))
    }

    async fn prune(&self, before: UnixMs, state: Option<State>) -> Result<Pruned> {
        let mut held = self.held.lock().await;
        if held.is_some_and(|held| before >= held.before + HELD_ARE_TRIED_AGAIN) {
            *held = None;
        }
        let (at, id) = held.map_or((UnixMs(i64::MIN), MessageId(0)), |held| held.behind);
        let query = sqlx::query(FINISHED)
            .bind(before.0)
            .bind(state.map(State::as_str))
            .bind(at.0)
            .bind(id.0)
            .bind(limit_param(MESSAGES_A_STEP));
        let rows = self.counting.fetch(query).await?;
        let finished: Vec<(UnixMs, MessageId)> = rows
            .iter()
            .map(|row| {
                let mut cells = Cells::of(row);
                let id = MessageId(cells.required_number("id"));
                (UnixMs(cells.required_number("finished_at")), id)
            })
            .collect();
        let ids: Vec<MessageId> = finished.iter().map(|(_, id)| *id).collect();
        let mut pruned = self.remove(&ids).await?;
        fail::fail_point!("store.prune", |_| std::process::abort());
        let readers = sqlx::query(DELETE_READERS).bind(limit_param(READERS_A_STEP));
        pruned.readers = self.writer.execute(readers).await?;
        let orphans = sqlx::query(DELETE_ORPHANS).bind(limit_param(2 * MESSAGES_A_STEP));
        self.writer.execute(orphans).await?;
        if let (Some(last), true) = (finished.last(), pruned.held > 0) {
            *held = Some(Held {
                behind: *last,
                before: held.map_or(before, |held| held.before),
            });
        }
        Ok(pruned)
    }

    async fn forget_events(&self, before: UnixMs, lately: UnixMs, limit: usize) -> Result<u64> {
        self.forget(before, lately, limit).await
    }

    async fn maintain(&self) -> Result<Health> {
        let rows = self.counting.fetch(sqlx::query(HOLDERS)).await?;
        let mut health = Health::default();
        let Some(row) = rows.first() else {
            return Ok(health);
        };
        let mut cells = Cells::of(row);
        let holder = cells.text("holder").and_then(|text| text.split_once('\n'));
        let queue = cells.number("queue").unwrap_or_default();
        if let Some((who, seconds)) = holder
            && let Ok(seconds) = seconds.parse::<i64>()
            && seconds >= OLD_TRANSACTION
        {
            health.warning = Some(format!(
                "a transaction has been open for {} minutes ({who}): while it is, PostgreSQL removes no dead rows, and the \
                 search for due messages becomes slower; end it, or SELECT pg_terminate_backend(PID)",
                seconds / 60
            ));
        } else if queue >= FULL_QUEUE {
            health.warning = Some(format!(
                "the queue of notifications is full to {queue} %: a session that listens reads nothing; full, it stops every \
                 INSERT; find it among: SELECT pid, application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            ));
        }
        Ok(health)
    }
}

impl PostgresStore {
    /// Removes messages. A row that another table's foreign key or trigger holds is left. Each part is a transaction of its own,
    /// since an error ends one.
    async fn remove(&self, all: &[MessageId]) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        let mut parts = vec![all];
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            match self
                .writer
                .execute(sqlx::query(DELETE).bind(ids(part)))
                .await
            {
                Ok(removed) => pruned.messages += removed,
                Err(error) if is_constraint(&error) && part.len() == 1 => pruned.held += 1,
                Err(error) if is_constraint(&error) => {
                    let (one, other) = part.split_at(part.len() / 2);
                    parts.extend([one, other]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(pruned)
    }
}
