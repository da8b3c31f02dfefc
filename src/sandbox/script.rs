//! What a message will do: its crowd, its timeline, and what goes wrong when it is asked for.

use std::sync::Arc;
use std::time::Duration;

use super::config::CrowdRules;
use super::mischief::{Mischief, parse_status};
use super::random::{Stream, hash};
use crate::receipt::{Chat, UnixMs};

/// Largest crowd that is made up: a key must not cost the sandbox its memory.
const LARGEST_CROWD: u32 = 100_000;

/// Someone who got the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// `userId`
    pub user_id: Arc<str>,
    /// How long after the sending they read it; `None`: never.
    pub reads_after: Option<Duration>,
}

/// A mischief, and when it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What happens.
    pub mischief: Mischief,
    /// Only on this page (from 1); `None`: on any.
    pub page: Option<u32>,
    /// Only so many times; `None`: always.
    pub times: Option<u32>,
}

/// What is laid down for a message. Spans are message time: they run `time_scale` times as fast as the clock.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Script {
    /// Who got it; `None`: a crowd is made up from the seed and the key.
    pub recipients: Option<Vec<Recipient>>,
    /// Size of a made-up crowd.
    pub crowd_size: Option<u32>,
    /// Median time to read in a made-up crowd.
    pub median: Option<Duration>,
    /// Spread of the logarithm of the time to read in a made-up crowd.
    pub sigma: Option<f64>,
    /// Share of a made-up crowd that never reads.
    pub never: Option<f64>,
    /// When it was sent; `None`: when the sandbox first hears of it.
    pub sent_at: Option<UnixMs>,
    /// Until then the answer is `processQueryKey.expireTime`.
    pub generated_after: Option<Duration>,
    /// Until then it is `PROCESSING`, and nobody has read it.
    pub delivered_after: Option<Duration>,
    /// From then on it is `RECALLED`, and nobody more reads it.
    pub recalled_after: Option<Duration>,
    /// From then on the answer is `processQueryKey.expireTime`; `None`: the configured lifetime.
    pub expires_after: Option<Duration>,
    /// Another word than `SUCCESS`.
    pub says: Option<String>,
    /// Only this endpoint knows it; `None`: either.
    pub chat: Option<Chat>,
    /// `robotCode` must be given, and be this.
    pub robot_code: Option<String>,
    /// `openConversationId` must be given, and be this.
    pub conversation: Option<String>,
    /// Only this app (`appKey`, or `suiteKey/corpId`) may ask.
    pub owner: Option<String>,
    /// Every answer waits so long (clock time).
    pub latency: Option<Duration>,
    /// What goes wrong; the first that applies to a call does.
    pub planned: Vec<Planned>,
}

impl Script {
    /// The rule within a key: what stands between `sb:` and the first `;`.
    pub fn of_key(key: &str) -> Result<Self, String> {
        match key.strip_prefix("sb:") {
            None => Ok(Self::default()),
            Some(rest) => Self::parse(rest.split(';').next().unwrap_or(rest)),
        }
    }

    /// Reads a rule, see the module's documentation for the grammar.
    pub fn parse(rule: &str) -> Result<Self, String> {
        let mut script = Self::default();
        for item in rule
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
        {
            script.take(item)?;
        }
        Ok(script)
    }

    fn take(&mut self, item: &str) -> Result<(), String> {
        let (bare, times) = counted(item, '*')?;
        let (bare, page) = counted(bare, '@')?;
        if let Some(mischief) = Mischief::parse(bare) {
            self.planned.push(Planned {
                mischief: mischief?,
                page,
                times,
            });
            return Ok(());
        }
        if times.is_some() || page.is_some() {
            return Err(format!(
                "{item}: only something that goes wrong takes *N or @PAGE"
            ));
        }
        let Some((name, value)) = item.split_once('=') else {
            return Err(format!("{item} is unknown"));
        };
        let span = || {
            humantime::parse_duration(value)
                .map(Some)
                .map_err(|error| format!("{item}: {error}; write it like {name}=5s"))
        };
        let text = || Some(value.to_owned());
        match name {
            "readers" => {
                let size = number(item, value)?;
                if size > LARGEST_CROWD {
                    return Err(format!("{item}: at most {LARGEST_CROWD}"));
                }
                self.crowd_size = Some(size);
            }
            "median" => self.median = span()?,
            "sigma" => self.sigma = Some(number(item, value)?),
            "never" => self.never = Some(number(item, value)?),
            "sent" => self.sent_at = Some(UnixMs(number(item, value)?)),
            "generate" => self.generated_after = span()?,
            "processing" => self.delivered_after = span()?,
            "recall" => self.recalled_after = span()?,
            "expire" => self.expires_after = span()?,
            "latency" => self.latency = span()?,
            "say" => self.says = text(),
            "robot" => self.robot_code = text(),
            "conversation" => self.conversation = text(),
            "owner" => self.owner = text(),
            "chat" => {
                let chat = Chat::parse(value).ok_or(format!("{item}: private or group"))?;
                self.chat = Some(chat);
            }
            "status" => match self.planned.last_mut().map(|planned| &mut planned.mischief) {
                Some(Mischief::Refuse { status, .. }) => *status = Some(parse_status(value)?),
                _ => return Err(format!("{item} must follow a code=")),
            },
            _ => return Err(format!("{name} is unknown")),
        }
        Ok(())
    }

