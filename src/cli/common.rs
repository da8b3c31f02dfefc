//! What the commands share: settings, the database, and what a word on the command line may be.

use std::io::{self, Write as _};
use std::path::Path;

use crate::daemon::{Clock, Published, status_path};
use crate::receipt::{MessageKey, State, UnixMs};
use crate::settings::{Loaded, SettingsError, load, process_environment};
use crate::store::sqlite::{DaemonLock, lock_path};
use crate::store::{self, OpenError, Role, SharedStore};

/// Rows written in one go by `retry`, so that the daemon and the feeders have their turn in between.
pub(super) const BATCH: usize = 500;

/// What to say where nobody filled the configuration in yet.
pub(super) const NO_ACCOUNT: &str =
    "none is configured; write an [accounts.default] with app_key and app_secret_file";

/// Reads the settings of this process.
pub(super) fn settings(config: Option<&Path>) -> Result<Loaded, SettingsError> {
    load(config, process_environment())
}

/// Opens the configured database.
pub(super) async fn store(loaded: &Loaded, role: Role) -> Result<SharedStore, OpenError> {
    // A command migrates nothing.
    store::open(&loaded.settings.database, role, &mut |_| ()).await
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

/// The time of day.
pub(super) fn now() -> UnixMs {
    Clock::system().now()
}

/// Writes lines to standard output.
pub(super) fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n'))?;
    out.flush()
}

/// A message's key, as the table takes it.
pub(super) fn key(text: &str) -> Result<MessageKey, String> {
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    match printable && (1..=512).contains(&text.len()) {
        true => Ok(MessageKey::from(text)),
        false => Err("a key is 1 to 512 printable ASCII characters without spaces".to_owned()),
    }
}

/// A final state.
pub(super) fn final_state(text: &str) -> Result<State, String> {
    State::parse(text)
        .filter(|state| state.is_final())
        .ok_or_else(|| "write complete, recalled, expired, failed or cancelled".to_owned())
}

/// A state that `retry` leads out of.
pub(super) fn retryable_state(text: &str) -> Result<State, String> {
    match State::parse(text) {
        Some(state @ (State::Failed | State::Expired | State::Cancelled)) => Ok(state),
        _ => Err("write failed, expired or cancelled".to_owned()),
    }
}

/// A name of 1 to `most` characters.
pub(super) fn name(text: &str, most: usize) -> Result<String, String> {
    match (1..=most).contains(&text.chars().count()) {
        true => Ok(text.to_owned()),
        false => Err(format!("write 1 to {most} characters")),
    }
}
