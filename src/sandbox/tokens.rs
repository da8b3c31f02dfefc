//! Access tokens: asked for, given out, ended.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;

use super::endpoint::{Asks, Refusal, body, instead};
use super::faults::Mischief;
use super::http::{Reply, Request};
use super::log::Call;
use super::random::hash;
use super::state::{Inner, Shared};

/// What is known of a token that came with a call.
pub(super) enum Standing {
    /// Good, and whose it is.
    Good(String),
    /// Given out once, but no longer good.
    Ended,
    /// Never given out here.
    Unknown,
}

/// Every token ever given out; they are few.
#[derive(Default)]
pub(super) struct Tokens(HashMap<String, Token>);

struct Token {
    caller: String,
    /// Sandbox time, milliseconds.
    ends_at: i64,
}

impl Tokens {
    /// A caller's token. With `renew` the living one is handed out again, its life extended; else it is a new one, and
    /// the one before lives on.
    pub(super) fn give(
        &mut self,
        caller: &str,
        seed: u64,
        now: i64,
        life: Duration,
        renew: bool,
    ) -> String {
        let life_ms = i64::try_from(life.as_millis()).unwrap_or(i64::MAX);
        let ends_at = now.saturating_add(life_ms);
        let mut living = self
            .0
            .iter_mut()
            .filter(|(_, token)| token.caller == caller && token.ends_at > now);
        if let Some((text, token)) = living.next().filter(|_| renew) {
            token.ends_at = ends_at;
            return text.clone();
        }
        let turn = self.0.len() as u64;
        let (high, low) = (hash(seed, caller, turn), hash(!seed, caller, turn));
        let text = format!("{high:016x}{low:016x}");
        let caller = caller.to_owned();
        self.0.insert(text.clone(), Token { caller, ends_at });
        text
    }

    /// All of them, dead ones too.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn standing(&self, text: &str, now: i64) -> Standing {
        match self.0.get(text) {
            None => Standing::Unknown,
            Some(token) if token.ends_at <= now => Standing::Ended,
            Some(token) => Standing::Good(token.caller.clone()),
        }
    }

    pub(super) fn end(&mut self, text: &str) {
        if let Some(token) = self.0.get_mut(text) {
            token.ends_at = i64::MIN;
        }
    }

    /// Ends every token of an app, or of all; how many were alive.
    pub(super) fn end_all(&mut self, app: Option<&str>, now: i64) -> usize {
        let mut ended = 0;
        for token in self.0.values_mut().filter(|token| token.ends_at > now) {
            if app.is_none() || token.caller.split('/').next() == app {
                token.ends_at = i64::MIN;
                ended += 1;
            }
        }
        ended
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AppCredentials {
    app_key: String,
    app_secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SuiteCredentials {
    suite_key: String,
    suite_secret: String,
    auth_corp_id: String,
    suite_ticket: String,
}

pub(super) fn token(
    shared: &Shared,
    inner: &mut Inner,
    asks: Asks,
    request: &Request,
    call: &mut Call,
) -> Result<Reply, Refusal> {
    let read = match asks {
        Asks::Token => body(request).map(
            |AppCredentials {
                 app_key,
                 app_secret,
             }| (app_key, app_secret, None),
        ),
        _ => body(request).map(|suite: SuiteCredentials| {
            let corp = (suite.auth_corp_id, suite.suite_ticket);
            (suite.suite_key, suite.suite_secret, Some(corp))
        }),
    };
    // What is wrong with it might be said with a secret in it.
    let (key, secret, corp) = read.map_err(|_| {
        inner.log.violation(call, "the body is not as documented");
        "invalidParameter.param.invalid"
    })?;
    let mischief = next_token_mischief(inner, &key);
    if let Some(what) = &mischief
        && let Some(answer) = instead(shared, inner, call, what)
    {
        return answer;
    }
    let wrong = match asks {
        Asks::Token => "invalidClientIdOrSecret",
        _ => "invalidSuiteKey",
    };
    let app = inner.apps.iter().find(|app| app.key == key);
    let app = app.filter(|app| app.secret == secret).ok_or(wrong)?;
    call.caller = match (&app.suite, corp) {
        (None, None) => key,
        (Some(suite), Some((_, ticket))) if suite.ticket != ticket => {
            return Err("invalidSuiteTicket".into());
        }
        (Some(suite), Some((corp, _))) if suite.corps.contains(&corp) => format!("{key}/{corp}"),
        (Some(_), Some(_)) => return Err("invalidAuthInfo".into()),
        _ => return Err(wrong.into()),
    };
    let (seed, life) = (shared.config.seed, shared.config.token_life);
    let renew = asks == Asks::Token;
    let text = inner.tokens.give(&call.caller, seed, call.at, life, renew);
    let life = life.as_secs();
    let reply = Reply::json(
        200,
        format!(r#"{{"accessToken":"{text}","expireIn":{life}}}"#),
    );
    Ok(mischief.iter().fold(reply, Reply::spoilt))
}

fn next_token_mischief(inner: &mut Inner, app: &str) -> Option<Mischief> {
    let plan = inner.faults.as_ref().filter(|plan| plan.tokens_too)?;
    let turn = inner.token_turns.entry(app.to_owned()).or_default();
    let what = plan.fault(&format!("token of {app}"), *turn).cloned();
    *turn = turn.saturating_add(1);
    what.filter(Mischief::fits_a_token_call)
}
