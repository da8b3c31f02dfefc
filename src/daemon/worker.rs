//! One key, page by page: a job becomes an outcome.

use std::any::Any;
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::lane::{Asking, Denied, Lane, Permit, has_robot};
use super::status::LoopName;
use crate::cadence::Call;
use crate::dingtalk::{Failure, Page, PageToken, Query, Reader};
use crate::receipt::{
    Chat, ConversationId, Disposition, ErrorCode, Message, MessageKey, Outcome, RobotCode,
    SeenReader, SendStatus, UserId, WalkEnd,
};
use crate::settings::Retry;
use crate::telemetry::panic_text;

/// A claimed row with all that its walk needs.
pub(super) struct Job {
    pub(super) message: Message,
    pub(super) lane: Arc<Lane>,
    /// A last chance that goes out of turn while the endpoint is in trouble.
    pub(super) out_of_turn: bool,
    /// Cancelled when the row is no longer what was claimed: no further call for it.
    pub(super) recall: CancellationToken,
}

/// Jobs taken from the channel at once.
const JOBS_AT_ONCE: usize = 64;
/// Pages a walk at most.
const MOST_PAGES: u32 = 200;
/// Readers of a walk at most: as many as its pages hold.
const MOST_READERS: usize = 40_000;
/// Pages running that name nobody new to the walk: more of them would teach nothing.
const MOST_PAGES_WITHOUT_NEWS: u32 = 3;
/// How often a walk begins again from its first page.
const MOST_RESTARTS: u32 = 3;

/// Runs every job as a task of its own until the jobs end, and waits for the last. The calls under way at once are
/// bounded by the address's places; what waits holds none.
pub(super) async fn pool(
    mut jobs: mpsc::Receiver<Job>,
    outcomes: mpsc::Sender<Outcome>,
    shared: Arc<Shared>,
) {
    let walks = TaskTracker::new();
    let mut batch = Vec::with_capacity(JOBS_AT_ONCE);
    let heartbeats = shared.handle.heartbeats();
    loop {
        let taking = jobs.recv_many(&mut batch, JOBS_AT_ONCE);
        if heartbeats.while_waiting(LoopName::Workers, taking).await == 0 {
            break;
        }
        for job in batch.drain(..) {
            let outcomes = outcomes.clone();
            // Boxed: it is some thousand bytes, which a spawn moves several times.
            let mut walk = Box::new(Walk::new(job, shared.clone()));
            walks.spawn(async move {
                // Asserted: whatever a walk shares is behind a lock that a panic leaves usable.
                let end = match AssertUnwindSafe(walk.run()).catch_unwind().await {
                    Ok(end) => end,
                    Err(panic) => walk.panicked(&*panic),
                };
                // A closed channel means that the reconciler is gone, which ends the daemon.
                let _ = outcomes.send(walk.outcome(end)).await;
            });
        }
    }
    walks.close();
    heartbeats
        .while_waiting(LoopName::Workers, walks.wait())
        .await;
}

struct Walk {
    job: Job,
    shared: Arc<Shared>,
    retry: Retrying,
    outcome: Outcome,
    /// What its first call was for.
    call: Option<Call>,
    /// The code of the last call that met upstream trouble.
    last_failure: Option<ErrorCode>,
    /// It was told as a sign of trouble already.
    was_evidence: bool,
    known: HashSet<UserId>,
    tokens_met: HashSet<PageToken>,
    next: Option<PageToken>,
    pages: u32,
    pages_without_news: u32,
    restarts: u32,
    page_size: u16,
    token_refused: bool,
}

impl Walk {
    fn new(job: Job, shared: Arc<Shared>) -> Self {
        let at = shared.clock.now();
        let setup = job.lane.setup();
        let settings = &setup.configured.settings;
        Self {
            retry: Retrying::new(&settings.retry),
            outcome: Outcome::without_call(job.message.claim(), at, WalkEnd::Released),
            call: None,
            last_failure: None,
            was_evidence: false,
            known: HashSet::new(),
            tokens_met: HashSet::new(),
            next: None,
            pages: 0,
            pages_without_news: 0,
            restarts: 0,
            page_size: settings.endpoint.page_size,
            token_refused: false,
            job,
            shared,
        }
    }

