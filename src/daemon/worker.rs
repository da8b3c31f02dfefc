//! One key, page by page: a job becomes an outcome.

use std::any::Any;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backoff::Backoff;
use super::gate::{Closed, Gate, LaneSetup, Turnstile};
use super::pulse::CoreLoop;
use super::vitals::Vitals;
use super::{Clock, Stop};
use crate::cadence::Call;
use crate::dingtalk::{Failure, Page, PageToken, Query};
use crate::receipt::{
    Claim, Disposition, ErrorCode, Message, Outcome, SeenReader, SendStatus, UnixMs, UserId,
    WalkEnd,
};
use crate::telemetry::panic_text;

/// A claimed row with all that its walk needs.
pub(super) struct Job {
    pub(super) message: Message,
    /// What the poll is for, as the budget sees it.
    pub(super) call: Call,
    pub(super) gate: Arc<Gate>,
    pub(super) setup: Arc<LaneSetup>,
    /// Cancelled when the row is no longer what was claimed: no further call for it.
    pub(super) recall: CancellationToken,
}

/// Runs every job as a task of its own until the jobs end, and waits for the last. The calls under way at once are
/// bounded by the address's places; what waits holds none.
pub(super) async fn pool(
    mut jobs: mpsc::Receiver<Job>,
    outcomes: mpsc::Sender<Outcome>,
    clock: Clock,
    vitals: Vitals,
    stop: Stop,
) {
    let walks = TaskTracker::new();
    let mut batch = Vec::with_capacity(JOBS_AT_ONCE);
    let pulse = vitals.pulse();
    loop {
        let taking = jobs.recv_many(&mut batch, JOBS_AT_ONCE);
        if pulse.while_waiting(CoreLoop::Workers, taking).await == 0 {
            break;
        }
        for job in batch.drain(..) {
            let claim = job.message.claim();
            // Boxed: it is some thousand bytes, which a spawn moves several times.
            let walk = Box::pin(Walk::new(job, clock.clone(), stop.clone()).run());
            let (outcomes, clock, vitals) = (outcomes.clone(), clock.clone(), vitals.clone());
            walks.spawn(async move {
                // Asserted: whatever a walk shares is behind a lock that a panic leaves usable.
                let outcome = match AssertUnwindSafe(walk).catch_unwind().await {
                    Ok(outcome) => outcome,
                    Err(panic) => panicked(claim, &*panic, clock.now(), &vitals),
                };
                // A closed channel means that the reconciler is gone, which ends the daemon.
                let _ = outcomes.send(outcome).await;
            });
        }
    }
    walks.close();
    pulse.while_waiting(CoreLoop::Workers, walks.wait()).await;
}

/// A walk that panics is this key's error and nobody else's.
fn panicked(claim: Claim, panic: &(dyn Any + Send), at: UnixMs, vitals: &Vitals) -> Outcome {
    let text = panic_text(panic);
    if let Some(again) = vitals.warnings().admit("a walk panicked") {
        tracing::error!(
            message.key = %claim.key, error = text, suppressed = again.count(),
            "message {}: its walk panicked: {text}{again}", claim.key
        );
    }
    Outcome::without_call(claim, at, WalkEnd::Cut(ErrorCode::from("receiptd.panic")))
}

/// Jobs taken from the channel at once.
const JOBS_AT_ONCE: usize = 64;
/// Pages a walk at most.
const MOST_PAGES: u32 = 200;
/// Readers of a walk at most: as many as its pages hold.
const MOST_READERS: usize = 40_000;
/// How often a walk begins again from its first page.
const MOST_RESTARTS: u32 = 3;

struct Walk {
    job: Job,
    clock: Clock,
    stop: Stop,
    backoff: Backoff,
    outcome: Outcome,
    known: HashSet<UserId>,
    tokens_met: HashSet<PageToken>,
    /// The lane's turn, while this walk probes for it.
    kept: Option<Turnstile>,
    next: Option<PageToken>,
    pages: u32,
    restarts: u32,
    page_size: u16,
    token_refused: bool,
}

