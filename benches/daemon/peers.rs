//! The same job by a script and by a job queue that keeps its jobs in SQLite.
//!
//! One call, one reader, done. `synchronous = full` for all. A peer's time begins when its rows or jobs are stored: what
//! the daemon spends on a feeder's new rows is in its figure, what a peer spends on storing its own is not.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::ensure;

use super::Effort;
use super::bare::{Load, Threads};
use super::child::Contender;
use super::figures::median;
use super::meter::Spent;
use super::poll::{Rows, daemon_round};
use super::rig::Rig;
use super::table::{self, Cell};

/// A peer with what it costs.
struct Peer {
    name: &'static str,
    /// The most that the daemon's CPU may be of this one's.
    bound: Option<f64>,
    command: Vec<String>,
    spent: Vec<Spent>,
}

pub(crate) async fn run(effort: Effort) -> anyhow::Result<()> {
    let (calls, rounds) = effort.of((10_000, 3), (5_000, 1));
    let load = Load {
        walks: calls,
        pages: 1,
        rate: 0,
    };
    let rig = Rig::new()?;
    let mut peers: Vec<Peer> = [script(), job_queue()].into_iter().flatten().collect();
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for round in 0..rounds {
        let name = format!("peers-{round}");
        ours.push(daemon_round(&rig, &name, Rows::New, &rig.http, calls).await?);
        bare.push(rig.bare(Threads::All, &rig.http, load)?.go()?);
        for (number, peer) in peers.iter_mut().enumerate() {
            let database = rig.path(&format!("peer-{number}-{round}.db"));
            peer.spent.push(peer.job(&rig, &database, calls)?);
        }
    }
    table::head(
        &format!("The same job by others: {calls} messages, HTTP"),
        &[
            "",
            "µs CPU a poll",
            "polls/s",
            "daemon's CPU ÷ this",
            "daemon's polls/s ÷ this",
        ],
    );
    row("daemon", &ours, &ours, calls, None);
    row("bare loop, which stores nothing", &bare, &ours, calls, None);
    for peer in peers {
        row(peer.name, &peer.spent, &ours, calls, peer.bound);
    }
    Ok(())
}

fn row(name: &str, theirs: &[Spent], ours: &[Spent], calls: u64, bound: Option<f64>) {
    let of = |figure: &dyn Fn(&Spent, &Spent) -> f64| {
        let mut figures: Vec<f64> = theirs.iter().zip(ours).map(|(a, b)| figure(a, b)).collect();
        median(&mut figures)
    };
    let ratio = of(&|theirs, ours| ours.cpu / theirs.cpu);
    table::row(&[
        name.into(),
        Cell::Figure(of(&|theirs, _| theirs.cpu_us(calls)), 1),
        Cell::Figure(of(&|theirs, _| theirs.rate(calls)), 0),
        bound.map_or(Cell::Figure(ratio, 2), |bound| {
            Cell::AtMost(ratio, 2, bound)
        }),
        Cell::Figure(
            of(&|theirs, ours| theirs.wall.as_secs_f64() / ours.wall.as_secs_f64()),
            2,
        ),
    ]);
}

impl Peer {
    fn job(&self, rig: &Rig, database: &Path, calls: u64) -> anyhow::Result<Spent> {
        let mut command = Command::new(&self.command[0]);
        command
            .args(&self.command[1..])
            .arg(database)
            .arg(&rig.http)
            .arg(rig.authority())
            .arg(calls.to_string());
        Contender::start(&mut command)?.go()
    }
}

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("benches/peers")
        .join(name)
}

fn script() -> Option<Peer> {
    let python = std::env::var("RECEIPTD_BENCH_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut probe = Command::new(&python);
    probe.args(["-c", "import aiohttp"]).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        println!(
            "\nSKIPPED: the script: {python} has no aiohttp (pip install aiohttp; RECEIPTD_BENCH_PYTHON)"
        );
        return None;
    }
    Some(Peer {
        name: "script: Python, asyncio, aiohttp, sqlite3",
        bound: Some(0.33),
        command: vec![python, here("script.py").display().to_string()],
        spent: Vec::new(),
    })
}

/// Built here and not with the bench: its dependencies are its own.
fn job_queue() -> Option<Peer> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    let built = (|| {
        let status = Command::new(env!("CARGO"))
            .args([
                "build",
                "--release",
                "--locked",
                "--quiet",
                "--manifest-path",
            ])
            .arg(here("apalis/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .status()?;
        ensure!(status.success(), "cargo ended with {status}");
        anyhow::Ok(())
    })();
    if let Err(error) = built {
        println!("\nSKIPPED: the job queue, which cannot be built: {error}");
        return None;
    }
    Some(Peer {
        name: "job queue: apalis with SQLite",
        bound: Some(0.5),
        command: vec![target.join("release/apalis-peer").display().to_string()],
        spent: Vec::new(),
    })
}
