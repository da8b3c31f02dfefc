//! The client: one for all accounts, since what tells them apart is the token.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Request, Url, redirect};
use secrecy::{ExposeSecret, SecretString};

use super::answer::{Answered, Page, read_page};
use super::codes::OwnCode;
use super::failure::Failure;
use super::tls::{self, CaError};
use super::token::{
    AccessToken, Credentials, IssuedToken, TokenEndpoint, TokenRefusal, read_token,
};
use super::transport::{Written, head_failure, read_body};
use super::wire::Query;
use crate::receipt::{Chat, UnixMs};
use crate::settings::Endpoint;

/// How long an idle connection is kept: common gateways drop theirs after 30 to 60 s, without a word.
const IDLE: Duration = Duration::from_secs(20);
/// `Retry-After` is honoured within these bounds.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
/// See [`SHORTEST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(300);

const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-acs-dingtalk-access-token");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be used.
    #[error("endpoint.base_url {base:?}: {reason}; it should look like https://api.dingtalk.io")]
    BaseUrl {
        /// What was given.
        base: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The private certificate authority cannot be used.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The system's certificates or resolver cannot be used.
    #[error("the HTTP client cannot be set up: {0}")]
    SetUp(String),
}

/// Calls the endpoint. Cheap to clone; clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    private: Url,
    group: Url,
    oto: Url,
    app_token: Url,
    corp_token: Url,
}

impl Client {
    /// Makes a client. Reads the system's certificates from disk.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let at = |path: &str| join(&endpoint.base_url, path);
        let base = at("/")?;
        tls::install_provider();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("receiptd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(endpoint.connect_timeout)
            .timeout(endpoint.request_timeout)
            .pool_idle_timeout(IDLE)
            // A redirect would carry the token to whatever host it names.
            .redirect(redirect::Policy::none())
            .referer(false)
            .http1_only();
        if is_loopback(&base) {
            // A proxy's loopback is another machine's.
            builder = builder.no_proxy();
        }
        let roots = endpoint
            .ca_file
            .as_deref()
            .map(tls::read_roots)
            .transpose()?;
        builder = match roots {
            // Nothing to verify: a machine without any certificates can still use the sandbox.
            _ if base.scheme() == "http" => builder.tls_certs_only([]),
            Some(roots) => builder.tls_certs_merge(roots),
            None => builder,
        };
        Ok(Self {
            http: builder
                .build()
                .map_err(|error| ClientError::SetUp(causes(&error)))?,
            private: at("/v1.0/robot/privateChatMessages/query")?,
            group: at("/v1.0/robot/groupMessages/query")?,
            oto: at("/v1.0/robot/oToMessages/readStatus")?,
            app_token: at("/v1.0/oauth2/accessToken")?,
            corp_token: at("/v1.0/oauth2/corpAccessToken")?,
            base,
        })
    }

    /// Asks for one page of a message's readers. One metered call.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn query(&self, token: &AccessToken, query: &Query<'_>) -> Result<Page, Failure> {
        let (mut request, written) = match query.chat {
            Chat::Private => post(&self.private, query.to_json())?,
            Chat::Group => post(&self.group, query.to_json())?,
            Chat::Oto => get(query.on(&self.oto)),
        };
        request.headers_mut().insert(TOKEN_HEADER, token.header());
        let answer = self.call(request, &written).await?;
        let mut page = read_page(&answer.as_answered(), &[token.expose()])?;
        // A list of recipients has no pages, and nowhere to name the next one.
        page.next = page.next.filter(|_| query.chat != Chat::Oto);
        Ok(page)
    }

    /// Exchanges credentials for a token. Not metered, but throttled when too frequent. `ticket` is the newest suite
    /// ticket, for third-party apps only.
    ///
    /// # Errors
    /// See [`TokenRefusal`].
    pub async fn request_token(
        &self,
        credentials: &Credentials,
        secret: &SecretString,
        ticket: Option<&str>,
    ) -> Result<IssuedToken, TokenRefusal> {
        let (endpoint, body) = credentials.request(secret, ticket)?;
        let url = match endpoint {
            TokenEndpoint::App => &self.app_token,
            TokenEndpoint::Corp => &self.corp_token,
        };
        let unmetered = |failure: Failure| Failure {
            metered: false,
            ..failure
        };
        let (request, written) = post(url, body)?;
        let answer = self.call(request, &written).await.map_err(unmetered)?;
        let secrets = [secret.expose_secret(), ticket.unwrap_or_default()];
        read_token(&answer.as_answered(), &secrets)
    }

    /// The endpoint's clock, to the second, by a call that needs no token and is not metered. `None` if the answer has no
    /// `Date`.
    ///
    /// # Errors
    /// The endpoint could not be reached.
    pub async fn probe_clock(&self) -> Result<Option<UnixMs>, Failure> {
        let request = Request::new(Method::GET, self.base.clone());
        let response = self.http.execute(request).await;
        let response = response.map_err(|error| head_failure(error, &Written::default()))?;
        Ok(date(response.headers()))
    }

    async fn call(&self, request: Request, written: &Written) -> Result<Answer, Failure> {
        let response = self.http.execute(request).await;
        let response = response.map_err(|error| head_failure(error, written))?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let body = if response.status().is_redirection() {
            Vec::new()
        } else {
            read_body(response).await.map_err(|failure| Failure {
                retry_after,
                ..failure
            })?
        };
        Ok(Answer {
            status,
            retry_after,
            body,
        })
    }
}

