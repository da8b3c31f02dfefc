//! What the scheduler asks: whose rows are due, and which; and where new rows belong.
//!
//! A claim is not written: whoever serves the lane remembers what is in flight. Lanes and ids are passed as arrays, so
//! that every statement has one text. Each repeats the condition of the index that it means, since the planner takes a
//! partial index only then; and ids that are left out are a subquery, which is hashed once.

use std::collections::HashSet;

use async_trait::async_trait;

use super::nodes::fence;
use super::rows::{Cells, columns};
use super::sessions::{Query, Sessions, Transaction};
use super::{PostgresStore, accounts, corp_param, corps, events, ids, limit_param, moment};
use crate::receipt::{AccountName, Claim, ErrorCode, LaneId, Lease, Message, MessageId, UnixMs};
use crate::store::cells::Unreadable;
use crate::store::{Claims, DueQuery, LaneDue, NewRows, Placement, Result, Scope, Unplace, Wanted};

/// Placed rows whose last walk did not fail, as the index has them.
macro_rules! sound {
    () => {
        "state = 'pending' AND lane_corp IS NOT NULL AND failed_walks = 0"
    };
}

/// Placed rows whose last walks failed, as the index has them.
macro_rules! failing {
    () => {
        "state = 'pending' AND lane_corp IS NOT NULL AND failed_walks > 0"
    };
}

/// Rows that wait for the configuration, as the index has them.
macro_rules! waiting {
    () => {
        "state = 'pending' AND lane_corp IS NULL AND admitted_at IS NOT NULL"
    };
}

/// The lanes of an index that begins with the lane, as a recursive table of `account` and `corp`: stepping from lane to
/// lane and skipping what lies between, so that a lane costs the same with one row or a million. `$first` bounds the first
/// one.
macro_rules! lanes_of {
    ($name:literal, $rows:expr, $corp:literal, $first:literal) => {
        concat!(
            $name,
            " (account, corp) AS (
                (
                    SELECT account, ",
            $corp,
            " FROM messages WHERE ",
            $rows,
            $first,
            "
                    ORDER BY account, ",
            $corp,
            " LIMIT 1
                )
                UNION ALL
                SELECT n.account, n.corp FROM ",
            $name,
            " AS l CROSS JOIN LATERAL (
                    SELECT account, ",
            $corp,
            " AS corp FROM messages
                    WHERE ",
            $rows,
            " AND (account, ",
            $corp,
            ") > (l.account, l.corp)
                    ORDER BY account, ",
            $corp,
            " LIMIT 1
                ) AS n
            )"
        )
    };
}

/// As [`lanes_of`], of the accounts `$accounts` alone.
macro_rules! lanes_of_accounts {
    ($name:literal, $rows:expr, $corp:literal, $accounts:literal, $first:literal) => {
        concat!(
            $name,
            " (account, corp) AS (
                SELECT n.account, n.corp FROM unnest(",
            $accounts,
            "::TEXT[]) AS a(account) CROSS JOIN LATERAL (
                    SELECT account, ",
            $corp,
            " AS corp FROM messages WHERE ",
            $rows,
            " AND account = a.account",
            $first,
            " ORDER BY account, ",
            $corp,
            " LIMIT 1
                ) AS n
                UNION ALL
                SELECT n.account, n.corp FROM ",
            $name,
            " AS l CROSS JOIN LATERAL (
                    SELECT account, ",
            $corp,
            " AS corp FROM messages
                    WHERE ",
            $rows,
            " AND account = l.account AND ",
            $corp,
            " > l.corp
                    ORDER BY account, ",
            $corp,
            " LIMIT 1
                ) AS n
            )"
        )
    };
}

/// The lanes with placed rows, as `lane`.
macro_rules! placed_lanes {
    () => {
        concat!(
            "WITH RECURSIVE ",
            lanes_of!("sound", sound!(), "lane_corp", ""),
            ", ",
            lanes_of!("failing", failing!(), "lane_corp", ""),
            ", lane AS (SELECT account, corp FROM sound UNION SELECT account, corp FROM failing)"
        )
    };
}

