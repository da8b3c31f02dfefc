//! How the daemon itself fares, from what its loops publish.

use std::fmt::Write as _;
use std::time::Duration;

use super::rounded;
use crate::daemon::{Backlog, LaneCondition, Published};
use crate::receipt::UnixMs;

/// The daemon publishes every 5 s, and its loops turn as often: this long without is a standstill.
const STANDSTILL: Duration = Duration::from_secs(20);

pub(super) fn as_text(holder: Option<u32>, published: Option<&Published>, now: UnixMs) -> String {
    let Some(pid) = holder else {
        return "No daemon runs: `receiptd run` starts one.\n".to_owned();
    };
    let Some(published) = published else {
        return format!("A daemon runs (process {pid}); it has not said how it fares.\n");
    };
    let up = rounded(now.since(UnixMs(published.started_at)));
    let mut text = format!("A daemon runs (process {pid}, for {up}).\n");
    let silent = now.since(UnixMs(published.updated_at));
    if silent > STANDSTILL {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            text,
            "  It has said nothing for {}: it hangs, or cannot write beside the database.",
            rounded(silent)
        );
    }
    let _ = writeln!(text, "  {}", loops(published));
    if let Some(backlog) = &published.backlog {
        let _ = writeln!(text, "  {}", counted(backlog, now));
    }
    for lane in &published.lanes {
        let _ = writeln!(text, "  {}", condition(lane, now));
    }
    text
}

fn loops(published: &Published) -> String {
    let standing: Vec<String> = published
        .loops
        .iter()
        .map(|of| (of, Duration::from_millis(of.turned_ms_ago)))
        .filter(|(_, age)| *age > STANDSTILL)
        .map(|(of, age)| format!("the {} has not turned for {}", of.name, rounded(age)))
        .collect();
    match standing.is_empty() {
        true => format!("Its {} loops turn.", published.loops.len()),
        false => standing.join(", "),
    }
}

fn counted(backlog: &Backlog, now: UnixMs) -> String {
    const MIB: u64 = 1 << 20;
    let ago = rounded(now.since(UnixMs(backlog.counted_at)));
    let lag = rounded(Duration::from_millis(backlog.lag_ms));
    let mut text = format!(
        "Counted {ago} ago: {} pending, {} due, the oldest for {lag}; the write-ahead log has {} MiB",
        backlog.pending,
        backlog.due,
        backlog.wal_bytes / MIB
    );
    if backlog.wal_held_bytes >= MIB {
        let held = backlog.wal_held_bytes / MIB;
        let _ = write!(text, ", {held} of them held by an open transaction");
    }
    text + "."
}

fn condition(lane: &LaneCondition, now: UnixMs) -> String {
    let mut text = match &lane.corp_id {
        Some(corp) => format!("{}/{corp}: {}", lane.account, lane.condition),
        None => format!("{}: {}", lane.account, lane.condition),
    };
    if let Some(code) = &lane.code {
        let _ = write!(text, " ({code})");
    }
    match lane.last_success_at {
        Some(at) => {
            let ago = rounded(now.since(UnixMs(at)));
            let _ = write!(text, ", last answer {ago} ago");
        }
        None => text.push_str(", no answer yet"),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::LoopBeat;

    fn published() -> Published {
        let turned = |name: &str, turned_ms_ago| LoopBeat {
            name: name.to_owned(),
            turned_ms_ago,
        };
        let lane = |corp: Option<&str>, condition: &str, code: Option<&str>, at| LaneCondition {
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
            in_flight: 0,
            loops: vec![turned("scheduler", 3_000), turned("keeper", 4_000)],
            backlog: Some(Backlog {
                counted_at: 90_000,
                pending: 12,
                due: 3,
                lag_ms: 61_000,
                wal_bytes: 70 << 20,
                wal_held_bytes: 65 << 20,
                calls_this_month: 0,
                waiting: Vec::new(),
            }),
            lanes: vec![
                lane(None, "ok", None, Some(98_000)),
                lane(Some("c"), "blocked", Some("auth.error"), None),
            ],
            budgets: Vec::new(),
            reloads: Default::default(),
        }
    }

    #[test]
    fn a_daemon_that_fares_well_and_one_that_does_not() {
        let now = UnixMs(100_000);
        let mut found = published();
        assert_eq!(
            as_text(Some(7), Some(&found), now),
            "A daemon runs (process 7, for 1m 40s).\n\
             \x20 Its 2 loops turn.\n\
             \x20 Counted 10s ago: 12 pending, 3 due, the oldest for 1m 1s; the write-ahead log has 70 MiB, 65 of them \
             held by an open transaction.\n\
             \x20 a: ok, last answer 2s ago\n\
             \x20 a/c: blocked (auth.error), no answer yet\n"
        );
        found.loops[1].turned_ms_ago = 40_000;
        found.updated_at = 60_000;
        let text = as_text(Some(7), Some(&found), now);
        assert!(text.contains("It has said nothing for 40s"), "{text}");
        assert!(text.contains("the keeper has not turned for 40s"), "{text}");
        assert!(as_text(None, None, now).contains("receiptd run"));
    }
}
