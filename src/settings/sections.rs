//! The sections, as the rest of the house uses them. `[cadence]` is [`Rules`](crate::cadence::Rules).

use std::path::PathBuf;
use std::time::Duration;

/// `[database]`
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl Synchronous {
    pub(super) const WORDS: [(&'static str, Self); 2] =
        [("full", Self::Full), ("normal", Self::Normal)];
}

/// `[endpoint]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Without a slash at its end. Holds no user and no password.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Calls under way at once.
    pub concurrency: usize,
    /// How long a stop waits for the walks under way.
    pub shutdown_grace: Duration,
}

/// `[retry]`: exponential backoff within one poll.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// The first wait.
    pub initial_interval: Duration,
    /// Each wait is so many times the one before.
    pub multiplier: f64,
    /// How far a wait is moved at random either way, as a share of it.
    pub randomization_factor: f64,
    /// The longest wait.
    pub max_interval: Duration,
    /// The poll gives up after so long; zero: it does not try again.
    pub max_elapsed_time: Duration,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq)]
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

impl LogFormat {
    pub(super) const WORDS: [(&'static str, Self); 4] = [
        ("auto", Self::Auto),
        ("text", Self::Text),
        ("json", Self::Json),
        ("journald", Self::Journald),
    ];
}

/// `[retention]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How long finished messages are kept; `None`: for ever.
    pub finished: Option<Duration>,
}
