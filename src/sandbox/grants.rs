//! The token calls.

use std::time::{Duration, Instant};

use super::bodies::{Refusal, instead, on_the_way, reshaped};
use super::log::Call;
use super::mischief::Mischief;
use super::reply::Reply;
use super::request::{Fields, Request};
use super::state::{Inner, Shared};

/// Which of the two token calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// `oauth2/accessToken`
    Internal,
    /// `oauth2/corpAccessToken`
    Corp,
}

pub(super) fn grant(shared: &Shared, which: Grant, request: &Request) -> Reply {
    let mut guard = shared.lock();
    let inner = &mut *guard;
    let seq = inner.log.next_seq();
    inner.log.counts.token_calls += 1;
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
        metered: false,
    };
    let mut fields = request.fields();
    let (name, secret) = match which {
        Grant::Internal => (fields.text("appKey"), fields.text("appSecret")),
        Grant::Corp => (fields.text("suiteKey"), fields.text("suiteSecret")),
    };
    let name = name.unwrap_or_default();
    let mischief = shared.outage(inner).or_else(|| next_mischief(inner, &name));
    let early = mischief.as_ref().and_then(|what| {
        inner.log.counts.faults += 1;
        call.outcome = what.name();
        instead(shared, inner, what, seq)
    });
    let mut reply = match early {
        Some(reply) => reply,
        None => match token(
            shared,
            inner,
            which,
            &name,
            secret.as_deref(),
            &mut fields,
            &mut call,
        ) {
            Ok(text) => {
                let life = shared.config.token_life.as_secs();
                let body = format!(r#"{{"accessToken":"{text}","expireIn":{life}}}"#);
                let reply = Reply::json(200, reshaped(body, mischief.as_ref()).into_owned());
                mischief.iter().fold(reply, on_the_way)
            }
            Err(refusal) => {
                call.outcome.clone_from(&refusal.code);
                refusal.reply(seq)
            }
        },
    };
    fields.finish();
    for what in &fields.violations {
        inner
            .log
            .violation(seq, "", format!("{}: {what}", request.path));
    }
    reply.wait = reply.wait.saturating_add(shared.latency(seq));
    call.status = reply.status();
    inner.log.record(call);
    reply
}

fn next_mischief(inner: &mut Inner, app: &str) -> Option<Mischief> {
    let plan = inner.faults.as_ref().filter(|plan| plan.tokens_too)?;
    let turn = inner.token_turns.entry(app.to_owned()).or_default();
    let what = plan.fault(&format!("token of {app}"), *turn).cloned();
    *turn = turn.saturating_add(1);
    what.filter(Mischief::fits_a_token_call)
}

fn token(
    shared: &Shared,
    inner: &mut Inner,
    which: Grant,
    name: &str,
    secret: Option<&str>,
    fields: &mut Fields,
    call: &mut Call,
) -> Result<String, Refusal> {
    let wrong: Refusal = match which {
        Grant::Internal => "invalidClientIdOrSecret".into(),
        Grant::Corp => "invalidSuiteKey".into(),
    };
    let corp = match which {
        Grant::Internal => None,
        Grant::Corp => Some((fields.text("authCorpId"), fields.text("suiteTicket"))),
    };
    if fields.malformed {
        return Err("invalidParameter.param.invalid".into());
    }
    let Some(app) = inner.apps.iter().find(|app| app.key == name) else {
        return Err(wrong);
    };
    if Some(app.secret.as_str()) != secret {
        return Err(wrong);
    }
    let lane = match (&app.suite, corp) {
        (None, None) => app.key.clone(),
        (Some(suite), Some((corp, ticket))) => {
            if Some(&suite.ticket) != ticket.as_ref() {
                return Err("invalidSuiteTicket".into());
            }
            match corp.filter(|corp| suite.corps.contains(corp)) {
                Some(corp) => format!("{}/{corp}", app.key),
                None => return Err("invalidAuthInfo".into()),
            }
        }
        _ => return Err(wrong),
    };
    call.lane.clone_from(&lane);
    let lane = lane.into();
    let config = &shared.config;
    let window = inner
        .token_windows
        .entry(std::sync::Arc::clone(&lane))
        .or_default();
    if !window.admit(
        Instant::now(),
        Duration::from_secs(1),
        config.token_calls_per_second,
    ) {
        inner
            .log
            .violation(call.seq, "", "token calls too frequent");
        return Err("Forbidden.AccessDenied.QpsLimitForApi".into());
    }
    let life_ms = i64::try_from(config.token_life.as_millis()).unwrap_or(i64::MAX);
    let times = (call.at, life_ms);
    let renew = which == Grant::Internal;
    Ok(inner
        .tokens
        .give(&lane, config.seed, times, renew, config.corp_token_replaces))
}
