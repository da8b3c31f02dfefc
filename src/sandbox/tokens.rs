//! Access tokens: given out, kept alive, ended.

use std::collections::HashMap;

use super::config::App;
use super::random::hash;

/// Whose calls are counted together: `appKey`, or `suiteKey/corpId`.
pub(super) type LaneName = std::sync::Arc<str>;

/// What is known of a token that came with a call.
pub(super) enum Standing {
    /// Good, and whose it is.
    Good(LaneName),
    /// Given out once, but no longer good.
    Ended,
    /// Never given out here.
    Unknown,
}

struct Token {
    lane: LaneName,
    /// Sandbox time, milliseconds.
    ends_at: i64,
}

/// Every token ever given out; they are few.
#[derive(Default)]
pub(super) struct Tokens {
    all: HashMap<String, Token>,
    newest: HashMap<LaneName, String>,
    given: u64,
}

impl Tokens {
    /// A lane's token. With `renew` the living one is handed out again, its life extended; else it is a new one, and
    /// `replaces` ends the one before.
    pub(super) fn give(
        &mut self,
        lane: &LaneName,
        seed: u64,
        (now, life_ms): (i64, i64),
        renew: bool,
        replaces: bool,
    ) -> String {
        let ends_at = now.saturating_add(life_ms);
        if let Some(text) = self.newest.get(lane)
            && let Some(token) = self.all.get_mut(text)
        {
            if renew && token.ends_at > now {
                token.ends_at = ends_at;
                return text.clone();
            }
            if replaces {
                token.ends_at = now;
            }
        }
        self.given += 1;
        let (high, low) = (hash(seed, lane, self.given), hash(!seed, lane, self.given));
        let text = format!("{high:016x}{low:016x}");
        self.all.insert(
            text.clone(),
            Token {
                lane: lane.clone(),
                ends_at,
            },
        );
        self.newest.insert(lane.clone(), text.clone());
        text
    }

    /// All of them, dead ones too.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.all.keys().map(String::as_str)
    }

    pub(super) fn standing(&self, text: &str, now: i64) -> Standing {
        match self.all.get(text) {
            None => Standing::Unknown,
            Some(token) if token.ends_at <= now => Standing::Ended,
            Some(token) => Standing::Good(token.lane.clone()),
        }
    }

    pub(super) fn end(&mut self, text: &str) {
        if let Some(token) = self.all.get_mut(text) {
            token.ends_at = i64::MIN;
        }
    }

    /// Ends every token of an app, or of all; how many were alive.
    pub(super) fn end_all(&mut self, app: Option<&str>, now: i64) -> usize {
        let mut ended = 0;
        for token in self.all.values_mut() {
            let owner = token.lane.split('/').next();
            if token.ends_at > now && (app.is_none() || owner == app) {
                token.ends_at = i64::MIN;
                ended += 1;
            }
        }
        ended
    }
}

/// The app that a lane belongs to.
pub(super) fn app_of<'a>(apps: &'a [App], lane: &str) -> Option<&'a App> {
    let key = lane.split('/').next().unwrap_or(lane);
    apps.iter().find(|app| app.key == key)
}
