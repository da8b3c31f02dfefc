//! What `status` says, once for JSON and once in text. `deploy/README.md` documents the fields.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::super::common::{Serving, counted, rounded};
use super::curve::Learned;
use crate::daemon::{LoopBeat, Published, Reloads};
use crate::receipt::{CorpId, State, UnixMs};
use crate::settings::{Budget, Settings};
use crate::store::{CallCount, HabitsRow, LaneTotals};

/// The daemon publishes every 5 s, and its loops turn as often: this long without is a standstill.
const STANDSTILL: Duration = Duration::from_secs(20);

/// What was found out.
pub(super) struct Asked<'a> {
    pub(super) settings: &'a Settings,
    pub(super) totals: Vec<LaneTotals>,
    /// Of this month.
    pub(super) calls: Vec<CallCount>,
    pub(super) habits: Vec<HabitsRow>,
    pub(super) serving: Serving,
    pub(super) published: Option<Published>,
    pub(super) stale_after: Duration,
    pub(super) now: UnixMs,
}

#[derive(Serialize)]
pub(super) struct Status {
    /// `None`: this user may not ask.
    running: Option<bool>,
    pid: Option<u32>,
    database: String,
    now: i64,
    month: String,
    pending: u64,
    due: u64,
    overdue_s: Option<u64>,
    pub(super) stale: bool,
    accounts: Vec<AccountStatus>,
    budgets: Vec<BudgetStatus>,
    daemon: Option<DaemonStatus>,
    #[serde(skip)]
    hint: Option<String>,
}

/// An account, or one of its organisations.
#[derive(Serialize)]
struct AccountStatus {
    account: String,
    corp_id: Option<String>,
    configured: bool,
    pending: u64,
    due: u64,
    overdue_s: Option<u64>,
    finished: BTreeMap<&'static str, u64>,
    calls: u64,
    throttled: u64,
    /// As a running daemon knows it.
    condition: Option<String>,
    code: Option<String>,
    last_success_at: Option<i64>,
    /// With `--plot`.
    #[serde(skip_serializing_if = "Option::is_none")]
    learned: Option<Learned>,
}

#[derive(Serialize)]
struct BudgetStatus {
    name: String,
    monthly_calls: u64,
    spent: u64,
    /// By a running daemon's reckoning, as the next.
    calls_per_message: Option<f64>,
    forecast: Option<u64>,
}

