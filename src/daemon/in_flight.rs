//! What the scheduler has claimed and the reconciler has not committed yet.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::receipt::{Lane, MessageId};

/// The claims that are out. They need no row in the database: after a crash everything due is simply due.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    claims: Mutex<HashMap<MessageId, Lane>>,
    freed: Notify,
}

impl InFlight {
    pub(super) fn take(&self, id: MessageId, lane: Lane) {
        self.lock().insert(id, lane);
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

    pub(super) fn of_lane(&self, lane: &Lane) -> usize {
        self.lock().values().filter(|held| *held == lane).count()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<MessageId, Lane>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
