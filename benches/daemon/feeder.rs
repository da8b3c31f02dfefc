//! A feeder beside the daemon: its burst, how soon its row is called, and what the daemon costs while it waits.

use std::time::{Duration, Instant};

use sqlx::sqlite::SqliteConnection;

use super::Effort;
use super::endpoint::unix_us;
use super::figures::{median, quantile};
use super::meter::Meter;
use super::rig::{Rig, due_at_once, execute, until};
use super::table::{self, Cell};

/// See [`super::poll`]: gives 500 calls a second.
const RATE: u32 = 526;
/// Rows of a transaction where the feeder inserts in batches.
const BATCH: u64 = 1000;

pub(crate) async fn run(effort: Effort) -> anyhow::Result<()> {
    let rig = Rig::new()?;
    wake_up(&rig, effort).await?;
    burst(&rig, effort).await
}

async fn wake_up(rig: &Rig, effort: Effort) -> anyhow::Result<()> {
    let database = rig.database("wake-up")?;
    let mut feeder = database.feeder().await?;
    let daemon = rig.daemon(&database, &rig.http, RATE)?;
    // The first call fetches a token and connects.
    execute(&mut feeder, due_at_once(0, 1)).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let meter = Meter::start(daemon.pid())?;
    tokio::time::sleep(Duration::from_secs(effort.of(60, 15))).await;
    let idle = meter.stop()?;
    rig.log().await?;
    let mut committed = Vec::new();
    for round in 1..=effort.of(200, 60) {
        // At no fixed distance, lest it keep step with a beat of the daemon.
        tokio::time::sleep(Duration::from_millis(40 + fastrand::u64(..80))).await;
        execute(&mut feeder, due_at_once(round, 1)).await?;
        committed.push(i128::try_from(unix_us())?);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let log = rig.log().await?;
    let mut waits = Vec::new();
    for (index, committed) in committed.iter().enumerate() {
        let key = format!("key-{:08}", index + 1);
        let called = log.iter().find(|(_, called)| *called == key);
        waits.push(called.map_or(f64::INFINITY, |(at, _)| (at - committed) as f64 / 1000.0));
    }
    table::head(
        "Wake-up: from the feeder's commit to the call, and idle",
        &[
            "",
            "median, ms",
            "95 %, ms",
            "99 %, ms",
            "idle, % of a core",
        ],
    );
    table::row(&[
        "daemon".into(),
        Cell::Figure(quantile(&mut waits, 0.5), 1),
        Cell::AtMost(quantile(&mut waits, 0.95), 1, 25.0),
        Cell::Figure(quantile(&mut waits, 0.99), 1),
        Cell::AtMost(idle.share(), 2, 0.6),
    ]);
    daemon.stop()
}

async fn burst(rig: &Rig, effort: Effort) -> anyhow::Result<()> {
    let (many, few, rounds) = effort.of((100_000, 5_000, 3), (10_000, 1_000, 3));
    table::head(
        "A feeder's burst, the daemon calling 500 times a second meanwhile",
        &[
            "",
            "alone, µs a row",
            "beside the daemon, µs a row",
            "ratio",
            "all asked once after, s",
        ],
    );
    for (name, rows, batch) in [
        (format!("{many} rows, {BATCH} a commit"), many, BATCH),
        (format!("{few} rows, one a commit"), few, 1),
    ] {
        let (mut alone, mut beside, mut ratios) = (vec![], vec![], vec![]);
        let mut asked = None;
        for round in 0..rounds {
            let quiet = rig.database(&format!("alone-{batch}-{round}"))?;
            let without = feed(&mut quiet.feeder().await?, rows, batch).await?;
            let database = rig.database(&format!("beside-{batch}-{round}"))?;
            let mut feeder = database.feeder().await?;
            let daemon = rig.daemon(&database, &rig.http, RATE)?;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let began = Instant::now();
            let with = feed(&mut feeder, rows, batch).await?;
            if round == 0 {
                let all = "SELECT NOT EXISTS (SELECT 1 FROM messages WHERE last_polled_at IS NULL)";
                until(&mut feeder, all).await?;
                asked = Some(began.elapsed().as_secs_f64());
            }
            daemon.stop()?;
            alone.push(without.as_secs_f64() * 1e6 / rows as f64);
            beside.push(with.as_secs_f64() * 1e6 / rows as f64);
            ratios.push(with.as_secs_f64() / without.as_secs_f64());
        }
        table::row(&[
            name.into(),
            Cell::Figure(median(&mut alone), 1),
            Cell::Figure(median(&mut beside), 1),
            Cell::AtMost(median(&mut ratios), 2, 1.5),
            Cell::Figure(asked.unwrap_or(f64::NAN), 1),
        ]);
    }
    Ok(())
}

/// Inserts rows in transactions of `batch`; how long that took.
async fn feed(feeder: &mut SqliteConnection, rows: u64, batch: u64) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for from in (0..rows).step_by(batch as usize) {
        execute(feeder, due_at_once(from, batch)).await?;
    }
    Ok(began.elapsed())
}
