//! What the daemon costs: the built binary as a black box, beside counterparts that do the same work in the same run.
//!
//! `cargo bench --bench daemon` runs every topic; `-- poll scale` runs some; `-- --quick` asks less of each. The
//! endpoint, the bare loop and the peers are processes of their own: this binary again, in another role.

#![allow(
    clippy::print_stdout,
    reason = "a report on the terminal is what this program is for"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and times of a bench fit every type here"
)]

mod bare;
mod child;
#[path = "../../tests/cluster/mod.rs"]
#[allow(clippy::unwrap_used, reason = "a bench that cannot go on ends")]
mod cluster;
mod databases;
mod endpoint;
mod feeder;
mod figures;
mod groups;
mod meter;
mod nodes;
mod peers;
mod poll;
mod rig;
mod scale;
mod table;

use std::process::ExitCode;

use anyhow::bail;

const HELP: &str = "\
cargo bench --bench daemon -- [TOPIC…] [--quick]

  poll    CPU and throughput of a poll against a bare loop's
  ceiling 500 calls a second, the most that the vendor allows
  scale   10 thousand, 1 million and 5 million rows waiting
  feeder  a feeder's burst; wake-up; idle
  groups  1,000 readers over 5 pages, again and again
  databases  placing, claims, commits and wake-ups on SQLite and on PostgreSQL
  nodes   one, two and three nodes with 200 accounts on PostgreSQL
  peers   the same job by a script and by a job queue

RECEIPTD_BENCH_BIN=FILE     another build of receiptd than the one under test
RECEIPTD_BENCH_PYTHON=FILE  a Python that has aiohttp (default: python3)
";

/// How much to ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    quick: bool,
}

impl Effort {
    /// `full`, or `quick` where that was asked for.
    pub(crate) fn of<T>(self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

fn main() -> ExitCode {
    // reqwest panics without one. Refused only where one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match words[..] {
        ["endpoint", directory] => endpoint::serve(directory),
        ["bare", ref rest @ ..] => bare::run(rest),
        _ => topics(&words),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn topics(words: &[&str]) -> anyhow::Result<()> {
    let mut effort = Effort { quick: false };
    let mut asked = Vec::new();
    for word in words {
        match *word {
            // What cargo itself hands over.
            "--bench" => {}
            "--quick" => effort.quick = true,
            "poll" | "ceiling" | "scale" | "feeder" | "groups" | "databases" | "nodes"
            | "peers" => {
                asked.push(*word);
            }
            _ => bail!("{HELP}"),
        }
    }
    let asks = |topic: &str| asked.is_empty() || asked.contains(&topic);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        if asks("poll") {
            poll::run(effort).await?;
        }
        if asks("ceiling") {
            poll::ceiling(effort).await?;
        }
        if asks("groups") {
            groups::run(effort).await?;
        }
        if asks("feeder") {
            feeder::run(effort).await?;
        }
        if asks("scale") {
            scale::run(effort).await?;
        }
        if asks("databases") {
            databases::run(effort).await?;
        }
        if asks("nodes") {
            nodes::run(effort).await?;
        }
        if asks("peers") {
            peers::run(effort).await?;
        }
        Ok(())
    })
}
