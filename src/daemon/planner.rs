//! Solves policies anew where what was learned, or what a month can afford, has changed enough.

use std::sync::Arc;

use super::plans::Plans;
use super::pulse::{BEAT, CoreLoop};
use super::vitals::Vitals;
use super::{DaemonError, Stop};

/// Runs until the stop. One policy at a time is solved, on a thread that may block.
pub(super) async fn run(plans: Arc<Plans>, vitals: Vitals, stop: Stop) -> Result<(), DaemonError> {
    while !stop.soft.is_cancelled() {
        vitals.pulse().beat(CoreLoop::Planner);
        let Some(task) = plans.next_task() else {
            tokio::select! {
                () = stop.soft.cancelled() => {}
                () = plans.changed() => {}
                () = tokio::time::sleep(BEAT) => {}
            }
            continue;
        };
        match tokio::task::spawn_blocking(|| task.solve()).await {
            Ok(solved) => plans.install(solved),
            Err(error) => {
                if let Some(again) = vitals.warnings().admit("a cadence could not be solved") {
                    tracing::error!(
                        error = %error,
                        suppressed = again.count(),
                        "a cadence could not be solved, the old one stays: {error}{again}"
                    );
                }
            }
        }
    }
    Ok(())
}
