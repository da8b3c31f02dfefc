//! The metered calls: who has read a message.

use std::time::{Duration, Instant};

use super::bodies::{Refusal, banned, instead, json, on_the_way, reshaped};
use super::codes;
use super::log::Call;
use super::mischief::Mischief;
use super::pages::{Walk, page, read_status, standing};
use super::paging::Cursor;
use super::reply::Reply;
use super::request::{Asked, Request};
use super::script::Script;
use super::state::{Inner, Known, Shared};
use super::tokens::{Standing, app_of};
use crate::receipt::{Chat, QuotaMonth, UnixMs};

/// Which of the three endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `privateChatMessages/query` or `groupMessages/query`
    Query(Chat),
    /// `oToMessages/readStatus`
    ReadStatus,
}

pub(super) fn query(shared: &Shared, endpoint: Endpoint, request: &Request) -> Reply {
    let mut guard = shared.lock();
    let inner = &mut *guard;
    let seq = inner.log.next_seq();
    inner.log.counts.queries += 1;
    let mut call = Call {
        seq,
        at: shared.now_ms(),
        path: request.path.clone(),
        lane: String::new(),
        key: String::new(),
        page: 0,
        status: 0,
        outcome: "ok".to_owned(),
        send_status: String::new(),
        readers: 0,
        metered: true,
    };
    let asked = match endpoint {
        Endpoint::Query(_) => request.json_question(),
        Endpoint::ReadStatus => request.query_question(),
    };
    call.key = asked.key.clone().unwrap_or_default();
    let mut reply = match shared.outage(inner) {
        Some(what) => {
            call.outcome = format!("outage: {}", what.name());
            call.metered = what.is_metered();
            instead(shared, inner, &what, seq).unwrap_or_else(|| Reply::nothing(Duration::ZERO))
        }
        None => match answer(shared, inner, endpoint, request, &asked, &mut call) {
            Ok(reply) => reply,
            Err(refusal) => {
                call.outcome.clone_from(&refusal.code);
                call.metered = !codes::is_throttle(&refusal.code);
                refusal.reply(seq)
            }
        },
    };
    reply.wait = reply.wait.saturating_add(shared.latency(seq));
    call.status = reply.status();
    if call.metered {
        inner.log.counts.metered += 1;
        if let Some(lane) = inner.lanes.get_mut(call.lane.as_str()) {
            lane.month_calls += 1;
        }
    }
    inner.log.record(call);
    reply
}

fn answer(
    shared: &Shared,
    inner: &mut Inner,
    endpoint: Endpoint,
    request: &Request,
    asked: &Asked,
    call: &mut Call,
) -> Result<Reply, Refusal> {
    for what in &asked.violations {
        inner.log.violation(call.seq, &call.key, what);
    }
    let token = authenticate(shared, inner, request, call)?;
    if let Some(reply) = limits(shared, inner, call)? {
        call.metered = false;
        return Ok(reply);
    }
    if asked.malformed {
        return Err("invalidParameter.param.invalid".into());
    }
    let Some(key) = &asked.key else {
        return Err("invalidParameter.processQueryKey.missing".into());
    };
    let chat = match endpoint {
        Endpoint::Query(chat) => chat,
        Endpoint::ReadStatus => Chat::Private,
    };
    if !inner.messages.contains_key(key.as_str()) {
        if !shared.config.unknown_keys_answer {
            return Err("invalid.processQueryKey".into());
        }
        let known = shared.know(key, Script::of_key(key), chat);
        inner.messages.insert(key.as_str().into(), known);
    }
    let cursor = match &asked.next {
        None => Some(Cursor::FIRST),
        Some(token) => Cursor::open(token, shared.config.seed, key),
    };
    call.page = cursor.map_or(0, |cursor| cursor.page);

    let mischief = next_mischief(inner, key, call.page);
    if let Some(what) = &mischief {
        inner.log.counts.faults += 1;
        call.outcome = what.name();
        if *what == Mischief::DeadToken {
            inner.tokens.end(&token);
            return Err(codes::DEAD_TOKEN.into());
        }
        call.metered = what.is_metered();
        if let Some(reply) = instead(shared, inner, what, call.seq) {
            return Ok(reply);
        }
    }

    let Some(known) = inner.messages.get(key.as_str()) else {
        return Err("invalid.processQueryKey".into());
    };
    demands(known, chat, endpoint, asked, call)?;
    let size = match asked.max_results {
        None => shared.config.page_size_cap,
        Some(size) => u32::try_from(size)
            .ok()
            .filter(|size| (1..=shared.config.page_size_cap).contains(size))
            .ok_or("invalidParameter.pageSize.invalid")?,
    };
    let Some(cursor) = cursor else {
        // A lie about paging may have led the client here; a token of its own making is its fault.
        inner.log.violation(
            call.seq,
            key,
            "nextToken is none that this key's walk was given",
        );
        return Err("invalidParameter.cursor.invalid".into());
    };

    let age = shared.age(known.sent_at);
    let script = &known.script;
    if age < script.generated_after.unwrap_or_default() || age >= shared.lifetime(script) {
        return Err(codes::EXPIRED.into());
    }
    let (status, readers) = standing(known, age);
    call.send_status = status.to_owned();
    let mut reply = match endpoint {
        Endpoint::Query(chat) => {
            let walk = Walk {
                key,
                chat,
                cursor,
                size,
                sent: asked.next.as_deref(),
            };
            let page = page(shared, status, readers, &walk, mischief.as_ref());
            call.readers = u32::try_from(page.read_user_ids.len()).unwrap_or(u32::MAX);
            Reply::json(200, reshaped(json(&page), mischief.as_ref()).into_owned())
        }
        Endpoint::ReadStatus => {
            let list = read_status(shared, status, readers, known);
            call.readers = u32::try_from(readers.len()).unwrap_or(u32::MAX);
            Reply::json(200, reshaped(json(&list), mischief.as_ref()).into_owned())
        }
    };
    if let Some(what) = &mischief {
        reply = on_the_way(reply, what);
    }
    reply.wait = reply
        .wait
        .saturating_add(script.latency.unwrap_or_default());
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
        Standing::Good(lane) => call.lane = lane.to_string(),
        Standing::Ended => return Err(codes::DEAD_TOKEN.into()),
        Standing::Unknown => {
            let what = match token.is_empty() {
                true => "no x-acs-dingtalk-access-token",
                false => "a token that was never given out",
            };
            inner.log.violation(call.seq, &call.key, what);
            return Err(codes::DEAD_TOKEN.into());
        }
    }
    match app_of(&inner.apps, &call.lane).and_then(|app| app.refusal.as_deref()) {
        Some(code) => Err(code.into()),
        None => Ok(token),
    }
}

