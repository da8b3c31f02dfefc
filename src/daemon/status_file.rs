//! The daemon's own condition, in a small file beside the lock: `status` reads what the loops publish.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use super::Clock;
use super::gate::MonthCalls;
use super::health::Condition;
use super::in_flight::InFlight;
use super::lanes::Lanes;
use super::published::{Backlog, BudgetCondition, LaneCondition, LoopBeat, Published};
use super::pulse::BEAT;
use super::purse::Standing;
use super::vitals::Vitals;
use crate::cadence::Rules;
use crate::receipt::{ErrorCode, LaneId, whole_ms};
use crate::settings::Settings;

/// What the last daemon of the database at `database` published; `None` where that cannot be read.
pub(super) fn read(database: &Path) -> Option<Published> {
    Published::read(&status_path(database))
}

/// Where the daemon of the database at `database` publishes.
pub fn status_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".status");
    PathBuf::from(name)
}

/// What is published, and where.
pub(super) struct Publisher {
    pub(super) settings: watch::Receiver<Arc<Settings>>,
    pub(super) clock: Clock,
    pub(super) lanes: Arc<Lanes>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) backlog: Arc<Mutex<Option<Backlog>>>,
    pub(super) vitals: Vitals,
}

impl Publisher {
    /// Publishes every [`BEAT`] until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let path = status_path(&self.settings.borrow().database.path);
        let started_at = self.clock.now().0;
        let mut reloads = self.vitals.reloads();
        loop {
            let published = Arc::new(self.published(started_at).await);
            self.vitals.publish(published.clone());
            if let Err(error) = write(&path, &published).await {
                let warnings = self.vitals.warnings();
                if let Some(again) = warnings.admit("the status file cannot be written") {
                    tracing::warn!(
                        error = %error,
                        suppressed = again.count(),
                        "{} cannot be written, so receiptd status does not know how receiptd fares: {error}{again}",
                        path.display()
                    );
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(BEAT) => {}
                // Somebody waits for it.
                Ok(()) = reloads.changed() => {}
            }
        }
    }

    async fn published(&self, started_at: i64) -> Published {
        let now = self.clock.now();
        let rules = self.settings.borrow().cadence.clone();
        let ages = self.vitals.pulse().ages();
        let backlog = self.backlog.lock().await.clone();
        let gates = self.lanes.all();
        let waiting = backlog.iter().flat_map(|backlog| &backlog.waiting);
        let unserved = waiting
            .filter(|lane| gates.iter().all(|gate| gate.lane != **lane))
            .filter_map(|lane| Some(unconfigured(lane, &self.lanes.setup(lane).err()?)));
        let met = gates.iter().map(|gate| condition(&self.lanes, gate));
        Published {
            pid: std::process::id(),
            started_at,
            updated_at: now.0,
            in_flight: self.in_flight.len(),
            loops: ages
                .map(|(which, age)| LoopBeat {
                    name: which.as_str().to_owned(),
                    turned_ms_ago: whole_ms(age),
                })
                .collect(),
            lanes: met.chain(unserved).collect(),
            backlog,
            budgets: self
                .lanes
                .purses()
                .iter()
                .map(|purse| budget(purse.standing(now), &rules))
                .collect(),
            reloads: self.vitals.reloads().borrow().clone(),
        }
    }
}

fn unconfigured(lane: &LaneId, code: &ErrorCode) -> LaneCondition {
    LaneCondition {
        account: lane.account.to_string(),
        corp_id: lane.corp.as_ref().map(ToString::to_string),
        condition: "unconfigured".to_owned(),
        code: Some(code.to_string()),
        last_success_at: None,
        month: String::new(),
        calls: 0,
    }
}

fn budget(Standing { name, month }: Standing, rules: &Rules) -> BudgetCondition {
    BudgetCondition {
        name,
        monthly_calls: month.budget,
        spent: month.spent,
        owed: month.owed,
        calls_per_message: month.target(rules),
        forecast: month.forecast(rules),
    }
}

fn condition(lanes: &Lanes, gate: &super::gate::Gate) -> LaneCondition {
    let health = gate.health();
    let (condition, code) = match &health.condition {
        Condition::Open => match health.unreachable() {
            Some(code) => ("unreachable", Some(code.clone())),
            None => ("ok", None),
        },
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
    let MonthCalls { month, calls } = gate.calls();
    LaneCondition {
        account: gate.lane.account.as_str().to_owned(),
        corp_id: gate.lane.corp.as_ref().map(|corp| corp.as_str().to_owned()),
        condition: condition.to_owned(),
        code: code.map(|code| code.to_string()),
        last_success_at,
        month: month.to_string(),
        calls,
    }
}

async fn write(path: &Path, published: &Published) -> std::io::Result<()> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    // Made anew, never opened: a feeder may write to this directory, and a link that it left here could lead to any file
    // of the daemon's.
    match tokio::fs::remove_file(&draft).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).open(&draft).await?;
    file.write_all(&serde_json::to_vec(published)?).await?;
    file.flush().await?;
    tokio::fs::rename(&draft, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_in_the_drafts_place_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receiptd.db.status");
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "of the daemon's").unwrap();
        for link in ["receiptd.db.status", "receiptd.db.status.new"] {
            std::os::unix::fs::symlink(&precious, dir.path().join(link)).unwrap();
        }
        write(&path, &published()).await.unwrap();
        assert_eq!(
            std::fs::read_to_string(&precious).unwrap(),
            "of the daemon's"
        );
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        write(&path, &published()).await.unwrap();
    }

    #[test]
    fn what_a_feeder_put_in_its_place_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receiptd.db.status");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        assert!(Published::read(&path).is_none());
        std::fs::remove_file(&path).unwrap();
        // A terabyte, all of it a hole.
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(Published::read(&path).is_none());
        std::fs::write(&path, serde_json::to_vec(&published()).unwrap()).unwrap();
        assert_eq!(Published::read(&path).unwrap().pid, 1);
    }

    fn published() -> Published {
        Published {
            pid: 1,
            started_at: 0,
            updated_at: 0,
            in_flight: 0,
            loops: Vec::new(),
            backlog: None,
            lanes: Vec::new(),
            budgets: Vec::new(),
            reloads: crate::daemon::Reloads::default(),
        }
    }
}