/// The first row of a lane in the order of `next_poll_at`, without those of $1.
macro_rules! first_due {
    ($rows:expr) => {
        concat!(
            "LEFT JOIN LATERAL (
                SELECT next_poll_at FROM messages WHERE ",
            $rows,
            " AND account = l.account AND lane_corp = l.corp
                    AND id NOT IN (SELECT unnest($1::BIGINT[]))
                ORDER BY next_poll_at LIMIT 1
            )"
        )
    };
}

/// Of each `lane`, which of the two kinds of rows is due when. $1: ids that are left out.
macro_rules! lanes_due {
    () => {
        concat!(
            " SELECT l.account, l.corp, s.next_poll_at, f.next_poll_at FROM lane AS l ",
            first_due!(sound!()),
            " AS s ON true ",
            first_due!(failing!()),
            " AS f ON true
    WHERE (s.next_poll_at IS NOT NULL OR f.next_poll_at IS NOT NULL)"
        )
    };
}

/// $2: accounts that are left out.
pub(super) const LANES: &str = concat!(
    placed_lanes!(),
    lanes_due!(),
    " AND l.account <> ALL($2::TEXT[])"
);

/// $2: accounts.
pub(super) const LANES_OF: &str = concat!(
    "WITH RECURSIVE ",
    lanes_of_accounts!("sound", sound!(), "lane_corp", "$2", ""),
    ", ",
    lanes_of_accounts!("failing", failing!(), "lane_corp", "$2", ""),
    ", lane AS (SELECT account, corp FROM sound UNION SELECT account, corp FROM failing)",
    lanes_due!()
);

/// $1, $2: the lane behind which to begin, $3: how many of each, $4: how many in all. Empty text, which names no account,
/// to begin with the first lane. $5: accounts that are left out.
pub(super) const NEW_ROWS: &str = concat!(
    "WITH RECURSIVE ",
    lanes_of!(
        "lane",
        "state = 'pending' AND admitted_at IS NULL",
        "coalesce(corp_id, '')",
        " AND (account, coalesce(corp_id, '')) > ($1, $2)"
    ),
    " SELECT m.* FROM lane AS l CROSS JOIN LATERAL (
        SELECT ", columns!(), " FROM messages
        WHERE state = 'pending' AND admitted_at IS NULL AND account = l.account AND coalesce(corp_id, '') = l.corp
        ORDER BY id LIMIT $3
    ) AS m WHERE l.account <> ALL($5::TEXT[]) LIMIT $4"
);

/// As [`NEW_ROWS`]; $5: the accounts.
pub(super) const NEW_ROWS_OF: &str = concat!(
    "WITH RECURSIVE ",
    lanes_of_accounts!(
        "lane",
        "state = 'pending' AND admitted_at IS NULL",
        "coalesce(corp_id, '')",
        "$5",
        " AND (account, coalesce(corp_id, '')) > ($1, $2)"
    ),
    ", sorted AS MATERIALIZED (SELECT account, corp FROM lane ORDER BY account, corp)
    SELECT m.* FROM sorted AS l CROSS JOIN LATERAL (
        SELECT ", columns!(), " FROM messages
        WHERE state = 'pending' AND admitted_at IS NULL AND account = l.account AND coalesce(corp_id, '') = l.corp
        ORDER BY id LIMIT $3
    ) AS m LIMIT $4"
);

/// What all questions for due rows begin with. $1, $2: lanes, $3: now, $4: ids that are left out, $5: how many of a lane, $6:
/// until when last chances count as due.
macro_rules! due {
    ($($rows:expr),+) => {
        concat!(
            "SELECT m.* FROM unnest($1::TEXT[], $2::TEXT[]) AS l(account, corp) CROSS JOIN LATERAL (",
            $($rows),+,
            ") AS m"
        )
    };
}

/// Due rows of a lane in their order, `$most` of them.
macro_rules! due_rows {
    ($rows:expr, $most:literal) => {
        concat!(
            "(
                SELECT ",
            columns!(),
            " FROM messages
                WHERE ",
            $rows,
            " AND account = l.account AND lane_corp = l.corp AND next_poll_at <= $3
                    AND id NOT IN (SELECT unnest($4::BIGINT[]))
                ORDER BY next_poll_at LIMIT ",
            $most,
            "
            )"
        )
    };
}

