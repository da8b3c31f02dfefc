//! What the scheduler asks: whose rows are due, and which; and where new rows belong.
//!
//! A claim is not written: one daemon owns the file, and it remembers what is in flight. Every statement has one text,
//! with lanes and ids passed as one JSON array each, and names its index, so that neither its plan nor its place in the
//! statement cache depends on the data. A bound LIMIT has a plus before it: SQLite looks at the value of a bare one, and
//! prepares the statement anew whenever it is bound again, which costs more than a claim.

use async_trait::async_trait;

use super::rows::{number, read, select_messages, text};
use super::{SqliteStore, corp_param, events, execute, ids_json, json, lanes_json, limit_param};
use crate::receipt::{Claim, ErrorCode, LaneId, Message, MessageId, UnixMs};
use crate::store::cells::Unreadable;
use crate::store::{Claims, DueQuery, LaneDue, NewRows, Placement, Result, Scope, Unplace, Wanted};

/// The first row of each lane in an index that begins with the lane, as `head(id)`: stepping from lane to lane and skipping
/// what lies between, so that a lane costs the same with one row or a million. `$first` is the step that leads to the
/// first lane.
macro_rules! lane_heads {
    ($index:literal, $rows:literal, $corp_n:literal, $corp_m:literal, $first:expr) => {
        concat!(
            "WITH RECURSIVE head(id) AS (
            SELECT ",
            $first,
            "
            UNION ALL
            SELECT coalesce(
                (
                    SELECT n.id FROM messages AS n INDEXED BY ",
            $index,
            "
                    WHERE ",
            $rows,
            " AND n.account = m.account AND ",
            $corp_n,
            " > ",
            $corp_m,
            "
                    ORDER BY ",
            $corp_n,
            " LIMIT 1
                ),
                (
                    SELECT n.id FROM messages AS n INDEXED BY ",
            $index,
            "
                    WHERE ",
            $rows,
            " AND n.account > m.account
                    ORDER BY n.account, ",
            $corp_n,
            " LIMIT 1
                )
            )
            FROM head JOIN messages AS m ON m.id = head.id"
        )
    };
}

/// The heads of the lanes with placed rows.
macro_rules! placed_heads {
    () => {
        concat!(
            lane_heads!(
                "messages_due",
                "n.state = 'pending' AND n.lane_corp IS NOT NULL",
                "n.lane_corp",
                "m.lane_corp",
                "(
                    SELECT n.id FROM messages AS n INDEXED BY messages_due
                    WHERE n.state = 'pending' AND n.lane_corp IS NOT NULL
                    ORDER BY n.account, n.lane_corp LIMIT 1
                )"
            ),
            ")"
        )
    };
}

/// The first row in the order of `next_poll_at` of the lane of `m`, without those of ?1.
macro_rules! first_due {
    ($failing:literal) => {
        concat!(
            "(
                SELECT n.id FROM messages AS n INDEXED BY messages_due
                WHERE n.state = 'pending' AND n.lane_corp IS NOT NULL AND n.account = m.account
                    AND n.lane_corp = m.lane_corp AND (n.failed_walks > 0) = ",
            $failing,
            "
                    AND n.id NOT IN (SELECT value FROM json_each(?1))
                ORDER BY n.next_poll_at LIMIT 1
            )"
        )
    };
}

/// ?1: ids that are left out.
pub(super) const LANES: &str = concat!(
    placed_heads!(),
    "SELECT json_group_array(json_array(m.id, ",
    text!("m.account"),
    ", ",
    text!("m.lane_corp"),
    ", s.id, ",
    number!("s.next_poll_at"),
    ", f.id, ",
    number!("f.next_poll_at"),
    "))
    FROM head CROSS JOIN messages AS m ON m.id = head.id
    LEFT JOIN messages AS s ON s.id = ",
    first_due!("0"),
    "
    LEFT JOIN messages AS f ON f.id = ",
    first_due!("1")
);

