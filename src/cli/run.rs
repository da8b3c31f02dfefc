//! `receiptd run`: the daemon, with its signals.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{FAILED, MISUSED, common, notify, opening};
use crate::daemon::{self, Clock, Configured, Handle, Stop};
use crate::receipt::whole_ms;
use crate::settings::{DEFAULT_PATH, Database, InForce, Loaded, Place, process_environment};
use crate::store::Role;
use crate::store::sqlite::{DaemonLock, LockError};
use crate::telemetry::{self, Surroundings, Telemetry};

/// Serve until SIGTERM or SIGINT; SIGHUP reads the configuration again
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  receiptd run --config receiptd.toml")]
pub(super) struct Args {
    /// Do not start without an account in the configuration (as the packaged service)
    #[arg(long)]
    require_account: bool,
}

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = common::settings(config)?;
    let surroundings = Surroundings::of_process(process_environment());
    let telemetry = telemetry::init(&loaded.settings.log, &surroundings)?;
    if args.require_account && loaded.settings.accounts.is_empty() {
        let file = loaded.file.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
        tracing::error!(
            settings.file = %file.display(),
            "receiptd does not start: {}: accounts: {}",
            file.display(),
            common::NO_ACCOUNT
        );
        return Ok(ExitCode::from(MISUSED));
    }
    let started = Instant::now();
    // From here on all is said in the log, the end too: that is where an operator looks, and what a priority filters.
    Ok(match serve(config, loaded, &telemetry).await {
        Ok(()) => {
            let uptime_ms = whole_ms(started.elapsed());
            let uptime = humantime::format_duration(Duration::from_secs(uptime_ms / 1000));
            tracing::info!(uptime_ms, "receiptd has stopped after {uptime}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::error!(error, "receiptd ends: {error}");
            ExitCode::from(FAILED)
        }
    })
}

