//! `receiptd check`: whether everything works, line by line, and what to do where it does not.

mod accounts;
mod database;
mod endpoint;
mod server;

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::{FAILED, MISUSED, common};
use crate::settings::{Loaded, SettingsError};

/// Say whether settings, database, endpoint and every account work, and what to do where not
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd check --config receiptd.toml
  receiptd check --ask              # also whether each account may ask, for a metered call each
  receiptd check --settings --config new.toml     # before it takes the old one's place
  receiptd check --json

Looks at the settings; at the database (permissions, write-ahead log, free space, schema); at the endpoint and its clock;
and asks for a token of every account, which is not metered. Whether an account's permission suffices shows only in a
query, and DingTalk does not say whether a query that it refuses is charged: a daemon that runs knows it from its own
queries, and `--ask` makes one query an account (or organisation) for a key that does not exist. That call is counted in
`api_calls`, and none goes out where the month's budget is spent.

Run it as the user of the service, who must be able to read the secrets: sudo -u receiptd receiptd check

Exit codes: 0 nothing failed, 1 something did, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// Look at the settings only: no database, no network
    #[arg(long, conflicts_with = "ask")]
    settings: bool,
    /// Ask DingTalk once for every account: a metered call each
    #[arg(long)]
    ask: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a thing looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Works,
    /// Nothing wrong, and something to know.
    Note,
    /// It works, and is unwise or will not work for long.
    Warning,
    Fails,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Works => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Fails => "failed",
        }
    }
}

/// One thing looked at.
struct Finding {
    what: String,
    verdict: Verdict,
    said: String,
    /// What to do.
    remedy: Option<String>,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn works(&mut self, what: impl Into<String>, said: impl Into<String>) {
        self.add(what, Verdict::Works, said, None);
    }

    fn note(&mut self, what: impl Into<String>, said: impl Into<String>) {
        self.add(what, Verdict::Note, said, None);
    }

    fn warns(&mut self, what: impl Into<String>, said: impl Into<String>, remedy: &str) {
        self.add(what, Verdict::Warning, said, Some(remedy.to_owned()));
    }

    fn fails(&mut self, what: impl Into<String>, said: impl Into<String>, remedy: &str) {
        self.add(what, Verdict::Fails, said, Some(remedy.to_owned()));
    }

    /// For an error that says itself what to do.
    fn fails_with(&mut self, what: impl Into<String>, error: &dyn std::error::Error) {
        self.add(what, Verdict::Fails, error.to_string(), None);
    }

    fn add(
        &mut self,
        what: impl Into<String>,
        verdict: Verdict,
        said: impl Into<String>,
        remedy: Option<String>,
    ) {
        self.0.push(Finding {
            what: what.into(),
            verdict,
            said: said.into(),
            remedy,
        });
    }

    fn all_work(&self) -> bool {
        self.0.iter().all(|found| found.verdict != Verdict::Fails)
    }

    fn say(&self, json: bool) -> std::io::Result<()> {
        common::say(&match json {
            true => self.as_json().to_string(),
            false => self.as_text(),
        })
    }

    fn as_text(&self) -> String {
        let lines = self.0.iter().map(|found| {
            let mark = match found.verdict {
                Verdict::Fails => "FAILED",
                other => other.as_str(),
            };
            let remedy = found.remedy.as_deref().map(|remedy| format!("; {remedy}"));
            format!(
                "{mark:<7}  {}: {}{}\n",
                found.what,
                found.said,
                remedy.unwrap_or_default()
            )
        });
        lines.collect()
    }

    fn as_json(&self) -> Value {
        let lines: Vec<Value> = self
            .0
            .iter()
            .map(|found| {
                json!({
                    "what": found.what,
                    "verdict": found.verdict.as_str(),
                    "said": found.said,
                    "remedy": found.remedy,
                })
            })
            .collect();
        json!({ "ok": self.all_work(), "checks": lines })
    }
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let mut found = Findings::default();
    let loaded = match common::settings(config) {
        Ok(loaded) => loaded,
        Err(error) => {
            settings_refused(&error, &mut found);
            found.say(args.json)?;
            return Ok(ExitCode::from(MISUSED));
        }
    };
    settings(&loaded, &mut found);
    if !args.settings {
        everything_else(&loaded, args, &mut found).await;
    }
    found.say(args.json)?;
    Ok(match found.all_work() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

async fn everything_else(loaded: &Loaded, args: &Args, found: &mut Findings) {
    let store = database::look(&loaded.settings.database, args.ask, found).await;
    if let Some(client) = endpoint::look(&loaded.settings.endpoint, found).await {
        let accounts = accounts::Accounts {
            settings: &loaded.settings,
            client: &client,
            store: store.as_deref(),
            ask: args.ask,
        };
        accounts.look(found).await;
    }
    if let Some(store) = store {
        store.close().await;
    }
}

fn settings(loaded: &Loaded, found: &mut Findings) {
    let read = match &loaded.file {
        Some(file) => format!("{} and the environment", file.display()),
        None => "no file, defaults and the environment".to_owned(),
    };
    found.works("settings", read);
    for warning in &loaded.warnings {
        found.add("settings", Verdict::Warning, warning, None);
    }
    if loaded.settings.accounts.is_empty() {
        // It says itself what to do.
        found.add("accounts", Verdict::Fails, common::NO_ACCOUNT, None);
    }
}

fn settings_refused(error: &SettingsError, found: &mut Findings) {
    match error {
        SettingsError::Refused(refusals) => {
            for refusal in refusals {
                let said = format!("{}: {} {}", refusal.place, refusal.key, refusal.problem);
                found.fails("settings", said, &refusal.remedy);
            }
        }
        other => found.fails_with("settings", other),
    }
}
