//! Nodes and their leases, by the server's clock.
//!
//! Three things protect a group from two nodes at once: the node's own trust in its last sign of life stops its calls early;
//! the lease's row, locked by each write for the group ([`fence`]), stops late writes; and a node dies only by the removal
//! of its row, for which a sign of life that began in time is waited for. `now()` is the moment at which a transaction began:
//! for a sign of life that is too early and for a death too late, never the other way round, as long as none of these
//! statements stands in a long transaction.

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::rows::Cells;
use super::sessions::Transaction;
use super::{PostgresStore, clean};
use crate::receipt::{AccountName, GroupId, Lease, UnixMs, whole_ms};
use crate::store::{
    Beat, Granted, Group, Holding, Leases, Member, Members, NodeText, Result, StoreError,
};

/// What wakes the nodes: one came, went, or gave something up.
pub(super) const CHANNEL: &str = "receiptd_nodes";

/// The time at which the transaction began, as the tables have it.
macro_rules! now_ms {
    () => {
        "(extract(epoch FROM now()) * 1000)::BIGINT"
    };
}

/// $1: the node, $2: its name, $3: its version, $4: the schema's version, $5: its settings, $6: accounts, $7: the lease in
/// milliseconds, $8: promises, $9: whether it stops, $10: what it publishes.
const JOIN: &str = concat!(
    "INSERT INTO nodes
        (node_id, name, version, schema_version, settings, accounts, promises, draining, condition, heard_of_at, expires_at)
    VALUES ($1, $2, $3, $4, $5, $6::TEXT[], $8::JSONB, $9, $10, ",
    now_ms!(),
    ", ",
    now_ms!(),
    " + $7) RETURNING heard_of_at"
);

/// As [`JOIN`]. No row: the node was not heard of for too long.
const BEAT: &str = concat!(
    "UPDATE nodes SET name = $2, version = $3, schema_version = $4, settings = $5, accounts = $6::TEXT[],
        promises = $8::JSONB, draining = $9, condition = coalesce($10, condition), heard_of_at = ",
    now_ms!(),
    ", expires_at = ",
    now_ms!(),
    " + $7 WHERE node_id = $1 AND expires_at >= ",
    now_ms!(),
    " RETURNING heard_of_at"
);

/// Nodes that were not heard of for too long. One whose transaction of results is open is left for the next time: so its
/// calls are counted once.
const DEAD: &str = concat!(
    "SELECT node_id, name FROM nodes WHERE expires_at < ",
    now_ms!(),
    " ORDER BY node_id FOR UPDATE SKIP LOCKED"
);

/// $1: dead nodes. What they promised and nobody wrote counts as called: a budget may be left with a few calls too few, and never
/// with one too many.
const COUNT_PROMISED: &str = "INSERT INTO api_calls AS c (account, corp_id, month, calls)
    SELECT p.account, p.corp_id, p.month, p.calls - p.counted FROM (
        SELECT q.account, q.corp_id, q.month, max(q.calls) AS calls, coalesce((
            SELECT sum(known.calls) FROM api_calls AS known
            WHERE known.account = q.account AND known.month = q.month AND (q.corp_id = '' OR known.corp_id = q.corp_id)
        ), 0) AS counted
        FROM nodes AS n
        CROSS JOIN LATERAL jsonb_to_recordset(n.promises) AS q(account TEXT, corp_id TEXT, month TEXT, calls BIGINT)
        WHERE n.node_id = ANY($1::TEXT[]) GROUP BY q.account, q.corp_id, q.month
    ) AS p WHERE p.calls > p.counted ORDER BY p.account, p.corp_id, p.month
    ON CONFLICT (account, corp_id, month) DO UPDATE SET calls = c.calls + excluded.calls";

/// $1: nodes.
const BURY: &str = "DELETE FROM nodes WHERE node_id = ANY($1::TEXT[])";

/// Who has groups and is no more. An id never comes back.
const GONE: &str = "SELECT DISTINCT l.node_id FROM leases AS l
    WHERE l.node_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.node_id = l.node_id)";

