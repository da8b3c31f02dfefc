//! The only writer of results: outcomes become rows.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::in_flight::InFlight;
use super::lanes::Lanes;
use super::lessons::Lessons;
use super::plans::Plans;
use super::pulse::{BEAT, CoreLoop};
use super::tally::{Counted, Tally};
use super::vitals::Vitals;
use super::{Clock, DaemonError, Stop};
use crate::receipt::{LaneId, Message, Outcome, QuotaMonth, UnixMs};
use crate::store::{CallCount, Found, Store, StoreError, Writes};
use crate::telemetry::LineBudget;

pub(super) struct Reconciler<S> {
    pub(super) store: Arc<S>,
    pub(super) clock: Clock,
    pub(super) lanes: Arc<Lanes>,
    pub(super) plans: Arc<Plans>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) tally: Arc<Tally>,
    pub(super) vitals: Vitals,
    pub(super) outcomes: mpsc::Receiver<Outcome>,
    /// So many outcomes are committed without waiting for more.
    pub(super) enough: usize,
    pub(super) stop: Stop,
}

/// Outcomes of one transaction at most.
const BATCH: usize = 500;
/// From one commit to the next where few outcomes wait: a commit costs as much as fifty of its outcomes.
const GATHERING: Duration = Duration::from_millis(250);
/// After a passing error, doubling up to [`LONGEST_PATIENCE`].
const PATIENCE: Duration = Duration::from_millis(50);
const LONGEST_PATIENCE: Duration = Duration::from_secs(1);

/// A message that changed in a commit.
struct Settled {
    before: Message,
    after: Message,
    new_readers: usize,
}

