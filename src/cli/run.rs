//! `receiptd run`: the daemon, with its signals.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::common;
use crate::daemon::{self, Clock, Stop};
use crate::settings::{Settings, process_environment};
use crate::store::sqlite::{DaemonLock, Role, SqliteStore};
use crate::telemetry::{self, Surroundings, Telemetry};

/// Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  receiptd run --config receiptd.toml")]
pub(super) struct Args {}

pub(super) async fn run(config: Option<&Path>, _args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    let settings = Arc::new(loaded.settings);
    let surroundings = Surroundings::of_process(process_environment());
    let telemetry = telemetry::init(&settings.log, &surroundings)?;
    for warning in &loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
    // Before the database is opened: a signal during a long migration is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be watched")?;
    let mut hangup = signal(SignalKind::hangup()).context("signals cannot be watched")?;
    let lock = DaemonLock::acquire(&settings.database.path)?;
    let store = SqliteStore::open_reporting(&settings.database, Role::Owner, &mut |step| {
        tracing::info!(
            "database: bringing the schema to version {}: {}",
            step.version,
            step.description
        );
    })
    .await?;
    let store = Arc::new(store);
    let (now_in_force, watched) = watch::channel(settings);
    let stop = Stop::default();
    let daemon = daemon::run(Arc::clone(&store), watched, Clock::system(), stop.clone());
    tokio::pin!(daemon);
    tell(&[NotifyState::Ready]);
    let ended = loop {
        tokio::select! {
            ended = &mut daemon => break ended,
            _ = terminate.recv() => stop_now(&stop),
            _ = interrupt.recv() => stop_now(&stop),
            _ = hangup.recv() => {
                reloading();
                reload(config, &now_in_force, &telemetry);
                tell(&[NotifyState::Ready]);
            }
        }
    };
    tell(&[NotifyState::Stopping]);
    store.close().await;
    drop(lock);
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// The first time with grace, the second at once.
fn stop_now(stop: &Stop) {
    if stop.soft.is_cancelled() {
        stop.hard.cancel();
    } else {
        tell(&[NotifyState::Stopping]);
        stop.soft.cancel();
    }
}

fn reload(
    config: Option<&Path>,
    now_in_force: &watch::Sender<Arc<Settings>>,
    telemetry: &Telemetry,
) {
    let running = Arc::clone(&now_in_force.borrow());
    let loaded = match common::settings(config) {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::error!("the configuration is not changed, the new one is refused: {error}");
            return;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
    for key in running.needs_restart(&loaded.settings) {
        tracing::warn!("configuration: {key} changes only with a restart");
    }
    let new = loaded.settings.reloaded_over(&running);
    if let Err(error) = telemetry.set_filter(&new.log.filter) {
        tracing::warn!("configuration: log.filter stays as it was: {error}");
    }
    let changes = running.changes(&new);
    for change in &changes {
        tracing::info!(
            "configuration: {} is {} (was {})",
            change.key,
            change.new.as_deref().unwrap_or("gone"),
            change.old.as_deref().unwrap_or("not there"),
        );
    }
    tracing::info!("configuration read again, {} changes", changes.len());
    now_in_force.send_replace(Arc::new(new));
}

fn reloading() {
    // systemd takes RELOADING only with the moment it began.
    match NotifyState::monotonic_usec_now() {
        Ok(moment) => tell(&[NotifyState::Reloading, moment]),
        Err(error) => tracing::debug!("systemd is not told of the reload: {error}"),
    }
}

/// Tells systemd, where it started us and asked for it.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("systemd could not be told: {error}");
    }
}
