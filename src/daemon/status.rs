//! What the daemon publishes of itself: on channels for its own process, and in a small file beside the lock for the commands.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::lane::{Lane, Why};
use super::{Configured, Shared};
use crate::cadence::Rules;
use crate::receipt::{LaneId, QuotaMonth, UnixMs, whole_ms};
use crate::store::{CallCount, Health, LaneTotals};

// --- heartbeats ---------------------------------------------------------------------------------------------------

/// A loop that waits beats at least this often, and the status file is written this often.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// A loop whose end ends the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopName {
    /// Claims and places rows.
    Scheduler,
    /// Calls.
    Workers,
    /// Commits results.
    Reconciler,
    /// Counts, retention, policies.
    Upkeep,
    /// The status file.
    Status,
    /// Signs of life and leases, where several processes serve one database.
    Nodes,
}

impl LoopName {
    const ALL: [Self; 6] = [
        Self::Scheduler,
        Self::Workers,
        Self::Reconciler,
        Self::Upkeep,
        Self::Status,
        Self::Nodes,
    ];

    /// Its name in logs and in the status file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Workers => "workers",
            Self::Reconciler => "reconciler",
            Self::Upkeep => "upkeep",
            Self::Status => "status",
            Self::Nodes => "nodes",
        }
    }
}

/// When each loop turned last.
#[derive(Debug)]
pub struct Heartbeats(Mutex<[Option<Instant>; LoopName::ALL.len()]>);

impl Default for Heartbeats {
    fn default() -> Self {
        let now = Instant::now();
        // What one process alone needs not turns once it is needed.
        let turns = LoopName::ALL.map(|name| (name != LoopName::Nodes).then_some(now));
        Self(Mutex::new(turns))
    }
}

impl Heartbeats {
    /// How long ago each loop turned.
    pub fn ages(&self) -> impl Iterator<Item = (LoopName, Duration)> {
        let now = Instant::now();
        let beats = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        LoopName::ALL
            .into_iter()
            .zip(beats)
            .filter_map(move |(name, beat)| Some((name, now - beat?)))
    }

    /// The loop that turned longest ago.
    pub fn slowest(&self) -> (LoopName, Duration) {
        let slowest = self.ages().max_by_key(|(_, age)| *age);
        slowest.unwrap_or((LoopName::Scheduler, Duration::ZERO))
    }

    pub(super) fn beat(&self, name: LoopName) {
        fail::fail_point!(&format!("daemon.{}", name.as_str()));
        let mut beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (which, beat) in LoopName::ALL.into_iter().zip(beats.iter_mut()) {
            if which == name {
                *beat = Some(Instant::now());
            }
        }
    }

    /// Waits for `waiting`; a loop that waits for others turns all the same.
    pub(super) async fn while_waiting<F: Future>(&self, name: LoopName, waiting: F) -> F::Output {
        tokio::pin!(waiting);
        loop {
            self.beat(name);
            tokio::select! {
                output = &mut waiting => return output,
                () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
            }
        }
    }
}

// --- the handle ---------------------------------------------------------------------------------------------------

/// Handed to [`super::run`] by whoever wants to watch the daemon. Cheap to clone; clones see the same daemon.
#[derive(Clone, Debug, Default)]
pub struct Handle(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    ready: CancellationToken,
    heartbeats: Heartbeats,
    published: watch::Sender<Option<Arc<Published>>>,
    in_force: watch::Sender<Option<Arc<Configured>>>,
    /// Beside which the file is; `None`: beside the database.
    beside: Option<PathBuf>,
    reloads: watch::Sender<Reloads>,
}

impl Default for Watched {
    fn default() -> Self {
        Self {
            ready: CancellationToken::new(),
            heartbeats: Heartbeats::default(),
            published: watch::Sender::new(None),
            in_force: watch::Sender::new(None),
            beside: None,
            reloads: watch::Sender::default(),
        }
    }
}

impl Handle {
    /// One whose daemon publishes beside `path` and not beside its database.
    pub fn publishing_at(path: &Path) -> Self {
        Self(Arc::new(Watched {
            beside: Some(path.to_owned()),
            ..Watched::default()
        }))
    }

    /// Resolves once the first query for due messages was answered. What the endpoint says is no part of it.
    pub async fn ready(&self) {
        self.0.ready.cancelled().await;
    }

    /// When each loop turned last.
    pub fn heartbeats(&self) -> &Heartbeats {
        &self.0.heartbeats
    }

    /// What the daemon published of itself last; `None` before the first time.
    pub fn published(&self) -> watch::Receiver<Option<Arc<Published>>> {
        self.0.published.subscribe()
    }

