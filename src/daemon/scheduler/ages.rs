//! What ends by its age, and clocks that cannot be trusted with that.

use std::time::Duration;

use tokio::time::Instant;

use super::{Memory, SLICE, Scheduler};
use crate::daemon::clock::Step;
use crate::daemon::pulse::CoreLoop;
use crate::receipt::{LaneId, Message, Outcome, UnixMs, WalkEnd, whole_ms};
use crate::store::{Result, Store};

impl<S: Store> Scheduler<S> {
    /// Whether `row` is ended without a call. After a step of the wall clock no age can be trusted that no poll confirms.
    pub(super) fn is_overaged(&self, row: &Message, now: UnixMs, memory: &Memory) -> bool {
        let trusted = memory
            .stepped_at
            .is_none_or(|at| row.last_polled_at.is_some_and(|polled| polled >= at));
        trusted && now >= self.plans.plan(&row.lane).schedule().end_of_life(row)
    }

    /// Ends a row that is older than `max_age`, without a call.
    pub(super) async fn end(&self, row: &Message, now: UnixMs) {
        let claim = row.claim();
        self.in_flight.take(claim.clone());
        let outcome = Outcome::without_call(claim, now, WalkEnd::Aged);
        let sending = self.outcomes.send(outcome);
        // A closed channel means that the reconciler is gone, which ends the daemon.
        let _ = self
            .vitals
            .pulse()
            .while_waiting(CoreLoop::Scheduler, sending)
            .await;
    }

    /// Ends what outlived its age in a lane that may not call.
    pub(super) async fn end_overaged(
        &self,
        lane: &LaneId,
        now: UnixMs,
        memory: &Memory,
    ) -> Result<()> {
        let max_age = self.settings.borrow().cadence.max_age;
        let ids = self.in_flight.ids();
        for row in self
            .store
            .overaged(lane, now - max_age, &ids, SLICE)
            .await?
        {
            if self.is_overaged(&row, now, memory) {
                self.end(&row, now).await;
            }
        }
        Ok(())
    }

    /// After a step back, what was scheduled by the old clock must not wait for it to come round again.
    pub(super) async fn heed_steps(&self, memory: &mut Memory) -> Result<()> {
        let now = self.clock.now();
        memory.now = now;
        match memory.steps.observe(now, Instant::now()) {
            None => return Ok(()),
            Some(Step::Forward(by)) => tracing::warn!(
                step_ms = whole_ms(by),
                "the wall clock was set forward by {}, or the machine slept: no message ends by its age before a poll",
                humantime::format_duration(Duration::from_secs(by.as_secs()))
            ),
            Some(Step::Back(by)) => tracing::warn!(
                step_ms = whole_ms(by),
                "the wall clock was set back by {}: polls that lie too far ahead are pulled forward",
                humantime::format_duration(Duration::from_secs(by.as_secs()))
            ),
        }
        memory.stepped_at = Some(now);
        let latest = now + self.settings.borrow().cadence.max_interval;
        while self.store.pull_forward(latest, SLICE).await? > 0 {
            self.vitals.pulse().beat(CoreLoop::Scheduler);
        }
        Ok(())
    }
}
