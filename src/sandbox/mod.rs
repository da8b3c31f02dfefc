//! An imitation of DingTalk's endpoint, for the demo, the tests, and whoever writes a feeder without an account.
//!
//! It answers as the vendor does, byte for byte where that is known, and goes wrong on request. It also judges its
//! client: whatever the interface would not allow is answered as the vendor would *and* noted as a [`Violation`].
//!
//! # Messages
//!
//! A message is laid down beforehand ([`Sandbox::publish`], `PUT /sandbox/messages`), or is made up when its key is
//! first asked for: its crowd then follows from the seed and the key alone. A key may carry a rule of its own, between
//! `sb:` and the first `;`; what follows makes it unique:
//!
//! ```text
//! sb:readers=350,recall=5s,code=system.error@2*3;my-message-17
//! ```
//!
//! Items are separated by commas. Spans read like `5s`, `2m`, `24h`, count from the sending, and run `time_scale`
//! times as fast as the clock, except those marked (clock). What a key does not say is as [`SandboxConfig::usual`] has it.
//!
//! | item | meaning |
//! |---|---|
//! | `readers=N` | recipients |
//! | `median=SPAN`, `sigma=F` | the time to read is log-normal |
//! | `never=SHARE` | share of recipients who never read |
//! | `night=14-24` | hours of the day (UTC) in which nobody reads; who would have, does soon after |
//! | `sent=MS` | when it was sent (Unix milliseconds), else when first asked for |
//! | `generate=SPAN` | until then `processQueryKey.expireTime` |
//! | `processing=SPAN` | until then `PROCESSING` |
//! | `recall=SPAN` | from then on `RECALLED` |
//! | `expire=SPAN` | from then on `processQueryKey.expireTime` |
//! | `read_unit=s`, `ms`, `zero`, `absent` | how `readStatus` tells when somebody read |
//! | `latency=SPAN` | every answer is late (clock) |
//!
//! What goes wrong takes `@P`, only on page P of a walk, and `*N`, only the first N times; without, always. Of several
//! the first that applies happens, so `code=system.error*3,html*2` is three of one, then two of the other.
//!
//! | item | meaning |
//! |---|---|
//! | `code=CODE`, `code=CODE/STATUS` | an error, with its own HTTP status or another |
//! | `throttle`, `page=bad-cursor` | short for two codes: too many calls in a second, a cursor that is refused |
//! | `drop=before`, `drop=after-head`, `drop=mid-body` | the connection ends there |
//! | `hang=SPAN` | no answer for so long, then the connection ends (clock) |
//! | `slow=SPAN` | the body takes so long (clock) |
//! | `truncate`, `huge`, `endless` | half the body; 2 MiB; no end |
//! | `html`, `html-ok` | HTML with 503; with 200 |
//! | `empty-object`, `empty-body`, `errcode404`, `banned` | failures in a 200 |
//! | `redirect` | 302 to another port |
//! | `dead-token`, `bare401` | the token ends; a 401 without a code |
//! | `page=repeat`, `page=no-token` | the same token again; `hasMore` without one |
//! | `fields=null`, `fields=no-status` | a page without what makes it one |
//!
//! A [`FaultPlan`] throws the same at every key, at rates, by a seed.
//!
//! # Other processes
//!
//! All JSON, and only for who may reach the address.
//!
//! | call | body or answer |
//! |---|---|
//! | `PUT /sandbox/messages` | `{"key", "chat", "sentAt", "rule", "readers": [{"userId", "afterMs"}]}`, or a list of them: sent now, unless it says when |
//! | `GET /sandbox/truth` | a list of [`Truth`] |
//! | `GET /sandbox/log` | a list of [`Call`] |
//! | `GET /sandbox/violations` | a list of [`Violation`] |
//! | `GET /sandbox/counts` | [`Counts`] |

mod codes;
mod config;
mod control;
mod endpoint;
mod faults;
mod http;
mod log;
mod pages;
mod random;
mod script;
mod state;
mod tokens;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use codes::{CODES, Code};
pub use config::{App, SandboxConfig, Suite};
pub use faults::{Canned, FaultPlan, Mischief, Outages};
pub use log::{Call, Counts, Violation};
pub use script::{Night, Planned, ReadUnit, Recipient, Script};
pub use state::{ReadAt, Truth};

