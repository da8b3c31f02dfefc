//! What a backlog costs: claims and commits through the store, and start, memory, wake-up and `status` of the program.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use receiptd::receipt::{LaneId, Message, Outcome, SeenReader, SendStatus, UnixMs, WalkEnd};
use receiptd::settings::{SqliteFile, Synchronous};
use receiptd::store::sqlite::{Role, SqliteStore};
use receiptd::store::{Begun, Claims as _, Commands as _, DueQuery, Results as _, Wanted, Writes};
use sqlx::sqlite::SqliteConnection;

use super::Effort;
use super::endpoint::unix_us;
use super::figures::{median, quantile};
use super::meter;
use super::rig::{Database, Rig, execute, number, receiptd};
use super::table::{self, Cell};

/// Claimed and committed at once: the daemon's calls under way.
const BATCH: usize = 64;
const ROUNDS: u64 = 100;
/// See [`super::poll`]: gives 500 calls a second.
const RATE: u32 = 526;
const HOUR_MS: u64 = 3_600_000;

/// How rows wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Placed in the cadence; due in the order of their insertion.
    InOrder,
    /// Placed in the cadence; due in any order.
    Shuffled,
    /// Inserted while no daemon ran: none is placed, all are due.
    New,
}

pub(crate) async fn run(effort: Effort) -> anyhow::Result<()> {
    let rig = Rig::new()?;
    let sizes = effort.of([10_000, 1_000_000, 5_000_000], [10_000, 100_000, 1_000_000]);
    claims(&rig, sizes).await?;
    program(&rig, sizes).await
}

/// Microseconds of one claim and of one commit of [`BATCH`] rows, in every round.
#[derive(Default)]
struct Times {
    claims: Vec<f64>,
    commits: Vec<f64>,
}

async fn claims(rig: &Rig, sizes: [u64; 3]) -> anyhow::Result<()> {
    table::head(
        &format!("Claim and commit of {BATCH} rows, through the store"),
        &[
            "rows waiting",
            "claim, µs",
            "99 %",
            "commit, µs",
            "99 %",
            "claim + commit ÷ smallest's",
            "bytes on disk a message",
        ],
    );
    for waiting in [Waiting::InOrder, Waiting::Shuffled] {
        let mut databases = Vec::new();
        for rows in sizes {
            let database = template(rig, rows, waiting).await?;
            let bytes = std::fs::metadata(&database.path)?.len();
            let settings = SqliteFile {
                path: database.path.clone(),
                synchronous: Synchronous::Full,
            };
            let store = SqliteStore::open(&settings, Role::Owner).await?;
            databases.push((rows, bytes, store, Times::default()));
        }
        // In turns, so that all sizes meet the same machine.
        for _ in 0..ROUNDS {
            for (_, _, store, times) in &mut databases {
                // The store leaves the lock to others after a commit, which is nobody's work.
                tokio::time::sleep(Duration::from_millis(10)).await;
                claim_and_commit(store, times).await?;
            }
        }
        let mut smallest = None;
        for (rows, bytes, store, mut times) in databases {
            let both = median(&mut times.claims) + median(&mut times.commits);
            let ratio = both / *smallest.get_or_insert(both);
            let ratio = match waiting {
                Waiting::InOrder => Cell::AtMost(ratio, 2, 1.3),
                _ => Cell::Figure(ratio, 2),
            };
            table::row(&[
                format!("{rows}, {waiting:?}").into(),
                Cell::Figure(median(&mut times.claims), 0),
                Cell::Figure(quantile(&mut times.claims, 0.99), 0),
                Cell::Figure(median(&mut times.commits), 0),
                Cell::Figure(quantile(&mut times.commits, 0.99), 0),
                ratio,
                Cell::Figure(bytes as f64 / rows as f64, 0),
            ]);
            store.close().await;
        }
        for rows in sizes {
            std::fs::remove_file(rig.path(&format!("{rows}-{waiting:?}.db")))?;
        }
    }
    Ok(())
}

