//! Shows that each core loop turns: what a watchdog is fed from, and what `status` shows.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::receipt::whole_ms;

/// The loops whose end, or standstill, is the daemon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoreLoop {
    /// Rows to jobs.
    Scheduler,
    /// Jobs to outcomes.
    Workers,
    /// Outcomes to rows.
    Reconciler,
    /// The summary, counts, housekeeping.
    Keeper,
    /// Policies from habits.
    Planner,
    /// Retention.
    Pruner,
}

impl CoreLoop {
    /// Every loop.
    pub const ALL: [Self; 6] = [
        Self::Scheduler,
        Self::Workers,
        Self::Reconciler,
        Self::Keeper,
        Self::Planner,
        Self::Pruner,
    ];

    /// Its name in logs and in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Workers => "workers",
            Self::Reconciler => "reconciler",
            Self::Keeper => "keeper",
            Self::Planner => "planner",
            Self::Pruner => "pruner",
        }
    }
}

/// The longest that a loop waits without a beat, a statement's own time aside.
pub(super) const BEAT: Duration = Duration::from_secs(5);

/// When each core loop turned last. On the monotonic clock: a step of the wall clock is no standstill.
#[derive(Debug)]
pub struct Pulse {
    start: Instant,
    /// Milliseconds after `start`, in the order of [`CoreLoop::ALL`].
    beats: [AtomicU64; CoreLoop::ALL.len()],
}

impl Default for Pulse {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            beats: Default::default(),
        }
    }
}

impl Pulse {
    /// The loop turned.
    pub(super) fn beat(&self, which: CoreLoop) {
        self.beats[which as usize].store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// Waits for `future`, which may be back-pressure of any length, and beats meanwhile: such a wait is no standstill.
    pub(super) async fn while_waiting<F: Future>(&self, which: CoreLoop, future: F) -> F::Output {
        tokio::pin!(future);
        loop {
            self.beat(which);
            tokio::select! {
                output = &mut future => return output,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    /// How long ago each loop turned last.
    pub fn ages(&self) -> impl Iterator<Item = (CoreLoop, Duration)> {
        let now = self.elapsed_ms();
        CoreLoop::ALL.into_iter().map(move |which| {
            let beat = self.beats[which as usize].load(Ordering::Relaxed);
            (which, Duration::from_millis(now.saturating_sub(beat)))
        })
    }

    /// The loop that has not turned for longest, and for how long. The loops share a thread: where none of them turns, it
    /// is the one that turned last which holds that thread.
    pub fn slowest(&self) -> (CoreLoop, Duration) {
        let first = (CoreLoop::Scheduler, Duration::ZERO);
        let slowest = self.ages().max_by_key(|(_, age)| *age).unwrap_or(first);
        let last = self.ages().min_by_key(|(_, age)| *age).unwrap_or(first);
        if last.1 > BEAT { last } else { slowest }
    }

    fn elapsed_ms(&self) -> u64 {
        whole_ms(self.start.elapsed())
    }
}