/// An answer, read whole.
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

impl Answer {
    fn as_answered(&self) -> Answered<'_> {
        Answered {
            status: self.status,
            retry_after: self.retry_after,
            body: &self.body,
        }
    }
}

fn post(url: &Url, body: serde_json::Result<Vec<u8>>) -> Result<(Request, Written), Failure> {
    let body =
        body.map_err(|error| Failure::transport(OwnCode::Request, false, &error.to_string()))?;
    let mut request = Request::new(Method::POST, url.clone());
    request.headers_mut().insert(CONTENT_TYPE, JSON);
    let written = Written::default();
    *request.body_mut() = Some(written.body(body));
    Ok((request, written))
}

fn get(url: Url) -> (Request, Written) {
    let (mut request, written) = (Request::new(Method::GET, url), Written::default());
    *request.body_mut() = Some(written.body(Vec::new()));
    (request, written)
}

fn join(base: &str, path: &str) -> Result<Url, ClientError> {
    let wrong = |reason: &str| ClientError::BaseUrl {
        base: base.to_owned(),
        reason: reason.to_owned(),
    };
    if base.contains(['?', '#']) {
        return Err(wrong("a query or a fragment cannot be part of it"));
    }
    let url = Url::parse(&format!("{}{path}", base.trim_end_matches('/')))
        .map_err(|error| wrong(&error.to_string()))?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err(wrong("neither http nor https")),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// `Retry-After` in seconds; its other form, a date, is not honoured.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Only a number too large for its type fails to parse now.
    let asked = text.parse().map_or(LONGEST_WAIT, Duration::from_secs);
    Some(asked.clamp(SHORTEST_WAIT, LONGEST_WAIT))
}

fn date(headers: &HeaderMap) -> Option<UnixMs> {
    let text = headers.get(DATE)?.to_str().ok()?;
    let zoned = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(UnixMs(zoned.timestamp().as_millisecond()))
}

fn causes(error: &reqwest::Error) -> String {
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| {
        error.source()
    });
    chain
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_not_asked_for_loopback() {
        let base = |text: &str| is_loopback(&Url::parse(text).unwrap());
        for here in [
            "http://127.0.0.1:80",
            "http://127.9.8.7",
            "http://[::1]:80",
            "http://[::ffff:127.0.0.1]",
            "http://localhost:80",
            "http://LOCALHOST",
        ] {
            assert!(base(here), "{here}");
        }
        for there in [
            "https://api.dingtalk.io",
            "http://10.0.0.1",
            "http://127.0.0.1.example.org",
        ] {
            assert!(!base(there), "{there}");
        }
    }

    #[test]
    fn a_wait_asked_for_is_honoured_within_bounds() {
        let asked = |text: &str| {
            retry_after(&HeaderMap::from_iter([(
                RETRY_AFTER,
                HeaderValue::from_str(text).unwrap(),
            )]))
        };
        assert_eq!(asked("0"), Some(Duration::from_secs(1)));
        assert_eq!(asked(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(asked("86400"), Some(Duration::from_secs(300)));
        assert_eq!(
            asked("99999999999999999999999"),
            Some(Duration::from_secs(300))
        );
        assert_eq!(asked("-5"), None);
        assert_eq!(asked("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        assert_eq!(asked(""), None);
    }

    #[test]
    fn a_date_is_read() {
        let headers = HeaderMap::from_iter([(
            DATE,
            HeaderValue::from_static("Mon, 30 Nov 2026 15:59:59 GMT"),
        )]);
        assert_eq!(date(&headers), Some(UnixMs(1_796_054_399_000)));
        let headers = HeaderMap::from_iter([(DATE, HeaderValue::from_static("yesterday"))]);
        assert_eq!(date(&headers), None);
    }

    #[test]
    fn paths_are_joined_to_a_base_with_and_without_a_slash() {
        for base in ["http://127.0.0.1:1/gate", "http://127.0.0.1:1/gate/"] {
            assert_eq!(
                join(base, "/v1.0/x").unwrap().as_str(),
                "http://127.0.0.1:1/gate/v1.0/x"
            );
        }
        for base in [
            "",
            "api.dingtalk.io",
            "ftp://api.dingtalk.io",
            "https://a/?b",
            "https://a/#b",
        ] {
            assert!(join(base, "/v1.0/x").is_err(), "{base}");
        }
    }
}
