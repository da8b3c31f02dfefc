//! What systemd is told where it started the daemon: when it is ready, how it stands, that it is alive.

use std::fmt::Write as _;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::daemon::{Handle, Published};

/// Asked for at a time while a migration runs; systemd counts it from the moment it hears.
const EXTENSION: Duration = Duration::from_secs(60);
/// How often.
const EXTEND_EVERY: Duration = Duration::from_secs(10);
/// What the end of a stop may take beside its grace: the last commit's patience, and some.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// A loop turns every 5 s at least: at twice that it stands still, however short a watchdog the unit asks for.
const STANDSTILL: Duration = Duration::from_secs(10);
/// Longer, and an operator's terminal cuts it.
const LONGEST_STATUS: usize = 240;

/// The time in which the database is opened, which a migration makes long.
#[derive(Debug, Default)]
pub(super) struct Opening {
    extending: Option<AbortOnDropHandle<()>>,
}

impl Opening {
    /// A migration begins, or a wait for the file: systemd's patience is asked for until this is dropped.
    pub(super) fn takes_long(&mut self, step: &str) {
        tell(&[NotifyState::Status(step)]);
        // A task of its own: it speaks also while the opening one is busy.
        self.extending.get_or_insert_with(|| {
            AbortOnDropHandle::new(tokio::spawn(async {
                loop {
                    tell(&[extend(EXTENSION)]);
                    tokio::time::sleep(EXTEND_EVERY).await;
                }
            }))
        });
    }
}

/// The settings are valid, the schema is today's, due messages can be read.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is read again, until [`ready`] is told.
pub(super) fn reloading() {
    // systemd takes RELOADING only with the moment it began.
    match NotifyState::monotonic_usec_now() {
        Ok(moment) => tell(&[NotifyState::Reloading, moment]),
        Err(error) => tracing::debug!("systemd is not told of the reload: {error}"),
    }
}

/// It stops, and needs `grace` and a little more, whatever the unit says.
pub(super) fn stopping(grace: Duration) {
    let status = format!(
        "stopping: the calls under way have {} to end",
        humantime::format_duration(grace)
    );
    tell(&[
        NotifyState::Stopping,
        extend(grace + STOP_MARGIN),
        NotifyState::Status(&status),
    ]);
}

/// Keeps the status line true, until dropped.
pub(super) fn keep_status(handle: &Handle, stopping: CancellationToken) -> AbortOnDropHandle<()> {
    let mut published = handle.published();
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut said = String::new();
        while published.changed().await.is_ok() {
            let line = published.borrow_and_update().as_deref().map(status_line);
            let news = line.filter(|line| *line != said && !stopping.is_cancelled());
            if let Some(line) = news {
                tell(&[NotifyState::Status(&line)]);
                said = line;
            }
        }
    }))
}

/// Feeds systemd's watchdog, until dropped: while every core loop turns, whatever the database or the endpoint say.
///
/// A thread of its own, outside the runtime whose standstill it is to notice, and to name.
pub(super) struct Feeder {
    /// Dropped, it wakes the thread.
    ending: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Feeder {
    /// `None` where systemd did not ask for it. A stop has a bound of its own, so that it is fed during one.
    pub(super) fn start(handle: Handle, stopping: CancellationToken) -> io::Result<Option<Self>> {
        let Some(within) = sd_notify::watchdog_enabled() else {
            return Ok(None);
        };
        let (ending, ended) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || feed(within, &handle, &stopping, &ended))?;
        Ok(Some(Self {
            ending: Some(ending),
            thread: Some(thread),
        }))
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.ending = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was logged, and starves the watchdog.
            let _ = thread.join();
        }
    }
}

