//! What a message will do: its crowd, its timeline, and what goes wrong when it is asked for.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::faults::Mischief;
use super::random::{hash, normal};
use crate::receipt::{Chat, UnixMs};

/// Largest crowd that is made up: a key must not cost the sandbox its memory.
const LARGEST_CROWD: u32 = 100_000;
/// Who reads reads by then: a hundred years.
const LATEST: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Median number of recipients in a group whose rule says none.
const USUAL_GROUP: f64 = 40.0;

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

/// How `readStatus` tells when somebody read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadUnit {
    /// In Unix seconds, as live answers have it.
    Seconds,
    /// In Unix milliseconds.
    Milliseconds,
    /// As 0.
    Zero,
    /// Not at all, as the vendor's page says.
    Absent,
}

/// Hours of the day (UTC, 0 to 24) between which nobody of a made-up crowd reads: who would have, does within ten minutes
/// after. A day too runs `time_scale` times as fast as the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Night {
    /// Its first hour.
    pub from: u8,
    /// The hour at which it ends.
    pub to: u8,
}

/// Who slept has read so long after the end of the night.
const WAKING: Duration = Duration::from_secs(600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

impl Night {
    /// When somebody reads who would have read at an age; `sent` is the time of day at the sending. A `share` of the time of
    /// waking passes first.
    fn after(self, sent: Duration, age: Duration, share: f64) -> Duration {
        let [from, to] = [self.from, self.to].map(|hour| 3_600.0 * f64::from(hour));
        let day = DAY.as_secs_f64();
        let since_dusk = ((sent + age).as_secs_f64() - from).rem_euclid(day);
        let length = (to - from).rem_euclid(day);
        if since_dusk >= length {
            return age;
        }
        age + Duration::from_secs_f64(length - since_dusk) + WAKING.mul_f64(share)
    }
}

impl FromStr for Night {
    type Err = String;

    /// Reads `14-24`.
    fn from_str(text: &str) -> Result<Self, String> {
        let hours = text.split_once('-').and_then(|(from, to)| {
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            let is_some_hours = from < 24 && to <= 24 && from % 24 != to % 24;
            is_some_hours.then_some(Self { from, to })
        });
        hours.ok_or_else(|| "two hours of the day, like 14-24".to_owned())
    }
}

/// What is laid down for a message. Spans are message time: they run `time_scale` times as fast as the clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// Who got it; `None`: a crowd is made up from the seed and the key.
    pub recipients: Option<Vec<Recipient>>,
    /// Size of a made-up crowd; `None`: 1, or about 40 in a group.
    pub crowd_size: Option<u32>,
    /// Median time to read in a made-up crowd.
    pub median: Duration,
    /// Spread of the logarithm of the time to read in a made-up crowd: it is log-normal.
    pub sigma: f64,
    /// Share of a made-up crowd that never reads.
    pub never: f64,
    /// When nobody of a made-up crowd reads.
    pub night: Option<Night>,
    /// When it was sent; `None`: when the sandbox first hears of it.
    pub sent_at: Option<UnixMs>,
    /// Until then the answer is `processQueryKey.expireTime`.
    pub generated_after: Duration,
    /// Until then it is `PROCESSING`, and nobody has read it.
    pub delivered_after: Duration,
    /// From then on it is `RECALLED`, and nobody more reads it.
    pub recalled_after: Option<Duration>,
    /// From then on the answer is `processQueryKey.expireTime`.
    pub expires_after: Duration,
    /// Only this endpoint knows it; `None`: any.
    pub chat: Option<Chat>,
    /// How `readStatus` tells the times of reading.
    pub read_unit: ReadUnit,
    /// Every answer waits so long (clock time).
    pub latency: Duration,
    /// What goes wrong; the first that applies to a call does.
    pub planned: Vec<Planned>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            recipients: None,
            crowd_size: None,
            median: Duration::from_secs(300),
            sigma: 1.6,
            never: 0.1,
            night: None,
            sent_at: None,
            generated_after: Duration::ZERO,
            delivered_after: Duration::ZERO,
            recalled_after: None,
            expires_after: Duration::from_secs(24 * 3_600),
            chat: None,
            read_unit: ReadUnit::Seconds,
            latency: Duration::ZERO,
            planned: Vec::new(),
        }
    }
}

