//! Credentials, the tokens they are exchanged for, and when to fetch the next one.

use std::fmt;
use std::time::{Duration, Instant};

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::answer::{Answered, read_issued};
use super::codes::{OwnCode, remedy};
use super::failure::{Failure, one_line};
use crate::receipt::{CorpId, Disposition, ErrorCode};
use crate::settings::App;

/// A token's life where the answer does not say: what the vendor documents. A token that dies earlier is refused and
/// fetched anew, so a wrong guess costs one call.
const USUAL_LIFE: Duration = Duration::from_secs(7200);
/// No token is trusted longer than this, whatever the answer says.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long before its end a token is replaced: the vendor's advice, at least; at most twice as long.
const REFRESH_AHEAD: Duration = Duration::from_secs(600);

/// Whose token is asked for. The secret is not in here: it is read anew for every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// An internal app of one organisation.
    Internal {
        /// `appKey`
        app_key: String,
    },
    /// A third-party app, for one of the organisations that authorised it.
    ThirdParty {
        /// `suiteKey`
        suite_key: String,
        /// `authCorpId`
        corp: CorpId,
    },
}

impl Credentials {
    /// The credentials of `app` for `corp`; `None` for a third-party app without an organisation.
    pub fn of(app: &App, corp: Option<&CorpId>) -> Option<Self> {
        match app {
            App::Internal { app_key, .. } => Some(Self::Internal {
                app_key: app_key.clone(),
            }),
            App::ThirdParty { suite_key, .. } => corp.map(|corp| Self::ThirdParty {
                suite_key: suite_key.clone(),
                corp: corp.clone(),
            }),
        }
    }

    /// The path and the body of the token request.
    ///
    /// # Errors
    /// [`TokenRefusal::TicketMissing`]: a third-party app has no token without the newest suite ticket.
    pub(super) fn request(
        &self,
        secret: &SecretString,
        ticket: Option<&str>,
    ) -> Result<(TokenEndpoint, serde_json::Result<Vec<u8>>), TokenRefusal> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Internal<'a> {
            app_key: &'a str,
            app_secret: &'a str,
        }
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct ThirdParty<'a> {
            suite_key: &'a str,
            suite_secret: &'a str,
            auth_corp_id: &'a str,
            suite_ticket: &'a str,
        }
        Ok(match self {
            Self::Internal { app_key } => (
                TokenEndpoint::App,
                serde_json::to_vec(&Internal {
                    app_key,
                    app_secret: secret.expose_secret(),
                }),
            ),
            Self::ThirdParty { suite_key, corp } => (
                TokenEndpoint::Corp,
                serde_json::to_vec(&ThirdParty {
                    suite_key,
                    suite_secret: secret.expose_secret(),
                    auth_corp_id: corp.as_str(),
                    suite_ticket: ticket
                        .filter(|ticket| !ticket.is_empty())
                        .ok_or(TokenRefusal::TicketMissing)?,
                }),
            ),
        })
    }
}

/// Where tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenEndpoint {
    /// `accessToken`
    App,
    /// `corpAccessToken`
    Corp,
}

/// A token, ready to be sent. It shows itself to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(HeaderValue);

impl AccessToken {
    /// Wraps a token; `None` if it is empty or cannot stand in a header.
    pub fn new(text: &str) -> Option<Self> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut header = HeaderValue::from_str(text).ok()?;
        header.set_sensitive(true);
        Some(Self(header))
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }

    /// The token itself, to be blotted out of texts.
    pub(super) fn expose(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken([redacted])")
    }
}

/// A token and its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedToken {
    /// The token.
    pub token: AccessToken,
    /// How long it is good, counted from the request.
    pub lifetime: Duration,
}

impl IssuedToken {
    /// `expire_in` in seconds, as the answer gave it; nothing or 0 means the usual life.
    pub(super) fn new(token: AccessToken, expire_in: Option<u64>) -> Self {
        let lifetime = match expire_in {
            None | Some(0) => USUAL_LIFE,
            Some(seconds) => Duration::from_secs(seconds).min(LONGEST_LIFE),
        };
        Self { token, lifetime }
    }
}

