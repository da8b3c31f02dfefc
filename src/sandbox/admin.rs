//! `/sandbox/…`: what an external test sets up and asks.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::bodies;
use super::config::{App, Suite};
use super::faults::{FaultPlan, Outages};
use super::mischief::Mischief;
use super::reply::Reply;
use super::request::{Request, pairs};
use super::script::{Recipient, Script};
use super::state::{Inner, Shared};
use crate::receipt::{Chat, UnixMs};

/// A message as PUT.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewMessage {
    key: String,
    /// The grammar of a key.
    #[serde(default)]
    rule: String,
    chat: Option<String>,
    sent_at: Option<i64>,
    readers: Option<Vec<NewReader>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewReader {
    user_id: String,
    /// After the sending, message time; absent: never.
    after_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewFaults {
    #[serde(default)]
    seed: u64,
    #[serde(default)]
    rates: std::collections::BTreeMap<String, f64>,
    in_a_row: Option<u32>,
    tokens_too: Option<bool>,
    outages: Option<NewOutages>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOutages {
    every: String,
    length: String,
}

/// Changes to an app; what is absent stays. `null` takes a refusal or a limit away.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AppChange {
    key: String,
    secret: Option<String>,
    ticket: Option<String>,
    corps: Option<Vec<String>>,
    #[serde(default, deserialize_with = "given")]
    refusal: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    calls_per_second: Option<Option<u32>>,
    #[serde(default, deserialize_with = "given")]
    monthly_calls: Option<Option<u64>>,
}

/// Tells `null` from absent.
fn given<'de, D, T>(from: D) -> Result<Option<Option<T>>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(from).map(Some)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOutage {
    #[serde(rename = "for")]
    length: String,
    kind: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ClockChange {
    advance_ms: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    app: Option<String>,
}

pub(super) fn admin(shared: &Shared, method: &str, request: &Request) -> Reply {
    match answer(shared, method, request) {
        Ok(body) => Reply::json(200, bodies::json(&body)),
        Err(why) => Reply::json(400, bodies::json(&json!({ "error": why }))),
    }
}

fn answer(shared: &Shared, method: &str, request: &Request) -> Result<Value, String> {
    let mut guard = shared.lock();
    let inner = &mut *guard;
    let asked = |wanted: &str| {
        let found = pairs(&request.query)
            .into_iter()
            .find(|(name, _)| name == wanted);
        found.and_then(|(_, value)| value)
    };
    Ok(match (method, request.path.as_str()) {
        ("PUT" | "POST", "/sandbox/messages") => put_messages(shared, inner, &request.body)?,
        ("GET", "/sandbox/truth") => {
            let wanted = asked("key");
            let all = inner.messages.iter();
            let all = all.filter(|(key, _)| wanted.as_deref().is_none_or(|want| want == &***key));
            as_value(
                all.map(|(key, known)| shared.truth(key, known))
                    .collect::<Vec<_>>(),
            )
        }
        ("GET", "/sandbox/log") => {
            let after = asked("after")
                .map_or(Ok(0), |after| after.parse())
                .map_err(|_| "after=SEQ")?;
            let wanted = asked("key");
            let calls = inner.log.after(after);
            let calls = calls.filter(|call| wanted.as_ref().is_none_or(|want| *want == call.key));
            as_value(calls.collect::<Vec<_>>())
        }
        ("GET", "/sandbox/violations") => as_value(inner.log.violations()),
        ("GET", "/sandbox/counts") => as_value(inner.log.counts),
        ("POST", "/sandbox/faults") => {
            let new: Option<NewFaults> = parse(&request.body)?;
            inner.faults = new.map(plan).transpose()?;
            json!({ "faults": inner.faults.is_some() })
        }
        ("POST", "/sandbox/outage") => {
            let new: NewOutage = parse(&request.body)?;
            let kind = mischief(new.kind.as_deref().unwrap_or("drop=before"))?;
            let until = Instant::now().checked_add(span(&new.length)?);
            inner.outage = Some((until.ok_or("that is too long")?, kind));
            json!({ "outage": new.length })
        }
        ("POST", "/sandbox/accounts") => {
            change_app(inner, parse(&request.body)?);
            json!({ "apps": inner.apps.len() })
        }
        ("POST", "/sandbox/tokens/revoke") => {
            let which = match request.body.is_empty() {
                true => Revoke { app: None },
                false => parse(&request.body)?,
            };
            json!({ "revoked": inner.tokens.end_all(which.app.as_deref(), shared.now_ms()) })
        }
        ("POST", "/sandbox/clock") => {
            let change: ClockChange = parse(&request.body)?;
            shared.shift(change.advance_ms);
            json!({ "now": shared.now_ms() })
        }
        _ => {
            return Err(format!(
                "{method} {} is unknown; known are PUT /sandbox/messages, GET /sandbox/truth, GET /sandbox/log, GET \
                 /sandbox/violations, GET /sandbox/counts, POST /sandbox/faults, POST /sandbox/outage, POST \
                 /sandbox/accounts, POST /sandbox/tokens/revoke, POST /sandbox/clock",
                request.path
            ));
        }
    })
}

fn put_messages(shared: &Shared, inner: &mut Inner, body: &[u8]) -> Result<Value, String> {
    let all: Vec<NewMessage> = match body.trim_ascii_start().first() {
        Some(b'[') => parse(body)?,
        _ => vec![parse(body)?],
    };
    // All are read before the first is laid down, so that a wrong one leaves nothing half done.
    let mut ready = Vec::with_capacity(all.len());
    for new in all {
        let mut script = Script::parse(&new.rule).map_err(|why| format!("{}: {why}", new.key))?;
        if let Some(chat) = &new.chat {
            let chat = Chat::parse(chat).ok_or_else(|| format!("chat {chat}: private or group"))?;
            script.chat = Some(chat);
        }
        script.sent_at = new.sent_at.map(UnixMs).or(script.sent_at);
        if let Some(readers) = new.readers {
            let recipient = |reader: NewReader| Recipient {
                user_id: reader.user_id.into(),
                reads_after: reader.after_ms.map(Duration::from_millis),
            };
            script.recipients = Some(readers.into_iter().map(recipient).collect());
        }
        ready.push((new.key, script));
    }
    let count = ready.len();
    for (key, script) in ready {
        publish(shared, inner, &key, script);
    }
    Ok(json!({ "published": count }))
}

/// Lays a message down, in place of what was known of its key.
pub(super) fn publish(shared: &Shared, inner: &mut Inner, key: &str, script: Script) {
    let known = shared.know(key, Ok(script), Chat::Private);
    inner.messages.insert(key.into(), known);
}

fn plan(new: NewFaults) -> Result<FaultPlan, String> {
    let usual = FaultPlan::default();
    let mut rates = Vec::new();
    for (kind, rate) in new.rates {
        rates.push(FaultPlan::parse_rate(&format!("{kind}={rate}"))?);
    }
    let outages = match new.outages {
        None => None,
        Some(new) => Some(Outages {
            every: span(&new.every)?,
            length: span(&new.length)?,
        }),
    };
    Ok(FaultPlan {
        seed: new.seed,
        rates,
        in_a_row: new.in_a_row.unwrap_or(usual.in_a_row),
        tokens_too: new.tokens_too.unwrap_or(usual.tokens_too),
        outages,
    })
}

fn change_app(inner: &mut Inner, change: AppChange) {
    let at = inner.apps.iter().position(|app| app.key == change.key);
    let at = at.unwrap_or_else(|| {
        inner.apps.push(App::internal(&change.key, ""));
        inner.apps.len() - 1
    });
    let app = &mut inner.apps[at];
    if let Some(secret) = change.secret {
        app.secret = secret;
    }
    if change.ticket.is_some() || change.corps.is_some() {
        let none = || Suite {
            ticket: String::new(),
            corps: Vec::new(),
        };
        let suite = app.suite.get_or_insert_with(none);
        suite.ticket = change
            .ticket
            .unwrap_or_else(|| std::mem::take(&mut suite.ticket));
        suite.corps = change
            .corps
            .unwrap_or_else(|| std::mem::take(&mut suite.corps));
    }
    app.refusal = change.refusal.unwrap_or_else(|| app.refusal.take());
    app.calls_per_second = change.calls_per_second.unwrap_or(app.calls_per_second);
    app.monthly_calls = change.monthly_calls.unwrap_or(app.monthly_calls);
}

fn mischief(name: &str) -> Result<Mischief, String> {
    Mischief::parse(name).unwrap_or_else(|| Err(format!("{name} is no kind of fault")))
}

fn span(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"))
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the body: {error}"))
}

fn as_value(value: impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
