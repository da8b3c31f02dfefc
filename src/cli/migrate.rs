//! `receiptd migrate`: the schema, without serving.

use std::path::Path;
use std::process::ExitCode;

use super::common;
use crate::store::{self, Role};

/// Create the database, or bring its schema up to date; `run` does so too
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  receiptd migrate --config receiptd.toml")]
pub(super) struct Args {}

pub(super) async fn run(config: Option<&Path>, _args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
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
