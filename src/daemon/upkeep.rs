//! What is due now and then rather than at once: policies, budgets' figures, counts over the table and the summary,
//! retention. No error of housekeeping ends the daemon.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::clock::{Reading, Step};
use super::lane::Lane;
use super::status::{Backlog, LoopName};
use super::{DaemonError, Shared};
use crate::receipt::{Chat, LaneId, QuotaMonth, UnixMs, real};
use crate::store::{HabitsRow, Health, LastChanceFit, Pruned, Result, StoreError};

pub(super) struct Upkeep {
    shared: Arc<Shared>,
    next_summary: Instant,
    /// The first count, for whoever asks how it stands; after the first calls, which it would delay on a large table.
    next_count: Instant,
    next_prune: Instant,
    next_forget: Instant,
    next_save: Instant,
    next_look: Instant,
    /// The budgets' figures are not read again before, though another process may have written.
    next_figures: Instant,
    /// How often other processes had written when the budgets' figures were read last.
    writes_seen: u64,
}

/// Between two turns, where nobody wakes the loop.
const TURN_INTERVAL: Duration = Duration::from_secs(1);
const FIRST_COUNT: Duration = Duration::from_secs(1);
/// Reading the budgets' figures takes at most so small a part of the time: it counts all rows, a million in 0.2 s, and no
/// result is committed meanwhile.
const FIGURES_PART: u32 = 50;
/// Lessons are stored this often: so much may be lost by a kill.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);
/// Policies are solved for this long a turn: a thousand lanes at once must not delay the rest.
const SOLVING: Duration = Duration::from_millis(200);
/// After the wall clock was set forward nothing is removed for so long: what is removed by a wrong clock is gone, and
/// whoever set it wrong may set it right again.
const PRUNE_HOLD_AFTER_JUMP: Duration = Duration::from_secs(3600);
/// A smaller step makes nothing much older.
const SMALL_STEP: Duration = Duration::from_secs(60);
/// A pushed read waits so long for its message.
const EVENTS_WAIT: Duration = Duration::from_secs(86_400);
/// Pushed reads of a step: the write lock is held for some milliseconds.
const EVENTS_A_STEP: usize = 1_000;
/// Those that began to wait within twice this are looked at again at least.
const INTERVAL_LOOKED_BACK: Duration = Duration::from_secs(60);
/// Part of a lane's rate that last chances are planned with; the rest is for trouble.
const PLANNED_RATE: f64 = 0.9;

const MIB: u64 = 1 << 20;
/// This much of the write-ahead log held back is named in the summary: a checkpoint that met a short read holds less.
const WAL_NAMED_BYTES: u64 = 16 * MIB;

