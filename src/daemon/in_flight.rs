//! What the scheduler has claimed and the reconciler has not committed yet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::receipt::{Claim, LaneId, MessageId};

/// The claims that are out. They need no row in the database: after a crash everything due is simply due.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    claims: Mutex<HashMap<MessageId, Held>>,
    freed: Notify,
}

#[derive(Debug)]
struct Held {
    claim: Claim,
    recall: CancellationToken,
}

impl InFlight {
    /// Notes a claim; the token tells its walk that the row is no longer what was claimed.
    pub(super) fn take(&self, claim: Claim) -> CancellationToken {
        let recall = CancellationToken::new();
        let held = Held {
            claim,
            recall: recall.clone(),
        };
        self.lock().insert(held.claim.id, held);
        recall
    }

    /// Calls walks back whose row was cancelled, deleted or re-scheduled meanwhile.
    pub(super) fn recall(&self, ids: &[MessageId]) {
        let claims = self.lock();
        for held in ids.iter().filter_map(|id| claims.get(id)) {
            held.recall.cancel();
        }
    }

    pub(super) fn claims(&self) -> Vec<Claim> {
        self.lock()
            .values()
            .map(|held| held.claim.clone())
            .collect()
    }

    /// Frees committed claims and wakes the scheduler.
    pub(super) fn free(&self, ids: impl Iterator<Item = MessageId>) {
        let mut claims = self.lock();
        for id in ids {
            claims.remove(&id);
        }
        drop(claims);
        self.freed.notify_one();
    }

    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    pub(super) fn ids(&self) -> Vec<MessageId> {
        self.lock().keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn of_lane(&self, lane: &LaneId) -> usize {
        self.lock()
            .values()
            .filter(|held| held.claim.lane == *lane)
            .count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MessageId, Held>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
