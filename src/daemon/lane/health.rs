//! Whether a lane may call: open, throttled, or closed but for one probe at a time. Pure but for the moments that are handed
//! in.
//!
//! A key that always fails is that key's trouble. Whether the *endpoint* is in trouble is judged by rows without a former
//! error, each once a walk: [`FAILURES_TO_CLOSE`] of them fail with no answer between. One answer ends it.

use std::time::Duration;

use tokio::time::Instant;

use crate::receipt::{ErrorCode, UnixMs};
use crate::settings::Retry;

/// So many walks of rows without a former error fail with no answer between: then it is the endpoint and not the keys.
const FAILURES_TO_CLOSE: u32 = 10;
/// Probes lie apart by this part of the time that the trouble has lasted.
const PROBE_SHARE: u32 = 8;
/// The longest time between two probes.
const LONGEST_PROBE: Duration = Duration::from_secs(300);
/// A blocked lane probes after this, doubling to [`LONGEST_PROBE`].
const FIRST_PROBE: Duration = Duration::from_secs(1);
/// An upgrade of the organisation works at once, so a used-up quota is probed now and then.
const QUOTA_PROBE: Duration = Duration::from_secs(3600);

/// Why a lane is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Why {
    /// The endpoint does not answer.
    Trouble,
    /// An operator must act.
    Blocked,
    /// The organisation's calls of the month are used up, by the vendor's count.
    Quota,
}

/// A lane that may not call, but for one probe at a time.
#[derive(Clone, Debug)]
pub(in crate::daemon) struct Closed {
    pub(in crate::daemon) why: Why,
    /// The last code that kept it closed.
    pub(in crate::daemon) code: ErrorCode,
    since: Instant,
    /// Probes that were refused in a row.
    refused: u32,
    /// No probe before.
    pub(in crate::daemon) probe_at: Instant,
    /// A probe is under way.
    probing: bool,
}

/// Whether a call may go out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::daemon) enum Leave {
    /// It may.
    Open,
    /// After the throttled window.
    At(Instant),
    /// As the one probe, from then on.
    Probe(Instant),
    /// The lane is closed, and its probe is under way.
    Closed,
}

/// Rows whose last walk failed. They go one at a time while none of them was answered lately, and never delay others.
#[derive(Debug)]
struct Failing {
    /// Since when none was answered.
    since: Instant,
    answered_at: Option<Instant>,
    next_at: Instant,
}

/// What is known of a lane's answers.
#[derive(Debug)]
pub(in crate::daemon) struct Health {
    closed: Option<Closed>,
    throttled_until: Instant,
    /// Walks of rows without a former error that failed with no answer between.
    failures: u32,
    /// How often the lane was closed: an answer to a call from before does not open it.
    closings: u64,
    /// When trouble ended last.
    recovered_at: Option<Instant>,
    failing: Failing,
    pub(in crate::daemon) last_success_at: Option<UnixMs>,
}

impl Failing {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            answered_at: None,
            next_at: now,
        }
    }
}