    /// Resolves once `configured`, handed over on the daemon's channel, is in force for every claim to come.
    pub async fn in_force(&self, configured: &Arc<Configured>) {
        let mut in_force = self.0.in_force.subscribe();
        let ours = |taken: &Option<Arc<Configured>>| {
            taken
                .as_ref()
                .is_some_and(|taken| Arc::ptr_eq(taken, configured))
        };
        // Fails only where the sender is gone, and we hold it.
        let _ = in_force.wait_for(ours).await;
    }

    /// The caller read the settings again; `refused` says why the old ones stay. It is published at once.
    pub fn reloaded(&self, refused: Option<String>) {
        self.0.reloads.send_modify(|reloads| reloads.ended(refused));
    }

    pub(super) fn took(&self, configured: Arc<Configured>) {
        self.0.in_force.send_replace(Some(configured));
    }

    pub(super) fn set_ready(&self) {
        self.0.ready.cancel();
    }
}

// --- what is published --------------------------------------------------------------------------------------------

/// What the daemon publishes of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// The daemon's process.
    pub pid: u32,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds; older than a few heartbeats means that the daemon hangs or is gone.
    pub updated_at: i64,
    /// Claims that are out.
    pub in_flight: usize,
    /// Each loop, and how long ago it turned.
    pub loops: Vec<LoopBeat>,
    /// What the table held when it was counted last; absent before the first count.
    pub backlog: Option<Backlog>,
    /// Each lane that is served, and those with pending messages that no configuration serves.
    pub lanes: Vec<LaneCondition>,
    /// Each budget of a lane that is served.
    pub budgets: Vec<BudgetCondition>,
    /// The settings, read again.
    pub reloads: Reloads,
}

/// How often the settings were read again since the start, and how that ended the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloads {
    /// Attempts.
    pub count: u64,
    /// Why the last attempt left the old settings in force.
    pub refused: Option<String>,
    /// How the last attempts ended, the newest last: several may end between two looks at this.
    #[serde(default)]
    recent: Vec<Option<String>>,
}

/// Endings of reloads that are remembered.
const RECENT_RELOADS: usize = 16;

impl Reloads {
    fn ended(&mut self, refused: Option<String>) {
        self.count += 1;
        self.recent.push(refused.clone());
        let old = self.recent.len().saturating_sub(RECENT_RELOADS);
        self.recent.drain(..old);
        self.refused = refused;
    }

    /// How the attempt behind the first `count` of them ended: why the old settings stayed, or `None` inside where the new
    /// ones came into force. `None`: it has not ended.
    pub fn ending_after(&self, count: u64) -> Option<Option<&str>> {
        let behind = usize::try_from(self.count.checked_sub(count)?).ok()?;
        let newest = self.recent.len();
        let ending = self.recent.get(newest.saturating_sub(behind))?;
        Some(ending.as_deref())
    }
}

/// When a loop turned last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoopBeat {
    /// Its name.
    pub name: String,
    /// Milliseconds before `updated_at`.
    pub turned_ms_ago: u64,
}

/// Counts over the table, as of the last summary.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Backlog {
    /// Unix milliseconds of the count.
    pub counted_at: i64,
    /// Pending messages.
    pub pending: u64,
    /// Of those, messages whose poll is due.
    pub due: u64,
    /// For how many milliseconds the one is due that is due longest.
    pub lag_ms: u64,
    /// The size of the write-ahead log.
    pub wal_bytes: u64,
    /// How much of it a foreign transaction holds back from the file.
    pub wal_held_bytes: u64,
    /// Metered calls of the month (UTC+8), of all lanes.
    pub calls_this_month: u64,
    /// Lanes with pending messages, to say which of them no configuration serves.
    #[serde(skip)]
    pub waiting: Vec<LaneId>,
}

/// A feeder may write any account's name; this many are enough to show that something is wrong.
const MOST_WAITING: usize = 100;

impl Backlog {
    pub(super) fn of(
        totals: &[LaneTotals],
        calls: &[CallCount],
        now: UnixMs,
        health: &Health,
    ) -> Self {
        let oldest = totals.iter().filter_map(|lane| lane.oldest_due).min();
        let lag_ms = oldest.map_or(0, |at| whole_ms(now.since(at)));
        Self {
            counted_at: now.0,
            pending: totals.iter().map(|lane| lane.pending).sum(),
            due: totals.iter().map(|lane| lane.due).sum(),
            lag_ms,
            wal_bytes: health.wal_bytes,
            wal_held_bytes: health.wal_held_bytes,
            calls_this_month: calls.iter().map(|count| count.calls).sum(),
            waiting: totals
                .iter()
                .filter(|lane| lane.pending > 0)
                .map(|lane| lane.lane.clone())
                .take(MOST_WAITING)
                .collect(),
        }
    }
}

