//! How long keys really answer.

use std::collections::VecDeque;
use std::time::Duration;

/// Nothing is believed before so many expiries.
const FEWEST: usize = 20;
/// Older expiries are forgotten beyond so many.
const MOST: usize = 200;
/// So many of a hundred expiries may be younger than the learned lifetime.
const QUANTILE_PERCENT: usize = 5;

/// What is known of the real lifetime of a lane's keys: for each key that had answered and then expired, in seconds, the
/// age of its last answer and the age at which it no longer answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lifetime {
    spans: VecDeque<(f64, f64)>,
    /// The greatest age of an answer since the last expiry was forgotten.
    answered: f64,
}

impl Lifetime {
    /// A key answered last at one age and was found expired at another.
    pub fn expired(&mut self, answered: Duration, gone: Duration) {
        if gone <= answered {
            return;
        }
        if self.spans.len() == MOST {
            self.spans.pop_front();
            self.answered = 0.0;
        }
        self.spans
            .push_back((answered.as_secs_f64(), gone.as_secs_f64()));
    }

    /// A key answered at an age. If that is beyond an expiry, keys live longer than they did: the youngest such
    /// expiry counts no more.
    pub fn answered(&mut self, age: Duration) {
        let age = age.as_secs_f64();
        self.answered = self.answered.max(age);
        let youngest = (0..self.spans.len()).min_by(|a, b| self.gone(*a).total_cmp(&self.gone(*b)));
        if let Some(index) = youngest.filter(|index| self.gone(*index) <= age) {
            self.spans.remove(index);
        }
    }

    /// The learned lifetime, where it is shorter than `setting`: midway between the greatest age known to answer
    /// and the age by which one key in twenty was gone, so that each poll there halves what is uncertain.
    pub fn shorter_than(&self, setting: Duration) -> Option<Duration> {
        if self.spans.len() < FEWEST {
            return None;
        }
        let mut gone: Vec<f64> = self.spans.iter().map(|(_, gone)| *gone).collect();
        gone.sort_by(f64::total_cmp);
        let gone = gone[gone.len() * QUANTILE_PERCENT / 100];
        let answers = self.spans.iter().map(|(answered, _)| *answered);
        let answered = answers
            .chain(std::iter::once(self.answered))
            .filter(|answered| *answered < gone)
            .fold(0.0, f64::max);
        let lifetime = Duration::try_from_secs_f64((answered + gone) / 2.0).ok()?;
        // A poll that found the key gone soon after the setting says nothing against the setting.
        (gone < setting.as_secs_f64() && lifetime < setting).then_some(lifetime)
    }

    /// How many expiries are remembered.
    pub fn expiries(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn spans(&self) -> impl Iterator<Item = (f64, f64)> {
        self.spans.iter().copied()
    }

    fn gone(&self, index: usize) -> f64 {
        self.spans[index].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn nothing_is_believed_of_few_expiries() {
        let mut lifetime = Lifetime::default();
        for _ in 0..19 {
            lifetime.expired(8 * HOUR, 13 * HOUR);
        }
        assert_eq!(lifetime.shorter_than(24 * HOUR), None);
        lifetime.expired(8 * HOUR, 13 * HOUR);
        assert_eq!(lifetime.shorter_than(24 * HOUR), Some(21 * HOUR / 2));
    }

    #[test]
    fn an_expiry_at_the_setting_is_no_shorter_life() {
        let mut lifetime = Lifetime::default();
        for _ in 0..100 {
            lifetime.expired(HOUR * 23, HOUR * 24 + HOUR / 12);
        }
        assert_eq!(lifetime.shorter_than(24 * HOUR), None);
    }

    #[test]
    fn polls_at_what_was_learned_close_in_on_the_truth() {
        let truth = 12.3 * 3_600.0;
        let mut lifetime = Lifetime::default();
        let ages = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 23.9].map(|hours| hours * 3_600.0);
        for _ in 0..400 {
            let learned = lifetime.shorter_than(24 * HOUR).unwrap_or(24 * HOUR);
            let learned = learned.as_secs_f64();
            let mut polls: Vec<f64> = ages
                .iter()
                .copied()
                .filter(|age| *age < learned - 300.0)
                .collect();
            polls.push(learned - 300.0);
            polls.extend((0..10).map(|doubling| learned + 300.0 * 2_f64.powi(doubling)));
            let gone = polls.iter().position(|age| *age >= truth).unwrap();
            let at = |index: usize| Duration::from_secs_f64(polls[index]);
            for index in 0..gone {
                lifetime.answered(at(index));
            }
            lifetime.expired(at(gone - 1), at(gone));
        }
        let learned = lifetime.shorter_than(24 * HOUR).unwrap().as_secs_f64();
        assert!((learned - truth).abs() < 600.0, "{}", learned / 3_600.0);
    }

    #[test]
    fn answers_at_greater_ages_raise_it_again() {
        let mut lifetime = Lifetime::default();
        for _ in 0..60 {
            lifetime.expired(9 * HOUR, 10 * HOUR);
        }
        assert!(lifetime.shorter_than(24 * HOUR).is_some());
        for _ in 0..60 {
            lifetime.answered(20 * HOUR);
        }
        assert_eq!(lifetime.shorter_than(24 * HOUR), None);
    }
}