    /// Who got the message and read it before it was recalled, in the order of reading, and those who never will.
    pub(super) fn crowd(&self, seed: u64, key: &str, chat: Chat, rules: &CrowdRules) -> Crowd {
        let mut all = match &self.recipients {
            Some(named) => named.clone(),
            None => self.made_up(seed, key, chat, rules),
        };
        for recipient in &mut all {
            // Nobody reads what is not delivered yet, or not any more.
            recipient.reads_after = recipient
                .reads_after
                .map(|after| after.max(self.delivered_after.unwrap_or_default()))
                .filter(|after| self.recalled_after.is_none_or(|recall| *after < recall));
        }
        let (mut readers, absent): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|recipient| recipient.reads_after.is_some());
        readers.sort_by_key(|reader| reader.reads_after);
        Crowd { readers, absent }
    }

    fn made_up(&self, seed: u64, key: &str, chat: Chat, rules: &CrowdRules) -> Vec<Recipient> {
        let mut luck = Stream::new(hash(seed, key, 0));
        let usual = match chat {
            Chat::Private => f64::from(rules.private),
            // Groups differ in size by about a factor of two either way.
            Chat::Group => f64::from(rules.group) * (0.7 * luck.normal()).exp(),
        };
        let first = luck.next() % 90_000_000;
        let size = match self.crowd_size {
            Some(size) => u64::from(size),
            // Whole seconds of a span are the plainest rounding without a cast.
            None => Duration::try_from_secs_f64(usual.round().clamp(1.0, f64::from(LARGEST_CROWD)))
                .map_or(1, |rounded| rounded.as_secs()),
        };
        let median = self.median.unwrap_or(rules.median).as_secs_f64();
        let (sigma, never) = (
            self.sigma.unwrap_or(rules.sigma),
            self.never.unwrap_or(rules.never),
        );
        let recipient = |n| {
            let reads = luck.fraction() >= never;
            let after = Duration::try_from_secs_f64(median * (sigma * luck.normal()).exp());
            Recipient {
                user_id: format!("user{:08}", first + n).into(),
                reads_after: reads.then(|| after.unwrap_or(Duration::MAX)),
            }
        };
        (0..size).map(recipient).collect()
    }
}

/// A message's recipients.
#[derive(Debug)]
pub(super) struct Crowd {
    /// In the order of reading; each has `reads_after`.
    pub(super) readers: Vec<Recipient>,
    /// Those who never read it.
    pub(super) absent: Vec<Recipient>,
}

impl Crowd {
    /// Who has read it at an age.
    pub(super) fn read_at(&self, age: Duration) -> &[Recipient] {
        let count = self
            .readers
            .partition_point(|reader| reader.reads_after.is_some_and(|after| after <= age));
        &self.readers[..count]
    }
}

/// Splits `name*3` or `name@2`.
fn counted(item: &str, mark: char) -> Result<(&str, Option<u32>), String> {
    match item.rsplit_once(mark) {
        None => Ok((item, None)),
        Some((bare, count)) => Ok((bare, Some(number(item, count)?))),
    }
}

fn number<T: std::str::FromStr>(item: &str, value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{item}: {value} is no number that fits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read() -> Result<(), String> {
        let script = Script::of_key(
            "sb:readers=350,recall=5s,code=system.error@2*3,status=503,drop=after-head;x,y=z",
        )?;
        assert_eq!(script.crowd_size, Some(350));
        assert_eq!(script.recalled_after, Some(Duration::from_secs(5)));
        let refuse = Mischief::Refuse {
            code: "system.error".to_owned(),
            status: Some(503),
        };
        let expected = [
            Planned {
                mischief: refuse,
                page: Some(2),
                times: Some(3),
            },
            Planned {
                mischief: Mischief::DropAfterHead,
                page: None,
                times: None,
            },
        ];
        assert_eq!(script.planned, expected);
        assert_eq!(Script::of_key("KnaX+/=="), Ok(Script::default()));
        Ok(())
    }

    #[test]
    fn a_wrong_rule_is_refused_in_words() {
        for wrong in [
            "readers=many",
            "readers=100001",
            "recall=5",
            "status=503",
            "code=x*y",
            "readers=3*2",
            "what",
            "a=b",
        ] {
            assert!(Script::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_name_of_a_mischief_is_read() {
        for name in Mischief::names() {
            assert!(
                Script::parse(&name.replace("/STATUS", "/503")).is_ok(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_crowd_follows_from_seed_and_key() {
        let rules = CrowdRules::default();
        let crowd = |seed, key| {
            Script::default()
                .crowd(seed, key, Chat::Group, &rules)
                .readers
        };
        assert_eq!(crowd(1, "a"), crowd(1, "a"));
        assert_ne!(crowd(1, "a"), crowd(2, "a"));
        assert_ne!(crowd(1, "a"), crowd(1, "b"));
    }

    #[test]
    fn a_crowd_reads_around_its_median_and_some_never() -> Result<(), String> {
        let script = Script::parse("readers=4000,median=60s,never=0.25")?;
        let crowd = script.crowd(3, "k", Chat::Group, &CrowdRules::default());
        assert!(
            (2_900..3_100).contains(&crowd.readers.len()),
            "{}",
            crowd.readers.len()
        );
        let early = crowd.read_at(Duration::from_secs(60)).len();
        assert!((1_400..1_600).contains(&early), "{early}");
        Ok(())
    }
}
