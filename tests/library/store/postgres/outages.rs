//! What a network, a server and a listener that fail may do, and may not.

use std::time::{Duration, Instant};

use receiptd::receipt::Outcome;
use receiptd::store::postgres::PostgresStore;
use receiptd::store::{Begun, CallCount, Commands as _, Found, Results as _, Role, Store, Writes};

use super::super::{
    Backend as _, add_placed, at, claim, lane, new, settled, show, try_commit, walk,
};
use super::{PostgresBackend, available, cluster, placed};
use crate::store::cluster::Cluster;
use crate::store::cluster::proxy::{Fault, Proxy};

/// Commits as the reconciler does: until it succeeds, as long as waiting may mend what is wrong.
async fn insist<S: Store>(store: &S, outcomes: &[Outcome]) -> usize {
    let counted = |outcomes: &[Outcome], found: &[Found]| Writes {
        calls: vec![CallCount {
            calls: outcomes.len() as u64,
            ..CallCount::nothing(lane("x"), "2023-11".to_owned())
        }],
        ..settled(outcomes, found)
    };
    let began = Instant::now();
    for attempt in 1.. {
        match try_commit(store, outcomes, counted).await {
            Ok(()) => return attempt,
            Err(error) if error.is_transient() => {
                assert!(began.elapsed() < Duration::from_secs(120), "{error:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    unreachable!()
}

/// Whether its COMMIT arrived or not.
#[tokio::test]
async fn a_batch_whose_commit_was_cut_off_is_stored_once() {
    if !available() {
        return;
    }
    for fault in [Fault::AnswerToCommitLost, Fault::CommitLost] {
        let backend = PostgresBackend::fresh().await;
        let proxy = Proxy::start(cluster().port(), fault).await;
        let url = proxy.url(&backend.database);
        let store = PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| ())
            .await
            .unwrap();
        add_placed(&store, &[("a", "x", at(5))]).await;
        for round in 1..=3_u32 {
            let row = show(&store, "a").await.0;
            let now = row.next_poll_at.unwrap();
            let claimed = claim(&store, "a", now).await;
            let user = format!("u{round}");
            proxy.disturb(if round == 1 { 0 } else { 1 });
            let attempts = insist(&store, &[walk(&claimed, now, &[&user])]).await;
            assert_eq!(proxy.left(), 0, "the fault happened");
            assert_eq!(attempts, if round == 1 { 1 } else { 2 }, "{fault:?}");
            let (row, readers) = show(&store, "a").await;
            assert_eq!(
                (row.call_count, row.reader_count),
                (round, round),
                "{fault:?}"
            );
            assert_eq!(readers.len(), round as usize);
            let calls = store.calls_in("2023-11").await.unwrap();
            assert_eq!(calls[0].calls, u64::from(round), "{fault:?}");
        }
    }
}

/// The COMMIT of an attempt that was given up may still be under way: the next one waits for it.
#[tokio::test]
async fn a_commit_that_still_runs_is_waited_for() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    let claimed = placed(store).await;
    let outcomes = [walk(&claimed, at(6), &["u"])];
    let mut owner = cluster().connect(&backend.database).await;
    // A trigger that the COMMIT itself waits in.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END; $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON readers DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&mut owner).await.unwrap();
    let Begun::Open(transaction) = store.begin(&outcomes).await.unwrap() else {
        panic!("nothing was committed yet")
    };
    let writes = settled(&outcomes, transaction.found());
    let given_up =
        tokio::time::timeout(Duration::from_millis(300), transaction.commit(&writes)).await;
    assert!(given_up.is_err(), "it was under way");
    insist(store, &outcomes).await;
    let (row, readers) = show(store, "a").await;
    assert_eq!((row.call_count, row.reader_count, readers.len()), (1, 1, 1));
}

/// Both kinds of restart, in the midst of commits, and a while without a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_loses_and_doubles_nothing() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let database = cluster.database().await;
    let url = cluster.url(&database);
    let store = PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| ())
        .await
        .unwrap();
    let names: Vec<String> = (0..60).map(|number| format!("k{number}")).collect();
    let rows: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "x", at(5)))
        .collect();
    add_placed(&store, &rows).await;
    let mut claims = Vec::new();
    for name in &names {
        claims.push(claim(&store, name, at(5)).await);
    }
    let (done, mut count) = tokio::sync::watch::channel(0);
    let store = std::sync::Arc::new(store);
    let writer = tokio::spawn({
        let store = std::sync::Arc::clone(&store);
        async move {
            for (number, claimed) in claims.iter().enumerate() {
                insist(&*store, &[walk(claimed, at(6), &["u", "v"])]).await;
                done.send_replace(number + 1);
            }
        }
    });
    for (wait_for, arguments) in [
        (10, &["restart", "-m", "fast"][..]),
        (25, &["restart", "-m", "immediate"]),
        (40, &["stop", "-m", "fast"]),
    ] {
        count.wait_for(|count| *count >= wait_for).await.unwrap();
        tokio::task::block_in_place(|| cluster.control(arguments));
    }
    // Commands meet the same: it may pass.
    let error = store.add(&[new("later")]).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    tokio::task::block_in_place(|| cluster.control(&["start"]));
    writer.await.unwrap();
    for name in &names {
        let (row, readers) = show(&*store, name).await;
        assert_eq!(
            (row.call_count, row.reader_count, readers.len()),
            (1, 2, 2),
            "{name}"
        );
    }
    // Every attempt, and so every batch that was cut off, is counted once.
    assert_eq!(store.calls_in("2023-11").await.unwrap()[0].calls, 60);
    wakes(&*store).await;
}

