//! What is due, whose turn it is: rows become jobs.

mod ages;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::clock::Steps;
use super::in_flight::InFlight;
use super::lanes::Lanes;
use super::plans::Plans;
use super::pulse::{BEAT, CoreLoop};
use super::vitals::Vitals;
use super::worker::Job;
use super::{Clock, DaemonError, Stop};
use crate::receipt::{ErrorCode, LaneId, Message, Outcome, UnixMs};
use crate::settings::Settings;
use crate::store::{Result, Store};

pub(super) struct Scheduler<S> {
    pub(super) store: Arc<S>,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) clock: Clock,
    pub(super) lanes: Arc<Lanes>,
    pub(super) plans: Arc<Plans>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) outcomes: mpsc::Sender<Outcome>,
    pub(super) vitals: Vitals,
    pub(super) stop: Stop,
}

/// Rows placed in the cadence, or ended, in one transaction.
const SLICE: usize = 500;
/// Claims that are out of all lanes together, for each place among the calls under way. A lane with nothing in
/// flight may always claim one. While one half is committed the other is called: fewer leave the workers idle, more buy
/// little, and are walks to repeat after a crash.
pub(super) const CLAIMS_A_PLACE: usize = 12;
/// Rows at the end of their life in lanes that may not call are looked for so often, since it reads the whole lane.
const SWEEP: Duration = Duration::from_secs(30);
/// Walks that wait are called back this soon after a feeder cancelled, deleted or re-scheduled their row.
const RECALL: Duration = Duration::from_millis(250);
/// Lanes whose last chances jam are looked at so often.
const JAMMED: Duration = Duration::from_millis(250);
/// The commit that frees claims is noticed as a change too, so much later at most: one round serves both.
const ECHO: Duration = Duration::from_millis(3);
/// After a passing error of the database.
const PATIENCE: Duration = Duration::from_millis(200);

/// A lane's part in a round.
#[derive(Debug, Default)]
struct Work {
    /// When its first admitted row is due.
    due: Option<UnixMs>,
    /// It has rows that were never admitted.
    arrivals: bool,
}

/// What the rounds remember.
struct Memory {
    swept: Option<Instant>,
    recalled: Instant,
    steps: Steps,
    /// The moment of this round. Read once: were the clock stepped within a round, rows would be judged by the new clock
    /// before the step was noticed.
    now: UnixMs,
    /// When the wall clock was stepped last: `max_age` ends no row before a poll after that.
    stepped_at: Option<UnixMs>,
}

