//! Answers of an endpoint that may be anybody. An input is a line with the HTTP status, then the body.

use std::collections::HashSet;

use receiptd::dingtalk::{Answered, Failure, read_page, read_token};
use receiptd::receipt::Disposition;

/// What the answers below may echo, and nothing else may.
const SECRET: &str = "t0ken-0f-the-app";

/// The codes that end a message for good: no other answer may cost a key.
const REJECTING: [&str; 11] = [
    "invalidParameter.param.invalid",
    "invalidParameter.invalid",
    "invalidParameter.robotCode.empty",
    "invalidParameter.processQueryKey.missing",
    "invalid.openConversationId",
    "openConversationId.notExisted",
    "invalid.processQueryKey",
    "conversation.org.dismatch",
    "invalidParameter.robotCode.notExsit",
    "invalidParameter.robotCode.missing",
    "invalidParameter.robotCode.invalid",
];

/// The status of the first line, and the rest.
fn split(input: &[u8]) -> (u16, &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (line, body) = match end {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (&[][..], input),
    };
    let status = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.parse().ok());
    (status.unwrap_or(200), body)
}

/// The answer to a query is a sound page or a failure that can be told.
pub fn page(input: &[u8]) {
    let (status, body) = split(input);
    let answered = Answered {
        status,
        retry_after: None,
        body,
    };
    match read_page(&answered, &[SECRET]) {
        Ok(page) => {
            assert_eq!(status, 200, "only a 200 is a success");
            assert!(bounded(page.send_status.as_str()));
            let mut seen = HashSet::new();
            for reader in &page.readers {
                let id = reader.user_id.as_str();
                assert!(bounded(id), "a reader's id of {} bytes", id.len());
                assert!(seen.insert(id), "a reader is named once");
                assert!(reader.read_at.is_none_or(|at| at.0 > 0));
            }
            let next = page.next.as_ref();
            assert!(next.is_none_or(|token| (1..=4096).contains(&token.as_str().len())));
        }
        Err(failure) => told(&failure),
    }
}

fn bounded(word: &str) -> bool {
    (1..=256).contains(&word.len())
}

/// An answer that is no success has a disposition, and ends a message only if it says so in one of the known words.
pub fn refusal(input: &[u8]) {
    let (status, body) = split(input);
    let status = if status == 200 { 400 } else { status };
    let answered = Answered {
        status,
        retry_after: None,
        body,
    };
    let failure = read_page(&answered, &[SECRET]).expect_err("no success without a 200");
    told(&failure);
    let ends = matches!(
        failure.disposition,
        Disposition::Rejected | Disposition::RobotRejected | Disposition::NotGeneratedOrExpired
    );
    let code = failure.code.as_str();
    let known = REJECTING.contains(&code) || code == "processQueryKey.expireTime";
    assert_eq!(ends, known && !(300..400).contains(&status), "{failure:?}");
    let refused = read_token(&answered, &[SECRET]).expect_err("no token without a 200");
    assert_one_line(&refused.to_string(), 600);
}

/// A failure is fit for a log, a row and a person.
fn told(failure: &Failure) {
    assert_one_line(&failure.detail, 300);
    assert_one_line(failure.code.as_str(), 120);
    assert!(!failure.code.as_str().is_empty());
}

fn assert_one_line(text: &str, most: usize) {
    assert!(
        text.chars().count() <= most,
        "{} characters",
        text.chars().count()
    );
    assert!(!text.chars().any(char::is_control), "{text:?}");
    assert!(!text.contains(SECRET), "a secret came back: {text}");
}
