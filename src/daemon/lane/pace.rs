//! How fast calls go out: a rate limiter for each lane and one for the egress address, whose bans and places for calls under
//! way stand here too.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Spaces calls evenly, so that no second of the endpoint's clock sees more than the rate.
#[derive(Debug)]
pub(super) struct RateLimiter {
    next: Instant,
}
/// Part of the rate that is used: the rest is left for jitter on the way.
const USED_SHARE: f64 = 0.95;
/// Calls that are due within so much of each other go out together: waking up costs more than a call does. It is also how
/// much lateness may be caught up, so that a second sees so much more than its rate at most: less than is left for jitter.
const GRAIN: Duration = Duration::from_millis(20);

impl RateLimiter {
    /// The first call goes out at `first`.
    pub(super) fn new(first: Instant) -> Self {
        Self { next: first }
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

/// The egress address: its rate, its bans, and the places for calls under way.
#[derive(Debug)]
pub(in crate::daemon) struct Address {
    limiter: Mutex<RateLimiter>,
    places: Arc<Semaphore>,
    /// What lanes whose calls hang take beyond one place each.
    of_hanging: Arc<Semaphore>,
    concurrency: usize,
    banned_until: StdMutex<Option<Instant>>,
}

/// The places that one lane may take, and whether its calls hang.
#[derive(Debug)]
pub(in crate::daemon) struct LanePlaces {
    places: Arc<Semaphore>,
    /// How many there are: one until a call came back that did not close the lane, so that a wrong permission or a used-up
    /// month costs one call.
    open: AtomicUsize,
    most: usize,
    hangs: AtomicBool,
}

/// A place among the calls under way. Freed when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _places: OwnedSemaphorePermit,
    _of_lane: OwnedSemaphorePermit,
    _of_hanging: Option<OwnedSemaphorePermit>,
}

/// One lane never takes the last of so many parts of the places: where each of its calls hangs until the time-out, the
/// others go on.
const PARTS_LEFT: usize = 8;
/// How long DingTalk bans an address.
const BAN: Duration = Duration::from_secs(300);

impl LanePlaces {
    /// Notes how the last call ended, which did not close the lane. One whose last call timed out shares half of the places
    /// with others like it.
    pub(super) fn came_back(&self, timed_out: bool) {
        self.hangs.store(timed_out, Ordering::Relaxed);
        let more = self.most - self.open.swap(self.most, Ordering::Relaxed);
        self.places.add_permits(more);
    }

    /// Whether no call of the lane is under way.
    fn is_idle(&self) -> bool {
        self.places.available_permits() == self.open.load(Ordering::Relaxed)
    }
}

impl Address {
    pub(in crate::daemon) fn new(concurrency: usize) -> Self {
        Self {
            limiter: Mutex::new(RateLimiter::new(Instant::now())),
            places: Arc::new(Semaphore::new(concurrency)),
            of_hanging: Arc::new(Semaphore::new((concurrency / 2).max(1))),
            concurrency,
            banned_until: StdMutex::new(None),
        }
    }

    /// The places of one lane.
    pub(super) fn lane_places(&self) -> LanePlaces {
        let left = self.concurrency.div_ceil(PARTS_LEFT);
        let most = self.concurrency.saturating_sub(left).max(1);
        LanePlaces {
            places: Arc::new(Semaphore::new(1)),
            open: AtomicUsize::new(1),
            most,
            hangs: AtomicBool::new(false),
        }
    }

    /// Waits for a place of the lane, the address's turn and a free place, then counts the call. `None`: the process
    /// ends.
    pub(super) async fn enter(&self, lane: &LanePlaces, calls_per_second: u32) -> Option<Place> {
        let of_hanging = if lane.hangs.load(Ordering::Relaxed) && !lane.is_idle() {
            Some(self.of_hanging.clone().acquire_owned().await.ok()?)
        } else {
            None
        };
        let of_lane = lane.places.clone().acquire_owned().await.ok()?;
        let mut limiter = self.limiter.lock().await;
        if let Some(due) = limiter.due(Instant::now(), calls_per_second) {
            tokio::time::sleep_until(due).await;
        }
        let places = self.places.clone().acquire_owned().await.ok()?;
        limiter.step(Instant::now(), calls_per_second);
        Some(Place {
            _places: places,
            _of_lane: of_lane,
            _of_hanging: of_hanging,
        })
    }

    pub(super) fn ban(&self) {
        *self.banned() = Some(Instant::now() + BAN);
    }

    /// The end of a ban that still holds.
    pub(in crate::daemon) fn banned_until(&self) -> Option<Instant> {
        self.banned().filter(|until| *until > Instant::now())
    }

    fn banned(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.banned_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
            let mut pace = RateLimiter::new(Instant::now());
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
            let mut pace = RateLimiter::new(Instant::now());
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

    /// Two lanes whose calls all hang took 64 of 64 places.
    #[tokio::test]
    async fn lanes_whose_calls_hang_share_half_of_the_places() {
        let address = Address::new(64);
        let hanging: Vec<LanePlaces> = (0..3).map(|_| address.lane_places()).collect();
        for lane in &hanging {
            lane.came_back(true);
        }
        let mut held = Vec::new();
        for lane in hanging.iter().cycle() {
            // Of this test every call is made in one turn of its task.
            let entering = tokio::task::unconstrained(address.enter(lane, u32::MAX));
            match futures_util::FutureExt::now_or_never(entering) {
                Some(place) => held.push(place.unwrap()),
                None => break,
            }
        }
        // One each, and half of the places together.
        assert_eq!(held.len(), 3 + 32);
        let sound = address.lane_places();
        sound.came_back(false);
        for _ in 0..64 - 35 {
            held.push(address.enter(&sound, u32::MAX).await.unwrap());
        }
    }
}