/// A lane's last chances. One that is taken before its row is due is not taken before its feeder's own "not before". Only
/// the first few are looked at: were they all held back by their feeders, the whole lane would be read, each time.
macro_rules! last_chances {
    ($condition:literal) => {
        concat!(
            "(
                SELECT ", columns!(), " FROM (
                    SELECT ", columns!(), ", not_before FROM messages
                    WHERE state = 'pending' AND lane_corp IS NOT NULL AND last_chance_at IS NOT NULL
                        AND account = l.account AND lane_corp = l.corp AND last_chance_at <= $6
                    ORDER BY last_chance_at LIMIT $5 + 2000
                ) AS r
                WHERE (next_poll_at <= $3 OR (
                        last_chance_at > $3 AND next_poll_at <= last_chance_at AND coalesce(not_before, 0) <= $3
                    ))
                    AND id NOT IN (SELECT unnest($4::BIGINT[]))", $condition, "
                ORDER BY last_chance_at LIMIT $5
            )"
        )
    };
}

pub(super) const DUE: &str = due!(
    last_chances!(" AND failed_walks = 0"),
    " UNION ALL ",
    due_rows!(sound!(), "$5")
);

/// As [`DUE`], in random order: `LIMIT` looks at the first ten thousand alone.
pub(super) const DUE_SHUFFLED: &str = due!(
    "SELECT * FROM ",
    due_rows!(sound!(), "10000"),
    " AS r WHERE $6::BIGINT IS NOT NULL ORDER BY random() LIMIT $5"
);

/// $6 is of no use here, and named so that all are bound alike.
pub(super) const DUE_FAILING: &str = due!(
    "SELECT * FROM ",
    due_rows!(failing!(), "$5"),
    " AS r WHERE $6::BIGINT IS NOT NULL"
);

pub(super) const LAST_CHANCES: &str = due!(last_chances!(""));

/// Rows at the end of their life. $1: lived from, $2: ids that are left out, $3: how many.
macro_rules! overaged {
    ($rows:expr, $lane:literal) => {
        concat!(
            "(
                SELECT ",
            columns!(),
            " FROM messages
                WHERE ",
            $rows,
            $lane,
            "
                    AND greatest(least(sent_at, inserted_at), coalesce(retried_at, 0)) <= $1
                    AND id NOT IN (SELECT unnest($2::BIGINT[]))
                LIMIT $3
            )"
        )
    };
}

/// $4, $5: the lane.
pub(super) const OVERAGED: &str = concat!(
    overaged!(sound!(), " AND account = $4 AND lane_corp = $5"),
    " UNION ALL ",
    overaged!(failing!(), " AND account = $4 AND lane_corp = $5"),
    " LIMIT $3"
);

pub(super) const OVERAGED_WAITING: &str = overaged!(waiting!(), "");

/// $1 to $7: places. A row whose feeder moved it meanwhile stays new. One that was never polled has its feeder's "not
/// before" in `next_poll_at`.
pub(super) const PLACE: &str = "UPDATE messages AS m
    SET not_before = CASE
            WHEN m.last_polled_at IS NULL AND m.retried_at IS NULL THEN m.next_poll_at
            ELSE m.not_before
        END,
        next_poll_at = coalesce(new.next_poll_at, m.next_poll_at, new.admitted_at),
        last_chance_at = new.last_chance_at, admitted_at = new.admitted_at,
        lane_corp = CASE WHEN new.waits_for IS NULL THEN new.corp_id END,
        last_error = coalesce(new.waits_for, m.last_error),
        last_error_at = CASE WHEN new.waits_for IS NULL THEN m.last_error_at ELSE new.admitted_at END
    FROM unnest($1::BIGINT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::TEXT[], $6::TEXT[], $7::TEXT[])
        AS new(id, next_poll_at, last_chance_at, admitted_at, account, corp_id, waits_for)
    WHERE m.id = new.id AND m.state = 'pending' AND m.admitted_at IS NULL AND m.account = new.account
        AND (coalesce(m.corp_id, '') = new.corp_id OR (new.corp_id = '' AND new.waits_for IS NULL))";