/// $1: nodes that are no more. What a transaction of theirs still holds is freed the next time.
const FREE: &str = concat!(
    "UPDATE leases SET node_id = NULL, epoch = epoch + 1, changed_at = ",
    now_ms!(),
    " WHERE name IN (
        SELECT name FROM leases WHERE node_id = ANY($1::TEXT[]) ORDER BY name FOR UPDATE SKIP LOCKED
    )"
);

const MEMBERS: &str = concat!(
    "SELECT node_id, name, version, settings, condition, started_at, ",
    now_ms!(),
    " - heard_of_at, (expires_at < ",
    now_ms!(),
    ")::INTEGER::BIGINT, draining::INTEGER::BIGINT, accounts FROM nodes ORDER BY node_id"
);

const HOLDINGS: &str =
    "SELECT name, node_id, corp_id, epoch, accounts FROM leases WHERE node_id IS NOT NULL";

/// $1: the node. Locked, so that it is not removed before the transaction ends.
const ALIVE: &str = concat!(
    "SELECT node_id FROM nodes WHERE node_id = $1 AND expires_at >= ",
    now_ms!(),
    " FOR KEY SHARE"
);

/// One node takes groups at a time, since a group that is free may overlap with one that is not.
const ONE_AT_A_TIME: &str = "LOCK TABLE leases IN SHARE UPDATE EXCLUSIVE MODE";

/// $1: the node, $2 to $4: groups as name, accounts (JSON) and organisation. Those that are free, and overlap with none of
/// another node; with how long ago each became free.
const ACQUIRE: &str = concat!(
    "INSERT INTO leases AS l (name, accounts, corp_id, node_id, epoch, changed_at)
    SELECT w.name, w.accounts, w.corp_id, $1, 1, ",
    now_ms!(),
    " FROM (
        SELECT t.name, ARRAY(SELECT jsonb_array_elements_text(t.accounts::JSONB)) AS accounts, t.corp_id
        FROM unnest($2::TEXT[], $3::TEXT[], $4::TEXT[]) AS t(name, accounts, corp_id)
    ) AS w
    WHERE NOT EXISTS (
        SELECT 1 FROM leases AS o
        WHERE o.node_id IS NOT NULL AND (
            o.name = w.name
            OR o.node_id <> $1 AND o.accounts && w.accounts
                AND (o.corp_id = '' OR w.corp_id = '' OR o.corp_id = w.corp_id)
        )
    )
    ORDER BY w.name
    ON CONFLICT (name) DO UPDATE
    SET accounts = excluded.accounts, corp_id = excluded.corp_id, node_id = $1, epoch = l.epoch + 1
    WHERE l.node_id IS NULL
    RETURNING name, epoch, ",
    now_ms!(),
    " - changed_at"
);

/// $1: the node, $2: names, $3: epochs.
const RELEASE: &str = concat!(
    "UPDATE leases SET node_id = NULL, epoch = epoch + 1, changed_at = ",
    now_ms!(),
    " WHERE node_id = $1 AND (name, epoch) IN (SELECT * FROM unnest($2::TEXT[], $3::BIGINT[]))"
);

/// $1: the channel.
const TELL: &str = "SELECT pg_notify($1, '')";

/// $1: the node, $2: names, $3: epochs. Locked until the commit: neither does the node die before it, nor do the groups change
/// hands.
const FENCE: &str = "SELECT l.name FROM leases AS l JOIN nodes AS n ON n.node_id = l.node_id
    WHERE l.node_id = $1 AND (l.name, l.epoch) IN (SELECT * FROM unnest($2::TEXT[], $3::BIGINT[]))
    ORDER BY l.name FOR SHARE OF l FOR KEY SHARE OF n";

/// A promise as it is stored.
#[derive(Serialize)]
struct Promised<'a> {
    account: &'a str,
    corp_id: &'a str,
    month: &'a str,
    calls: u64,
}

/// The leases of `leases` that are still this node's, held until the transaction ends.
pub(super) async fn fence(
    transaction: &mut Transaction<'_>,
    node_id: &str,
    leases: HashSet<&Lease>,
) -> Result<HashSet<GroupId>> {
    if leases.is_empty() {
        return Ok(HashSet::new());
    }
    let (names, epochs) = columns(leases);
    let query = sqlx::query(FENCE).bind(node_id).bind(names).bind(epochs);
    let rows = transaction.fetch(query).await?;
    Ok(rows
        .iter()
        .map(|row| GroupId::new(Cells::of(row).required_text("name")))
        .collect())
}

