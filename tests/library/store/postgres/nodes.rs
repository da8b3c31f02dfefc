//! Leases: who has a group, who loses it, and what he cannot write then.

use std::time::{Duration, Instant};

use receiptd::receipt::{Chat, GroupId, Lease, Message, Outcome, UnixMs};
use receiptd::store::postgres::PostgresStore;
use receiptd::store::{
    Beat, Begun, CallCount, Claims as _, Commands as _, Granted, Group, HabitsRow, Leases as _,
    NodeText, Placement, Promise, Results as _, Role, Scope,
};

use super::super::{
    Backend as _, add_placed, at, claim, commit, lane, new_of, new_rows, settled, show, walk,
};
use super::{PostgresBackend, available, cluster, open};

const LONG: Duration = Duration::from_secs(600);

fn text(name: &str) -> NodeText {
    NodeText {
        name: name.to_owned(),
        version: "0".to_owned(),
        settings: "same".to_owned(),
        accounts: vec!["x".into(), "y".into()],
    }
}

fn beat<'a>(node: &'a NodeText, promises: &'a [Promise]) -> Beat<'a> {
    Beat {
        node,
        lease: LONG,
        draining: false,
        promises,
        condition: None,
    }
}

fn group(name: &str, accounts: &[&str], corp: Option<&str>) -> Group {
    Group {
        id: GroupId::new(name),
        accounts: accounts.iter().map(|name| (*name).into()).collect(),
        corp: corp.map(Into::into),
    }
}

/// Two nodes of one database.
async fn two() -> Option<(PostgresBackend, PostgresStore)> {
    if !available() {
        return None;
    }
    let backend = PostgresBackend::fresh().await;
    let other = open(&backend.database).await.unwrap();
    for (store, name) in [(backend.store(), "a"), (&other, "b")] {
        store.join(&beat(&text(name), &[])).await.unwrap();
    }
    Some((backend, other))
}

async fn take(store: &PostgresStore, wanted: &[Group]) -> Vec<Lease> {
    let granted = store.acquire(wanted).await.unwrap();
    granted.into_iter().map(|granted| granted.lease).collect()
}

/// The server's clock passes the end of a node's lease.
async fn expire(backend: &PostgresBackend, name: &str) {
    backend
        .run(&format!(
            "UPDATE nodes SET expires_at = 0 WHERE name = '{name}'"
        ))
        .await;
}

/// A row of account x, claimed under a lease of node a.
async fn leased(backend: &PostgresBackend) -> (Lease, Message, Outcome) {
    let store = backend.store();
    let lease = take(store, &[group("lane x", &["x"], None)])
        .await
        .remove(0);
    add_placed(store, &[("k", "x", at(5))]).await;
    let row = claim(store, "k", at(5)).await;
    let mut outcome = walk(&row, at(6), &["u"]);
    outcome.claim.lease = Some(lease.clone());
    (lease, row, outcome)
}