impl Upkeep {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        let interval = shared.lanes.configured().settings.log.summary_interval;
        Self {
            shared,
            next_summary: now + interval,
            next_count: now + FIRST_COUNT,
            next_prune: now,
            next_forget: now,
            next_save: now + SAVE_INTERVAL,
            next_look: now,
            next_figures: now,
            writes_seen: 0,
        }
    }

    pub(super) async fn run(mut self) -> std::result::Result<(), DaemonError> {
        let shared = self.shared.clone();
        while !shared.stop.graceful.is_cancelled() {
            self.beat();
            self.turn().await;
            let soonest = self
                .next_summary
                .min(self.next_count)
                .min(self.next_prune)
                .min(Instant::now() + TURN_INTERVAL);
            tokio::select! {
                () = shared.stop.graceful.cancelled() => {}
                () = shared.wake_upkeep.notified() => {}
                () = tokio::time::sleep_until(soonest) => {}
            }
        }
        Ok(())
    }

    fn beat(&self) {
        self.shared.handle.heartbeats().beat(LoopName::Upkeep);
    }

    async fn turn(&mut self) {
        let looks = Instant::now() >= self.next_look;
        let read = self.read_budgets(looks).await;
        self.warn("the budgets' figures cannot be read", read);
        self.solve().await;
        if looks {
            self.next_look = Instant::now() + TURN_INTERVAL;
            self.reconsider_closed_lanes().await;
        }
        if Instant::now() >= self.next_summary.min(self.next_count) {
            let counted = self.count_and_plan().await;
            self.warn("the messages cannot be counted", counted);
        }
        if Instant::now() >= self.next_save {
            self.next_save = Instant::now() + SAVE_INTERVAL;
            let saved = save_habits(&self.shared, &self.shared.lanes.all()).await;
            self.warn("what was learned cannot be stored", saved);
        }
        if Instant::now() >= self.next_forget {
            let forgotten = self.forget_pushed().await;
            self.warn("pushed reads that wait cannot be looked after", forgotten);
        }
        if Instant::now() >= self.next_prune {
            let pruned = self.prune().await;
            self.warn("finished messages cannot be removed", pruned);
        }
    }

    fn warn(&self, what: &str, result: Result<()>) {
        if let Err(error) = result
            && let Some(again) = self.shared.warnings.admit(what)
        {
            let error = error.with_source();
            tracing::warn!(
                error,
                suppressed = again.count(),
                "{what} now: {error}; trying again{again}"
            );
        }
    }

    // --- budgets, policies, lanes ------------------------------------------------------------------------------

    /// Reads the figures again where a month began, and now and then where another process wrote.
    async fn read_budgets(&mut self, looks: bool) -> Result<()> {
        let writes = self.shared.foreign_changes();
        let now = self.shared.clock.now();
        let budgets = self.shared.lanes.budgets();
        let unread = budgets.iter().any(|budget| !budget.is_read(now));
        let limited = budgets.iter().any(|budget| budget.limit().is_some());
        let began = Instant::now();
        let changed = looks && limited && writes != self.writes_seen;
        if unread || changed && began >= self.next_figures {
            self.shared.lanes.refresh_budgets(&self.shared).await?;
            self.writes_seen = writes;
            self.next_figures = Instant::now() + began.elapsed() * FIGURES_PART;
        }
        Ok(())
    }

    /// Solves policies anew where what was learned, or what a month can afford, has changed enough.
    async fn solve(&self) {
        let began = Instant::now();
        for lane in self.shared.lanes.all() {
            let now = self.shared.clock.now();
            let target = lane.setup().budget.target(&lane.policy.rules(), now);
            let stale: Vec<Chat> = lane.policy.stale(target).collect();
            for chat in stale {
                self.solve_one(&lane, chat, target).await;
                self.beat();
                if began.elapsed() > SOLVING {
                    self.shared.wake_upkeep.notify_one();
                    return;
                }
            }
        }
    }

    async fn solve_one(&self, lane: &Lane, chat: Chat, target: f64) {
        let task = lane.policy.task(chat, target);
        match tokio::task::spawn_blocking(|| task.solve()).await {
            Ok(solved) => lane.policy.install(chat, solved),
            Err(error) => {
                if let Some(again) = self.shared.warnings.admit("a cadence could not be solved") {
                    tracing::error!(
                        error = %error,
                        suppressed = again.count(),
                        "a cadence could not be solved, the old one stays: {error}{again}"
                    );
                }
            }
        }
    }

    /// A changed secret or ticket probes at once.
    async fn reconsider_closed_lanes(&self) {
        for lane in self.shared.lanes.all() {
            if lane.reconsider().await {
                self.shared.wake.notify_one();
            }
        }
    }

    // --- counts and the summary --------------------------------------------------------------------------------

    async fn count_and_plan(&mut self) -> Result<()> {
        let interval = self.shared.lanes.configured().settings.log.summary_interval;
        let is_summary = Instant::now() >= self.next_summary;
        if is_summary {
            self.next_summary = Instant::now() + interval;
        }
        // Until the next summary, which counts too.
        self.next_count = self.next_summary;
        let store = &self.shared.store;
        let now = self.shared.clock.now();
        let totals = store.totals(now).await?;
        let month = QuotaMonth::of(now).to_string();
        let calls = store.calls_in(&month).await?;
        let health = store.maintain().await?;
        let backlog = Backlog::of(&totals, &calls, now, &health);
        self.shared.set_backlog(backlog.clone());
        self.beat();
        if is_summary {
            self.summarise(&backlog);
            self.warn_of_dropped();
            self.shared.warnings.tell_the_rest();
            self.warn_of_health(&health);
            self.shared.lanes.refresh_budgets(&self.shared).await?;
        }
        self.plan_last_chances(interval).await?;
        let pending = totals.into_iter().filter(|lane| lane.pending > 0);
        self.drop_idle(pending.map(|lane| lane.lane).collect())
            .await
    }

    /// Where a lane's last chances do not fit its rate, they begin before their moment.
    async fn plan_last_chances(&self, interval: Duration) -> Result<()> {
        let store = &self.shared.store;
        let now = self.shared.clock.now();
        let owed: HashMap<LaneId, u64> = store
            .owed(now)
            .await?
            .into_iter()
            .map(|owed| (owed.lane, owed.in_all))
            .collect();
        for lane in self.shared.lanes.all() {
            let setup = lane.setup();
            let endpoint = &setup.configured.settings.endpoint;
            let rate = setup
                .account
                .calls_per_second
                .min(endpoint.calls_per_second);
            let calls_per_second = f64::from(rate) * PLANNED_RATE;
            let last_chance = lane.policy.rules().last_chance;
            let pending = owed.get(&lane.id).copied().unwrap_or(0);
            // So few are called in less time than there is after the last of them.
            let few = real(pending) / calls_per_second < last_chance.as_secs_f64() / 4.0;
            let until = if few {
                None
            } else {
                let fit = LastChanceFit {
                    now,
                    calls_per_second,
                    slack: last_chance / 2,
                    // A little more, since a turn takes its time too.
                    again: interval + interval / 4,
                };
                store.last_chances_to_begin(&lane.id, &fit).await?
            };
            lane.policy.set_last_chances_until(until);
            self.beat();
        }
        Ok(())
    }

    /// Lanes without a message to poll are no longer served.
    async fn drop_idle(&self, pending: HashSet<LaneId>) -> Result<()> {
        let lanes = self.shared.lanes.drop_idle(&pending);
        save_habits(&self.shared, &lanes).await
    }

    fn warn_of_dropped(&self) {
        for budget in self.shared.lanes.budgets() {
            let dropped = budget.take_dropped();
            if dropped > 0 {
                let name = &budget.group;
                tracing::warn!(
                    budget.name = %name,
                    last_chances.dropped = dropped,
                    "{name}: {dropped} last chances were dropped, since the month's calls are spent"
                );
            }
        }
    }

    fn warn_of_health(&self, health: &Health) {
        if let Some(warning) = &health.warning
            && let Some(again) = self.shared.warnings.admit("the database needs a look")
        {
            tracing::warn!(
                wal_bytes = health.wal_bytes,
                wal_held_bytes = health.wal_held_bytes,
                suppressed = again.count(),
                "{warning}{again}"
            );
        }
    }

    fn summarise(&self, backlog: &Backlog) {
        let counts = self.shared.summary.take();
        let remarks = remarks(&counts, backlog);
        let lag = humantime::format_duration(Duration::from_millis(backlog.lag_ms));
        let (pending, due) = (backlog.pending, backlog.due);
        let Counts {
            polls,
            calls,
            throttled,
            readers,
            finished,
            events_taken,
            events_dropped,
            pruned,
            lines_left_out,
        } = counts;
        tracing::info!(
            messages.pending = pending,
            messages.due = due,
            messages.in_flight = self.shared.lanes.in_flight_len(),
            messages.finished = finished,
            lag_ms = backlog.lag_ms,
            polls,
            calls.metered = calls,
            calls.throttled = throttled,
            readers.new = readers,
            events.taken = events_taken,
            events.dropped = events_dropped,
            pruned.messages = pruned.messages,
            pruned.readers = pruned.readers,
            lines_left_out,
            wal_bytes = backlog.wal_bytes,
            wal_held_bytes = backlog.wal_held_bytes,
            "summary: {pending} pending, {due} due (the oldest for {lag}), {polls} polls with {calls} calls, \
             {readers} readers seen, {finished} messages finished{remarks}"
        );
    }

    // --- retention -----------------------------------------------------------------------------------------------

    /// Pushed reads that waited for a day for their message go.
    async fn forget_pushed(&mut self) -> Result<()> {
        let began = Instant::now();
        let interval = self.shared.lanes.configured().settings.log.summary_interval;
        self.next_forget = began + interval;
        let reading = self.shared.clock.look();
        if was_set_forward(&reading) || !self.shared.nodes.keeps_house(&self.shared.lanes) {
            return Ok(());
        }
        let lately = reading.now - 2 * interval.max(INTERVAL_LOOKED_BACK);
        let before = reading.now - EVENTS_WAIT;
        let store = &self.shared.store;
        let dropped = store.forget_events(before, lately, EVENTS_A_STEP).await?;
        if dropped > 0 {
            self.shared.summary.add(Counts {
                events_dropped: dropped,
                ..Counts::default()
            });
            self.next_forget = Instant::now() + began.elapsed();
        }
        Ok(())
    }

    /// One step of retention.
    async fn prune(&mut self) -> Result<()> {
        let began = Instant::now();
        let settings = self.shared.lanes.configured().settings.clone();
        self.next_prune = began + settings.log.summary_interval;
        let reading = self.shared.clock.look();
        let Some(kept) = settings.retention.finished else {
            return Ok(());
        };
        if was_set_forward(&reading) || !self.shared.nodes.keeps_house(&self.shared.lanes) {
            return Ok(());
        }
        let pruned = self.prune_before(reading.now - kept).await?;
        if pruned != Pruned::default() {
            self.shared.summary.add(Counts {
                pruned,
                ..Counts::default()
            });
            // As long as this one took: the longer results have to wait, the more of the time is left to them.
            self.next_prune = Instant::now() + began.elapsed();
        }
        Ok(())
    }

    async fn prune_before(&self, before: UnixMs) -> std::result::Result<Pruned, StoreError> {
        let pruned = self.shared.store.prune(before, None).await?;
        if pruned.held > 0
            && let Some(again) = self
                .shared
                .warnings
                .admit("finished messages are held by a foreign key")
        {
            let held = pruned.held;
            tracing::warn!(
                messages.held = held,
                suppressed = again.count(),
                "{held} finished messages cannot be removed, since rows of another table refer to them; remove those rows \
                 first, or declare their foreign key with ON DELETE CASCADE or SET NULL{again}"
            );
        }
        Ok(pruned)
    }
}

