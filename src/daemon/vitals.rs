//! The daemon's window: through it a caller sees that the daemon is ready, that it turns, and how it fares.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::published::{Published, Reloads};
use super::pulse::Pulse;
use crate::settings::Settings;
use crate::telemetry::Warnings;

/// Handed to [`super::run`] by whoever wants to watch. Cheap to clone; clones see the same daemon.
#[derive(Clone, Debug)]
pub struct Vitals {
    ready: CancellationToken,
    pulse: Arc<Pulse>,
    warnings: Warnings,
    published: Arc<watch::Sender<Option<Arc<Published>>>>,
    taken: Arc<watch::Sender<Option<Arc<Settings>>>>,
    reloads: Arc<watch::Sender<Reloads>>,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            ready: CancellationToken::new(),
            pulse: Arc::default(),
            warnings: Warnings::default(),
            published: Arc::new(watch::Sender::new(None)),
            taken: Arc::new(watch::Sender::new(None)),
            reloads: Arc::default(),
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

    /// Resolves once `settings`, handed over on the daemon's channel, are in force for every claim to come.
    pub async fn in_force(&self, settings: &Arc<Settings>) {
        let mut taken = self.taken.subscribe();
        let ours = |taken: &Option<Arc<Settings>>| {
            taken
                .as_ref()
                .is_some_and(|taken| Arc::ptr_eq(taken, settings))
        };
        // Fails only where the sender is gone, and we hold it.
        let _ = taken.wait_for(ours).await;
    }

    /// The caller read the settings again; `refused` says why the old ones stay. It is published at once.
    pub fn reloaded(&self, refused: Option<String>) {
        self.reloads.send_modify(|reloads| {
            reloads.count += 1;
            reloads.refused = refused;
        });
    }

    pub(super) fn reloads(&self) -> watch::Receiver<Reloads> {
        self.reloads.subscribe()
    }

    pub(super) fn took(&self, settings: Arc<Settings>) {
        self.taken.send_replace(Some(settings));
    }

    /// What the daemon's tasks warn of.
    pub(super) fn warnings(&self) -> &Warnings {
        &self.warnings
    }

    pub(super) fn set_ready(&self) {
        self.ready.cancel();
    }

    pub(super) fn publish(&self, published: Arc<Published>) {
        self.published.send_replace(Some(published));
    }
}
