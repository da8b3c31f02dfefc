//! The waits of *retry* dispositions within one poll: the one place that knows the `backoff` crate.
//!
//! The crate is unmaintained (RUSTSEC-2025-0012) but small and complete; `deny.toml` says what would replace it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::backoff::Clock as BackoffClock;
use ::backoff::backoff::Backoff as _;
use ::backoff::exponential::ExponentialBackoff;

use crate::receipt::whole_ms;
use crate::settings::Retry;

/// Exponential backoff that counts only the time it is charged with: a lane's pause costs a walk nothing.
pub(super) struct Backoff {
    inner: ExponentialBackoff<Charged>,
    charged_ms: Arc<AtomicU64>,
}

impl Backoff {
    pub(super) fn new(retry: &Retry) -> Self {
        let charged_ms = Arc::new(AtomicU64::new(0));
        let clock = Charged {
            base: Instant::now(),
            charged_ms: charged_ms.clone(),
        };
        let inner = ExponentialBackoff {
            current_interval: retry.initial_interval,
            initial_interval: retry.initial_interval,
            randomization_factor: retry.randomization_factor,
            multiplier: retry.multiplier,
            max_interval: retry.max_interval,
            start_time: clock.base,
            max_elapsed_time: Some(retry.max_elapsed_time),
            clock,
        };
        Self { inner, charged_ms }
    }

    /// Counts `spent` towards `max_elapsed_time`.
    pub(super) fn charge(&self, spent: Duration) {
        self.charged_ms
            .fetch_add(whole_ms(spent), Ordering::Relaxed);
    }

    /// How long to wait before the next try; `None`: give up. The wait is charged.
    pub(super) fn next(&mut self) -> Option<Duration> {
        let wait = self.inner.next_backoff()?;
        self.charge(wait);
        Some(wait)
    }

    /// An answer came: the next trouble starts from the first interval, on what is left of the time.
    pub(super) fn relieve(&mut self) {
        self.inner.current_interval = self.inner.initial_interval;
    }
}

struct Charged {
    base: Instant,
    charged_ms: Arc<AtomicU64>,
}

impl BackoffClock for Charged {
    fn now(&self) -> Instant {
        self.base + Duration::from_millis(self.charged_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry {
            initial_interval: Duration::from_millis(500),
            multiplier: 2.0,
            randomization_factor: 0.0,
            max_interval: Duration::from_secs(4),
            max_elapsed_time: Duration::from_secs(10),
        }
    }

    #[test]
    fn waits_double_to_the_longest_and_end_with_the_time() {
        let mut backoff = Backoff::new(&retry());
        let waits: Vec<_> = std::iter::from_fn(|| backoff.next())
            .map(|w| w.as_millis())
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
    }

    #[test]
    fn only_charged_time_counts() {
        let mut backoff = Backoff::new(&retry());
        backoff.charge(Duration::from_secs(11));
        assert_eq!(backoff.next(), None);
    }
}