/// What makes placed rows new again.
macro_rules! unplaced {
    ($($part:expr),+) => {
        concat!(
            "UPDATE messages
            SET admitted_at = NULL, lane_corp = NULL,
                next_poll_at = CASE
                    WHEN last_polled_at IS NULL AND retried_at IS NULL THEN not_before
                    ELSE next_poll_at
                END",
            $($part),+,
            ")"
        )
    };
}

/// Ids of placed rows. $1: ids that are left out, $2: how many, $3, $4: lanes.
macro_rules! placed_ids {
    ($rows:expr) => {
        concat!(
            "(
                SELECT n.id FROM unnest($3::TEXT[], $4::TEXT[]) AS l(account, corp) CROSS JOIN LATERAL (
                    SELECT id FROM messages WHERE ",
            $rows,
            " AND account = l.account AND lane_corp = l.corp
                        AND id NOT IN (SELECT unnest($1::BIGINT[]))
                    LIMIT $2
                ) AS n LIMIT $2
            )"
        )
    };
}

pub(super) const UNPLACE_LANES: &str = unplaced!(
    " WHERE state = 'pending' AND lane_corp IS NOT NULL AND id IN (",
    placed_ids!(sound!()),
    " UNION ALL ",
    placed_ids!(failing!()),
    " LIMIT $2"
);

/// $1: ids that are left out, $2: how many, $3: the account. What they waited for is no error any more.
pub(super) const UNPLACE_WAITING: &str = unplaced!(
    ", last_error = NULL, last_error_at = NULL
    WHERE state = 'pending' AND lane_corp IS NULL AND admitted_at IS NOT NULL AND id IN (
        SELECT id FROM messages WHERE ",
    waiting!(),
    " AND account = $3 AND id NOT IN (SELECT unnest($1::BIGINT[])) LIMIT $2"
);

/// $1: ids that are left out, $2: how many, $3: ids.
pub(super) const UNPLACE_ROWS: &str = unplaced!(
    " WHERE state = 'pending' AND lane_corp IS NOT NULL AND id IN (
        SELECT id FROM messages WHERE id = ANY($3::BIGINT[]) AND id NOT IN (SELECT unnest($1::BIGINT[])) LIMIT $2"
);

/// $1 to $4: claims as id, fence, account, corp.
pub(super) const STALE: &str = "SELECT claim.id
    FROM unnest($1::BIGINT[], $2::BIGINT[], $3::TEXT[], $4::TEXT[]) AS claim(id, fence, account, corp)
    LEFT JOIN messages AS m ON m.id = claim.id
    WHERE m.id IS NULL OR m.state <> 'pending' OR m.next_poll_at IS DISTINCT FROM claim.fence
        OR m.account <> claim.account OR m.lane_corp IS DISTINCT FROM claim.corp";

/// Rows of the lanes `lane` that are due too late.
macro_rules! due_after {
    ($rows:expr) => {
        concat!(
            "(
                SELECT n.id FROM lane AS l CROSS JOIN LATERAL (
                    SELECT id FROM messages
                    WHERE ",
            $rows,
            " AND account = l.account AND lane_corp = l.corp
                        AND next_poll_at > $1 AND next_poll_at > coalesce(not_before, 0)
                    LIMIT $2
                ) AS n LIMIT $2
            )"
        )
    };
}

