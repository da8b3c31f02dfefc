//! `receiptd check`: whether everything works, line by line, and what to do where it does not.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use humantime::format_duration;
use serde_json::{Value, json};

use super::{FAILED, common};
use crate::dingtalk::{Client, Credentials};
use crate::receipt::{AccountName, CorpId};
use crate::settings::{Account, App, Loaded};
use crate::store::Store as _;
use crate::store::sqlite::{Role, SqliteStore};

/// Farther off than that and a message's age, which is counted from the sending, is wrong to speak of.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Say whether settings, database, endpoint and every account work, and what to do where not
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  receiptd check --config receiptd.toml
  receiptd check --settings --config new.toml     # before it takes the old one's place

Asks for a token of every account; makes no metered call and writes nothing.")]
pub(super) struct Args {
    /// Look at the settings only: no database, no network
    #[arg(long)]
    settings: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One thing looked at.
struct Line {
    what: String,
    works: bool,
    said: String,
}

#[derive(Default)]
struct Findings(Vec<Line>);

impl Findings {
    fn works(&mut self, what: impl Into<String>, said: impl Into<String>) {
        self.add(what, true, said);
    }

    fn fails(&mut self, what: impl Into<String>, said: impl Into<String>) {
        self.add(what, false, said);
    }

    fn add(&mut self, what: impl Into<String>, works: bool, said: impl Into<String>) {
        self.0.push(Line {
            what: what.into(),
            works,
            said: said.into(),
        });
    }
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    let mut found = Findings::default();
    let read = match &loaded.file {
        Some(file) => format!("{} and the environment", file.display()),
        None => "no file, defaults and the environment".to_owned(),
    };
    found.works("settings", read);
    if loaded.settings.accounts.is_empty() {
        found.fails("accounts", common::NO_ACCOUNT);
    }
    if !args.settings {
        let store = database(&loaded, &mut found).await;
        endpoint_and_accounts(&loaded, store.as_ref(), &mut found).await;
        if let Some(store) = store {
            store.close().await;
        }
    }
    let works = found.0.iter().all(|line| line.works);
    common::say(&match args.json {
        true => as_json(&found, &loaded.warnings, works).to_string(),
        false => as_text(&found, &loaded.warnings),
    })?;
    Ok(match works {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    })
}

async fn database(loaded: &Loaded, found: &mut Findings) -> Option<SqliteStore> {
    match common::store(loaded, Role::Reader).await {
        Ok(store) => {
            let path = loaded.settings.database.path.display();
            found.works("database", format!("{path} opens, its schema is today's"));
            Some(store)
        }
        // Each of these says what to do.
        Err(error) => {
            found.fails("database", error.to_string());
            None
        }
    }
}

async fn endpoint_and_accounts(loaded: &Loaded, store: Option<&SqliteStore>, found: &mut Findings) {
    let endpoint = &loaded.settings.endpoint;
    let client = match Client::new(endpoint) {
        Ok(client) => client,
        Err(error) => {
            found.fails("endpoint", error.to_string());
            return;
        }
    };
    match client.probe_clock().await {
        Err(failure) => found.fails(
            "endpoint",
            format!(
                "{} does not answer ({failure}); look at endpoint.base_url, the network and the proxy",
                endpoint.base_url
            ),
        ),
        Ok(there) => {
            found.works("endpoint", format!("{} answers", endpoint.base_url));
            let here = common::now();
            match there.map(|there| here.since(there).max(there.since(here))) {
                None => found.works("clock", "the endpoint does not say its time"),
                Some(off) if off > CLOCK_TOLERANCE => found.fails(
                    "clock",
                    format!(
                        "{} off the endpoint's; let NTP set this machine's clock",
                        format_duration(Duration::from_secs(off.as_secs()))
                    ),
                ),
                Some(_) => found.works("clock", "agrees with the endpoint's"),
            }
        }
    }
    let corps = corps(store, found).await;
    for (name, account) in &loaded.settings.accounts {
        let of_account: Vec<&CorpId> = corps
            .iter()
            .filter(|(owner, _)| owner == name)
            .map(|(_, corp)| corp)
            .collect();
        one_account(name, account, &client, store, &of_account, found).await;
    }
}

/// The organisations that messages name, with their accounts.
async fn corps(store: Option<&SqliteStore>, found: &mut Findings) -> Vec<(AccountName, CorpId)> {
    let Some(store) = store else {
        return Vec::new();
    };
    match store.totals(common::now()).await {
        Ok(lanes) => lanes
            .into_iter()
            .filter_map(|totals| Some((totals.lane.account, totals.lane.corp?)))
            .collect(),
        Err(error) => {
            found.fails("database", format!("it cannot be read: {error}"));
            Vec::new()
        }
    }
}

async fn one_account(
    name: &AccountName,
    account: &Account,
    client: &Client,
    store: Option<&SqliteStore>,
    corps: &[&CorpId],
    found: &mut Findings,
) {
    let what = format!("account {name}");
    let secret = match account.app.credentials().1.read() {
        Ok(secret) => secret,
        Err(error) => return found.fails(what, error.to_string()),
    };
    let mut ticket = None;
    if let App::ThirdParty { suite_key, .. } = &account.app {
        let Some(store) = store else {
            return found.fails(what, "its suite ticket stands in the database, see there");
        };
        match store.suite_ticket(suite_key).await {
            Ok(Some(newest)) => ticket = Some(newest),
            Ok(None) => {
                return found.fails(
                    what,
                    format!(
                        "no suite ticket of {}; whoever receives DingTalk's callback must write it to suite_tickets",
                        suite_key.escape_debug()
                    ),
                );
            }
            Err(error) => return found.fails(what, format!("suite_tickets: {error}")),
        }
        if corps.is_empty() {
            return found.works(
                what,
                "has a suite ticket; no message names an organisation yet",
            );
        }
    }
    let asked: Vec<Option<&CorpId>> = match &account.app {
        App::Internal { .. } => vec![None],
        App::ThirdParty { .. } => corps.iter().map(|corp| Some(*corp)).collect(),
    };
    for corp in asked {
        let what = match corp {
            Some(corp) => format!("{what}/{corp}"),
            None => what.clone(),
        };
        let Some(credentials) = Credentials::of(&account.app, corp) else {
            continue;
        };
        match client
            .request_token(&credentials, &secret, ticket.as_deref())
            .await
        {
            Ok(issued) => found.works(
                what,
                format!(
                    "gets a token, good for {}",
                    format_duration(issued.lifetime)
                ),
            ),
            Err(refusal) => found.fails(what, refusal.to_string()),
        }
    }
}

fn as_text(found: &Findings, warnings: &[String]) -> String {
    let lines = found.0.iter().map(|line| {
        let mark = if line.works { "ok    " } else { "FAILED" };
        format!("{mark}  {}: {}\n", line.what, line.said)
    });
    let warned = warnings
        .iter()
        .map(|warning| format!("warning settings: {warning}\n"));
    lines.chain(warned).collect()
}

fn as_json(found: &Findings, warnings: &[String], works: bool) -> Value {
    let lines: Vec<Value> = found
        .0
        .iter()
        .map(|line| json!({ "what": line.what, "ok": line.works, "said": line.said }))
        .collect();
    json!({ "ok": works, "checks": lines, "warnings": warnings })
}
