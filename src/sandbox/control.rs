//! `/sandbox/…`: what another process sets up and asks.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::endpoint;
use super::http::{Reply, Request};
use super::script::{Recipient, Script};
use super::state::{Inner, Shared, Truth};
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

pub(super) fn control(shared: &Shared, request: &Request) -> Reply {
    match answer(shared, &mut shared.lock(), request) {
        Ok(body) => Reply::json(200, endpoint::json(&body)),
        Err(why) => Reply::json(400, endpoint::json(&json!({ "error": why }))),
    }
}

fn answer(shared: &Shared, inner: &mut Inner, request: &Request) -> Result<Value, String> {
    Ok(match (&*request.method, &*request.path) {
        ("PUT", "/sandbox/messages") => put_messages(shared, inner, &request.body)?,
        ("GET", "/sandbox/truth") => {
            let all = inner.messages.iter();
            all.map(|(key, known)| truth(&shared.truth(key, known)))
                .collect()
        }
        ("GET", "/sandbox/log") => value(inner.log.after(0).collect::<Vec<_>>()),
        ("GET", "/sandbox/violations") => value(inner.log.violations()),
        ("GET", "/sandbox/counts") => value(inner.log.counts),
        (method, path) => {
            return Err(format!(
                "{method} {path} is unknown; known are PUT /sandbox/messages, GET /sandbox/truth, GET /sandbox/log, GET \
                 /sandbox/violations, GET /sandbox/counts"
            ));
        }
    })
}

fn put_messages(shared: &Shared, inner: &mut Inner, body: &[u8]) -> Result<Value, String> {
    let wrong = |error: serde_json::Error| format!("the body: {error}");
    let all: Vec<NewMessage> = match body.trim_ascii_start().first() {
        Some(b'[') => serde_json::from_slice(body).map_err(wrong)?,
        _ => vec![serde_json::from_slice(body).map_err(wrong)?],
    };
    // All are read before the first is laid down, so that a wrong one leaves nothing half done.
    let ready: Result<Vec<_>, String> = all.into_iter().map(|new| script(shared, new)).collect();
    let ready = ready?;
    let count = ready.len();
    for (key, script) in ready {
        shared.publish(inner, &key, script, Chat::Private);
    }
    Ok(json!({ "published": count }))
}

fn script(shared: &Shared, new: NewMessage) -> Result<(String, Script), String> {
    let script = shared.config.usual.clone().with(&new.rule);
    let mut script = script.map_err(|why| format!("{}: {why}", new.key))?;
    if let Some(chat) = new.chat {
        let known = Chat::parse(&chat);
        script.chat = Some(known.ok_or_else(|| format!("chat {chat}: private, group or oto"))?);
    }
    script.sent_at = new.sent_at.map(UnixMs).or(script.sent_at);
    if let Some(readers) = new.readers {
        let recipient = |reader: NewReader| Recipient {
            user_id: reader.user_id.into(),
            reads_after: reader.after_ms.map(Duration::from_millis),
        };
        script.recipients = Some(readers.into_iter().map(recipient).collect());
    }
    Ok((new.key, script))
}

fn truth(truth: &Truth) -> Value {
    let reader = |one: &super::ReadAt| json!({ "userId": one.user_id, "readAt": one.read_at.0 });
    json!({
        "key": truth.key,
        "sentAt": truth.sent_at.0,
        "recalledAt": truth.recalled_at.map(|at| at.0),
        "expiresAt": truth.expires_at.0,
        "readers": truth.readers.iter().map(reader).collect::<Vec<_>>(),
        "absent": truth.absent,
    })
}

fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}
