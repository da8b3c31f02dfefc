//! What is due now and then rather than at once: counts over the table, housekeeping of the file, the summary.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::in_flight::InFlight;
use super::lanes::Lanes;
use super::plans::Plans;
use super::published::Backlog;
use super::pulse::{BEAT, CoreLoop};
use super::tally::{Counted, Tally};
use super::vitals::Vitals;
use super::{Clock, DaemonError, Stop};
use crate::cadence::Rules;
use crate::receipt::{LaneId, UnixMs, real, spread};
use crate::settings::Settings;
use crate::store::{LaneDue, Pruned, Result, Store};

pub(super) struct Keeper<S> {
    pub(super) store: Arc<S>,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) clock: Clock,
    pub(super) lanes: Arc<Lanes>,
    pub(super) plans: Arc<Plans>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) tally: Arc<Tally>,
    pub(super) backlog: Arc<Mutex<Option<Backlog>>>,
    pub(super) vitals: Vitals,
    pub(super) stop: Stop,
}

/// Part of a lane's rate that last chances are planned with; the rest is for trouble.
const USED_SHARE: f64 = 0.9;

/// The first count, for whoever asks how it stands; after the first calls, which it would hold up on a large table.
const FIRST_COUNT: Duration = Duration::from_secs(1);

const MIB: u64 = 1 << 20;
/// So much of the write-ahead log held back is worth a word in the summary: a checkpoint that met a short read holds less.
const SOME_HELD: u64 = 16 * MIB;
/// So much is worth a warning.
const MUCH_HELD: u64 = 64 * MIB;
/// How often the database may look at its statistics.
const OPTIMIZE_EVERY: Duration = Duration::from_secs(3600);

impl<S: Store> Keeper<S> {
    pub(super) async fn run(self) -> std::result::Result<(), DaemonError> {
        let mut last = Instant::now();
        let mut optimized = None;
        let mut first_count = Some(last + FIRST_COUNT);
        // Budgets at once: what they hold back cannot wait for the first summary.
        let mut turn = self.plan_ahead().await;
        loop {
            match turn {
                Ok(()) => {}
                Err(error) if error.is_transient() => {
                    let warnings = self.vitals.warnings();
                    if let Some(again) = warnings.admit("the messages cannot be counted") {
                        tracing::warn!(
                            error = %error,
                            suppressed = again.count(),
                            "the messages cannot be counted now: {error}; trying again{again}"
                        );
                    }
                }
                Err(error) => return Err(error.into()),
            }
            self.vitals.pulse().beat(CoreLoop::Keeper);
            let next = last + self.settings.borrow().log.summary_interval;
            let soonest = first_count.map_or(next, |at| at.min(next));
            tokio::select! {
                () = self.stop.soft.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(soonest.min(Instant::now() + BEAT)) => {}
            }
            turn = if Instant::now() < soonest {
                Ok(())
            } else if Instant::now() < next {
                first_count = None;
                self.count().await.map(|_| ())
            } else {
                first_count = None;
                last = Instant::now();
                self.keep(&mut optimized).await
            };
        }
    }

    /// One turn.
    async fn keep(&self, optimized: &mut Option<Instant>) -> Result<()> {
        let backlog = self.count().await?;
        self.summarise(&backlog);
        self.vitals.warnings().tell_the_rest();
        self.warn_of_wal(&backlog);
        self.optimize(optimized).await?;
        self.plan_ahead().await
    }

    async fn count(&self) -> Result<Backlog> {
        let now = self.clock.now();
        let totals = self.store.totals(now).await?;
        let calls = self.store.calls_in(&now.quota_month()).await?;
        let wal = self.store.checkpoint().await?;
        let backlog = Backlog::of(&totals, &calls, now, wal);
        *self.backlog.lock().await = Some(backlog.clone());
        Ok(backlog)
    }

    /// Counts what the months still owe and what may jam, and plans with it.
    async fn plan_ahead(&self) -> Result<()> {
        let now = self.clock.now();
        let rules = self.settings.borrow().cadence.clone();
        let lanes = self.store.lanes(&[]).await?;
        let mut owed: HashMap<String, u64> = HashMap::new();
        for LaneDue { lane, .. } in &lanes {
            let purse = self.lanes.purse(lane);
            let until = purse.as_ref().map_or(now, |purse| purse.ends_at(now));
            let of_lane = self.store.owed(lane, until).await?;
            if let Some(purse) = purse {
                *owed.entry(purse.name().to_owned()).or_default() += of_lane.until;
            }
            let spread = self.jam(lane, of_lane.in_all, &rules, now).await?;
            self.plans.set_spread(lane, spread);
        }
        for purse in self.lanes.purses() {
            purse.set_owed(owed.get(purse.name()).copied().unwrap_or(0));
            let dropped = purse.take_dropped();
            if dropped > 0 {
                let name = purse.name();
                tracing::warn!(
                    budget.name = %name,
                    last_chances.dropped = dropped,
                    "{name}: {dropped} last chances were dropped, since the month's calls are spent"
                );
            }
        }
        for LaneDue { lane, .. } in &lanes {
            if let Some(purse) = self.lanes.purse(lane) {
                self.plans.aim(lane, purse.target(&rules, now));
            }
        }
        Ok(())
    }

