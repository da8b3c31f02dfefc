//! What a poll costs: CPU and throughput beside a bare loop's, and the vendor's ceiling.

use std::time::Duration;

use super::Effort;
use super::bare::{Load, Threads};
use super::figures::median;
use super::meter::{self, Meter, Spent};
use super::rig::{Rig, UNPACED, due_at_once, execute, until_none_pending};
use super::table::{self, Cell};

/// What a row is like when the daemon meets it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rows {
    /// As a feeder inserts it: placed in the cadence, called, completed.
    New,
    /// Placed in the cadence before: called, completed.
    Placed,
}

pub(crate) async fn run(effort: Effort) -> anyhow::Result<()> {
    let rig = Rig::new()?;
    table::head(
        "Cost of a poll, unpaced, 64 calls at once",
        &[
            "",
            "daemon, µs CPU",
            "bare loop, µs CPU",
            "its runtime on one thread",
            "CPU ratio",
            "daemon, polls/s",
            "bare loop, calls/s",
            "throughput ratio",
        ],
    );
    for (rows, base, name) in [
        (Rows::New, &rig.http, "new rows, HTTP"),
        (Rows::Placed, &rig.http, "placed rows, HTTP"),
        (Rows::New, &rig.https, "new rows, TLS"),
    ] {
        compare(&rig, effort, rows, base, name).await?;
    }
    Ok(())
}

/// Daemon and bare loop in turns; medians of the rounds, and of their ratios.
async fn compare(
    rig: &Rig,
    effort: Effort,
    rows: Rows,
    base: &str,
    name: &str,
) -> anyhow::Result<()> {
    let (calls, rounds) = effort.of((30_000, 5), (10_000, 3));
    let load = Load {
        walks: calls,
        pages: 1,
        rate: 0,
    };
    let (mut ours, mut bares, mut singles, mut ratios) = (vec![], vec![], vec![], vec![]);
    let (mut our_rates, mut rates, mut rate_ratios) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let bare = rig.bare(Threads::All, base, load)?.go()?;
        let ours_now = daemon_round(rig, &format!("{name}{round}"), rows, base, calls).await?;
        let single = rig.bare(Threads::One, base, load)?.go()?;
        ours.push(ours_now.cpu_us(calls));
        bares.push(bare.cpu_us(calls));
        singles.push(single.cpu_us(calls));
        ratios.push(ours_now.cpu / bare.cpu);
        our_rates.push(ours_now.rate(calls));
        rates.push(bare.rate(calls));
        rate_ratios.push(ours_now.rate(calls) / bare.rate(calls));
    }
    table::row(&[
        name.into(),
        Cell::Figure(median(&mut ours), 1),
        Cell::Figure(median(&mut bares), 1),
        Cell::Figure(median(&mut singles), 1),
        Cell::AtMost(median(&mut ratios), 2, 2.0),
        Cell::Figure(median(&mut our_rates), 0),
        Cell::Figure(median(&mut rates), 0),
        Cell::AtLeast(median(&mut rate_ratios), 2, 0.6),
    ]);
    Ok(())
}

/// From the feeder's commit until the last row is complete.
pub(crate) async fn daemon_round(
    rig: &Rig,
    name: &str,
    rows: Rows,
    base: &str,
    count: u64,
) -> anyhow::Result<Spent> {
    let database = rig.database(&name.replace(' ', "-"))?;
    let mut feeder = database.feeder().await?;
    let daemon = rig.daemon(&database, base, UNPACED)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut insert = due_at_once(0, count);
    if let Rows::Placed = rows {
        insert = insert
            .replace(
                "(process_query_key,",
                "(next_poll_at, admitted_at, lane_corp, process_query_key,",
            )
            .replace(
                "SELECT printf",
                "SELECT 1600000000000 + n, 1600000000000, '', printf",
            );
    }
    execute(&mut feeder, "BEGIN IMMEDIATE").await?;
    execute(&mut feeder, insert).await?;
    let meter = Meter::start(daemon.pid())?;
    execute(&mut feeder, "COMMIT").await?;
    until_none_pending(&mut feeder).await?;
    let spent = meter.stop()?;
    daemon.stop()?;
    Ok(spent)
}

/// As many calls as the vendor allows one address. 5 % of the rate that is set are left for jitter, so more is set.
pub(crate) async fn ceiling(effort: Effort) -> anyhow::Result<()> {
    const SET: u32 = 526;
    let rig = Rig::new()?;
    let database = rig.database("ceiling")?;
    let mut feeder = database.feeder().await?;
    execute(&mut feeder, due_at_once(0, 40_000)).await?;
    let daemon = rig.daemon(&database, &rig.http, SET)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before: u64 = rig.control("calls").await?.parse()?;
    let meter = Meter::start(daemon.pid())?;
    let seconds = effort.of(30, 10);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let spent = meter.stop()?;
    let after: u64 = rig.control("calls").await?.parse()?;
    table::head(
        "The vendor's ceiling: 500 calls a second",
        &[
            "",
            "calls/s",
            "% of a core",
            "µs CPU a poll",
            "MiB resident, peak",
        ],
    );
    table::row(&[
        "daemon".into(),
        Cell::Figure(spent.rate(after - before), 1),
        Cell::AtMost(spent.share(), 2, 5.0),
        Cell::Figure(spent.cpu_us(after - before), 1),
        Cell::AtMost(meter::peak_memory(daemon.pid())?, 1, 40.0),
    ]);
    daemon.stop()?;
    let load = Load {
        walks: 500 * seconds,
        pages: 1,
        rate: 500,
    };
    let bare = rig.bare(Threads::One, &rig.http, load)?.go()?;
    table::row(&[
        "bare loop on one thread".into(),
        Cell::Figure(bare.rate(load.walks), 1),
        Cell::Figure(bare.share(), 2),
        Cell::Figure(bare.cpu_us(load.walks), 1),
        "".into(),
    ]);
    Ok(())
}
