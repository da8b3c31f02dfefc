//! What the endpoint may do wrong, and how a rule or a fault plan names it.

use std::time::Duration;

use super::codes;

/// One way to answer badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// An error body. The status is the code's own unless given.
    Refuse {
        /// `code` in the body.
        code: String,
        /// Another HTTP status than the code's own.
        status: Option<u16>,
    },
    /// The connection ends before an answer.
    DropBefore,
    /// The connection ends after the headers.
    DropAfterHead,
    /// The connection ends in mid-body.
    DropMidBody,
    /// Nothing for so long, then the connection ends.
    Hang(Duration),
    /// The right body, spread over so long.
    Slow(Duration),
    /// Half of the body in a well-framed answer.
    Truncate,
    /// The right answer with a field of 2 MiB.
    Huge,
    /// A body without an end (the sandbox gives up after 64 MiB).
    Endless,
    /// HTTP 503 with HTML.
    Html,
    /// HTTP 200 with HTML.
    HtmlOk,
    /// HTTP 200 with `{}`.
    EmptyObject,
    /// HTTP 200 without a body.
    EmptyBody,
    /// HTTP 200 with `{"errcode":404,…}`.
    Errcode404,
    /// HTTP 200 with `{"status":1111,…}`: the address is banned.
    Banned,
    /// HTTP 302 to another port, where every call is a violation.
    Redirect,
    /// The token dies before this call.
    DeadToken,
    /// HTTP 401 without a code.
    Bare401,
    /// `nextToken` is the one that was sent (or any, on page one), for ever.
    RepeatToken,
    /// `hasMore` without a `nextToken`.
    MoreWithoutToken,
    /// A page without readers, with `hasMore` and the right next token.
    EmptyPage,
    /// Every field `null`.
    Nulls,
    /// Only `sendStatus`.
    MissingFields,
    /// No `sendStatus`.
    NoStatus,
    /// Strings where numbers belong, and the other way round.
    WrongTypes,
    /// The right answer, with fields that nobody knows.
    ExtraFields,
    /// The error body's keys in Pascal case: `Code`, `RequestId`, `Message`.
    Pascal(String),
}

/// The names that need no value, with what they mean.
const PLAIN: &[(&str, Mischief)] = &[
    ("truncate", Mischief::Truncate),
    ("huge", Mischief::Huge),
    ("endless", Mischief::Endless),
    ("html", Mischief::Html),
    ("html-ok", Mischief::HtmlOk),
    ("empty-object", Mischief::EmptyObject),
    ("empty-body", Mischief::EmptyBody),
    ("errcode404", Mischief::Errcode404),
    ("banned", Mischief::Banned),
    ("redirect", Mischief::Redirect),
    ("dead-token", Mischief::DeadToken),
    ("bare401", Mischief::Bare401),
    ("drop=before", Mischief::DropBefore),
    ("drop=after-head", Mischief::DropAfterHead),
    ("drop=mid-body", Mischief::DropMidBody),
    ("page=repeat", Mischief::RepeatToken),
    ("page=no-token", Mischief::MoreWithoutToken),
    ("page=empty", Mischief::EmptyPage),
    ("fields=null", Mischief::Nulls),
    ("fields=missing", Mischief::MissingFields),
    ("fields=no-status", Mischief::NoStatus),
    ("fields=wrong", Mischief::WrongTypes),
    ("fields=extra", Mischief::ExtraFields),
];

impl Mischief {
    /// Reads a name of the grammar (see the module's documentation); `None` where it is none of a mischief.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        if let Some((_, mischief)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Some(Ok(mischief.clone()));
        }
        let refuse = |code: &str| Self::Refuse {
            code: code.to_owned(),
            status: None,
        };
        match text {
            "throttle" => return Some(Ok(refuse(codes::THROTTLED))),
            "page=bad-cursor" => return Some(Ok(refuse("invalidParameter.cursor.invalid"))),
            "page=too-large" => return Some(Ok(refuse("invalidParameter.pageSize.invalid"))),
            _ => {}
        }
        let (name, value) = text.split_once('=')?;
        let wait = |make: fn(Duration) -> Self| {
            humantime::parse_duration(value)
                .map(make)
                .map_err(|error| format!("{name}={value}: {error}; write it like {name}=2s"))
        };
        Some(match name {
            "code" => match value.split_once('/') {
                None => Ok(refuse(value)),
                Some((code, status)) => parse_status(status).map(|status| Self::Refuse {
                    code: code.to_owned(),
                    status: Some(status),
                }),
            },
            "pascal" => Ok(Self::Pascal(value.to_owned())),
            "hang" => wait(Self::Hang),
            "slow" => wait(Self::Slow),
            "drop" | "page" | "fields" => Err(format!(
                "{name}={value} is unknown; known are {}",
                Self::names()
                    .filter(|known| known.starts_with(name))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            _ => return None,
        })
    }

    /// Every name of the grammar, with an example's value where it needs one.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let valued = [
            "code=CODE",
            "code=CODE/STATUS",
            "pascal=CODE",
            "hang=2s",
            "slow=2s",
        ];
        let aliases = ["throttle", "page=bad-cursor", "page=too-large"];
        valued
            .into_iter()
            .chain(aliases)
            .chain(PLAIN.iter().map(|(name, _)| *name))
    }

    /// The name of the grammar, for the log.
    pub fn name(&self) -> String {
        match self {
            Self::Refuse { code, .. } => code.clone(),
            Self::Pascal(code) => code.clone(),
            Self::Hang(_) => "hang".to_owned(),
            Self::Slow(_) => "slow".to_owned(),
            plain => PLAIN
                .iter()
                .find(|(_, known)| known == plain)
                .map_or_else(String::new, |(name, _)| (*name).to_owned()),
        }
    }

    /// Whether a query that is answered so counts against the month: it arrived at the endpoint, as far as its caller can
    /// tell. What a proxy, a gateway or nobody in particular seems to have said does not.
    pub(super) fn is_metered(&self) -> bool {
        match self {
            Self::Refuse { code, .. } | Self::Pascal(code) => !codes::is_throttle(code),
            Self::Html
            | Self::HtmlOk
            | Self::EmptyObject
            | Self::EmptyBody
            | Self::Errcode404
            | Self::Banned
            | Self::Redirect
            | Self::Bare401
            | Self::Truncate
            | Self::Nulls
            | Self::NoStatus
            | Self::WrongTypes => false,
            _ => true,
        }
    }

    /// Whether a token call can be answered so.
    pub(super) fn fits_a_token_call(&self) -> bool {
        !matches!(
            self,
            Self::RepeatToken
                | Self::MoreWithoutToken
                | Self::EmptyPage
                | Self::NoStatus
                | Self::MissingFields
                | Self::DeadToken
        )
    }
}

/// An HTTP status that hyper can send.
pub(super) fn parse_status(text: &str) -> Result<u16, String> {
    text.parse()
        .ok()
        .filter(|status| (200..=599).contains(status))
        .ok_or_else(|| format!("status {text} is no HTTP status between 200 and 599"))
}