#[derive(Serialize)]
struct DaemonStatus {
    started_at: i64,
    updated_at: i64,
    in_flight: usize,
    loops: Vec<LoopBeat>,
    wal_bytes: Option<u64>,
    wal_held_bytes: Option<u64>,
    reloads: Reloads,
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
            database: settings.database.path.display().to_string(),
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
    let of_name = |lane: &crate::receipt::Lane, (account, corp): &Name| {
        lane.account.as_str() == account
            && lane.corp.as_ref().map(CorpId::as_str) == corp.as_deref()
    };
    let accounts = totals.into_iter().map(|(name, totals)| {
        let calls = asked.calls.iter().find(|count| of_name(&count.lane, &name));
        let published = published
            .iter()
            .find(|found| (&found.account, &found.corp_id) == (&name.0, &name.1));
        let habits = asked.habits.iter().find(|row| of_name(&row.lane, &name));
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
            learned: habits.and_then(|row| Learned::of(row, &asked.settings.cadence)),
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
    let own = settings
        .accounts
        .iter()
        .filter_map(|(name, account)| match &account.budget {
            Some(Budget::Own(calls)) => Some((
                format!("account {name}"),
                *calls,
                account.budget.clone(),
                Some(name),
            )),
            _ => None,
        });
    let shared = settings.budgets.iter().map(|(name, calls)| {
        (
            format!("budget {name}"),
            *calls,
            Some(Budget::Shared(name.clone())),
            None,
        )
    });
    let budgets = own
        .chain(shared)
        .map(|(name, monthly_calls, budget, owner)| {
            let published =
                published.and_then(|found| found.budgets.iter().find(|known| known.name == name));
            let counted = calls.iter().filter(|count| match owner {
                Some(owner) => count.lane.account == *owner,
                None => settings
                    .accounts
                    .get(&count.lane.account)
                    .is_some_and(|account| account.budget == budget),
            });
            BudgetStatus {
                spent: published.map_or_else(
                    || counted.map(|count| count.calls).sum(),
                    |found| found.spent,
                ),
                calls_per_message: published.map(|found| found.calls_per_message),
                forecast: published.map(|found| found.forecast),
                name,
                monthly_calls,
            }
        });
    budgets.collect()
}

impl fmt::Display for Status {
    /// The first line is a monitor's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pending = counted(self.pending, "message");
        let overdue = self.overdue_s.map(|age| rounded(Duration::from_secs(age)));
        match (self.running, self.pid, &overdue) {
            (Some(false), _, _) if self.pending > 0 => {
                writeln!(
                    f,
                    "No daemon runs, and {pending} pending: `receiptd run` starts one."
                )?;
            }
            (Some(false), _, _) => writeln!(f, "No daemon runs: `receiptd run` starts one.")?,
            (_, _, Some(overdue)) if self.stale => {
                writeln!(
                    f,
                    "Polls are overdue: the oldest for {overdue} ({} due of {pending} pending).",
                    self.due
                )?;
            }
            (Some(true), Some(pid), _) => writeln!(f, "A daemon runs (process {pid}).")?,
            (Some(true), None, _) => writeln!(f, "A daemon runs.")?,
            (None, _, _) => writeln!(
                f,
                "Whether a daemon runs cannot be told ({}): run this as the service's user.",
                self.hint.as_deref().unwrap_or_default()
            )?,
        }
        if let Some(daemon) = &self.daemon {
            daemon.write(f, self.pid, UnixMs(self.now))?;
        } else if self.running == Some(true) {
            writeln!(f, "  It has not published its status yet.")?;
        }
        self.write_accounts(f)?;
        for budget in &self.budgets {
            budget.write(f, &self.month)?;
        }
        for account in &self.accounts {
            if let Some(learned) = &account.learned {
                write!(f, "\n{}: {learned}", account.name())?;
            }
        }
        Ok(())
    }
}

impl Status {
    fn write_accounts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.accounts.is_empty() {
            return writeln!(f, "\nNo account is configured, and there are no messages.");
        }
        writeln!(
            f,
            "\n{:<24} {:>8} {:>7} {:>12} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9}  condition",
            "account",
            "pending",
            "due",
            "overdue",
            "complete",
            "recalled",
            "expired",
            "failed",
            "cancelled",
            "calls"
        )?;
        for account in &self.accounts {
            let overdue = account
                .overdue_s
                .map_or_else(|| "-".to_owned(), |age| rounded(Duration::from_secs(age)));
            let of = |state: State| account.finished.get(state.as_str()).copied().unwrap_or(0);
            writeln!(
                f,
                "{:<24} {:>8} {:>7} {overdue:>12} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9}  {}",
                account.name(),
                account.pending,
                account.due,
                of(State::Complete),
                of(State::Recalled),
                of(State::Expired),
                of(State::Failed),
                of(State::Cancelled),
                account.calls,
                account.condition(UnixMs(self.now)),
            )?;
        }
        writeln!(
            f,
            "\nCalls are metered calls in {} (UTC+8). Overdue is the oldest poll that is due.",
            self.month
        )
    }
}

impl AccountStatus {
    fn name(&self) -> String {
        match &self.corp_id {
            Some(corp) => format!("{}/{corp}", self.account),
            None => self.account.clone(),
        }
    }

    fn condition(&self, now: UnixMs) -> String {
        let Some(condition) = &self.condition else {
            let unknown = if self.configured {
                "-"
            } else {
                "not configured: its messages wait"
            };
            return unknown.to_owned();
        };
        let code = self
            .code
            .as_ref()
            .map(|code| format!(" ({code})"))
            .unwrap_or_default();
        let answer = match self.last_success_at {
            Some(at) => format!("last answer {} ago", rounded(now.since(UnixMs(at)))),
            None => "no answer yet".to_owned(),
        };
        format!("{condition}{code}, {answer}")
    }
}

impl BudgetStatus {
    fn write(&self, f: &mut fmt::Formatter<'_>, month: &str) -> fmt::Result {
        write!(
            f,
            "{}: {} of {} calls spent in {month}",
            self.name, self.spent, self.monthly_calls
        )?;
        if let (Some(forecast), Some(calls)) = (self.forecast, self.calls_per_message) {
            write!(
                f,
                "; at this rate {forecast} by its end; {calls:.1} calls for each message"
            )?;
        }
        writeln!(f)
    }
}

