//! A lane: an account and, for third-party apps, an organisation. All that its calls share, in one object: token, rate, pauses,
//! health, budget, habits. It is made when this process begins to serve it and dropped whole when it ends to.

/// An event of a lane: level, lane, `[fields,]`, message.
macro_rules! lane_event {
    ($level:ident, $lane:expr, [$($fields:tt)*], $($message:tt)*) => {
        tracing::$level!(
            account = %$lane.id.account,
            corp_id = $lane.id.corp.as_ref().map(tracing::field::display),
            $($fields)*
            $($message)*
        )
    };
}

mod health;
mod pace;
mod policy;
mod token;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(super) use health::{Health, Leave, Why};
pub(super) use pace::Address;
pub(super) use policy::LanePolicy;

use super::budget::{Budget, Refused};
use super::lanes::Leased;
use super::{Configured, Shared};
use crate::cadence::{Call, KeyHash};
use crate::dingtalk::{AccessToken, Credentials, Failure, OwnCode, TokenRefusal, remedy};
use crate::receipt::{
    Chat, Disposition, ErrorCode, LaneId, Lease, Message, QuotaMonth, UnixMs, whole_ms,
};
use crate::settings::Account;
use crate::telemetry::Again;
use pace::{LanePlaces, Place, RateLimiter};
use token::Token;

/// What the configuration says of a lane. Replaced as a whole by a reload.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) account: Account,
    pub(super) credentials: Credentials,
    pub(super) configured: Arc<Configured>,
    pub(super) budget: Arc<Budget>,
}

/// Whether the bot of a row is known where its endpoint must be told it: by the row itself, or by its account.
pub(super) fn has_robot(row: &Message, account: &Account) -> bool {
    row.chat != Chat::Oto || row.robot_code.is_some() || account.robot_code.is_some()
}

/// See the module.
pub(super) struct Lane {
    pub(super) id: LaneId,
    /// Under which it is served; `None` where no other process could.
    pub(super) lease: Option<Lease>,
    pub(super) policy: Arc<LanePolicy>,
    /// Cancelled when this process ends to serve the lane: its walks give their rows back.
    pub(super) gone: CancellationToken,
    /// Claims that are out.
    pub(super) claims: AtomicUsize,
    /// Of those, claims whose walk waits to try again: they stand in no other row's way.
    pub(super) waiting: AtomicUsize,
    /// Of those, claims of failing rows.
    pub(super) failing: AtomicUsize,
    /// When a claim was made last.
    used_at: StdMutex<Instant>,
    setup: RwLock<Arc<Setup>>,
    token: Token,
    limiter: Mutex<RateLimiter>,
    places: LanePlaces,
    health: StdMutex<Health>,
    /// In 0..1, another for each lane.
    spread: f64,
    shared: Arc<Shared>,
}

/// What a walk says of itself when it asks for leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    /// It has made no call yet: rather than held for long, its row is given back.
    pub(super) is_fresh: bool,
    /// A last chance, which may go out of turn while the endpoint is in trouble.
    pub(super) out_of_turn: bool,
}

/// Leave for one call. The place is free again when it is dropped.
pub(super) struct Permit {
    pub(super) token: AccessToken,
    /// The month that the call is counted in.
    pub(super) month: QuotaMonth,
    /// How often the lane was closed before the call went out.
    closings: u64,
    _probe: Option<Probe>,
    _place: Place,
}

/// Holds the lane's one probe.
struct Probe(Arc<Lane>);

impl Drop for Probe {
    fn drop(&mut self) {
        self.0.health().end_probe();
    }
}

/// Why there is no leave.
pub(super) enum Denied {
    /// The lane may not call for long: give the row back.
    Later,
    /// The lane was refused just now, while this walk asked.
    Blocked(ErrorCode),
    /// The token endpoint is in trouble: as a *retry* answer, but not metered.
    Trouble(Failure),
    /// The month cannot afford the call.
    OverBudget,
}

/// A lane without messages is still served this long: its token lives, and `status` shows how it answered last.
const IDLE: Duration = Duration::from_secs(2 * 3600);
/// How often a walk that waits a pause out looks whether it still holds.
const PAUSE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A walk that has called nobody yet is given back rather than held for a wait longer than this.
const LONGEST_FRESH_WAIT: Duration = Duration::from_secs(2);
/// Between two looks whether the month's figures were read.
const BUDGET_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Between two looks whether the lane is still ours, while that is not known.
const TRUST_CHECK_INTERVAL: Duration = Duration::from_millis(100);

