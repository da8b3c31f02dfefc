//! Rows that end by their age, and clocks that cannot be trusted with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{SLICE, Scheduler};
use crate::daemon::clock::Step;
use crate::daemon::lane::{Lane, Leave};
use crate::daemon::status::LoopName;
use crate::receipt::{Message, Outcome, WalkEnd, whole_ms};
use crate::store::Result;

impl Scheduler {
    /// Whether `row` is ended without a call. After a jump of the wall clock no age can be trusted that no poll confirms.
    pub(super) fn is_too_old(&self, row: &Message) -> bool {
        let trusted = self
            .jump
            .is_none_or(|jump| row.last_polled_at.is_some_and(|polled| polled >= jump.at));
        trusted && self.now >= self.shared.lanes.prior().end_of_life(row)
    }

    /// Ends a row that is older than `max_age`, without a call.
    pub(super) async fn end(&self, row: &Message, lane: Option<&Arc<Lane>>) {
        let mut claim = row.claim();
        claim.lease = lane.and_then(|lane| lane.lease.clone());
        self.shared.lanes.take(claim.clone(), lane.cloned(), false);
        let outcome = Outcome::without_call(claim, self.now, WalkEnd::TooOld);
        let heartbeats = self.shared.handle.heartbeats();
        let sending = self.outcomes.send(outcome);
        // A closed channel means that the reconciler is gone, which ends the daemon.
        let _ = heartbeats.while_waiting(LoopName::Scheduler, sending).await;
    }

    /// Ends what outlived its age in lanes that may not call, and among rows that wait for the configuration.
    pub(super) async fn sweep(&mut self) -> Result<()> {
        let max_age = self.shared.lanes.configured().settings.cadence.max_age;
        let closed = |lane: &Arc<Lane>| lane.health().leave(Instant::now()) != Leave::Open;
        let lanes = self.shared.lanes.all();
        let closed = lanes.iter().filter(|lane| closed(lane));
        let house = self.shared.nodes.keeps_house(&self.shared.lanes);
        let of: Vec<Option<&Arc<Lane>>> = house
            .then_some(None)
            .into_iter()
            .chain(closed.map(Some))
            .collect();
        for lane in of {
            self.beat();
            let in_flight = self.shared.lanes.in_flight();
            let store = &self.shared.store;
            let rows = store
                .overaged(
                    lane.map(|lane| &lane.id),
                    self.now - max_age,
                    &in_flight,
                    SLICE,
                )
                .await?;
            for row in rows {
                if self.is_too_old(&row) {
                    self.end(&row, lane).await;
                }
            }
        }
        Ok(())
    }

    /// After a step back, what was scheduled by the old clock must not wait for it to come round again; after any step the
    /// budgets' figures are of another moment.
    pub(super) async fn handle_clock_jump(&mut self) -> Result<()> {
        let reading = self.shared.clock.look();
        self.now = reading.now;
        let Some(jump) = reading.jump.filter(|jump| Some(*jump) != self.jump) else {
            return Ok(());
        };
        match jump.step {
            Step::Forward(by) => tracing::warn!(
                step_ms = whole_ms(by),
                "the wall clock was set forward by {}, or the machine slept: no message ends by its age before a poll",
                humantime::format_duration(Duration::from_secs(by.as_secs()))
            ),
            Step::Back(by) => tracing::warn!(
                step_ms = whole_ms(by),
                "the wall clock was set back by {}: polls that lie too far ahead are pulled forward",
                humantime::format_duration(Duration::from_secs(by.as_secs()))
            ),
        }
        self.jump = Some(jump);
        self.shared.lanes.refresh_budgets(&self.shared).await?;
        let latest = self.now + self.shared.lanes.configured().settings.cadence.max_interval;
        while self.shared.store.pull_forward(latest, SLICE).await? > 0 {
            self.beat();
        }
        Ok(())
    }
}