#[tokio::test]
async fn a_group_is_one_node_s_until_that_gives_it_up() {
    let Some((backend, b)) = two().await else {
        return;
    };
    let a = backend.store();
    let of_x = [group("lane x", &["x"], None)];
    let lease = take(a, &of_x).await.remove(0);
    assert_eq!(take(&b, &of_x).await, []);
    // By any other name: configurations differ while they are changed.
    for overlapping in [
        group("account x", &["x"], None),
        group("budget all", &["x", "y"], None),
        group("lane x/c", &["x"], Some("c")),
    ] {
        assert_eq!(take(&b, &[overlapping]).await, []);
    }
    // Organisations of one account are apart.
    let corps = ["c", "d"].map(|corp| group(&format!("lane y/{corp}"), &["y"], Some(corp)));
    assert_eq!(take(a, &corps[..1]).await.len(), 1);
    assert_eq!(take(&b, &corps).await.len(), 1);
    assert_eq!(take(&b, &[group("account y", &["y"], None)]).await, []);
    // A lease of another time releases nothing.
    let old = Lease {
        epoch: lease.epoch - 1,
        ..lease.clone()
    };
    a.release(&[old]).await.unwrap();
    b.release(std::slice::from_ref(&lease)).await.unwrap();
    assert_eq!(take(&b, &of_x).await, []);
    a.release(std::slice::from_ref(&lease)).await.unwrap();
    let granted = b.acquire(&of_x).await.unwrap().remove(0);
    let Granted {
        lease: next,
        given_up,
    } = granted;
    assert!(next.epoch > lease.epoch);
    assert!(
        given_up.is_some_and(|ago| ago < Duration::from_secs(60)),
        "{given_up:?}"
    );
    // Who leaves has nothing any more, and takes nothing.
    b.leave().await.unwrap();
    assert_eq!(b.beat(&beat(&text("b"), &[])).await.unwrap(), None);
    assert_eq!(take(&b, &of_x).await, []);
    assert_eq!(take(a, &of_x).await.len(), 1);
    let members = a.members().await.unwrap();
    assert_eq!(members.nodes.len(), 1);
    assert_eq!(members.holdings.len(), 2, "{:?}", members.holdings);
}

