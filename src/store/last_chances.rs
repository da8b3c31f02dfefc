//! Last chances that do not fit the rate: how early they must be begun with.

use crate::receipt::{UnixMs, real};
use crate::store::LastChanceFit;

/// See [`Upkeep::last_chances_to_begin`](crate::store::Upkeep::last_chances_to_begin). `upcoming` holds, in the order of time, moments and how many last chances are due
/// up to each after the one before.
///
/// They are served in the order in which they are due. Where some would come too late if each waited for its moment, the
/// n-th of them can be served n/rate after a start, which must be before its key's end: the earliest such start is when
/// they must begin, and what lies behind that narrowest place needs no hurry.
pub(super) fn begin_with(upcoming: &[(UnixMs, u64)], fit: &LastChanceFit) -> Option<UnixMs> {
    let rate = fit.calls_per_second.max(f64::MIN_POSITIVE);
    let slack = fit.slack.as_secs_f64();
    let mut served = 0.0;
    // When they are done if each waits for its moment, in seconds from now.
    let mut finished = 0.0_f64;
    let mut narrowest: Option<(f64, UnixMs)> = None;
    for (until, count) in upcoming {
        let count = real(*count);
        // Negative for what is overdue.
        let due = until.since(fit.now).as_secs_f64() - fit.now.since(*until).as_secs_f64();
        served += count;
        finished = finished.max(due) + count / rate;
        let start = due + slack - served / rate;
        if finished > due + slack && narrowest.is_none_or(|(earliest, _)| start < earliest) {
            narrowest = Some((start, *until));
        }
    }
    narrowest
        .filter(|(start, _)| *start <= fit.again.as_secs_f64())
        .map(|(_, until)| until)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    fn fit(now: UnixMs, rate: f64) -> LastChanceFit {
        LastChanceFit {
            now,
            calls_per_second: rate,
            slack: 150 * Duration::from_secs(1),
            again: MINUTE,
        }
    }

    /// Serves last chances in their order at `rate`, taking each as soon as it may be; how many came too late.
    fn late(due: &[u64], rate: u64) -> usize {
        let mut queue: Vec<UnixMs> = due.iter().map(|s| NOW + Duration::from_secs(*s)).collect();
        queue.sort_unstable();
        let (mut now, mut next, mut late) = (NOW, 0, 0);
        while next < queue.len() {
            let upcoming: Vec<(UnixMs, u64)> = queue[next..]
                .chunk_by(|a, b| a.0 / 60_000 == b.0 / 60_000)
                .map(|part| (part[part.len() - 1], part.len() as u64))
                .collect();
            let until = begin_with(&upcoming, &fit(now, real(rate)));
            // Until it is looked at again.
            for _ in 0..60 {
                for _ in 0..rate {
                    if next < queue.len() && queue[next] <= until.unwrap_or(now).max(now) {
                        late += usize::from(now > queue[next] + 5 * MINUTE);
                        next += 1;
                    }
                }
                now = now + Duration::from_secs(1);
            }
        }
        late
    }

    #[test]
    fn a_burst_of_last_chances_fits_the_rate() {
        // 36,000 at once take half an hour at 20 a second, and live for five minutes more.
        assert_eq!(late(&vec![7_200; 36_000], 20), 0);
        // A second burst behind the first.
        let two: Vec<u64> = (0..20_000).map(|n| 4_000 + 500 * (n % 2)).collect();
        assert_eq!(late(&two, 20), 0);
    }

    #[test]
    fn what_comes_evenly_is_taken_at_its_time() {
        let evenly: Vec<(UnixMs, u64)> = (1..1_000).map(|n| (NOW + n * MINUTE, 900)).collect();
        for upcoming in [&evenly[..], &[]] {
            assert_eq!(begin_with(upcoming, &fit(NOW, 20.0)), None);
        }
    }

    #[test]
    fn a_burst_is_begun_with_when_it_must_be_and_not_before() {
        // Ten minutes of calls, and two and a half until the half of their last five minutes is over.
        let burst = |minutes: u32| begin_with(&[(NOW + minutes * MINUTE, 12_000)], &fit(NOW, 20.0));
        assert_eq!(burst(600), None);
        assert_eq!(burst(9), None);
        assert_eq!(burst(8), Some(NOW + 8 * MINUTE));
    }
}
