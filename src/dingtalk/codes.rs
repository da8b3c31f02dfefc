//! The table of error codes: what an answer that is no success means.

use std::time::Duration;

use crate::receipt::{Disposition, ErrorCode};

/// The window of a throttle per second (`Qps`).
const SECOND: Duration = Duration::from_secs(1);
/// The window of a throttle per minute (`Qpm`).
const MINUTE: Duration = Duration::from_secs(60);

/// What the body of an answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// A JSON object with an error code.
    Code(&'a str),
    /// A JSON object without one.
    NoCode,
    /// Nothing at all, HTML, or anything else that is no JSON object.
    NotJson,
    /// The page of the gateway that bans an egress address (`"status":1111`).
    Banned,
}

/// What to do about an answer that is no success. A known code decides, whatever the HTTP status, which differs from
/// page to page of the vendor's documents for one code; the status decides only where no known code is there.
///
/// A redirect is not read at all: whoever sent it is not the endpoint.
pub fn classify(status: u16, said: Said<'_>) -> Disposition {
    if (300..400).contains(&status) {
        return Disposition::Retry;
    }
    match said {
        Said::Banned => Disposition::AddressBanned,
        Said::Code(code) => known(code).unwrap_or(match status {
            429 => Disposition::Retry,
            // Not rejected: a code that was never seen before must not cost a key.
            400..500 => Disposition::Blocked,
            _ => Disposition::Retry,
        }),
        // Not the endpoint but something in front of it, which knows nothing of the message.
        Said::NoCode | Said::NotJson if status == 401 => Disposition::RefreshToken,
        Said::NoCode | Said::NotJson => Disposition::Retry,
    }
}

/// The codes of the vendor's documents and those seen of the live service, to the letter (its misspellings too).
fn known(code: &str) -> Option<Disposition> {
    Some(match code {
        "system.error" | "system.busy" | "systemBusy" | "systemError.busy" | "serviceBusy"
        | "request.too.fast" | "unknownError" | "operationTimeout" | "service.timeout"
        | "ServiceUnavailable" => Disposition::Retry,

        "Forbidden.AccessDenied.ApiCountLimitForOrg" => Disposition::QuotaExhausted,
        "InvalidAuthentication" => Disposition::RefreshToken,

        "Forbidden.AccessDenied.AccessTokenPermissionDenied"
        | "Forbidden.AccessDenied.IpNotInWhiteList" => Disposition::LaneBlocked,
        // Of the token endpoints.
        "invalidClientIdOrSecret"
        | "invalidSuiteKey"
        | "invalidSuiteTicket"
        | "invalidAuthInfo" => Disposition::LaneBlocked,

        "unauthorized" | "auth.error" => Disposition::Blocked,
        "bot.stopped" | "template.stopped" | "resource.not.found" | "template.not.existed" => {
            Disposition::Blocked
        }

        "invalidParameter.cursor.invalid" => Disposition::RestartPaging,
        "invalidParameter.pageSize.invalid" => Disposition::SmallerPages,

        // Of `oto`.
        "unknown.send.result" => Disposition::SendingUnknown,

        "invalidParameter.param.invalid"
        | "invalidParameter.invalid"
        | "invalidParameter.processQueryKey.missing"
        | "invalid.openConversationId"
        | "openConversationId.notExisted"
        | "invalid.processQueryKey"
        | "conversation.org.dismatch" => Disposition::Rejected,
        "invalidParameter.robotCode.notExsit"
        | "invalidParameter.robotCode.missing"
        | "invalidParameter.robotCode.empty"
        | "invalidParameter.robotCode.invalid" => Disposition::RobotRejected,

        "processQueryKey.expireTime" => Disposition::NotGeneratedOrExpired,

        _ => return throttled(code),
    })
}

/// `Forbidden.AccessDenied.QpsLimitForAppkeyAndApi` and its family: a new member must not block a message.
fn throttled(code: &str) -> Option<Disposition> {
    let limit = code.strip_prefix("Forbidden.AccessDenied.")?;
    let window = if limit.starts_with("Qps") {
        SECOND
    } else if limit.starts_with("Qpm") {
        MINUTE
    } else {
        return None;
    };
    Some(Disposition::Throttled { window })
}