impl Walk {
    fn new(job: Job, clock: Clock, stop: Stop) -> Self {
        let at = clock.now();
        Self {
            backoff: Backoff::new(&job.setup.settings.retry),
            outcome: Outcome::without_call(job.message.claim(), at, WalkEnd::Released),
            known: HashSet::new(),
            tokens_met: HashSet::new(),
            kept: None,
            next: None,
            pages: 0,
            restarts: 0,
            page_size: job.setup.settings.endpoint.page_size,
            token_refused: false,
            job,
            clock,
            stop,
        }
    }

    async fn run(mut self) -> Outcome {
        let end = loop {
            if let Some(end) = self.call().await {
                break end;
            }
        };
        self.outcome.end = end;
        self.outcome.ended_at = self.clock.now();
        self.outcome
    }

    /// One call; `Some` where it was the walk's last.
    async fn call(&mut self) -> Option<WalkEnd> {
        let fresh = self.outcome.calls == 0;
        let kept = self.kept.take();
        let pass = tokio::select! {
            biased;
            () = self.stop.hard.cancelled() => return Some(WalkEnd::Released),
            () = self.stop.soft.cancelled(), if fresh => return Some(WalkEnd::Released),
            () = self.job.recall.cancelled() => return Some(WalkEnd::Released),
            pass = self.job.gate.enter(&self.job.setup, &self.clock, self.job.call, fresh, kept) => pass,
        };
        let mut pass = match pass {
            Ok(pass) => pass,
            Err(Closed::Later) => return Some(WalkEnd::Released),
            Err(Closed::OverBudget) => return Some(WalkEnd::OverBudget),
            Err(Closed::Refused(code)) => return Some(WalkEnd::LaneBlocked(code)),
            Err(Closed::Trouble(failure)) => return self.wait(failure.code).await,
        };
        if fresh {
            self.outcome.started_at = self.clock.now();
        }
        let row = &self.job.message;
        let robot = row
            .robot_code
            .as_ref()
            .or(self.job.setup.account.robot_code.as_ref());
        let query = Query {
            chat: row.chat,
            key: &row.key,
            robot_code: robot.map(crate::receipt::RobotCode::as_str),
            conversation: row
                .conversation
                .as_ref()
                .map(crate::receipt::ConversationId::as_str),
            page_size: self.page_size,
            next_token: self.next.as_ref(),
        };
        let asked = Instant::now();
        // Counted before the answer: a call that a hard stop cuts off may have arrived.
        self.outcome.calls += 1;
        let answer = tokio::select! {
            biased;
            () = self.stop.hard.cancelled() => return Some(WalkEnd::Released),
            answer = self.job.setup.client.query(&pass.token, &query) => answer,
        };
        self.backoff.charge(asked.elapsed());
        match answer {
            Ok(page) => {
                self.job.gate.answered(&self.clock);
                drop(pass);
                self.page(page)
            }
            Err(failure) => {
                if !failure.metered {
                    self.outcome.calls -= 1;
                    self.job.gate.unmetered(&self.job.setup, &self.clock);
                }
                tracing::debug!(
                    message.key = %self.job.message.key, error.code = %failure.code,
                    "message {}: {failure}", self.job.message.key
                );
                if failure.disposition == Disposition::RefreshToken {
                    self.job.gate.invalidate(pass).await;
                } else {
                    self.learn_of_lane(&failure);
                    if failure.disposition == Disposition::Retry {
                        self.kept = pass.probe.take();
                    }
                    drop(pass);
                }
                self.failed(failure).await
            }
        }
    }