    async fn run(&mut self) -> WalkEnd {
        loop {
            if let Some(end) = self.one_call().await {
                return end;
            }
        }
    }

    fn outcome(mut self, end: WalkEnd) -> Outcome {
        self.outcome.end = end;
        self.outcome.ended_at = self.shared.clock.now();
        self.outcome
    }

    /// A walk that panics is this key's error and nobody else's. What it saw and called counts.
    fn panicked(&mut self, panic: &(dyn Any + Send)) -> WalkEnd {
        let (key, text) = (&self.job.message.key, panic_text(panic));
        if let Some(again) = self.shared.warnings.admit("a walk panicked") {
            tracing::error!(
                message.key = %key, error = text, suppressed = again.count(),
                "message {key}: its walk panicked: {text}{again}"
            );
        }
        self.outcome.failed_calls = self.outcome.failed_calls.max(1);
        WalkEnd::Failed(ErrorCode::from("receiptd.panic"))
    }

    /// One call; `Some` where it was the walk's last.
    async fn one_call(&mut self) -> Option<WalkEnd> {
        let permit = match self.permit().await {
            Ok(permit) => permit,
            Err(end) => return end,
        };
        if self.outcome.calls == 0 && self.outcome.failed_calls == 0 && self.pages == 0 {
            self.outcome.started_at = self.shared.clock.now();
        }
        let setup = self.job.lane.setup();
        let row = &self.job.message;
        if !has_robot(row, &setup.account) {
            // Taken away since it was claimed: the scheduler sees to it.
            self.job.lane.refund(permit.month);
            return Some(WalkEnd::Released);
        }
        let robot = row
            .robot_code
            .as_ref()
            .or(setup.account.robot_code.as_ref());
        let query = Query {
            chat: row.chat,
            key: &row.key,
            robot_code: robot.map(RobotCode::as_str),
            conversation: row.conversation.as_ref().map(ConversationId::as_str),
            page_size: self.page_size,
            next_token: self.next.as_ref(),
        };
        let asked = Instant::now();
        // Counted before the answer: a call that a hard stop cuts off may have arrived.
        self.outcome.calls += 1;
        let answer = tokio::select! {
            biased;
            () = self.shared.stop.immediate.cancelled() => return Some(WalkEnd::Released),
            answer = setup.configured.client.query(&permit.token, &query) => answer,
        };
        self.retry.charge(asked.elapsed());
        match answer {
            Ok(page) => {
                self.job.lane.answered(&permit, self.is_failing());
                drop(permit);
                self.page(page)
            }
            Err(failure) => self.failed(permit, failure).await,
        }
    }

    /// Waits for leave to call; or how the walk goes on without.
    async fn permit(&mut self) -> Result<Permit, Option<WalkEnd>> {
        let is_fresh = self.outcome.calls == 0 && self.outcome.failed_calls == 0;
        let asking = Asking {
            is_fresh,
            out_of_turn: self.job.out_of_turn,
        };
        let (lane, row) = (self.job.lane.clone(), &self.job.message);
        // What a poll is for only rises: the pages of a last chance belong to it.
        let mut call = self.call;
        let kind = |now| {
            let current = lane.policy.schedule(row.chat).call(row, now);
            *call.insert(call.map_or(current, |first| first.max(current)))
        };
        let permit = tokio::select! {
            biased;
            () = self.shared.stop.immediate.cancelled() => return Err(Some(WalkEnd::Released)),
            () = self.shared.stop.graceful.cancelled(), if is_fresh => return Err(Some(WalkEnd::Released)),
            () = self.job.recall.cancelled() => return Err(Some(WalkEnd::Released)),
            () = lane.gone.cancelled() => return Err(Some(WalkEnd::Released)),
            permit = lane.acquire(asking, kind) => permit,
        };
        self.call = call;
        match permit {
            Ok(permit) => Ok(permit),
            Err(Denied::Later) => Err(Some(self.give_back())),
            Err(Denied::OverBudget) => Err(Some(WalkEnd::OverBudget)),
            Err(Denied::Blocked(code)) => Err(Some(WalkEnd::LaneBlocked(code))),
            Err(Denied::Trouble(failure)) => {
                let evidence = self.take_evidence();
                self.job
                    .lane
                    .token_trouble(&failure, evidence, self.is_failing());
                Err(self.wait(failure.code).await)
            }
        }
    }

