//! What the commands share: which database, what a word on the command line may be, and how a result is printed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::Serialize;

use super::access::{self, Denied, Who};
use crate::daemon::{Clock, Published, status_path};
use crate::receipt::{AccountName, Chat, MessageKey, State, UnixMs};
use crate::settings::{
    self, Budget, Database, Loaded, Settings, SettingsError, process_environment,
};
use crate::store::sqlite::{self, DaemonLock, lock_path};
use crate::store::{self, CallCount, OpenError, Role, SharedStore};

/// What to say where nobody filled the configuration in yet.
pub(super) const NO_ACCOUNT: &str =
    "none is configured; write an [accounts.default] with app_key and app_secret_file";

/// The database of a command that needs nothing else of the configuration.
#[derive(Debug, clap::Args)]
pub(super) struct DatabaseArg {
    /// Use this database instead of a configuration: sqlite://PATH or postgres://USER@HOST:PORT/NAME
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    pub(super) database: Option<String>,
}

impl DatabaseArg {
    /// The configuration's settings, or the defaults with the database that was named; and whether it was.
    pub(super) fn settings(&self, config: Option<&Path>) -> Result<Settings, SettingsError> {
        match &self.database {
            Some(url) => Settings::of_database(url),
            None => Ok(settings(config)?.settings),
        }
    }
}

/// Reads the settings of this process.
pub(super) fn settings(config: Option<&Path>) -> Result<Loaded, SettingsError> {
    settings::load(config, process_environment())
}

/// Opens the database for a command.
pub(super) async fn store(database: &Database, role: Role) -> anyhow::Result<SharedStore> {
    // A command migrates nothing.
    let opened = store::open(database, role, &mut |_| ()).await;
    opened.map_err(|error| not_opened(database, role, error))
}

/// Why the database was not opened: by whom it may not be used, where that shows. SQLite says no more than "unable to
/// open".
pub(super) fn not_opened(database: &Database, role: Role, error: OpenError) -> anyhow::Error {
    use sqlite::OpenError::{File, Migration, Missing, Store};
    match error {
        OpenError::Sqlite(error @ (Missing(_) | File { .. } | Store { .. } | Migration { .. })) => {
            explained(&database.local_path(), role, error)
        }
        other => other.into(),
    }
}

/// An error of a file of the database, or what stands in the way, where that shows.
pub(super) fn explained(
    database: &Path,
    role: Role,
    error: impl std::error::Error + Send + Sync + 'static,
) -> anyhow::Error {
    match access::denied(database, role, &Who::Me) {
        Some(Denied { problem, remedy }) => anyhow::anyhow!("{problem}; {remedy}"),
        None => error.into(),
    }
}

/// Whether there is nothing at the database's place, in a directory that is there.
pub(super) fn is_fresh(error: &OpenError) -> bool {
    let OpenError::Sqlite(sqlite::OpenError::Missing(path)) = error else {
        return false;
    };
    access::directory_of(path).is_dir()
}

/// Who serves a database, as far as this process can tell.
#[derive(Debug)]
pub(super) enum Serving {
    /// A daemon does; its process, 0 where it could not write that into the lock.
    By(u32),
    Nobody,
    /// This process may not ask: the lock file cannot be opened.
    Unknown(io::Error),
}

impl Serving {
    /// Asks the lock beside `database`.
    pub(super) fn of(database: &Path) -> Self {
        match DaemonLock::holder(database) {
            Some(pid) => Self::By(pid),
            // What cannot be opened reads as a lock that nobody holds.
            None => match std::fs::File::open(lock_path(database)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Self::Unknown(error),
                _ => Self::Nobody,
            },
        }
    }
}

/// What the daemon of `database` last published, where one runs: what a daemon that is gone wrote says nothing of now.
/// Looked for beside the database as it is configured, and beside the file that a link leads to.
pub(super) fn published(database: &Path) -> Option<Published> {
    DaemonLock::holder(database)?;
    Published::read(&status_path(database))
        .or_else(|| Published::read(&lock_path(database).with_extension("status")))
}

/// The budget that an account's calls count in, as logs and status name it, and its calls a month.
pub(super) fn budget_of(settings: &Settings, account: &AccountName) -> Option<(String, u64)> {
    match settings.accounts.get(account)?.budget.as_ref()? {
        Budget::Own(calls) => Some((format!("account {account}"), *calls)),
        Budget::Shared(name) => Some((format!("budget {name}"), *settings.budgets.get(name)?)),
    }
}

/// The calls of a month that were counted in each budget.
pub(super) fn spent(settings: &Settings, counts: &[CallCount]) -> BTreeMap<String, u64> {
    let mut spent = BTreeMap::new();
    for count in counts {
        if let Some((budget, _)) = budget_of(settings, &count.lane.account) {
            *spent.entry(budget).or_default() += count.calls;
        }
    }
    spent
}

/// The time of day.
pub(super) fn now() -> UnixMs {
    Clock::system().now()
}

/// A span of time to the second.
pub(super) fn rounded(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

/// `1 message`, `2 messages`
pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Writes lines to standard output.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n'))?;
    out.flush()
}

/// Prints a result: as JSON in one line, or as its text.
pub(super) fn tell(json: bool, view: &(impl Serialize + Display)) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string(view)?
    } else {
        view.to_string()
    };
    Ok(say(&text)?)
}

/// Says on standard error what deserves attention, and ends nothing.
pub(super) fn warn(warning: impl Display) {
    // Nowhere to complain if this cannot be written.
    let _ = writeln!(io::stderr().lock(), "warning: {warning}");
}

/// A message's key, as the table takes it.
pub(super) fn key(text: &str) -> Result<MessageKey, String> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    match printable && (1..=512).contains(&text.len()) {
        true => Ok(MessageKey::from(text)),
        false => Err("a key is 1 to 512 printable ASCII characters without spaces".to_owned()),
    }
}

/// A state for which `is_right`.
pub(super) fn state(is_right: fn(State) -> bool) -> impl TypedValueParser<Value = State> {
    let words = State::ALL
        .into_iter()
        .filter(move |state| is_right(*state))
        .map(State::as_str);
    PossibleValuesParser::new(words).try_map(|word| State::parse(&word).ok_or("is no state"))
}

/// One of the places where a message can be sent.
pub(super) fn chat() -> impl TypedValueParser<Value = Chat> {
    PossibleValuesParser::new(Chat::ALL.map(Chat::as_str))
        .try_map(|word| Chat::parse(&word).ok_or("is no chat"))
}

/// A name of 1 to `MOST` characters.
pub(super) fn name<const MOST: usize>(text: &str) -> Result<String, String> {
    match (1..=MOST).contains(&text.chars().count()) {
        true => Ok(text.to_owned()),
        false => Err(format!("write 1 to {MOST} characters")),
    }
}
