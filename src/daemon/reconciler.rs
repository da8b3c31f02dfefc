//! The only writer of results: outcomes become rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::in_flight::InFlight;
use super::lessons::Lessons;
use super::plans::{Plans, Solved};
use super::{Clock, DaemonError, Stop};
use crate::receipt::{Lane, Message, Outcome, UnixMs, settle};
use crate::settings::Settings;
use crate::store::{CallCount, Found, Store, Writes};
use crate::telemetry::{LineBudget, Repeats};

pub(super) struct Reconciler<S> {
    pub(super) store: Arc<S>,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) clock: Clock,
    pub(super) plans: Arc<Plans>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) outcomes: mpsc::Receiver<Outcome>,
    pub(super) stop: Stop,
}

/// Outcomes of one transaction at most.
const BATCH: usize = 500;
/// Between commits, so that feeders get at the write lock too: a writer that commits back to back starves them.
const BREATH: Duration = Duration::from_millis(5);
/// After a passing error, doubling up to [`LONGEST_PATIENCE`].
const PATIENCE: Duration = Duration::from_millis(50);
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// What the summary counts.
#[derive(Debug, Default)]
struct Tally {
    polls: u64,
    calls: u64,
    throttled: u64,
    readers: u64,
    finished: u64,
}

/// A message that changed in a commit.
struct Settled {
    before: Message,
    after: Message,
    new_readers: usize,
}

