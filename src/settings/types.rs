//! What a value may look like: functions for serde's `deserialize_with`. Their errors read `problem; remedy`, and show
//! no value that could be a secret.

use std::fmt::Display;
use std::time::Duration;

use reqwest::Url;
use serde::de::{Error, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serializer};
use toml::Value;

/// Nobody waits longer: more is a slip, and sums of two such spans stay far from any overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);
const SPANS: &str = r#"write a number and a unit, as "250ms", "10m" or "24h""#;

pub(super) fn wrong<E: Error>(problem: impl Display, remedy: impl Display) -> E {
    E::custom(format_args!("{problem}; {remedy}"))
}

/// Text without the blanks and the byte-order mark that copying leaves around it.
pub(super) fn text<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    match Value::deserialize(from)? {
        Value::String(text) => match trimmed(&text) {
            "" => Err(wrong("is empty", "fill it in or remove it")),
            text => Ok(T::from(text.to_owned())),
        },
        // Not shown: a secret may have been given as a number.
        _ => Err(wrong("is no text", "put it in quotes")),
    }
}

/// `text` without blanks, line ends and byte-order marks around it.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}')
}

/// As [`text`], where it may be absent.
pub(super) fn some_text<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: From<String>,
{
    text(from).map(Some)
}

/// One of the words that `T` is written as.
pub(super) fn word<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: for<'t> Deserialize<'t>,
{
    let value = Value::deserialize(from)?;
    let read = |text: &str| T::deserialize(IntoDeserializer::<D::Error>::into_deserializer(text));
    // Read again as it is shown, for an error that shows it so.
    let text = value.as_str().unwrap_or_default();
    read(text).or_else(|_| read(&shown(&value)))
}

/// A whole number from `least` to `most`, in text too: in the environment all is text.
fn whole<'de, D, T>(from: D, least: i64, most: i64) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    let value = Value::deserialize(from)?;
    let number = match &value {
        Value::Integer(number) => Some(*number),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let fits = number.filter(|number| (least..=most).contains(number));
    fits.and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| {
            let remedy = format_args!("write a whole number from {least} to {most}");
            wrong(format_args!("cannot be {}", shown(&value)), remedy)
        })
}

/// The vendor answers `invalidParameter.pageSize.invalid` above 200.
pub(super) fn page_size<'de, D: Deserializer<'de>>(from: D) -> Result<u16, D::Error> {
    whole(from, 1, 200)
}

/// A call under way holds a TCP port, and an address has no more.
pub(super) fn concurrency<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    whole(from, 1, 65_535)
}

pub(super) fn calls_per_second<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    whole(from, 1, 1_000_000)
}

/// A month at the address's ceiling of 500 calls a second has 1.3 thousand million.
pub(super) fn monthly_calls<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    whole(from, 0, 4_000_000_000)
}

pub(super) fn some_monthly_calls<'de, D>(from: D) -> Result<Option<u64>, D::Error>
where
    D: Deserializer<'de>,
{
    monthly_calls(from).map(Some)
}

/// A number that `fits`; `rule` says in words which do.
fn number<'de, D>(from: D, rule: &str, fits: impl Fn(f64) -> bool) -> Result<f64, D::Error>
where
    D: Deserializer<'de>,
{
    let value = Value::deserialize(from)?;
    let number = match &value {
        Value::Float(number) => Some(*number),
        // Every whole number that makes sense here is far below 2^32.
        Value::Integer(number) => i32::try_from(*number).ok().map(f64::from),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    number
        .filter(|number| number.is_finite() && fits(*number))
        .ok_or_else(|| {
            let remedy = format_args!("write {rule}");
            wrong(format_args!("cannot be {}", shown(&value)), remedy)
        })
}

pub(super) fn at_least_one<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    number(from, "a number of 1 or more", |number| number >= 1.0)
}

pub(super) fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    number(from, "a number from 0 to 1", |number| {
        (0.0..=1.0).contains(&number)
    })
}

pub(super) fn above_zero<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    number(from, "a number above 0", |number| number > 0.0)
}

/// A span of time; zero is fine. For serde's `with`, as its neighbours.
pub(super) mod span {
    use super::*;

    pub(in super::super) fn serialize<S>(span: &Duration, to: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        const DAY: u64 = 86_400;
        match span.as_secs() / DAY {
            // Of 90 days humantime would make "2months 29days 2h 52m 48s".
            days @ 31.. if *span == Duration::from_secs(days * DAY) => {
                to.collect_str(&format_args!("{days}days"))
            }
            _ => to.collect_str(&humantime::format_duration(*span)),
        }
    }

