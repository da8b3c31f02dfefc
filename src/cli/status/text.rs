//! The status as a person reads it.

use std::fmt;
use std::time::Duration;

use super::super::common::{counted, rounded};
use super::view::{AccountStatus, BudgetStatus, DaemonStatus, Status};
use crate::daemon::LoopBeat;
use crate::receipt::{State, UnixMs};

/// The daemon publishes every 5 s, and its loops turn as often: this long without is a standstill.
const STANDSTILL: Duration = Duration::from_secs(20);

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
            (Some(true), ..) if self.nodes.len() > 1 => {
                let nodes = self.nodes.iter().filter(|node| node.alive).count();
                writeln!(
                    f,
                    "{} of this database {}.",
                    counted(nodes as u64, "node"),
                    if nodes == 1 { "runs" } else { "run" }
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
        for node in &self.nodes {
            writeln!(f, "  node {}", node.line(UnixMs(self.now)))?;
        }
        let settings = self.nodes.iter().map(|node| &node.settings);
        if settings.collect::<std::collections::BTreeSet<_>>().len() > 1 {
            writeln!(
                f,
                "  their settings differ: an account goes by those of the node that has it"
            )?;
        }
        self.write_accounts(f)?;
        for budget in &self.budgets {
            budget.write(f, &self.month)?;
        }
        for account in &self.accounts {
            for (chat, learned) in &account.learned {
                write!(f, "\n{}, chat {chat}: {learned}", account.name())?;
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
        // A server's is its own affair.
        if let Some(bytes @ 1..) = self.wal_bytes {
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
    use super::super::super::common::Serving;
    use super::super::view::Asked;
    use super::*;
    use crate::daemon::LaneCondition;
    use crate::daemon::{Published, Reloads};
    use crate::receipt::LaneId;
    use crate::store::{CallCount, LaneTotals};

    fn lane(corp: Option<&str>) -> LaneId {
        LaneId {
            account: "a".into(),
            corp: corp.map(Into::into),
        }
    }

    fn published() -> Published {
        let turned = |name: &str, turned_ms_ago| LoopBeat {
            name: name.to_owned(),
            turned_ms_ago,
        };
        let condition =
            |corp: Option<&str>, condition: &str, code: Option<&str>, at| LaneCondition {
                account: "a".to_owned(),
                corp_id: corp.map(str::to_owned),
                condition: condition.to_owned(),
                code: code.map(str::to_owned),
                last_success_at: at,
                month: None,
                calls: 0,
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
            nodes: Vec::new(),
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