/// ?1, ?2: the lane behind which to begin, ?3: how many of each, ?4: how many in all. ?2 is -1, which comes before all
/// text, to begin with the first lane.
pub(super) const NEW_ROWS: &str = select_messages!(
    " FROM messages AS m WHERE m.id IN (",
    lane_heads!(
        "messages_new",
        "n.state = 'pending' AND n.admitted_at IS NULL",
        "ifnull(n.corp_id, '')",
        "ifnull(m.corp_id, '')",
        "coalesce(
            (
                SELECT n.id FROM messages AS n INDEXED BY messages_new
                WHERE n.state = 'pending' AND n.admitted_at IS NULL AND n.account = ?1
                    AND ifnull(n.corp_id, '') > ?2
                ORDER BY ifnull(n.corp_id, '') LIMIT 1
            ),
            (
                SELECT n.id FROM messages AS n INDEXED BY messages_new
                WHERE n.state = 'pending' AND n.admitted_at IS NULL AND n.account > ?1
                ORDER BY n.account, ifnull(n.corp_id, '') LIMIT 1
            )
        )"
    ),
    " LIMIT +?4
        )
        SELECT r.id FROM head CROSS JOIN messages AS h ON h.id = head.id CROSS JOIN messages AS r ON r.id IN (
            SELECT n.id FROM messages AS n INDEXED BY messages_new
            WHERE n.state = 'pending' AND n.admitted_at IS NULL AND n.account = h.account
                AND ifnull(n.corp_id, '') = ifnull(h.corp_id, '')
            ORDER BY n.id LIMIT +?3
        )
        LIMIT +?4
    )"
);

/// What all questions for due rows begin with. ?1: lanes as `[account, corp]`, ?2: now, ?3: ids that are left out, ?4: how
/// many of a lane, ?5: until when last chances count as due.
macro_rules! due {
    ($($ids:expr),+) => {
        select_messages!(
            " FROM json_each(?1) AS lane CROSS JOIN messages AS m ON m.id IN (", $($ids),+, ")"
        )
    };
}

/// Ids of due rows of a lane, `$most` of them in their order.
macro_rules! due_ids {
    ($failing:literal, $most:literal) => {
        concat!(
            "SELECT n.id FROM messages AS n INDEXED BY messages_due
            WHERE n.state = 'pending' AND n.lane_corp IS NOT NULL AND n.account = lane.value ->> 0
                AND n.lane_corp = lane.value ->> 1 AND (n.failed_walks > 0) = ", $failing, "
                AND n.next_poll_at <= ?2 AND n.id NOT IN (SELECT value FROM json_each(?3))
            ORDER BY n.next_poll_at LIMIT ", $most
        )
    };
}

/// Ids of a lane's last chances. One that is taken before its row is due is not taken before its feeder's own "not
/// before". Only the first few are looked at: were they all held back by their feeders, the whole lane would be read, each
/// time.
macro_rules! last_chance_ids {
    ($condition:literal) => {
        concat!(
            "SELECT r.id FROM (
                SELECT n.id AS candidate FROM messages AS n INDEXED BY messages_last_chance
                WHERE n.state = 'pending' AND n.lane_corp IS NOT NULL AND n.last_chance_at IS NOT NULL
                    AND n.account = lane.value ->> 0 AND n.lane_corp = lane.value ->> 1
                    AND n.last_chance_at <= ?5
                ORDER BY n.last_chance_at LIMIT ?4 + 2000
            ) CROSS JOIN messages AS r ON r.id = candidate
            WHERE (r.next_poll_at <= ?2 OR (
                    r.last_chance_at > ?2 AND r.next_poll_at <= r.last_chance_at AND ifnull(r.not_before, 0) <= ?2
                ))
                AND r.id NOT IN (SELECT value FROM json_each(?3))", $condition, "
            LIMIT +?4"
        )
    };
}

pub(super) const DUE: &str = due!(
    "SELECT id FROM (",
    last_chance_ids!(" AND r.failed_walks = 0"),
    ") UNION ALL SELECT id FROM (",
    due_ids!("0", "+?4"),
    ")"
);

