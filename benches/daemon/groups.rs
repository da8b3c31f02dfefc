//! A large group, polled again and again with few new readers.

use std::time::Duration;

use super::Effort;
use super::bare::{Load, Threads};
use super::figures::median;
use super::meter::{self, Meter};
use super::rig::{Rig, UNPACED, execute, number, until};
use super::table::{self, Cell};

/// Readers of a group at first; each round adds [`NEW`], and in the end there are 1,000 on 5 pages.
const FIRST: u64 = 960;
const NEW: u64 = 4;
const PAGES: u64 = 5;

pub(crate) async fn run(effort: Effort) -> anyhow::Result<()> {
    let (groups, rounds) = effort.of((400, 10), (100, 4));
    let rig = Rig::new()?;
    let database = rig.database("groups")?;
    let mut feeder = database.feeder().await?;
    let daemon = rig.daemon(&database, &rig.http, UNPACED)?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    table::head(
        &format!("{groups} groups of 1,000 readers on 5 pages"),
        &[
            "round",
            "daemon, µs CPU a page",
            "bare loop, µs CPU a page",
            "ratio",
            "new readers a walk",
            "rows written a walk",
            "KiB written a walk",
        ],
    );
    let load = Load {
        walks: groups,
        pages: PAGES,
        rate: 0,
    };
    let (mut again, mut ratios) = (vec![], vec![]);
    for round in 0..=rounds {
        let readers = FIRST + NEW * round;
        rig.control(&format!("readers/{readers}")).await?;
        let before = recorded(&mut feeder).await?;
        let bytes = meter::written(daemon.pid())?;
        let meter = Meter::start(daemon.pid())?;
        if round == 0 {
            execute(&mut feeder, insert(groups)).await?;
        } else {
            // A feeder may say when to poll next.
            execute(
                &mut feeder,
                "UPDATE messages SET next_poll_at = 1600000000000",
            )
            .await?;
        }
        until(
            &mut feeder,
            &format!("SELECT count(*) = {groups} FROM messages WHERE reader_count = {readers}"),
        )
        .await?;
        let spent = meter.stop()?;
        let bytes = meter::written(daemon.pid())? - bytes;
        let rows = recorded(&mut feeder).await? - before;
        let bare = rig.bare(Threads::All, &rig.http, load)?.go()?;
        let ours = spent.cpu_us(groups * PAGES);
        let theirs = bare.cpu_us(groups * PAGES);
        if round > 0 {
            again.push(ours);
            ratios.push(ours / theirs);
        }
        let all = groups as f64;
        table::row(&[
            round.to_string().into(),
            Cell::Figure(ours, 1),
            Cell::Figure(theirs, 1),
            Cell::Figure(ours / theirs, 2),
            Cell::Figure(if round == 0 { FIRST } else { NEW } as f64, 0),
            Cell::Figure(rows as f64 / all, 1),
            Cell::Figure(bytes as f64 / 1024.0 / all, 1),
        ]);
    }
    table::row(&[
        "median from 1 on".into(),
        Cell::Figure(median(&mut again), 1),
        "".into(),
        Cell::Figure(median(&mut ratios), 2),
        "".into(),
        "".into(),
        "".into(),
    ]);
    daemon.stop()
}

/// How many readers are recorded.
async fn recorded(feeder: &mut sqlx::SqliteConnection) -> anyhow::Result<i64> {
    number(feeder, "SELECT count(*) FROM readers").await
}

fn insert(groups: u64) -> String {
    format!(
        "INSERT INTO messages (process_query_key, chat, sent_at)
        WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n LIMIT {groups})
        SELECT printf('key-%08d', n), 'group',
            CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - 3600000
        FROM n"
    )
}
