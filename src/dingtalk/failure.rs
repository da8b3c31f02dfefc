//! A call that brought nothing, and how it is told to a person.

use std::time::Duration;

use super::codes::OwnCode;
use crate::receipt::{Disposition, ErrorCode};

/// The longest `detail`, in characters.
const DETAIL_LIMIT: usize = 300;
/// The longest code that is kept, in characters; the vendor's longest is under 60.
const CODE_LIMIT: usize = 120;
/// Stands where a secret stood.
const REDACTED: &str = "[redacted]";

/// A call that brought no page, named by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Failure {
    /// What to do.
    pub disposition: Disposition,
    /// The endpoint's code, or an [`OwnCode`] where it gave none.
    pub code: ErrorCode,
    /// The HTTP status; `None` where there was no answer.
    pub http_status: Option<u16>,
    /// How long the answer asked to wait, within 1 s to 5 min.
    pub retry_after: Option<Duration>,
    /// Whether the call counts against the month's quota: it was written whole and got no whole answer, or DingTalk
    /// answered it (with a page or a `code`). Free are calls that were throttled, that were not written, and that
    /// something else answered.
    pub metered: bool,
    /// For a person: what happened. One line, at most 300 characters, without secrets or control characters.
    pub detail: String,
}

impl Failure {
    /// A failure of the way there or back: upstream trouble always.
    pub(super) fn transport(code: OwnCode, metered: bool, detail: &str) -> Self {
        Self {
            disposition: Disposition::Retry,
            code: code.into(),
            http_status: None,
            retry_after: None,
            metered,
            detail: one_line(detail, &[]),
        }
    }

    /// The same failure, with the status of the answer that it happened to.
    pub(super) fn with_status(mut self, status: u16) -> Self {
        self.http_status = Some(status);
        self
    }
}

/// `text` fit for a line of log: secrets blotted out, control characters escaped, cut to [`DETAIL_LIMIT`].
///
/// Secrets go first: what is left of a secret that was cut in the middle would not be recognised.
pub(super) fn one_line(text: &str, secrets: &[&str]) -> String {
    cut(&redact(text, secrets), DETAIL_LIMIT)
}

/// A code that came over the wire: an endpoint that echoes a token as its code must not get it into the database.
pub(super) fn wire_code(code: &str, secrets: &[&str]) -> ErrorCode {
    ErrorCode::from(cut(&redact(code, secrets), CODE_LIMIT))
}

fn redact(text: &str, secrets: &[&str]) -> String {
    let mut clean = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        if clean.contains(secret) {
            clean = clean.replace(secret, REDACTED);
        }
    }
    clean
}

fn cut(text: &str, limit: usize) -> String {
    let mut line = String::with_capacity(text.len().min(limit * 4));
    let mut length = 0;
    for character in text.chars() {
        let before = line.len();
        if disturbs_a_line(character) {
            line.extend(character.escape_unicode());
        } else {
            line.push(character);
        }
        length += line[before..].chars().count();
        if length > limit {
            line.truncate(before);
            while line.chars().count() >= limit {
                line.pop();
            }
            line.push('…');
            break;
        }
    }
    line
}

/// Control characters, and those that reorder or break a line on a terminal.
fn disturbs_a_line(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_gone_even_where_the_cut_would_split_it() {
        let secret = "s3cr3t-t0ken";
        let text = format!("{}{secret} and more", "x".repeat(DETAIL_LIMIT - 6));
        let line = one_line(&text, &[secret, ""]);
        assert!(!line.contains("s3c"), "{line}");
        assert_eq!(line.chars().count(), DETAIL_LIMIT);
        assert!(line.ends_with('…'));
    }

    #[test]
    fn a_hostile_message_stays_on_its_line() {
        let line = one_line("错误\r\nERROR forged\u{1b}[2J\u{202e}", &[]);
        assert_eq!(line, "错误\\u{d}\\u{a}ERROR forged\\u{1b}[2J\\u{202e}");
        let long = one_line(&"\u{1}".repeat(4000), &[]);
        assert!(long.chars().count() <= DETAIL_LIMIT, "{}", long.len());
        assert_eq!(one_line(&"界".repeat(300), &[]).chars().count(), 300);
    }

    #[test]
    fn a_code_is_bounded_and_holds_no_secret() {
        let code = wire_code(
            &format!("no.such.token.hunter2.{}", "y".repeat(900)),
            &["hunter2"],
        );
        assert!(code.as_str().starts_with("no.such.token.[redacted].yyy"));
        assert!(code.as_str().chars().count() <= CODE_LIMIT);
    }
}