/// Whether a lane may call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneCondition {
    /// Its account.
    pub account: String,
    /// Its organisation, for third-party apps.
    pub corp_id: Option<String>,
    /// `ok`, `throttled`, `blocked`, `quota`, `unreachable` or `unconfigured`.
    pub condition: String,
    /// The code that closed it.
    pub code: Option<String>,
    /// Unix milliseconds of its last answered call.
    pub last_success_at: Option<i64>,
    /// The month (`YYYY-MM`, UTC+8) of `calls`; absent where none were made.
    pub month: Option<String>,
    /// Its metered calls in that month, those included whose result is not written yet.
    #[serde(default)]
    pub calls: u64,
}

/// How much of a budget is left.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BudgetCondition {
    /// `account NAME` or `budget NAME`.
    pub name: String,
    /// Metered calls that the month may cost.
    pub monthly_calls: u64,
    /// Metered calls made this month.
    pub spent: u64,
    /// Last chances that the month still owes.
    pub owed: u64,
    /// Calls a message that the cadence aims at now.
    pub calls_per_message: f64,
    /// Where the month's spend will end at its present rate.
    pub forecast: u64,
}

impl LaneCondition {
    fn unconfigured(lane: &LaneId, code: String) -> Self {
        Self {
            account: lane.account.as_str().to_owned(),
            corp_id: lane.corp.as_ref().map(|corp| corp.as_str().to_owned()),
            condition: "unconfigured".to_owned(),
            code: Some(code),
            last_success_at: None,
            month: None,
            calls: 0,
        }
    }

    fn of(lane: &Lane) -> Self {
        let health = lane.health();
        let (condition, code) = match health.closed() {
            Some(closed) => {
                let condition = match closed.why {
                    Why::Trouble => "unreachable",
                    Why::Blocked => "blocked",
                    Why::Quota => "quota",
                };
                (condition, Some(closed.code.to_string()))
            }
            None if health.is_throttled(Instant::now()) => ("throttled", None),
            None => ("ok", None),
        };
        let last_success_at = health.last_success_at.map(|at| at.0);
        drop(health);
        let calls = lane.setup().budget.calls_of(&lane.id);
        let (month, calls) = calls.unzip();
        Self {
            condition: condition.to_owned(),
            code,
            last_success_at,
            month: month.map(|month: QuotaMonth| month.to_string()),
            calls: calls.unwrap_or(0),
            ..Self::unconfigured(&lane.id, String::new())
        }
    }
}

impl BudgetCondition {
    fn of(budget: &Budget, rules: &Rules, now: UnixMs) -> Option<Self> {
        let month = budget.month(now)?;
        Some(Self {
            name: budget.group.to_string(),
            monthly_calls: month.budget,
            spent: month.spent,
            owed: month.owed,
            calls_per_message: month.target(rules),
            forecast: month.forecast(rules),
        })
    }
}

/// The largest file that is read: some hundred bytes a lane.
const LARGEST: u64 = 64 << 20;

impl Published {
    /// What was published in the file at `path`; `None` where nothing is there or it makes no sense. Feeders may write to
    /// that directory: a pipe there is not waited for, and a file without end is not read to its end.
    pub fn read(path: &Path) -> Option<Self> {
        if !std::fs::metadata(path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).ok()?;
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// What the lanes had called in `month` beyond what is `counted`.
    pub(super) fn uncommitted(&self, month: &str, counted: &[CallCount]) -> Vec<CallCount> {
        let of_month = self
            .lanes
            .iter()
            .filter(|lane| lane.month.as_deref() == Some(month));
        of_month
            .filter_map(|published| {
                let lane = LaneId {
                    account: published.account.as_str().into(),
                    corp: published.corp_id.as_deref().map(Into::into),
                };
                // Of an internal account every row counts, whatever its corp_id.
                let same = |count: &&CallCount| {
                    count.lane.account == lane.account
                        && (lane.corp.is_none() || count.lane.corp == lane.corp)
                };
                let committed: u64 = counted.iter().filter(same).map(|count| count.calls).sum();
                let calls = published.calls.saturating_sub(committed);
                (calls > 0).then(|| CallCount {
                    calls,
                    ..CallCount::nothing(lane, month.to_owned())
                })
            })
            .collect()
    }

    fn now(shared: &Shared, started_at: i64) -> Self {
        let now = shared.clock.now();
        let lanes = &shared.lanes;
        let rules = &lanes.configured().settings.cadence;
        let backlog = shared.backlog();
        let waiting = backlog.iter().flat_map(|backlog| &backlog.waiting);
        let unserved = waiting.filter_map(|lane| {
            let code = lanes.lane_of(lane).err()?;
            Some(LaneCondition::unconfigured(lane, code.to_string()))
        });
        let served = lanes.all();
        let served = served.iter().map(|lane| LaneCondition::of(lane));
        Self {
            pid: std::process::id(),
            started_at,
            updated_at: now.0,
            in_flight: lanes.in_flight_len(),
            loops: shared
                .handle
                .heartbeats()
                .ages()
                .map(|(name, age)| LoopBeat {
                    name: name.as_str().to_owned(),
                    turned_ms_ago: whole_ms(age),
                })
                .collect(),
            lanes: served.chain(unserved).collect(),
            backlog: backlog.clone(),
            budgets: lanes
                .budgets()
                .iter()
                .filter_map(|budget| BudgetCondition::of(budget, rules, now))
                .collect(),
            reloads: shared.handle.0.reloads.borrow().clone(),
        }
    }
}

// --- the file -----------------------------------------------------------------------------------------------------

/// Where the daemon of the database at `database` publishes.
pub fn status_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".status");
    PathBuf::from(name)
}

