//! What the endpoint may do wrong, how a rule names it, and when it happens at random: that follows from a seed, the key and
//! the call's number alone.

use std::time::Duration;

use super::codes::{self, is_throttle};
use super::random::{fraction, hash};
use crate::receipt::whole_ms;

/// An answer that stands in place of the endpoint's, and says nothing that is its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Canned {
    name: &'static str,
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: &'static str,
}

const fn canned(
    name: &'static str,
    status: u16,
    content_type: &'static str,
    body: &'static str,
) -> Canned {
    Canned {
        name,
        status,
        content_type,
        body,
    }
}

const JSON: &str = "application/json";
const HTML: &str = "text/html";
const NGINX: &str =
    "<html><head><title>Service Unavailable</title></head><body><h1>nginx</h1></body></html>";
/// As the vendor answers a path that it does not know.
pub(super) const NO_SUCH_PATH: &str = r#"{"errcode":404,"errmsg":"请求的URI地址不存在"}"#;

#[rustfmt::skip]
const CANNED: &[Canned] = &[
    canned("html", 503, HTML, NGINX),
    canned("html-ok", 200, HTML, NGINX),
    canned("empty-object", 200, JSON, "{}"),
    canned("empty-body", 200, JSON, ""),
    canned("errcode404", 200, JSON, NO_SUCH_PATH),
    canned("banned", 200, JSON, r#"{"status":1111,"wait":5,"source":"x5","punish":"deny","uuid":"0"}"#),
    canned("bare401", 401, JSON, ""),
    canned("fields=null", 200, JSON, r#"{"sendStatus":null,"readUserIds":null,"nextToken":null,"hasMore":null}"#),
    canned("fields=no-status", 200, JSON, r#"{"readUserIds":[],"hasMore":false}"#),
];

/// One way to answer badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// An error body. The status is the code's own unless given.
    Refuse {
        /// `code` in the body.
        code: String,
        /// Another HTTP status than the code's own.
        status: Option<u16>,
    },
    /// What a proxy or a gateway might say.
    Canned(&'static Canned),
    /// The connection ends before an answer.
    DropBefore,
    /// The connection ends after the headers.
    DropAfterHead,
    /// The connection ends in mid-body.
    DropMidBody,
    /// Nothing for so long, then the connection ends.
    Hang(Duration),
    /// The right body, spread over so long.
    Slow(Duration),
    /// Half of the body in a well-framed answer.
    Truncate,
    /// The right answer with a field of 2 MiB.
    Huge,
    /// A body without an end (the sandbox gives up after 64 MiB).
    Endless,
    /// HTTP 302 to another port, where every call is a violation.
    Redirect,
    /// The token dies before this call.
    DeadToken,
    /// `nextToken` is the one that was sent (or any, on page one), for ever.
    RepeatToken,
    /// `hasMore` without a `nextToken`.
    MoreWithoutToken,
}

/// The names that need no value, beside the canned answers'.
#[rustfmt::skip]
const PLAIN: &[(&str, Mischief)] = &[
    ("drop=before", Mischief::DropBefore),
    ("drop=after-head", Mischief::DropAfterHead),
    ("drop=mid-body", Mischief::DropMidBody),
    ("truncate", Mischief::Truncate),
    ("huge", Mischief::Huge),
    ("endless", Mischief::Endless),
    ("redirect", Mischief::Redirect),
    ("dead-token", Mischief::DeadToken),
    ("page=repeat", Mischief::RepeatToken),
    ("page=no-token", Mischief::MoreWithoutToken),
];
/// Short names of codes.
const ALIASES: &[(&str, &str)] = &[
    ("throttle", codes::THROTTLED),
    ("page=bad-cursor", "invalidParameter.cursor.invalid"),
];

impl Mischief {
    /// Reads a name of the grammar (see the module's documentation); `None` where it is none of a mischief.
    pub fn parse(text: &str) -> Option<Result<Self, String>> {
        if let Some((_, mischief)) = PLAIN.iter().find(|(name, _)| *name == text) {
            return Some(Ok(mischief.clone()));
        }
        if let Some(canned) = CANNED.iter().find(|canned| canned.name == text) {
            return Some(Ok(Self::Canned(canned)));
        }
        let alias = ALIASES.iter().find(|(name, _)| *name == text);
        let (name, value) =
            alias.map_or_else(|| text.split_once('='), |(_, code)| Some(("code", *code)))?;
        let span = |make: fn(Duration) -> Self| {
            humantime::parse_duration(value)
                .map(make)
                .map_err(|error| format!("{name}={value}: {error}; write it like {name}=2s"))
        };
        Some(match name {
            "code" => {
                let (code, status) = value
                    .split_once('/')
                    .map_or((value, None), |(code, status)| (code, Some(status)));
                status
                    .map(http_status)
                    .transpose()
                    .map(|status| Self::Refuse {
                        code: code.to_owned(),
                        status,
                    })
            }
            "hang" => span(Self::Hang),
            "slow" => span(Self::Slow),
            "drop" | "page" | "fields" => Err(format!(
                "{name}={value} is unknown; known are {}",
                Self::names()
                    .filter(|known| known.starts_with(name))
                    .collect::<Vec<_>>()
                    .join(", ")
            )),
            _ => return None,
        })
    }

    /// Every name of the grammar, with an example's value where it needs one.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ["code=CODE", "code=CODE/STATUS", "hang=2s", "slow=2s"]
            .into_iter()
            .chain(ALIASES.iter().map(|(name, _)| *name))
            .chain(CANNED.iter().map(|canned| canned.name))
            .chain(PLAIN.iter().map(|(name, _)| *name))
    }

    /// The name of the grammar, for the log; of a refusal the code.
    pub fn name(&self) -> String {
        match self {
            Self::Refuse { code, .. } => code.clone(),
            Self::Canned(canned) => canned.name.to_owned(),
            Self::Hang(_) => "hang".to_owned(),
            Self::Slow(_) => "slow".to_owned(),
            plain => {
                let named = PLAIN.iter().find(|(_, known)| known == plain);
                named.map_or_else(String::new, |(name, _)| (*name).to_owned())
            }
        }
    }

    /// Whether a query that is answered so counts against the month: it arrived at the endpoint, as far as its caller can
    /// tell. What a proxy, a gateway or nobody in particular seems to have said does not.
    pub(super) fn is_metered(&self) -> bool {
        match self {
            Self::Refuse { code, .. } => !is_throttle(code),
            Self::Canned(_) | Self::Redirect | Self::Truncate => false,
            _ => true,
        }
    }

    /// Whether a token call can be answered so.
    pub(super) fn fits_a_token_call(&self) -> bool {
        !matches!(
            self,
            Self::RepeatToken | Self::MoreWithoutToken | Self::DeadToken
        )
    }
}

/// An HTTP status that hyper can send.
fn http_status(text: &str) -> Result<u16, String> {
    let status = text.parse().ok();
    status
        .filter(|status| (200..=599).contains(status))
        .ok_or_else(|| format!("status {text} is no HTTP status between 200 and 599"))
}

/// Random faults for every key.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// The same seed gives the same faults.
    pub seed: u64,
    /// How often each happens, as a share of the calls; together at most 1.
    pub rates: Vec<(Mischief, f64)>,
    /// At most so many of a key's calls fail in a row, so that everything ends.
    pub in_a_row: u32,
    /// Whether token calls suffer too.
    pub tokens_too: bool,
    /// Times in which nothing works.
    pub outages: Option<Outages>,
}

/// One outage of a fixed length in each stretch of a fixed length, at a place that the seed decides.
#[derive(Clone, Copy, Debug)]
pub struct Outages {
    /// One outage in each stretch of this length.
    pub every: Duration,
    /// How long one takes.
    pub length: Duration,
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self {
            seed: 1,
            rates: Vec::new(),
            in_a_row: 3,
            tokens_too: true,
            outages: None,
        }
    }
}

