//! Wires the three rooms, supervises them, stops them.
//!
//! ```text
//! scheduler ──jobs──► workers ──outcomes──► reconciler ──► store
//!     ▲  claims, fairly across lanes            │
//!     └────────────── what is in flight ◄───────┘
//! ```
//!
//! Beside them the keeper counts and writes the summary, the planner solves policies, and the pruner removes what finished
//! long ago.
//!
//! Both channels are bounded: a full one is the only back-pressure. What is claimed stays in flight until its outcome
//! is committed, so a crash costs no key more than one repeated poll.

mod address;
mod backoff;
mod budgets;
mod clock;
mod gate;
mod health;
mod in_flight;
mod keeper;
mod lane_log;
mod lanes;
mod lessons;
mod plan;
mod planner;
mod plans;
mod pruner;
mod published;
mod pulse;
mod purse;
mod reconciler;
mod scheduler;
mod status_file;
mod tally;
mod tokens;
mod vitals;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

pub use budgets::{Counted, standing};
pub use clock::Clock;
pub use published::{Backlog, BudgetCondition, LaneCondition, LoopBeat, Published, Reloads};
pub use pulse::{CoreLoop, Pulse};
pub use purse::Standing;
pub use status_file::status_path;
pub use vitals::Vitals;

use crate::dingtalk::ClientError;
use crate::receipt::UnixMs;
use crate::settings::Settings;
use crate::store::{Store, StoreError};

/// How to stop.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Stop claiming, give the walks under way their grace, commit what they brought.
    pub soft: CancellationToken,
    /// Stop at once: what is not committed is polled again.
    pub hard: CancellationToken,
}

