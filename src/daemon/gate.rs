//! A lane's turnstile: each call of the lane passes it, in order, when token, pace, pauses and budget allow.

use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::Clock;
use super::address::{Address, LanePlaces, Pace, Place};
use super::health::Health;
use super::lane_log::LaneLog;
use super::purse::Purse;
use super::tokens::TicketSource;
use crate::cadence::Call;
use crate::dingtalk::{
    AccessToken, Client, Credentials, Failure, Freshness, TokenCache, TokenRefusal,
};
use crate::receipt::{ErrorCode, LaneId, QuotaMonth};
use crate::settings::{Account, Settings};
use crate::telemetry::Warnings;

/// All of the configuration that a lane's calls need; a walk under way keeps the one it started with.
pub(super) struct LaneSetup {
    pub(super) account: Account,
    pub(super) credentials: Credentials,
    pub(super) client: Client,
    pub(super) settings: Arc<Settings>,
    pub(super) purse: Option<Arc<Purse>>,
}

/// What the calls of a lane share.
pub(super) struct Gate {
    pub(super) lane: LaneId,
    turn: Arc<Mutex<Turn>>,
    health: StdMutex<Health>,
    address: Arc<Address>,
    places: LanePlaces,
    tickets: TicketSource,
    /// Metered calls made in a month, those included whose result is not written yet.
    calls: StdMutex<MonthCalls>,
    /// Of the secret and the ticket that were refused last.
    refused: StdMutex<Option<u64>>,
    log: LaneLog,
}

/// Metered calls made in a month.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct MonthCalls {
    pub(super) month: QuotaMonth,
    pub(super) calls: u64,
}

struct Turn {
    pace: Pace,
    tokens: TokenCache,
}

/// The lane's turn, kept by the one walk that probes for its lane: the rest wait behind it.
pub(super) struct Turnstile(OwnedMutexGuard<Turn>);

/// Leave for one call.
pub(super) struct Pass {
    pub(super) token: AccessToken,
    /// Kept while a single walk probes for its lane, through its waits too.
    pub(super) probe: Option<Turnstile>,
    _place: Place,
}

/// Why there is no leave.
pub(super) enum Closed {
    /// The lane may not call for long: give the row back.
    Later,
    /// The lane was refused just now, while this walk asked.
    Refused(ErrorCode),
    /// The token endpoint is in trouble: as a *retry* answer, but not metered.
    Trouble(Failure),
    /// The month cannot afford the call.
    OverBudget,
}

/// How often a walk that waits a pause out looks whether it still holds.
const GLANCE: Duration = Duration::from_secs(1);
/// A walk that has called nobody yet is given back rather than held for a wait longer than this.
const WORTH_WAITING: Duration = Duration::from_secs(2);

impl Gate {
    pub(super) fn new(
        lane: LaneId,
        address: Arc<Address>,
        tickets: TicketSource,
        warnings: Warnings,
    ) -> Self {
        Self {
            log: LaneLog::new(lane.clone(), warnings),
            lane,
            turn: Arc::new(Mutex::new(Turn {
                pace: Pace::new(),
                tokens: TokenCache::default(),
            })),
            health: StdMutex::new(Health::new(Instant::now())),
            places: address.lane_places(),
            address,
            tickets,
            calls: StdMutex::default(),
            refused: StdMutex::new(None),
        }
    }

    pub(super) fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many claims of the lane may be out, and from when.
    pub(super) fn allowance(&self, calls_per_second: u32, most: usize) -> (Instant, usize) {
        let health = self.health();
        let banned = self.address.banned_until();
        let from = banned.map_or(health.not_before, |until| until.max(health.not_before));
        let probing_only =
            health.is_closed() || (health.is_probing() && health.last_success_at.is_some());
        let rate = usize::try_from(calls_per_second).unwrap_or(usize::MAX);
        (
            from,
            if probing_only {
                1
            } else {
                rate.clamp(4, most.max(4))
            },
        )
    }

    /// Waits for the lane's turn, unless the walk has `kept` it. `fresh`: the walk has made no call yet.
    pub(super) async fn enter(
        &self,
        setup: &LaneSetup,
        clock: &Clock,
        call: Call,
        fresh: bool,
        kept: Option<Turnstile>,
    ) -> Result<Pass, Closed> {
        let mut turn = match kept {
            Some(Turnstile(turn)) => turn,
            None => self.turn.clone().lock_owned().await,
        };
        self.wait_out_pauses(fresh).await?;
        let token = self.token(&mut turn, setup).await?;
        let rate = setup.account.calls_per_second;
        if let Some(due) = turn.pace.due(Instant::now(), rate) {
            tokio::time::sleep_until(due).await;
        }
        let Some(place) = self
            .address
            .enter(&self.places, setup.settings.endpoint.calls_per_second)
            .await
        else {
            return Err(Closed::Later);
        };
        // Last of all, so that a call that was counted goes out.
        if let Some(purse) = &setup.purse
            && !purse.spend(call, clock.now())
        {
            return Err(Closed::OverBudget);
        }
        self.count_call(clock, 1, 0);
        turn.pace.step(Instant::now(), rate);
        let probe = self.health().is_probing().then_some(Turnstile(turn));
        Ok(Pass {
            token,
            probe,
            _place: place,
        })
    }

    /// The call that was let through was not metered after all.
    pub(super) fn unmetered(&self, setup: &LaneSetup, clock: &Clock) {
        if let Some(purse) = &setup.purse {
            purse.refund(clock.now());
        }
        self.count_call(clock, 0, 1);
    }

