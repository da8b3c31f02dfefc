//! A lane's token: fetched by one caller at a time, replaced beside the calls while the old one lives.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Lane;
use crate::dingtalk::{AccessToken, Credentials, Freshness, IssuedToken, TokenCache, TokenRefusal};
use crate::receipt::ErrorCode;

/// Between two attempts to replace a token that still lives, doubling to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// The token, and the state of its replacement.
#[derive(Debug, Default)]
pub(super) struct Token {
    cache: StdMutex<TokenCache>,
    /// Held by who asks for a token while there is none.
    fetching: Mutex<()>,
    replacement: StdMutex<Replacement>,
    /// Of the secret and the ticket that were refused last.
    refused: StdMutex<Option<u64>>,
}

#[derive(Debug, Default)]
struct Replacement {
    under_way: bool,
    failed: u32,
    not_before: Option<Instant>,
}

impl Token {
    fn cache(&self) -> MutexGuard<'_, TokenCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replacement(&self) -> MutexGuard<'_, Replacement> {
        self.replacement
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, Option<u64>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a token that was refused.
    pub(super) fn invalidate(&self, refused: &AccessToken) {
        self.cache().invalidate(refused);
    }
}

impl Lane {
    /// The token for a call. Waits only where there is none.
    ///
    /// # Errors
    /// Why there is none; the lane has heard of it.
    pub(super) async fn token(self: &Arc<Self>) -> Result<AccessToken, TokenRefusal> {
        if let Some(token) = self.living_token() {
            return Ok(token);
        }
        let _one = self.token.fetching.lock().await;
        if let Some(token) = self.living_token() {
            return Ok(token);
        }
        match self.fetch_token().await {
            Ok(token) => Ok(token),
            Err(refusal) => {
                let needs_a_person = matches!(
                    refusal,
                    TokenRefusal::Refused { .. }
                        | TokenRefusal::TicketMissing
                        | TokenRefusal::SecretUnreadable(_)
                );
                if needs_a_person {
                    let fingerprint = self.fingerprint().await;
                    *self.token.refused() = Some(fingerprint);
                }
                Err(refusal)
            }
        }
    }

    /// The token while it lives. One that is near its end is replaced beside the calls.
    fn living_token(self: &Arc<Self>) -> Option<AccessToken> {
        let now = Instant::now().into_std();
        let cache = self.token.cache();
        let token = cache.token(now)?.clone();
        if cache.freshness(now) == Freshness::RefreshSoon {
            drop(cache);
            self.replace_token();
        }
        Some(token)
    }

    /// Asks for the next token in a task of its own, unless one does, or the last attempt failed just now.
    fn replace_token(self: &Arc<Self>) {
        let mut replacement = self.token.replacement();
        let early = replacement.not_before.is_some_and(|at| Instant::now() < at);
        if early || std::mem::replace(&mut replacement.under_way, true) {
            return;
        }
        drop(replacement);
        let lane = self.clone();
        let gone = self.gone.clone();
        self.shared.tasks.spawn(async move {
            let fetched = tokio::select! {
                () = gone.cancelled() => None,
                fetched = lane.fetch_token() => Some(fetched),
            };
            let mut replacement = lane.token.replacement();
            replacement.under_way = false;
            match fetched {
                None => {}
                Some(Ok(_)) => *replacement = Replacement::default(),
                Some(Err(refusal)) => {
                    let wait = FIRST_WAIT.saturating_mul(1 << replacement.failed.min(20));
                    replacement.failed = replacement.failed.saturating_add(1);
                    replacement.not_before = Some(Instant::now() + wait.min(LONGEST_WAIT));
                    drop(replacement);
                    lane.log_token_not_replaced(&refusal);
                }
            }
        });
    }

    /// Asks for a token with the secret and the ticket as they are now, at the rate of lane and address: token calls are
    /// not metered, but they are calls.
    async fn fetch_token(&self) -> Result<AccessToken, TokenRefusal> {
        let setup = self.setup();
        let (_, secret) = setup.account.app.credentials();
        let secret = secret
            .read()
            .map_err(|error| TokenRefusal::secret_unreadable(&error.to_string()))?;
        let ticket = self.ticket(&setup.credentials).await;
        // Before the limits, which a call that cannot be made must not use up.
        if ticket.is_none() && matches!(setup.credentials, Credentials::ThirdParty { .. }) {
            return Err(TokenRefusal::TicketMissing);
        }
        let Some(_place) = self.leave_at_rate(&setup).await else {
            return Err(TokenRefusal::AddressBanned);
        };
        let asked_at = Instant::now().into_std();
        let issued: IssuedToken = setup
            .configured
            .client
            .request_token(&setup.credentials, &secret, ticket.as_deref())
            .await?;
        let token = issued.token.clone();
        self.token.cache().set(issued, asked_at, self.spread);
        Ok(token)
    }

    async fn ticket(&self, credentials: &Credentials) -> Option<String> {
        match credentials {
            Credentials::Internal { .. } => None,
            Credentials::ThirdParty { suite_key, .. } => {
                let ticket = self.shared.store.suite_ticket(suite_key).await;
                ticket.ok().flatten()
            }
        }
    }

    /// A number that changes when the secret or the ticket does. Lives in memory only.
    async fn fingerprint(&self) -> u64 {
        let setup = self.setup();
        let mut hasher = DefaultHasher::new();
        if let Ok(secret) = setup.account.app.credentials().1.read() {
            secret.expose_secret().hash(&mut hasher);
        }
        self.ticket(&setup.credentials).await.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether the secret or the ticket is no longer the one that was refused; then the lane probes at once.
    pub(in crate::daemon) async fn reconsider(&self) -> bool {
        let before = *self.token.refused();
        let Some(before) = before.filter(|_| self.health().closed().is_some()) else {
            return false;
        };
        if self.fingerprint().await == before {
            return false;
        }
        *self.token.refused() = None;
        self.health().probe_now(Instant::now());
        true
    }

    fn log_token_not_replaced(&self, refusal: &TokenRefusal) {
        let code: ErrorCode = refusal.code();
        if let Some(again) = self.admit_warning("token not replaced") {
            lane_event!(
                warn, self, [error.code = %code, error = %refusal, suppressed = again.count(),],
                "account {}: the token could not be replaced ({refusal}); calls go on with the old one while it lives{again}",
                self.id
            );
        }
    }
}
