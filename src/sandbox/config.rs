//! How a sandbox is set up.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use super::faults::FaultPlan;
use super::script::Script;

/// A sandbox's setting. The default listens on a free port of 127.0.0.1, knows the app `sandbox` with the secret
/// `sandbox`, limits nothing and makes no mistakes.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Where to listen; port 0: a free one.
    pub listen: SocketAddr,
    /// Decides crowds, faults and the small liberties that an answer may take.
    pub seed: u64,
    /// The apps that may ask.
    pub apps: Vec<App>,
    /// How long a token lives.
    pub token_life: Duration,
    /// Calls an app may make in any one second for one organisation; 0: any number. The vendor's standard edition: 20.
    pub calls_per_second: u32,
    /// Metered calls an app may make in a calendar month for one organisation; 0: any number.
    pub monthly_calls: u64,
    /// How much faster messages live than the clock: 60 makes a day of 24 minutes.
    pub time_scale: f64,
    /// What becomes of a message whose key does not say it.
    pub usual: Script,
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
            calls_per_second: 0,
            monthly_calls: 0,
            time_scale: 1.0,
            usual: Script::default(),
            faults: None,
            log_capacity: 100_000,
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
        }
    }

    /// A third-party app.
    pub fn third_party(key: &str, secret: &str, ticket: &str, corps: &[&str]) -> Self {
        let suite = Suite {
            ticket: ticket.to_owned(),
            corps: corps.iter().map(|corp| (*corp).to_owned()).collect(),
        };
        Self {
            suite: Some(suite),
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
            .finish_non_exhaustive()
    }
}
