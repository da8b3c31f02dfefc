//! The vendor's calls: tokens, and who has read a message.

use std::time::{Duration, Instant};

use serde::{Deserialize, Deserializer, Serialize};

use super::codes::{self, is_throttle, lookup};
use super::faults::{Mischief, NO_SUCH_PATH};
use super::http::{Reply, Request};
use super::log::Call;
use super::pages::{Cursor, Walk, page, read_status};
use super::random::hash;
use super::state::{Inner, Shared};
use super::tokens::{Standing, token};
use crate::receipt::{Chat, QuotaMonth, UnixMs};

/// Why a call is refused.
#[derive(Debug)]
pub(super) struct Refusal {
    code: String,
    status: Option<u16>,
    /// In place of the code's usual text.
    message: Option<String>,
}

impl From<&str> for Refusal {
    fn from(code: &str) -> Self {
        Self {
            code: code.to_owned(),
            status: None,
            message: None,
        }
    }
}

impl Refusal {
    /// The order of the body's fields varies from call to call, as the vendor's does.
    fn reply(&self, seq: u64) -> Reply {
        let (status, message) = lookup(&self.code);
        let luck = hash(seq, "request", 0);
        let id = format!("{luck:016X}");
        let message = self.message.as_deref().unwrap_or(message);
        let fields = [
            ("code", &*self.code),
            ("requestid", &id),
            ("message", message),
        ]
        .map(|(name, value)| format!("\"{name}\":{}", json(&value)));
        let order = [[0, 1, 2], [1, 0, 2], [1, 2, 0]][usize::from(luck.to_be_bytes()[0]) % 3];
        let fields = order.map(|i| &*fields[i]).join(",");
        let scopes = match self.code.ends_with("AccessTokenPermissionDenied") {
            true => r#""accessdenieddetail":{"requiredScopes":["qyapi_robot_sendmsg"]},"#,
            false => "",
        };
        Reply::json(
            self.status.unwrap_or(status),
            format!("{{{scopes}{fields}}}"),
        )
    }
}

/// JSON of one of our own types, none of which can fail to become text.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What a call asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    /// `privateChatMessages/query`, `groupMessages/query` or `oToMessages/readStatus`
    Readers(Chat),
    /// `oauth2/accessToken`
    Token,
    /// `oauth2/corpAccessToken`
    CorpToken,
}

pub(super) fn endpoint(shared: &Shared, request: &Request) -> Reply {
    let mut guard = shared.lock();
    let inner = &mut *guard;
    let mut call = Call {
        seq: inner.log.next_seq(),
        at: shared.now_ms(),
        host: request.host.clone(),
        path: request.path.clone(),
        outcome: "ok".to_owned(),
        ..Call::default()
    };
    let asks = match (&*request.method, &*request.path) {
        ("POST", "/v1.0/robot/privateChatMessages/query") => Asks::Readers(Chat::Private),
        ("POST", "/v1.0/robot/groupMessages/query") => Asks::Readers(Chat::Group),
        ("GET", "/v1.0/robot/oToMessages/readStatus") => Asks::Readers(Chat::Oto),
        ("POST", "/v1.0/oauth2/accessToken") => Asks::Token,
        ("POST", "/v1.0/oauth2/corpAccessToken") => Asks::CorpToken,
        // Whoever wants to know whether somebody is there asks for this.
        ("GET", "/") => return Reply::json(404, NO_SUCH_PATH),
        (method, path) => {
            let what = format!("{method} {path} is no path of the endpoint");
            inner.log.violation(&call, what);
            return Reply::json(200, NO_SUCH_PATH);
        }
    };
    let is_query = matches!(asks, Asks::Readers(_));
    call.metered = is_query;
    inner.log.counts.queries += u64::from(is_query);
    inner.log.counts.token_calls += u64::from(!is_query);
    let asked = match asks {
        Asks::Readers(Chat::Oto) => parameters(request),
        Asks::Readers(_) => body(request),
        Asks::Token | Asks::CorpToken => Ok(Question::default()),
    };
    if let Ok(Question {
        process_query_key: Some(key),
        ..
    }) = &asked
    {
        call.key.clone_from(key);
    }
    let answered = match shared.outage(inner) {
        Some(outage) => {
            let answered = instead(shared, inner, &mut call, &outage);
            call.outcome = format!("outage: {}", call.outcome);
            answered.unwrap_or_else(|| Ok(Reply::nothing(Duration::ZERO)))
        }
        None => match asks {
            Asks::Readers(chat) => query(shared, inner, chat, request, asked, &mut call),
            _ => token(shared, inner, asks, request, &mut call),
        },
    };
    let reply = answered.unwrap_or_else(|refusal| {
        let is_throttled = is_throttle(&refusal.code);
        inner.log.counts.throttled += u64::from(is_throttled && is_query);
        call.metered = is_query && !is_throttled;
        // What was to go wrong with a good answer has not.
        if !call.outcome.starts_with("outage") {
            call.outcome.clone_from(&refusal.code);
        }
        refusal.reply(call.seq)
    });
    call.status = reply.status;
    if call.metered {
        inner.log.counts.metered += 1;
        if let Some(caller) = inner.callers.get_mut(&call.caller) {
            caller.month_calls += 1;
        }
    }
    inner.log.record(call);
    reply
}