/// What an operator does about a code that stops an account.
pub fn remedy(code: &str) -> &'static str {
    match code {
        "invalidClientIdOrSecret" => {
            "check app_key and app_secret, and that endpoint.base_url is the site of this app"
        }
        "invalidSuiteKey" => "check app_key (the suite key) and app_secret (the suite secret)",
        "invalidSuiteTicket" | "token.ticketMissing" => {
            "write the newest suite ticket to suite_tickets"
        }
        "invalidAuthInfo" => "check corp_id: this organisation has not authorised the app",
        "InvalidAuthentication" => {
            "check the app's credentials, and that endpoint.base_url is the site of this app"
        }
        "Forbidden.AccessDenied.IpNotInWhiteList" => {
            "add this machine's egress address to the app's allowed addresses"
        }
        "Forbidden.AccessDenied.AccessTokenPermissionDenied" => {
            "grant the app the permission to query messages of its bot in the developer console"
        }
        "Forbidden.AccessDenied.ApiCountLimitForOrg" => {
            "buy calls, or wait for the month to end (UTC+8)"
        }
        "budget.spent" => "raise monthly_calls, or wait for the month to end (UTC+8)",
        "unauthorized" | "auth.error" => {
            "let the app's bot ask for its messages in the developer console"
        }
        "bot.stopped" => "enable the bot in the developer console",
        "template.stopped" | "template.not.existed" | "resource.not.found" => {
            "look for the bot and its message template in the developer console"
        }
        "invalidParameter.robotCode.notExsit"
        | "invalidParameter.robotCode.missing"
        | "invalidParameter.robotCode.empty"
        | "invalidParameter.robotCode.invalid" => "check the account's robot_code",
        _ => "check the app's credentials and permissions in the developer console",
    }
}

/// receiptd's own codes, for calls that the endpoint gave no code for. Besides them there are `http.NNN`, a status without a
/// code, and `errcode.N`, the older API's number in a 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnCode {
    /// No connection: name not found, refused, unreachable, or too slow.
    Connect,
    /// No whole answer within `request_timeout`.
    Timeout,
    /// The connection ended before an answer.
    Reset,
    /// The answer is not HTTP.
    Protocol,
    /// The answer's body broke off.
    Body,
    /// The answer's body is larger than receiptd reads.
    TooLarge,
    /// A redirect, which is never followed.
    Redirect,
    /// A 200 that is no JSON object.
    NotJson,
    /// A 200 without what it should bring.
    EmptyAnswer,
    /// A 200 with a field of a type that cannot be understood.
    WrongType,
    /// The request could not be written.
    Request,
    /// The endpoint's certificate was refused.
    Certificate,
    /// TLS could not be agreed upon.
    Handshake,
    /// The egress address is banned.
    AddressBanned,
    /// A third-party app without a suite ticket.
    TicketMissing,
    /// The secret could not be read.
    SecretUnreadable,
}

impl OwnCode {
    /// The code as it stands in `last_error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "http.connect",
            Self::Timeout => "http.timeout",
            Self::Reset => "http.reset",
            Self::Protocol => "http.protocol",
            Self::Body => "http.body",
            Self::TooLarge => "http.tooLarge",
            Self::Redirect => "http.redirect",
            Self::NotJson => "http.notJson",
            Self::EmptyAnswer => "http.emptyAnswer",
            Self::WrongType => "http.wrongType",
            Self::Request => "http.request",
            Self::Certificate => "tls.certificate",
            Self::Handshake => "tls.handshake",
            Self::AddressBanned => "address.banned",
            Self::TicketMissing => "token.ticketMissing",
            Self::SecretUnreadable => "token.secretUnreadable",
        }
    }
}

impl From<OwnCode> for ErrorCode {
    fn from(code: OwnCode) -> Self {
        Self::from(code.as_str())
    }
}
