//! The sections: one definition a key, which says what is read, what it may be, and how it is shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};

use super::Database;
use super::secret::Secret;
use super::types::{self, some_span, span};
use crate::cadence::Rules;
use crate::receipt::{AccountName, RobotCode};

/// Every setting, checked: what is in here is possible. `Debug` and `Serialize` show no secret.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// `[database]`
    pub database: Database,
    /// `[node]`
    pub node: Node,
    /// `[endpoint]`
    pub endpoint: Endpoint,
    /// `[workers]`
    pub workers: Workers,
    /// `[retry]`
    pub retry: Retry,
    /// `[cadence]`
    #[serde(with = "Cadence")]
    pub cadence: Rules,
    /// `[accounts.*]`
    #[serde(serialize_with = "by_name")]
    pub accounts: BTreeMap<AccountName, Account>,
    /// `[budgets.*]`: metered calls a month that several accounts share.
    #[serde(serialize_with = "as_sections")]
    pub budgets: BTreeMap<String, u64>,
    /// `[log]`
    pub log: Log,
    /// `[retention]`
    pub retention: Retention,
}

/// `[node]`: this process among others that serve the same database.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// For people; `None`: the host's name.
    #[serde(default, deserialize_with = "types::some_text")]
    pub name: Option<String>,
    /// A node that is not heard of for so long loses its accounts.
    #[serde(with = "types::lease")]
    pub lease: Duration,
    /// The nodes call from one public address.
    #[serde(deserialize_with = "types::flag")]
    pub shared_egress: bool,
}

/// `[endpoint]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Without a slash at its end. Holds no user and no password.
    #[serde(deserialize_with = "types::base_url")]
    pub base_url: String,
    /// For the TCP and TLS handshakes.
    #[serde(with = "some_span")]
    pub connect_timeout: Duration,
    /// For a whole call.
    #[serde(with = "some_span")]
    pub request_timeout: Duration,
    /// Items asked for a page, 1..=200.
    #[serde(deserialize_with = "types::page_size")]
    pub page_size: u16,
    /// Calls a second of all accounts together.
    #[serde(deserialize_with = "types::calls_per_second")]
    pub calls_per_second: u32,
    /// A private certificate authority, PEM.
    #[serde(default, deserialize_with = "types::some_text")]
    pub ca_file: Option<PathBuf>,
}

/// `[workers]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// Calls under way at once.
    #[serde(deserialize_with = "types::concurrency")]
    pub concurrency: usize,
    /// How long a stop waits for the polls under way.
    #[serde(with = "span")]
    pub shutdown_grace: Duration,
}

/// `[retry]`: exponential backoff within one poll.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// The first wait.
    #[serde(with = "some_span")]
    pub initial_interval: Duration,
    /// How many times longer each wait is than the one before.
    #[serde(deserialize_with = "types::at_least_one")]
    pub multiplier: f64,
    /// How far a wait is moved at random either way, as a share of it.
    #[serde(deserialize_with = "types::share")]
    pub randomization_factor: f64,
    /// The longest wait.
    #[serde(with = "some_span")]
    pub max_interval: Duration,
    /// When the poll gives up; zero: it does not try again.
    #[serde(with = "span")]
    pub max_elapsed_time: Duration,
}

/// `[cadence]`, which makes [`Rules`].
#[derive(Deserialize, Serialize)]
#[serde(remote = "Rules", deny_unknown_fields)]
pub(super) struct Cadence {
    #[serde(deserialize_with = "types::above_zero")]
    calls_per_message: f64,
    #[serde(with = "some_span")]
    min_interval: Duration,
    #[serde(with = "some_span")]
    max_interval: Duration,
    #[serde(with = "span")]
    generation_grace: Duration,
    #[serde(with = "some_span")]
    key_lifetime: Duration,
    #[serde(with = "span")]
    last_chance: Duration,
    #[serde(with = "some_span")]
    max_age: Duration,
    #[serde(with = "some_span")]
    memory: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// A `tracing` filter.
    #[serde(deserialize_with = "types::filter")]
    pub filter: String,
    /// How lines look.
    #[serde(deserialize_with = "types::word")]
    pub format: LogFormat,
    /// How often the summary is written.
    #[serde(with = "some_span")]
    pub summary_interval: Duration,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// How long finished messages are kept; `None`: for ever.
    #[serde(with = "types::span_or_never")]
    pub finished: Option<Duration>,
}