    /// How long before their moment the lane's last chances, `pending` in all, must be taken to fit its rate.
    async fn jam(
        &self,
        lane: &LaneId,
        pending: u64,
        rules: &Rules,
        now: UnixMs,
    ) -> Result<Duration> {
        let Ok(setup) = self.lanes.setup(lane) else {
            return Ok(Duration::ZERO);
        };
        let all = setup.settings.endpoint.calls_per_second;
        let rate = f64::from(setup.account.calls_per_second.min(all)) * USED_SHARE;
        // So few are called in less time than there is after the last of them.
        let few = real(pending) / rate < rules.last_chance.as_secs_f64() / 4.0;
        if few {
            return Ok(Duration::ZERO);
        }
        let step = rules.last_chance / 8;
        let upcoming = self.store.last_chances(lane, step).await?;
        let again = self.settings.borrow().log.summary_interval;
        // A little more, since a turn takes its time too.
        let again = again + again / 4;
        let spread = spread(&upcoming, now, rate, rules.last_chance, again);
        if !spread.is_zero() {
            tracing::debug!(account = %lane.account, "account {lane}: last chances are taken {spread:?} early");
        }
        Ok(spread)
    }

    /// Statistics of the database: now and then is enough, and somebody else's turn to write is no reason to hurry.
    async fn optimize(&self, last: &mut Option<Instant>) -> Result<()> {
        if last.is_some_and(|at| at.elapsed() < OPTIMIZE_EVERY) {
            return Ok(());
        }
        *last = Some(Instant::now());
        match self.store.optimize().await {
            Err(error) if !error.is_transient() => Err(error),
            _ => Ok(()),
        }
    }

    fn warn_of_wal(&self, backlog: &Backlog) {
        if backlog.wal_held_bytes < MUCH_HELD {
            return;
        }
        let warnings = self.vitals.warnings();
        if let Some(again) = warnings.admit("the write-ahead log cannot be checkpointed") {
            let path = self.settings.borrow().database.path.display().to_string();
            tracing::warn!(
                wal_bytes = backlog.wal_bytes,
                wal_held_bytes = backlog.wal_held_bytes,
                suppressed = again.count(),
                "the write-ahead log has grown to {} MiB and cannot be checkpointed: a process keeps a transaction open; \
                 find it with: fuser -v {path}{again}",
                backlog.wal_bytes / MIB
            );
        }
    }

    fn summarise(&self, backlog: &Backlog) {
        let counted = self.tally.take();
        let remarks = remarks(&counted, backlog);
        let lag = humantime::format_duration(Duration::from_millis(backlog.lag_ms));
        let (pending, due) = (backlog.pending, backlog.due);
        let Counted {
            polls,
            calls,
            throttled,
            readers,
            finished,
            pruned,
            lines_left_out,
        } = counted;
        tracing::info!(
            messages.pending = pending,
            messages.due = due,
            messages.in_flight = self.in_flight.len(),
            messages.finished = finished,
            lag_ms = backlog.lag_ms,
            polls,
            calls.metered = calls,
            calls.throttled = throttled,
            readers.new = readers,
            pruned.messages = pruned.messages,
            pruned.readers = pruned.readers,
            lines_left_out,
            wal_bytes = backlog.wal_bytes,
            wal_held_bytes = backlog.wal_held_bytes,
            "summary: {pending} pending, {due} due (the oldest for {lag}), {polls} polls with {calls} calls, \
             {readers} readers seen, {finished} messages finished{remarks}"
        );
    }
}

/// What a summary adds where there is something to add.
fn remarks(counted: &Counted, backlog: &Backlog) -> String {
    let mut remarks = String::new();
    let mut add = |remark: String| {
        remarks.push_str(", ");
        remarks.push_str(&remark);
    };
    if counted.throttled > 0 {
        add(format!("{} calls throttled", counted.throttled));
    }
    if counted.pruned != Pruned::default() {
        let Pruned { messages, readers } = counted.pruned;
        add(format!("{messages} messages and {readers} readers removed"));
    }
    if counted.lines_left_out > 0 {
        add(format!("{} lines left out", counted.lines_left_out));
    }
    if backlog.wal_held_bytes >= SOME_HELD {
        let held = backlog.wal_held_bytes / MIB;
        add(format!(
            "{held} MiB of the write-ahead log cannot be checkpointed: a process keeps a transaction open"
        ));
    }
    remarks
}