fn columns<'l>(leases: impl IntoIterator<Item = &'l Lease>) -> (Vec<&'l str>, Vec<i64>) {
    let leases = leases.into_iter();
    leases
        .map(|lease| (lease.group.as_str(), lease.epoch))
        .unzip()
}

/// The array of names in a column.
fn accounts(row: &PgRow, column: usize) -> Result<Vec<AccountName>> {
    let names: Vec<String> = row.try_get(column).map_err(StoreError::Other)?;
    Ok(names.into_iter().map(AccountName::from).collect())
}

fn ms(number: Option<i64>) -> Duration {
    Duration::from_millis(u64::try_from(number.unwrap_or(0)).unwrap_or(0))
}

#[async_trait]
impl Leases for PostgresStore {
    fn is_shared(&self) -> bool {
        true
    }

    async fn join(&self, beat: &Beat<'_>) -> Result<UnixMs> {
        let node_id = super::new_id();
        let now = self.show(JOIN, &node_id, beat).await?;
        self.set_node_id(node_id);
        self.tell_nodes().await?;
        // A row that was inserted is returned.
        now.ok_or(StoreError::Busy)
    }

    async fn beat(&self, beat: &Beat<'_>) -> Result<Option<UnixMs>> {
        self.show(BEAT, &self.node_id(), beat).await
    }

    async fn reap(&self) -> Result<Vec<String>> {
        let mut transaction = self.leasing.begin().await?;
        let dead = transaction.fetch(sqlx::query(DEAD)).await?;
        let dead: Vec<(String, String)> = dead
            .iter()
            .map(|row| {
                let mut cells = Cells::of(row);
                let id = cells.required_text("node_id").to_owned();
                (id, cells.required_text("name").to_owned())
            })
            .collect();
        let (ids, names): (Vec<String>, Vec<String>) = dead.into_iter().unzip();
        if !ids.is_empty() {
            for statement in [COUNT_PROMISED, BURY] {
                transaction
                    .execute(sqlx::query(statement).bind(&ids))
                    .await?;
            }
        }
        transaction.commit().await?;
        let gone = self.leasing.fetch(sqlx::query(GONE)).await?;
        let gone: Vec<&str> = gone
            .iter()
            .map(|row| Cells::of(row).required_text("node_id"))
            .collect();
        if !gone.is_empty() {
            self.leasing.execute(sqlx::query(FREE).bind(&gone)).await?;
            self.tell_nodes().await?;
        }
        Ok(names)
    }

    async fn members(&self) -> Result<Members> {
        let rows = self.leasing.fetch(sqlx::query(MEMBERS)).await?;
        let nodes = rows.iter().map(|row| {
            let mut cells = Cells::of(row);
            Ok(Member {
                node_id: cells.required_text("node_id").to_owned(),
                text: NodeText {
                    name: cells.required_text("name").to_owned(),
                    version: cells.required_text("version").to_owned(),
                    settings: cells.required_text("settings").to_owned(),
                    accounts: accounts(row, 9)?,
                },
                condition: cells.text("condition").map(str::to_owned),
                started_at: UnixMs(cells.required_number("started_at")),
                heard_of: ms(cells.number("heard_of")),
                expired: cells.required_number("expired") != 0,
                draining: cells.required_number("draining") != 0,
            })
        });
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let rows = self.leasing.fetch(sqlx::query(HOLDINGS)).await?;
        let holdings = rows.iter().map(|row| {
            let mut cells = Cells::of(row);
            let group = GroupId::new(cells.required_text("name"));
            Ok(Holding {
                node_id: cells.required_text("node_id").to_owned(),
                corp: Some(cells.required_text("corp_id"))
                    .filter(|corp| !corp.is_empty())
                    .map(Into::into),
                lease: Lease {
                    group,
                    epoch: cells.required_number("epoch"),
                },
                accounts: accounts(row, 4)?,
            })
        });
        Ok(Members {
            me: self.node_id().to_string(),
            nodes,
            holdings: holdings.collect::<Result<Vec<_>>>()?,
        })
    }

