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
    /// The code of the last of them.
    trouble: Option<ErrorCode>,
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
            trouble: None,
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

    /// The code of what every call meets, where the endpoint has not answered for long.
    pub(super) fn unreachable(&self) -> Option<&ErrorCode> {
        let trouble = self.trouble.as_ref();
        trouble.filter(|_| self.retries >= RETRIES_TO_PROBE)
    }

    /// The endpoint answered for this lane; true if it was closed or out of reach before.
    pub(super) fn answered(&mut self, at: UnixMs) -> bool {
        let reopened = self.is_closed() || self.unreachable().is_some();
        self.condition = Condition::Open;
        self.retries = 0;
        self.trouble = None;
        self.probes = 0;
        self.proven = true;
        self.last_success_at = Some(at);
        reopened
    }

    /// The endpoint answered, though with a refusal of the message; true as in [`Self::answered`].
    pub(super) fn refused_message(&mut self) -> bool {
        let reopened = self.is_closed() || self.unreachable().is_some();
        self.retries = 0;
        self.trouble = None;
        self.proven = true;
        if self.is_closed() {
            self.condition = Condition::Open;
            self.probes = 0;
        }
        reopened
    }

    /// A *retry* answer; true where so many came in a row that one walk probes for its lane. The pauses between probes
    /// double from `first` to `longest`.
    pub(super) fn trouble(
        &mut self,
        now: Instant,
        first: Duration,
        longest: Duration,
        code: ErrorCode,
    ) -> bool {
        if self.retries >= RETRIES_TO_PROBE && now < self.not_before {
            // Of a call that was under way when the pause began: a hundred of those are no hundred failed probes.
            return false;
        }
        self.retries = self.retries.saturating_add(1);
        self.trouble = Some(code);
        let probes = self.retries >= RETRIES_TO_PROBE;
        if probes {
            let doublings = (self.retries - RETRIES_TO_PROBE).min(20);
            let wait = first.saturating_mul(1 << doublings).min(longest);
            self.not_before = self.not_before.max(now + wait);
        }
        probes
    }

    pub(super) fn throttled(&mut self, now: Instant, window: Duration) {
        // Jitter of up to a quarter of the window keeps the lane from meeting the next window's edge.
        let jitter = window.mul_f64(0.25 * fastrand::f64());
        self.not_before = self.not_before.max(now + window + jitter);
        self.condition = Condition::Throttled;
    }

    pub(super) fn block(&mut self, now: Instant, code: ErrorCode) {
        if matches!(self.condition, Condition::Blocked(_)) && now < self.not_before {
            // Of a call that was under way when the lane was blocked: no failed probe.
            self.condition = Condition::Blocked(code);
            return;
        }
        let wait = FIRST_PROBE
            .saturating_mul(1 << self.probes.min(20))
            .min(LAST_PROBE);
        self.probes = self.probes.saturating_add(1);
        self.not_before = now + wait;
        self.condition = Condition::Blocked(code);
    }

    /// `until_month` is how long the month still lasts.
    pub(super) fn exhaust(&mut self, now: Instant, code: ErrorCode, until_month: Duration) {
        self.not_before = now + until_month.min(QUOTA_PROBE);
        self.condition = Condition::Quota(code);
    }

    /// What an operator changed may have mended it: probe at once.
    pub(super) fn probe_now(&mut self, now: Instant) {
        self.not_before = now;
        self.probes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(30);

    fn code() -> ErrorCode {
        ErrorCode::from("Forbidden.AccessDenied.AccessTokenPermissionDenied")
    }

    /// An outage of a second that met a hundred calls at once stopped the lane for five minutes.
    #[test]
    fn calls_that_fail_together_are_one_failed_probe() {
        let now = Instant::now();
        let mut health = Health::new(now);
        for _ in 0..100 {
            health.trouble(now, FIRST, LONGEST, code());
        }
        assert_eq!(health.not_before, now + FIRST);
        let mut at = now;
        for probe in 1..20 {
            at = health.not_before;
            health.trouble(at, FIRST, LONGEST, code());
            let wait = FIRST.saturating_mul(1 << probe).min(LONGEST);
            assert_eq!(health.not_before, at + wait);
        }
        assert_eq!(health.not_before, at + LONGEST);
    }

    /// A permission that was taken away while a hundred calls were under way was probed for after five minutes.
    #[test]
    fn calls_that_are_refused_together_are_one_failed_probe() {
        let now = Instant::now();
        let mut health = Health::new(now);
        health.block(now, code());
        for _ in 0..100 {
            health.block(now, code());
        }
        assert_eq!(health.not_before, now + FIRST_PROBE);
        health.block(health.not_before, code());
        assert_eq!(health.not_before, now + FIRST_PROBE + 2 * FIRST_PROBE);
    }
}
