//! What `status` says: what JSON prints, and what the text is made from. `deploy/README.md` documents the fields.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::super::common::{self, Serving};
use super::super::nodes::NodeStatus;
use super::curve::Learned;
use crate::daemon::{LoopBeat, Published, Reloads};
use crate::receipt::{CorpId, State, UnixMs};
use crate::settings::Settings;
use crate::store::{CallCount, HabitsRow, LaneTotals};

/// What was found out.
pub(super) struct Asked<'a> {
    pub(super) settings: &'a Settings,
    pub(super) totals: Vec<LaneTotals>,
    /// Of this month.
    pub(super) calls: Vec<CallCount>,
    pub(super) habits: Vec<HabitsRow>,
    pub(super) serving: Serving,
    pub(super) published: Option<Published>,
    pub(super) nodes: Vec<NodeStatus>,
    pub(super) stale_after: Duration,
    pub(super) now: UnixMs,
}

#[derive(Serialize)]
pub(super) struct Status {
    /// `None`: this user may not ask.
    pub(super) running: Option<bool>,
    pub(super) pid: Option<u32>,
    pub(super) database: String,
    pub(super) now: i64,
    pub(super) month: String,
    pub(super) pending: u64,
    pub(super) due: u64,
    pub(super) overdue_s: Option<u64>,
    pub(super) stale: bool,
    pub(super) accounts: Vec<AccountStatus>,
    pub(super) budgets: Vec<BudgetStatus>,
    pub(super) daemon: Option<DaemonStatus>,
    /// Of a database that several may serve.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nodes: Vec<NodeStatus>,
    #[serde(skip)]
    pub(super) hint: Option<String>,
}

/// An account, or one of its organisations.
#[derive(Serialize)]
pub(super) struct AccountStatus {
    pub(super) account: String,
    pub(super) corp_id: Option<String>,
    pub(super) configured: bool,
    pub(super) pending: u64,
    pub(super) due: u64,
    pub(super) overdue_s: Option<u64>,
    pub(super) finished: BTreeMap<&'static str, u64>,
    pub(super) calls: u64,
    pub(super) throttled: u64,
    /// As a running daemon knows it.
    pub(super) condition: Option<String>,
    pub(super) code: Option<String>,
    pub(super) last_success_at: Option<i64>,
    /// By kind of chat, with `--plot`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) learned: BTreeMap<&'static str, Learned>,
}

#[derive(Serialize)]
pub(super) struct BudgetStatus {
    pub(super) name: String,
    pub(super) monthly_calls: u64,
    pub(super) spent: u64,
    /// By a running daemon's reckoning, as the next.
    pub(super) calls_per_message: Option<f64>,
    pub(super) forecast: Option<u64>,
}

#[derive(Serialize)]
pub(super) struct DaemonStatus {
    pub(super) started_at: i64,
    pub(super) updated_at: i64,
    pub(super) in_flight: usize,
    pub(super) loops: Vec<LoopBeat>,
    pub(super) wal_bytes: Option<u64>,
    pub(super) wal_held_bytes: Option<u64>,
    pub(super) reloads: Reloads,
}

type Name = (String, Option<String>);

impl Status {
    pub(super) fn of(asked: Asked<'_>) -> Self {
        let Asked { settings, now, .. } = asked;
        let accounts = accounts(&asked);
        let pending = accounts.iter().map(|account| account.pending).sum();
        let overdue_s = accounts
            .iter()
            .filter_map(|account| account.overdue_s)
            .max();
        let late = overdue_s.is_some_and(|age| age > asked.stale_after.as_secs());
        let abandoned = matches!(asked.serving, Serving::Nobody) && pending > 0;
        let (running, pid, hint) = match asked.serving {
            Serving::By(pid) => (Some(true), Some(pid).filter(|pid| *pid > 0), None),
            Serving::Nobody => (Some(false), None, None),
            Serving::Unknown(error) => (None, None, Some(error.to_string())),
        };
        Self {
            running,
            pid,
            database: settings.database.to_string(),
            now: now.0,
            month: now.quota_month(),
            pending,
            due: accounts.iter().map(|account| account.due).sum(),
            overdue_s,
            stale: late || abandoned,
            accounts,
            budgets: budgets(settings, &asked.calls, asked.published.as_ref()),
            daemon: asked.published.map(|found| DaemonStatus {
                started_at: found.started_at,
                updated_at: found.updated_at,
                in_flight: found.in_flight,
                loops: found.loops,
                wal_bytes: found.backlog.as_ref().map(|backlog| backlog.wal_bytes),
                wal_held_bytes: found.backlog.as_ref().map(|backlog| backlog.wal_held_bytes),
                reloads: found.reloads,
            }),
            nodes: asked.nodes,
            hint,
        }
    }
}

