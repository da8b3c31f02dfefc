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
            // Read once: a step between two readings would be noticed only after what it made old was gone.
            let now = self.clock.now();
            let step = steps.observe(now, Instant::now());
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
            let before = now - kept;
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::receipt::{Chat, Message, Outcome, State, UnixMs, WalkEnd};
    use crate::settings::{Database, Synchronous, from_text};
    use crate::store::sqlite::{Role, SqliteStore};
    use crate::store::{Found, NewMessage, Writes};

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A store with a message that finished ten minutes ago, and one that finished two hours ago.
    async fn store(path: &Path) -> SqliteStore {
        let database = Database {
            path: path.to_owned(),
            synchronous: Synchronous::Normal,
        };
        let store = SqliteStore::open(&database, Role::Owner).await.unwrap();
        let new = ["young", "old"].map(|key| NewMessage {
            key: key.into(),
            account: "a".into(),
            corp: None,
            robot_code: None,
            conversation: None,
            chat: Chat::Private,
            expected_readers: None,
            sent_at: Some(NOW - 180 * MINUTE),
            next_poll_at: None,
        });
        store.add(&new).await.unwrap();
        let lane = store.new_lanes().await.unwrap().remove(0);
        let rows = store.arrivals(&lane, &[], 2, NOW).await.unwrap();
        let outcomes: Vec<Outcome> = rows
            .iter()
            .map(|row| Outcome::without_call(row.claim(), NOW, WalkEnd::Aged))
            .collect();
        let ended = |found: &[Found<'_>]| Writes {
            messages: found
                .iter()
                .filter_map(|found| found.row.clone())
                .map(|row| Message {
                    state: State::Expired,
                    finished_at: Some(match row.key.as_str() {
                        "young" => NOW - 10 * MINUTE,
                        _ => NOW - 120 * MINUTE,
                    }),
                    ..row
                })
                .collect(),
            ..Writes::default()
        };
        store.commit(&outcomes, ended).await.unwrap();
        store
    }

    /// What is left after some turns of a pruner that keeps rows for an hour, on a clock that is set a day forward at its
    /// reading number `step_at`.
    async fn left_after_a_step(step_at: usize) -> Vec<&'static str> {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(store(&dir.path().join("receiptd.db")).await);
        let text =
            "retention.finished = '1h'\nlog.summary_interval = '10ms'\ncadence.max_age = '25h'";
        let settings = from_text(Path::new("test.toml"), text, std::iter::empty());
        let (_in_force, settings) = watch::channel(Arc::new(settings.unwrap().settings));
        let began = Instant::now();
        let readings = Arc::new(AtomicUsize::new(0));
        let counted = readings.clone();
        let clock = Clock::new(move || {
            let number = counted.fetch_add(1, Ordering::Relaxed);
            let ahead = if number < step_at { 0 } else { 24 * 60 };
            NOW + began.elapsed() + ahead * MINUTE
        });
        let stop = Stop::default();
        let pruner = Pruner {
            store: store.clone(),
            settings,
            clock,
            tally: Arc::default(),
            vitals: Vitals::default(),
            stop: stop.clone(),
        };
        let running = tokio::spawn(pruner.run());
        let since = Instant::now();
        while readings.load(Ordering::Relaxed) < step_at.saturating_add(9).min(100) {
            assert!(since.elapsed() < MINUTE, "the pruner does not turn");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.soft.cancel();
        running.await.unwrap().unwrap();
        let mut left = Vec::new();
        for key in ["young", "old"] {
            if store.message(&key.into()).await.unwrap().is_some() {
                left.push(key);
            }
        }
        left
    }

    /// Whichever of its readings of the clock the step comes before.
    #[tokio::test]
    async fn a_clock_set_forward_makes_nothing_old_enough() {
        for step_at in 1..8 {
            let left = left_after_a_step(step_at).await;
            assert!(left.contains(&"young"), "a step at reading {step_at}");
        }
        assert_eq!(left_after_a_step(usize::MAX).await, ["young"]);
    }
}