    pub(in super::super) fn deserialize<'de, D>(from: D) -> Result<Duration, D::Error>
    where
        D: Deserializer<'de>,
    {
        let value = Value::deserialize(from)?;
        let text = match &value {
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::String(text) => text.trim().to_owned(),
            other => return Err(wrong(format_args!("cannot be {}", shown(other)), SPANS)),
        };
        if let Ok(number) = text.parse::<f64>() {
            let problem = format!("has no unit: {}", shown(&value));
            if number.fract() == 0.0 && number >= 0.0 {
                let remedy = format_args!(r#"write "{text}s" if seconds are meant"#);
                return Err(wrong(problem, remedy));
            }
            return Err(wrong(problem, SPANS));
        }
        match humantime::parse_duration(&text) {
            Ok(span) if span <= LONGEST => Ok(span),
            Ok(_) => {
                let problem = format_args!("is too long: {}", shown(&value));
                Err(wrong(problem, "write at most 100 years"))
            }
            Err(_) => Err(wrong(
                format_args!("is no duration: {}", shown(&value)),
                SPANS,
            )),
        }
    }
}

/// Yes or no; in text too: in the environment all is text.
pub(super) fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    let value = Value::deserialize(from)?;
    let text = value.as_str().map(str::trim);
    match (&value, text) {
        (Value::Boolean(flag), _) => Ok(*flag),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => Err(wrong(
            format_args!("cannot be {}", shown(&value)),
            "write true or false",
        )),
    }
}

/// How long a node is believed to live. Less would be lost to a busy machine's pauses, and for more nobody would wait.
pub(super) mod lease {
    use super::*;

    pub(in super::super) use super::span::serialize;

    pub(in super::super) fn deserialize<'de, D>(from: D) -> Result<Duration, D::Error>
    where
        D: Deserializer<'de>,
    {
        let span = super::span::deserialize(from)?;
        match span.as_secs() {
            3..=600 => Ok(span),
            _ => Err(wrong("is out of range", r#"write "3s" to "10m""#)),
        }
    }
}

/// A span of time longer than nothing.
pub(super) mod some_span {
    use super::*;

    pub(in super::super) use super::span::serialize;

    pub(in super::super) fn deserialize<'de, D>(from: D) -> Result<Duration, D::Error>
    where
        D: Deserializer<'de>,
    {
        match span::deserialize(from)? {
            Duration::ZERO => Err(wrong("cannot be zero", SPANS)),
            span => Ok(span),
        }
    }
}

/// A span of time longer than nothing, or `"never"`.
pub(super) mod span_or_never {
    use super::*;

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub(in super::super) fn serialize<S>(span: &Option<Duration>, to: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        match span {
            Some(span) => span::serialize(span, to),
            None => to.serialize_str("never"),
        }
    }

    pub(in super::super) fn deserialize<'de, D>(from: D) -> Result<Option<Duration>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let value = Value::deserialize(from)?;
        if value.as_str() == Some("never") {
            return Ok(None);
        }
        some_span::deserialize(value)
            .map(Some)
            .map_err(|error| D::Error::custom(format_args!(r#"{}, or "never""#, error.message())))
    }
}

pub(super) fn filter<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let filter: String = text(from)?;
    match super::filter::check(&filter) {
        Ok(()) => Ok(filter),
        Err((problem, remedy)) => Err(wrong(problem, remedy)),
    }
}

/// Where DingTalk answers, without a slash at its end.
pub(super) fn base_url<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    const EXAMPLE: &str = r#"write "https://api.dingtalk.io" or "https://api.dingtalk.com""#;
    let text: String = text(from)?;
    let Ok(url) = Url::parse(&text) else {
        return Err(wrong("is no web address", EXAMPLE));
    };
    // It appears in logs and errors, which hold no secret. Not shown here either.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(
            "holds a user or a password, which DingTalk does not know",
            EXAMPLE,
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong(
            "holds a `?` or a `#`, and paths are put behind it",
            "end it before that character",
        ));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => {
            return Err(wrong(
                "would send secrets in the clear: plain http is only for a loopback address",
                "write https://",
            ));
        }
        _ => return Err(wrong("is no web address", EXAMPLE)),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Whether what is sent to `url` stays on this machine: no proxy is asked for it, and plain http is good enough.
pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// The value as a message shows it. Never called for a secret.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    match value {
        Value::String(text) if text.chars().count() > MOST => {
            format!("{:?}...", text.chars().take(MOST).collect::<String>())
        }
        Value::String(text) => format!("{text:?}"),
        Value::Table(_) => "a section".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        // `Debug` keeps 2.0 from looking like 2.
        Value::Float(number) => format!("{number:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(moment) => moment.to_string(),
    }
}
