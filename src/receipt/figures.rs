//! Spans and counts as the plain numbers that logs, tables and formulas take.

use std::time::Duration;

/// A span's whole milliseconds; of a longer one as many as fit.
pub fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// A count for a formula: exact up to 2^53, far beyond a month's calls or a table's rows.
#[allow(clippy::cast_precision_loss)]
pub fn real(count: u64) -> f64 {
    count as f64
}