/// As [`DUE`], in random order: `LIMIT` looks at the first ten thousand alone.
pub(super) const DUE_SHUFFLED: &str = due!(
    "SELECT id FROM (",
    due_ids!("0", "10000"),
    ") ORDER BY random() LIMIT +?4"
);

pub(super) const DUE_FAILING: &str = due!(due_ids!("1", "+?4"));

pub(super) const LAST_CHANCES: &str = due!(last_chance_ids!(""));

/// What [`OVERAGED`] and [`OVERAGED_WAITING`] ask of rows. ?1: lived from, ?2: ids that are left out, ?3: how many.
macro_rules! overaged {
    ($index:literal, $lane:literal) => {
        select_messages!(
            " FROM messages AS m WHERE m.id IN (
                SELECT n.id FROM messages AS n INDEXED BY ",
            $index,
            "
                WHERE n.state = 'pending' AND ",
            $lane,
            "
                    AND max(min(n.sent_at, n.inserted_at), ifnull(n.retried_at, 0)) <= ?1
                    AND n.id NOT IN (SELECT value FROM json_each(?2))
                LIMIT +?3
            )"
        )
    };
}

/// ?4, ?5: the lane.
pub(super) const OVERAGED: &str = overaged!(
    "messages_due",
    "n.lane_corp IS NOT NULL AND n.account = ?4 AND n.lane_corp = ?5"
);

pub(super) const OVERAGED_WAITING: &str = overaged!(
    "messages_waiting",
    "n.lane_corp IS NULL AND n.admitted_at IS NOT NULL"
);

/// ?1: places as `[id, next_poll_at, last_chance_at, admitted_at, account, corp_id, waits_for]`. A row whose feeder
/// moved it meanwhile stays new. One that was never polled has its feeder's "not before" in `next_poll_at`.
pub(super) const PLACE: &str = "UPDATE messages
    SET not_before = iif(last_polled_at IS NULL AND retried_at IS NULL, messages.next_poll_at, not_before),
        next_poll_at = coalesce(new.next_poll_at, messages.next_poll_at, new.admitted_at),
        last_chance_at = new.last_chance_at, admitted_at = new.admitted_at,
        lane_corp = iif(new.waits_for IS NULL, new.corp_id, NULL),
        last_error = ifnull(new.waits_for, last_error),
        last_error_at = iif(new.waits_for IS NULL, last_error_at, new.admitted_at)
    FROM (
        SELECT value ->> 0 AS id, value ->> 1 AS next_poll_at, value ->> 2 AS last_chance_at,
            value ->> 3 AS admitted_at, value ->> 4 AS account, value ->> 5 AS corp_id, value ->> 6 AS waits_for
        FROM jsonb_each(?1)
    ) AS new
    WHERE messages.id = new.id AND +messages.state = 'pending' AND +messages.admitted_at IS NULL
        AND +messages.account = new.account
        AND (ifnull(messages.corp_id, '') = new.corp_id OR (new.corp_id = '' AND new.waits_for IS NULL))";

/// What makes a placed row new again. A corrupt moment would be refused by the table's own checks.
macro_rules! unplaced {
    ($ids:literal, $also:literal) => {
        concat!(
            "UPDATE messages
            SET admitted_at = NULL, lane_corp = NULL,
                next_poll_at = CASE
                    WHEN last_polled_at IS NULL AND retried_at IS NULL
                        THEN iif(typeof(not_before) = 'integer', not_before, NULL)
                    WHEN typeof(next_poll_at) = 'integer' THEN next_poll_at
                END",
            $also,
            " WHERE id IN (",
            $ids,
            ")"
        )
    };
}