impl Health {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            closed: None,
            throttled_until: now,
            failures: 0,
            closings: 0,
            recovered_at: None,
            failing: Failing::new(now),
            last_success_at: None,
        }
    }

    /// Why the lane is closed, if it is.
    pub(in crate::daemon) fn closed(&self) -> Option<&Closed> {
        self.closed.as_ref()
    }

    /// Whether the endpoint does not answer.
    pub(in crate::daemon) fn is_in_trouble(&self) -> bool {
        self.closed()
            .is_some_and(|closed| closed.why == Why::Trouble)
    }

    /// Whether it waits a throttled window out.
    pub(in crate::daemon) fn is_throttled(&self, now: Instant) -> bool {
        now < self.throttled_until
    }

    /// How often it was closed so far; a call carries the number of its time.
    pub(super) fn closings(&self) -> u64 {
        self.closings
    }

    pub(in crate::daemon) fn leave(&self, now: Instant) -> Leave {
        match &self.closed {
            Some(closed) if closed.probing => Leave::Closed,
            Some(closed) => Leave::Probe(closed.probe_at.max(self.throttled_until)),
            None if now < self.throttled_until => Leave::At(self.throttled_until),
            None => Leave::Open,
        }
    }

    /// Makes the caller's call the lane's one probe. False where the lane is open, or another probes, or it is too early.
    pub(super) fn begin_probe(&mut self, now: Instant) -> bool {
        let due = matches!(self.leave(now), Leave::Probe(at) if at <= now);
        if let Some(closed) = self.closed.as_mut().filter(|_| due) {
            closed.probing = true;
        }
        due
    }

    /// The probe is over, whatever came of it.
    pub(super) fn end_probe(&mut self) {
        if let Some(closed) = &mut self.closed {
            closed.probing = false;
        }
    }

    /// The endpoint answered a call that went out after so many `closings`, at the time of day `success_at` where it was
    /// no refusal; true where that opened the lane.
    pub(super) fn answered(
        &mut self,
        now: Instant,
        closings: u64,
        success_at: Option<UnixMs>,
    ) -> bool {
        self.failures = 0;
        self.last_success_at = success_at.or(self.last_success_at);
        let Some(closed) = &self.closed else {
            return false;
        };
        if closed.why != Why::Trouble && closings < self.closings {
            return false;
        }
        if closed.why == Why::Trouble {
            self.recovered_at = Some(now);
            self.failing = Failing::new(now);
        }
        self.closed = None;
        true
    }

    /// A call met upstream trouble. `evidence`: it is the first of its walk, of a row without a former error. True where
    /// the lane is closed by it now, or was a probe of a closed one.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        closings: u64,
        evidence: bool,
        retry: &Retry,
        code: &ErrorCode,
    ) -> bool {
        if let Some(closed) = &mut self.closed {
            if closings < self.closings {
                // It was under way when the lane was closed: a hundred of those are no hundred failed probes.
                return false;
            }
            closed.code = code.clone();
            closed.probe_at = now + probe_distance(now - closed.since, retry);
            return true;
        }
        self.failures += u32::from(evidence);
        if self.failures < FAILURES_TO_CLOSE {
            return false;
        }
        let probe_at = now + probe_distance(Duration::ZERO, retry);
        self.close(now, Why::Trouble, code, probe_at);
        true
    }

    pub(super) fn throttled(&mut self, now: Instant, window: Duration) {
        // Jitter of up to a quarter of the window keeps the lane from meeting the next window's edge.
        let jitter = window.mul_f64(0.25 * fastrand::f64());
        self.throttled_until = self.throttled_until.max(now + window + jitter);
    }

    /// The account is refused.
    pub(super) fn block(&mut self, now: Instant, closings: u64, code: &ErrorCode) {
        match &mut self.closed {
            Some(closed) if closed.why == Why::Blocked => {
                closed.code = code.clone();
                // Of a call that was under way when the lane was blocked: no refused probe.
                if closings == self.closings {
                    closed.refused = closed.refused.saturating_add(1);
                    let wait = FIRST_PROBE.saturating_mul(1 << closed.refused.min(20));
                    closed.probe_at = now + wait.min(LONGEST_PROBE);
                }
            }
            _ => self.close(now, Why::Blocked, code, now + FIRST_PROBE),
        }
    }

    /// The month's calls are used up; `left` is how long the month still lasts.
    pub(super) fn exhaust(&mut self, now: Instant, code: &ErrorCode, left: Duration) {
        self.close(now, Why::Quota, code, now + left.min(QUOTA_PROBE));
    }

    fn close(&mut self, now: Instant, why: Why, code: &ErrorCode, probe_at: Instant) {
        let same = self.closed.take().filter(|closed| closed.why == why);
        self.closings += u64::from(same.is_none());
        self.failures = 0;
        self.closed = Some(Closed {
            why,
            code: code.clone(),
            since: same.as_ref().map_or(now, |closed| closed.since),
            refused: 0,
            probe_at,
            probing: same.is_some_and(|closed| closed.probing),
        });
    }

    /// What an operator changed may have mended it: probe at once.
    pub(super) fn probe_now(&mut self, now: Instant) {
        if let Some(closed) = &mut self.closed {
            closed.probe_at = now;
            closed.refused = 0;
        }
    }

    /// Whether trouble ended less than `max_elapsed_time` ago: many keys that fail may stand before the others then.
    pub(in crate::daemon) fn is_recovering(&self, now: Instant, retry: &Retry) -> bool {
        self.recovered_at
            .is_some_and(|at| now - at < retry.max_elapsed_time)
    }

    /// From when on the next of the failing rows may go, one at a time; `None`: they go as others do, since one of them was
    /// answered lately.
    pub(in crate::daemon) fn failing_from(&self, now: Instant, retry: &Retry) -> Option<Instant> {
        let loose = self
            .failing
            .answered_at
            .is_some_and(|at| now - at < retry.max_elapsed_time);
        (!loose).then_some(self.failing.next_at)
    }

    pub(super) fn failing_answered(&mut self, now: Instant) {
        self.failing.answered_at = Some(now);
        self.failing.since = now;
    }

    pub(super) fn failing_failed(&mut self, now: Instant, retry: &Retry) {
        if now - self.failing.next_at > LONGEST_PROBE {
            // They did not fail for long: it is not the same trouble.
            self.failing.since = now;
        }
        self.failing.next_at = now + probe_distance(now - self.failing.since, retry);
    }
}