impl FaultPlan {
    /// Every usual kind, together at `rate` of the calls.
    pub fn usual(seed: u64, rate: f64) -> Self {
        const USUAL: [&str; 14] = [
            "code=system.error",
            "html",
            "throttle",
            "drop=before",
            "drop=after-head",
            "drop=mid-body",
            "hang=3s",
            "slow=500ms",
            "truncate",
            "huge",
            "page=repeat",
            "page=no-token",
            "dead-token",
            "redirect",
        ];
        let kinds = USUAL
            .into_iter()
            .filter_map(|name| Mischief::parse(name)?.ok());
        Self {
            seed,
            rates: kinds.map(|kind| (kind, rate / 14.0)).collect(),
            ..Self::default()
        }
    }

    /// Reads `KIND=RATE`, the kind as in a key's rule: `html=0.01`, `drop=mid-body=0.02`, `hang=3s=0.01`.
    pub fn parse_rate(text: &str) -> Result<(Mischief, f64), String> {
        let (kind, rate) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("{text}: write KIND=RATE, for example html=0.01"))?;
        let mischief = Mischief::parse(kind).unwrap_or_else(|| {
            let known = Mischief::names().collect::<Vec<_>>().join(", ");
            Err(format!("{kind} is no kind of fault; known are {known}"))
        })?;
        match rate.parse() {
            Ok(rate) if (0.0..=1.0).contains(&rate) => Ok((mischief, rate)),
            _ => Err(format!(
                "{rate} is no rate; write one from 0 to 1, like 0.01"
            )),
        }
    }

    /// What call number `n` (from 0) of a key meets.
    pub fn fault(&self, key: &str, n: u32) -> Option<&Mischief> {
        // Every (in_a_row + 1)th call is clean, counted from a place of the key's own: O(1) and a hard limit.
        let turn = u64::from(self.in_a_row) + 1;
        if (hash(self.seed, key, u64::MAX) % turn + u64::from(n)).is_multiple_of(turn) {
            return None;
        }
        let mut left = fraction(hash(self.seed, key, u64::from(n)));
        for (mischief, rate) in &self.rates {
            if left < *rate {
                return Some(mischief);
            }
            left -= rate;
        }
        None
    }

    /// What every call meets at a time since the start, if an outage is on.
    pub fn outage(&self, since_start: Duration) -> Option<Mischief> {
        let Outages { every, length } = self.outages?;
        let every_ms = whole_ms(every).max(1);
        let length_ms = whole_ms(length).min(every_ms);
        let at = whole_ms(since_start);
        let luck = hash(self.seed, "outage", at / every_ms);
        let begin = (luck >> 8) % (every_ms - length_ms + 1);
        let inside = (begin..begin + length_ms).contains(&(at % every_ms));
        let kinds = ["drop=before", "html", "code=ServiceUnavailable"];
        let kind = kinds[usize::from(luck.to_le_bytes()[0]) % kinds.len()];
        Mischief::parse(kind).filter(|_| inside)?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_hold_and_runs_are_bounded() {
        let always = FaultPlan {
            rates: vec![(Mischief::DropBefore, 1.0)],
            in_a_row: 3,
            ..FaultPlan::default()
        };
        let mut run = 0;
        for n in 0..1_000 {
            run = match always.fault("k", n) {
                Some(_) => run + 1,
                None => 0,
            };
            assert!(run <= 3);
        }
        let plan = FaultPlan {
            in_a_row: 9,
            ..FaultPlan::usual(5, 0.2)
        };
        let hit = (0..20_000).filter(|n| plan.fault("k", *n).is_some());
        // 0.2 of the nine calls in ten that may fail.
        assert!((3_300..3_900).contains(&hit.count()));
    }

    #[test]
    fn one_outage_in_each_stretch() {
        let plan = FaultPlan {
            outages: Some(Outages {
                every: Duration::from_secs(20),
                length: Duration::from_secs(2),
            }),
            ..FaultPlan::default()
        };
        for stretch in 0..50_u64 {
            let at = |ms| plan.outage(Duration::from_millis(stretch * 20_000 + ms));
            let down = (0..20_000_u64).step_by(10).filter(|ms| at(*ms).is_some());
            assert_eq!(down.count(), 200);
        }
    }

    #[test]
    fn rates_are_read_or_refused_in_words() {
        let rate = FaultPlan::parse_rate("drop=mid-body=0.5");
        assert_eq!(rate, Ok((Mischief::DropMidBody, 0.5)));
        let rate = FaultPlan::parse_rate("hang=3s=0.01");
        assert_eq!(rate, Ok((Mischief::Hang(Duration::from_secs(3)), 0.01)));
        for wrong in [
            "html",
            "html=2",
            "nonsense=0.1",
            "drop=sideways=0.1",
            "hang=3=0.1",
        ] {
            assert!(FaultPlan::parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
