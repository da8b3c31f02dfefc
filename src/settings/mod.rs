//! What the operator says.
//!
//! ```text
//! model     the sections: one definition a key
//! types     what a value may look like
//! filter    the words of `log.filter`
//! rules     contradictions are refused, what is possible but unwise is a warning
//! secret    where secrets are, and how they are read
//! layers    defaults < file < environment, merged; which key was said where
//! reading   merged layers -> Settings, section by section; every mistake with its place
//! load      from the file and the environment of this process
//! show      every setting as a person may see it; what a reload changes
//! ```
//! `config/receiptd.toml` documents every key and holds its default; it is compiled in.

mod database;
mod error;
mod filter;
mod layers;
mod load;
mod model;
mod reading;
mod rules;
mod secret;
mod show;
mod types;

pub use database::{Database, NoPostgresUrl, PostgresUrl, SqliteFile, Synchronous};
pub use error::{Place, Refusal, SettingsError};
pub(crate) use filter::LIBRARIES;
pub use layers::DEFAULTS;
pub use load::{DEFAULT_PATH, Loaded, from_text, load, process_environment};
pub use model::{
    Account, App, Budget, Endpoint, Log, LogFormat, Node, Retention, Retry, Settings, Workers,
};
pub use secret::{Secret, SecretError};
pub use show::{Change, InForce};
pub use types::is_loopback;
