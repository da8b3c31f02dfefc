//! `receiptd migrate`: the schema, without serving.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::common;
use crate::store::Commands as _;
use crate::store::sqlite::{Role, SqliteStore};

/// Create the database, or bring its schema up to date; `run` does so too
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  receiptd migrate --config receiptd.toml

Run as root in a directory of another user, the files are given to that user.")]
pub(super) struct Args {
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
    let database = &loaded.settings.database;
    let mut steps = Vec::new();
    let opened = SqliteStore::open_reporting(database, Role::Owner, &mut |step| {
        steps.push(format!("version {}: {}", step.version, step.description));
    })
    .await;
    let store = opened.map_err(|error| common::not_opened(&database.path, Role::Owner, error))?;
    store.close().await;
    let database = database.path.display().to_string();
    common::tell(args.json, &Migrated { database, steps })?;
    Ok(ExitCode::SUCCESS)
}