impl<S: Store> Reconciler<S> {
    pub(super) async fn run(mut self) -> Result<(), DaemonError> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut lines = LineBudget::new();
        let mut committed = Instant::now();
        loop {
            self.vitals.pulse().beat(CoreLoop::Reconciler);
            tokio::select! {
                taken = self.outcomes.recv_many(&mut batch, BATCH) => if taken == 0 {
                    return Ok(());
                },
                () = tokio::time::sleep(BEAT) => continue,
            }
            self.gather(&mut batch, committed + GATHERING).await;
            let settled = self.commit(&batch).await?;
            for change in &settled {
                tell(change, &mut lines);
            }
            self.tally.add(Counted {
                lines_left_out: lines.take_left_out(),
                ..count(&batch, &settled)
            });
            self.in_flight
                .free(batch.drain(..).map(|outcome| outcome.claim.id));
            committed = Instant::now();
        }
    }

    /// Takes what comes until `deadline`, or until there is enough: with more of them held back, the scheduler would run
    /// out of claims.
    async fn gather(&mut self, batch: &mut Vec<Outcome>, deadline: Instant) {
        let deadline = tokio::time::sleep_until(deadline);
        tokio::pin!(deadline);
        while batch.len() < self.enough.min(BATCH) {
            tokio::select! {
                taken = self.outcomes.recv_many(batch, BATCH - batch.len()) => if taken == 0 {
                    return;
                },
                () = &mut deadline => return,
            }
        }
    }

    /// Commits until it is done: a locked or full database is back-pressure, not a loss.
    async fn commit(&self, batch: &[Outcome]) -> Result<Vec<Settled>, DaemonError> {
        let mut patience = PATIENCE;
        // Outlive an attempt: the store may find that an earlier one was written after all, and then decides no more.
        let mut settled = Vec::new();
        let mut lessons = Lessons::default();
        loop {
            self.vitals.pulse().beat(CoreLoop::Reconciler);
            let now = self.clock.now();
            let done = self
                .store
                .commit(batch, |found| {
                    (settled, lessons) = settle_all(found, &self.plans, now);
                    Writes {
                        messages: settled.iter().map(|change| change.after.clone()).collect(),
                        calls: count_calls(batch, &settled),
                        habits: lessons.rows(),
                    }
                })
                .await;
            match done {
                Ok(()) => {
                    lessons.keep(&self.plans);
                    self.budget(&settled, now);
                    return Ok(settled);
                }
                Err(error) if error.is_transient() && !self.stop.hard.is_cancelled() => {
                    self.tell_wait(batch.len(), &error);
                    tokio::time::sleep(patience).await;
                    patience = (patience * 2).min(LONGEST_PATIENCE);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Nothing is lost while it waits; on a full disk a person has to make room.
    fn tell_wait(&self, results: usize, error: &StoreError) {
        let Some(again) = self
            .vitals
            .warnings()
            .admit("results wait for the database")
        else {
            return;
        };
        let suppressed = again.count();
        match error {
            StoreError::Full => tracing::error!(
                results.waiting = results,
                error = %error,
                suppressed,
                "{results} results wait to be written: {error}; make room, nothing is lost meanwhile{again}"
            ),
            _ => tracing::warn!(
                results.waiting = results,
                error = %error,
                suppressed,
                "{results} results wait to be written: {error}; nothing is lost{again}"
            ),
        }
    }

    /// Tells the budgets what was committed, and the plans what the budgets can afford now.
    fn budget(&self, settled: &[Settled], now: UnixMs) {
        let mut lanes: HashMap<&LaneId, Vec<&Settled>> = HashMap::new();
        for change in settled {
            lanes.entry(&change.after.lane).or_default().push(change);
        }
        for (lane, changes) in lanes {
            let Some(purse) = self.lanes.purse(lane) else {
                continue;
            };
            let ends_at = purse.ends_at(now);
            let number = |holds: &dyn Fn(&Settled) -> bool| {
                changes.iter().filter(|change| holds(change)).count() as u64
            };
            purse.begun(number(&|change| change.began_at().is_some()), now);
            purse.shift_owed(
                number(&|change| change.after.owes_last_chance(ends_at)),
                number(&|change| change.before.owes_last_chance(ends_at)),
            );
            let target = purse.target(self.plans.plan(lane).rules(), now);
            self.plans.aim(lane, target);
        }
    }
}

impl Settled {
    /// When the message was polled for the first time, if that was now.
    fn began_at(&self) -> Option<UnixMs> {
        let first = self.before.last_polled_at.is_none();
        self.after.last_polled_at.filter(|_| first)
    }
}

fn count(batch: &[Outcome], settled: &[Settled]) -> Counted {
    let mut counted = Counted::default();
    for outcome in batch {
        counted.polls += u64::from(outcome.calls > 0);
        counted.calls += u64::from(outcome.calls);
        counted.throttled += u64::from(outcome.throttled);
    }
    for change in settled {
        counted.readers += u64::try_from(change.new_readers).unwrap_or(0);
        counted.finished += u64::from(change.after.state != change.before.state);
    }
    counted
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
            let schedule = lesson.plan.schedule();
            let after = lesson
                .taught
                .settle(&before, found.outcome, count, &schedule);
            Some(Settled {
                before,
                after,
                new_readers,
            })
        })
        .collect();
    (settled, lessons)
}

fn count_calls(batch: &[Outcome], settled: &[Settled]) -> Vec<CallCount> {
    let mut counts: HashMap<(&LaneId, QuotaMonth), CallCount> = HashMap::new();
    let mut month = QuotaMonth::default();
    let mut of = |lane, at: UnixMs, count: &dyn Fn(&mut CallCount)| {
        month = month.or_of(at);
        let entry = counts.entry((lane, month));
        count(entry.or_insert_with(|| CallCount::nothing(lane.clone(), month.to_string())));
    };
    for outcome in batch {
        if outcome.calls > 0 || outcome.throttled > 0 {
            of(&outcome.claim.lane, outcome.started_at, &|count| {
                count.calls += u64::from(outcome.calls);
                count.throttled += u64::from(outcome.throttled);
            });
        }
    }
    for change in settled {
        if let Some(at) = change.began_at() {
            of(&change.after.lane, at, &|count| {
                count.messages += 1;
                count.first_at = Some(count.first_at.map_or(at, |first| first.min(at)));
            });
        }
    }
    counts.into_values().collect()
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
            message.key = %after.key,
            account = %after.lane.account,
            corp_id = after.lane.corp.as_ref().map(tracing::field::display),
            message.state = %after.state,
            message.readers = after.reader_count,
            message.calls = after.call_count,
            error.code = after.last_error.as_ref().map(tracing::field::display),
            "message {}: {} with {} readers after {} calls{}{error}", after.key, after.state,
            after.reader_count, after.call_count, if error.is_empty() { "" } else { ", " }
        );
    } else {
        tracing::info!(
            message.key = %after.key,
            account = %after.lane.account,
            corp_id = after.lane.corp.as_ref().map(tracing::field::display),
            readers.new = change.new_readers,
            message.readers = after.reader_count,
            "message {}: {} new readers, {} in all", after.key, change.new_readers, after.reader_count
        );
    }
}