/// One claim and its commit: each row gets a reader, and goes to its place two hours later, among those that wait. In
/// order, these are neighbours; shuffled, each is in another page.
async fn claim_and_commit(store: &SqliteStore, times: &mut Times) -> anyhow::Result<()> {
    let lane = LaneId {
        account: "default".into(),
        corp: None,
    };
    let now = now();
    let began = Instant::now();
    let query = DueQuery {
        lanes: std::slice::from_ref(&lane),
        wanted: Wanted::Sound,
        now,
        last_chances_until: now,
        without: &[],
        per_lane: BATCH,
    };
    let due = store.due(&query).await?;
    times.claims.push(began.elapsed().as_secs_f64() * 1e6);
    anyhow::ensure!(due.len() == BATCH, "only {} rows are due", due.len());
    let outcomes: Vec<Outcome> = due.iter().map(|row| seen(row, now)).collect();
    let began = Instant::now();
    let Begun::Open(transaction) = store.begin(&outcomes).await? else {
        anyhow::bail!("nothing was committed before");
    };
    let found = transaction.found().iter();
    let moved = found.filter_map(|found| found.row.as_ref());
    let moved = moved.map(|row| Message {
        next_poll_at: row
            .next_poll_at
            .map(|at| at + Duration::from_millis(2 * HOUR_MS)),
        reader_count: row.reader_count + 1,
        call_count: row.call_count + 1,
        last_polled_at: Some(now),
        last_complete_at: Some(now),
        answered_at: Some(now),
        send_status: Some(SendStatus::Success),
        ..row.clone()
    });
    let writes = Writes {
        messages: moved.collect(),
        calls: Vec::new(),
        ..Writes::default()
    };
    transaction.commit(&writes).await?;
    times.commits.push(began.elapsed().as_secs_f64() * 1e6);
    Ok(())
}

/// What a walk with one reader brings.
pub(crate) fn seen(row: &Message, now: UnixMs) -> Outcome {
    Outcome {
        readers: vec![SeenReader {
            user_id: "manager123".into(),
            seen_at: now,
            read_at: None,
        }],
        calls: 1,
        send_status: Some(SendStatus::Success),
        ..Outcome::without_call(row.claim(), now, WalkEnd::Complete)
    }
}

fn now() -> UnixMs {
    receiptd::daemon::Clock::system().now()
}

async fn program(rig: &Rig, sizes: [u64; 3]) -> anyhow::Result<()> {
    table::head(
        "The program with rows waiting",
        &[
            "rows waiting",
            "start to first call, s",
            "MiB resident, peak",
            "above none",
            "wake-up, ms, median",
            "`status`, ms",
        ],
    );
    let mut none = None;
    let [few, many, most] = sizes;
    for (rows, waiting) in [
        (0, Waiting::InOrder),
        (few, Waiting::InOrder),
        (many, Waiting::InOrder),
        (most, Waiting::InOrder),
        (most, Waiting::Shuffled),
        (most, Waiting::New),
    ] {
        let database = template(rig, rows, waiting).await?;
        let figures = start(rig, &database, waiting).await?;
        let memory = figures.memory - *none.get_or_insert(figures.memory);
        let is_bound = rows == most;
        table::row(&[
            format!("{rows}, {waiting:?}").into(),
            bounded(figures.first_call, 2, 0.5, is_bound),
            Cell::Figure(figures.memory, 1),
            bounded(memory, 1, 16.0, is_bound),
            Cell::Figure(figures.wake_up, 1),
            Cell::Figure(figures.status, 0),
        ]);
        std::fs::remove_file(&database.path)?;
    }
    Ok(())
}

fn bounded(figure: f64, decimals: usize, bound: f64, is_bound: bool) -> Cell {
    match is_bound {
        true => Cell::AtMost(figure, decimals, bound),
        false => Cell::Figure(figure, decimals),
    }
}

struct Figures {
    first_call: f64,
    memory: f64,
    wake_up: f64,
    status: f64,
}