/// ?1: lanes as `[account, corp]`, ?2: ids that are left out, ?3: how many.
pub(super) const UNPLACE_LANES: &str = unplaced!(
    "SELECT n.id FROM json_each(?1) AS lane CROSS JOIN messages AS n INDEXED BY messages_due
        ON n.state = 'pending' AND n.lane_corp IS NOT NULL
        AND n.account = lane.value ->> 0 AND n.lane_corp = lane.value ->> 1
    WHERE n.id NOT IN (SELECT value FROM json_each(?2)) LIMIT +?3",
    ""
);

/// ?1: the account. What they waited for is no error any more.
pub(super) const UNPLACE_WAITING: &str = unplaced!(
    "SELECT n.id FROM messages AS n INDEXED BY messages_waiting
    WHERE n.state = 'pending' AND n.lane_corp IS NULL AND n.admitted_at IS NOT NULL AND n.account = ?1
        AND n.id NOT IN (SELECT value FROM json_each(?2)) LIMIT +?3",
    ", last_error = NULL, last_error_at = NULL"
);

/// ?1: ids, ?2: ids that are left out, ?3: how many.
pub(super) const UNPLACE_ROWS: &str = unplaced!(
    "SELECT n.id FROM messages AS n WHERE n.id IN (SELECT value FROM json_each(?1))
        AND n.state = 'pending' AND n.lane_corp IS NOT NULL AND n.id NOT IN (SELECT value FROM json_each(?2)) LIMIT +?3",
    ""
);

/// ?1: claims as `[id, fence, account, corp_id]`.
pub(super) const STALE: &str = "SELECT json_group_array(json_array(claim.id))
    FROM (
        SELECT value ->> 0 AS id, value ->> 1 AS fence, value ->> 2 AS account, value ->> 3 AS corp_id
        FROM jsonb_each(?1)
    ) AS claim
    LEFT JOIN messages AS m ON m.id = claim.id
    WHERE m.id IS NULL OR m.state <> 'pending' OR m.next_poll_at IS NOT claim.fence
        OR m.account IS NOT claim.account OR m.lane_corp IS NOT claim.corp_id";

/// ?1: the latest moment, ?2: how many. A feeder's own "not before" holds.
pub(super) const PULL_FORWARD: &str = concat!(
    "UPDATE messages SET next_poll_at = max(?1, ifnull(not_before, 0)) WHERE id IN (",
    placed_heads!(),
    "SELECT n.id FROM head CROSS JOIN messages AS m ON m.id = head.id
    CROSS JOIN messages AS n INDEXED BY messages_due
        ON n.state = 'pending' AND n.lane_corp IS NOT NULL AND n.account = m.account AND n.lane_corp = m.lane_corp
        AND (n.failed_walks > 0) IN (0, 1) AND n.next_poll_at > ?1 AND typeof(n.next_poll_at) = 'integer'
    WHERE n.next_poll_at > ifnull(n.not_before, 0)
    LIMIT +?2)"
);

#[async_trait]
impl Claims for SqliteStore {
    async fn lanes(&self, scope: Scope<'_>, without: &[MessageId]) -> Result<Vec<LaneDue>> {
        let mut lanes = Vec::new();
        let mut bad = Unreadable::new();
        let query = sqlx::query(LANES).bind(ids_json(without));
        read(&self.readers, query, |cells| {
            let head = MessageId(cells.required_number("id"));
            let lane = cells.lane();
            if let Some(column) = cells.invalid {
                // Its next row is tried in the next round.
                bad.push((head, column));
                return;
            }
            let mut first = || {
                let id = cells.number("id").map(MessageId);
                let at = cells.moment("next_poll_at");
                if at.is_none() {
                    bad.extend(id.map(|id| (id, "next_poll_at")));
                }
                at
            };
            let (sound_at, failing_at) = (first(), first());
            if scope.holds(&lane) && (sound_at.is_some() || failing_at.is_some()) {
                lanes.push(LaneDue {
                    lane,
                    sound_at,
                    failing_at,
                });
            }
        })
        .await?;
        self.quarantine(&bad, None).await?;
        Ok(lanes)
    }