impl DaemonStatus {
    fn write(&self, f: &mut fmt::Formatter<'_>, pid: Option<u32>, now: UnixMs) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        let up = rounded(now.since(UnixMs(self.started_at)));
        let process = pid
            .map(|pid| format!("process {pid}, "))
            .unwrap_or_default();
        writeln!(
            f,
            "  {process}running for {up}, {} in progress",
            counted(self.in_flight as u64, "poll")
        )?;
        let silent = now.since(UnixMs(self.updated_at));
        if silent > STANDSTILL {
            let silent = rounded(silent);
            writeln!(
                f,
                "  no sign of life for {silent}: it hangs, or cannot write beside the database"
            )?;
        }
        let hangs = |beat: &&LoopBeat| Duration::from_millis(beat.turned_ms_ago) > STANDSTILL;
        for beat in self.loops.iter().filter(hangs) {
            let age = rounded(Duration::from_millis(beat.turned_ms_ago));
            writeln!(f, "  the {} has not turned for {age}", beat.name)?;
        }
        if let Some(bytes) = self.wal_bytes {
            write!(f, "  write-ahead log: {} MiB", bytes / MIB)?;
            match self.wal_held_bytes {
                Some(held) if held >= MIB => {
                    writeln!(f, ", {} of them held by an open transaction", held / MIB)?;
                }
                _ => writeln!(f)?,
            }
        }
        match &self.reloads.refused {
            Some(refused) => writeln!(f, "  the new configuration was refused: {refused}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::LaneCondition;
    use crate::receipt::Lane;

    fn lane(corp: Option<&str>) -> Lane {
        Lane {
            account: "a".into(),
            corp: corp.map(Into::into),
        }
    }

    fn published() -> Published {
        let turned = |name: &str, turned_ms_ago| LoopBeat {
            name: name.to_owned(),
            turned_ms_ago,
        };
        let condition = |corp: Option<&str>, condition: &str, code: Option<&str>, at| {
            let text = serde_json::json!({
                "account": "a", "corp_id": corp, "condition": condition, "code": code, "last_success_at": at,
            });
            serde_json::from_value::<LaneCondition>(text).unwrap()
        };
        Published {
            pid: 7,
            started_at: 0,
            updated_at: 99_000,
            in_flight: 1,
            loops: vec![turned("scheduler", 3_000), turned("upkeep", 4_000)],
            backlog: None,
            lanes: vec![
                condition(None, "ok", None, Some(98_000)),
                condition(Some("c"), "blocked", Some("auth.error"), None),
            ],
            budgets: Vec::new(),
            reloads: Reloads::default(),
        }
    }

    fn status(serving: Serving, published: Option<Published>) -> Status {
        let settings = crate::settings::from_text(
            std::path::Path::new("x"),
            "[accounts.a]\napp_key = \"k\"\napp_secret = \"s\"\nmonthly_calls = 50",
            std::iter::empty(),
        );
        let totals = LaneTotals {
            lane: lane(None),
            pending: 12,
            due: 3,
            oldest_due: Some(UnixMs(39_000)),
            finished: [1, 0, 0, 0, 2],
        };
        let count = CallCount {
            calls: 5,
            ..CallCount::nothing(lane(None), "1970-01".to_owned())
        };
        Status::of(Asked {
            settings: &settings.unwrap().settings,
            totals: vec![totals],
            calls: vec![count],
            habits: Vec::new(),
            serving,
            published,
            stale_after: Duration::from_secs(100),
            now: UnixMs(100_000),
        })
    }

    #[test]
    fn a_daemon_that_is_well_and_one_that_is_not() {
        let well = status(Serving::By(7), Some(published()));
        assert!(!well.stale);
        let text = well.to_string();
        for part in [
            "A daemon runs (process 7).\n  process 7, running for 1m 40s, 1 poll in progress\n",
            "ok, last answer 2s ago",
            "blocked (auth.error), no answer yet",
            "account a: 5 of 50 calls spent in 1970-01\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let mut hanging = published();
        hanging.loops[1].turned_ms_ago = 40_000;
        hanging.updated_at = 60_000;
        let text = status(Serving::By(7), Some(hanging)).to_string();
        assert!(text.contains("no sign of life for 40s"), "{text}");
        assert!(text.contains("the upkeep has not turned for 40s"), "{text}");
    }

    #[test]
    fn who_may_not_ask_is_told_so_and_alarms_nobody() {
        let unknown = status(
            Serving::Unknown(std::io::ErrorKind::PermissionDenied.into()),
            None,
        );
        assert_eq!((unknown.running, unknown.stale), (None, false));
        assert!(
            unknown
                .to_string()
                .starts_with("Whether a daemon runs cannot be told (permission denied)")
        );
        let abandoned = status(Serving::Nobody, None);
        assert!(abandoned.stale);
        assert!(
            abandoned
                .to_string()
                .starts_with("No daemon runs, and 12 messages pending")
        );
    }
}