/// Whether the wall clock was set forward lately: nothing is as old as it seems.
fn was_set_forward(reading: &Reading) -> bool {
    reading.jump.is_some_and(|jump| {
        matches!(jump.step, Step::Forward(by) if by > SMALL_STEP)
            && jump.noticed.elapsed() < PRUNE_HOLD_AFTER_JUMP
    })
}

/// Stores what was learned of these lanes since the last time.
pub(super) async fn save_habits(shared: &Shared, lanes: &[Arc<Lane>]) -> Result<()> {
    let mut rows = Vec::new();
    let unsaved = lanes.iter().filter(|lane| {
        let habits = lane.policy.take_unsaved();
        let before = rows.len();
        rows.extend(habits.into_iter().map(|(chat, habits)| HabitsRow {
            lane: lane.id.clone(),
            chat,
            habits,
            lease: lane.lease.clone(),
        }));
        rows.len() > before
    });
    let lanes: Vec<_> = unsaved.collect();
    if rows.is_empty() {
        return Ok(());
    }
    let saved = shared.store.save_habits(&rows).await;
    if saved.is_err() {
        for lane in lanes {
            lane.policy.mark_unsaved();
        }
    }
    saved
}

/// What happened since the last summary.
#[derive(Debug, Default)]
pub(super) struct SummaryCounters(Mutex<Counts>);

