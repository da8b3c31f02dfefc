//! What the operator says.
//!
//! ```text
//! layers    defaults < file < environment, merged; which key was said where
//! reader    asks for one key after the other, notes every mistake
//! values    what a duration, a number, a word may look like
//! filter    the words of `log.filter`
//! checks    merged layers -> Settings; what cannot be is refused
//! unwise    what is possible but unwise: warnings
//! show      every setting as a person may see it; what a reload changes
//! ```
//! `config/receiptd.toml` documents every key and holds its default; it is compiled in.

mod accounts;
mod checks;
mod error;
mod filter;
mod layers;
mod load;
mod reader;
mod secret;
mod sections;
mod show;
mod unwise;
mod values;

use std::collections::BTreeMap;

pub use accounts::{Account, App, Budget};
pub use error::{Place, Refusal, SettingsError};
pub(crate) use filter::LIBRARIES;
pub use layers::DEFAULTS;
pub use load::{DEFAULT_PATH, Loaded, from_text, load, process_environment};
pub use secret::{Secret, SecretError};
pub use sections::{Database, Endpoint, Log, LogFormat, Retention, Retry, Synchronous, Workers};
pub use show::Change;

use crate::cadence::Rules;
use crate::receipt::AccountName;

/// Every setting, checked: what is in here is possible. `Debug` shows no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[database]`
    pub database: Database,
    /// `[endpoint]`
    pub endpoint: Endpoint,
    /// `[workers]`
    pub workers: Workers,
    /// `[retry]`
    pub retry: Retry,
    /// `[cadence]`
    pub cadence: Rules,
    /// `[accounts.*]`
    pub accounts: BTreeMap<AccountName, Account>,
    /// `[budgets.*]`: metered calls a month that several accounts share.
    pub budgets: BTreeMap<String, u64>,
    /// `[log]`
    pub log: Log,
    /// `[retention]`
    pub retention: Retention,
}