impl Script {
    /// Reads a rule, see the module's documentation for the grammar.
    pub fn parse(rule: &str) -> Result<Self, String> {
        Self::default().with(rule)
    }

    /// The script of a key: this one, with the rule that stands in the key between `sb:` and the first `;`.
    pub(super) fn of_key(&self, key: &str) -> Result<Self, String> {
        match key.strip_prefix("sb:") {
            None => Ok(self.clone()),
            Some(rest) => self.clone().with(rest.split(';').next().unwrap_or(rest)),
        }
    }

    /// The same but for what a rule says; what goes wrong by the rule comes first.
    pub(super) fn with(mut self, rule: &str) -> Result<Self, String> {
        let usual = std::mem::take(&mut self.planned);
        let items = rule.split(',').map(str::trim);
        for item in items.filter(|item| !item.is_empty()) {
            self.take(item)?;
        }
        self.planned.extend(usual);
        Ok(self)
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
        let (name, value) = item
            .split_once('=')
            .ok_or_else(|| format!("{item} is unknown"))?;
        let span = || {
            humantime::parse_duration(value)
                .map_err(|error| format!("{item}: {error}; write it like {name}=5s"))
        };
        match name {
            "readers" => {
                let size = Some(number(item, value)?).filter(|size| *size <= LARGEST_CROWD);
                self.crowd_size = Some(size.ok_or(format!("{item}: at most {LARGEST_CROWD}"))?);
            }
            "median" => self.median = span()?,
            "sigma" => self.sigma = number(item, value)?,
            "never" => self.never = number(item, value)?,
            "night" => {
                let night = value.parse().map_err(|error| format!("{item}: {error}"))?;
                self.night = Some(night);
            }
            "sent" => self.sent_at = Some(UnixMs(number(item, value)?)),
            "generate" => self.generated_after = span()?,
            "processing" => self.delivered_after = span()?,
            "recall" => self.recalled_after = Some(span()?),
            "expire" => self.expires_after = span()?,
            "latency" => self.latency = span()?,
            "read_unit" => {
                self.read_unit = match value {
                    "s" => ReadUnit::Seconds,
                    "ms" => ReadUnit::Milliseconds,
                    "zero" => ReadUnit::Zero,
                    "absent" => ReadUnit::Absent,
                    _ => return Err(format!("{item}: s, ms, zero or absent")),
                }
            }
            _ => return Err(format!("{name} is unknown")),
        }
        Ok(())
    }

