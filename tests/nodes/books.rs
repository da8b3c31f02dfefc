//! Whether all ended as the truth has it.

use std::collections::{BTreeMap, BTreeSet};

use receiptd::sandbox::Call;

use super::town::{ACCOUNTS, Town, is_limited, readers_of};

/// What a frozen node may have sent after it was woken: a call that had passed its check, one a worker at most.
#[derive(Clone, Debug)]
pub(crate) struct Woken {
    pub(crate) host: String,
    /// When, by the sandbox's clock.
    pub(crate) at: i64,
}

/// Such a call is on its way at once.
const ON_ITS_WAY_MS: i64 = 500;
/// Calls under way at once.
const WORKERS: usize = 64;

/// Waits until nothing is pending, stops the nodes, and compares. `lost`: how many calls may be uncounted, of accounts without a
/// budget, since kills took them along.
pub(crate) async fn audit(town: &mut Town, seed: u64, lost: u64, woken: &[Woken]) {
    town.until_true("nothing is pending, and no pushed read is left", || {
        let left = town.try_sql(
            "SELECT count(*) FROM messages WHERE state = 'pending' UNION ALL SELECT count(*) FROM read_events",
        );
        left.is_some_and(|rows| rows == ["0", "0"])
    })
    .await;
    for node in &mut town.nodes {
        if node.is_running() {
            node.signal("TERM");
            node.ended().await;
        }
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
    let violations = town.sandbox.violations();
    assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    readers(town, seed).await;
    calls(town, seed, lost);
    one_node_at_a_time(town, seed, woken);
    let held = town.sql("SELECT count(*) FROM leases WHERE node_id IS NOT NULL");
    assert_eq!(held, ["0"], "who stops gives all up");
    assert_eq!(town.sql("SELECT count(*) FROM nodes"), ["0"]);
}

async fn readers(town: &Town, seed: u64) {
    let all = town.sql("SELECT id, process_query_key, user_id FROM readers ORDER BY id");
    town.until_true("the consumer has read all", || {
        town.consumed().len() >= all.len()
    })
    .await;
    assert_eq!(
        town.consumed(),
        all,
        "seed {seed}: a consumer with a cursor"
    );
    let mut seen: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in &all {
        let (key, user) = row.split_once('|').unwrap().1.rsplit_once('|').unwrap();
        seen.entry(key).or_default().push(user);
    }
    let rows = town.sql("SELECT process_query_key, state, reader_count FROM messages");
    assert_eq!(rows.len(), town.fed().len(), "seed {seed}");
    for row in rows {
        let (rest, count) = row.rsplit_once('|').unwrap();
        let (key, state) = rest.rsplit_once('|').unwrap();
        let wanted = if key.contains("recall=") {
            "recalled"
        } else {
            "complete"
        };
        assert_eq!(state, wanted, "seed {seed}: {row}");
        let truth = readers_of(&town.sandbox, key);
        let truth: BTreeSet<&str> = truth.iter().map(String::as_str).collect();
        let found = seen.remove(key).unwrap_or_default();
        let distinct: BTreeSet<&str> = found.iter().copied().collect();
        assert_eq!(distinct.len(), found.len(), "seed {seed}: {row}");
        assert_eq!(distinct, truth, "seed {seed}: {row}");
        assert_eq!(count, found.len().to_string(), "seed {seed}: {row}");
    }
    assert!(
        seen.is_empty(),
        "seed {seed}: readers of nobody's: {seen:?}"
    );
}

/// Every call counts: of a budget none is missing, whoever died.
fn calls(town: &Town, seed: u64, lost: u64) {
    let counted: BTreeMap<String, u64> = town
        .sql("SELECT account, sum(calls) FROM api_calls GROUP BY account")
        .iter()
        .filter_map(|row| row.split_once('|'))
        .map(|(account, calls)| (account.to_owned(), calls.parse().unwrap()))
        .collect();
    let made = town.sandbox.calls_after(0);
    let mut missing = 0;
    for account in ACCOUNTS {
        let of_account = |call: &&Call| call.caller == account && !call.key.is_empty();
        let made = made.iter().filter(of_account).filter(|call| call.metered);
        let made = made.count() as u64;
        let counted = counted.get(account).copied().unwrap_or(0);
        if is_limited(account) {
            assert!(
                counted >= made,
                "seed {seed}: {account}: {made} calls, {counted} counted"
            );
        } else {
            missing += made.saturating_sub(counted);
        }
    }
    assert!(
        missing <= lost,
        "seed {seed}: {missing} calls are not counted"
    );
    assert_eq!(
        town.sandbox.counts().throttled,
        0,
        "seed {seed}: a rate was exceeded"
    );
}

/// No two nodes call for one account within a second.
fn one_node_at_a_time(town: &Town, seed: u64, woken: &[Woken]) {
    let mut last: BTreeMap<String, Call> = BTreeMap::new();
    let mut excused = 0;
    for call in town.sandbox.calls_after(0) {
        if call.caller.is_empty() {
            continue;
        }
        let is_late = woken.iter().any(|woken| {
            call.host == woken.host && (woken.at..woken.at + ON_ITS_WAY_MS).contains(&call.at)
        });
        if let Some(before) = last.get(&call.caller)
            && before.host != call.host
            && call.at - before.at < 1000
        {
            if is_late {
                excused += 1;
                continue;
            }
            panic!(
                "seed {seed}: two nodes within a second: {before:#?} {call:#?}\n{}",
                town.logs()
            );
        }
        if !is_late {
            last.insert(call.caller.clone(), call);
        }
    }
    assert!(
        excused <= woken.len() * WORKERS,
        "seed {seed}: {excused} calls of nodes that were woken"
    );
}