/// Why there is no token, named by what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Nobody answered, or the endpoint is in trouble: ask again, with growing waits.
    #[error("the token endpoint did not answer as it should ({0})")]
    Upstream(Failure),
    /// The credentials, or the app, are refused: an operator must act.
    #[error(
        "DingTalk refuses the credentials ({code}: {detail}); {}",
        remedy(code.as_str())
    )]
    Refused {
        /// The endpoint's code.
        code: ErrorCode,
        /// What it said, without secrets.
        detail: String,
    },
    /// Asked too often: wait the window out.
    #[error("DingTalk throttles token requests ({code}); the next may go out in {window:?}")]
    Throttled {
        /// How long to wait: the vendor's window, or longer where the answer asked for more.
        window: Duration,
        /// The endpoint's code.
        code: ErrorCode,
    },
    /// The egress address is banned: every lane stops for five minutes.
    #[error("DingTalk has banned this address for five minutes: too many calls came from it")]
    AddressBanned,
    /// A third-party app without a suite ticket: none was asked for.
    #[error("no suite ticket: whoever receives DingTalk's callback must write it to suite_tickets")]
    TicketMissing,
    /// The secret could not be read: none was asked for.
    #[error("the secret cannot be read: {0}")]
    SecretUnreadable(String),
}

impl TokenRefusal {
    /// A secret that could not be read; `reason` says which and why.
    pub fn secret_unreadable(reason: &str) -> Self {
        Self::SecretUnreadable(one_line(reason, &[]))
    }

    /// The code for `last_error`.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Upstream(failure) => failure.code.clone(),
            Self::Refused { code, .. } | Self::Throttled { code, .. } => code.clone(),
            Self::AddressBanned => OwnCode::AddressBanned.into(),
            Self::TicketMissing => OwnCode::TicketMissing.into(),
            Self::SecretUnreadable(_) => OwnCode::SecretUnreadable.into(),
        }
    }
}

impl From<Failure> for TokenRefusal {
    /// A token endpoint has no messages, so whatever is not the moment's trouble is the account's.
    fn from(failure: Failure) -> Self {
        match failure.disposition {
            Disposition::Throttled { window } => Self::Throttled {
                window: failure
                    .retry_after
                    .map_or(window, |asked| asked.max(window)),
                code: failure.code,
            },
            Disposition::AddressBanned => Self::AddressBanned,
            Disposition::LaneBlocked
            | Disposition::RefreshToken
            | Disposition::Blocked
            | Disposition::Rejected
            | Disposition::RobotRejected
            | Disposition::QuotaExhausted => Self::Refused {
                code: failure.code,
                detail: failure.detail,
            },
            Disposition::Retry
            | Disposition::RestartPaging
            | Disposition::SmallerPages
            | Disposition::NotGeneratedOrExpired
            | Disposition::SendingUnknown => Self::Upstream(failure),
        }
    }
}

/// The token in an answer to a token request. `secrets` are blotted out wherever the answer echoes them.
///
/// # Errors
/// Whatever else it was, named by what to do about it.
pub fn read_token(answered: &Answered<'_>, secrets: &[&str]) -> Result<IssuedToken, TokenRefusal> {
    Ok(read_issued(answered, secrets)?)
}

/// Whether a lane's token may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Use it.
    Valid,
    /// It still works, and the next one should be fetched now. If that fails, use this one.
    RefreshSoon,
    /// There is none, or it is dead: nothing goes out without another.
    Expired,
}

/// A lane's token. That only one caller refreshes it is the holder's business.
#[derive(Debug, Default)]
pub struct TokenCache {
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    token: AccessToken,
    refresh_at: Instant,
    expires_at: Instant,
}

impl TokenCache {
    /// What to do about the token now.
    pub fn freshness(&self, now: Instant) -> Freshness {
        match &self.held {
            Some(held) if now < held.refresh_at => Freshness::Valid,
            Some(held) if now < held.expires_at => Freshness::RefreshSoon,
            _ => Freshness::Expired,
        }
    }

    /// The token, unless it is dead.
    pub fn token(&self, now: Instant) -> Option<&AccessToken> {
        self.held
            .as_ref()
            .filter(|held| now < held.expires_at)
            .map(|held| &held.token)
    }

    /// Takes a token in. `asked_at` is when its request went out: its life may have begun then. `spread` in 0..1 says how
    /// much earlier than need be it is replaced, so that many lanes' tokens that came together are not replaced together.
    pub fn set(&mut self, issued: IssuedToken, asked_at: Instant, spread: f64) {
        let ahead = REFRESH_AHEAD.min(issued.lifetime / 3);
        let ahead = ahead
            + ahead
                .min(issued.lifetime / 4)
                .mul_f64(spread.clamp(0.0, 1.0));
        self.held = Some(Held {
            token: issued.token,
            refresh_at: asked_at + (issued.lifetime - ahead),
            expires_at: asked_at + issued.lifetime,
        });
    }

    /// Forgets `refused`. Calls that were under way with an older token may be refused after another refreshed it: those
    /// must not cost the new one.
    pub fn invalidate(&mut self, refused: &AccessToken) {
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.token == *refused)
        {
            self.held = None;
        }
    }
}
