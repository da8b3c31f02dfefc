//! All that changes while a sandbox runs, behind one lock that is never held across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::config::{App, SandboxConfig};
use super::faults::FaultPlan;
use super::limits::Window;
use super::log::Log;
use super::mischief::Mischief;
use super::random::{fraction, hash};
use super::script::{Crowd, Script};
use super::tokens::{LaneName, Tokens};
use super::truth::{ReadAt, Truth};
use crate::receipt::{Chat, UnixMs};

/// What every connection shares.
pub(super) struct Shared {
    pub(super) config: SandboxConfig,
    /// Where a redirect leads.
    pub(super) trap: String,
    started: Instant,
    /// The sandbox's wall clock at `started`, and what it was moved by since.
    epoch_ms: AtomicI64,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) apps: Vec<App>,
    pub(super) tokens: Tokens,
    pub(super) token_windows: HashMap<LaneName, Window>,
    pub(super) lanes: HashMap<LaneName, LaneState>,
    pub(super) address: Window,
    pub(super) banned_until: Option<Instant>,
    pub(super) messages: HashMap<Arc<str>, Known>,
    pub(super) faults: Option<FaultPlan>,
    /// Calls of each app's token requests, for the fault plan.
    pub(super) token_turns: HashMap<String, u32>,
    /// An outage on request, and when it ends.
    pub(super) outage: Option<(Instant, Mischief)>,
    pub(super) log: Log,
}

/// A lane's limits.
#[derive(Default)]
pub(super) struct LaneState {
    pub(super) window: Window,
    pub(super) month_calls: u64,
    /// When the month that `month_calls` counts is over.
    pub(super) month_ends: i64,
}

/// A message that the sandbox has heard of.
pub(super) struct Known {
    pub(super) script: Script,
    pub(super) crowd: Crowd,
    pub(super) sent_at: i64,
    /// The fault plan's number of the next call.
    pub(super) calls: u32,
    /// How often each planned mischief has happened.
    pub(super) used: Vec<u32>,
    /// Why the rule in the key cannot be read.
    pub(super) bad_rule: Option<String>,
}

impl Shared {
    pub(super) fn new(config: SandboxConfig, trap: String) -> Self {
        let inner = Inner {
            apps: config.apps.clone(),
            tokens: Tokens::default(),
            token_windows: HashMap::new(),
            lanes: HashMap::new(),
            address: Window::default(),
            banned_until: None,
            messages: HashMap::new(),
            faults: config.faults.clone(),
            token_turns: HashMap::new(),
            outage: None,
            log: Log::new(config.log_capacity),
        };
        let wall = jiff::Timestamp::now().as_millisecond();
        Self {
            trap,
            started: Instant::now(),
            epoch_ms: AtomicI64::new(wall.saturating_add(config.clock_offset_ms)),
            inner: Mutex::new(inner),
            config,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing is left half done by a panic that the next caller could trip over.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sandbox's clock, Unix milliseconds.
    pub(super) fn now_ms(&self) -> i64 {
        let passed = i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.epoch_ms.load(Ordering::Relaxed).saturating_add(passed)
    }

    /// Moves the clock.
    pub(super) fn shift(&self, ms: i64) {
        self.epoch_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// How long a call waits before its answer.
    pub(super) fn latency(&self, seq: u64) -> Duration {
        let (least, most) = self.config.latency;
        least
            + most
                .saturating_sub(least)
                .mul_f64(fraction(hash(self.config.seed, "latency", seq)))
    }

    /// What an outage does to every call now.
    pub(super) fn outage(&self, inner: &mut Inner) -> Option<Mischief> {
        match &inner.outage {
            Some((until, mischief)) if Instant::now() < *until => return Some(mischief.clone()),
            Some(_) => inner.outage = None,
            None => {}
        }
        inner.faults.as_ref()?.outage(self.started.elapsed())
    }

    /// A message's age in message time.
    pub(super) fn age(&self, sent_at: i64) -> Duration {
        let ms = u64::try_from(self.now_ms().saturating_sub(sent_at)).unwrap_or(0);
        let seconds = Duration::from_millis(ms).as_secs_f64() * self.config.time_scale;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// When a message reaches an age, on the sandbox's clock.
    pub(super) fn moment(&self, sent_at: i64, age: Duration) -> i64 {
        let seconds = age.as_secs_f64() / self.config.time_scale;
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        sent_at.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
    }

    /// Makes a message known, as `script` has it.
    pub(super) fn know(&self, key: &str, script: Result<Script, String>, asked: Chat) -> Known {
        let (script, bad_rule) = match script {
            Ok(script) => (script, None),
            Err(why) => (Script::default(), Some(why)),
        };
        let chat = script.chat.unwrap_or(asked);
        Known {
            crowd: script.crowd(self.config.seed, key, chat, &self.config.crowd),
            sent_at: script.sent_at.map_or_else(|| self.now_ms(), |sent| sent.0),
            calls: 0,
            used: vec![0; script.planned.len()],
            script,
            bad_rule,
        }
    }

    pub(super) fn truth(&self, key: &str, known: &Known) -> Truth {
        let script = &known.script;
        let at = |age: Duration| self.moment(known.sent_at, age);
        let read_at = |reader: &super::script::Recipient| {
            let read_at = UnixMs(at(reader.reads_after?));
            Some(ReadAt {
                user_id: reader.user_id.to_string(),
                read_at,
            })
        };
        let status = match script.recalled_after {
            Some(_) => "RECALLED",
            None => script.says.as_deref().unwrap_or("SUCCESS"),
        };
        Truth {
            key: key.to_owned(),
            sent_at: UnixMs(known.sent_at),
            generated_at: UnixMs(at(script.generated_after.unwrap_or_default())),
            recalled_at: script.recalled_after.map(|after| UnixMs(at(after))),
            expires_at: UnixMs(at(self.lifetime(script))),
            final_status: status.to_owned(),
            readers: known.crowd.readers.iter().filter_map(read_at).collect(),
            absent: known
                .crowd
                .absent
                .iter()
                .map(|one| one.user_id.to_string())
                .collect(),
        }
    }

    pub(super) fn lifetime(&self, script: &Script) -> Duration {
        script.expires_after.unwrap_or(self.config.key_lifetime)
    }
}
