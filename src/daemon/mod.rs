//! Wires the three rooms, supervises them, stops them.
//!
//! ```text
//! scheduler ──jobs──► workers ──outcomes──► reconciler ──► store
//!     ▲  claims, fairly across lanes            │
//!     └────────────── what is in flight ◄───────┘
//! ```
//!
//! What DingTalk pushed to another service (`read_events`) goes to the reconciler alone (`pushed.rs`).
//!
//! A *lane* is an account at one organisation: all that its calls share, in one object (`lane/`). Lanes that share a month's
//! calls have one budget (`budget.rs`) and, where several processes serve one database, one lease (`nodes.rs`). Beside the three rooms, `upkeep` does what is due now and then, and `status` publishes
//! the daemon's condition.
//!
//! Both channels are bounded: a full one is the only back-pressure. What is claimed stays in flight until its outcome
//! is committed, so a crash costs no key more than one repeated poll.

mod budget;
mod clock;
#[macro_use]
mod lane;
mod lanes;
mod nodes;
mod pushed;
mod reconciler;
mod scheduler;
mod status;
mod tokens;
mod upkeep;
mod worker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use clock::Clock;
pub use status::{
    Backlog, BudgetCondition, Handle, Heartbeats, LaneCondition, LoopBeat, LoopName, Published,
    Reloads, status_path,
};

pub use tokens::ask as ask_for_tokens;

use crate::dingtalk::{Client, ClientError};
use crate::receipt::QuotaMonth;
use crate::settings::Settings;
use crate::store::{SharedStore, StoreError};
use crate::telemetry::Warnings;
use lane::Address;
use lanes::Lanes;
use nodes::Nodes;
use upkeep::SummaryCounters;

/// Settings with the client that they make: what cannot be called with is never in force.
#[derive(Debug)]
pub struct Configured {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Made from their `[endpoint]`, certificates included.
    pub client: Client,
}

impl Configured {
    /// Makes the client; reads certificate files anew.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn new(settings: Settings) -> Result<Arc<Self>, ClientError> {
        Ok(Arc::new(Self {
            client: Client::new(&settings.endpoint)?,
            settings: Arc::new(settings),
        }))
    }
}

/// How to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Stop claiming, give the walks under way their grace, commit what they brought.
    pub graceful: CancellationToken,
    /// Stop at once: what is not committed is polled again.
    pub immediate: CancellationToken,
}

/// Why the daemon ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The database needs a person.
    #[error("the database is no longer usable")]
    Store(#[from] StoreError),
    /// A loop ended though nobody asked it to.
    #[error("the {0} ended by itself; this is a bug: please report it")]
    Ended(&'static str),
}

/// What all loops share.
struct Shared {
    store: SharedStore,
    clock: Clock,
    lanes: Lanes,
    nodes: Nodes,
    address: Address,
    /// Calls under way at once.
    concurrency: usize,
    warnings: Warnings,
    summary: SummaryCounters,
    backlog: Mutex<Option<Backlog>>,
    /// Wakes the scheduler: claims were freed, or a lane may call again.
    wake: Notify,
    /// Wakes the upkeep: a policy is to be solved, or a month's figures are to be read.
    wake_upkeep: Notify,
    /// Wakes the reconciler: another process may have inserted pushed reads.
    wake_pushed: Notify,
    /// How often another process may have written.
    foreign_changes: AtomicU64,
    /// Tasks beside the loops: tokens that are being replaced.
    tasks: TaskTracker,
    handle: Handle,
    stop: Stop,
    /// Nothing more is claimed.
    claimed: CancellationToken,
    /// All is committed: what only publishes may end.
    ended: CancellationToken,
}

impl Shared {
    fn foreign_change(&self) {
        self.foreign_changes.fetch_add(1, Ordering::Relaxed);
        self.wake_pushed.notify_one();
    }

    fn foreign_changes(&self) -> u64 {
        self.foreign_changes.load(Ordering::Relaxed)
    }

    fn backlog(&self) -> Option<Backlog> {
        self.lock_backlog().clone()
    }

    fn set_backlog(&self, backlog: Backlog) {
        *self.lock_backlog() = Some(backlog);
    }

    fn lock_backlog(&self) -> std::sync::MutexGuard<'_, Option<Backlog>> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims of all lanes whose walk does not wait to try again.
    fn busy_claims(&self) -> usize {
        let waiting = |lane: &Arc<lane::Lane>| lane.waiting.load(Ordering::Relaxed);
        let waiting: usize = self.lanes.all().iter().map(waiting).sum();
        self.lanes.in_flight_len().saturating_sub(waiting)
    }
}

/// Beyond `shutdown_grace`, a stop takes so long at most, whoever holds the database.
const STOP_MARGIN: Duration = Duration::from_secs(4);

/// Serves until `stop`, or until a loop ends; `handle` lets the caller watch.
///
/// The caller has opened the store as its owner, holds the daemon's lock, and watches for signals.
///
/// # Errors
/// The end of any loop, for whatever reason, ends the daemon: there is no half-alive daemon.
pub async fn run(
    store: SharedStore,
    configured: watch::Receiver<Arc<Configured>>,
    clock: Clock,
    handle: Handle,
    stop: Stop,
) -> Result<(), DaemonError> {
    let now = configured.borrow().clone();
    let concurrency = now.settings.workers.concurrency;
    let is_shared = store.is_shared();
    let shared = Arc::new(Shared {
        store,
        clock,
        lanes: Lanes::new(now, is_shared),
        nodes: Nodes::new(is_shared),
        address: Address::new(concurrency),
        concurrency,
        warnings: Warnings::default(),
        summary: SummaryCounters::default(),
        backlog: Mutex::new(None),
        wake: Notify::new(),
        wake_upkeep: Notify::new(),
        wake_pushed: Notify::new(),
        foreign_changes: AtomicU64::new(0),
        tasks: TaskTracker::new(),
        handle,
        stop: stop.clone(),
        claimed: CancellationToken::new(),
        ended: CancellationToken::new(),
    });
    if !is_shared {
        count_lost_calls(&shared).await?;
    }
    let (jobs_in, jobs_out) = mpsc::channel(concurrency);
    let (outcomes_in, outcomes_out) = mpsc::channel(concurrency * 4);
    let scheduler = scheduler::Scheduler::new(
        shared.clone(),
        configured.clone(),
        jobs_in,
        outcomes_in.clone(),
    );
    let reconciler = reconciler::Reconciler {
        shared: shared.clone(),
        outcomes: outcomes_out,
        enough: concurrency * scheduler::CLAIMS_A_PLACE / 2,
    };
    let workers = worker::pool(jobs_out, outcomes_in, shared.clone());
    let mut loops: JoinSet<(LoopName, Result<(), DaemonError>)> = JoinSet::new();
    let claimed = shared.claimed.clone();
    loops.spawn(async move {
        let end = scheduler.run().await;
        claimed.cancel();
        (LoopName::Scheduler, end)
    });
    if is_shared {
        let nodes = nodes::run(shared.clone());
        loops.spawn(async { (LoopName::Nodes, nodes.await) });
    }
    loops.spawn(async {
        workers.await;
        (LoopName::Workers, Ok(()))
    });
    loops.spawn(async { (LoopName::Reconciler, reconciler.run().await) });
    let upkeep = upkeep::Upkeep::new(shared.clone());
    loops.spawn(async { (LoopName::Upkeep, upkeep.run().await) });
    let publishing = status::run(shared.clone());
    loops.spawn(async { (LoopName::Status, publishing.await) });

    tokio::select! {
        biased;
        () = stop.graceful.cancelled() => {}
        Some(end) = loops.join_next() => {
            stop.immediate.cancel();
            stop.graceful.cancel();
            return match end {
                Ok((_, Err(error))) => Err(error),
                Ok((name, Ok(()))) => Err(DaemonError::Ended(name.as_str())),
                Err(panic) => Err(DaemonError::Ended(panicked(&panic))),
            };
        }
    }
    wind_down(&shared, &mut loops).await
}

fn panicked(error: &tokio::task::JoinError) -> &'static str {
    if error.is_panic() {
        "daemon panicked and"
    } else {
        "daemon"
    }
}

