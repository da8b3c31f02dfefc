//! What is due now and then rather than at once: counts over the table, housekeeping of the file, the summary.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::in_flight::InFlight;
use super::pulse::{BEAT, CoreLoop};
use super::status_file::Backlog;
use super::tally::{Counted, Tally};
use super::vitals::Vitals;
use super::{Clock, DaemonError, Stop};
use crate::settings::Settings;
use crate::store::{Result, Store};
use crate::telemetry::Repeats;

pub(super) struct Keeper<S> {
    pub(super) store: Arc<S>,
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) clock: Clock,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) tally: Arc<Tally>,
    pub(super) backlog: Arc<Mutex<Option<Backlog>>>,
    pub(super) vitals: Vitals,
    pub(super) stop: Stop,
}

impl<S: Store> Keeper<S> {
    pub(super) async fn run(self) -> std::result::Result<(), DaemonError> {
        let mut repeats = Repeats::new();
        let mut last = Instant::now();
        loop {
            self.vitals.pulse().beat(CoreLoop::Keeper);
            let next = last + self.settings.borrow().log.summary_interval;
            tokio::select! {
                () = self.stop.soft.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(next.min(Instant::now() + BEAT)) => {}
            }
            if Instant::now() < next {
                continue;
            }
            last = Instant::now();
            match self.keep().await {
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
        }
    }

    /// One turn.
    async fn keep(&self) -> Result<()> {
        let now = self.clock.now();
        let totals = self.store.totals(now).await?;
        let wal_bytes = self.store.housekeep().await?;
        let backlog = Backlog::of(&totals, now, wal_bytes);
        self.summarise(&backlog);
        *self.backlog.lock().await = Some(backlog);
        Ok(())
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