#[tokio::test]
async fn what_a_dead_node_promised_is_counted_once() {
    let Some((backend, b)) = two().await else {
        return;
    };
    let a = backend.store();
    let promise = |calls| Promise {
        lane: lane("x"),
        month: "2023-11".to_owned(),
        calls,
    };
    let counted = |calls| CallCount {
        calls,
        ..CallCount::nothing(lane("x"), "2023-11".to_owned())
    };
    a.count_calls(&[counted(20)]).await.unwrap();
    let node = text("a");
    assert!(
        a.beat(&beat(&node, &[promise(50)]))
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(take(a, &[group("account x", &["x"], None)]).await.len(), 1);
    // Written after the promise: a part of it.
    a.count_calls(&[counted(10)]).await.unwrap();
    assert_eq!(b.reap().await.unwrap(), Vec::<String>::new());
    expire(&backend, "a").await;
    assert_eq!(b.reap().await.unwrap(), ["a"]);
    assert_eq!(b.reap().await.unwrap(), Vec::<String>::new());
    let calls = b.calls_in("2023-11").await.unwrap();
    assert_eq!(calls.iter().map(|count| count.calls).sum::<u64>(), 50);
    assert_eq!(a.beat(&beat(&node, &[promise(90)])).await.unwrap(), None);
    assert_eq!(take(&b, &[group("account x", &["x"], None)]).await.len(), 1);
    // It begins anew, and promises anew.
    a.join(&beat(&node, &[])).await.unwrap();
    assert_eq!(take(a, &[group("account x", &["x"], None)]).await, []);
    assert_eq!(a.members().await.unwrap().nodes.len(), 2);
}

/// Readers are facts, whoever saw them. State, schedule, places and habits are the next node's.
#[tokio::test]
async fn who_lost_a_group_writes_nothing_of_it() {
    let Some((backend, b)) = two().await else {
        return;
    };
    let a = backend.store();
    let (lease, row, outcome) = leased(&backend).await;
    assert_eq!(a.add(&[new_of("new", "x")]).await.unwrap(), 1);
    let new = new_rows(a, 9).await.remove(0);
    let habits = |text: &str, lease: &Lease| HabitsRow {
        lane: lane("x"),
        chat: Chat::Group,
        habits: text.to_owned(),
        lease: Some(lease.clone()),
    };
    a.save_habits(&[habits("{\"of\":\"a\"}", &lease)])
        .await
        .unwrap();
    expire(&backend, "a").await;
    assert_eq!(b.reap().await.unwrap(), ["a"]);
    let next = take(&b, &[group("lane x", &["x"], None)]).await.remove(0);
    b.save_habits(&[habits("{\"of\":\"b\"}", &next)])
        .await
        .unwrap();

    let place = Placement {
        message: Message {
            next_poll_at: Some(at(7)),
            admitted_at: Some(at(7)),
            ..new
        },
        waits_for: None,
        lease: Some(lease.clone()),
    };
    a.place(std::slice::from_ref(&place)).await.unwrap();
    assert_eq!(show(a, "new").await.0.admitted_at, None);
    a.save_habits(&[habits("{\"of\":\"a, stale\"}", &lease)])
        .await
        .unwrap();
    assert_eq!(a.all_habits().await.unwrap()[0].habits, "{\"of\":\"b\"}");
    let Begun::Open(transaction) = a.begin(std::slice::from_ref(&outcome)).await.unwrap() else {
        panic!("nothing was committed before");
    };
    assert!(transaction.found()[0].fenced);
    drop(transaction);
    // As the reconciler settles it.
    commit(a, &[outcome], |outcomes, found| {
        let mut outcomes = outcomes.to_vec();
        outcomes[0].claim.fence = Some(UnixMs(i64::MIN));
        settled(&outcomes, found)
    })
    .await;
    let (now, readers) = show(a, "k").await;
    assert_eq!(readers, ["u"]);
    assert_eq!(
        (now.state, now.next_poll_at, now.reader_count),
        (row.state, row.next_poll_at, 1)
    );
    // And who has it writes.
    let place = Placement {
        lease: Some(next.clone()),
        ..place
    };
    b.place(&[place]).await.unwrap();
    assert!(show(a, "new").await.0.admitted_at.is_some());
    let mut outcome = walk(&row, at(8), &["v"]);
    outcome.claim.lease = Some(next);
    commit(&b, &[outcome], |outcomes, found| {
        assert!(!found[0].fenced);
        settled(outcomes, found)
    })
    .await;
    assert!(show(a, "k").await.0.next_poll_at > row.next_poll_at);
}

/// A sign of life that began in time and ends late is no death; and who is dead while his transaction is open is dead when it
/// has ended.
#[tokio::test]
async fn a_death_waits_for_what_began_before_it() {
    let Some((backend, b)) = two().await else {
        return;
    };
    let a = backend.store();
    let (_, _, outcome) = leased(&backend).await;
    expire(&backend, "a").await;
    let mut late = cluster().connect(&backend.database).await;
    for statement in [
        "BEGIN",
        "UPDATE nodes SET expires_at = 9000000000000 WHERE name = 'a'",
    ] {
        sqlx::raw_sql(statement).execute(&mut late).await.unwrap();
    }
    assert_eq!(b.reap().await.unwrap(), Vec::<String>::new());
    sqlx::raw_sql("COMMIT").execute(&mut late).await.unwrap();
    assert_eq!(b.reap().await.unwrap(), Vec::<String>::new());

    let Begun::Open(transaction) = a.begin(std::slice::from_ref(&outcome)).await.unwrap() else {
        panic!("nothing was committed before");
    };
    assert!(!transaction.found()[0].fenced);
    expire(&backend, "a").await;
    assert_eq!(b.reap().await.unwrap(), Vec::<String>::new());
    assert_eq!(take(&b, &[group("lane x", &["x"], None)]).await, []);
    let writes = settled(&[outcome], transaction.found());
    transaction.commit(&writes).await.unwrap();
    assert_eq!(b.reap().await.unwrap(), ["a"]);
    assert_eq!(take(&b, &[group("lane x", &["x"], None)]).await.len(), 1);
}

/// A process that is stopped in the midst of its transaction: the server ends it, and nobody waits for longer.
#[tokio::test]
async fn a_transaction_of_a_frozen_node_is_ended() {
    let Some((backend, b)) = two().await else {
        return;
    };
    let a = backend.store();
    let (_, row, outcome) = leased(&backend).await;
    let Begun::Open(transaction) = a.begin(std::slice::from_ref(&outcome)).await.unwrap() else {
        panic!("nothing was committed before");
    };
    expire(&backend, "a").await;
    let since = Instant::now();
    while b.reap().await.unwrap() != ["a"] {
        assert!(since.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(take(&b, &[group("lane x", &["x"], None)]).await.len(), 1);
    let writes = settled(&[outcome], transaction.found());
    assert!(transaction.commit(&writes).await.is_err());
    assert_eq!(show(a, "k").await.0.next_poll_at, row.next_poll_at);
    assert_eq!(show(a, "k").await.1, Vec::<String>::new());
}

/// Tables that an older daemon cannot work with are not made while one works.
#[tokio::test]
async fn a_migration_waits_for_older_daemons_to_end() {
    if !available() {
        return;
    }
    let database = cluster().database().await;
    drop(open(&database).await);
    let mut somebody = cluster().connect(&database).await;
    let opened = || async {
        let url = cluster().url(&database).parse().unwrap();
        PostgresStore::open(&url, Role::Owner, &mut |_| ()).await
    };
    // A node that knows less.
    for statement in [
        "DELETE FROM receiptd_migrations WHERE version = 3",
        "INSERT INTO nodes (node_id, name, version, schema_version, settings, accounts, heard_of_at, expires_at)
        VALUES ('i', 'elder', '0.0.1', 2, '', '{}', 0, 9000000000000)",
    ] {
        sqlx::raw_sql(statement).execute(&mut somebody).await.unwrap();
    }
    let refused = opened().await.unwrap_err().to_string();
    assert!(refused.contains("elder, version 0.0.1"), "{refused}");
    // A daemon of before there were nodes.
    sqlx::raw_sql("DROP TABLE nodes; DROP TABLE leases")
        .execute(&mut somebody)
        .await
        .unwrap();
    for statement in [
        "SET application_name = 'receiptd/elder'",
        "LISTEN \"receiptd\"",
    ] {
        sqlx::raw_sql(statement)
            .execute(&mut somebody)
            .await
            .unwrap();
    }
    let refused = opened().await.unwrap_err().to_string();
    assert!(refused.contains("of before version 3"), "{refused}");
    sqlx::raw_sql("UNLISTEN *")
        .execute(&mut somebody)
        .await
        .unwrap();
    drop(opened().await.unwrap());
    cluster().drop_database(&database);
}

/// Of some accounts alone, or of all but some; each lane once, and the others' not at all.
#[tokio::test]
async fn rows_are_looked_for_by_account() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    add_placed(
        store,
        &[
            ("x1", "x", at(5)),
            ("x2", "x", at(6)),
            ("y1", "y", at(5)),
            ("z1", "z", at(5)),
        ],
    )
    .await;
    for key in ["x3", "y2", "z2", "w1"] {
        let account = &key[..1];
        assert_eq!(store.add(&[new_of(key, account)]).await.unwrap(), 1);
    }
    let some = ["x".into(), "z".into(), "nobody".into()];
    for (scope, wanted, new) in [
        (
            Scope::All,
            vec!["x", "y", "z"],
            vec!["w1", "x3", "y2", "z2"],
        ),
        (Scope::Of(&some), vec!["x", "z"], vec!["x3", "z2"]),
        (Scope::Except(&some), vec!["y"], vec!["w1", "y2"]),
    ] {
        let mut lanes: Vec<String> = store
            .lanes(scope, &[])
            .await
            .unwrap()
            .into_iter()
            .map(|due| due.lane.account.to_string())
            .collect();
        lanes.sort();
        assert_eq!(lanes, wanted, "{scope:?}");
        // Lane by lane, on from where the last slice ended.
        let mut keys = Vec::new();
        let mut after = None;
        loop {
            let found = store.new_rows(scope, after.as_ref(), 9, 1).await.unwrap();
            keys.extend(found.rows.iter().map(|row| row.key.to_string()));
            after = found.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(keys, new, "{scope:?}");
    }
}
