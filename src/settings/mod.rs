//! What the operator says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::receipt::{AccountName, RobotCode, cadence::Rules};

/// Every setting, checked: what is in here is possible.
#[derive(Clone, Debug)]
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

/// `[database]`
#[derive(Clone, Debug)]
pub struct Database {
    /// The SQLite file.
    pub path: PathBuf,
    /// How hard a commit is pressed onto the disk.
    pub synchronous: Synchronous,
}

/// SQLite's `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// A committed result survives a power cut.
    Full,
    /// The last commits may be lost in a power cut, the file stays sound.
    Normal,
}

/// `[endpoint]`
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Without a slash at its end.
    pub base_url: String,
    /// For the TCP and TLS handshakes.
    pub connect_timeout: Duration,
    /// For a whole call.
    pub request_timeout: Duration,
    /// Items asked for a page, 1..=200.
    pub page_size: u16,
    /// Calls a second of all lanes together.
    pub calls_per_second: u32,
    /// A private certificate authority, PEM.
    pub ca_file: Option<PathBuf>,
}

/// `[workers]`
#[derive(Clone, Debug)]
pub struct Workers {
    /// Calls under way at once.
    pub concurrency: usize,
    /// How long a stop waits for the walks under way.
    pub shutdown_grace: Duration,
}

/// `[retry]`: exponential backoff within one poll.
#[derive(Clone, Debug)]
pub struct Retry {
    /// The first wait.
    pub initial_interval: Duration,
    /// Each wait is so many times the one before.
    pub multiplier: f64,
    /// How far a wait is moved at random either way, as a share of it.
    pub randomization_factor: f64,
    /// The longest wait.
    pub max_interval: Duration,
    /// The poll gives up after so long.
    pub max_elapsed_time: Duration,
}

/// `[accounts.NAME]`
#[derive(Clone, Debug)]
pub struct Account {
    /// The kind of app and its credentials.
    pub app: App,
    /// The bot of rows that name none.
    pub robot_code: Option<RobotCode>,
    /// Calls a second of each of its lanes.
    pub calls_per_second: u32,
    /// How many metered calls a month it may make.
    pub budget: Option<Budget>,
}

/// The two kinds of app.
#[derive(Clone, Debug)]
pub enum App {
    /// An internal app of one organisation.
    Internal {
        /// `appKey`
        app_key: String,
        /// `appSecret`
        app_secret: Secret,
    },
    /// A third-party app: a lane for each organisation that authorised it.
    ThirdParty {
        /// `suiteKey`
        suite_key: String,
        /// `suiteSecret`
        suite_secret: Secret,
    },
}

/// Where a secret is.
#[derive(Clone, Debug)]
pub enum Secret {
    /// In the configuration or the environment.
    Inline(SecretString),
    /// In a file, read anew at every token request.
    File(PathBuf),
}

/// Where an account's calls are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Its own: metered calls a month.
    Own(u64),
    /// A `[budgets.NAME]` shared with others.
    Shared(String),
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// A `tracing` filter.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
    /// How often the summary is written.
    pub summary_interval: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal under systemd, else text.
    Auto,
    /// Text for people.
    Text,
    /// One object a line.
    Json,
    /// The journal's own protocol.
    Journald,
}

/// `[retention]`
#[derive(Clone, Debug)]
pub struct Retention {
    /// How long finished messages are kept; `None`: for ever.
    pub finished: Option<Duration>,
}