impl Lane {
    pub(super) fn new(
        id: LaneId,
        setup: Setup,
        policy: Arc<LanePolicy>,
        leased: &Leased,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            lease: leased.lease.clone(),
            policy,
            gone: CancellationToken::new(),
            claims: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            failing: AtomicUsize::new(0),
            used_at: StdMutex::new(Instant::now()),
            setup: RwLock::new(Arc::new(setup)),
            token: Token::default(),
            limiter: Mutex::new(RateLimiter::new(leased.first_call)),
            places: shared.address.lane_places(),
            health: StdMutex::new(Health::new(Instant::now())),
            spread: KeyHash::of(&id.to_string()).fraction(0),
            id,
            shared,
        }
    }

    pub(super) fn setup(&self) -> Arc<Setup> {
        self.setup
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_setup(&self, setup: Setup) {
        *self.setup.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(setup);
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a claim.
    pub(super) fn claimed(&self, is_failing: bool) {
        self.claims.fetch_add(1, Ordering::Relaxed);
        self.failing
            .fetch_add(usize::from(is_failing), Ordering::Relaxed);
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A claim is no longer out.
    pub(super) fn freed(&self, is_failing: bool) {
        self.claims.fetch_sub(1, Ordering::Relaxed);
        self.failing
            .fetch_sub(usize::from(is_failing), Ordering::Relaxed);
    }

    /// Whether no claim is out, and none was made for long.
    pub(super) fn is_idle(&self) -> bool {
        let used_at = *self.used_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.claims.load(Ordering::Relaxed) == 0 && used_at.elapsed() > IDLE
    }

    /// Whether the endpoint is in trouble for the lane.
    pub(super) fn is_in_trouble(&self) -> bool {
        self.health().is_in_trouble()
    }

    /// Claims that another row's could stand behind.
    pub(super) fn busy_claims(&self) -> usize {
        let waiting = self.waiting.load(Ordering::Relaxed);
        self.claims.load(Ordering::Relaxed).saturating_sub(waiting)
    }

    /// Waits until the lane may make one more call, and counts it. `kind` says what the call is for at the moment at which
    /// it goes out.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        asking: Asking,
        mut kind: impl FnMut(UnixMs) -> Call,
    ) -> Result<Permit, Denied> {
        loop {
            let probe = self.wait_until_open(asking).await?;
            let token = match self.token().await {
                Ok(token) => token,
                Err(refusal) => return Err(self.denied_by(refusal)),
            };
            let Some((mut limiter, place)) = self.turn(&self.setup()).await else {
                return Err(Denied::Later);
            };
            // A reload may have changed it meanwhile.
            let setup = self.setup();
            // The lane may have been closed, or its token refused, while this walk waited for its turn.
            let (leave, closings) = {
                let health = self.health();
                (health.leave(Instant::now()), health.closings())
            };
            if probe.is_none() && !asking.out_of_turn && leave != Leave::Open {
                continue;
            }
            // Last of all, so that a call that was counted goes out.
            let now = self.shared.clock.now();
            match setup.budget.take(&self.id, kind(now), now) {
                Ok(month) => {
                    limiter.step(Instant::now(), setup.account.calls_per_second);
                    return Ok(Permit {
                        token,
                        month,
                        closings,
                        _probe: probe,
                        _place: place,
                    });
                }
                Err(Refused::OverBudget) => return Err(Denied::OverBudget),
                Err(refused @ (Refused::NotRead | Refused::NotPromised)) => {
                    drop((place, limiter));
                    match refused {
                        Refused::NotPromised => self.shared.nodes.show_life(),
                        _ => self.shared.wake_upkeep.notify_one(),
                    }
                    tokio::time::sleep(BUDGET_CHECK_INTERVAL).await;
                }
            }
        }
    }

    /// Waits pauses out; the probe where this call is the lane's one probe. Nobody waits while the lane is closed.
    async fn wait_until_open(self: &Arc<Self>, asking: Asking) -> Result<Option<Probe>, Denied> {
        loop {
            let now = Instant::now();
            let banned = self.shared.address.banned_until();
            let leave = self.health().leave(now);
            let until = match (banned, leave) {
                (None, Leave::Open) => return Ok(None),
                (None, Leave::Probe(at)) if at <= now => {
                    if !self.health().begin_probe(now) {
                        return Err(Denied::Later);
                    }
                    return Ok(Some(Probe(self.clone())));
                }
                (None, Leave::Probe(_) | Leave::Closed) => {
                    let may = asking.out_of_turn && self.is_in_trouble();
                    return if may { Ok(None) } else { Err(Denied::Later) };
                }
                (Some(_), Leave::Probe(_) | Leave::Closed) => return Err(Denied::Later),
                (Some(until), Leave::Open) => until,
                (None, Leave::At(until)) => until,
                (Some(ban), Leave::At(until)) => ban.max(until),
            };
            if asking.is_fresh && until - now > LONGEST_FRESH_WAIT {
                return Err(Denied::Later);
            }
            // Now and then: the refusal of another call may close the lane meanwhile.
            tokio::time::sleep_until(until.min(now + PAUSE_CHECK_INTERVAL)).await;
        }
    }

    /// The turn and the place for a call that is not metered. `None` while the address is banned.
    async fn leave_at_rate(&self, setup: &Setup) -> Option<Place> {
        if self.shared.address.banned_until().is_some() {
            return None;
        }
        let (mut limiter, place) = self.turn(setup).await?;
        limiter.step(Instant::now(), setup.account.calls_per_second);
        Some(place)
    }

    /// Waits for the lane's turn and for a place. The call is to be stepped where it goes out. `None`: the process ends.
    async fn turn(
        &self,
        setup: &Setup,
    ) -> Option<(tokio::sync::MutexGuard<'_, RateLimiter>, Place)> {
        loop {
            let limiter = self.limiter.lock().await;
            if let Some(due) = limiter.due(Instant::now(), setup.account.calls_per_second) {
                tokio::time::sleep_until(due).await;
            }
            let ceiling = self.shared.nodes.ceiling(&setup.configured.settings);
            let place = self.shared.address.enter(&self.places, ceiling).await?;
            // Last of all: this process may have been stopped while it waited.
            if self.shared.nodes.may_call(&self.shared.clock) {
                return Some((limiter, place));
            }
            drop((place, limiter));
            tokio::time::sleep(TRUST_CHECK_INTERVAL).await;
        }
    }

    fn denied_by(&self, refusal: TokenRefusal) -> Denied {
        let code = refusal.code();
        match refusal {
            TokenRefusal::Upstream(failure) => Denied::Trouble(failure),
            TokenRefusal::Throttled { window, .. } => {
                self.throttle(&code, window);
                Denied::Later
            }
            TokenRefusal::AddressBanned => {
                self.ban();
                Denied::Later
            }
            TokenRefusal::Refused { .. }
            | TokenRefusal::TicketMissing
            | TokenRefusal::SecretUnreadable(_) => {
                let closings = self.health().closings();
                self.block(closings, &code, &refusal.to_string());
                Denied::Blocked(code)
            }
        }
    }

    /// The call that was let through was not metered after all.
    pub(super) fn refund(&self, month: QuotaMonth) {
        self.setup().budget.refund(&self.id, month);
    }

    /// A page came.
    pub(super) fn answered(&self, permit: &Permit, is_failing: bool) {
        let now = self.shared.clock.now();
        self.learn_of_answer(permit, Some(now), is_failing);
    }

    fn learn_of_answer(&self, permit: &Permit, success_at: Option<UnixMs>, is_failing: bool) {
        self.places.came_back(false);
        let now = Instant::now();
        let mut health = self.health();
        let opened = health.answered(now, permit.closings, success_at);
        if is_failing {
            health.failing_answered(now);
        }
        drop(health);
        if opened {
            self.shared.wake.notify_one();
            lane_event!(info, self, [], "account {}: works again", self.id);
        }
    }

    /// What a call that brought no page says of the lane. `evidence`: it is the walk's first upstream trouble, of a row
    /// without a former error.
    pub(super) fn failed(
        &self,
        permit: &Permit,
        failure: &Failure,
        evidence: bool,
        own_robot: bool,
        is_failing: bool,
    ) {
        match failure.disposition {
            Disposition::Retry => {
                let timed_out = failure.code.as_str() == OwnCode::Timeout.as_str();
                self.places.came_back(timed_out);
                self.trouble(permit.closings, failure, evidence, is_failing);
            }
            Disposition::Throttled { window } => {
                let asked = failure.retry_after.unwrap_or(window);
                self.throttle(&failure.code, asked.max(window));
            }
            Disposition::QuotaExhausted => self.exhaust(&failure.code),
            Disposition::LaneBlocked => self.block(permit.closings, &failure.code, &failure.detail),
            Disposition::AddressBanned => self.ban(),
            Disposition::RefreshToken => self.token.invalidate(&permit.token),
            Disposition::Blocked => {
                self.learn_of_answer(permit, None, is_failing);
                self.warn_of_refused_messages(failure);
            }
            Disposition::RobotRejected => {
                self.learn_of_answer(permit, None, is_failing);
                // The row's own robot is its feeder's business, the account's is the operator's.
                if !own_robot {
                    self.warn_of_refused_messages(failure);
                }
            }
            Disposition::Rejected
            | Disposition::RestartPaging
            | Disposition::SmallerPages
            | Disposition::NotGeneratedOrExpired
            | Disposition::SendingUnknown => {
                self.learn_of_answer(permit, None, is_failing);
            }
        }
    }

    /// The token could not be had, since its endpoint is in trouble.
    pub(super) fn token_trouble(&self, failure: &Failure, evidence: bool, is_failing: bool) {
        let closings = self.health().closings();
        self.trouble(closings, failure, evidence, is_failing);
    }

    fn trouble(&self, closings: u64, failure: &Failure, evidence: bool, is_failing: bool) {
        let setup = self.setup();
        let retry = &setup.configured.settings.retry;
        let now = Instant::now();
        let mut health = self.health();
        let closed = health.failed(now, closings, evidence, retry, &failure.code);
        if is_failing && health.closed().is_none() {
            health.failing_failed(now, retry);
        }
        drop(health);
        if closed && let Some(again) = self.admit_warning("no answer") {
            lane_event!(
                warn, self,
                [error.code = %failure.code, error = failure.detail, suppressed = again.count(),],
                "account {}: many messages in a row could not be asked for, the last with {failure}; one call at a time probes, the others wait{again}",
                self.id
            );
        }
    }

    fn throttle(&self, code: &ErrorCode, window: Duration) {
        self.health().throttled(Instant::now(), window);
        if let Some(again) = self.admit_warning("throttled") {
            let wait_ms = whole_ms(window);
            lane_event!(
                warn, self, [error.code = %code, wait_ms, suppressed = again.count(),],
                "account {}: throttled ({code}), its calls wait {wait_ms} ms{again}", self.id
            );
        }
    }

    /// The account was refused by a call from the time of so many `closings`.
    fn block(&self, closings: u64, code: &ErrorCode, why: &str) {
        self.health().block(Instant::now(), closings, code);
        if let Some(again) = self.admit_warning(&format!("blocked ({code})")) {
            lane_event!(
                warn, self, [error.code = %code, error = why, suppressed = again.count(),],
                "account {}: blocked ({code}): {why}; its messages wait, one call probes now and then{again}",
                self.id
            );
        }
    }

    /// A new token was refused as well.
    pub(super) fn block_for_token(&self, permit_closings: u64, code: &ErrorCode) {
        let why = "a new token is refused as well; check the app's credentials and base_url";
        self.block(permit_closings, code, why);
    }

    fn exhaust(&self, code: &ErrorCode) {
        let now = self.shared.clock.now();
        let left = QuotaMonth::of(now).ends_at().since(now);
        self.health().exhaust(Instant::now(), code, left);
        if let Some(again) = self.admit_warning("out of calls") {
            lane_event!(
                warn, self, [error.code = %code, suppressed = again.count(),],
                "account {}: the organisation's calls of this month are used up ({code}); one call an hour probes{again}",
                self.id
            );
        }
    }

    /// All lanes: the address is banned.
    fn ban(&self) {
        self.shared.address.ban();
        if let Some(again) = self.shared.warnings.admit("address banned") {
            tracing::error!(
                error.code = "address.banned",
                suppressed = again.count(),
                "DingTalk has banned this address: all accounts stop for five minutes; lower [endpoint] \
                 calls_per_second, or find who else calls from it{again}"
            );
        }
    }

    /// Messages are refused for a reason that an operator can mend.
    fn warn_of_refused_messages(&self, failure: &Failure) {
        let code = &failure.code;
        if let Some(again) = self.admit_warning(&format!("messages refused ({code})")) {
            lane_event!(
                warn, self,
                [error.code = %code, error = failure.detail, suppressed = again.count(),],
                "account {}: messages are refused with {failure}; they wait; {}{again}",
                self.id, remedy(code.as_str())
            );
        }
    }

    fn admit_warning(&self, what: &str) -> Option<Again> {
        self.shared
            .warnings
            .admit(format!("account {}: {what}", self.id))
    }
}

impl Permit {
    /// How often the lane was closed before the call went out.
    pub(super) fn closings(&self) -> u64 {
        self.closings
    }
}
