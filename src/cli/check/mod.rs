//! `receiptd check`: whether everything works, line by line as it is found out, and what to do where it does not.

mod accounts;
mod database;
mod endpoint;
mod server;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::{FAILED, MISUSED, common};
use crate::receipt::Chat;
use crate::settings::{Loaded, SettingsError};

/// Check configuration, database, endpoint and accounts
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  receiptd check --config receiptd.toml
  receiptd check --ask              # also whether each account may query, for a metered call each
  receiptd check --ask=oto          # the same of messages to persons, which have an interface of their own
  receiptd check --offline --config new.toml      # before it replaces the old one
  receiptd check --json

It looks at the settings; at the database (permissions, write-ahead log, free space, schema); at the endpoint and its clock; and asks for a token of every internal account, which is not metered.

Whether an account has the permission to query shows only in a query, and DingTalk does not say whether it charges a query that it refuses. A running daemon knows the answer from its own queries. `--ask` makes one query for each account (or organisation), for a key that does not exist, of a private chat or of the chat that it names. The call is counted in `api_calls`; none is made if the month's budget is spent.

Run it as the service's user, who must be able to read the secrets: sudo -u receiptd receiptd check

Exit codes: 0 nothing failed, 1 something did, 2 wrong usage or configuration.")]
pub(super) struct Args {
    /// Look at the settings only: no database, no network
    #[arg(long, visible_alias = "settings", conflicts_with = "ask")]
    offline: bool,
    /// Make one query for every account: a metered call each
    #[arg(
        long,
        value_name = "CHAT",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "private",
        value_parser = common::chat()
    )]
    ask: Option<Chat>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// How a thing looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    /// Nothing wrong, and something to know.
    Note,
    /// It works, and is risky or will not work for long.
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Serialize)]
struct Finding {
    name: String,
    result: Outcome,
    message: String,
    /// What to do.
    remedy: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.result {
            Outcome::Ok => "ok",
            Outcome::Note => "note",
            Outcome::Warning => "warning",
            Outcome::Failed => "FAILED",
        };
        write!(f, "{mark:<7}  {}: {}", self.name, self.message)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// All of them, as JSON prints them.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: &'a [Finding],
}

/// What was found so far. As text it is printed at once: the next thing may take its time.
struct Findings {
    json: bool,
    found: Vec<Finding>,
}

impl Findings {
    fn works(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.add(name, Outcome::Ok, message, None);
    }

    fn note(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.add(name, Outcome::Note, message, None);
    }

    fn warns(&mut self, name: impl Into<String>, message: impl Into<String>, remedy: &str) {
        self.add(name, Outcome::Warning, message, Some(remedy));
    }

    fn fails(&mut self, name: impl Into<String>, message: impl Into<String>, remedy: &str) {
        self.add(name, Outcome::Failed, message, Some(remedy));
    }

    /// For an error that says itself what to do.
    fn fails_with(&mut self, name: impl Into<String>, error: &dyn fmt::Display) {
        self.add(name, Outcome::Failed, error.to_string(), None);
    }

    fn add(
        &mut self,
        name: impl Into<String>,
        result: Outcome,
        message: impl Into<String>,
        remedy: Option<&str>,
    ) {
        let finding = Finding {
            name: name.into(),
            result,
            message: message.into(),
            remedy: remedy.map(str::to_owned),
        };
        if !self.json {
            // Whoever does not listen any more still gets the exit code.
            let _ = common::say(&finding.to_string());
        }
        self.found.push(finding);
    }

    fn ended(self, otherwise: u8) -> anyhow::Result<ExitCode> {
        let ok = self
            .found
            .iter()
            .all(|found| found.result != Outcome::Failed);
        if self.json {
            common::say(&serde_json::to_string(&Report {
                ok,
                checks: &self.found,
            })?)?;
        }
        Ok(if ok {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(otherwise)
        })
    }
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let mut found = Findings {
        json: args.json,
        found: Vec::new(),
    };
    let loaded = match common::settings(config) {
        Ok(loaded) => loaded,
        Err(error) => {
            settings_refused(&error, &mut found);
            return found.ended(MISUSED);
        }
    };
    settings(&loaded, &mut found);
    if !args.offline {
        everything_else(&loaded, args, &mut found).await;
    }
    found.ended(FAILED)
}

async fn everything_else(loaded: &Loaded, args: &Args, found: &mut Findings) {
    let store = database::look(&loaded.settings.database, args.ask.is_some(), found).await;
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
        found.add("settings", Outcome::Warning, warning, None);
    }
    if loaded.settings.accounts.is_empty() {
        // It says itself what to do.
        found.add("accounts", Outcome::Failed, common::NO_ACCOUNT, None);
    }
}

fn settings_refused(error: &SettingsError, found: &mut Findings) {
    match error {
        SettingsError::Refused(refusals) => {
            for refusal in refusals {
                let message = format!("{}: {} {}", refusal.place, refusal.key, refusal.problem);
                found.fails("settings", message, &refusal.remedy);
            }
        }
        other => found.fails_with("settings", other),
    }
}