async fn serve(config: Option<&Path>, loaded: Loaded, telemetry: &Telemetry) -> anyhow::Result<()> {
    say_what_is_in_force(&loaded);
    let configured = Configured::new(loaded.settings)?;
    let settings = Arc::clone(&configured.settings);
    // Before the database is opened: a signal during a long migration is not lost.
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be watched")?;
    let mut hangup = signal(SignalKind::hangup()).context("signals cannot be watched")?;
    let (path, mut lock) = lock(&settings.database)?;
    let mut opening = notify::Opening::default();
    let store = tokio::select! {
        store = opening::open(&settings.database, &mut opening) => store?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    drop(opening);
    // Again, since a disk that was full may have kept the name out; one that is full still does no harm.
    let _ = lock.sign();
    let database = settings.database.clone();
    let (now_in_force, watched) = watch::channel(configured);
    let stop = Stop::default();
    let handle = Handle::publishing_at(&path);
    let daemon = daemon::run(
        Arc::clone(&store),
        watched,
        Clock::system(),
        handle.clone(),
        stop.clone(),
    );
    tokio::pin!(daemon);
    let status = notify::keep_status(&handle, stop.graceful.clone());
    let watchdog = notify::Feeder::start(handle.clone(), stop.graceful.clone())
        .context("no thread can be started")?;
    tracing::info!(
        database.path = %database,
        "receiptd serves {database}"
    );
    // Kept, since dropping it ends the questions.
    // Among several nodes each asks for what it has, once it has it.
    let asks = !store.is_shared();
    let mut _asking = daemon::ask_for_tokens(Arc::clone(&now_in_force.borrow()), move |_, _| asks);
    let mut minutes = tokio::time::interval(Duration::from_secs(60));
    let mut is_ready = false;
    // Settings that were read again and that the daemon has yet to take.
    let mut taking: Option<Arc<Configured>> = None;
    let ended = loop {
        tokio::select! {
            ended = &mut daemon => break ended,
            _ = terminate.recv() => stop_now("SIGTERM", &stop, &now_in_force),
            _ = interrupt.recv() => stop_now("SIGINT", &stop, &now_in_force),
            () = handle.ready(), if !is_ready => {
                is_ready = true;
                notify::ready();
            }
            _ = minutes.tick() => telemetry.tell_repeats(),
            // One after the other: how the first ends must not be told by the second.
            _ = hangup.recv(), if taking.is_none() => {
                notify::reloading();
                let running = Arc::clone(&now_in_force.borrow());
                match reload(config, &now_in_force, telemetry) {
                    Ok(new) => {
                        _asking = daemon::ask_for_tokens(Arc::clone(&new), move |name, account| {
                            asks && running.settings.accounts.get(name) != Some(account)
                        });
                        taking = Some(new);
                    }
                    Err(refused) => {
                        handle.reloaded(Some(refused));
                        notify::ready();
                    }
                }
            }
            () = taken(&handle, taking.as_ref()), if taking.is_some() => {
                taking = None;
                handle.reloaded(None);
                notify::ready();
            }
        }
    };
    drop((status, watchdog));
    store.close().await;
    drop(lock);
    ended?;
    Ok(())
}

/// The first free lock of the database's: of a SQLite file there is one.
fn lock(database: &Database) -> anyhow::Result<(PathBuf, DaemonLock)> {
    let mut refused = None;
    for path in database.local_paths() {
        match DaemonLock::acquire(&path) {
            Ok(lock) => return Ok((path, lock)),
            Err(error @ LockError::Held { .. }) => refused = refused.or(Some((path, error))),
            Err(error) => return Err(common::explained(&path, Role::Owner, error)),
        }
    }
    Err(match refused {
        Some((path, error)) => common::explained(&path, Role::Owner, error),
        None => anyhow::anyhow!("{database}: there is no place for a lock"),
    })
}

/// The first lines: which receiptd, and what was set, secrets redacted.
fn say_what_is_in_force(loaded: &Loaded) {
    let version = env!("CARGO_PKG_VERSION");
    let file = loaded.file.as_deref().map(Path::display);
    let read = match &file {
        Some(file) => format!("{file} and the environment"),
        None => "defaults and the environment, there is no file".to_owned(),
    };
    tracing::info!(
        version,
        settings.file = file.map(tracing::field::display),
        "receiptd {version} starts, configured by {read}"
    );
    let (defaults, said): (Vec<InForce>, Vec<InForce>) = loaded
        .in_force()
        .into_iter()
        .partition(|setting| setting.place == Place::Defaults);
    // Many accounts make no endless line.
    const MOST: usize = 100;
    let line = |settings: &[InForce]| {
        let mut shown: Vec<String> = settings.iter().take(MOST).map(InForce::to_string).collect();
        if settings.len() > MOST {
            shown.push(format!(
                "and {} more: see receiptd config --show",
                settings.len() - MOST
            ));
        }
        shown.join(", ")
    };
    if !said.is_empty() {
        let values = line(&said);
        tracing::info!(settings.values = values, "settings that were set: {values}");
    }
    tracing::debug!("settings that are the defaults: {}", line(&defaults));
    for warning in &loaded.warnings {
        tracing::warn!(warning, "configuration: {warning}");
    }
}

/// The first time with grace, the second at once.
fn stop_now(signal: &'static str, stop: &Stop, settings: &watch::Sender<Arc<Configured>>) {
    if stop.graceful.is_cancelled() {
        tracing::info!(
            signal,
            "receiptd stops at once: a second signal ({signal}); what is under way is polled again"
        );
        stop.immediate.cancel();
    } else {
        let grace = settings.borrow().settings.workers.shutdown_grace;
        tracing::info!(
            signal,
            "receiptd stops ({signal}): the calls under way have {} to end",
            humantime::format_duration(grace)
        );
        notify::stopping(grace);
        stop.graceful.cancel();
    }
}

async fn taken(handle: &Handle, configured: Option<&Arc<Configured>>) {
    if let Some(configured) = configured {
        handle.in_force(configured).await;
    }
}

/// Puts the settings in force that stand in the configuration now.
///
/// # Errors
/// Why the old ones stay.
fn reload(
    config: Option<&Path>,
    now_in_force: &watch::Sender<Arc<Configured>>,
    telemetry: &Telemetry,
) -> Result<Arc<Configured>, String> {
    let running = Arc::clone(&now_in_force.borrow().settings);
    let loaded = common::settings(config).map_err(|error| refused(&error))?;
    for warning in &loaded.warnings {
        tracing::warn!(warning, "configuration: {warning}");
    }
    for key in running.needs_restart(&loaded.settings) {
        tracing::warn!(
            settings.key = key,
            "configuration: {key} changes only with a restart"
        );
    }
    let new = loaded.settings.reloaded_over(&running);
    // Certificate files are read again here, whether their names changed or not.
    let configured =
        Configured::new(new.clone()).map_err(|error| refused(&anyhow::Error::new(error)))?;
    if let Err(error) = telemetry.set_filter(&new.log.filter) {
        tracing::warn!(error = %error, "configuration: log.filter stays as it was: {error}");
    }
    let changes = running.changes(&new);
    for change in &changes {
        let new = change.new.as_deref().unwrap_or("gone");
        let old = change.old.as_deref().unwrap_or("not there");
        tracing::info!(
            settings.key = change.key,
            settings.new = new,
            settings.old = old,
            "configuration: {} is {new} (was {old})",
            change.key
        );
    }
    let changes = changes.len();
    tracing::info!(changes, "configuration: read again, {changes} changes");
    now_in_force.send_replace(Arc::clone(&configured));
    Ok(configured)
}

fn refused(error: &impl std::fmt::Display) -> String {
    let error = format!("{error:#}");
    tracing::error!(
        error,
        "configuration: the new one is refused, the old one stays: {error}"
    );
    error
}
