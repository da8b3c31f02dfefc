//! The wall clock, handed in so that tests can step it, and where it was stepped.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::receipt::UnixMs;

/// Where the daemon reads the time of day. Clones are the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    read: Box<dyn Fn() -> UnixMs + Send + Sync>,
    /// What another clock showed at a moment, which is followed instead.
    followed: Mutex<Option<(UnixMs, Instant)>>,
    jumps: Mutex<JumpDetector>,
}

/// A reading, and the last jump that was noticed up to it. Taken together: whoever judges ages by a reading must know of
/// the jump that it comes after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) now: UnixMs,
    pub(super) jump: Option<Jump>,
}

/// A step of the wall clock against the monotonic clock, which stands still while the machine is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Jump {
    /// Which one since the start: two jumps of the same size are two.
    pub(super) number: u64,
    /// The time of day after it.
    pub(super) at: UnixMs,
    /// When it was noticed.
    pub(super) noticed: Instant,
    pub(super) step: Step,
}

/// Which way a clock was stepped, and by how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Forward(Duration),
    Back(Duration),
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(|| UnixMs(jiff::Timestamp::now().as_millisecond()))
    }

    /// A clock of the caller's own.
    pub fn new(read: impl Fn() -> UnixMs + Send + Sync + 'static) -> Self {
        let jumps = Mutex::new(JumpDetector::new(read(), Instant::now()));
        Self(Arc::new(Inner {
            read: Box::new(read),
            followed: Mutex::new(None),
            jumps,
        }))
    }

    /// The time of day.
    pub fn now(&self) -> UnixMs {
        match *self.followed() {
            Some((shown, at)) => shown + at.elapsed(),
            None => self.of_machine(),
        }
    }

    /// The machine's own time of day, whatever other clock is followed.
    pub(super) fn of_machine(&self) -> UnixMs {
        (self.0.read)()
    }

    /// Follows a clock that several machines share, and that showed `shown` at the moment `at`. To begin with that is no
    /// step.
    pub(super) fn follow(&self, shown: UnixMs, at: Instant) {
        let began = self.followed().replace((shown, at)).is_none();
        if began {
            let mut jumps = self.0.jumps.lock().unwrap_or_else(PoisonError::into_inner);
            (jumps.wall, jumps.monotonic) = (shown, at);
        }
    }

    fn followed(&self) -> MutexGuard<'_, Option<(UnixMs, Instant)>> {
        self.0
            .followed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of day, and whether the clock was stepped before it.
    pub(super) fn look(&self) -> Reading {
        let mut jumps = self.0.jumps.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        jumps.observe(now, Instant::now());
        Reading {
            now,
            jump: jumps.last,
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// Notices where the wall clock was stepped, by comparing it with the monotonic clock.
#[derive(Debug)]
struct JumpDetector {
    wall: UnixMs,
    monotonic: Instant,
    last: Option<Jump>,
}

/// Below this a clock is only being disciplined.
const SMALLEST_STEP: Duration = Duration::from_secs(1);

impl JumpDetector {
    fn new(wall: UnixMs, monotonic: Instant) -> Self {
        Self {
            wall,
            monotonic,
            last: None,
        }
    }

    /// Compares the clocks since the last call of this.
    fn observe(&mut self, wall: UnixMs, monotonic: Instant) {
        let expected = self.wall + monotonic.saturating_duration_since(self.monotonic);
        (self.wall, self.monotonic) = (wall, monotonic);
        let (ahead, behind) = (wall.since(expected), expected.since(wall));
        let step = if ahead >= SMALLEST_STEP {
            Step::Forward(ahead)
        } else if behind >= SMALLEST_STEP {
            Step::Back(behind)
        } else {
            return;
        };
        self.last = Some(Jump {
            number: self.last.map_or(1, |last| last.number + 1),
            at: wall,
            noticed: monotonic,
            step,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However wrong the machine's clock is, and whenever it is stepped; only a step of the followed clock is one.
    #[test]
    fn another_clock_is_followed() {
        let machine = Arc::new(Mutex::new(UnixMs(0)));
        let reading = machine.clone();
        let clock = Clock::new(move || *reading.lock().unwrap());
        let (hour, shown) = (Duration::from_secs(3600), UnixMs(1_800_000_000_000));
        clock.follow(shown, Instant::now());
        *machine.lock().unwrap() = UnixMs(0) + hour;
        let reading = clock.look();
        assert!(reading.now.since(shown) < hour && reading.jump.is_none());
        clock.follow(shown + hour, Instant::now());
        let reading = clock.look();
        assert!(reading.now >= shown + hour);
        let step = reading.jump.map(|jump| jump.step);
        assert!(
            matches!(step, Some(Step::Forward(by)) if by > hour / 2),
            "{step:?}"
        );
    }

    #[test]
    fn a_step_is_noticed_once_and_a_drift_never() {
        let second = Duration::from_secs(1);
        let (wall, monotonic) = (UnixMs(1_800_000_000_000), Instant::now());
        let mut jumps = JumpDetector::new(wall, monotonic);
        let mut steps = Vec::new();
        let mut look = |wall, monotonic| {
            jumps.observe(wall, monotonic);
            let last = jumps.last.map(|jump| (jump.number, jump.step));
            if steps.last() != Some(&last) {
                steps.push(last);
            }
        };
        let drift = Duration::from_millis(400);
        look(wall + second + drift, monotonic + second);
        let wall = wall + second + drift;
        // A day forwards, as after a suspension, and back again.
        let day = 86_400 * second;
        look(wall + day + second, monotonic + 2 * second);
        look(wall + day + 2 * second, monotonic + 3 * second);
        look(wall + 3 * second, monotonic + 4 * second);
        assert_eq!(
            steps,
            [
                None,
                Some((1, Step::Forward(day))),
                Some((2, Step::Back(day)))
            ]
        );
    }
}
