//! The built daemon and its commands on PostgreSQL, seen from outside: the tests of the daemon that speak of no file, and those
//! of a server.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in a test, a failure is a panic"
)]

#[path = "../daemon/budget.rs"]
mod budget;
#[path = "../daemon/check.rs"]
mod check;
#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../daemon/commands.rs"]
mod commands;
mod disk;
#[path = "../daemon/dispositions.rs"]
mod dispositions;
#[path = "../daemon/end_to_end.rs"]
mod end_to_end;
#[path = "../daemon/faults/feeder.rs"]
mod feeder;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../daemon/healing.rs"]
mod healing;
#[path = "../daemon/idle.rs"]
mod idle;
#[path = "../daemon/journal.rs"]
mod journal;
#[path = "../daemon/faults/kills.rs"]
mod kills;
#[path = "../daemon/lanes.rs"]
mod lanes;
#[path = "../daemon/learning.rs"]
mod learning;
#[path = "../daemon/faults/ledger.rs"]
mod ledger;
#[path = "../daemon/logs.rs"]
mod logs;
mod main_path;
#[path = "../daemon/memory.rs"]
mod memory;
#[path = "../daemon/faults/neighbours.rs"]
mod neighbours;
#[path = "../daemon/notify.rs"]
mod notify;
#[path = "../daemon/persons.rs"]
mod persons;
mod pooler;
#[path = "../daemon/pushed.rs"]
mod pushed;
#[path = "../daemon/reload.rs"]
mod reload;
#[path = "../daemon/retention.rs"]
mod retention;
#[path = "../daemon/faults/scenario.rs"]
mod scenario;
#[path = "../daemon/secrets.rs"]
mod secrets;
mod server;
#[path = "../daemon/faults/shutdown.rs"]
mod shutdown;
#[path = "../daemon/faults/soak.rs"]
mod soak;
#[path = "../daemon/status.rs"]
mod status;
#[path = "../daemon/trouble.rs"]
mod trouble;
#[path = "../daemon/faults/verdict.rs"]
mod verdict;

use cluster::Cluster;

/// Kills where nobody says how many, and in a round at the most. Each life begins when its
/// predecessor's lease is over, and the keys outlive a round.
const KILLS: usize = 8;
const A_ROUND: usize = 4;
/// Rows that wait, where nobody says how many.
const BACKLOG_ROWS: u64 = 50_000;
/// Milliseconds by which two readings of the clock may differ: the daemon follows the server's, which it asks for over a socket.
const ROUNDING: i64 = 100;

/// A database on the server that these tests share. They end, and say so, where PostgreSQL is not installed.
async fn server() -> Option<harness::Server> {
    let Some(cluster) = Cluster::shared() else {
        std::process::exit(0);
    };
    Some(on(cluster).await)
}

/// An empty database.
async fn on(cluster: &Cluster) -> harness::Server {
    harness::Server {
        url: cluster.url(&cluster.database().await),
        psql: cluster.program("psql"),
    }
}
