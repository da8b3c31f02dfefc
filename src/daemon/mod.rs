//! Wires the three rooms, supervises them, stops them.

mod clock;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use clock::Clock;

use crate::settings::Settings;
use crate::store::Store;

/// How the daemon is told to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Stops claiming; walks under way have their grace.
    pub soft: CancellationToken,
    /// At once.
    pub hard: CancellationToken,
}

/// Why the daemon ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("a core loop ended by itself")]
pub struct DaemonError;

/// Serves until told to stop.
pub async fn run<S: Store>(
    _store: Arc<S>,
    _settings: watch::Receiver<Arc<Settings>>,
    _clock: Clock,
    stop: Stop,
) -> Result<(), DaemonError> {
    stop.soft.cancelled().await;
    Ok(())
}
