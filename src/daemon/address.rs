//! What all lanes share: the egress address's ceiling, its bans, and the workers' places.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Spaces calls evenly, so that no second of the endpoint's clock sees more than the rate.
#[derive(Debug)]
pub(super) struct Pace {
    next: Instant,
}

/// Part of the rate that is used: the rest is left for jitter on the way.
const USED_SHARE: f64 = 0.95;
/// Calls that are due within so much of each other go out together: waking up costs more than a call does. It is also how
/// much lateness may be caught up, so that a second sees so much more than its rate at most: less than is left for jitter.
const GRAIN: Duration = Duration::from_millis(20);

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            next: Instant::now(),
        }
    }

    /// When the next call may go out, if not at once: a timer takes a millisecond at least. Who has to wait at all waits
    /// for as many calls as fit into [`GRAIN`].
    pub(super) fn due(&self, now: Instant, calls_per_second: u32) -> Option<Instant> {
        let together = GRAIN.saturating_sub(interval(calls_per_second));
        (self.next > now).then(|| self.next + together)
    }

    /// A call goes out at `now`.
    pub(super) fn step(&mut self, now: Instant, calls_per_second: u32) {
        let from = now
            .checked_sub(GRAIN)
            .map_or(self.next, |late| self.next.max(late));
        self.next = from + interval(calls_per_second);
    }
}

fn interval(calls_per_second: u32) -> Duration {
    Duration::from_secs_f64(1.0 / (f64::from(calls_per_second) * USED_SHARE))
}

/// The egress address: its pace, its bans, and the places for calls under way.
#[derive(Debug)]
pub(super) struct Address {
    pace: Mutex<Pace>,
    places: Arc<Semaphore>,
    concurrency: usize,
    banned_until: std::sync::Mutex<Option<Instant>>,
}

/// A place among the calls under way, and among those of its lane.
#[derive(Debug)]
pub(super) struct Place {
    #[expect(dead_code, reason = "held for its drop")]
    places: OwnedSemaphorePermit,
    #[expect(dead_code, reason = "held for its drop")]
    of_lane: OwnedSemaphorePermit,
}

/// The places that one lane may take.
pub(super) type LanePlaces = Arc<Semaphore>;
/// One lane never takes the last of so many parts of the places: where each of its calls hangs until the time-out, the
/// others go on.
const PARTS_LEFT: usize = 8;

/// How long DingTalk bans an address.
const BAN: Duration = Duration::from_secs(300);

impl Address {
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            pace: Mutex::new(Pace::new()),
            places: Arc::new(Semaphore::new(concurrency)),
            concurrency,
            banned_until: std::sync::Mutex::new(None),
        }
    }

    /// The places of one lane.
    pub(super) fn lane_places(&self) -> LanePlaces {
        let left = self.concurrency.div_ceil(PARTS_LEFT);
        Arc::new(Semaphore::new(self.concurrency.saturating_sub(left).max(1)))
    }

    /// Waits for a place of the lane, the address's turn and a free place, then counts the call. One walk of each lane
    /// waits here.
    pub(super) async fn enter(&self, lane: &LanePlaces, calls_per_second: u32) -> Option<Place> {
        let of_lane = lane.clone().acquire_owned().await.ok()?;
        let mut pace = self.pace.lock().await;
        if let Some(due) = pace.due(Instant::now(), calls_per_second) {
            tokio::time::sleep_until(due).await;
        }
        let places = self.places.clone().acquire_owned().await.ok()?;
        pace.step(Instant::now(), calls_per_second);
        Some(Place { places, of_lane })
    }

    pub(super) fn ban(&self) {
        *self.lock() = Some(Instant::now() + BAN);
    }

    /// The end of a ban that still holds.
    pub(super) fn banned_until(&self) -> Option<Instant> {
        self.lock().filter(|until| *until > Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.banned_until
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However late the timers and the callers are, and after however long a rest.
    #[test]
    fn no_second_sees_more_calls_than_its_rate() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        for rate in [1_u32, 7, 20, 50, 100, 400, 500] {
            let mut pace = Pace::new();
            let mut now = Instant::now();
            let mut calls: Vec<Instant> = Vec::new();
            for _ in 0..10 * rate {
                let late = match random.u32(..100) {
                    0 => 3_000_000,
                    1..5 => 50_000,
                    5..20 => 2_000,
                    _ => 0,
                };
                now =
                    pace.due(now, rate).unwrap_or(now) + Duration::from_micros(random.u64(..=late));
                pace.step(now, rate);
                calls.push(now);
            }
            let many = rate as usize;
            for (first, last) in calls.iter().zip(&calls[many..]) {
                assert!(*last - *first >= Duration::from_secs(1), "rate {rate}");
            }
        }
    }

    /// Nine calls that are due within 20 ms wake the daemon up once; those of a slow lane go out one by one.
    #[test]
    fn calls_that_are_due_together_go_out_together() {
        for (rate, bursts) in [(10, 99), (50, 99), (500, 12)] {
            let mut pace = Pace::new();
            let mut now = Instant::now();
            let mut moments = 0;
            for _ in 0..100 {
                if let Some(due) = pace.due(now, rate) {
                    moments += 1;
                    now = due;
                }
                pace.step(now, rate);
            }
            assert!(moments <= bursts, "rate {rate}: {moments}");
            assert!(rate > 50 || moments == bursts, "rate {rate}: {moments}");
        }
    }
}