/// `[accounts.NAME]`
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Where an account's calls are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Its own: metered calls a month.
    Own(u64),
    /// A `[budgets.NAME]` shared with others.
    Shared(String),
}

impl App {
    /// Its key at the vendor, and where its secret is.
    pub fn credentials(&self) -> (&str, &Secret) {
        match self {
            Self::Internal {
                app_key: key,
                app_secret: secret,
            }
            | Self::ThirdParty {
                suite_key: key,
                suite_secret: secret,
            } => (key, secret),
        }
    }
}

/// `[accounts.NAME]` as it is written. DingTalk's console and SDKs call key and secret by several names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccountText {
    #[serde(default, deserialize_with = "types::word")]
    pub(super) app: Kind,
    #[serde(
        default,
        alias = "suite_key",
        alias = "client_id",
        deserialize_with = "types::some_text"
    )]
    pub(super) app_key: Option<String>,
    #[serde(
        default,
        alias = "suite_secret",
        alias = "client_secret",
        deserialize_with = "types::some_text"
    )]
    pub(super) app_secret: Option<SecretString>,
    #[serde(
        default,
        alias = "suite_secret_file",
        alias = "client_secret_file",
        deserialize_with = "types::some_text"
    )]
    pub(super) app_secret_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "types::some_text")]
    pub(super) robot_code: Option<RobotCode>,
    #[serde(
        default = "standard_calls_per_second",
        deserialize_with = "types::calls_per_second"
    )]
    pub(super) calls_per_second: u32,
    #[serde(default, deserialize_with = "types::some_monthly_calls")]
    pub(super) monthly_calls: Option<u64>,
    #[serde(default, deserialize_with = "types::some_text")]
    pub(super) budget: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    #[default]
    Internal,
    ThirdParty,
}

impl Kind {
    /// What its own names of key and secret begin with.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Internal => "app",
            Self::ThirdParty => "suite",
        }
    }
}

/// The standard edition's limit, from the vendor's documentation.
fn standard_calls_per_second() -> u32 {
    20
}

/// `[budgets.NAME]`
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SharedBudget {
    #[serde(deserialize_with = "types::monthly_calls")]
    pub(super) monthly_calls: u64,
}

impl Serialize for Account {
    /// As it could be written; an inline secret is redacted.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (app, kind) = match self.app {
            App::Internal { .. } => ("internal", Kind::Internal),
            App::ThirdParty { .. } => ("third_party", Kind::ThirdParty),
        };
        let (key, secret) = self.app.credentials();
        let suffix = match secret {
            Secret::Inline(_) => "secret",
            Secret::File { .. } => "secret_file",
        };
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("app", app)?;
        map.serialize_entry(&format!("{}_key", kind.prefix()), key)?;
        map.serialize_entry(&format!("{}_{suffix}", kind.prefix()), &secret.shown())?;
        if let Some(robot) = &self.robot_code {
            map.serialize_entry("robot_code", robot.as_str())?;
        }
        map.serialize_entry("calls_per_second", &self.calls_per_second)?;
        match &self.budget {
            Some(Budget::Own(calls)) => map.serialize_entry("monthly_calls", calls)?,
            Some(Budget::Shared(name)) => map.serialize_entry("budget", name)?,
            None => {}
        }
        map.end()
    }
}

fn by_name<S: Serializer>(
    accounts: &BTreeMap<AccountName, Account>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(
        accounts
            .iter()
            .map(|(name, account)| (name.as_str(), account)),
    )
}

fn as_sections<S: Serializer>(budgets: &BTreeMap<String, u64>, to: S) -> Result<S::Ok, S::Error> {
    let section = |calls: &u64| SharedBudget {
        monthly_calls: *calls,
    };
    to.collect_map(budgets.iter().map(|(name, calls)| (name, section(calls))))
}
