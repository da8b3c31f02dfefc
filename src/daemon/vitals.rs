//! The daemon's window: through it a caller sees that the daemon is ready, that it turns, and how it fares.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::pulse::Pulse;
use super::status_file::Published;

/// Handed to [`super::run`] by whoever wants to watch. Cheap to clone; clones see the same daemon.
#[derive(Clone, Debug)]
pub struct Vitals {
    ready: CancellationToken,
    pulse: Arc<Pulse>,
    published: Arc<watch::Sender<Option<Arc<Published>>>>,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            ready: CancellationToken::new(),
            pulse: Arc::default(),
            published: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Vitals {
    /// Resolves once the first query for due messages was answered. What the endpoint says is no part of it.
    pub async fn ready(&self) {
        self.ready.cancelled().await;
    }

    /// When each core loop turned last.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// What the daemon published of itself last; `None` before the first time.
    pub fn published(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.published.subscribe()
    }

    pub(super) fn set_ready(&self) {
        self.ready.cancel();
    }

    pub(super) fn publish(&self, published: Arc<Published>) {
        self.published.send_replace(Some(published));
    }
}
