//! What is due now and then rather than at once: counts over the table, housekeeping of the file, the summary.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::in_flight::InFlight;
use super::lanes::Lanes;
use super::plans::Plans;
use super::pulse::{BEAT, CoreLoop};
use super::status_file::Backlog;
use super::tally::{Counted, Tally};
use super::vitals::Vitals;
use super::{Clock, DaemonError, Stop};
use crate::receipt::cadence::Rules;
use crate::receipt::{Lane, UnixMs, spread};
use crate::settings::Settings;
use crate::store::{LaneDue, Result, Store};
use crate::telemetry::Repeats;

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

impl<S: Store> Keeper<S> {
    pub(super) async fn run(self) -> std::result::Result<(), DaemonError> {
        let mut repeats = Repeats::new();
        let mut last = Instant::now();
        let mut first_count = Some(last + FIRST_COUNT);
        // Budgets at once: what they hold back cannot wait for the first summary.
        let mut turn = self.plan_ahead().await;
        loop {
            match turn {
                Ok(()) => {}
                Err(error) if error.is_transient() => {
                    if repeats
                        .admit("keeper.store", std::time::Instant::now())
                        .is_some()
                    {
                        tracing::warn!("the messages cannot be counted now: {error}; trying again");
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
                self.keep().await
            };
        }
    }

    /// One turn.
    async fn keep(&self) -> Result<()> {
        let backlog = self.count().await?;
        self.summarise(&backlog);
        self.plan_ahead().await
    }

    async fn count(&self) -> Result<Backlog> {
        let now = self.clock.now();
        let totals = self.store.totals(now).await?;
        let calls = self.store.calls_in(&now.quota_month()).await?;
        let wal_bytes = self.store.housekeep().await?;
        let backlog = Backlog::of(&totals, &calls, now, wal_bytes);
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
            if let Some(purse) = self.lanes.purse(lane) {
                let of_lane = self.store.owed(lane, purse.ends_at(now)).await?;
                *owed.entry(purse.name().to_owned()).or_default() += of_lane;
            }
            let spread = self.jam(lane, &rules, now).await?;
            self.plans.set_spread(lane, spread);
        }
        for purse in self.lanes.purses() {
            purse.set_owed(owed.get(purse.name()).copied().unwrap_or(0));
            let dropped = purse.take_dropped();
            if dropped > 0 {
                let name = purse.name();
                tracing::warn!(
                    budget.name = %name, dropped,
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

    /// How long before their moment the lane's last chances must be taken to fit its rate.
    async fn jam(&self, lane: &Lane, rules: &Rules, now: UnixMs) -> Result<Duration> {
        let Ok(setup) = self.lanes.setup(lane) else {
            return Ok(Duration::ZERO);
        };
        let all = setup.settings.endpoint.calls_per_second;
        let rate = f64::from(setup.account.calls_per_second.min(all)) * USED_SHARE;
        let pending = self.store.owed(lane, UnixMs(i64::MAX)).await?;
        // So few are called in less time than there is after the last of them.
        #[allow(clippy::cast_precision_loss)]
        let few = pending as f64 / rate < rules.last_chance.as_secs_f64() / 4.0;
        if few {
            return Ok(Duration::ZERO);
        }
        let step = rules.last_chance / 8;
        let upcoming = self.store.last_chances(lane, step).await?;
        let spread = spread(&upcoming, now, rate, rules.last_chance);
        if !spread.is_zero() {
            tracing::debug!(account = %lane.account, "account {lane}: last chances are taken {spread:?} early");
        }
        Ok(spread)
    }

    fn summarise(&self, backlog: &Backlog) {
        let Counted {
            polls,
            calls,
            throttled,
            readers,
            finished,
            lines_left_out,
        } = self.tally.take();
        let Backlog {
            pending,
            due,
            lag_ms,
            wal_bytes,
            ..
        } = *backlog;
        let lag = humantime::format_duration(Duration::from_millis(lag_ms));
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
            lines_left_out,
            wal_bytes,
            "summary: {pending} pending, {due} due (the oldest for {lag}), {polls} polls with {calls} calls, \
             {readers} readers seen, {finished} messages finished"
        );
    }
}
