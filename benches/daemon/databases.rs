//! What the store costs on either database: placing, claims, commits, and a feeder's insert until the daemon is woken.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use receiptd::receipt::{LaneId, Message, Outcome, UnixMs};
use receiptd::settings::{Database, PostgresUrl, SqliteFile, Synchronous};
use receiptd::store::{
    Begun, CallCount, DueQuery, NewMessage, Placement, Role, Scope, SharedStore, Wanted, Writes,
    open,
};

use super::Effort;
use super::cluster::Cluster;
use super::figures::{median, quantile};
use super::scale::seen;
use super::table::{self, Cell};

/// Rows at once: the daemon's calls under way, and what a burst brings.
const BATCHES: [usize; 2] = [64, 500];
const HOUR: Duration = Duration::from_secs(3_600);

/// Both databases, each with fsync on, in turns on the same machine. PostgreSQL is a server of this run's own.
pub(crate) async fn run(effort: Effort) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = Database::Sqlite(SqliteFile {
        path: directory.path().join("bench.db"),
        synchronous: Synchronous::Full,
    });
    let mut databases = vec![("SQLite", file)];
    let cluster = Cluster::own();
    if let Some(cluster) = &cluster {
        cluster.durable();
        let url: PostgresUrl = cluster.url(&cluster.database().await).parse()?;
        databases.push(("PostgreSQL", Database::Postgres(url)));
    }
    table::head(
        "The store on either database, over a loopback connection, fsync on",
        &[
            "database, rows at once",
            "place, ms",
            "claim, ms",
            "commit, ms",
            "99 %",
            "outcomes a second",
            "wake-up, ms",
            "99 %",
        ],
    );
    let mut stores = Vec::new();
    for (name, database) in &databases {
        let store = open(database, Role::Owner, &mut |_| ()).await?;
        let feeder = open(database, Role::Writer, &mut |_| ()).await?;
        stores.push((*name, store, feeder));
    }
    for batch in BATCHES {
        let mut all: Vec<Times> = stores.iter().map(|_| Times::default()).collect();
        for round in 0..effort.of(100, 20) {
            for ((_, store, feeder), times) in stores.iter().zip(&mut all) {
                times.round(store, feeder, batch, round).await?;
            }
        }
        for ((name, ..), mut times) in stores.iter().zip(all) {
            let commit = median(&mut times.commits);
            table::row(&[
                format!("{name}, {batch}").into(),
                Cell::Figure(median(&mut times.places), 2),
                Cell::Figure(median(&mut times.claims), 2),
                Cell::Figure(commit, 2),
                Cell::Figure(quantile(&mut times.commits, 0.99), 2),
                Cell::Figure(batch as f64 / commit * 1e3, 0),
                Cell::Figure(median(&mut times.wake_ups), 2),
                Cell::Figure(quantile(&mut times.wake_ups, 0.99), 2),
            ]);
        }
    }
    for (_, store, feeder) in stores {
        feeder.close().await;
        store.close().await;
    }
    Ok(())
}

/// Milliseconds.
#[derive(Default)]
struct Times {
    places: Vec<f64>,
    claims: Vec<f64>,
    commits: Vec<f64>,
    wake_ups: Vec<f64>,
}

impl Times {
    /// A burst is inserted, and wakes; is placed, claimed, and committed with a reader a message.
    async fn round(
        &mut self,
        store: &SharedStore,
        feeder: &SharedStore,
        batch: usize,
        round: usize,
    ) -> anyhow::Result<()> {
        let lane = LaneId {
            account: format!("of-{batch}").into(),
            corp: None,
        };
        let new: Vec<NewMessage> = (0..batch)
            .map(|number| {
                let key = format!("key-{batch}-{round}-{number}");
                NewMessage::new(key, lane.account.clone())
            })
            .collect();
        // Nothing of before is left to be told.
        while tokio::time::timeout(Duration::from_millis(50), store.changed())
            .await
            .is_ok()
        {}
        let began = Instant::now();
        feeder.add(&new).await?;
        store.changed().await?;
        self.wake_ups.push(ms(began));
        let rows = store.new_rows(Scope::All, None, batch, batch).await?.rows;
        anyhow::ensure!(rows.len() == batch, "only {} rows are new", rows.len());
        let now = receiptd::daemon::Clock::system().now();
        let places: Vec<Placement> = rows
            .into_iter()
            .map(|row| Placement {
                message: Message {
                    next_poll_at: Some(now),
                    admitted_at: Some(now),
                    ..row
                },
                waits_for: None,
                lease: None,
            })
            .collect();
        let began = Instant::now();
        store.place(&places).await?;
        self.places.push(ms(began));
        let query = DueQuery {
            lanes: std::slice::from_ref(&lane),
            wanted: Wanted::Sound,
            now,
            last_chances_until: now,
            without: &[],
            per_lane: batch,
        };
        let began = Instant::now();
        let due = store.due(&query).await?;
        self.claims.push(ms(began));
        anyhow::ensure!(due.len() == batch, "only {} rows are due", due.len());
        let outcomes: Vec<Outcome> = due.iter().map(|row| seen(row, now)).collect();
        let began = Instant::now();
        commit(store, &outcomes, &lane, now)
            .await
            .context("a commit failed")?;
        self.commits.push(ms(began));
        Ok(())
    }
}

async fn commit(
    store: &SharedStore,
    outcomes: &[Outcome],
    lane: &LaneId,
    now: UnixMs,
) -> anyhow::Result<()> {
    let Begun::Open(transaction) = store.begin(outcomes).await? else {
        anyhow::bail!("nothing was committed before");
    };
    let found = transaction.found().iter();
    let moved = found.filter_map(|found| found.row.as_ref());
    let moved = moved.map(|row| Message {
        next_poll_at: Some(now + HOUR),
        reader_count: 1,
        call_count: 1,
        last_polled_at: Some(now),
        last_complete_at: Some(now),
        answered_at: Some(now),
        ..row.clone()
    });
    let writes = Writes {
        messages: moved.collect(),
        calls: vec![CallCount {
            calls: outcomes.len() as u64,
            ..CallCount::nothing(lane.clone(), "2026-01".to_owned())
        }],
        ..Writes::default()
    };
    Ok(transaction.commit(&writes).await?)
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}