/// Starts the daemon on a database with one more row, which is due.
async fn start(rig: &Rig, database: &Database, waiting: Waiting) -> anyhow::Result<Figures> {
    let mut feeder = database.feeder().await?;
    insert_due(&mut feeder, "first").await?;
    number(&mut feeder, "PRAGMA wal_checkpoint(TRUNCATE)").await?;
    rig.log().await?;
    let began = unix_us();
    // With a summary, which counts over the table.
    let daemon = rig.daemon_early(database, RATE, &[("RECEIPTD__LOG__SUMMARY_INTERVAL", "5s")])?;
    let called = first_call(rig, None).await?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    let mut wake_ups = Vec::new();
    if waiting != Waiting::New {
        for round in 0..50 {
            let key = format!("later-{round}");
            insert_due(&mut feeder, &key).await?;
            let committed = i128::try_from(unix_us())?;
            let called = first_call(rig, Some(&key)).await?;
            wake_ups.push((called - committed) as f64 / 1000.0);
        }
    }
    let mut status = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        receiptd()
            .arg("status")
            .arg("--config")
            .arg(database.path.with_extension("toml"))
            .output()?;
        status.push(began.elapsed().as_secs_f64() * 1e3);
    }
    let memory = meter::peak_memory(daemon.pid())?;
    daemon.stop()?;
    Ok(Figures {
        first_call: (called - i128::try_from(began)?) as f64 / 1e6,
        memory,
        wake_up: median(&mut wake_ups),
        status: median(&mut status),
    })
}

/// When a key was called first, or any.
async fn first_call(rig: &Rig, key: Option<&str>) -> anyhow::Result<i128> {
    let began = Instant::now();
    loop {
        let log = rig.log().await?;
        let called = log
            .iter()
            .find(|(_, called)| key.is_none_or(|key| key == called));
        if let Some((at, _)) = called {
            return Ok(*at);
        }
        anyhow::ensure!(began.elapsed() < Duration::from_secs(120), "nobody calls");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn insert_due(feeder: &mut SqliteConnection, key: &str) -> anyhow::Result<u64> {
    execute(
        feeder,
        format!(
            "INSERT INTO messages (process_query_key, expected_readers, sent_at)
            VALUES ('{key}', 1, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - {HOUR_MS})"
        ),
    )
    .await
}

/// A database with so many rows. Those that are placed are due an hour from now, but for as many as [`claims`] asks for.
async fn template(rig: &Rig, rows: u64, waiting: Waiting) -> anyhow::Result<Database> {
    let database = rig.database(&format!("{rows}-{waiting:?}"))?;
    let mut feeder = database.feeder().await?;
    // Indexes are made once, in the end, as fast as a sort; nobody else is there, so nothing need be safe before that.
    for pragma in [
        "journal_mode = OFF",
        "synchronous = OFF",
        "cache_size = -500000",
    ] {
        execute(&mut feeder, format!("PRAGMA {pragma}")).await?;
    }
    let indexes = indexes(&mut feeder).await?;
    for (name, _) in &indexes {
        execute(&mut feeder, format!("DROP INDEX {name}")).await?;
    }
    let now = now().0;
    let due = ROUNDS * BATCH as u64;
    let place = match waiting {
        Waiting::Shuffled => format!("(n * 2654435761 % {})", rows.max(1)),
        _ => "n".to_owned(),
    };
    let (places, values) = match waiting {
        Waiting::New => ("", String::new()),
        _ => (
            ", next_poll_at, admitted_at, lane_corp, last_chance_at",
            format!(
                ", {now} + {place} + iif({place} < {due}, -{HOUR_MS}, {HOUR_MS}), {now}, '', {now} + 23 * {HOUR_MS} + {place}"
            ),
        ),
    };
    execute(
        &mut feeder,
        format!(
            "INSERT INTO messages (process_query_key, expected_readers, sent_at{places})
            WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n LIMIT {rows})
            SELECT printf('Kna%040d=', n), 3, {now} - {HOUR_MS}{values} FROM n"
        ),
    )
    .await?;
    for (_, create) in indexes {
        execute(&mut feeder, create).await?;
    }
    execute(
        &mut feeder,
        "PRAGMA synchronous = FULL; PRAGMA journal_mode = WAL",
    )
    .await?;
    // Or the kernel would write it out under the eyes of the first rounds.
    std::fs::File::open(&database.path)?.sync_all()?;
    Ok(database)
}

/// Name and text of each index that a statement made.
async fn indexes(feeder: &mut SqliteConnection) -> anyhow::Result<Vec<(String, String)>> {
    use sqlx::Row as _;
    let rows = sqlx::query(
        "SELECT name, sql FROM sqlite_master
        WHERE type = 'index' AND tbl_name = 'messages' AND sql IS NOT NULL",
    )
    .fetch_all(feeder)
    .await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect::<Result<_, sqlx::Error>>()
        .context("the indexes of messages")
}
