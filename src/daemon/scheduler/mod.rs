//! What is due, whose turn it is: rows become jobs.
//!
//! A round claims due rows of all lanes first, then places a slice of the new rows of all lanes in one transaction. So neither
//! a lane with a million rows nor ten thousand lanes with a row each delay another's first.
//!
//! Here are the loop and the choice of due rows; `placing` has new rows, `ends` those that end by their age.

mod ends;
mod placing;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::clock::Jump;
use super::lane::{Lane, Leave, has_robot};
use super::status::{HEARTBEAT_INTERVAL, LoopName};
use super::worker::Job;
use super::{Configured, DaemonError, Shared};
use crate::receipt::{AccountName, LaneId, Message, MessageId, Outcome, UnixMs};
use crate::store::{DueQuery, LaneDue, Result, Scope, Unplace, Wanted};

pub(super) struct Scheduler {
    shared: Arc<Shared>,
    configured: watch::Receiver<Arc<Configured>>,
    jobs: mpsc::Sender<Job>,
    outcomes: mpsc::Sender<Outcome>,
    /// The moment of this round. Read once: were the clock stepped within a round, rows would be judged by the new clock
    /// before the step was noticed.
    now: UnixMs,
    /// The last jump of the wall clock that was dealt with: `max_age` ends no row before a poll after it.
    jump: Option<Jump>,
    /// The lanes are not looked through again before.
    next_look: Instant,
    next_sweep: Instant,
    next_stale_check: Instant,
    /// Behind which lane the next slice of new rows begins.
    place_after: Option<LaneId>,
    /// Whether a row was placed since the slices began with the first lane.
    placed: bool,
    next_house: Instant,
    /// The accounts that some node names, as of the last look at what nobody names.
    named: HashSet<AccountName>,
}

/// Rows ended by their age, or made new again, in one step.
const SLICE: usize = 500;
/// Claims that are out of all lanes together, for each place among the calls under way. A lane with nothing in
/// flight may always claim one. While one half is committed the other is called: fewer leave the workers idle, more buy
/// little, and are walks to repeat after a crash.
pub(super) const CLAIMS_A_PLACE: usize = 12;
/// Claims that are out at most, for each that may be busy: walks that wait to try again hold memory all the same.
const CLAIMS_WAITING: usize = 8;
/// Rows that are looked at where the lane may have one: those that outlived their age end without a call.
const LOOKED_AT: usize = 50;
/// Rows at the end of their life in lanes that may not call are looked for this often, since it reads whole lanes.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Walks that wait are called back this soon after a feeder cancelled, deleted or re-scheduled their row.
const STALE_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Lanes whose last chances are taken early are looked at this often.
const EARLY_CHANCES_INTERVAL: Duration = Duration::from_millis(250);
/// The commit that frees claims is noticed as a change too, this much later at most: one round serves both.
const COMMIT_COALESCE_WINDOW: Duration = Duration::from_millis(3);
/// After a passing error of the database.
const RETRY_DELAY: Duration = Duration::from_millis(200);
/// A look through all lanes takes at most this part of the time.
const LOOK_SHARE: u32 = 4;

/// What a round asks of many lanes at once: which rows, last chances until when, and how many of each lane.
type Asked = BTreeMap<(Wanted, UnixMs), Vec<(Arc<Lane>, usize)>>;

impl Scheduler {
    pub(super) fn new(
        shared: Arc<Shared>,
        configured: watch::Receiver<Arc<Configured>>,
        jobs: mpsc::Sender<Job>,
        outcomes: mpsc::Sender<Outcome>,
    ) -> Self {
        let now = Instant::now();
        Self {
            now: shared.clock.now(),
            jump: shared.clock.look().jump,
            shared,
            configured,
            jobs,
            outcomes,
            next_look: now,
            next_sweep: now,
            next_stale_check: now,
            place_after: None,
            placed: false,
            next_house: now,
            named: HashSet::new(),
        }
    }