    /// Whether the last walks of the row failed.
    fn is_failing(&self) -> bool {
        self.job.message.failed_walks > 0
    }

    /// Whether this is the walk's first sign of upstream trouble, of a row without a former error.
    fn take_evidence(&mut self) -> bool {
        !std::mem::replace(&mut self.was_evidence, true) && !self.is_failing()
    }

    /// The row goes back as it was, or behind the others where it was asked for in vain.
    fn give_back(&mut self) -> WalkEnd {
        self.last_failure
            .take()
            .map_or(WalkEnd::Released, WalkEnd::Unreachable)
    }

    fn page(&mut self, page: Page) -> Option<WalkEnd> {
        fail::fail_point!("daemon.page", |_| std::process::abort());
        let seen_at = self.shared.clock.now();
        self.retry.reset();
        self.token_refused = false;
        self.pages += 1;
        let before = self.known.len();
        for Reader { user_id, read_at } in page.readers {
            if self.known.insert(user_id.clone()) {
                self.outcome.readers.push(SeenReader {
                    user_id,
                    seen_at,
                    read_at,
                });
            }
        }
        if self.job.message.chat == Chat::Oto {
            self.outcome.listed = page.listed;
        }
        let is_news = self.known.len() > before;
        self.pages_without_news = if is_news {
            0
        } else {
            self.pages_without_news + 1
        };
        // RECALLED beats what an earlier page said, and is not taken back by a later one.
        if self.outcome.send_status != Some(SendStatus::Recalled) {
            self.outcome.send_status = Some(page.send_status);
        }
        match page.next {
            None => Some(WalkEnd::Complete),
            // A token that comes back within the walk leads nowhere new.
            Some(token) if !self.tokens_met.insert(token.clone()) => Some(WalkEnd::Complete),
            Some(_) if self.pages_without_news >= MOST_PAGES_WITHOUT_NEWS => {
                Some(WalkEnd::Cut(ErrorCode::from("walk.pagesWithoutNews")))
            }
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

    /// What a call that brought no page means for the walk; `Some` where it ends.
    async fn failed(&mut self, permit: Permit, failure: Failure) -> Option<WalkEnd> {
        let lane = self.job.lane.clone();
        if !failure.metered {
            self.outcome.calls -= 1;
            lane.refund(permit.month);
        }
        let key: &MessageKey = &self.job.message.key;
        tracing::debug!(
            message.key = %key, error.code = %failure.code, "message {key}: {failure}"
        );
        let own_robot = self.job.message.robot_code.is_some();
        let is_retry = failure.disposition == Disposition::Retry;
        let evidence = is_retry && self.take_evidence();
        lane.failed(&permit, &failure, evidence, own_robot, self.is_failing());
        let closings = permit.closings();
        drop(permit);
        let code = failure.code;
        match failure.disposition {
            Disposition::Retry => {
                self.outcome.failed_calls += 1;
                self.wait(code).await
            }
            Disposition::Throttled { .. } => {
                self.outcome.throttled += 1;
                None
            }
            Disposition::QuotaExhausted | Disposition::LaneBlocked => {
                Some(WalkEnd::LaneBlocked(code))
            }
            Disposition::AddressBanned => Some(WalkEnd::Released),
            Disposition::RefreshToken if self.token_refused => {
                lane.block_for_token(closings, &code);
                Some(WalkEnd::LaneBlocked(code))
            }
            Disposition::RefreshToken => {
                self.token_refused = true;
                None
            }
            Disposition::Blocked => Some(WalkEnd::Blocked(code)),
            Disposition::RobotRejected if !own_robot => Some(WalkEnd::Blocked(code)),
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
            Disposition::SendingUnknown => Some(WalkEnd::SendingUnknown(code)),
        }
    }

    /// Waits as the backoff says after upstream trouble; `Some` where the walk ends.
    async fn wait(&mut self, code: ErrorCode) -> Option<WalkEnd> {
        self.last_failure = Some(code.clone());
        if self.job.lane.is_in_trouble() {
            // It is the endpoint and not this key: others probe now.
            return Some(self.give_back());
        }
        let failed = self.outcome.failed_calls;
        let wait = if failed < self.most_failed_calls() {
            self.retry.next_wait()
        } else {
            None
        };
        let Some(wait) = wait else {
            // Without a token nobody asked for the key, which says nothing of it.
            return Some(match failed {
                0 => self.give_back(),
                _ => WalkEnd::Failed(code),
            });
        };
        let lane = self.job.lane.clone();
        lane.waiting.fetch_add(1, Ordering::Relaxed);
        self.shared.wake.notify_one();
        let end = tokio::select! {
            () = self.shared.stop.graceful.cancelled() => Some(WalkEnd::Released),
            () = self.job.recall.cancelled() => Some(WalkEnd::Released),
            () = lane.gone.cancelled() => Some(WalkEnd::Released),
            () = tokio::time::sleep(wait) => None,
        };
        lane.waiting.fetch_sub(1, Ordering::Relaxed);
        end
    }

    /// How many calls of this walk may fail: what is left of the key's share. A key that failed before gets one at a time.
    fn most_failed_calls(&self) -> u32 {
        let row = &self.job.message;
        let schedule = self.job.lane.policy.schedule(row.chat);
        let left = schedule.calls_while_failing(row).max(1);
        let is_last_chance = self.call == Some(Call::LastChance);
        if self.is_failing() && !is_last_chance {
            1
        } else {
            left
        }
    }
}

/// The waits of *retry* dispositions within one walk. Only time that it is charged with counts: a lane's pause costs it
/// nothing.
struct Retrying {
    intervals: ExponentialBackoff,
    charged: Duration,
    most: Duration,
}

impl Retrying {
    fn new(retry: &Retry) -> Self {
        Self {
            intervals: ExponentialBackoffBuilder::new()
                .with_initial_interval(retry.initial_interval)
                .with_multiplier(retry.multiplier)
                .with_randomization_factor(retry.randomization_factor)
                .with_max_interval(retry.max_interval)
                .with_max_elapsed_time(None)
                .build(),
            charged: Duration::ZERO,
            most: retry.max_elapsed_time,
        }
    }

    /// Counts `spent` towards `max_elapsed_time`.
    fn charge(&mut self, spent: Duration) {
        self.charged += spent;
    }

    /// How long to wait before the next try; `None`: give up. The wait is charged.
    fn next_wait(&mut self) -> Option<Duration> {
        let wait = self.intervals.next_backoff()?;
        self.charge(wait);
        (self.charged <= self.most).then_some(wait)
    }

    /// An answer came: the next trouble starts from the first interval, on what is left of the time.
    fn reset(&mut self) {
        self.intervals.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry {
            initial_interval: Duration::from_millis(500),
            multiplier: 2.0,
            randomization_factor: 0.0,
            max_interval: Duration::from_secs(4),
            max_elapsed_time: Duration::from_secs(10),
        }
    }

    #[test]
    fn waits_double_to_the_longest_and_end_with_the_time() {
        let mut retrying = Retrying::new(&retry());
        let waits: Vec<_> = std::iter::from_fn(|| retrying.next_wait())
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 4000]);
    }

    #[test]
    fn only_charged_time_counts() {
        let mut retrying = Retrying::new(&retry());
        retrying.charge(Duration::from_secs(11));
        assert_eq!(retrying.next_wait(), None);
    }
}
