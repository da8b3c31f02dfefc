//! What keeps the log short: a repeated warning is counted, and lines of success have a budget. Both are told the time,
//! and both are bounded.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Decides whether a warning is written: at first, and then at most once a minute with the number of those that
/// were left out.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Besides [`MOST_KEYS`], the entry of [`OTHERS`].
    seen: HashMap<String, Seen>,
    /// When room was made last.
    swept: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    written: Instant,
    suppressed: u64,
}

/// How long a warning that was written is not written again.
const QUIET: Duration = Duration::from_secs(60);
/// Different warnings remembered at once. A feeder that invents account names must not fill the memory, nor the log.
const MOST_KEYS: usize = 1024;
/// What keys that come when the map is full are counted under, and counts that had to make room before they were told.
const OTHERS: &str = "others";
/// A full map is searched for room at most so often: a flood must not cost a walk over the map for each warning.
const SWEEP: Duration = Duration::from_secs(1);

impl Repeats {
    /// Nothing was written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// `Some(left_out)`: write the warning that `key` stands for, and say how many of it were left out since it was
    /// written last. `None`: it was counted, do not write it.
    pub fn admit(&mut self, key: impl Into<String>, now: Instant) -> Option<u64> {
        let key = key.into();
        if let Some(seen) = self.seen.get_mut(&key) {
            return seen.admit(now);
        }
        if self.seen.len() >= MOST_KEYS && self.swept.is_none_or(|at| now >= at + SWEEP) {
            self.swept = Some(now);
            self.forget_the_quiet(now);
        }
        let has_room = self.seen.len() < MOST_KEYS;
        let key = if has_room { key } else { OTHERS.to_owned() };
        match self.seen.entry(key) {
            Entry::Occupied(mut seen) => seen.get_mut().admit(now),
            Entry::Vacant(place) => {
                place.insert(Seen::at(now));
                Some(0)
            }
        }
    }

    /// Takes the warnings that stopped repeating before their count was written: their minute is over and nothing
    /// came since that would have told it. For the summary.
    pub fn take_untold(&mut self, now: Instant) -> Vec<(String, u64)> {
        let over = self.seen.extract_if(|_, seen| seen.is_over(now));
        let told = over.map(|(key, seen)| (key, seen.suppressed));
        let mut untold: Vec<(String, u64)> =
            told.filter(|(_, suppressed)| *suppressed > 0).collect();
        untold.sort();
        untold
    }

    /// Makes room: what was quiet for its minute goes, and its count stays to be told.
    fn forget_the_quiet(&mut self, now: Instant) {
        let quiet = self.seen.extract_if(|_, seen| seen.is_over(now));
        let forgotten = quiet.fold(0_u64, |sum, (_, seen)| sum.saturating_add(seen.suppressed));
        if forgotten > 0 {
            let others = self.seen.entry(OTHERS.to_owned()).or_insert(Seen::at(now));
            others.suppressed = others.suppressed.saturating_add(forgotten);
        }
    }
}

/// Warnings of several tasks, each written once and then counted. Clones share their memory.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<Mutex<Repeats>>);

/// How often a warning came since it was written last; shows itself at the end of a line where it came at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again(u64);

impl Warnings {
    /// As [`Repeats::admit`], now. `what` names the warning to a person too: its last count may be told under it.
    pub fn admit(&self, what: impl Into<String>) -> Option<Again> {
        self.lock().admit(what, Instant::now()).map(Again)
    }

    /// Writes the counts of those that stopped repeating before they were told.
    pub fn tell_the_rest(&self) {
        let untold = self.lock().take_untold(Instant::now());
        for (warning, suppressed) in untold {
            tracing::warn!(
                warning,
                suppressed,
                "repeated {suppressed} times more, and not for a minute now: {warning}"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Repeats> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Again {
    /// The number.
    pub fn count(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} times since)"),
        }
    }
}

impl Seen {
    fn at(written: Instant) -> Self {
        Self {
            written,
            suppressed: 0,
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.written) >= QUIET
    }