    pub(super) async fn run(mut self) -> std::result::Result<(), DaemonError> {
        let shared = self.shared.clone();
        let mut wake = Instant::now();
        let mut placed_anew = false;
        let heartbeats = shared.handle.heartbeats();
        tokio::select! {
            () = shared.stop.graceful.cancelled() => {}
            () = heartbeats.while_waiting(LoopName::Scheduler, shared.nodes.joined()) => {}
        }
        // `changed` resolves at once the first time, so registering before the query loses nothing.
        while !shared.stop.graceful.is_cancelled() {
            self.beat();
            if self.configured.has_changed().unwrap_or(false) {
                self.reload();
                placed_anew = false;
            }
            let turn = async {
                if !placed_anew {
                    self.place_anew().await?;
                    placed_anew = true;
                }
                self.turn(wake).await
            };
            wake = match turn.await {
                Ok(wake) => {
                    shared.handle.set_ready();
                    wake
                }
                Err(error) if error.is_transient() => {
                    if let Some(again) = shared.warnings.admit("due messages cannot be read") {
                        tracing::warn!(
                            error = %error,
                            suppressed = again.count(),
                            "due messages cannot be read now: {error}; trying again{again}"
                        );
                    }
                    Instant::now() + RETRY_DELAY
                }
                Err(error) => return Err(error.into()),
            };
            let latest = match shared.lanes.in_flight_len() {
                0 => Instant::now() + HEARTBEAT_INTERVAL,
                _ => self.next_stale_check,
            };
            let changed = tokio::select! {
                () = shared.stop.graceful.cancelled() => break,
                () = tokio::time::sleep_until(wake.min(latest)) => continue,
                () = shared.wake.notified() => {
                    let echo = tokio::time::timeout(COMMIT_COALESCE_WINDOW, shared.store.changed());
                    let echo = echo.await;
                    if matches!(echo, Ok(Ok(()))) {
                        shared.foreign_change();
                    }
                    echo.unwrap_or(Ok(()))
                }
                changed = shared.store.changed() => {
                    shared.foreign_change();
                    changed
                }
                Ok(()) = self.configured.changed() => {
                    self.configured.mark_changed();
                    Ok(())
                }
            };
            match changed {
                Ok(()) => wake = Instant::now(),
                Err(error) if error.is_transient() => tokio::time::sleep(RETRY_DELAY).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn beat(&self) {
        self.shared.handle.heartbeats().beat(LoopName::Scheduler);
    }

    fn reload(&mut self) {
        let configured = self.configured.borrow_and_update().clone();
        self.shared.lanes.reload(configured.clone(), &self.shared);
        self.shared.nodes.reloaded();
        self.next_sweep = Instant::now();
        self.next_look = Instant::now();
    }

    /// After a start or a reload: budgets begin with what the month has cost, and rows that waited for the configuration are
    /// placed by it. Only then is it in force.
    async fn place_anew(&mut self) -> Result<()> {
        self.shared.lanes.refresh_budgets(&self.shared).await?;
        for account in self.shared.lanes.accounts() {
            self.unplace(&Unplace::Waiting(account), &[]).await?;
        }
        self.shared.handle.took(self.shared.lanes.configured());
        Ok(())
    }

    /// Makes rows new again, all of them but those in flight.
    async fn unplace(&self, which: &Unplace, in_flight: &[MessageId]) -> Result<()> {
        while self.shared.store.unplace(which, in_flight, SLICE).await? > 0 {
            self.beat();
        }
        Ok(())
    }

    /// A round if it is time for one, and what is to be called back; when the next round is due.
    async fn turn(&mut self, wake: Instant) -> Result<Instant> {
        let now = Instant::now();
        if now >= self.next_stale_check {
            self.next_stale_check = now + STALE_CHECK_INTERVAL;
            let claims = self.shared.lanes.claims();
            let stale = self.shared.store.stale(&claims).await?;
            self.shared.lanes.recall(&stale);
        }
        if Instant::now() < wake {
            return Ok(wake);
        }
        self.round().await
    }

    /// Claims what may start, and places a slice of what is new; when to look again at the latest.
    async fn round(&mut self) -> Result<Instant> {
        self.handle_clock_jump().await?;
        let mut wake = Instant::now() + HEARTBEAT_INTERVAL;
        if Instant::now() >= self.next_look {
            wake = wake.min(self.claim_due().await?);
        } else {
            wake = wake.min(self.next_look);
        }
        self.beat();
        if self.place_new().await? {
            wake = Instant::now();
        }
        if Instant::now() >= self.next_sweep {
            self.next_sweep = Instant::now() + SWEEP_INTERVAL;
            self.sweep().await?;
        }
        self.keep_house().await?;
        Ok(wake)
    }

    // --- due rows ------------------------------------------------------------------------------------------------

    /// Claims due rows, fairly across lanes; when the next is due.
    async fn claim_due(&mut self) -> Result<Instant> {
        let without = self.shared.lanes.in_flight();
        let began = Instant::now();
        let accounts = self.shared.lanes.looked_for();
        let scope = accounts.as_deref().map_or(Scope::All, Scope::Of);
        let due = self.shared.store.lanes(scope, &without).await?;
        self.next_look = Instant::now() + began.elapsed() * (LOOK_SHARE - 1);
        let served = self.served(due).await?;
        let share = (self.capacity() / served.len().max(1)).max(1);
        let mut wake = Instant::now() + HEARTBEAT_INTERVAL;
        let mut asked = Asked::new();
        for (lane, due) in &served {
            wake = wake.min(self.ask(lane, due, share, &mut asked));
        }
        for ((wanted, until), lanes) in asked {
            self.beat();
            if self.claim(wanted, until, &lanes).await? {
                // More may be due.
                wake = wake.min(Instant::now() + Duration::from_millis(1));
            }
        }
        Ok(wake)
    }

    /// The lanes that are served, of those with placed rows. The rows of the others are placed anew.
    async fn served(&mut self, due: Vec<LaneDue>) -> Result<Vec<(Arc<Lane>, LaneDue)>> {
        let lanes = &self.shared.lanes;
        let (fit, misfits): (Vec<LaneDue>, Vec<LaneDue>) = due
            .into_iter()
            .partition(|due| lanes.lane_of(&due.lane).as_ref() == Ok(&due.lane));
        if !misfits.is_empty() {
            let in_flight = self.shared.lanes.in_flight();
            let lanes = misfits.into_iter().map(|due| due.lane).collect();
            self.unplace(&Unplace::Lanes(lanes), &in_flight).await?;
        }
        let wanted: Vec<LaneId> = fit.iter().map(|due| due.lane.clone()).collect();
        self.shared.lanes.load(&wanted, &self.shared).await?;
        let served = fit
            .into_iter()
            .filter_map(|due| Some((self.shared.lanes.get(&due.lane)?, due)));
        Ok(served.collect())
    }

    /// Decides what to ask for a lane in this round; when it wants the next at the latest.
    fn ask(&self, lane: &Arc<Lane>, due: &LaneDue, share: usize, asked: &mut Asked) -> Instant {
        let here = Instant::now();
        let at = |due: UnixMs| here + due.since(self.now);
        let mut wake = here + HEARTBEAT_INTERVAL;
        if let Some(due) = due.sound_at.filter(|due| *due > self.now) {
            wake = wake.min(at(due));
        }
        let early = lane.policy.last_chances_until();
        let early = early.filter(|until| *until > self.now);
        let until = early.unwrap_or(self.now);
        let sound_due = early.is_some() || due.sound_at.is_some_and(|due| due <= self.now);
        let failing_due = due.failing_at.is_some_and(|due| due <= self.now);
        if early.is_some() {
            wake = wake.min(here + EARLY_CHANCES_INTERVAL);
        }
        let setup = lane.setup();
        let retry = &setup.configured.settings.retry;
        let health = lane.health();
        let leave = match self.shared.address.banned_until() {
            Some(until) => Leave::At(until),
            None => health.leave(here),
        };
        let mut want = |wanted, until, rows| {
            let of_kind = asked.entry((wanted, until)).or_default();
            of_kind.push((lane.clone(), rows));
        };
        match leave {
            Leave::At(until) => return wake.min(until).max(here + Duration::from_millis(1)),
            Leave::Probe(_) | Leave::Closed => {
                if health.is_in_trouble() {
                    want(Wanted::LastChances, until, share);
                }
                match leave {
                    Leave::Probe(at) if at > here => wake = wake.min(at),
                    Leave::Probe(_) if lane.busy_claims() > 0 => {}
                    Leave::Probe(_) if sound_due => want(Wanted::SoundShuffled, until, 1),
                    Leave::Probe(_) if failing_due => want(Wanted::Failing, self.now, 1),
                    _ => {}
                }
                return wake;
            }
            Leave::Open => {}
        }
        let rate = usize::try_from(setup.account.calls_per_second).unwrap_or(usize::MAX);
        let free = self.free_claims(lane, rate.clamp(4, share.max(4)));
        if free > 0 && sound_due {
            let recovering = health.is_recovering(here, retry);
            let wanted = if recovering {
                Wanted::SoundShuffled
            } else {
                Wanted::Sound
            };
            want(wanted, until, free);
        }
        if free > 0 && due.failing_at.is_some_and(|due| due <= until) {
            // They go one at a time, but for their last chances.
            want(Wanted::LastChances, until, free);
        }
        match (health.failing_from(here, retry), due.failing_at) {
            (_, None) => {}
            (_, Some(due)) if due > self.now => wake = wake.min(at(due)),
            (None, Some(_)) => want(Wanted::Failing, self.now, free),
            (Some(from), Some(_)) if from > here => wake = wake.min(from),
            (Some(_), Some(_)) if lane.failing.load(Ordering::Relaxed) == 0 => {
                want(Wanted::Failing, self.now, free.min(1));
            }
            _ => {}
        }
        wake
    }

    /// How many more claims of the lane may be out, of which it may have `most` that do not wait.
    fn free_claims(&self, lane: &Lane, most: usize) -> usize {
        let (busy, held) = (lane.busy_claims(), lane.claims.load(Ordering::Relaxed));
        let all = self.shared.lanes.in_flight_len();
        if all >= self.capacity() * CLAIMS_WAITING {
            return 0;
        }
        let room = self.capacity().saturating_sub(self.shared.busy_claims());
        most.saturating_sub(busy)
            .min(room.max(usize::from(held == 0)))
    }

    fn capacity(&self) -> usize {
        self.shared.concurrency * CLAIMS_A_PLACE
    }

    /// Sends due rows of lanes to the workers, of each lane as many as it may have; whether a lane may have more due.
    async fn claim(
        &mut self,
        wanted: Wanted,
        until: UnixMs,
        lanes: &[(Arc<Lane>, usize)],
    ) -> Result<bool> {
        let ids: Vec<LaneId> = lanes.iter().map(|(lane, _)| lane.id.clone()).collect();
        let most = lanes.iter().map(|(_, rows)| *rows).max().unwrap_or(0);
        let without = self.shared.lanes.in_flight();
        let query = DueQuery {
            lanes: &ids,
            wanted,
            now: self.now,
            last_chances_until: until,
            without: &without,
            per_lane: if most == 1 {
                (LOOKED_AT / ids.len()).max(1)
            } else {
                most
            },
        };
        let mut free: HashMap<&LaneId, (&Arc<Lane>, usize)> = lanes
            .iter()
            .map(|(lane, rows)| (&lane.id, (lane, *rows)))
            .collect();
        let mut more = false;
        let mut without_robot = Vec::new();
        for row in self.shared.store.due(&query).await? {
            let Some((lane, free)) = free.get_mut(&row.lane) else {
                continue;
            };
            if self.is_too_old(&row) {
                self.end(&row, Some(lane)).await;
            } else if !has_robot(&row, &lane.setup().account) {
                without_robot.push(row.id);
            } else if *free > 0 {
                *free -= 1;
                more |= *free == 0;
                let out_of_turn = wanted == Wanted::LastChances && lane.is_in_trouble();
                self.start(row, lane, out_of_turn).await;
            }
        }
        if !without_robot.is_empty() {
            // Their robot was taken away after they were placed: placed anew, they wait for another.
            more = true;
            let limit = without_robot.len();
            let which = Unplace::Rows(without_robot);
            let in_flight = self.shared.lanes.in_flight();
            self.shared.store.unplace(&which, &in_flight, limit).await?;
            self.shared.wake.notify_one();
        }
        Ok(more && most > 1)
    }

    /// Sends a row to the workers.
    async fn start(&self, row: Message, lane: &Arc<Lane>, out_of_turn: bool) {
        let mut claim = row.claim();
        claim.lease.clone_from(&lane.lease);
        let id = claim.id;
        let is_failing = row.failed_walks > 0;
        let recall = self
            .shared
            .lanes
            .take(claim, Some(lane.clone()), is_failing);
        fail::fail_point!("daemon.claim", |_| std::process::abort());
        let job = Job {
            message: row,
            lane: lane.clone(),
            out_of_turn,
            recall,
        };
        let heartbeats = self.shared.handle.heartbeats();
        let sending = self.jobs.send(job);
        let sent = heartbeats.while_waiting(LoopName::Scheduler, sending).await;
        if sent.is_err() {
            self.shared.lanes.free(std::iter::once(id));
        }
    }
}
