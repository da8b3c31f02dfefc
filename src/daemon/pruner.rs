//! Retention: removes what finished long ago, in small steps.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::clock::{Step, Steps};
use super::pulse::{BEAT, CoreLoop};
use super::tally::{Counted, Tally};
use super::vitals::Vitals;
use super::{Clock, DaemonError, Stop};
use crate::settings::Settings;
use crate::store::{Pruned, Pruning, Store};

pub(super) struct Pruner<S> {
    pub(super) store: Arc<S>,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) clock: Clock,
    pub(super) tally: Arc<Tally>,
    pub(super) vitals: Vitals,
    pub(super) stop: Stop,
}

/// After the wall clock was set forward nothing is removed for so long: what is removed by a wrong clock is gone, and
/// whoever set it wrong may set it right again.
const DOUBT: Duration = Duration::from_secs(3600);
/// A smaller step makes nothing much older.
const SMALL_STEP: Duration = Duration::from_secs(60);

impl<S: Store> Pruner<S> {
    pub(super) async fn run(self) -> Result<(), DaemonError> {
        let mut pruning = Pruning::default();
        let mut steps = Steps::new(self.clock.now(), Instant::now());
        let mut doubtful_until = None;
        let mut next = Instant::now();
        loop {
            self.vitals.pulse().beat(CoreLoop::Pruner);
            tokio::select! {
                () = self.stop.soft.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(next.min(Instant::now() + BEAT)) => {}
            }
            let step = steps.observe(self.clock.now(), Instant::now());
            if let Some(Step::Forward(by)) = step
                && by > SMALL_STEP
            {
                doubtful_until = Some(Instant::now() + DOUBT);
            }
            if Instant::now() < next {
                continue;
            }
            // When it is looked again whether something has become old enough.
            next = Instant::now() + self.settings.borrow().log.summary_interval;
            let kept = self.settings.borrow().retention.finished;
            let Some(kept) = kept.filter(|_| doubtful_until.is_none_or(|at| at <= Instant::now()))
            else {
                continue;
            };
            let before = self.clock.now() - kept;
            match pruning.step(&*self.store, before, None).await {
                Ok(step) if step.pruned == Pruned::default() => {}
                Ok(step) => {
                    self.tally.add(Counted {
                        pruned: step.pruned,
                        ..Counted::default()
                    });
                    next = Instant::now() + step.pause;
                }
                Err(error) if error.is_transient() => {
                    let warnings = self.vitals.warnings();
                    if let Some(again) = warnings.admit("finished messages cannot be removed") {
                        tracing::warn!(
                            error = %error,
                            suppressed = again.count(),
                            "finished messages cannot be removed now: {error}; trying again{again}"
                        );
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
