//! What a value may look like: one function for each kind. The environment says everything as text, a file must use
//! the right type.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::ValueKind;

use super::reader::{Given, Wrong};

/// Nothing that receiptd waits for takes longer, and sums of two such spans stay far from any overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);
const EXAMPLES: &str = r#"write a number and a unit, as "250ms", "10m" or "24h""#;

pub(super) fn text(given: &Given<'_>) -> Result<String, Wrong> {
    match given.kind {
        ValueKind::String(text) if text.is_empty() => {
            Err(Wrong::new("is empty", "fill it in or remove it"))
        }
        ValueKind::String(text) => Ok(text.clone()),
        // Not shown: a secret may have been given as a number.
        _ => Err(Wrong::new("is no text", "put it in quotes")),
    }
}

pub(super) fn path(given: &Given<'_>) -> Result<PathBuf, Wrong> {
    text(given).map(PathBuf::from)
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&Given<'_>) -> Result<T, Wrong> {
    move |given| {
        let found = match given.kind {
            ValueKind::String(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            Wrong::new(
                format!("cannot be {}", shown(given.kind)),
                format!("write {}", words.join(" or ")),
            )
        })
    }
}

/// A whole number within `range`.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&Given<'_>) -> Result<T, Wrong>
where
    T: TryFrom<i128> + PartialOrd + Display,
{
    move |given| {
        let number = match given.kind {
            ValueKind::I64(number) => Some(i128::from(*number)),
            ValueKind::U64(number) => Some(i128::from(*number)),
            ValueKind::I128(number) => Some(*number),
            ValueKind::U128(number) => i128::try_from(*number).ok(),
            ValueKind::String(text) if given.from_environment => text.trim().parse().ok(),
            _ => None,
        };
        let found = number.and_then(|number| T::try_from(number).ok());
        found.filter(|number| range.contains(number)).ok_or_else(|| {
            let bare = matches!(given.kind, ValueKind::String(text) if text.trim().parse::<i128>().is_ok());
            let quotes = if bare && !given.from_environment { " without quotes" } else { "" };
            Wrong::new(
                format!("cannot be {}", shown(given.kind)),
                format!("write a whole number from {} to {}{quotes}", range.start(), range.end()),
            )
        })
    }
}

/// A number that `fits`; `rule` says in words which do.
pub(super) fn number(
    rule: &str,
    fits: impl Fn(f64) -> bool,
) -> impl Fn(&Given<'_>) -> Result<f64, Wrong> {
    move |given| {
        let number = match given.kind {
            ValueKind::Float(number) => Some(*number),
            // Every whole number that makes sense here is far below 2^32.
            ValueKind::I64(number) => i32::try_from(*number).ok().map(f64::from),
            ValueKind::String(text) if given.from_environment => text.trim().parse().ok(),
            _ => None,
        };
        number
            .filter(|number| number.is_finite() && fits(*number))
            .ok_or_else(|| {
                let quotes = match given.kind {
                    ValueKind::String(_) if !given.from_environment => " without quotes",
                    _ => "",
                };
                Wrong::new(
                    format!("cannot be {}", shown(given.kind)),
                    format!("write {rule}{quotes}"),
                )
            })
    }
}

/// A span of time; zero is fine.
pub(super) fn duration(given: &Given<'_>) -> Result<Duration, Wrong> {
    let digits = match given.kind {
        ValueKind::I64(number) => number.to_string(),
        ValueKind::Float(number) => number.to_string(),
        ValueKind::String(text) => text.trim().to_owned(),
        other => return Err(Wrong::new(format!("cannot be {}", shown(other)), EXAMPLES)),
    };
    if let Ok(number) = digits.parse::<f64>() {
        let remedy = match number.fract() == 0.0 && number >= 0.0 {
            true => format!(r#"write "{digits}s" if seconds are meant"#),
            false => EXAMPLES.to_owned(),
        };
        return Err(Wrong::new(
            format!("has no unit: {}", shown(given.kind)),
            remedy,
        ));
    }
    match humantime::parse_duration(&digits) {
        Ok(span) if span > LONGEST => Err(Wrong::new(
            format!("is too long: {}", shown(given.kind)),
            "write at most 100 years",
        )),
        Ok(span) => Ok(span),
        Err(_) => Err(Wrong::new(
            format!("is no duration: {}", shown(given.kind)),
            EXAMPLES,
        )),
    }
}

/// A span of time longer than nothing.
pub(super) fn some_time(given: &Given<'_>) -> Result<Duration, Wrong> {
    match duration(given)? {
        Duration::ZERO => Err(Wrong::new("cannot be zero", EXAMPLES)),
        span => Ok(span),
    }
}

/// A span of time, or `"never"`.
pub(super) fn some_time_or_never(given: &Given<'_>) -> Result<Option<Duration>, Wrong> {
    match given.kind {
        ValueKind::String(text) if text == "never" => Ok(None),
        _ => some_time(given).map(Some).map_err(|wrong| Wrong {
            remedy: format!(r#"{}, or "never""#, wrong.remedy),
            ..wrong
        }),
    }
}

/// The value as a message shows it. Never called for a secret.
fn shown(kind: &ValueKind) -> String {
    const MOST: usize = 60;
    match kind {
        ValueKind::String(text) if text.chars().count() > MOST => {
            format!("{:?}...", text.chars().take(MOST).collect::<String>())
        }
        ValueKind::String(text) => format!("{text:?}"),
        ValueKind::Nil => "nothing".to_owned(),
        ValueKind::Table(_) => "a section".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        // `Debug` keeps 2.0 from looking like 2.
        ValueKind::Float(number) => format!("{number:?}"),
        other => other.to_string(),
    }
}
