//! Wires the three rooms, supervises them, stops them.
//!
//! ```text
//! scheduler ──jobs──► workers ──outcomes──► reconciler ──► store
//!     ▲  claims, fairly across lanes            │
//!     └────────────── what is in flight ◄───────┘
//! ```
//!
//! Both channels are bounded: a full one is the only back-pressure. What is claimed stays in flight until its outcome
//! is committed, so a crash costs no key more than one repeated poll.

mod address;
mod backoff;
mod clock;
mod gate;
mod health;
mod in_flight;
mod lanes;
mod lessons;
mod plans;
mod reconciler;
mod scheduler;
mod status_file;
mod tokens;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use clock::Clock;
pub use status_file::{LaneCondition, Published, status_path};

use crate::dingtalk::ClientError;
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

/// Serves until `stop`, or until a core loop ends.
///
/// The caller has opened the store as its owner, holds the daemon's lock, and watches for signals.
///
/// # Errors
/// The end of any core loop, for whatever reason, ends the daemon: there is no half-alive daemon.
pub async fn run<S: Store>(
    store: Arc<S>,
    settings: watch::Receiver<Arc<Settings>>,
    clock: Clock,
    stop: Stop,
) -> Result<(), DaemonError> {
    let now = settings.borrow().clone();
    let in_flight = Arc::new(in_flight::InFlight::default());
    let lanes = Arc::new(lanes::Lanes::new(&now, tokens::TicketSource::of(&store))?);
    lanes.load_spent(&store.calls_in(&clock.now().quota_month()).await?);
    let plans = Arc::new(plans::Plans::new(&now, &store.habits().await?));
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
            stop: stop.clone(),
        }
        .run(),
    );
    let mut workers = tokio::spawn(worker::pool(
        jobs_out,
        outcomes_in,
        clock.clone(),
        stop.clone(),
    ));
    let mut reconciler = tokio::spawn(
        reconciler::Reconciler {
            store,
            settings: settings.clone(),
            clock: clock.clone(),
            plans,
            in_flight: in_flight.clone(),
            outcomes: outcomes_out,
            stop: stop.clone(),
        }
        .run(),
    );
    let status = tokio::spawn(status_file::publish(
        settings.clone(),
        clock,
        lanes,
        in_flight,
        stop.soft.clone(),
    ));

    let early = tokio::select! {
        biased;
        () = stop.soft.cancelled() => Ok(()),
        end = &mut scheduler => ended("scheduler", end),
        end = &mut workers => ended("worker pool", end.map(Ok)),
        end = &mut reconciler => ended("reconciler", end),
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
    status.abort();
    match last_commit {
        Ok(Ok(end)) => end,
        Ok(Err(_)) => Err(DaemonError::Ended("reconciler")),
        Err(_) => {
            reconciler.abort();
            tracing::warn!(
                "stopped before the last results were committed: the database is locked or full; they are polled again"
            );
            Ok(())
        }
    }
}

fn ended(
    room: &'static str,
    end: Result<Result<(), DaemonError>, tokio::task::JoinError>,
) -> Result<(), DaemonError> {
    match end {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Err(DaemonError::Ended(room)),
    }
}
