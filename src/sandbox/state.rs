//! All that changes while a sandbox runs, behind one lock that is never held across an await.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::config::{App, SandboxConfig};
use super::faults::{FaultPlan, Mischief};
use super::log::Log;
use super::script::{Crowd, DAY, Recipient, Script};
use super::tokens::Tokens;
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
    /// By `appKey`, or `suiteKey/corpId`: whose calls are counted together.
    pub(super) callers: HashMap<String, Caller>,
    pub(super) messages: HashMap<String, Known>,
    pub(super) faults: Option<FaultPlan>,
    /// Calls of each app's token requests, for the fault plan.
    pub(super) token_turns: HashMap<String, u32>,
    pub(super) log: Log,
}

/// What a caller has used of its limits.
#[derive(Default)]
pub(super) struct Caller {
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
}

impl Known {
    /// `sendStatus` and who has read it at an age.
    pub(super) fn at(&self, age: Duration) -> (&'static str, &[Recipient]) {
        let readers = self.crowd.read_at(age);
        match self.script.recalled_after {
            Some(recall) if age >= recall => ("RECALLED", readers),
            _ if age < self.script.delivered_after => ("PROCESSING", &[]),
            _ => ("SUCCESS", readers),
        }
    }
}

impl Shared {
    pub(super) fn new(config: SandboxConfig, trap: String) -> Self {
        let inner = Inner {
            apps: config.apps.clone(),
            tokens: Tokens::default(),
            callers: HashMap::new(),
            messages: HashMap::new(),
            faults: config.faults.clone(),
            token_turns: HashMap::new(),
            log: Log::new(config.log_capacity),
        };
        Self {
            trap,
            started: Instant::now(),
            epoch_ms: AtomicI64::new(jiff::Timestamp::now().as_millisecond()),
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

    /// What an outage does to every call now.
    pub(super) fn outage(&self, inner: &Inner) -> Option<Mischief> {
        inner.faults.as_ref()?.outage(self.started.elapsed())
    }

    /// A message's age in message time.
    pub(super) fn age(&self, sent_at: i64) -> Duration {
        self.message_time(self.now_ms().saturating_sub(sent_at))
    }

    /// The time of day in message time: a day passes `time_scale` times as fast as on the clock.
    pub(super) fn time_of_day(&self, at: i64) -> Duration {
        let seconds = self.message_time(at).as_secs_f64() % DAY.as_secs_f64();
        Duration::from_secs_f64(seconds)
    }

    /// What milliseconds of the clock are in message time.
    fn message_time(&self, ms: i64) -> Duration {
        let ms = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        let seconds = ms.as_secs_f64() * self.config.time_scale;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// When a message reaches an age, on the sandbox's clock.
    pub(super) fn moment(&self, sent_at: i64, age: Duration) -> i64 {
        let seconds = age.as_secs_f64() / self.config.time_scale;
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        sent_at.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
    }

    /// Makes a message known, as `script` has it, in place of what was known of its key.
    pub(super) fn publish(&self, inner: &mut Inner, key: &str, script: Script, asked: Chat) {
        let chat = script.chat.unwrap_or(asked);
        let sent_at = script.sent_at.map_or_else(|| self.now_ms(), |sent| sent.0);
        let known = Known {
            crowd: script.crowd(self.config.seed, key, chat, self.time_of_day(sent_at)),
            sent_at,
            calls: 0,
            used: vec![0; script.planned.len()],
            script,
        };
        inner.messages.insert(key.to_owned(), known);
    }

    pub(super) fn truth(&self, key: &str, known: &Known) -> Truth {
        let script = &known.script;
        let at = |age: Duration| UnixMs(self.moment(known.sent_at, age));
        let read_at = |reader: &Recipient| {
            Some(ReadAt {
                user_id: reader.user_id.to_string(),
                read_at: at(reader.reads_after?),
            })
        };
        let absent = known.crowd.absent.iter();
        Truth {
            key: key.to_owned(),
            sent_at: UnixMs(known.sent_at),
            recalled_at: script.recalled_after.map(at),
            expires_at: at(script.expires_after),
            readers: known.crowd.readers.iter().filter_map(read_at).collect(),
            absent: absent.map(|one| one.user_id.to_string()).collect(),
        }
    }
}

/// A message's whole life, past and to come, for a test to compare with. Times are of the sandbox's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Truth {
    /// `processQueryKey`
    pub key: String,
    /// When it was sent.
    pub sent_at: UnixMs,
    /// From then on it is `RECALLED`.
    pub recalled_at: Option<UnixMs>,
    /// From then on the key is not answered any more; later reads are never told.
    pub expires_at: UnixMs,
    /// Who reads it and when, in that order; nobody reads after a recall.
    pub readers: Vec<ReadAt>,
    /// Recipients who never read it.
    pub absent: Vec<String>,
}

/// A reader.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadAt {
    /// `userId`
    pub user_id: String,
    /// When.
    pub read_at: UnixMs,
}

impl Truth {
    /// Who can be known to have read it: reads before the key expires.
    pub fn knowable(&self) -> impl Iterator<Item = &ReadAt> {
        let readers = self.readers.iter();
        readers.filter(|reader| reader.read_at < self.expires_at)
    }
}

/// At most so many calls in any second.
#[derive(Default)]
pub(super) struct Window(VecDeque<Instant>);

impl Window {
    /// Whether one more call fits; a call that does not is not counted, so a caller who slows down recovers.
    pub(super) fn admit(&mut self, now: Instant, limit: u32) -> bool {
        let is_old = |call: &Instant| now.duration_since(*call) >= Duration::from_secs(1);
        while self.0.front().is_some_and(is_old) {
            self.0.pop_front();
        }
        let fits = limit == 0 || self.0.len() < usize::try_from(limit).unwrap_or(usize::MAX);
        if fits && limit > 0 {
            self.0.push_back(now);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let start = Instant::now();
        let mut window = Window::default();
        let mut admit = |ms| window.admit(start + Duration::from_millis(ms), 2);
        assert!(admit(0) && admit(600));
        // A window that starts anew each second would let this one pass at 1000 and the next at 1001.
        assert!(!admit(999));
        assert!(admit(1_000));
        assert!(!admit(1_001) && !admit(1_599));
        assert!(admit(1_600));
    }
}