    /// Takes over what was counted before a restart.
    pub(super) fn load_calls(&self, month: QuotaMonth, calls: u64) {
        *self.lock_calls() = MonthCalls { month, calls };
    }

    /// Metered calls made in the month of the last one.
    pub(super) fn calls(&self) -> MonthCalls {
        *self.lock_calls()
    }

    fn count_call(&self, clock: &Clock, more: u64, fewer: u64) {
        let mut counted = self.lock_calls();
        let month = counted.month.or_of(clock.now());
        if counted.month != month {
            *counted = MonthCalls { month, calls: 0 };
        }
        counted.calls = (counted.calls + more).saturating_sub(fewer);
    }

    fn lock_calls(&self) -> MutexGuard<'_, MonthCalls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn wait_out_pauses(&self, fresh: bool) -> Result<(), Closed> {
        loop {
            let now = Instant::now();
            let banned = self.address.banned_until();
            let (until, closed) = {
                let health = self.health();
                (
                    banned.map_or(health.not_before, |b| b.max(health.not_before)),
                    health.is_closed(),
                )
            };
            let wait = until.saturating_duration_since(now);
            if wait.is_zero() {
                return Ok(());
            }
            if closed || (fresh && wait > WORTH_WAITING) {
                return Err(Closed::Later);
            }
            // In glances: a reload may end the pause, and a refusal of another call may close the lane meanwhile.
            tokio::time::sleep_until(until.min(now + GLANCE)).await;
        }
    }

    async fn token(&self, turn: &mut Turn, setup: &LaneSetup) -> Result<AccessToken, Closed> {
        let asked_at = Instant::now();
        if turn.tokens.freshness(asked_at.into_std()) != Freshness::Valid {
            match self
                .tickets
                .fetch(&setup.client, &setup.account, &setup.credentials)
                .await
            {
                Ok(issued) => turn.tokens.set(issued, asked_at.into_std()),
                Err(refusal) => {
                    // A token that still lives serves on while its successor cannot be had.
                    if let Some(token) = turn.tokens.token(asked_at.into_std()) {
                        return Ok(token.clone());
                    }
                    return Err(self.no_token(refusal, setup).await);
                }
            }
        }
        match turn.tokens.token(asked_at.into_std()) {
            Some(token) => Ok(token.clone()),
            None => Err(Closed::Later),
        }
    }

    async fn no_token(&self, refusal: TokenRefusal, setup: &LaneSetup) -> Closed {
        let code = refusal.code();
        match refusal {
            TokenRefusal::Upstream(failure) => {
                self.trouble(setup, &failure);
                Closed::Trouble(failure)
            }
            TokenRefusal::Throttled { window, .. } => {
                self.throttled(&code, window);
                Closed::Later
            }
            TokenRefusal::AddressBanned => {
                self.ban();
                Closed::Later
            }
            refusal @ (TokenRefusal::Refused { .. }
            | TokenRefusal::TicketMissing
            | TokenRefusal::SecretUnreadable(_)) => {
                let print = self
                    .tickets
                    .fingerprint(&setup.account, &setup.credentials)
                    .await;
                *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(print);
                self.block(&code, &refusal.to_string());
                Closed::Refused(code)
            }
        }
    }

    /// Opens a lane for a probe whose secret or ticket is no longer the one that was refused.
    pub(super) async fn reconsider(&self, setup: &LaneSetup) {
        let before = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_none() || !self.health().is_closed() {
            return;
        }
        let print = self
            .tickets
            .fingerprint(&setup.account, &setup.credentials)
            .await;
        if before != Some(print) {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.health().probe_now(Instant::now());
        }
    }

    /// The endpoint answered with a page.
    pub(super) fn answered(&self, clock: &Clock) {
        if self.health().answered(clock.now()) {
            self.log.works_again();
        }
    }

    /// The endpoint refused a message; `mendable` by an operator, who is told.
    pub(super) fn refused_message(&self, failure: &Failure, mendable: bool) {
        if self.health().refused_message() {
            self.log.works_again();
        }
        if mendable {
            self.log.refuses_messages(failure);
        }
    }

    pub(super) fn trouble(&self, setup: &LaneSetup, failure: &Failure) {
        let retry = &setup.settings.retry;
        let (first, longest) = (retry.initial_interval, retry.max_interval);
        let now = Instant::now();
        let code = failure.code.clone();
        if self.health().trouble(now, first, longest, code) {
            self.log.unreachable(failure);
        }
    }

    pub(super) fn throttled(&self, code: &ErrorCode, window: Duration) {
        self.health().throttled(Instant::now(), window);
        self.log.throttled(code, window);
    }

    pub(super) fn block(&self, code: &ErrorCode, why: &str) {
        self.health().block(Instant::now(), code.clone());
        self.log.blocked(code, why);
    }

    pub(super) fn exhausted(&self, code: &ErrorCode, clock: &Clock) {
        let until = clock.now().next_quota_month().since(clock.now());
        self.health().exhaust(Instant::now(), code.clone(), until);
        self.log.out_of_calls(code);
    }

    pub(super) fn ban(&self) {
        self.address.ban();
        self.log.banned();
    }

    /// Forgets a token that was refused.
    pub(super) async fn invalidate(&self, pass: Pass) {
        let Pass {
            token,
            probe,
            _place: place,
        } = pass;
        // Whoever has the turn may be waiting for this place.
        drop(place);
        match probe {
            Some(Turnstile(mut turn)) => turn.tokens.invalidate(&token),
            None => self.turn.lock().await.tokens.invalidate(&token),
        }
    }
}
