//! `receiptd migrate`: the schema, without serving; and everything from a SQLite file into PostgreSQL.

use std::path::Path;
use std::process::ExitCode;

use super::common;
use crate::settings::{Database, Loaded, Settings};
use crate::store::sqlite::DaemonLock;
use crate::store::{self, Role, postgres};

/// Create the database, or bring its schema up to date; `run` does so too
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd migrate --config receiptd.toml
  receiptd migrate --config receiptd.toml --from sqlite:///var/lib/receiptd/receiptd.db

With --from the configuration names a PostgreSQL database that is empty, and no daemon runs. Everything is moved in one
transaction, with its ids: what is interrupted is begun again. The file stays as it is.")]
pub(super) struct Args {
    /// Move everything out of this SQLite file into the configured PostgreSQL database
    #[arg(long, value_name = "URL")]
    from: Option<String>,
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    match &args.from {
        Some(from) => transfer(&loaded, from).await,
        None => schema(&loaded).await,
    }
}

async fn schema(loaded: &Loaded) -> anyhow::Result<ExitCode> {
    let database = &loaded.settings.database;
    let mut steps = Vec::new();
    let store = store::open(database, Role::Owner, &mut |step| {
        steps.push(format!("version {}: {}", step.version, step.description));
    })
    .await?;
    store.close().await;
    if steps.is_empty() {
        steps.push("nothing to do".to_owned());
    }
    common::say(&format!("{database}: {}", steps.join(", ")))?;
    Ok(ExitCode::SUCCESS)
}

async fn transfer(loaded: &Loaded, from: &str) -> anyhow::Result<ExitCode> {
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
        // For whoever watches: the table of messages takes the longest.
        let _ = common::say(&format!("moving {table}"));
    })
    .await?;
    let told: Vec<String> = moved
        .iter()
        .map(|(table, rows)| format!("{rows} rows of {table}"))
        .collect();
    common::say(&format!(
        "{database}: {} moved out of {}, which stays as it is",
        told.join(", "),
        file.path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
