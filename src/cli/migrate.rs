//! `receiptd migrate`: the schema, without serving; and everything from a SQLite file into PostgreSQL.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::common;
use crate::settings::{Database, Loaded, Settings};
use crate::store::sqlite::DaemonLock;
use crate::store::{self, Role, postgres};

/// Create the database, or bring its schema up to date; `run` does so too
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  receiptd migrate --config receiptd.toml
  receiptd migrate --config receiptd.toml --from sqlite:///var/lib/receiptd/receiptd.db

With --from the configuration names a PostgreSQL database that is empty, and no daemon runs. \
Everything is moved in one transaction, with its ids: what is interrupted is begun again. \
The file stays as it is.

Run as root in a directory of another user, the files are given to that user.")]
pub(super) struct Args {
    /// Move everything out of this SQLite file into the configured PostgreSQL database
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Migrated {
    database: String,
    steps: Vec<String>,
}

impl fmt::Display for Migrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps = self.steps.join(", ");
        let steps = if steps.is_empty() {
            "nothing to do"
        } else {
            &steps
        };
        write!(f, "{}: {steps}", self.database)
    }
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    let steps = match &args.from {
        Some(from) => transfer(&loaded, from).await?,
        None => schema(&loaded.settings.database).await?,
    };
    let database = loaded.settings.database.to_string();
    common::tell(args.json, &Migrated { database, steps })?;
    Ok(ExitCode::SUCCESS)
}

async fn schema(database: &Database) -> anyhow::Result<Vec<String>> {
    let mut steps = Vec::new();
    let opened = store::open(database, Role::Owner, &mut |step| {
        steps.push(format!("version {}: {}", step.version, step.description));
    })
    .await;
    let store = opened.map_err(|error| common::not_opened(database, Role::Owner, error))?;
    store.close().await;
    Ok(steps)
}

async fn transfer(loaded: &Loaded, from: &str) -> anyhow::Result<Vec<String>> {
    let database = &loaded.settings.database;
    let Database::Postgres(to) = database else {
        anyhow::bail!(
            "--from moves into PostgreSQL, and database.url is {database}: write a postgres:// address there"
        );
    };
    let Database::Sqlite(file) = Settings::of_database(from)?.database else {
        anyhow::bail!("--from is no SQLite file: write sqlite:///PATH");
    };
    if !file.path.is_file() {
        anyhow::bail!("{}: there is no such file", file.path.display());
    }
    let _of_file = DaemonLock::acquire(&file.path)?;
    let _of_server = DaemonLock::acquire(&database.local_path())?;
    let moved = postgres::transfer(&file, to, &mut |table| {
        tracing::info!("moving {table}");
    })
    .await?;
    let told = moved
        .iter()
        .map(|(table, rows)| format!("{rows} rows of {table} moved"));
    Ok(told.collect())
}
