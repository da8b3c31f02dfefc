//! A moment on the wall clock, as the tables hold it.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Unix milliseconds, UTC.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UnixMs(pub i64);

impl UnixMs {
    /// The time since `earlier`; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The calendar month that DingTalk counts calls in, `YYYY-MM` at UTC+8.
    pub fn quota_month(self) -> String {
        QuotaMonth::of(self).to_string()
    }
}

/// A calendar month that DingTalk counts calls in, at UTC+8. To find it costs far more than to see that a moment lies in
/// it. The default holds no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotaMonth {
    starts_at: UnixMs,
    ends_at: UnixMs,
}

impl Default for QuotaMonth {
    fn default() -> Self {
        Self {
            starts_at: UnixMs(0),
            ends_at: UnixMs(0),
        }
    }
}

impl QuotaMonth {
    /// The month of a moment.
    pub fn of(at: UnixMs) -> Self {
        let first = at.at_utc_plus_8().date().first_of_month();
        let midnight = |day: jiff::civil::Date| {
            day.to_datetime(jiff::civil::Time::midnight())
                .to_zoned(UTC_PLUS_8.to_time_zone())
                .map(|start| UnixMs(start.timestamp().as_millisecond()))
        };
        let next = first
            .checked_add(jiff::Span::new().months(1))
            .and_then(midnight);
        Self {
            starts_at: midnight(first).unwrap_or(UnixMs(i64::MIN)),
            // It fails only beyond the year 9999.
            ends_at: next.unwrap_or(UnixMs(i64::MAX)),
        }
    }

    /// Whether a moment lies in it.
    pub fn contains(self, at: UnixMs) -> bool {
        (self.starts_at..self.ends_at).contains(&at)
    }

    /// The month of a moment, which is mostly this one.
    pub fn or_of(self, at: UnixMs) -> Self {
        if self.contains(at) {
            self
        } else {
            Self::of(at)
        }
    }

    /// The month before.
    pub fn before(self) -> Self {
        Self::of(self.starts_at - Duration::from_millis(1))
    }

    /// Its first moment.
    pub fn starts_at(self) -> UnixMs {
        self.starts_at
    }

    /// The first moment of the next.
    pub fn ends_at(self) -> UnixMs {
        self.ends_at
    }
}

impl fmt::Display for QuotaMonth {
    /// `YYYY-MM`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = self.starts_at.at_utc_plus_8().date();
        write!(f, "{:04}-{:02}", day.year(), day.month())
    }
}

const UTC_PLUS_8: jiff::tz::Offset = jiff::tz::offset(8);

impl UnixMs {
    fn at_utc_plus_8(self) -> jiff::Zoned {
        // Out of jiff's range (a clock beyond the year 9999) means the last month there is.
        let stamp = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        stamp.to_zoned(UTC_PLUS_8.to_time_zone())
    }
}

/// A span's whole milliseconds; of a longer one as many as fit.
pub fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A count for a formula: exact up to 2^53, far beyond a month's calls or a table's rows.
#[allow(clippy::cast_precision_loss)]
pub fn real(count: u64) -> f64 {
    count as f64
}

impl Add<Duration> for UnixMs {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl Sub<Duration> for UnixMs {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)),
        )
    }
}

impl fmt::Debug for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for UnixMs {
    /// RFC 3339, to the millisecond.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(stamp) => write!(f, "{stamp:.3}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_turns_at_midnight_in_china() {
        // 2026-11-30T15:59:59.999Z is one millisecond before December at UTC+8.
        let before = UnixMs(1_796_054_399_999);
        assert_eq!(before.to_string(), "2026-11-30T15:59:59.999Z");
        assert_eq!(before.quota_month(), "2026-11");
        assert_eq!(UnixMs(before.0 + 1).quota_month(), "2026-12");
        let november = QuotaMonth::default().or_of(before);
        assert_eq!(november.to_string(), "2026-11");
        assert_eq!(november.or_of(UnixMs(before.0 - 29 * 86_400_000)), november);
        let december = november.or_of(UnixMs(before.0 + 1));
        assert_eq!(december.to_string(), "2026-12");
        assert_eq!(december.or_of(before), november);
        let turn = UnixMs(before.0 + 1);
        assert_eq!((november.ends_at(), december.starts_at()), (turn, turn));
        assert_eq!(december.before(), november);
        assert_eq!(december.ends_at().quota_month(), "2027-01");
    }

    #[test]
    fn the_time_since_a_later_moment_is_zero() {
        assert_eq!(UnixMs(5).since(UnixMs(9)), Duration::ZERO);
    }
}