impl<S: Store> Reconciler<S> {
    pub(super) async fn run(mut self) -> Result<(), DaemonError> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut tally = Tally::default();
        let mut lines = LineBudget::new();
        let mut next_summary = Instant::now() + self.summary_interval();
        // One policy at a time is solved, on a thread that may block.
        let mut solving: JoinSet<Solved> = JoinSet::new();
        loop {
            if solving.is_empty()
                && let Some(task) = self.plans.next_task()
            {
                solving.spawn_blocking(|| task.solve());
            }
            let taken = tokio::select! {
                taken = self.outcomes.recv_many(&mut batch, BATCH) => Some(taken),
                () = tokio::time::sleep_until(next_summary) => None,
                Some(solved) = solving.join_next(), if !solving.is_empty() => {
                    match solved {
                        Ok(solved) => self.plans.install(solved),
                        Err(error) => tracing::error!("a cadence could not be solved, the old one stays: {error}"),
                    }
                    None
                }
            };
            if taken == Some(0) {
                return Ok(());
            }
            if Instant::now() >= next_summary {
                self.summarise(&mut tally, &mut lines).await;
                next_summary = Instant::now() + self.summary_interval();
            }
            if batch.is_empty() {
                continue;
            }
            let settled = self.commit(&batch).await?;
            tally.add(&batch, &settled);
            for change in &settled {
                tell(change, &mut lines);
            }
            self.in_flight
                .free(batch.drain(..).map(|outcome| outcome.claim.id));
            tokio::time::sleep(BREATH).await;
        }
    }

    fn summary_interval(&self) -> Duration {
        self.settings.borrow().log.summary_interval
    }

    /// Commits until it is done: a locked or full database is back-pressure, not a loss.
    async fn commit(&self, batch: &[Outcome]) -> Result<Vec<Settled>, DaemonError> {
        let mut patience = PATIENCE;
        let mut repeats = Repeats::new();
        // Outlive an attempt: the store may find that an earlier one was written after all, and then decides no more.
        let mut settled = Vec::new();
        let mut lessons = Lessons::default();
        loop {
            let now = self.clock.now();
            let done = self
                .store
                .commit(batch, |found| {
                    (settled, lessons) = settle_all(found, &self.plans, now);
                    Writes {
                        messages: settled.iter().map(|change| change.after.clone()).collect(),
                        calls: count_calls(batch),
                        habits: lessons.rows(),
                    }
                })
                .await;
            match done {
                Ok(()) => {
                    lessons.keep(&self.plans);
                    return Ok(settled);
                }
                Err(error) if error.is_transient() && !self.stop.hard.is_cancelled() => {
                    if repeats.admit("commit", std::time::Instant::now()).is_some() {
                        tracing::warn!(
                            outcomes = batch.len(),
                            "{} results wait to be written: {error}",
                            batch.len()
                        );
                    }
                    tokio::time::sleep(patience).await;
                    patience = (patience * 2).min(LONGEST_PATIENCE);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn summarise(&self, tally: &mut Tally, lines: &mut LineBudget) {
        let now = self.clock.now();
        let totals = self.store.totals(now).await.unwrap_or_default();
        let pending: u64 = totals.iter().map(|lane| lane.pending).sum();
        let due: u64 = totals.iter().map(|lane| lane.due).sum();
        let oldest = totals.iter().filter_map(|lane| lane.oldest_due).min();
        let lag_ms = oldest.map_or(0, |at| now.since(at).as_millis());
        let wal_bytes = self.store.housekeep().await.unwrap_or(0);
        let Tally {
            polls,
            calls,
            throttled,
            readers,
            finished,
        } = std::mem::take(tally);
        tracing::info!(
            pending,
            due,
            lag_ms,
            in_flight = self.in_flight.len(),
            polls,
            calls,
            throttled,
            readers,
            finished,
            lines_left_out = lines.take_left_out(),
            wal_bytes,
            "summary: {pending} pending, {due} due (oldest {lag_ms} ms), {polls} polls with {calls} calls, \
             {readers} readers seen, {finished} messages finished"
        );
    }
}

impl Tally {
    fn add(&mut self, batch: &[Outcome], settled: &[Settled]) {
        for outcome in batch {
            self.polls += u64::from(outcome.calls > 0);
            self.calls += u64::from(outcome.calls);
            self.throttled += u64::from(outcome.throttled);
        }
        for change in settled {
            self.readers += u64::try_from(change.new_readers).unwrap_or(0);
            self.finished += u64::from(change.after.state != change.before.state);
        }
    }
}

fn settle_all(found: &[Found<'_>], plans: &Plans, now: UnixMs) -> (Vec<Settled>, Lessons) {
    let mut lessons = Lessons::default();
    let settled = found
        .iter()
        .filter_map(|found| {
            let before = found.row.clone()?;
            let new_readers = found.new_readers.len();
            let count = u32::try_from(new_readers).unwrap_or(u32::MAX);
            let lesson = lessons.of(&before.lane, plans, now);
            let after = settle(&before, found.outcome, count, &lesson.plan.schedule());
            lesson.learn(&before, found.outcome, count, &after);
            Some(Settled {
                before,
                after,
                new_readers,
            })
        })
        .collect();
    (settled, lessons)
}

fn count_calls(batch: &[Outcome]) -> Vec<CallCount> {
    let mut counts: HashMap<(&Lane, String), (u64, u64)> = HashMap::new();
    for outcome in batch
        .iter()
        .filter(|outcome| outcome.calls > 0 || outcome.throttled > 0)
    {
        let key = (&outcome.claim.lane, outcome.started_at.quota_month());
        let count = counts.entry(key).or_default();
        count.0 += u64::from(outcome.calls);
        count.1 += u64::from(outcome.throttled);
    }
    counts
        .into_iter()
        .map(|((lane, month), (calls, throttled))| CallCount {
            lane: lane.clone(),
            month,
            calls,
            throttled,
        })
        .collect()
}

/// One line for a message that finished or was read, as far as the budget of lines goes.
fn tell(change: &Settled, lines: &mut LineBudget) {
    let (before, after) = (&change.before, &change.after);
    let finished = before.state != after.state;
    if !finished && change.new_readers == 0 || !lines.admit(std::time::Instant::now()) {
        return;
    }
    let error = after
        .last_error
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    if finished {
        tracing::info!(
            message.key = %after.key, account = %after.lane.account, message.state = %after.state,
            readers = after.reader_count, calls = after.call_count, error.code = error,
            "message {}: {} with {} readers after {} calls{}{error}", after.key, after.state,
            after.reader_count, after.call_count, if error.is_empty() { "" } else { ", " }
        );
    } else {
        tracing::info!(
            message.key = %after.key, account = %after.lane.account, new_readers = change.new_readers,
            readers = after.reader_count,
            "message {}: {} new readers, {} in all", after.key, change.new_readers, after.reader_count
        );
    }
}