/// The address's ceiling, the lane's rate, the month.
fn limits(shared: &Shared, inner: &mut Inner, call: &Call) -> Result<Option<Reply>, Refusal> {
    let (config, now) = (&shared.config, Instant::now());
    if inner.banned_until.is_some_and(|until| now < until) {
        inner
            .log
            .violation(call.seq, &call.key, "a call from a banned address");
        return Ok(Some(banned()));
    }
    if !inner
        .address
        .admit(now, Duration::from_secs(20), config.calls_per_20s)
    {
        inner.banned_until = Some(now + config.ban);
        inner.log.violation(
            call.seq,
            &call.key,
            "too many calls in 20 s: the address is banned",
        );
        return Ok(Some(banned()));
    }
    let app = app_of(&inner.apps, &call.lane);
    let a_second = app
        .and_then(|app| app.calls_per_second)
        .unwrap_or(config.calls_per_second);
    let a_month = app
        .and_then(|app| app.monthly_calls)
        .unwrap_or(config.monthly_calls);
    let lane = inner.lanes.entry(call.lane.as_str().into()).or_default();
    if !lane.window.admit(now, Duration::from_secs(1), a_second) {
        inner.log.counts.throttled += 1;
        inner.log.violation(
            call.seq,
            &call.key,
            format!("more than {a_second} calls in a second"),
        );
        return Err(match call.lane.contains('/') {
            true => "Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi".into(),
            false => codes::THROTTLED.into(),
        });
    }
    if call.at >= lane.month_ends {
        lane.month_ends = QuotaMonth::of(UnixMs(call.at)).ends_at().0;
        lane.month_calls = 0;
    }
    if a_month > 0 && lane.month_calls >= a_month {
        return Err(codes::QUOTA.into());
    }
    Ok(None)
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

/// What the message wants to see in a question.
fn demands(
    known: &Known,
    chat: Chat,
    endpoint: Endpoint,
    asked: &Asked,
    call: &Call,
) -> Result<(), Refusal> {
    let script = &known.script;
    if let Some(why) = &known.bad_rule {
        let message = Some(format!("the key's rule cannot be read: {why}"));
        return Err(Refusal {
            message,
            ..Refusal::from("invalid.processQueryKey")
        });
    }
    if script.chat.is_some_and(|only| only != chat) {
        return Err("invalid.processQueryKey".into());
    }
    if script
        .owner
        .as_ref()
        .is_some_and(|owner| *owner != call.lane)
    {
        return Err("conversation.org.dismatch".into());
    }
    match (&script.robot_code, &asked.robot_code) {
        (Some(_), None) => return Err("invalidParameter.robotCode.missing".into()),
        (Some(right), Some(given)) if right != given => {
            return Err("invalidParameter.robotCode.notExsit".into());
        }
        (None, None) if endpoint == Endpoint::ReadStatus => {
            return Err("invalidParameter.robotCode.missing".into());
        }
        _ => {}
    }
    match (&script.conversation, &asked.conversation) {
        (Some(_), None) => Err("openConversationId.notExisted".into()),
        (Some(right), Some(given)) if right != given => Err("invalid.openConversationId".into()),
        _ => Ok(()),
    }
}