/// Publishes every [`HEARTBEAT_INTERVAL`], and where somebody waits for it, until the end.
pub(super) async fn run(shared: Arc<Shared>) -> Result<(), super::DaemonError> {
    let beside = shared.handle.0.beside.clone();
    let database = || shared.lanes.configured().settings.database.local_path();
    let path = status_path(&beside.unwrap_or_else(database));
    let started_at = shared.clock.now().0;
    let mut reloads = shared.handle.0.reloads.subscribe();
    loop {
        shared.handle.heartbeats().beat(LoopName::Status);
        let published = Arc::new(Published::now(&shared, started_at));
        shared
            .handle
            .0
            .published
            .send_replace(Some(published.clone()));
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&to, &published)).await;
        if let Err(error) = written.unwrap_or_else(|panic| Err(std::io::Error::other(panic)))
            && let Some(again) = shared.warnings.admit("the status file cannot be written")
        {
            tracing::warn!(
                error = %error,
                suppressed = again.count(),
                "{} cannot be written, so receiptd status cannot show the daemon's condition: {error}{again}",
                path.display()
            );
        }
        tokio::select! {
            () = shared.ended.cancelled() => return Ok(()),
            () = tokio::time::sleep(HEARTBEAT_INTERVAL) => {}
            Ok(()) = reloads.changed() => {}
        }
    }
}

/// Replaces the file as a whole, so that it is never read half. The new one is made under a name that nobody can guess: a
/// feeder may write to this directory, and a link that it left there could lead to any file of the daemon's.
fn write(path: &Path, published: &Published) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new()
        .prefix(".receiptd-status-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)?;
    draft.write_all(&serde_json::to_vec(published)?)?;
    draft.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            reloads: Reloads::default(),
        }
    }

    #[test]
    fn a_link_in_the_files_place_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("receiptd.db.status");
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "of the daemon's").unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        write(&path, &published()).unwrap();
        let kept = std::fs::read_to_string(&precious).unwrap();
        assert_eq!(kept, "of the daemon's");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
        write(&path, &published()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
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

    #[test]
    fn calls_of_a_killed_daemon_are_those_that_no_row_counts() {
        let lane = |account: &str, month: &str, calls| LaneCondition {
            month: Some(month.to_owned()),
            calls,
            condition: "ok".to_owned(),
            ..LaneCondition::unconfigured(&lane_id(account, None), String::new())
        };
        let published = Published {
            lanes: vec![
                lane("a", "2026-11", 7),
                lane("b", "2026-11", 3),
                lane("c", "2026-10", 9),
                LaneCondition {
                    month: None,
                    ..lane("d", "", 0)
                },
            ],
            ..published()
        };
        let counted = |account, corp, calls| CallCount {
            calls,
            ..CallCount::nothing(lane_id(account, corp), "2026-11".to_owned())
        };
        let counted = [
            counted("a", None, 3),
            counted("a", Some("invented"), 2),
            counted("b", None, 5),
        ];
        let uncommitted = published.uncommitted("2026-11", &counted);
        let uncommitted: Vec<_> = uncommitted
            .iter()
            .map(|count| (count.lane.account.as_str(), count.calls))
            .collect();
        assert_eq!(uncommitted, [("a", 2)]);
    }

    fn lane_id(account: &str, corp: Option<&str>) -> LaneId {
        LaneId {
            account: account.into(),
            corp: corp.map(Into::into),
        }
    }
}