use http::serve;
use state::Shared;

use crate::receipt::{Chat, UnixMs};

/// A running sandbox. Dropping it stops it; [`Sandbox::stop`] also waits.
pub struct Sandbox {
    shared: Arc<Shared>,
    addr: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop_on_drop: DropGuard,
}

impl Sandbox {
    /// Listens and serves. An error means that the address cannot be had, or that `time_scale` is no sensible number.
    pub async fn start(config: SandboxConfig) -> io::Result<Self> {
        if !(config.time_scale > 0.0 && config.time_scale <= 1e6) {
            let what = format!(
                "time_scale {} must lie above 0 and up to 1000000",
                config.time_scale
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let listener = TcpListener::bind(config.listen).await?;
        let addr = listener.local_addr()?;
        let trap = TcpListener::bind(SocketAddr::new(addr.ip(), 0)).await?;
        let elsewhere = format!("http://{}/elsewhere", trap.local_addr()?);
        let shared = Arc::new(Shared::new(config, elsewhere));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        for (listener, is_trap) in [(listener, false), (trap, true)] {
            let shared = Arc::clone(&shared);
            tasks.spawn(serve(
                listener,
                is_trap,
                shared,
                stop.clone(),
                tasks.clone(),
            ));
        }
        tasks.close();
        let _stop_on_drop = stop.clone().drop_guard();
        Ok(Self {
            shared,
            addr,
            stop,
            tasks,
            _stop_on_drop,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What belongs into `[endpoint] base_url`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Ends every connection and waits until all is gone.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }

    /// Lays a message down, in place of what was known of its key. It is sent now unless the script says when.
    pub fn publish(&self, key: &str, script: Script) {
        let mut inner = self.shared.lock();
        self.shared.publish(&mut inner, key, script, Chat::Private);
    }

    /// What really happens to a message; `None` for a key that was neither published nor asked for.
    pub fn truth(&self, key: &str) -> Option<Truth> {
        let inner = self.shared.lock();
        inner
            .messages
            .get(key)
            .map(|known| self.shared.truth(key, known))
    }

    /// The remembered calls after a number (0: all), oldest first.
    pub fn calls_after(&self, seq: u64) -> Vec<Call> {
        self.shared.lock().log.after(seq).cloned().collect()
    }

    /// What the client did that the interface does not allow.
    pub fn violations(&self) -> Vec<Violation> {
        self.shared.lock().log.violations().to_vec()
    }

    /// Counts since the start.
    pub fn counts(&self) -> Counts {
        self.shared.lock().log.counts
    }

    /// The sandbox's clock.
    pub fn now(&self) -> UnixMs {
        UnixMs(self.shared.now_ms())
    }

    /// The time of day (UTC) in message time, by which a [`Night`] goes.
    pub fn time_of_day(&self) -> Duration {
        self.shared.time_of_day(self.shared.now_ms())
    }

    /// Moves the sandbox's clock forwards: tokens end and messages age.
    pub fn advance(&self, by: Duration) {
        self.shared
            .shift(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
    }

    /// Other random faults, or none, from the next call on.
    pub fn set_faults(&self, plan: Option<FaultPlan>) {
        self.shared.lock().faults = plan;
    }

    /// Changes an app that is known by its key; whether there is one.
    pub fn change_app(&self, key: &str, change: impl FnOnce(&mut App)) -> bool {
        let mut inner = self.shared.lock();
        let app = inner.apps.iter_mut().find(|app| app.key == key);
        app.map(change).is_some()
    }

    /// Adds an app.
    pub fn add_app(&self, app: App) {
        self.shared.lock().apps.push(app);
    }

    /// Every token that was ever given out, for whoever looks where they have got to.
    pub fn tokens(&self) -> Vec<String> {
        let inner = self.shared.lock();
        inner.tokens.all().map(str::to_owned).collect()
    }

    /// Ends every token of an app, or all; how many were alive.
    pub fn revoke_tokens(&self, app: Option<&str>) -> usize {
        let now = self.shared.now_ms();
        self.shared.lock().tokens.end_all(app, now)
    }
}
