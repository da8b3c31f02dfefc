//! Windows that count calls.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// At most so many calls in any stretch of one length.
#[derive(Default)]
pub(super) struct Window(VecDeque<Instant>);

impl Window {
    /// Whether one more call fits; a call that does not is not counted, so a caller who slows down recovers.
    pub(super) fn admit(&mut self, now: Instant, length: Duration, limit: u32) -> bool {
        if limit == 0 {
            return true;
        }
        while self
            .0
            .front()
            .is_some_and(|first| now.duration_since(*first) >= length)
        {
            self.0.pop_front();
        }
        let fits = self.0.len() < usize::try_from(limit).unwrap_or(usize::MAX);
        if fits {
            self.0.push_back(now);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_slides() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::default();
        assert!(window.admit(at(0), second, 2) && window.admit(at(600), second, 2));
        // A window that starts anew each second would let this one pass at 1000 and the next at 1001.
        assert!(!window.admit(at(999), second, 2));
        assert!(window.admit(at(1_000), second, 2));
        assert!(!window.admit(at(1_001), second, 2) && !window.admit(at(1_599), second, 2));
        assert!(window.admit(at(1_600), second, 2));
    }
}
