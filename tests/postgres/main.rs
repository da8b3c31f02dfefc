//! The built daemon and its commands on PostgreSQL, seen from outside: the tests of the daemon that speak of no file, and those
//! of a server.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in a test, a failure is a panic"
)]

#[path = "../daemon/budget.rs"]
mod budget;
#[path = "../cluster/mod.rs"]
mod cluster;
mod commands;
#[path = "../daemon/dispositions.rs"]
mod dispositions;
#[path = "../harness/mod.rs"]
mod harness;
#[path = "../daemon/healing.rs"]
mod healing;
#[path = "../daemon/lanes.rs"]
mod lanes;
mod main_path;
mod persons;
#[path = "../daemon/reload.rs"]
mod reload;
#[path = "../daemon/trouble.rs"]
mod trouble;

use std::time::{Duration, Instant};

use receiptd::sandbox::SandboxConfig;

use cluster::Cluster;
use harness::{DEFAULT_ACCOUNT, House};

/// A database on the server that these tests share. They end, and say so, where PostgreSQL is not installed.
async fn server() -> Option<harness::Server> {
    let Some(cluster) = Cluster::shared() else {
        std::process::exit(0);
    };
    let database = cluster.database().await;
    Some(harness::Server {
        url: cluster.url(&database),
        ask: Box::new(move |statement| {
            let rows = psql(cluster, &database, statement)?;
            Ok(rows.iter().map(|row| truth_is_1(row)).collect())
        }),
    })
}

/// As SQLite shows it.
fn truth_is_1(row: &str) -> String {
    let cells = row.split('|').map(|cell| match cell {
        "t" => "1",
        "f" => "0",
        other => other,
    });
    cells.collect::<Vec<_>>().join("|")
}

fn psql(cluster: &Cluster, database: &str, statement: &str) -> harness::Asked {
    let output = cluster
        .command("psql")
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement])
        .arg(cluster.url(database))
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text.lines().map(str::to_owned).collect())
}

/// A house whose database is on a server.
pub(crate) struct Served {
    pub(crate) house: House,
    pub(crate) cluster: Cluster,
    pub(crate) database: String,
}

impl Served {
    /// A sandbox, a server of its own and a migrated database; no daemon yet. `None` without PostgreSQL.
    pub(crate) async fn new() -> Option<Self> {
        let cluster = Cluster::own()?;
        let database = cluster.database().await;
        let mut house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
        house.set("RECEIPTD__DATABASE__URL", &cluster.url(&database));
        let migrated = house.command("migrate").output().unwrap();
        assert!(
            migrated.status.success(),
            "{}",
            String::from_utf8_lossy(&migrated.stderr)
        );
        Some(Self {
            house,
            cluster,
            database,
        })
    }

    /// The rows of a statement, cells parted by `|`, through `psql`; `None` where the server is away.
    pub(crate) fn try_sql(&self, statement: &str) -> Option<Vec<String>> {
        psql(&self.cluster, &self.database, statement).ok()
    }

    pub(crate) fn sql(&self, statement: &str) -> Vec<String> {
        self.try_sql(statement)
            .unwrap_or_else(|| panic!("{statement}\n{}", self.house.log()))
    }

    /// Waits until `statement` prints `wanted`.
    pub(crate) async fn until(&self, statement: &str, wanted: &str) {
        let since = Instant::now();
        loop {
            let got = self.try_sql(statement).map(|rows| rows.join("\n"));
            if got.as_deref() == Some(wanted) {
                return;
            }
            assert!(
                since.elapsed() < 2 * harness::BOUND,
                "{statement}: wanted {wanted}, still {got:?}\n{}",
                self.house.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Runs a command to its end; whether it succeeded, and what it said.
    pub(crate) fn say(&self, subcommand: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self
            .house
            .command(subcommand)
            .args(arguments)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }
}