/// $1: the latest moment, $2: how many. A feeder's own "not before" holds.
pub(super) const PULL_FORWARD: &str = concat!(
    placed_lanes!(),
    " UPDATE messages SET next_poll_at = greatest($1, coalesce(not_before, 0))
    WHERE state = 'pending' AND next_poll_at > $1 AND id IN (
        SELECT id FROM (",
    due_after!(sound!()),
    " UNION ALL ",
    due_after!(failing!()),
    ") AS late LIMIT $2
    )"
);

/// $1, $2: rows as id and column, $3: now, or NULL for the server's.
const QUARANTINE: &str = "UPDATE messages AS m
    SET state = 'failed', last_error = 'row.invalid: ' || new.invalid,
        last_error_at = coalesce($3, (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT),
        finished_at = coalesce($3, (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT)
    FROM unnest($1::BIGINT[], $2::TEXT[]) AS new(id, invalid)
    WHERE m.id = new.id AND m.state = 'pending'";

/// The accounts that a statement takes or leaves out.
fn scope_accounts(scope: Scope<'_>) -> Vec<&str> {
    let accounts = match scope {
        Scope::All => &[],
        Scope::Of(accounts) | Scope::Except(accounts) => accounts,
    };
    accounts.iter().map(AccountName::as_str).collect()
}

#[async_trait]
impl Claims for PostgresStore {
    async fn lanes(&self, scope: Scope<'_>, without: &[MessageId]) -> Result<Vec<LaneDue>> {
        let statement = match scope {
            Scope::All | Scope::Except(_) => LANES,
            Scope::Of(_) => LANES_OF,
        };
        let query = sqlx::query(statement)
            .bind(ids(without))
            .bind(scope_accounts(scope));
        let rows = self.readers.fetch(query).await?;
        let lanes = rows.iter().filter_map(|row| {
            let mut cells = Cells::of(row);
            let lane = LaneDue {
                lane: cells.lane(),
                sound_at: cells.moment("next_poll_at"),
                failing_at: cells.moment("next_poll_at"),
            };
            cells.valid(lane)
        });
        Ok(lanes.collect())
    }

    async fn new_rows(
        &self,
        scope: Scope<'_>,
        after: Option<&LaneId>,
        per_lane: usize,
        limit: usize,
    ) -> Result<NewRows> {
        let statement = match scope {
            Scope::All | Scope::Except(_) => NEW_ROWS,
            Scope::Of(_) => NEW_ROWS_OF,
        };
        let query = sqlx::query(statement)
            .bind(after.map_or("", |lane| lane.account.as_str()).to_owned())
            .bind(after.map_or("", corp_param).to_owned())
            .bind(limit_param(per_lane))
            .bind(limit_param(limit))
            .bind(scope_accounts(scope));
        let (rows, found) = self.messages(&self.readers, query, None).await?;
        Ok(NewRows::of(rows, found >= limit, after))
    }

    async fn place(&self, places: &[Placement]) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let mut transaction = self.writer.begin().await?;
        let leases: HashSet<&Lease> = places
            .iter()
            .filter_map(|place| place.lease.as_ref())
            .collect();
        let held = fence(&mut transaction, &self.node_id(), leases).await?;
        let ours = |place: &&Placement| {
            let lease = place.lease.as_ref();
            lease.is_none_or(|lease| held.contains(&lease.group))
        };
        let mut places: Vec<&Placement> = places.iter().filter(ours).collect();
        places.sort_unstable_by_key(|place| place.message.id);
        let rows = || places.iter().map(|place| &place.message);
        let query = sqlx::query(PLACE)
            .bind(rows().map(|row| row.id.0).collect::<Vec<_>>())
            .bind(
                rows()
                    .map(|row| moment(row.next_poll_at))
                    .collect::<Vec<_>>(),
            )
            .bind(
                rows()
                    .map(|row| moment(row.last_chance_at))
                    .collect::<Vec<_>>(),
            )
            .bind(
                rows()
                    .map(|row| moment(row.admitted_at))
                    .collect::<Vec<_>>(),
            )
            .bind(
                rows()
                    .map(|row| row.lane.account.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(rows().map(|row| corp_param(&row.lane)).collect::<Vec<_>>())
            .bind(
                places
                    .iter()
                    .map(|place| place.waits_for.as_ref().map(ErrorCode::as_str))
                    .collect::<Vec<_>>(),
            );
        transaction.execute(query).await?;
        let placed: Vec<MessageId> = rows().map(|row| row.id).collect();
        events::placed(&mut transaction, &placed).await?;
        transaction.commit().await
    }

    async fn due(&self, query: &DueQuery<'_>) -> Result<Vec<Message>> {
        let statement = match query.wanted {
            Wanted::Sound => DUE,
            Wanted::SoundShuffled => DUE_SHUFFLED,
            Wanted::Failing => DUE_FAILING,
            Wanted::LastChances => LAST_CHANCES,
        };
        let lanes = query.lanes;
        let statement = sqlx::query(statement)
            .bind(accounts(lanes))
            .bind(corps(lanes))
            .bind(query.now.0)
            .bind(ids(query.without))
            .bind(limit_param(query.per_lane))
            .bind(query.last_chances_until.0);
        let (mut rows, _) = self
            .messages(&self.readers, statement, Some(query.now))
            .await?;
        // A last chance may be due as well.
        let mut met = HashSet::with_capacity(rows.len());
        rows.retain(|row| met.insert(row.id));
        query.choose(&mut rows);
        Ok(rows)
    }

    async fn overaged(
        &self,
        lane: Option<&LaneId>,
        lived_from: UnixMs,
        without: &[MessageId],
        limit: usize,
    ) -> Result<Vec<Message>> {
        let statement = match lane {
            Some(_) => OVERAGED,
            None => OVERAGED_WAITING,
        };
        let query = sqlx::query(statement)
            .bind(lived_from.0)
            .bind(ids(without))
            .bind(limit_param(limit));
        let query = match lane {
            Some(lane) => query.bind(lane.account.as_str()).bind(corp_param(lane)),
            None => query,
        };
        Ok(self.messages(&self.counting, query, None).await?.0)
    }

    async fn unplace(&self, which: &Unplace, without: &[MessageId], limit: usize) -> Result<u64> {
        let statement = match which {
            Unplace::Lanes(_) => UNPLACE_LANES,
            Unplace::Waiting(_) => UNPLACE_WAITING,
            Unplace::Rows(_) => UNPLACE_ROWS,
        };
        let query = sqlx::query(statement)
            .bind(ids(without))
            .bind(limit_param(limit));
        let query = match which {
            Unplace::Lanes(lanes) => query.bind(accounts(lanes)).bind(corps(lanes)),
            Unplace::Waiting(account) => query.bind(account.as_str()),
            Unplace::Rows(rows) => query.bind(ids(rows)),
        };
        self.writer.execute(query).await
    }

    async fn stale(&self, claims: &[Claim]) -> Result<Vec<MessageId>> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let query = sqlx::query(STALE)
            .bind(claims.iter().map(|claim| claim.id.0).collect::<Vec<_>>())
            .bind(
                claims
                    .iter()
                    .map(|claim| moment(claim.fence))
                    .collect::<Vec<_>>(),
            )
            .bind(
                claims
                    .iter()
                    .map(|claim| claim.lane.account.as_str())
                    .collect::<Vec<_>>(),
            )
            .bind(
                claims
                    .iter()
                    .map(|claim| corp_param(&claim.lane))
                    .collect::<Vec<_>>(),
            );
        let rows = self.readers.fetch(query).await?;
        let stale = rows
            .iter()
            .map(|row| MessageId(Cells::of(row).required_number("id")));
        Ok(stale.collect())
    }

    async fn pull_forward(&self, latest: UnixMs, limit: usize) -> Result<u64> {
        let query = sqlx::query(PULL_FORWARD)
            .bind(latest.0)
            .bind(limit_param(limit));
        self.writer.execute(query).await
    }

    async fn changed(&self) -> Result<()> {
        self.wakeup.changed().await;
        Ok(())
    }
}

impl PostgresStore {
    /// The rows that are messages, and how many were found; the others are quarantined.
    pub(super) async fn messages(
        &self,
        sessions: &Sessions,
        query: Query<'_>,
        now: Option<UnixMs>,
    ) -> Result<(Vec<Message>, usize)> {
        let rows = sessions.fetch(query).await?;
        let mut bad = Unreadable::new();
        let messages: Vec<Message> = rows
            .iter()
            .filter_map(|row| Cells::of(row).message_or_bad(&mut bad))
            .collect();
        if !bad.is_empty() {
            let mut transaction = self.writer.begin().await?;
            quarantine(&mut transaction, &bad, now).await?;
            transaction.commit().await?;
        }
        Ok((messages, rows.len()))
    }
}

/// Ends rows that are no messages, within a transaction.
pub(super) async fn quarantine(
    transaction: &mut Transaction<'_>,
    bad: &Unreadable,
    now: Option<UnixMs>,
) -> Result<()> {
    let query = sqlx::query(QUARANTINE)
        .bind(bad.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        .bind(bad.iter().map(|(_, column)| *column).collect::<Vec<_>>())
        .bind(moment(now));
    transaction.execute(query).await?;
    Ok(())
}
