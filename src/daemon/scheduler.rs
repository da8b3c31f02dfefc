//! What is due, whose turn it is: rows become jobs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::in_flight::InFlight;
use super::lanes::Lanes;
use super::plans::Plans;
use super::worker::Job;
use super::{Clock, DaemonError, Stop};
use crate::receipt::{ErrorCode, Lane, Message, Outcome, UnixMs, WalkEnd};
use crate::settings::Settings;
use crate::store::{Result, Store};
use crate::telemetry::Repeats;

pub(super) struct Scheduler<S> {
    pub(super) store: Arc<S>,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) clock: Clock,
    pub(super) lanes: Arc<Lanes>,
    pub(super) plans: Arc<Plans>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) jobs: mpsc::Sender<Job>,
    pub(super) outcomes: mpsc::Sender<Outcome>,
    pub(super) stop: Stop,
}

/// The longest sleep: a loop that waits still turns.
const BEAT: Duration = Duration::from_secs(5);
/// New rows placed in the cadence at once.
const ARRIVALS: usize = 500;
/// Claims that are out of all lanes together, for each place among the calls under way. A lane with nothing in
/// flight may always claim one.
const CLAIMS_A_PLACE: usize = 4;
/// Rows at the end of their life in lanes that may not call are looked for so often, since it reads the whole lane.
const SWEEP: Duration = Duration::from_secs(30);
/// Walks that wait are called back this soon after a feeder cancelled, deleted or re-scheduled their row.
const RECALL: Duration = Duration::from_millis(100);
/// After a passing error of the database.
const PATIENCE: Duration = Duration::from_millis(200);

impl<S: Store> Scheduler<S> {
    pub(super) async fn run(mut self) -> std::result::Result<(), DaemonError> {
        let mut repeats = Repeats::new();
        let mut last_sweep: Option<Instant> = None;
        let mut last_recall = Instant::now();
        // Resolves at once the first time, so registering before the query loses nothing.
        while !self.stop.soft.is_cancelled() {
            if self.settings.has_changed().unwrap_or(false) {
                self.reload();
                last_sweep = None;
            }
            let sweep = last_sweep.is_none_or(|at| at.elapsed() >= SWEEP);
            if sweep {
                last_sweep = Some(Instant::now());
            }
            let recall = last_recall.elapsed() >= RECALL;
            if recall {
                last_recall = Instant::now();
            }
            let wake = match self.round(sweep, recall, &mut repeats).await {
                Ok(wake) => wake,
                Err(error) if error.is_transient() => {
                    if repeats
                        .admit("scheduler.store", std::time::Instant::now())
                        .is_some()
                    {
                        tracing::warn!("due messages cannot be read now: {error}; trying again");
                    }
                    Instant::now() + PATIENCE
                }
                Err(error) => return Err(error.into()),
            };
            let wake = if self.in_flight.len() > 0 {
                wake.min(last_recall + RECALL)
            } else {
                wake.min(Instant::now() + BEAT)
            };
            tokio::select! {
                () = self.stop.soft.cancelled() => break,
                () = tokio::time::sleep_until(wake) => {}
                () = self.in_flight.freed() => {}
                changed = self.store.changed() => match changed {
                    Ok(()) => {}
                    Err(error) if error.is_transient() => tokio::time::sleep(PATIENCE).await,
                    Err(error) => return Err(error.into()),
                },
                _ = self.settings.changed() => self.reload(),
            }
        }
        Ok(())
    }

    fn reload(&mut self) {
        let settings = self.settings.borrow_and_update().clone();
        self.plans.reload(&settings);
        if let Err(error) = self.lanes.reload(&settings) {
            tracing::error!("the new [endpoint] settings do not take, the old ones stay: {error}");
        }
    }