    /// Who got the message and read it before it was recalled, in the order of reading, and those who never will. `sent` is the
    /// time of day at the sending.
    pub(super) fn crowd(&self, seed: u64, key: &str, chat: Chat, sent: Duration) -> Crowd {
        let mut all = match &self.recipients {
            Some(named) => named.clone(),
            None => self.made_up(seed, key, chat, sent),
        };
        for recipient in &mut all {
            // Nobody reads what is not delivered yet, or not any more.
            recipient.reads_after = recipient
                .reads_after
                .map(|after| after.max(self.delivered_after))
                .filter(|after| self.recalled_after.is_none_or(|recall| *after < recall));
        }
        let (mut readers, absent): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|recipient| recipient.reads_after.is_some());
        readers.sort_by_key(|reader| reader.reads_after);
        Crowd { readers, absent }
    }

    fn made_up(&self, seed: u64, key: &str, chat: Chat, sent: Duration) -> Vec<Recipient> {
        let mut luck = fastrand::Rng::with_seed(hash(seed, key, 0));
        let size = match (self.crowd_size, chat) {
            (Some(size), _) => u64::from(size),
            // Groups differ in size by about a factor of two either way; whole seconds round without a cast.
            (None, Chat::Group) => {
                let size = (USUAL_GROUP * (0.7 * normal(&mut luck)).exp()).max(1.0);
                Duration::from_secs_f64(size.min(f64::from(LARGEST_CROWD))).as_secs()
            }
            (None, _) => 1,
        };
        let first = luck.u64(..90_000_000);
        let median = self.median.as_secs_f64();
        let recipient = |n| {
            let reads = luck.f64() >= self.never;
            let after =
                Duration::try_from_secs_f64(median * (self.sigma * normal(&mut luck)).exp());
            // Later than anybody looks, and far from what an addition could overflow.
            let after = after.unwrap_or(LATEST).min(LATEST);
            let after = match self.night {
                Some(night) => night.after(sent, after, luck.f64()),
                None => after,
            };
            Recipient {
                user_id: format!("user{:08}", first + n).into(),
                reads_after: reads.then_some(after),
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
        let usual = Script::parse("readers=7,html*1")?;
        let rule = "sb:recall=5s,code=system.error/503@2*3,read_unit=ms;x,y=z";
        let script = usual.of_key(rule)?;
        assert_eq!(script.crowd_size, Some(7));
        assert_eq!(script.recalled_after, Some(Duration::from_secs(5)));
        assert_eq!(script.read_unit, ReadUnit::Milliseconds);
        let refuse = Mischief::Refuse {
            code: "system.error".to_owned(),
            status: Some(503),
        };
        let expected = Planned {
            mischief: refuse,
            page: Some(2),
            times: Some(3),
        };
        assert_eq!(script.planned[0], expected);
        assert_eq!(script.planned[1..], usual.planned);
        assert_eq!(usual.of_key("KnaX+/=="), Ok(usual));
        Ok(())
    }

    #[test]
    fn nobody_reads_at_night() -> Result<(), String> {
        const HOUR: u64 = 3_600;
        let hour = |hours| Duration::from_secs(hours * HOUR);
        for (night, from, length) in [("14-24", 14, 10), ("22-7", 22, 9), ("0-6", 0, 6)] {
            let script = Script::parse(&format!("readers=2000,never=0,median=4h,night={night}"))?;
            for sent in [0, 5, 13, 15, 23].map(hour) {
                let crowd = script.crowd(1, "key", Chat::Group, sent);
                let usual = Script {
                    night: None,
                    ..script.clone()
                };
                let usual = usual.crowd(1, "key", Chat::Group, sent);
                assert_eq!(crowd.readers.len(), usual.readers.len());
                let mut late = 0;
                for reader in crowd.readers.iter().filter_map(|reader| reader.reads_after) {
                    let of_day = (sent + reader).as_secs() % (24 * HOUR);
                    let since_dusk = (of_day + 24 * HOUR - from * HOUR) % (24 * HOUR);
                    assert!(since_dusk >= length * HOUR, "{night}, {sent:?}: {reader:?}");
                    late += u32::from(since_dusk < length * HOUR + WAKING.as_secs());
                }
                assert!(late > 200, "{night}, {sent:?}: {late} in the morning");
            }
        }
        Ok(())
    }

    #[test]
    fn a_wrong_rule_is_refused_in_words() {
        for wrong in [
            "readers=many",
            "readers=100001",
            "recall=5",
            "code=x/999",
            "code=x*y",
            "readers=3*2",
            "read_unit=h",
            "night=9",
            "night=8-8",
            "night=20-25",
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
    fn a_crowd_follows_from_seed_and_key_and_reads_around_its_median() -> Result<(), String> {
        let script = Script::parse("readers=4000,median=60s,never=0.25")?;
        let crowd = |seed, key| script.crowd(seed, key, Chat::Group, Duration::ZERO);
        assert_eq!(crowd(1, "a").readers, crowd(1, "a").readers);
        assert_ne!(crowd(1, "a").readers, crowd(2, "a").readers);
        assert_ne!(crowd(1, "a").readers, crowd(1, "b").readers);
        let one = crowd(3, "k");
        let (all, early) = (
            one.readers.len(),
            one.read_at(Duration::from_secs(60)).len(),
        );
        assert!((2_900..3_100).contains(&all), "{all}");
        assert!((1_400..1_600).contains(&early), "{early}");
        Ok(())
    }
}
