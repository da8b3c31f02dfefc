//! How a lane fares: open, pausing, blocked. Pure but for the moments that are handed in.

use std::time::Duration;

use tokio::time::Instant;

use crate::receipt::{ErrorCode, UnixMs};

/// Why a lane may not call just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It may.
    Open,
    /// It waits a window out.
    Throttled,
    /// An operator must act; one key probes now and then.
    Blocked(ErrorCode),
    /// The month's calls are used up, by the vendor's count or by the operator's budget.
    Quota(ErrorCode),
}

/// A lane's condition and what is known of its past answers.
#[derive(Debug)]
pub(super) struct Health {
    pub(super) condition: Condition,
    /// No call before.
    pub(super) not_before: Instant,
    /// *Retry* answers in a row.
    retries: u32,
    /// Probes that failed in a row.
    probes: u32,
    /// Whether any call was ever answered: until then one walk goes first.
    proven: bool,
    pub(super) last_success_at: Option<UnixMs>,
}

/// After so many *retry* answers in a row one walk probes and the rest wait.
const RETRIES_TO_PROBE: u32 = 10;
/// A blocked lane probes after so long, doubling …
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// … to so long.
const LAST_PROBE: Duration = Duration::from_secs(300);
/// An upgrade of the organisation works at once, so a used-up quota is probed now and then.
const QUOTA_PROBE: Duration = Duration::from_secs(3600);

impl Health {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            condition: Condition::Open,
            not_before: now,
            retries: 0,
            probes: 0,
            proven: false,
            last_success_at: None,
        }
    }

    /// Whether calls must go out one at a time.
    pub(super) fn is_probing(&self) -> bool {
        !self.proven || self.retries >= RETRIES_TO_PROBE || self.is_closed()
    }

    /// Whether an operator, or a new month, must open it.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.condition, Condition::Blocked(_) | Condition::Quota(_))
    }

    /// The endpoint answered for this lane; true if it was closed before.
    pub(super) fn answered(&mut self, at: UnixMs) -> bool {
        let reopened = self.is_closed();
        self.condition = Condition::Open;
        self.retries = 0;
        self.probes = 0;
        self.proven = true;
        self.last_success_at = Some(at);
        reopened
    }

    /// The endpoint answered, though with a refusal of the message.
    pub(super) fn refused_message(&mut self) {
        self.retries = 0;
        self.proven = true;
        if self.is_closed() {
            self.condition = Condition::Open;
            self.probes = 0;
        }
    }

    pub(super) fn trouble(&mut self, now: Instant, first: Duration) {
        self.retries = self.retries.saturating_add(1);
        if self.retries >= RETRIES_TO_PROBE {
            let doublings = (self.retries - RETRIES_TO_PROBE).min(20);
            let wait = first.saturating_mul(1 << doublings).min(LAST_PROBE);
            self.not_before = self.not_before.max(now + wait);
        }
    }

    pub(super) fn throttled(&mut self, now: Instant, window: Duration) {
        // Jitter of up to a quarter of the window keeps the lane from meeting the next window's edge.
        let jitter = window.mul_f64(0.25 * fastrand::f64());
        self.not_before = self.not_before.max(now + window + jitter);
        self.condition = Condition::Throttled;
    }

    /// True if it was open before.
    pub(super) fn block(&mut self, now: Instant, code: ErrorCode) -> bool {
        let news = self.condition != Condition::Blocked(code.clone());
        let wait = FIRST_PROBE
            .saturating_mul(1 << self.probes.min(20))
            .min(LAST_PROBE);
        self.probes = self.probes.saturating_add(1);
        self.not_before = now + wait;
        self.condition = Condition::Blocked(code);
        news
    }

    /// True if it was open before. `until_month` is how long the month still lasts.
    pub(super) fn exhaust(&mut self, now: Instant, code: ErrorCode, until_month: Duration) -> bool {
        let news = self.condition != Condition::Quota(code.clone());
        self.not_before = now + until_month.min(QUOTA_PROBE);
        self.condition = Condition::Quota(code);
        news
    }

    /// What an operator changed may have mended it: probe at once.
    pub(super) fn probe_now(&mut self, now: Instant) {
        self.not_before = now;
        self.probes = 0;
    }
}
