//! What a status and a body amount to. Pure, so that any bytes at all can be tried on it.

use std::collections::HashSet;
use std::time::Duration;

use super::codes::{OwnCode, Said, classify};
use super::failure::{Failure, one_line, wire_code};
use super::token::{AccessToken, IssuedToken};
use super::wire::{Answer, PageToken, Reader, as_text};
use crate::receipt::{Disposition, ErrorCode, SendStatus};

/// A page of readers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What became of the sending.
    pub send_status: SendStatus,
    /// Who has read the message, each once, in the order of the answer.
    pub readers: Vec<Reader>,
    /// How many recipients the answer lists, read or not; `None` where it lists readers alone.
    pub listed: Option<u32>,
    /// Where to go on; `None`: this was the last page.
    pub next: Option<PageToken>,
}

/// An answer as it came: status, headers that matter, and the whole body.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, within 1 s to 5 min.
    pub retry_after: Option<Duration>,
    /// The body, whole.
    pub body: &'a [u8],
}

/// The page in an answer to a query. `secrets` are blotted out wherever the answer echoes them.
///
/// A 200 alone proves nothing: the endpoint and the gateways before it send failures with it too. Only one with a
/// `sendStatus` counts.
///
/// # Errors
/// Whatever else it was, named by what to do about it.
pub fn read_page(answered: &Answered<'_>, secrets: &[&str]) -> Result<Page, Failure> {
    let text = as_text(answered.body);
    match Answer::parse(&text) {
        Some(Answer {
            send_status: Some(status),
            wrong_type: false,
            readers,
            listed,
            next_token,
            has_more,
            ..
        }) if answered.status == 200 => Ok(Page {
            send_status: SendStatus::parse(&status),
            readers: each_once(readers),
            listed,
            next: next_token
                .filter(|_| has_more)
                .and_then(|token| PageToken::new(&token)),
        }),
        other => Err(failure(answered, other.as_ref(), secrets)),
    }
}

/// The token in an answer to a token request. Token calls are not metered.
///
/// # Errors
/// Whatever else it was, named by what to do about it.
pub(super) fn read_issued(
    answered: &Answered<'_>,
    secrets: &[&str],
) -> Result<IssuedToken, Failure> {
    let text = as_text(answered.body);
    let answer = Answer::parse(&text);
    if answered.status == 200
        && let Some(answer) = &answer
        && let Some(text) = &answer.access_token
        && let Some(token) = AccessToken::new(text)
    {
        return Ok(IssuedToken::new(token, answer.expire_in));
    }
    let mut failure = failure(answered, answer.as_ref(), secrets);
    failure.metered = false;
    Err(failure)
}

fn each_once(mut readers: Vec<Reader>) -> Vec<Reader> {
    if readers.len() > 1 {
        let mut seen = HashSet::with_capacity(readers.len());
        readers.retain(|reader| seen.insert(reader.user_id.clone()));
    }
    readers
}

/// What an answer that brought nothing amounts to.
fn failure(answered: &Answered<'_>, answer: Option<&Answer<'_>>, secrets: &[&str]) -> Failure {
    let status = answered.status;
    let errcode = answer
        .and_then(|answer| answer.errcode.as_ref())
        .map(|number| format!("errcode.{number}"));
    let code = answer
        .and_then(|answer| answer.code.as_deref())
        .or(errcode.as_deref());
    let banned = answer.is_some_and(|answer| answer.status.as_deref() == Some("1111"));
    let said = match (answer, code) {
        (None, _) => Said::NotJson,
        (Some(_), None) if banned => Said::Banned,
        (Some(_), Some(code)) => Said::Code(code),
        (Some(_), None) => Said::NoCode,
    };
    let disposition = classify(status, said);
    Failure {
        disposition,
        code: code_of(status, said, answered.body, answer, secrets),
        http_status: Some(status),
        retry_after: answered.retry_after,
        metered: is_counted(status, answer)
            && !matches!(disposition, Disposition::Throttled { .. }),
        detail: detail(status, said, answered.body.len(), answer, secrets),
    }
}

/// Whether DingTalk itself answered: with a code, or with what was meant to be a page. Anything else was said by something
/// in front of it, and the call did not arrive.
fn is_counted(status: u16, answer: Option<&Answer<'_>>) -> bool {
    let page = |answer: &Answer<'_>| status == 200 && answer.send_status.is_some();
    !(300..400).contains(&status)
        && answer.is_some_and(|answer| answer.code.is_some() || page(answer))
}

fn code_of(
    status: u16,
    said: Said<'_>,
    body: &[u8],
    answer: Option<&Answer<'_>>,
    secrets: &[&str],
) -> ErrorCode {
    match (status, said) {
        (300..400, _) => OwnCode::Redirect.into(),
        (_, Said::Code(code)) => wire_code(code, secrets),
        (_, Said::Banned) => OwnCode::AddressBanned.into(),
        (200, Said::NotJson) if !body.is_empty() => OwnCode::NotJson.into(),
        (200, Said::NoCode) if answer.is_some_and(|answer| answer.wrong_type) => {
            OwnCode::WrongType.into()
        }
        (200, _) => OwnCode::EmptyAnswer.into(),
        (status, _) => ErrorCode::from(format!("http.{status}")),
    }
}

/// What happened, for a person. Of a body that is no JSON only its kind is told: it may hold anything.
fn detail(
    status: u16,
    said: Said<'_>,
    length: usize,
    answer: Option<&Answer<'_>>,
    secrets: &[&str],
) -> String {
    let mut text = format!("HTTP {status}");
    match said {
        _ if (300..400).contains(&status) => text.push_str(", a redirect, which is not followed"),
        Said::NotJson if length == 0 => text.push_str(" without a body"),
        Said::NotJson => text.push_str(&format!(" with {length} bytes that are no JSON object")),
        Said::Banned => {
            text.push_str(": this address made too many calls and is banned for five minutes");
        }
        Said::NoCode if status == 200 => text.push_str(" without the fields of a success"),
        Said::Code(_) | Said::NoCode => {}
    }
    if let Some(answer) = answer.filter(|_| !(300..400).contains(&status)) {
        if let Some(message) = &answer.message {
            text.push_str(&format!(": {message}"));
        }
        if !answer.required_scopes.is_empty() {
            text.push_str(&format!(
                "; needs the scope {}",
                answer.required_scopes.join(", ")
            ));
        }
        if let Some(id) = &answer.request_id {
            text.push_str(&format!("; request id {id}"));
        }
    }
    one_line(&text, secrets)
}