/// How far the next probe lies where the trouble has lasted for `lasted`. It follows from that and not from how many failed:
/// a crowd of failing keys is gone through as quickly as one.
fn probe_distance(lasted: Duration, retry: &Retry) -> Duration {
    let first = retry.initial_interval.min(LONGEST_PROBE);
    (lasted / PROBE_SHARE).clamp(first, LONGEST_PROBE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn retry() -> Retry {
        Retry {
            initial_interval: Duration::from_millis(500),
            multiplier: 2.0,
            randomization_factor: 0.5,
            max_interval: Duration::from_secs(30),
            max_elapsed_time: Duration::from_secs(120),
        }
    }

    fn code() -> ErrorCode {
        ErrorCode::from("system.error")
    }

    fn in_trouble(now: Instant) -> Health {
        let mut health = Health::new(now);
        for _ in 0..FAILURES_TO_CLOSE {
            health.failed(now, 0, true, &retry(), &code());
        }
        assert!(health.closed().is_some());
        health
    }

    #[test]
    fn retries_and_rows_with_a_former_error_are_no_evidence() {
        let now = Instant::now();
        let mut health = Health::new(now);
        for _ in 0..1000 {
            assert!(!health.failed(now, 0, false, &retry(), &code()));
        }
        for _ in 1..FAILURES_TO_CLOSE {
            assert!(!health.failed(now, 0, true, &retry(), &code()));
        }
        // An answer between: it begins anew.
        health.answered(now, 0, None);
        assert!(!health.failed(now, 0, true, &retry(), &code()));
        assert_eq!(health.leave(now), Leave::Open);
    }

    /// An outage of a second that met a hundred calls at once stopped the lane for five minutes.
    #[test]
    fn calls_that_fail_together_are_one_failed_probe() {
        let now = Instant::now();
        let mut health = in_trouble(now);
        for _ in 0..100 {
            health.failed(now + SECOND, 0, true, &retry(), &code());
        }
        let first = now + retry().initial_interval;
        assert_eq!(health.leave(now), Leave::Probe(first));
    }

    /// A day of trouble costs a probe each five minutes, and few more at its start.
    #[test]
    fn probes_lie_apart_by_how_long_the_trouble_lasts() {
        let start = Instant::now();
        let mut health = in_trouble(start);
        let (mut probes, mut now) = (0, start);
        while now < start + 86_400 * SECOND {
            let Leave::Probe(at) = health.leave(now) else {
                panic!("no probe: {:?}", health.leave(now));
            };
            now = at;
            assert!(health.begin_probe(now));
            assert!(!health.begin_probe(now), "one at a time");
            health.failed(now, health.closings(), true, &retry(), &code());
            health.end_probe();
            probes += 1;
        }
        assert!((300..350).contains(&probes), "{probes}");
        assert!(health.answered(now, health.closings(), None));
        assert_eq!(health.leave(now), Leave::Open);
        assert!(health.is_recovering(now + SECOND, &retry()));
        assert!(!health.is_recovering(now + 121 * SECOND, &retry()));
    }

    /// A permission that was taken away while a hundred calls were under way was probed for after five minutes.
    #[test]
    fn calls_that_are_refused_together_are_one_refused_probe() {
        let now = Instant::now();
        let mut health = Health::new(now);
        for _ in 0..101 {
            health.block(now, 0, &code());
        }
        assert_eq!(health.leave(now), Leave::Probe(now + FIRST_PROBE));
        let later = now + FIRST_PROBE;
        health.block(later, health.closings(), &code());
        assert_eq!(health.leave(later), Leave::Probe(later + 2 * FIRST_PROBE));
        for _ in 0..20 {
            health.block(later, health.closings(), &code());
        }
        assert_eq!(health.leave(later), Leave::Probe(later + LONGEST_PROBE));
    }

    /// A page that was under way when the quota ran out opened the lane, which then called nobody for an hour.
    #[test]
    fn an_answer_from_before_does_not_open_a_closed_lane() {
        let now = Instant::now();
        let mut health = Health::new(now);
        let before = health.closings();
        health.exhaust(now, &code(), 86_400 * SECOND);
        assert!(!health.answered(now, before, Some(UnixMs(1))));
        assert_eq!(health.leave(now), Leave::Probe(now + QUOTA_PROBE));
        let probe = now + QUOTA_PROBE;
        assert!(health.begin_probe(probe));
        assert!(health.answered(probe, health.closings(), Some(UnixMs(2))));
        assert_eq!(health.leave(probe), Leave::Open);
    }

    #[test]
    fn failing_rows_go_one_at_a_time_until_one_is_answered() {
        let start = Instant::now();
        let mut health = Health::new(start);
        assert_eq!(health.failing_from(start, &retry()), Some(start));
        let later = start + 80 * SECOND;
        health.failing_failed(later, &retry());
        let next = later + 10 * SECOND;
        assert_eq!(health.failing_from(later, &retry()), Some(next));
        health.failing_answered(next);
        assert_eq!(health.failing_from(next, &retry()), None);
        assert!(health.failing_from(next + 121 * SECOND, &retry()).is_some());
    }

    /// Keys that began to fail hours after the last ones waited five minutes for each other.
    #[test]
    fn failing_rows_lie_close_together_when_their_trouble_is_new() {
        let start = Instant::now();
        let mut health = Health::new(start);
        let first = retry().initial_interval;
        let later = start + 3_600 * SECOND;
        health.failing_failed(later, &retry());
        assert_eq!(health.failing_from(later, &retry()), Some(later + first));
        // And when the endpoint is back: among them are those that it did not answer.
        let mut health = in_trouble(start);
        health.failing_failed(start + 200 * SECOND, &retry());
        let back = start + 201 * SECOND;
        assert!(health.answered(back, health.closings(), None));
        assert_eq!(health.failing_from(back, &retry()), Some(back));
    }
}