/// Why the daemon ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The HTTP client could not be made.
    #[error("the endpoint cannot be called")]
    Client(#[from] ClientError),
    /// The database needs a person.
    #[error("the database is no longer usable")]
    Store(#[from] StoreError),
    /// A core loop ended though nobody asked it to.
    #[error("the {0} ended by itself; this is a bug: please report it")]
    Ended(&'static str),
}

/// Beyond `shutdown_grace`, a stop takes so long at most, whoever holds the database.
const STOP_MARGIN: Duration = Duration::from_secs(4);

/// Serves until `stop`, or until a core loop ends; `vitals` lets the caller watch.
///
/// The caller has opened the store as its owner, holds the daemon's lock, and watches for signals.
///
/// # Errors
/// The end of any core loop, for whatever reason, ends the daemon: there is no half-alive daemon.
pub async fn run<S: Store>(
    store: Arc<S>,
    settings: watch::Receiver<Arc<Settings>>,
    clock: Clock,
    vitals: Vitals,
    stop: Stop,
) -> Result<(), DaemonError> {
    let now = settings.borrow().clone();
    let in_flight = Arc::new(in_flight::InFlight::default());
    let tickets = tokens::TicketSource::of(&store);
    let warnings = vitals.warnings().clone();
    let lanes = Arc::new(lanes::Lanes::new(&now, tickets, clock.clone(), warnings)?);
    load_calls(&*store, &lanes, &now, clock.now()).await?;
    let plans = Arc::new(plans::Plans::new(&now, &store.habits().await?));
    let tally = Arc::new(tally::Tally::default());
    let backlog = Arc::new(Mutex::new(None));
    let (jobs_in, jobs_out) = mpsc::channel(now.workers.concurrency);
    let (outcomes_in, outcomes_out) = mpsc::channel(now.workers.concurrency * 4);

    let mut scheduler = tokio::spawn(
        scheduler::Scheduler {
            store: store.clone(),
            settings: settings.clone(),
            clock: clock.clone(),
            lanes: lanes.clone(),
            plans: plans.clone(),
            in_flight: in_flight.clone(),
            jobs: jobs_in,
            outcomes: outcomes_in.clone(),
            vitals: vitals.clone(),
            stop: stop.clone(),
        }
        .run(),
    );
    let mut workers = tokio::spawn(worker::pool(
        jobs_out,
        outcomes_in,
        clock.clone(),
        vitals.clone(),
        stop.clone(),
    ));
    let mut reconciler = tokio::spawn(
        reconciler::Reconciler {
            store: store.clone(),
            clock: clock.clone(),
            lanes: lanes.clone(),
            plans: plans.clone(),
            in_flight: in_flight.clone(),
            tally: tally.clone(),
            vitals: vitals.clone(),
            outcomes: outcomes_out,
            enough: now.workers.concurrency * scheduler::CLAIMS_A_PLACE / 2,
            stop: stop.clone(),
        }
        .run(),
    );
    let mut pruner = tokio::spawn(
        pruner::Pruner {
            store: store.clone(),
            settings: settings.clone(),
            clock: clock.clone(),
            tally: tally.clone(),
            vitals: vitals.clone(),
            stop: stop.clone(),
        }
        .run(),
    );
    let mut keeper = tokio::spawn(
        keeper::Keeper {
            store,
            settings: settings.clone(),
            clock: clock.clone(),
            lanes: lanes.clone(),
            plans: plans.clone(),
            in_flight: in_flight.clone(),
            tally,
            backlog: backlog.clone(),
            vitals: vitals.clone(),
            stop: stop.clone(),
        }
        .run(),
    );
    let mut planner = tokio::spawn(planner::run(plans, vitals.clone(), stop.clone()));
    let publisher = status_file::Publisher {
        settings: settings.clone(),
        clock,
        lanes,
        in_flight,
        backlog,
        vitals,
    };
    let publishing = tokio::spawn(publisher.run(stop.soft.clone()));

    let early = tokio::select! {
        biased;
        () = stop.soft.cancelled() => Ok(()),
        end = &mut scheduler => ended(CoreLoop::Scheduler, end),
        end = &mut workers => ended(CoreLoop::Workers, end.map(Ok)),
        end = &mut reconciler => ended(CoreLoop::Reconciler, end),
        end = &mut keeper => ended(CoreLoop::Keeper, end),
        end = &mut planner => ended(CoreLoop::Planner, end),
        end = &mut pruner => ended(CoreLoop::Pruner, end),
    };
    if early.is_err() {
        stop.hard.cancel();
        stop.soft.cancel();
        return early;
    }
    // Walks under way have their grace; then what they brought is committed.
    let grace = settings.borrow().workers.shutdown_grace;
    tokio::select! {
        _ = &mut workers => {}
        () = stop.hard.cancelled() => {}
        () = tokio::time::sleep(grace) => stop.hard.cancel(),
    }
    let last_commit = tokio::time::timeout(STOP_MARGIN, &mut reconciler).await;
    publishing.abort();
    match last_commit {
        Ok(Ok(Err(DaemonError::Store(error)))) if error.is_transient() => {}
        Ok(Ok(end)) => return end,
        Ok(Err(_)) => return Err(DaemonError::Ended(CoreLoop::Reconciler.as_str())),
        Err(_) => reconciler.abort(),
    }
    tracing::warn!(
        "the last results could not be committed, since the database is locked or full: they are polled again"
    );
    Ok(())
}

/// Takes over what was spent before a restart. What a killed daemon had called and not written any more is counted now, as
/// far as it had published it.
async fn load_calls<S: Store>(
    store: &S,
    lanes: &lanes::Lanes,
    settings: &Settings,
    now: UnixMs,
) -> Result<(), DaemonError> {
    let month = now.quota_month();
    let counted = store.calls_in(&month).await?;
    let unwritten = status_file::read(&settings.database.path)
        .map(|published| published.unwritten(&month, &counted))
        .unwrap_or_default();
    let calls: u64 = unwritten.iter().map(|count| count.calls).sum();
    if calls > 0 {
        store.count_calls(&unwritten).await?;
        tracing::info!(
            calls.metered = calls,
            "{calls} calls are counted that were made before receiptd was killed, and whose results were lost"
        );
    }
    let start = now.quota_month_start();
    let before = (start - Duration::from_secs(1)).quota_month();
    lanes.load(
        now,
        &store.calls_in(&month).await?,
        &store.calls_in(&before).await?,
    );
    Ok(())
}

fn ended(
    room: CoreLoop,
    end: Result<Result<(), DaemonError>, JoinError>,
) -> Result<(), DaemonError> {
    match end {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Err(DaemonError::Ended(room.as_str())),
    }
}