    async fn new_rows(
        &self,
        scope: Scope<'_>,
        after: Option<&LaneId>,
        per_lane: usize,
        limit: usize,
    ) -> Result<NewRows> {
        let query = sqlx::query(NEW_ROWS).bind(after.map_or("", |lane| lane.account.as_str()));
        let query = match after {
            Some(lane) => query.bind(corp_param(lane)),
            None => query.bind(-1),
        };
        let query = query.bind(limit_param(per_lane)).bind(limit_param(limit));
        let (rows, found) = self.messages(query, None).await?;
        let mut new = NewRows::of(rows, found >= limit, after);
        new.rows.retain(|row| scope.holds(&row.lane));
        Ok(new)
    }

    async fn place(&self, places: &[Placement]) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        let ids: Vec<MessageId> = places.iter().map(|place| place.message.id).collect();
        let places: Vec<_> = places
            .iter()
            .map(|place| {
                let row = &place.message;
                let moment = |at: Option<UnixMs>| at.map(|at| at.0);
                (
                    row.id.0,
                    moment(row.next_poll_at),
                    moment(row.last_chance_at),
                    moment(row.admitted_at),
                    row.lane.account.as_str(),
                    corp_param(&row.lane),
                    place.waits_for.as_ref().map(ErrorCode::as_str),
                )
            })
            .collect();
        let mut transaction = self.writer.begin().await?;
        let connection = &mut transaction.connection;
        execute(connection, sqlx::query(PLACE).bind(json(&places)?)).await?;
        events::placed(connection, &ids).await?;
        transaction.commit().await
    }

    async fn due(&self, query: &DueQuery<'_>) -> Result<Vec<Message>> {
        let statement = match query.wanted {
            Wanted::Sound => DUE,
            Wanted::SoundShuffled => DUE_SHUFFLED,
            Wanted::Failing => DUE_FAILING,
            Wanted::LastChances => LAST_CHANCES,
        };
        let statement = sqlx::query(statement)
            .bind(lanes_json(query.lanes)?)
            .bind(query.now.0)
            .bind(ids_json(query.without))
            .bind(limit_param(query.per_lane))
            .bind(query.last_chances_until.0);
        let (mut rows, _) = self.messages(statement, Some(query.now)).await?;
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
            .bind(ids_json(without))
            .bind(limit_param(limit));
        let query = match lane {
            Some(lane) => query.bind(lane.account.as_str()).bind(corp_param(lane)),
            None => query,
        };
        Ok(self.messages(query, None).await?.0)
    }

    async fn unplace(&self, which: &Unplace, without: &[MessageId], limit: usize) -> Result<u64> {
        let query = match which {
            Unplace::Lanes(lanes) => sqlx::query(UNPLACE_LANES).bind(lanes_json(lanes)?),
            Unplace::Waiting(account) => sqlx::query(UNPLACE_WAITING).bind(account.as_str()),
            Unplace::Rows(rows) => sqlx::query(UNPLACE_ROWS).bind(ids_json(rows)),
        };
        let query = query.bind(ids_json(without)).bind(limit_param(limit));
        self.write(query).await
    }

    async fn stale(&self, claims: &[Claim]) -> Result<Vec<MessageId>> {
        if claims.is_empty() {
            return Ok(Vec::new());
        }
        let claims: Vec<_> = claims
            .iter()
            .map(|claim| {
                (
                    claim.id.0,
                    claim.fence.map(|fence| fence.0),
                    claim.lane.account.as_str(),
                    corp_param(&claim.lane),
                )
            })
            .collect();
        let query = sqlx::query(STALE).bind(json(&claims)?);
        read(&self.readers, query, |cells| {
            MessageId(cells.required_number("id"))
        })
        .await
    }

    async fn pull_forward(&self, latest: UnixMs, limit: usize) -> Result<u64> {
        let query = sqlx::query(PULL_FORWARD)
            .bind(latest.0)
            .bind(limit_param(limit));
        self.write(query).await
    }

    async fn changed(&self) -> Result<()> {
        self.wakeup.changed().await
    }
}
