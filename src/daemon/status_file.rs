//! The daemon's own condition, in a small file beside the lock: `status` reads what the loops publish.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Clock;
use super::health::Condition;
use super::in_flight::InFlight;
use super::lanes::Lanes;
use crate::settings::Settings;

/// What the daemon publishes of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The daemon's process.
    pub pid: u32,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds; older than a few beats means that the daemon hangs or is gone.
    pub updated_at: i64,
    /// Claims that are out.
    pub in_flight: usize,
    /// Each lane that was met.
    pub lanes: Vec<LaneCondition>,
}

/// How a lane fares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneCondition {
    /// Its account.
    pub account: String,
    /// Its organisation, for third-party apps.
    pub corp_id: Option<String>,
    /// `ok`, `throttled`, `blocked`, `quota` or `unconfigured`.
    pub condition: String,
    /// The code that closed it.
    pub code: Option<String>,
    /// Unix milliseconds of its last answered call.
    pub last_success_at: Option<i64>,
}

/// How often it is written.
const BEAT: Duration = Duration::from_secs(5);

/// Where the daemon of the database at `database` publishes.
pub fn status_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".status");
    PathBuf::from(name)
}

pub(super) async fn publish(
    settings: watch::Receiver<Arc<Settings>>,
    clock: Clock,
    lanes: Arc<Lanes>,
    in_flight: Arc<InFlight>,
    stop: CancellationToken,
) {
    let path = status_path(&settings.borrow().database.path);
    let started_at = clock.now().0;
    loop {
        let published = Published {
            pid: std::process::id(),
            started_at,
            updated_at: clock.now().0,
            in_flight: in_flight.len(),
            lanes: lanes
                .all()
                .iter()
                .map(|gate| condition(&lanes, gate))
                .collect(),
        };
        if let Err(error) = write(&path, &published).await {
            // A full disk: the results have their own way of saying so.
            tracing::debug!(
                "the status file {} could not be written: {error}",
                path.display()
            );
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(BEAT) => {}
        }
    }
}

fn condition(lanes: &Lanes, gate: &super::gate::Gate) -> LaneCondition {
    let health = gate.health();
    let (condition, code) = match &health.condition {
        Condition::Open => ("ok", None),
        Condition::Throttled => ("throttled", None),
        Condition::Blocked(code) => ("blocked", Some(code.clone())),
        Condition::Quota(code) => ("quota", Some(code.clone())),
    };
    let last_success_at = health.last_success_at.map(|at| at.0);
    drop(health);
    let (condition, code) = match lanes.setup(&gate.lane) {
        Ok(_) => (condition, code),
        Err(code) => ("unconfigured", Some(code)),
    };
    LaneCondition {
        account: gate.lane.account.to_string(),
        corp_id: gate.lane.corp.as_ref().map(ToString::to_string),
        condition: condition.to_owned(),
        code: code.map(|code| code.to_string()),
        last_success_at,
    }
}

async fn write(path: &Path, published: &Published) -> std::io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    tokio::fs::write(&draft, serde_json::to_vec(published)?).await?;
    tokio::fs::rename(&draft, path).await
}