fn feed(
    within: Duration,
    handle: &Handle,
    stopping: &CancellationToken,
    ended: &mpsc::Receiver<()>,
) {
    let mut stands_still = false;
    loop {
        let (slowest, age) = handle.heartbeats().slowest();
        if stopping.is_cancelled() || age < STANDSTILL.max(within / 2) {
            stands_still = false;
            tell(&[NotifyState::Watchdog]);
        } else if !stands_still {
            stands_still = true;
            tracing::error!(
                loop.name = slowest.as_str(),
                "the {} has not turned for {} s: systemd will start receiptd again",
                slowest.as_str(),
                age.as_secs()
            );
        }
        if ended.recv_timeout(within / 4) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// One line for `systemctl status`: how much there is, and what is wrong.
fn status_line(published: &Published) -> String {
    let mut line = match &published.backlog {
        None => "counting".to_owned(),
        Some(backlog) => format!("{} pending", backlog.pending),
    };
    // Writing to a String cannot fail, here and below.
    if let Some(backlog) = published.backlog.as_ref().filter(|found| found.due > 0) {
        let oldest = Duration::from_secs(backlog.lag_ms / 1000);
        let _ = write!(
            line,
            ", {} overdue (the oldest for {})",
            backlog.due,
            humantime::format_duration(oldest)
        );
    }
    let _ = write!(line, ", {} in flight", published.in_flight);
    if let Some(backlog) = &published.backlog {
        let _ = write!(line, ", {} calls this month", backlog.calls_this_month);
    }
    for lane in published.lanes.iter().filter(|lane| lane.condition != "ok") {
        let _ = write!(line, "; {}", lane.account);
        if let Some(corp) = &lane.corp_id {
            let _ = write!(line, "/{corp}");
        }
        let _ = write!(line, " {}", lane.condition);
        if let Some(code) = &lane.code {
            let _ = write!(line, " ({code})");
        }
    }
    if let Some(refused) = &published.reloads.refused {
        let _ = write!(line, "; the new configuration is refused: {refused}");
    }
    one_line(&line)
}

/// Without anything that could end the line, or systemd's message, and not endless.
fn one_line(text: &str) -> String {
    let printable = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut line: String = printable.clone().take(LONGEST_STATUS).collect();
    if printable.count() > LONGEST_STATUS {
        line.push('…');
    }
    line
}

fn extend(by: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))
}

/// Tells systemd, where it started us and asked for it.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(error = %error, "systemd could not be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::{Backlog, LaneCondition, Reloads};

    fn lane(account: &str, condition: &str, code: Option<&str>) -> LaneCondition {
        LaneCondition {
            account: account.to_owned(),
            corp_id: None,
            condition: condition.to_owned(),
            code: code.map(str::to_owned),
            last_success_at: None,
            month: None,
            calls: 0,
        }
    }

    fn published() -> Published {
        Published {
            pid: 1,
            started_at: 0,
            updated_at: 0,
            in_flight: 2,
            loops: Vec::new(),
            backlog: None,
            lanes: vec![lane("default", "ok", None)],
            budgets: Vec::new(),
            reloads: Reloads::default(),
        }
    }

    #[test]
    fn the_status_line_says_how_much_there_is_and_what_is_wrong() {
        let mut found = published();
        assert_eq!(status_line(&found), "counting, 2 in flight");
        found.backlog = Some(Backlog {
            counted_at: 0,
            pending: 12,
            due: 0,
            lag_ms: 0,
            wal_bytes: 0,
            wal_held_bytes: 0,
            calls_this_month: 345,
            ..Backlog::default()
        });
        assert_eq!(
            status_line(&found),
            "12 pending, 2 in flight, 345 calls this month"
        );
        let backlog = found.backlog.as_mut().unwrap();
        (backlog.due, backlog.lag_ms) = (3, 61_900);
        found
            .lanes
            .push(lane("acme", "blocked", Some("invalidClientIdOrSecret")));
        found.reloads.refused = Some("line 1\nline 2".to_owned());
        assert_eq!(
            status_line(&found),
            "12 pending, 3 overdue (the oldest for 1m 1s), 2 in flight, 345 calls this month; \
             acme blocked (invalidClientIdOrSecret); the new configuration is refused: line 1 line 2"
        );
    }

    #[test]
    fn a_status_is_one_line_and_ends() {
        let line = one_line(&"ä\nREADY=1\n".repeat(100));
        assert_eq!(line.lines().count(), 1);
        assert_eq!(line.chars().count(), LONGEST_STATUS + 1);
    }
}
