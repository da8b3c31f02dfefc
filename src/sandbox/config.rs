//! How a sandbox is set up.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::faults::FaultPlan;

/// A sandbox's setting. The default listens on a free port of 127.0.0.1, knows the app `sandbox` with the secret
/// `sandbox`, limits nothing and makes no mistakes.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Where to listen; port 0: a free one.
    pub listen: SocketAddr,
    /// Decides crowds, latencies and the small liberties that an answer may take.
    pub seed: u64,
    /// The apps that may ask.
    pub apps: Vec<App>,
    /// How long a token lives.
    pub token_life: Duration,
    /// Whether a new token of a third-party app ends the one before (unknown of the vendor's).
    pub corp_token_replaces: bool,
    /// Token calls an app may make in a second; 0: any number.
    pub token_calls_per_second: u32,
    /// Calls a lane may make in any one second; 0: any number. The vendor's standard edition: 20.
    pub calls_per_second: u32,
    /// Calls of all together in any 20 s, beyond which the address is banned for [`Self::ban`]; 0: any number. The
    /// vendor's: 10,000.
    pub calls_per_20s: u32,
    /// How long a ban lasts. The vendor's: 5 minutes.
    pub ban: Duration,
    /// Metered calls a lane may make in a calendar month; 0: any number.
    pub monthly_calls: u64,
    /// Largest `maxResults`, and the page where none is given.
    pub page_size_cap: u32,
    /// Whether pages may hold fewer than `maxResults` though more follow.
    pub uneven_pages: bool,
    /// How long a key answers (message time).
    pub key_lifetime: Duration,
    /// How much faster messages live than the clock: 1440 makes a day of a minute.
    pub time_scale: f64,
    /// Every answer takes between so long and so long.
    pub latency: (Duration, Duration),
    /// The sandbox's clock is ahead of the machine's by so many milliseconds.
    pub clock_offset_ms: i64,
    /// Keys that nobody published have a made-up crowd; else they are `invalid.processQueryKey`.
    pub unknown_keys_answer: bool,
    /// What made-up crowds are like.
    pub crowd: CrowdRules,
    /// Random faults.
    pub faults: Option<FaultPlan>,
    /// So many calls are remembered; 0: none.
    pub log_capacity: usize,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            seed: 1,
            apps: vec![App::internal("sandbox", "sandbox")],
            token_life: Duration::from_secs(7_200),
            corp_token_replaces: false,
            token_calls_per_second: 0,
            calls_per_second: 0,
            calls_per_20s: 0,
            ban: Duration::from_secs(300),
            monthly_calls: 0,
            page_size_cap: 200,
            uneven_pages: true,
            key_lifetime: Duration::from_secs(24 * 3_600),
            time_scale: 1.0,
            latency: (Duration::ZERO, Duration::ZERO),
            clock_offset_ms: 0,
            unknown_keys_answer: true,
            crowd: CrowdRules::default(),
            faults: None,
            log_capacity: 100_000,
        }
    }
}

/// What made-up crowds are like.
#[derive(Clone, Copy, Debug)]
pub struct CrowdRules {
    /// Recipients of a message in a private chat.
    pub private: u32,
    /// Median number of recipients in a group.
    pub group: u32,
    /// Median time to read (message time).
    pub median: Duration,
    /// Spread of the logarithm of the time to read: it is log-normal.
    pub sigma: f64,
    /// Share that never reads.
    pub never: f64,
}

impl Default for CrowdRules {
    fn default() -> Self {
        Self {
            private: 1,
            group: 40,
            median: Duration::from_secs(300),
            sigma: 1.6,
            never: 0.1,
        }
    }
}

/// An app that may ask.
#[derive(Clone)]
pub struct App {
    /// `appKey`, or `suiteKey` of a third-party app.
    pub key: String,
    /// `appSecret`, or `suiteSecret`.
    pub secret: String,
    /// What makes it a third-party app.
    pub suite: Option<Suite>,
    /// A code that every query of the app is refused with (a missing permission, a foreign address).
    pub refusal: Option<String>,
    /// Another limit than the sandbox's.
    pub calls_per_second: Option<u32>,
    /// Another limit than the sandbox's.
    pub monthly_calls: Option<u64>,
}

/// The third-party part of an app.
#[derive(Clone)]
pub struct Suite {
    /// The only ticket that is good now.
    pub ticket: String,
    /// Organisations that authorised the app.
    pub corps: Vec<String>,
}

impl App {
    /// An internal app.
    pub fn internal(key: &str, secret: &str) -> Self {
        Self {
            key: key.to_owned(),
            secret: secret.to_owned(),
            suite: None,
            refusal: None,
            calls_per_second: None,
            monthly_calls: None,
        }
    }

    /// A third-party app.
    pub fn third_party(key: &str, secret: &str, ticket: &str, corps: &[&str]) -> Self {
        let corps = corps.iter().map(|corp| (*corp).to_owned()).collect();
        let suite = Some(Suite {
            ticket: ticket.to_owned(),
            corps,
        });
        Self {
            suite,
            ..Self::internal(key, secret)
        }
    }
}

impl fmt::Debug for App {
    /// Without the secret and the ticket.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("key", &self.key)
            .field("corps", &self.suite.as_ref().map(|suite| &suite.corps))
            .field("refusal", &self.refusal)
            .field("calls_per_second", &self.calls_per_second)
            .field("monthly_calls", &self.monthly_calls)
            .finish_non_exhaustive()
    }
}