impl<S: Store> Scheduler<S> {
    pub(super) async fn run(mut self) -> std::result::Result<(), DaemonError> {
        let mut memory = Memory {
            swept: None,
            recalled: Instant::now(),
            steps: Steps::new(self.clock.now(), Instant::now()),
            now: self.clock.now(),
            stepped_at: None,
        };
        let mut wake = Instant::now();
        // `changed` resolves at once the first time, so registering before the query loses nothing.
        while !self.stop.soft.is_cancelled() {
            self.vitals.pulse().beat(CoreLoop::Scheduler);
            if self.settings.has_changed().unwrap_or(false) {
                self.reload();
                memory.swept = None;
                wake = Instant::now();
            }
            wake = match self.turn(wake, &mut memory).await {
                Ok(wake) => {
                    self.vitals.set_ready();
                    wake
                }
                Err(error) if error.is_transient() => {
                    let warnings = self.vitals.warnings();
                    if let Some(again) = warnings.admit("due messages cannot be read") {
                        tracing::warn!(
                            error = %error,
                            suppressed = again.count(),
                            "due messages cannot be read now: {error}; trying again{again}"
                        );
                    }
                    Instant::now() + PATIENCE
                }
                Err(error) => return Err(error.into()),
            };
            let latest = match self.in_flight.len() {
                0 => Instant::now() + BEAT,
                _ => memory.recalled + RECALL,
            };
            let changed = tokio::select! {
                () = self.stop.soft.cancelled() => break,
                () = tokio::time::sleep_until(wake.min(latest)) => continue,
                () = self.in_flight.freed() => {
                    let echo = tokio::time::timeout(ECHO, self.store.changed()).await;
                    echo.unwrap_or(Ok(()))
                }
                changed = self.store.changed() => changed,
                _ = self.settings.changed() => {
                    self.settings.mark_changed();
                    Ok(())
                }
            };
            match changed {
                Ok(()) => wake = Instant::now(),
                Err(error) if error.is_transient() => tokio::time::sleep(PATIENCE).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// A round if it is time for one, and what is to be called back; when the next round is due.
    async fn turn(&self, wake: Instant, memory: &mut Memory) -> Result<Instant> {
        if memory.recalled.elapsed() >= RECALL {
            memory.recalled = Instant::now();
            let stale = self.store.stale(&self.in_flight.claims()).await?;
            self.in_flight.recall(&stale);
        }
        if Instant::now() < wake {
            return Ok(wake);
        }
        self.round(memory).await
    }

    fn reload(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        self.plans.reload(&settings);
        if let Err(error) = self.lanes.reload(&settings) {
            tracing::error!(
                error = %error,
                "configuration: the new [endpoint] does not take, the old one stays: {error}"
            );
        }
        self.vitals.took(settings);
    }

    /// Claims what may start; when to look again at the latest.
    async fn round(&self, memory: &mut Memory) -> Result<Instant> {
        self.heed_steps(memory).await?;
        let sweep = memory.swept.is_none_or(|at| at.elapsed() >= SWEEP);
        if sweep {
            memory.swept = Some(Instant::now());
        }
        let mut lanes: BTreeMap<LaneId, Work> = BTreeMap::new();
        for due in self.store.lanes(&self.in_flight.ids()).await? {
            lanes.entry(due.lane).or_default().due = Some(due.next_poll_at);
        }
        for lane in self.store.new_lanes().await? {
            lanes.entry(lane).or_default().arrivals = true;
        }
        let share = (self.capacity() / lanes.len().max(1)).max(1);
        let mut wake = Instant::now() + BEAT;
        for (lane, work) in &lanes {
            wake = wake.min(self.serve(lane, work, share, sweep, memory).await?);
        }
        Ok(wake)
    }

    /// One lane's turn in a round; when it wants the next at the latest.
    async fn serve(
        &self,
        lane: &LaneId,
        work: &Work,
        share: usize,
        sweep: bool,
        memory: &mut Memory,
    ) -> Result<Instant> {
        let setup = match self.lanes.setup(lane) {
            Ok(setup) => setup,
            Err(code) => return self.serve_unasked(lane, work, &code, sweep, memory).await,
        };
        let now = memory.now;
        let gate = self.lanes.gate(lane);
        gate.reconsider(&setup).await;
        // After the gate was made: a new one is open from then on, and a closed one has all its lane read.
        let here = Instant::now();
        let (from, most) = gate.allowance(setup.account.calls_per_second, share);
        let jammed = !self.plans.plan(lane).schedule().spread.is_zero();
        let due = work.due.is_some_and(|due| due <= now || jammed);
        let mut wake = work
            .due
            .filter(|at| *at > now)
            .map_or(here + BEAT, |at| here + at.since(now));
        if jammed {
            // Last chances are taken one by one before they are due.
            wake = wake.min(here + JAMMED);
        }
        let mut free = 0;
        if from > here {
            if sweep {
                self.end_overaged(lane, now, memory).await?;
            }
            // Soon enough to notice a mended secret.
            wake = wake.min(from).min(here + Duration::from_secs(1));
        } else if due || work.arrivals {
            free = self.free_claims(lane, most);
            if due && free > 0 {
                // A lane that may have one call has as much of its backlog to end that outlived its age.
                let look = if most == 1 { SLICE } else { free };
                free -= self.claim_due(lane, now, free, look, memory).await?;
                if free == 0 && self.in_flight.of_lane(lane) < most {
                    // More of the lane may be due.
                    wake = here + Duration::from_millis(1);
                }
            }
        }
        if work.arrivals && self.take_arrivals(lane, free, memory).await? {
            wake = Instant::now();
        }
        Ok(wake)
    }

    /// The turn of a lane that no configuration names: its rows are told why they wait.
    async fn serve_unasked(
        &self,
        lane: &LaneId,
        work: &Work,
        code: &ErrorCode,
        sweep: bool,
        memory: &mut Memory,
    ) -> Result<Instant> {
        let now = memory.now;
        let more = work.arrivals && self.take_arrivals(lane, 0, memory).await?;
        if sweep || work.arrivals {
            self.note_unasked(lane, code, now).await?;
        }
        if sweep {
            self.end_overaged(lane, now, memory).await?;
        }
        let pause = if more { Duration::ZERO } else { BEAT };
        Ok(Instant::now() + pause)
    }

    /// How many more claims of the lane may be out, of which it may have `most`.
    fn free_claims(&self, lane: &LaneId, most: usize) -> usize {
        let held = self.in_flight.of_lane(lane);
        let room = self.capacity().saturating_sub(self.in_flight.len());
        most.saturating_sub(held)
            .min(room.max(usize::from(held == 0)))
    }

    /// Sends due rows to the workers, `free` at most; how many. Of the `look` rows that are looked at, those that end by
    /// their age need no free claim.
    async fn claim_due(
        &self,
        lane: &LaneId,
        now: UnixMs,
        free: usize,
        look: usize,
        memory: &Memory,
    ) -> Result<usize> {
        let ids = self.in_flight.ids();
        let until = now + self.plans.plan(lane).schedule().spread;
        let rows = self.store.due(lane, now, until, &ids, look).await?;
        let mut claimed = 0;
        for row in rows {
            if self.is_overaged(&row, now, memory) {
                self.end(&row, now).await;
            } else if claimed < free {
                claimed += 1;
                self.start(row, now).await;
            }
        }
        Ok(claimed)
    }

    /// Takes a slice of a lane's new rows: `free` of those that are past their first poll's age already are called at
    /// once, which needs no write before the call; the others get their place in the cadence. Where a budget holds, all
    /// are placed first: calls for some must leave room for the last chances of all. Whether there may be more.
    async fn take_arrivals(&self, lane: &LaneId, free: usize, memory: &Memory) -> Result<bool> {
        let now = memory.now;
        let ids = self.in_flight.ids();
        let rows = self.store.arrivals(lane, &ids, SLICE, now).await?;
        let more = rows.len() == SLICE;
        let plan = self.plans.plan(lane);
        let purse = self.lanes.purse(lane);
        let mut free = if purse.is_some() { 0 } else { free };
        let mut admitted = Vec::new();
        for row in rows {
            let placed = plan.schedule().admit(&row, now);
            if free > 0 && placed.next_poll_at.is_some_and(|due| due <= now) {
                free -= 1;
                if self.is_overaged(&row, now, memory) {
                    self.end(&row, now).await;
                } else {
                    self.start(row, now).await;
                }
            } else {
                admitted.push(placed);
            }
        }
        if !admitted.is_empty() {
            self.store.admit(&admitted).await?;
            if let Some(purse) = purse {
                let ends_at = purse.ends_at(now);
                let owed = admitted.iter().filter(|row| row.owes_last_chance(ends_at));
                purse.shift_owed(owed.count() as u64, 0);
            }
        }
        Ok(more)
    }

    fn capacity(&self) -> usize {
        self.settings.borrow().workers.concurrency * CLAIMS_A_PLACE
    }

    /// Sends a row to the workers.
    async fn start(&self, row: Message, now: UnixMs) {
        let claim = row.claim();
        let recall = self.in_flight.take(claim.clone());
        fail::fail_point!("daemon.claim", |_| std::process::abort());
        let sent = match self.lanes.setup(&row.lane) {
            Ok(setup) => {
                let job = Job {
                    call: self.plans.plan(&row.lane).schedule().call(&row, now),
                    gate: self.lanes.gate(&row.lane),
                    message: row,
                    setup,
                    recall,
                };
                let pulse = self.vitals.pulse();
                let sending = self.jobs.send(job);
                let sent = pulse.while_waiting(CoreLoop::Scheduler, sending).await;
                sent.is_ok()
            }
            Err(_) => false,
        };
        if !sent {
            self.in_flight.free(std::iter::once(claim.id));
        }
    }

    async fn note_unasked(&self, lane: &LaneId, code: &ErrorCode, now: UnixMs) -> Result<()> {
        let noted = self.store.note_lane_error(lane, code, now, SLICE).await?;
        let warnings = self.vitals.warnings();
        if noted > 0
            && let Some(again) = warnings.admit(format!("account {lane}: {code}"))
        {
            let what = if code.as_str() == "account.unknown" {
                "no [accounts] section of the configuration has this name; add it and reload"
            } else {
                "rows of a third-party app need a corp_id"
            };
            tracing::warn!(
                account = %lane.account,
                corp_id = lane.corp.as_ref().map(tracing::field::display),
                error.code = %code,
                messages.waiting = noted,
                suppressed = again.count(),
                "account {lane}: {code}: {what}; {noted} messages wait{again}"
            );
        }
        Ok(())
    }
}
