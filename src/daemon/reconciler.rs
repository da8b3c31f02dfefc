//! The only writer of results: outcomes become rows.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::lane::Lane;
use super::pushed::{Looks, Pushed};
use super::status::LoopName;
use super::upkeep::Counts;
use super::{DaemonError, Shared};
use crate::cadence::Observation;
use crate::receipt::{
    Chat, LaneId, Message, MessageId, Outcome, QuotaMonth, Schedule, UnixMs, observe, settle,
};
use crate::store::{Begun, CallCount, EventWrites, Found, StoreError, Writes};
use crate::telemetry::LineBudget;

pub(super) struct Reconciler {
    pub(super) shared: Arc<Shared>,
    pub(super) outcomes: mpsc::Receiver<Outcome>,
    /// This many outcomes are committed without waiting for more.
    pub(super) enough: usize,
}

/// Outcomes of one transaction at most.
const BATCH: usize = 500;
/// From one commit to the next where few outcomes wait: a commit costs as much as fifty of its outcomes.
const GATHERING: Duration = Duration::from_millis(250);
/// After a passing error, doubling up to [`LONGEST_RETRY_DELAY`].
pub(super) const RETRY_DELAY: Duration = Duration::from_millis(50);
const LONGEST_RETRY_DELAY: Duration = Duration::from_secs(1);

/// A message that changed in a commit.
pub(super) struct Settled {
    before: Message,
    pub(super) after: Message,
    new_readers: u32,
    /// Its lane was another node's by then.
    fenced: bool,
    /// What its walk taught.
    lesson: Option<Observation>,
}