    fn page(&mut self, page: Page) -> Option<WalkEnd> {
        fail::fail_point!("daemon.page", |_| std::process::abort());
        let seen_at: UnixMs = self.clock.now();
        self.backoff.relieve();
        self.token_refused = false;
        self.pages += 1;
        for user_id in page.readers.into_iter().map(|reader| reader.user_id) {
            if self.known.insert(user_id.clone()) {
                self.outcome.readers.push(SeenReader { user_id, seen_at });
            }
        }
        // RECALLED beats what an earlier page said, and is not taken back by a later one.
        if self.outcome.send_status != Some(SendStatus::Recalled) {
            self.outcome.send_status = Some(page.send_status);
        }
        match page.next {
            None => Some(WalkEnd::Complete),
            // A token that comes back within the walk leads nowhere new.
            Some(token) if !self.tokens_met.insert(token.clone()) => Some(WalkEnd::Complete),
            Some(_) if self.pages >= MOST_PAGES => {
                Some(WalkEnd::Cut(ErrorCode::from("walk.tooManyPages")))
            }
            Some(_) if self.outcome.readers.len() >= MOST_READERS => {
                Some(WalkEnd::Cut(ErrorCode::from("walk.tooManyReaders")))
            }
            Some(token) => {
                self.next = Some(token);
                None
            }
        }
    }

    fn learn_of_lane(&self, failure: &Failure) {
        let gate = &self.job.gate;
        match failure.disposition {
            Disposition::Retry => gate.trouble(&self.job.setup, failure),
            Disposition::Throttled { window } => {
                let asked = failure.retry_after;
                gate.throttled(
                    &failure.code,
                    asked.map_or(window, |asked| asked.max(window)),
                );
            }
            Disposition::QuotaExhausted => gate.exhausted(&failure.code, &self.clock),
            Disposition::LaneBlocked => gate.block(&failure.code, &failure.detail),
            Disposition::AddressBanned => gate.ban(),
            Disposition::Blocked => gate.refused_message(failure, true),
            // The row's own robot is its feeder's business, the account's is the operator's.
            Disposition::RobotRejected => {
                gate.refused_message(failure, self.job.message.robot_code.is_none());
            }
            _ => gate.refused_message(failure, false),
        }
    }

    async fn failed(&mut self, failure: Failure) -> Option<WalkEnd> {
        let code = failure.code.clone();
        match failure.disposition {
            Disposition::Retry => self.wait(code).await,
            Disposition::Throttled { .. } => {
                self.outcome.throttled += 1;
                None
            }
            Disposition::QuotaExhausted | Disposition::LaneBlocked => {
                Some(WalkEnd::LaneBlocked(code))
            }
            Disposition::AddressBanned => Some(WalkEnd::Released),
            Disposition::RefreshToken if self.token_refused => {
                let why =
                    "a new token is refused as well; check the app's credentials and base_url";
                self.job.gate.block(&code, why);
                Some(WalkEnd::LaneBlocked(code))
            }
            Disposition::RefreshToken => {
                self.token_refused = true;
                None
            }
            Disposition::Blocked => Some(WalkEnd::Blocked(code)),
            Disposition::RobotRejected if self.job.message.robot_code.is_none() => {
                Some(WalkEnd::Blocked(code))
            }
            Disposition::Rejected | Disposition::RobotRejected => Some(WalkEnd::Rejected(code)),
            Disposition::RestartPaging if self.restarts < MOST_RESTARTS && self.next.is_some() => {
                self.restarts += 1;
                self.next = None;
                self.tokens_met.clear();
                None
            }
            Disposition::SmallerPages if self.page_size > 1 => {
                self.page_size /= 2;
                None
            }
            Disposition::RestartPaging | Disposition::SmallerPages => Some(WalkEnd::Cut(code)),
            Disposition::NotGeneratedOrExpired => Some(WalkEnd::NotGeneratedOrExpired(code)),
        }
    }

    /// Waits as the backoff says; `Some` where it gives up, or where the stop comes first.
    async fn wait(&mut self, code: ErrorCode) -> Option<WalkEnd> {
        let Some(wait) = self.backoff.next() else {
            return Some(WalkEnd::Cut(code));
        };
        tokio::select! {
            () = self.stop.soft.cancelled() => Some(WalkEnd::Released),
            () = self.job.recall.cancelled() => Some(WalkEnd::Released),
            () = tokio::time::sleep(wait) => None,
        }
    }
}
