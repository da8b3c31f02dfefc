//! The wall clock, handed in so that tests can step it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::receipt::UnixMs;

/// Where the daemon reads the time of day.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixMs + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(|| UnixMs(jiff::Timestamp::now().as_millisecond()))
    }

    /// A clock of the caller's own.
    pub fn new(read: impl Fn() -> UnixMs + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time of day.
    pub fn now(&self) -> UnixMs {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}

/// Notices where the wall clock was stepped, by comparing it with the monotonic clock.
#[derive(Debug)]
pub(super) struct Steps {
    wall: UnixMs,
    monotonic: Instant,
}

/// A step of the wall clock against the monotonic clock, which stands still while the machine is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Forward(Duration),
    Back(Duration),
}

/// Below this a clock is only being disciplined.
const SMALLEST_STEP: Duration = Duration::from_secs(1);

impl Steps {
    pub(super) fn new(wall: UnixMs, monotonic: Instant) -> Self {
        Self { wall, monotonic }
    }

    /// Compares the clocks since the last call of this.
    pub(super) fn observe(&mut self, wall: UnixMs, monotonic: Instant) -> Option<Step> {
        let expected = self.wall + monotonic.saturating_duration_since(self.monotonic);
        *self = Self { wall, monotonic };
        let (ahead, behind) = (wall.since(expected), expected.since(wall));
        if ahead >= SMALLEST_STEP {
            Some(Step::Forward(ahead))
        } else if behind >= SMALLEST_STEP {
            Some(Step::Back(behind))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_noticed_once_and_a_drift_never() {
        let second = Duration::from_secs(1);
        let (wall, monotonic) = (UnixMs(1_800_000_000_000), Instant::now());
        let mut steps = Steps::new(wall, monotonic);
        let drift = Duration::from_millis(400);
        assert_eq!(
            steps.observe(wall + second + drift, monotonic + second),
            None
        );
        let wall = wall + second + drift;
        // A day forwards, as after a suspension, and back again.
        let day = 86_400 * second;
        assert_eq!(
            steps.observe(wall + day + second, monotonic + 2 * second),
            Some(Step::Forward(day))
        );
        assert_eq!(
            steps.observe(wall + day + 2 * second, monotonic + 3 * second),
            None
        );
        assert_eq!(
            steps.observe(wall + 3 * second, monotonic + 4 * second),
            Some(Step::Back(day))
        );
    }
}