/// An insert wakes at once, or at the next look.
async fn wakes<S: Store>(store: &S) {
    store
        .add(&[new(&format!("wake-{}", fastrand::u64(..)))])
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(10), store.changed())
        .await
        .expect("no wake-up")
        .unwrap();
}

/// A lost listener is replaced; what was announced in between is met by the look.
#[tokio::test]
async fn a_listener_whose_session_ended_harms_nobody() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let store = backend.store();
    let mut owner = cluster().connect(&backend.database).await;
    for _ in 0..3 {
        let ended: Vec<(bool,)> = sqlx::query_as(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND query LIKE 'LISTEN%'",
        )
        .fetch_all(&mut owner)
        .await
        .unwrap();
        assert!(ended.iter().all(|(ended,)| *ended));
        wakes(store).await;
    }
    // It listens again.
    let began = Instant::now();
    loop {
        let (listening,): (i64,) = sqlx::query_as(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'",
        )
        .fetch_one(&mut owner)
        .await
        .unwrap();
        if listening == 1 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "nobody listens");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A listener that takes nothing any more holds back the removal of dead rows in the whole database, until the server ends it.
#[tokio::test]
async fn a_frozen_listener_is_ended_by_the_server_and_harms_nobody() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let database = cluster.database().await;
    let proxy = Proxy::start(cluster.port(), Fault::ListenerFrozen).await;
    let url = proxy.url(&database);
    let store = PostgresStore::open(&url.parse().unwrap(), Role::Owner, &mut |_| ())
        .await
        .unwrap();
    wakes(&store).await;
    proxy.disturb(usize::MAX);
    let mut owner = cluster.connect(&database).await;
    let listener = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let (frozen,): (i32,) = sqlx::query_as(listener)
        .fetch_one(&mut owner)
        .await
        .unwrap();
    let began = Instant::now();
    loop {
        sqlx::query("SELECT pg_notify('receiptd', repeat('x', 1000) || i) FROM generate_series(1, 20000) AS i")
            .execute(&mut owner)
            .await
            .unwrap();
        wakes(&store).await;
        let left: Option<(i32,)> =
            sqlx::query_as("SELECT pid FROM pg_stat_activity WHERE pid = $1")
                .bind(frozen)
                .fetch_optional(&mut owner)
                .await
                .unwrap();
        if left.is_none() {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "the frozen session is still there"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
