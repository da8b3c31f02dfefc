//! The bytes of answers.

use std::borrow::Cow;

use serde::Serialize;

use super::codes::{is_throttle, lookup};
use super::mischief::Mischief;
use super::random::hash;
use super::reply::Reply;
use super::state::{Inner, Shared};

/// Why a call is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) status: Option<u16>,
    /// In place of the code's usual text.
    pub(super) message: Option<String>,
    pub(super) pascal: bool,
}

impl From<&str> for Refusal {
    fn from(code: &str) -> Self {
        Self {
            code: code.to_owned(),
            status: None,
            message: None,
            pascal: false,
        }
    }
}

#[derive(Serialize)]
struct Quoted<'a>(&'a str);

fn quoted(text: &str) -> String {
    // A string always is JSON.
    serde_json::to_string(&Quoted(text)).unwrap_or_default()
}

impl Refusal {
    /// The body's key order varies from call to call, as the vendor's does.
    pub(super) fn reply(&self, seq: u64) -> Reply {
        let known = lookup(&self.code);
        let message = match (&self.message, known) {
            (Some(message), _) => message.as_str(),
            (None, Some(known)) => known.message,
            (None, None) => "请求失败",
        };
        let luck = hash(seq, "request", 0);
        let id = format!(
            "{:08X}-{:04X}-7{:03X}",
            luck >> 32,
            luck >> 16 & 0xffff,
            luck & 0xfff
        );
        let names = match self.pascal {
            true => ["Code", "RequestId", "Message"],
            false => ["code", "requestid", "message"],
        };
        let values = [quoted(&self.code), quoted(&id), quoted(message)];
        let order = [[0, 1, 2], [1, 0, 2], [1, 2, 0]][usize::from(luck.to_be_bytes()[0]) % 3];
        let mut body = String::from("{");
        if self.code.ends_with("AccessTokenPermissionDenied") {
            body.push_str(r#""accessdenieddetail":{"requiredScopes":["qyapi_robot_sendmsg"]},"#);
        }
        let fields = order.map(|i| format!("\"{}\":{}", names[i], values[i]));
        body.push_str(&fields.join(","));
        body.push('}');
        Reply::json(
            self.status
                .or(known.map(|known| known.status))
                .unwrap_or(400),
            body,
        )
    }
}

/// A page of readers, its fields in the order of the vendor's example.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer<'a> {
    pub(super) send_status: &'a str,
    pub(super) read_user_ids: Vec<&'a str>,
    /// Absent, `null` or a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_token: Option<Option<String>>,
    pub(super) has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) read_users: Option<Vec<ReadUser<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReadUser<'a> {
    pub(super) user_id: &'a str,
    pub(super) union_id: String,
}

/// The answer of `readStatus`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusList<'a> {
    pub(super) send_status: &'a str,
    pub(super) message_read_info_list: Vec<ReadInfo<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReadInfo<'a> {
    pub(super) name: String,
    pub(super) user_id: &'a str,
    pub(super) read_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) read_timestamp: Option<i64>,
}

/// JSON of one of our own types, none of which can fail to become text.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What stands in place of an answer; `None` where the mischief needs the answer.
pub(super) fn instead(
    shared: &Shared,
    inner: &mut Inner,
    what: &Mischief,
    seq: u64,
) -> Option<Reply> {
    let refusal = |code: &str, status, pascal| {
        Refusal {
            status,
            pascal,
            ..Refusal::from(code)
        }
        .reply(seq)
    };
    Some(match what {
        Mischief::Refuse { code, status } => {
            if is_throttle(code) {
                inner.log.counts.throttled += 1;
            }
            refusal(code, *status, false)
        }
        Mischief::Pascal(code) => refusal(code, None, true),
        Mischief::DropBefore => Reply::nothing(std::time::Duration::ZERO),
        Mischief::Hang(time) => Reply::nothing(*time),
        Mischief::Html => Reply::html(503),
        Mischief::HtmlOk => Reply::html(200),
        Mischief::EmptyObject => Reply::json(200, "{}"),
        Mischief::EmptyBody => Reply::json(200, ""),
        Mischief::Errcode404 => unknown_path(),
        Mischief::Banned => banned(),
        Mischief::Bare401 => Reply::json(401, ""),
        Mischief::Redirect => Reply::redirect(shared.trap.clone()),
        _ => return None,
    })
}

/// What becomes of a good answer on its way.
pub(super) fn on_the_way(reply: Reply, what: &Mischief) -> Reply {
    match what {
        Mischief::DropAfterHead => reply.cut_at(|_| 0),
        Mischief::DropMidBody => reply.cut_at(|length| length / 2),
        Mischief::Slow(over) => reply.slow(*over),
        Mischief::Truncate => reply.truncated(),
        Mischief::Endless => reply.endless(),
        _ => reply,
    }
}

/// A good body with the fields that a mischief wants.
pub(super) fn reshaped(body: String, what: Option<&Mischief>) -> Cow<'static, str> {
    let with = |more: &str| -> Cow<'static, str> {
        format!("{},{more}}}", body.strip_suffix('}').unwrap_or(&body)).into()
    };
    match what {
        Some(Mischief::Huge) => with(&format!(r#""padding":"{}""#, "x".repeat(2 << 20))),
        Some(Mischief::ExtraFields) => {
            with(r#""traceId":"21d4","ext":{"list":[1,null,{"a":true}]},"readUserIds2":["nobody"]"#)
        }
        Some(Mischief::Nulls) => {
            r#"{"sendStatus":null,"readUserIds":null,"nextToken":null,"hasMore":null}"#.into()
        }
        Some(Mischief::MissingFields) => r#"{"sendStatus":"SUCCESS"}"#.into(),
        Some(Mischief::NoStatus) => r#"{"readUserIds":[],"hasMore":false}"#.into(),
        Some(Mischief::WrongTypes) => {
            r#"{"sendStatus":7,"readUserIds":"user1","nextToken":{"a":1},"hasMore":"yes"}"#.into()
        }
        _ => body.into(),
    }
}

/// HTTP 200, as the vendor answers a path that it does not know.
pub(super) fn unknown_path() -> Reply {
    Reply::json(200, r#"{"errcode":404,"errmsg":"请求的URI地址不存在"}"#)
}

/// HTTP 200 to an address that called too often.
pub(super) fn banned() -> Reply {
    Reply::json(
        200,
        r#"{"status":1111,"wait":5,"source":"x5","punish":"deny","uuid":"0"}"#,
    )
}
