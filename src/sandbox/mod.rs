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
//! times as fast as the clock, except those marked (clock).
//!
//! | item | meaning |
//! |---|---|
//! | `readers=N` | recipients |
//! | `median=SPAN`, `sigma=F` | the time to read is log-normal |
//! | `never=SHARE` | share of recipients who never read |
//! | `sent=MS` | when it was sent (Unix milliseconds), else when first asked for |
//! | `generate=SPAN` | until then `processQueryKey.expireTime` |
//! | `processing=SPAN` | until then `PROCESSING` |
//! | `recall=SPAN` | from then on `RECALLED` |
//! | `expire=SPAN` | from then on `processQueryKey.expireTime` |
//! | `say=WORD` | another `sendStatus` than `SUCCESS` |
//! | `chat=private`, `chat=group` | only that endpoint knows it |
//! | `robot=CODE`, `conversation=ID`, `owner=APP` | the question must name it; the asker must be it |
//! | `latency=SPAN` | every answer is late (clock) |
//!
//! What goes wrong takes `@P`, only on page P of a walk, and `*N`, only the first N times; without, always. Of several
//! the first that applies happens, so `code=system.error*3,html*2` is three of one, then two of the other.
//!
//! | item | meaning |
//! |---|---|
//! | `code=CODE`, `code=CODE/STATUS` | an error, with its own HTTP status or another (also `code=CODE,status=STATUS`) |
//! | `pascal=CODE` | an error whose body says `Code`, `RequestId`, `Message` |
//! | `throttle` | too many calls in a second |
//! | `drop=before`, `drop=after-head`, `drop=mid-body` | the connection ends there |
//! | `hang=SPAN` | no answer for so long, then the connection ends (clock) |
//! | `slow=SPAN` | the body takes so long (clock) |
//! | `truncate`, `huge`, `endless` | half the body; 2 MiB; no end |
//! | `html`, `html-ok` | HTML with 503; with 200 |
//! | `empty-object`, `empty-body`, `errcode404`, `banned` | failures in a 200 |
//! | `redirect` | 302 to another port |
//! | `dead-token`, `bare401` | the token ends; a 401 without a code |
//! | `page=repeat`, `page=no-token`, `page=empty` | the same token again; `hasMore` without one; no readers |
//! | `page=bad-cursor`, `page=too-large` | the refusals of a cursor and of a page size |
//! | `fields=null`, `fields=missing`, `fields=no-status`, `fields=wrong`, `fields=extra` | odd shapes |
//!
//! A [`FaultPlan`] throws the same at every key, at rates, by a seed.
//!
//! # Other processes
//!
//! All JSON, and only for who may reach the address; what a body leaves out stays as it is.
//!
//! | call | body or answer |
//! |---|---|
//! | `PUT /sandbox/messages` | `{"key", "chat", "sentAt", "rule", "readers": [{"userId", "afterMs"}]}`, or a list of them |
//! | `GET /sandbox/truth?key=` | a list of [`Truth`] |
//! | `GET /sandbox/log?after=SEQ&key=` | a list of [`Call`] |
//! | `GET /sandbox/violations` | a list of [`Violation`] |
//! | `GET /sandbox/counts` | [`Counts`] |
//! | `POST /sandbox/faults` | `{"seed", "rates": {"html": 0.01}, "inARow", "tokensToo", "outages": {"every", "length"}}`, or `null` |
//! | `POST /sandbox/outage` | `{"for": "5s", "kind": "html"}` |
//! | `POST /sandbox/accounts` | `{"key", "secret", "ticket", "corps", "refusal", "callsPerSecond", "monthlyCalls"}` |
//! | `POST /sandbox/tokens/revoke` | `{"app"}`, or nothing for all |
//! | `POST /sandbox/clock` | `{"advanceMs"}` |

mod admin;
mod bodies;
mod codes;
mod config;
mod faults;
mod grants;
mod limits;
mod log;
mod mischief;
mod pages;
mod paging;
mod query;
mod random;
mod reply;
mod request;
mod script;
mod server;
mod state;
mod tokens;
mod truth;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use codes::{CODES, Code};
pub use config::{App, CrowdRules, SandboxConfig, Suite};
pub use faults::{FaultPlan, Outages};
pub use log::{Call, Counts, Violation};
pub use mischief::Mischief;
pub use script::{Planned, Recipient, Script};
pub use truth::{ReadAt, Truth};

use server::{Door, serve};
use state::Shared;

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
        let lure = format!("http://{}/elsewhere", trap.local_addr()?);
        let shared = Arc::new(Shared::new(config, lure));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        for (listener, door) in [(listener, Door::Endpoint), (trap, Door::Trap)] {
            let shared = Arc::clone(&shared);
            tasks.spawn(serve(listener, door, shared, stop.clone(), tasks.clone()));
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
        admin::publish(&self.shared, &mut self.shared.lock(), key, script);
    }

    /// What really happens to a message; `None` for a key that was neither published nor asked for.
    pub fn truth(&self, key: &str) -> Option<Truth> {
        let inner = self.shared.lock();
        inner
            .messages
            .get(key)
            .map(|known| self.shared.truth(key, known))
    }

    /// The truth about every message, in no order.
    pub fn truths(&self) -> Vec<Truth> {
        let inner = self.shared.lock();
        inner
            .messages
            .iter()
            .map(|(key, known)| self.shared.truth(key, known))
            .collect()
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
    pub fn now(&self) -> crate::receipt::UnixMs {
        crate::receipt::UnixMs(self.shared.now_ms())
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

    /// Everything fails in one way for so long.
    pub fn outage(&self, how: Mischief, length: Duration) {
        let now = Instant::now();
        // A century is for ever, and fits into an Instant.
        let until = now
            .checked_add(length)
            .unwrap_or_else(|| now + Duration::from_secs(3_155_760_000));
        self.shared.lock().outage = Some((until, how));
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