impl Reconciler {
    pub(super) async fn run(mut self) -> Result<(), DaemonError> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut lines = LineBudget::new();
        let mut committed = Instant::now();
        let mut looks = Looks::new();
        loop {
            self.beat();
            tokio::select! {
                taken = self.outcomes.recv_many(&mut batch, BATCH) => if taken == 0 {
                    return Ok(());
                },
                () = tokio::time::sleep_until(looks.next) => {
                    self.take_pushed(&mut looks, &mut lines).await?;
                    continue;
                }
                () = self.shared.wake_pushed.notified() => {
                    looks.soon();
                    continue;
                }
            }
            self.gather(&mut batch, committed + GATHERING).await;
            let settled = self.commit(&batch, None).await?;
            self.committed(&batch, &settled, Counts::default(), &mut lines);
            self.shared
                .lanes
                .free(batch.drain(..).map(|outcome| outcome.claim.id));
            self.shared.wake.notify_one();
            committed = Instant::now();
        }
    }

    /// What a commit taught and changed.
    pub(super) fn committed(
        &self,
        batch: &[Outcome],
        settled: &[Settled],
        counts: Counts,
        lines: &mut LineBudget,
    ) {
        self.learn(settled);
        for change in settled {
            log(change, lines);
        }
        self.shared.summary.add(Counts {
            lines_left_out: lines.take_left_out(),
            ..count(batch, settled, counts)
        });
    }

    fn beat(&self) {
        self.shared.handle.heartbeats().beat(LoopName::Reconciler);
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
    pub(super) async fn commit(
        &self,
        batch: &[Outcome],
        pushed: Option<&Pushed>,
    ) -> Result<Vec<Settled>, DaemonError> {
        let mut delay = RETRY_DELAY;
        // Outlives an attempt: an earlier one may have been written after all.
        let mut settled = Vec::new();
        loop {
            self.beat();
            match self.try_commit(batch, pushed, &mut settled).await {
                Ok(()) => return Ok(settled),
                Err(error)
                    if error.is_transient() && !self.shared.stop.immediate.is_cancelled() =>
                {
                    self.warn_of_wait(batch.len(), &error);
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(LONGEST_RETRY_DELAY);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One transaction: find, settle, write, commit.
    async fn try_commit(
        &self,
        batch: &[Outcome],
        pushed: Option<&Pushed>,
        settled: &mut Vec<Settled>,
    ) -> Result<(), StoreError> {
        let _counting = self.shared.lanes.counting().await;
        if let Begun::Open(transaction) = self.shared.store.begin(batch).await? {
            *settled = self.settle_all(batch, transaction.found());
            let writes = Writes {
                messages: settled.iter().map(|change| change.after.clone()).collect(),
                calls: self.count_calls(batch, settled),
                events: pushed.map_or_else(EventWrites::default, |pushed| {
                    pushed.writes(transaction.found())
                }),
            };
            transaction.commit(&writes).await?;
        }
        self.tell_budgets(batch, settled);
        Ok(())
    }

    fn settle_all(&self, batch: &[Outcome], found: &[Found]) -> Vec<Settled> {
        let lanes = &self.shared.lanes;
        let mut schedules: HashMap<(&LaneId, Chat), Arc<Schedule>> = HashMap::new();
        let found = batch.iter().zip(found);
        let settled = found.filter_map(|(outcome, found)| {
            let before = found.row.clone()?;
            let crowd = (&outcome.claim.lane, before.chat);
            let schedule = schedules.entry(crowd).or_insert_with(|| {
                let lane = match outcome.end.is_pushed() {
                    true => lanes.get(&before.lane),
                    false => lanes.claimed_for(outcome.claim.id),
                };
                lane.map_or_else(|| lanes.prior(), |lane| lane.policy.schedule(before.chat))
            });
            let fenced = found.fenced.then(|| fenced(outcome));
            let outcome = fenced.as_ref().unwrap_or(outcome);
            let after = settle(
                &before,
                outcome,
                found.new_readers,
                found.recorded,
                schedule,
            );
            Some(Settled {
                lesson: observe(&before, outcome, found.new_readers, &found.read_at, &after),
                fenced: found.fenced,
                new_readers: found.new_readers,
                before,
                after,
            })
        });
        settled.collect()
    }

    fn count_calls(&self, batch: &[Outcome], settled: &[Settled]) -> Vec<CallCount> {
        let fenced: HashSet<MessageId> = settled
            .iter()
            .filter(|change| change.fenced)
            .map(|change| change.after.id)
            .collect();
        if fenced.is_empty() {
            return count_calls(batch, settled);
        }
        // What was promised was counted by whoever ended this node's life.
        let is_counted = |outcome: &&Outcome| {
            let limited = || {
                let lane = self.shared.lanes.claimed_for(outcome.claim.id);
                lane.is_some_and(|lane| lane.setup().budget.limit().is_some())
            };
            !(fenced.contains(&outcome.claim.id) && limited())
        };
        let uncounted: Vec<Outcome> = batch.iter().filter(is_counted).cloned().collect();
        count_calls(&uncounted, settled)
    }

    /// The budgets count what was committed.
    fn tell_budgets(&self, batch: &[Outcome], settled: &[Settled]) {
        let lanes = &self.shared.lanes;
        let mut month = QuotaMonth::default();
        for outcome in batch.iter().filter(|outcome| outcome.calls > 0) {
            if let Some(lane) = lanes.claimed_for(outcome.claim.id) {
                month = month.or_of(outcome.started_at);
                let calls = u64::from(outcome.calls);
                lane.setup().budget.committed(&lane.id, month, calls);
            }
        }
        let now = self.shared.clock.now();
        for change in settled.iter().filter(|change| !change.fenced) {
            let Some(lane) = lanes.get(&change.after.lane) else {
                continue;
            };
            let budget = &lane.setup().budget;
            if change.began_at().is_some() {
                budget.begun(1, now);
            }
            if let Some(month) = budget.month(now) {
                let ends_at = UnixMs(month.ends_at);
                let owes = |row: &Message| u64::from(row.owes_last_chance(ends_at));
                budget.shift_owed(owes(&change.after), owes(&change.before));
            }
        }
    }

    /// What was committed teaches, lane by lane.
    fn learn(&self, settled: &[Settled]) {
        let mut lessons: HashMap<(&LaneId, Chat), Vec<Observation>> = HashMap::new();
        for change in settled {
            if let Some(lesson) = &change.lesson {
                let crowd = (&change.after.lane, change.after.chat);
                let of_crowd = lessons.entry(crowd).or_default();
                of_crowd.push(lesson.clone());
            }
        }
        let now = self.shared.clock.now();
        let served = |id: &LaneId| -> Option<Arc<Lane>> { self.shared.lanes.get(id) };
        for ((id, chat), seen) in lessons {
            if let Some(lane) = served(id) {
                lane.policy.learn(chat, &seen, now);
                let target = lane.setup().budget.target(&lane.policy.rules(), now);
                if lane.policy.stale(target).next().is_some() {
                    self.shared.wake_upkeep.notify_one();
                }
            }
        }
    }

    /// Nothing is lost while it waits; on a full disk a person has to make room.
    fn warn_of_wait(&self, results: usize, error: &StoreError) {
        let warnings = &self.shared.warnings;
        let Some(again) = warnings.admit("results wait for the database") else {
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
}

impl Settled {
    /// When the message was polled for the first time, if that was now.
    fn began_at(&self) -> Option<UnixMs> {
        let first = self.before.last_polled_at.is_none();
        self.after.last_polled_at.filter(|_| first)
    }
}

/// An outcome of which nothing but its readers and calls may be written: its claim matches no row.
fn fenced(outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    outcome.claim.fence = Some(UnixMs(i64::MIN));
    outcome
}

fn count(batch: &[Outcome], settled: &[Settled], mut counts: Counts) -> Counts {
    for outcome in batch {
        counts.polls += u64::from(outcome.calls > 0);
        counts.calls += u64::from(outcome.calls);
        counts.throttled += u64::from(outcome.throttled);
    }
    for change in settled {
        counts.readers += u64::from(change.new_readers);
        counts.finished += u64::from(change.after.state != change.before.state);
    }
    counts
}

fn count_calls(batch: &[Outcome], settled: &[Settled]) -> Vec<CallCount> {
    let mut counts: HashMap<(&LaneId, QuotaMonth), CallCount> = HashMap::new();
    let mut month = QuotaMonth::default();
    let mut of = |lane, at: UnixMs, count: &dyn Fn(&mut CallCount)| {
        month = month.or_of(at);
        let entry = counts.entry((lane, month));
        count(entry.or_insert_with(|| CallCount::nothing(LaneId::clone(lane), month.to_string())));
    };
    let claimed_as: HashMap<MessageId, &LaneId> = batch
        .iter()
        .map(|outcome| (outcome.claim.id, &outcome.claim.lane))
        .collect();
    for outcome in batch {
        if outcome.calls > 0 || outcome.throttled > 0 {
            of(&outcome.claim.lane, outcome.started_at, &|count| {
                count.calls += u64::from(outcome.calls);
                count.throttled += u64::from(outcome.throttled);
            });
        }
    }
    for change in settled {
        if let (Some(at), Some(lane)) = (change.began_at(), claimed_as.get(&change.after.id)) {
            of(lane, at, &|count| {
                count.messages += 1;
                count.first_at = Some(count.first_at.map_or(at, |first| first.min(at)));
            });
        }
    }
    counts.into_values().collect()
}

/// One line for a message that finished or was read, as far as the budget of lines goes.
fn log(change: &Settled, lines: &mut LineBudget) {
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
