//! A consumer that asks for `readers.id > N`, again and again, meets every reader once, whoever writes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use receiptd::store::Commands as _;

use super::super::{Backend as _, add_placed, at, claim, commit, settled, walk};
use super::{PostgresBackend, available, cluster, open};

const WRITERS: usize = 3;
const BATCHES: usize = 40;
const READERS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_writers_hide_no_reader_from_a_consumer_that_never_waits() {
    if !available() {
        return;
    }
    let backend = PostgresBackend::fresh().await;
    let ended = Arc::new(AtomicUsize::new(0));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let database = backend.database.clone();
        let ended = Arc::clone(&ended);
        writers.spawn(async move {
            // A node of its own, with groups of its own.
            let store = open(&database).await.unwrap();
            let account = format!("account-{writer}");
            for batch in 0..BATCHES {
                let key = format!("key-{writer}-{batch}");
                add_placed(&store, &[(&key, &account, at(5))]).await;
                let claimed = claim(&store, &key, at(5)).await;
                let users: Vec<String> = (0..READERS).map(|user| format!("u{user}")).collect();
                let users: Vec<&str> = users.iter().map(String::as_str).collect();
                commit(&store, &[walk(&claimed, at(6), &users)], settled).await;
            }
            store.close().await;
            ended.fetch_add(1, Ordering::SeqCst);
        });
    }
    let mut consumer = cluster().connect(&backend.database).await;
    let (mut last, mut met) = (0_i64, HashSet::new());
    let began = Instant::now();
    loop {
        let all_ended = ended.load(Ordering::SeqCst) == WRITERS;
        let rows: Vec<(i64, String, String)> = sqlx::query_as(
            "SELECT id, process_query_key, user_id FROM readers WHERE id > $1 ORDER BY id LIMIT 100",
        )
        .bind(last)
        .fetch_all(&mut consumer)
        .await
        .unwrap();
        for (id, key, user) in &rows {
            assert!(
                met.insert((key.clone(), user.clone())),
                "{key} {user} came twice"
            );
            last = *id;
        }
        if rows.is_empty() && all_ended {
            break;
        }
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "{} met",
            met.len()
        );
    }
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    assert_eq!(met.len(), WRITERS * BATCHES * READERS);
}