    fn admit(&mut self, now: Instant) -> Option<u64> {
        if !self.is_over(now) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        let suppressed = std::mem::take(&mut self.suppressed);
        self.written = now;
        Some(suppressed)
    }
}

/// At most ten lines in any second; what is beyond is counted for the summary.
#[derive(Debug, Default)]
pub struct LineBudget {
    /// When the last lines were written, the oldest first; never more than [`LINES_A_SECOND`].
    written: VecDeque<Instant>,
    left_out: u64,
}

const LINES_A_SECOND: usize = 10;

impl LineBudget {
    /// No line was written yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a line may be written now; one that may not is counted.
    pub fn admit(&mut self, now: Instant) -> bool {
        let a_second_ago =
            |written: &Instant| now.saturating_duration_since(*written) >= Duration::from_secs(1);
        while self.written.front().is_some_and(a_second_ago) {
            self.written.pop_front();
        }
        if self.written.len() >= LINES_A_SECOND {
            self.left_out = self.left_out.saturating_add(1);
            return false;
        }
        self.written.push_back(now);
        true
    }

    /// How many lines were left out since this was asked last.
    pub fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_warning_is_written_once_and_then_with_its_count_once_a_minute() {
        let start = Instant::now();
        let mut repeats = Repeats::new();
        // (seconds, key, what is said)
        let story = [
            (0, "a", Some(0)),
            (0, "b", Some(0)),
            (1, "a", None),
            (59, "a", None),
            (60, "a", Some(2)),
            (61, "a", None),
            (120, "a", Some(1)),
            (120, "b", Some(0)),
            (600, "a", Some(0)),
        ];
        for (at, key, expected) in story {
            assert_eq!(
                repeats.admit(key, start + at * SECOND),
                expected,
                "{key} at {at}"
            );
        }
    }

    #[test]
    fn counts_of_a_warning_that_stopped_are_not_lost() {
        let start = Instant::now();
        let mut repeats = Repeats::new();
        for _ in 0..5 {
            repeats.admit("a", start);
        }
        repeats.admit("b", start);
        assert_eq!(repeats.take_untold(start + 59 * SECOND), []);
        assert_eq!(
            repeats.take_untold(start + 60 * SECOND),
            [("a".to_owned(), 4)]
        );
        assert_eq!(repeats.take_untold(start + 61 * SECOND), []);
        assert!(repeats.seen.is_empty());
    }

    #[test]
    fn a_million_invented_warnings_fill_neither_memory_nor_log() {
        let start = Instant::now();
        let mut repeats = Repeats::new();
        let written = (0..1_000_000).filter(|n| repeats.admit(n.to_string(), start).is_some());
        assert_eq!(written.count(), MOST_KEYS + 1);
        assert_eq!(repeats.seen.len(), MOST_KEYS + 1);
        // After their minute the old ones make room; those that were left out stay to be told.
        assert_eq!(repeats.admit("new", start + 61 * SECOND), Some(0));
        assert_eq!(repeats.seen.len(), 2);
        let left_out = 1_000_000 - (MOST_KEYS as u64 + 1);
        let untold = repeats.take_untold(start + 121 * SECOND);
        assert_eq!(untold, [(OTHERS.to_owned(), left_out)]);
    }

    #[test]
    fn any_second_holds_ten_lines_at_most() {
        let start = Instant::now();
        let mut budget = LineBudget::new();
        let step = Duration::from_millis(30);
        let admitted: Vec<Instant> = (0..1000)
            .map(|n| start + n * step)
            .filter(|at| budget.admit(*at))
            .collect();
        for window in admitted.windows(LINES_A_SECOND + 1) {
            assert!(window[LINES_A_SECOND] - window[0] >= SECOND);
        }
        // 30 s of lines, every 30 ms: no second is left half empty either.
        assert!(admitted.len() >= 290, "{}", admitted.len());
        assert_eq!(budget.take_left_out(), 1000 - admitted.len() as u64);
        assert_eq!(budget.take_left_out(), 0);
    }
}