    async fn acquire(&self, groups: &[Group]) -> Result<Vec<Granted>> {
        if groups.is_empty() {
            return Ok(Vec::new());
        }
        let node_id = self.node_id();
        let mut transaction = self.leasing.begin().await?;
        let alive = transaction
            .fetch(sqlx::query(ALIVE).bind(&*node_id))
            .await?;
        if alive.is_empty() {
            return Ok(Vec::new());
        }
        transaction.execute(sqlx::query(ONE_AT_A_TIME)).await?;
        let names: Vec<&str> = groups.iter().map(|group| group.id.as_str()).collect();
        let of: Vec<String> = groups
            .iter()
            .map(|group| {
                let names: Vec<&str> = group.accounts.iter().map(AccountName::as_str).collect();
                serde_json::Value::from(names).to_string()
            })
            .collect();
        let corps: Vec<&str> = groups
            .iter()
            .map(|group| group.corp.as_ref().map_or("", |corp| corp.as_str()))
            .collect();
        let query = sqlx::query(ACQUIRE)
            .bind(&*node_id)
            .bind(names)
            .bind(of)
            .bind(corps);
        let rows = transaction.fetch(query).await?;
        transaction.commit().await?;
        let granted = rows.iter().map(|row| {
            let mut cells = Cells::of(row);
            let group = GroupId::new(cells.required_text("name"));
            let epoch = cells.required_number("epoch");
            let since = cells.number("since");
            Granted {
                lease: Lease { group, epoch },
                given_up: (epoch > 1).then(|| ms(since)),
            }
        });
        Ok(granted.collect())
    }

    async fn release(&self, leases: &[Lease]) -> Result<()> {
        if leases.is_empty() {
            return Ok(());
        }
        let (names, epochs) = columns(leases);
        let query = sqlx::query(RELEASE)
            .bind(self.node_id().to_string())
            .bind(names)
            .bind(epochs);
        self.leasing.execute(query).await?;
        self.tell_nodes().await
    }

    async fn leave(&self) -> Result<()> {
        let ids = [self.node_id().to_string()];
        for statement in [BURY, FREE] {
            self.leasing
                .execute(sqlx::query(statement).bind(&ids[..]))
                .await?;
        }
        self.tell_nodes().await
    }

    async fn members_changed(&self) {
        self.wakeup.members_changed().await;
    }
}

impl PostgresStore {
    /// A sign of life, the first or another one; the server's time.
    async fn show(
        &self,
        statement: &'static str,
        node_id: &str,
        beat: &Beat<'_>,
    ) -> Result<Option<UnixMs>> {
        let promises: Vec<Promised<'_>> = beat
            .promises
            .iter()
            .map(|promise| Promised {
                account: promise.lane.account.as_str(),
                corp_id: super::corp_param(&promise.lane),
                month: &promise.month,
                calls: promise.calls,
            })
            .collect();
        // Text and numbers alone: there is nothing that JSON could refuse.
        let promises = serde_json::to_string(&promises).unwrap_or_else(|_| "[]".to_owned());
        let accounts: Vec<&str> = beat.node.accounts.iter().map(AccountName::as_str).collect();
        let query = sqlx::query(statement)
            .bind(node_id)
            .bind(clean(&beat.node.name))
            .bind(&*beat.node.version)
            .bind(Self::SCHEMA_VERSION)
            .bind(&*beat.node.settings)
            .bind(accounts)
            .bind(i64::try_from(whole_ms(beat.lease)).unwrap_or(i64::MAX))
            .bind(promises)
            .bind(beat.draining)
            .bind(beat.condition.map(clean));
        let rows = self.leasing.fetch(query).await?;
        Ok(rows
            .first()
            .map(|row| UnixMs(Cells::of(row).required_number("heard_of_at"))))
    }

    async fn tell_nodes(&self) -> Result<()> {
        let query = sqlx::query(TELL).bind(CHANNEL);
        self.leasing.fetch(query).await.map(|_| ())
    }
}