/// Walks under way have their grace; then what they brought is committed, and what was learned is stored.
async fn wind_down(
    shared: &Arc<Shared>,
    loops: &mut JoinSet<(LoopName, Result<(), DaemonError>)>,
) -> Result<(), DaemonError> {
    let grace = shared.lanes.configured().settings.workers.shutdown_grace;
    shared.tasks.close();
    let walks = until_ended(loops, LoopName::Workers);
    tokio::select! {
        walks = tokio::time::timeout(grace, walks) => if walks.is_err() {
            shared.stop.immediate.cancel();
        },
        () = shared.stop.immediate.cancelled() => {}
    }
    let committed = until_ended(loops, LoopName::Reconciler);
    let committed = tokio::time::timeout(STOP_MARGIN, committed).await.ok();
    shared.ended.cancel();
    for lane in shared.lanes.all() {
        lane.gone.cancel();
    }
    match committed {
        Some(Err(DaemonError::Store(error))) if error.is_transient() => {}
        Some(Err(error)) => return Err(error),
        Some(Ok(())) => {
            let rest = async {
                // Lessons are worth a moment, and no more: results are in.
                let _ = upkeep::save_habits(shared, &shared.lanes.all()).await;
                shared.tasks.wait().await;
                while loops.join_next().await.is_some() {}
                // What is not left now is taken by others when its lease ends.
                let _ = shared.store.leave().await;
            };
            let _ = tokio::time::timeout(STOP_MARGIN, rest).await;
            return Ok(());
        }
        None => {}
    }
    loops.abort_all();
    tracing::warn!(
        "the last results could not be committed, since the database is locked or full: they are polled again"
    );
    Ok(())
}

/// Waits for the end of a loop. The reconciler ends last: when scheduler and workers have, and their outcomes are committed.
async fn until_ended(
    loops: &mut JoinSet<(LoopName, Result<(), DaemonError>)>,
    name: LoopName,
) -> Result<(), DaemonError> {
    while let Some(end) = loops.join_next().await {
        match end {
            Ok((ended, end)) if ended == name => return end,
            Ok((_, Ok(()))) => {}
            Ok((_, Err(DaemonError::Store(error)))) if error.is_transient() => {}
            Ok((_, Err(error))) => return Err(error),
            Err(panic) => return Err(DaemonError::Ended(panicked(&panic))),
        }
    }
    Ok(())
}

/// What a killed daemon had called and not committed any more is counted now, as far as it had published it.
async fn count_lost_calls(shared: &Shared) -> Result<(), DaemonError> {
    let month = QuotaMonth::of(shared.clock.now()).to_string();
    let database = &shared.lanes.configured().settings.database.local_path();
    let Some(published) = Published::read(&status_path(database)) else {
        return Ok(());
    };
    let counted = shared.store.calls_in(&month).await?;
    let lost = published.uncommitted(&month, &counted);
    let calls: u64 = lost.iter().map(|count| count.calls).sum();
    if calls > 0 {
        shared.store.count_calls(&lost).await?;
        tracing::info!(
            calls.metered = calls,
            "{calls} calls are counted that were made before receiptd was killed, and whose results were lost"
        );
    }
    Ok(())
}