/// Those that the configuration names, those of messages, and those that the daemon met.
fn accounts(asked: &Asked<'_>) -> Vec<AccountStatus> {
    let name = |account: &str, corp: Option<&str>| (account.to_owned(), corp.map(str::to_owned));
    let mut totals: BTreeMap<Name, Option<&LaneTotals>> = BTreeMap::new();
    let configured = asked.settings.accounts.iter();
    // A third-party app has no calls without an organisation.
    let internal = configured
        .filter(|(_, account)| matches!(account.app, crate::settings::App::Internal { .. }));
    totals.extend(internal.map(|(account, _)| (name(account.as_str(), None), None)));
    let published = asked
        .published
        .as_ref()
        .map(|found| &found.lanes[..])
        .unwrap_or_default();
    totals.extend(
        published
            .iter()
            .map(|found| ((found.account.clone(), found.corp_id.clone()), None)),
    );
    totals.extend(asked.totals.iter().map(|found| {
        let corp = found.lane.corp.as_ref().map(CorpId::as_str);
        (name(found.lane.account.as_str(), corp), Some(found))
    }));
    let of_name = |lane: &crate::receipt::LaneId, (account, corp): &Name| {
        lane.account.as_str() == account
            && lane.corp.as_ref().map(CorpId::as_str) == corp.as_deref()
    };
    let accounts = totals.into_iter().map(|(name, totals)| {
        let calls = asked.calls.iter().find(|count| of_name(&count.lane, &name));
        let published = published
            .iter()
            .find(|found| (&found.account, &found.corp_id) == (&name.0, &name.1));
        let habits = asked.habits.iter();
        let habits = habits.filter(|row| of_name(&row.lane, &name));
        let cadence = &asked.settings.cadence;
        let learned = habits
            .filter_map(|row| Some((row.chat.as_str(), Learned::of(row, cadence)?)))
            .collect();
        let finals = State::ALL
            .into_iter()
            .filter(|state| state.is_final())
            .map(State::as_str);
        let oldest_due = totals.and_then(|totals| totals.oldest_due);
        AccountStatus {
            configured: asked
                .settings
                .accounts
                .keys()
                .any(|known| known.as_str() == name.0),
            pending: totals.map_or(0, |totals| totals.pending),
            due: totals.map_or(0, |totals| totals.due),
            overdue_s: oldest_due.map(|due| asked.now.since(due).as_secs()),
            finished: finals
                .zip(totals.map_or([0; 5], |totals| totals.finished))
                .collect(),
            calls: calls.map_or(0, |count| count.calls),
            throttled: calls.map_or(0, |count| count.throttled),
            condition: published.map(|found| found.condition.clone()),
            code: published.and_then(|found| found.code.clone()),
            last_success_at: published.and_then(|found| found.last_success_at),
            learned,
            account: name.0,
            corp_id: name.1,
        }
    });
    accounts.collect()
}

/// Each budget of the configuration: as a running daemon knows it, else what the table counts.
fn budgets(
    settings: &Settings,
    calls: &[CallCount],
    published: Option<&Published>,
) -> Vec<BudgetStatus> {
    let spent = common::spent(settings, calls);
    let names = settings.accounts.keys();
    let budgets: BTreeMap<String, u64> = names
        .filter_map(|name| common::budget_of(settings, name))
        .collect();
    let budgets = budgets.into_iter().map(|(name, monthly_calls)| {
        let known = |found: &Published| {
            found
                .budgets
                .iter()
                .find(|known| known.name == name)
                .cloned()
        };
        let published = published.and_then(known);
        // What was published may be 5 s old, and what is counted lacks what is not yet written.
        let counted = spent.get(&name).copied().unwrap_or(0);
        BudgetStatus {
            spent: published
                .as_ref()
                .map_or(0, |found| found.spent)
                .max(counted),
            calls_per_message: published.as_ref().map(|found| found.calls_per_message),
            forecast: published.as_ref().map(|found| found.forecast),
            name,
            monthly_calls,
        }
    });
    budgets.collect()
}