    /// Claims what may start; when to look again at the latest.
    async fn round(&self, sweep: bool, recall: bool, repeats: &mut Repeats) -> Result<Instant> {
        if recall && self.in_flight.len() > 0 {
            self.in_flight
                .recall(&self.store.stale(&self.in_flight.claims()).await?);
        }
        self.admit_arrivals().await?;
        let mut wake = Instant::now() + BEAT;
        let lanes = self.store.lanes(&self.in_flight.ids()).await?;
        let share = (self.capacity() / lanes.len().max(1)).max(1);
        for due in lanes {
            let now = self.clock.now();
            let setup = match self.lanes.setup(&due.lane) {
                Ok(setup) => setup,
                Err(code) => {
                    if sweep {
                        self.note_unasked(&due.lane, &code, now, repeats).await?;
                        self.end_overaged(&due.lane, now).await?;
                    }
                    continue;
                }
            };
            if due.next_poll_at > now {
                wake = wake.min(Instant::now() + due.next_poll_at.since(now));
                continue;
            }
            let gate = self.lanes.gate(&due.lane);
            gate.reconsider(&setup).await;
            let (from, most) = gate.allowance(setup.account.calls_per_second, share);
            if from > Instant::now() {
                if sweep {
                    self.end_overaged(&due.lane, now).await?;
                }
                // Soon enough to notice a mended secret.
                wake = wake.min(from).min(Instant::now() + Duration::from_secs(1));
                continue;
            }
            let held = self.in_flight.of_lane(&due.lane);
            let room = self.capacity().saturating_sub(self.in_flight.len());
            let free = most
                .saturating_sub(held)
                .min(room.max(usize::from(held == 0)));
            if free == 0 {
                continue;
            }
            let rows = self
                .store
                .due(&due.lane, now, &self.in_flight.ids(), free)
                .await?;
            for row in rows {
                self.start(row, now).await;
            }
            // More of the lane may be due, or come due soon: its next row is asked for when these are done.
            if held + free < most {
                wake = wake.min(Instant::now() + Duration::from_millis(1));
            }
        }
        Ok(wake)
    }

    fn capacity(&self) -> usize {
        self.settings.borrow().workers.concurrency * CLAIMS_A_PLACE
    }

    /// Places new rows in the cadence; one that is due already is called at once.
    async fn admit_arrivals(&self) -> Result<()> {
        loop {
            let now = self.clock.now();
            let rows = self
                .store
                .arrivals(&self.in_flight.ids(), ARRIVALS, now)
                .await?;
            if rows.is_empty() {
                return Ok(());
            }
            let all = rows.len() < ARRIVALS;
            let admitted: Vec<Message> = rows
                .iter()
                .map(|row| self.plans.plan(&row.lane).schedule().admit(row, now))
                .collect();
            self.store.admit(&admitted).await?;
            if all || self.stop.soft.is_cancelled() {
                return Ok(());
            }
        }
    }

    /// Sends a claimed row to the workers, or ends it where it is older than `max_age`.
    async fn start(&self, row: Message, now: UnixMs) {
        let claim = row.claim();
        let recall = self.in_flight.take(claim.clone());
        fail::fail_point!("daemon.claim", |_| std::process::abort());
        if now >= self.plans.plan(&row.lane).schedule().end_of_life(&row) {
            let outcome = Outcome::without_call(claim, now, WalkEnd::Aged);
            // A closed channel means that the reconciler is gone, which ends the daemon.
            let _ = self.outcomes.send(outcome).await;
            return;
        }
        match self.lanes.setup(&row.lane) {
            Ok(setup) => {
                let gate = self.lanes.gate(&row.lane);
                if self
                    .jobs
                    .send(Job {
                        message: row,
                        gate,
                        setup,
                        recall,
                    })
                    .await
                    .is_err()
                {
                    self.in_flight.free(std::iter::once(claim.id));
                }
            }
            Err(_) => self.in_flight.free(std::iter::once(claim.id)),
        }
    }

    async fn end_overaged(&self, lane: &Lane, now: UnixMs) -> Result<()> {
        let max_age = self.settings.borrow().cadence.max_age;
        let ids = self.in_flight.ids();
        for row in self
            .store
            .overaged(lane, now - max_age, &ids, ARRIVALS)
            .await?
        {
            self.start(row, now).await;
        }
        Ok(())
    }

    async fn note_unasked(
        &self,
        lane: &Lane,
        code: &ErrorCode,
        now: UnixMs,
        repeats: &mut Repeats,
    ) -> Result<()> {
        let noted = self
            .store
            .note_lane_error(lane, code, now, ARRIVALS)
            .await?;
        if noted > 0
            && let Some(left_out) = repeats.admit(lane.to_string(), std::time::Instant::now())
        {
            let what = if code.as_str() == "account.unknown" {
                "no [accounts] section of the configuration has this name; add it and reload"
            } else {
                "rows of a third-party app need a corp_id"
            };
            tracing::warn!(
                account = %lane.account, error.code = %code, suppressed = left_out,
                "account {lane}: {code}: {what}; {noted} messages wait"
            );
        }
        Ok(())
    }
}