/// A call where no client should come.
pub(super) fn trapped(shared: &Shared, request: &Request) -> Reply {
    let mut inner = shared.lock();
    let call = Call {
        seq: inner.log.next_seq(),
        ..Call::default()
    };
    let with = match request.token {
        Some(_) => ", and the token came along",
        None => "",
    };
    inner
        .log
        .violation(&call, format!("a redirect was followed{with}"));
    Reply::json(200, r#"{"sendStatus":"SUCCESS","readUserIds":["thief"]}"#)
}

/// What stands in place of an answer; `None` where the mischief needs the answer.
pub(super) fn instead(
    shared: &Shared,
    inner: &mut Inner,
    call: &mut Call,
    what: &Mischief,
) -> Option<Result<Reply, Refusal>> {
    inner.log.counts.faults += 1;
    call.outcome = what.name();
    call.metered &= what.is_metered();
    Some(Ok(match what {
        Mischief::Refuse { code, status } => {
            return Some(Err(Refusal {
                status: *status,
                ..Refusal::from(&**code)
            }));
        }
        Mischief::Canned(canned) => Reply::canned(canned),
        Mischief::DropBefore => Reply::nothing(Duration::ZERO),
        Mischief::Hang(time) => Reply::nothing(*time),
        Mischief::Redirect => Reply::redirect(&shared.trap),
        _ => return None,
    }))
}

/// A body's fields. What they are not is a violation, and so is an unknown one; to the vendor an empty string or a `null` is
/// not an absent field.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Question {
    #[serde(deserialize_with = "filled")]
    process_query_key: Option<String>,
    #[serde(deserialize_with = "filled")]
    robot_code: Option<String>,
    #[serde(deserialize_with = "filled")]
    open_conversation_id: Option<String>,
    #[serde(deserialize_with = "filled")]
    next_token: Option<String>,
    max_results: Option<u32>,
}

fn filled<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    match text.is_empty() {
        true => Err(serde::de::Error::custom("an empty string: omit the field")),
        false => Ok(Some(text)),
    }
}

/// The body of a POST.
pub(super) fn body<'a, T: Deserialize<'a>>(request: &'a Request) -> Result<T, String> {
    if !request.content_type.starts_with("application/json") {
        return Err(format!("content-type is {:?}", request.content_type));
    }
    serde_json::from_slice(&request.body).map_err(|error| error.to_string())
}

