//! One, two and three nodes on one PostgreSQL database, with two hundred accounts between them.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::Effort;
use super::cluster::Cluster;
use super::meter::{Meter, Spent, cpu_with_children};
use super::rig::{Daemon, Rig, UNPACED};
use super::table::{self, Cell};

const ACCOUNTS: usize = 200;
/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// All on this machine: what more nodes cost the server shows, and what they bring only as far as there are cores.
pub(crate) async fn run(effort: Effort) -> anyhow::Result<()> {
    let Some(cluster) = Cluster::own() else {
        return Ok(());
    };
    cluster.durable();
    let rig = Rig::new()?;
    let messages = effort.of(60_000, 10_000);
    table::head(
        "Nodes on one PostgreSQL database, 200 accounts, fsync on, all on one machine",
        &[
            "nodes",
            "calls a second together",
            "server, CPU a poll, µs",
            "nodes, CPU a poll, µs",
            "idle server, % of a core",
        ],
    );
    for nodes in 1..=3 {
        let measured = measure(&cluster, &rig, nodes, messages, effort).await?;
        table::row(&[
            nodes.to_string().into(),
            Cell::Figure(measured.rate, 0),
            Cell::Figure(measured.server.cpu_us(messages), 1),
            Cell::Figure(measured.nodes * 1e6 / messages as f64, 1),
            Cell::Figure(measured.idle.share(), 2),
        ]);
    }
    Ok(())
}

struct Measured {
    rate: f64,
    server: Spent,
    /// CPU seconds of all nodes.
    nodes: f64,
    idle: Spent,
}

async fn measure(
    cluster: &Cluster,
    rig: &Rig,
    count: usize,
    messages: u64,
    effort: Effort,
) -> anyhow::Result<Measured> {
    let name = cluster.database().await;
    let config = rig.path(&format!("nodes-{count}.toml"));
    std::fs::write(&config, text(&cluster.url(&name), &rig.http))?;
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(start(rig, &config, number)?);
    }
    let mut feeder = cluster.connect(&name).await;
    // Until each has about its share: the first had all.
    let shares = format!(
        "SELECT count(*) = {count} AND min(n) > 200 / {count} / 2 AND sum(n) = 200 FROM
        (SELECT count(*) AS n FROM leases WHERE node_id IS NOT NULL AND name <> 'upkeep' GROUP BY node_id) AS s"
    );
    until(&mut feeder, &shares).await?;
    let server = postmaster(cluster)?;
    let idle = Watch::start(server)?;
    tokio::time::sleep(effort.of(Duration::from_secs(20), Duration::from_secs(5))).await;
    let idle = idle.stop()?;

    let server = Watch::start(server)?;
    let meters: Vec<Meter> = nodes
        .iter()
        .map(|node| Meter::start(node.pid()))
        .collect::<Result<_, _>>()?;
    execute(
        &mut feeder,
        &format!(
            "INSERT INTO messages (process_query_key, account, expected_readers, sent_at)
            SELECT 'key-{count}-' || i, 'a' || i % {ACCOUNTS}, 1, (extract(epoch FROM now()) * 1000)::BIGINT - 3600000
            FROM generate_series(1, {messages}) AS i"
        ),
    )
    .await?;
    until(
        &mut feeder,
        "SELECT NOT EXISTS (SELECT 1 FROM messages WHERE state = 'pending')",
    )
    .await?;
    let server = server.stop()?;
    let mut cpu = 0.0;
    for meter in meters {
        cpu += meter.stop()?.cpu;
    }
    for node in nodes {
        node.stop()?;
    }
    Ok(Measured {
        rate: server.rate(messages),
        server,
        nodes: cpu,
        idle,
    })
}

fn text(url: &str, base: &str) -> String {
    let mut text = format!(
        "[database]\nurl = \"{url}\"\n[node]\nlease = \"3s\"\n\
         [endpoint]\nbase_url = \"{base}\"\ncalls_per_second = {UNPACED}\n[log]\nfilter = \"error\"\n"
    );
    for account in 0..ACCOUNTS {
        // Text grows without an error.
        let _ = write!(
            text,
            "[accounts.a{account}]\napp_key = \"bench\"\napp_secret = \"secret\"\nrobot_code = \"bench\"\n\
             calls_per_second = {UNPACED}\n"
        );
    }
    text
}

fn start(rig: &Rig, config: &Path, number: usize) -> anyhow::Result<Daemon> {
    let own = config.with_extension(format!("{number}.toml"));
    std::fs::copy(config, &own)?;
    let node = rig.spawn(&own, &[])?;
    node.until_ready(Duration::from_secs(60))?;
    Ok(node)
}

/// The server's first process.
fn postmaster(cluster: &Cluster) -> anyhow::Result<u32> {
    let file = std::fs::read_to_string(cluster.dir().join("data/postmaster.pid"))?;
    Ok(file.lines().next().context("an empty file")?.parse()?)
}

/// A process with its children, those included that have ended.
struct Watch {
    process: u32,
    began: Instant,
    cpu: f64,
}

impl Watch {
    fn start(process: u32) -> anyhow::Result<Self> {
        Ok(Self {
            cpu: cpu_with_children(process)?,
            began: Instant::now(),
            process,
        })
    }

    fn stop(&self) -> anyhow::Result<Spent> {
        Ok(Spent {
            wall: self.began.elapsed(),
            cpu: cpu_with_children(self.process)? - self.cpu,
        })
    }
}

async fn execute(connection: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(connection).await?;
    Ok(())
}

/// Waits until a statement finds true.
async fn until(connection: &mut PgConnection, statement: &str) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let rows = sqlx::query(AssertSqlSafe(statement.to_owned()))
            .fetch_all(&mut *connection)
            .await?;
        let found: Option<bool> = rows.first().context("no row")?.try_get(0)?;
        if found == Some(true) {
            return Ok(());
        }
        ensure!(
            began.elapsed() < PATIENCE,
            "it does not come to: {statement}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