/// Numbers since the last summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Walks that made a call.
    pub(super) polls: u64,
    /// Metered calls.
    pub(super) calls: u64,
    /// Throttled calls.
    pub(super) throttled: u64,
    /// Readers recorded.
    pub(super) readers: u64,
    /// Messages that became final.
    pub(super) finished: u64,
    /// Pushed reads taken over.
    pub(super) events_taken: u64,
    /// Pushed reads removed: their message did not come within a day, or they could not be read.
    pub(super) events_dropped: u64,
    /// What retention removed.
    pub(super) pruned: Pruned,
    /// Lines about messages that the log was spared.
    pub(super) lines_left_out: u64,
}

impl SummaryCounters {
    pub(super) fn add(&self, more: Counts) {
        let mut sum = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sum.polls += more.polls;
        sum.calls += more.calls;
        sum.throttled += more.throttled;
        sum.readers += more.readers;
        sum.finished += more.finished;
        sum.events_taken += more.events_taken;
        sum.events_dropped += more.events_dropped;
        sum.pruned.messages += more.pruned.messages;
        sum.pruned.readers += more.pruned.readers;
        sum.lines_left_out += more.lines_left_out;
    }

    /// Takes what was counted; counting begins again.
    fn take(&self) -> Counts {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a summary adds where there is something to add.
fn remarks(counts: &Counts, backlog: &Backlog) -> String {
    let mut remarks = String::new();
    let mut add = |remark: String| {
        remarks.push_str(", ");
        remarks.push_str(&remark);
    };
    if counts.throttled > 0 {
        add(format!("{} calls throttled", counts.throttled));
    }
    if counts.events_taken > 0 {
        add(format!("{} pushed reads taken over", counts.events_taken));
    }
    if counts.events_dropped > 0 {
        add(format!(
            "{} pushed reads removed whose message did not come within a day",
            counts.events_dropped
        ));
    }
    if counts.pruned != Pruned::default() {
        let Pruned {
            messages, readers, ..
        } = counts.pruned;
        add(format!("{messages} messages and {readers} readers removed"));
    }
    if counts.lines_left_out > 0 {
        add(format!("{} lines left out", counts.lines_left_out));
    }
    if backlog.wal_held_bytes >= WAL_NAMED_BYTES {
        let held = backlog.wal_held_bytes / MIB;
        add(format!(
            "{held} MiB of the write-ahead log cannot be checkpointed: a process keeps a transaction open"
        ));
    }
    remarks
}