/// The parameters of a GET, which must be percent-encoded: a bare `+` would arrive as a space.
fn parameters(request: &Request) -> Result<Question, String> {
    let mut question = Question::default();
    let url = reqwest::Url::parse(&format!("http://sandbox/?{}", request.query));
    let url = url.map_err(|error| error.to_string())?;
    if request.query.contains(['+', '/']) || !request.body.is_empty() {
        return Err("a parameter is not percent-encoded, or there is a body".to_owned());
    }
    for (name, value) in url.query_pairs() {
        match &*name {
            _ if value.is_empty() => return Err(format!("{name} is empty")),
            "processQueryKey" => question.process_query_key = Some(value.into_owned()),
            "robotCode" => question.robot_code = Some(value.into_owned()),
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(question)
}

fn query(
    shared: &Shared,
    inner: &mut Inner,
    chat: Chat,
    request: &Request,
    asked: Result<Question, String>,
    call: &mut Call,
) -> Result<Reply, Refusal> {
    let token = authenticate(shared, inner, request, call)?;
    limits(shared, inner, call)?;
    let asked = asked.map_err(|what| {
        inner.log.violation(call, what);
        "invalidParameter.param.invalid"
    })?;
    let Some(key) = asked.process_query_key else {
        inner.log.violation(call, "no processQueryKey");
        return Err("invalidParameter.processQueryKey.missing".into());
    };
    if !inner.messages.contains_key(&key) {
        let script = shared.config.usual.of_key(&key).map_err(|why| Refusal {
            message: Some(format!("the key's rule cannot be read: {why}")),
            ..Refusal::from("invalid.processQueryKey")
        })?;
        shared.publish(inner, &key, script, chat);
    }
    let cursor = match &asked.next_token {
        None => Some(Cursor::FIRST),
        Some(token) => Cursor::open(token, shared.config.seed, &key),
    };
    call.page = cursor.map_or(0, |cursor| cursor.page);

    let mischief = next_mischief(inner, &key, call.page);
    if let Some(what) = &mischief {
        if let Some(answer) = instead(shared, inner, call, what) {
            return answer;
        }
        if *what == Mischief::DeadToken {
            inner.tokens.end(&token);
            return Err(codes::DEAD_TOKEN.into());
        }
    }

    let Some(known) = inner.messages.get(&key) else {
        return Err("invalid.processQueryKey".into());
    };
    if known.script.chat.is_some_and(|only| only != chat) {
        return Err("invalid.processQueryKey".into());
    }
    if chat == Chat::Oto && asked.robot_code.is_none() {
        inner.log.violation(call, "no robotCode");
        return Err("invalidParameter.robotCode.missing".into());
    }
    let size = asked.max_results.unwrap_or(200);
    if !(1..=200).contains(&size) {
        inner.log.violation(call, format!("maxResults is {size}"));
        return Err("invalidParameter.pageSize.invalid".into());
    }
    let Some(cursor) = cursor else {
        // A lie about paging may have led the client here; a token of its own making is its fault.
        inner
            .log
            .violation(call, "nextToken is none that this key's walk was given");
        return Err("invalidParameter.cursor.invalid".into());
    };
    let (age, script) = (shared.age(known.sent_at), &known.script);
    if age < script.generated_after || age >= script.expires_after {
        return Err(codes::EXPIRED.into());
    }
    let (status, readers) = known.at(age);
    call.send_status = status.to_owned();
    let body = match chat {
        Chat::Private | Chat::Group => {
            let walk = Walk {
                seed: shared.config.seed,
                key: &key,
                chat,
                cursor,
                size,
                sent: asked.next_token.as_deref(),
            };
            let page = page(status, readers, &walk, mischief.as_ref());
            call.readers = u32::try_from(page.read_user_ids.len()).unwrap_or(u32::MAX);
            json(&page)
        }
        Chat::Oto => {
            call.readers = u32::try_from(readers.len()).unwrap_or(u32::MAX);
            json(&read_status(shared, status, readers, known))
        }
    };
    let mut reply = mischief.iter().fold(Reply::json(200, body), Reply::spoilt);
    reply.wait = script.latency;
    Ok(reply)
}

/// Whose call it is; the token that proves it.
fn authenticate(
    shared: &Shared,
    inner: &mut Inner,
    request: &Request,
    call: &mut Call,
) -> Result<String, Refusal> {
    let token = request.token.clone().unwrap_or_default();
    match inner.tokens.standing(&token, shared.now_ms()) {
        Standing::Good(caller) => call.caller = caller,
        Standing::Ended => return Err(codes::DEAD_TOKEN.into()),
        Standing::Unknown => {
            let what = match token.is_empty() {
                true => "no x-acs-dingtalk-access-token",
                false => "a token that was never given out",
            };
            inner.log.violation(call, what);
            return Err(codes::DEAD_TOKEN.into());
        }
    }
    let app = call.caller.split('/').next();
    let app = inner.apps.iter().find(|known| app == Some(&*known.key));
    match app.and_then(|app| app.refusal.as_deref()) {
        Some(code) => Err(code.into()),
        None => Ok(token),
    }
}

/// The caller's rate, and its month.
fn limits(shared: &Shared, inner: &mut Inner, call: &Call) -> Result<(), Refusal> {
    let config = &shared.config;
    let caller = inner.callers.entry(call.caller.clone()).or_default();
    if !caller.window.admit(Instant::now(), config.calls_per_second) {
        let what = format!("more than {} calls in a second", config.calls_per_second);
        inner.log.violation(call, what);
        return Err(match call.caller.contains('/') {
            true => "Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi".into(),
            false => codes::THROTTLED.into(),
        });
    }
    if call.at >= caller.month_ends {
        caller.month_ends = QuotaMonth::of(UnixMs(call.at)).ends_at().0;
        caller.month_calls = 0;
    }
    match config.monthly_calls > 0 && caller.month_calls >= config.monthly_calls {
        true => Err(codes::QUOTA.into()),
        false => Ok(()),
    }
}

/// What goes wrong with this call: what the message's script lays down, else what the fault plan does.
fn next_mischief(inner: &mut Inner, key: &str, page: u32) -> Option<Mischief> {
    let known = inner.messages.get_mut(key)?;
    let turn = known.calls;
    known.calls = known.calls.saturating_add(1);
    for (planned, used) in known.script.planned.iter().zip(&mut known.used) {
        let here = planned.page.is_none_or(|wanted| wanted == page);
        if here && planned.times.is_none_or(|times| *used < times) {
            *used = used.saturating_add(1);
            return Some(planned.mischief.clone());
        }
    }
    inner.faults.as_ref()?.fault(key, turn).cloned()
}
