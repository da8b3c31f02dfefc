//! What a policy costs and brings, counted more finely than by the programme that finds it.
//!
//! The programme tells 1, 2, 4, … missing readers apart. That is enough to choose by and not to count by: groups of eight
//! took up to 10 % more calls than were counted so. Here numbers are told apart one by one up to [`EXACT`], and
//! [`PER_OCTAVE`] between doublings above.

use super::policy::level_of;
use super::problem::{MOST_LEVELS, Problem};
use super::solve::Next;
use super::thinning::Thinning;

/// Up to so many missing readers each number is told apart.
const EXACT: u32 = 8;
/// Above, so many between a number and its double.
const PER_OCTAVE: u32 = 4;
/// Courses that are rarer are left out.
const NEVER: f64 = 1e-12;

/// Messages that begin with about as many readers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Start {
    /// How many messages, in any unit.
    pub(super) messages: f64,
    /// Readers of all of them together.
    pub(super) readers: f64,
}

impl Start {
    /// A message with one reader.
    pub(super) const ONE: Self = Self {
        messages: 1.0,
        readers: 1.0,
    };

    /// So many messages that begin with exactly 1, 2, 4, … readers.
    pub(super) fn at_levels(messages: &[f64]) -> Vec<Self> {
        let readers = std::iter::successors(Some(1.0), |readers| Some(2.0 * readers));
        let both = messages.iter().zip(readers);
        both.map(|(messages, readers)| Self {
            messages: *messages,
            readers: messages * readers,
        })
        .collect()
    }

    /// One more message, with so many readers; more than are told apart are as many as are.
    pub(super) fn add(&mut self, readers: u32) {
        self.messages += 1.0;
        self.readers += f64::from(readers.clamp(1, 1 << (MOST_LEVELS - 1)));
    }

    /// Weighs them down by `factor`.
    pub(super) fn fade(&mut self, factor: f64) {
        self.messages *= factor;
        self.readers *= factor;
    }

    /// Readers of a mean message.
    pub(super) fn mean(self) -> f64 {
        if self.messages > 0.0 {
            self.readers / self.messages
        } else {
            1.0
        }
    }
}

/// The numbers of missing readers that are told apart, in order.
#[derive(Clone, Debug)]
pub(super) struct Counts(Vec<Count>);

#[derive(Clone, Debug)]
struct Count {
    readers: u32,
    /// By which of 1, 2, 4, … the policy serves it.
    level: usize,
    thinning: Thinning,
}

impl Counts {
    /// As many as so many powers of two need.
    pub(super) fn new(levels: usize) -> Self {
        let mut numbers: Vec<u32> = vec![1];
        // What is served as the largest power of two is less than √2 of it.
        let most = 3 << (levels - 1);
        while let Some(last) = numbers.last().filter(|last| 2 * **last < most) {
            let step = if *last < EXACT {
                1
            } else {
                (1 << last.ilog2()) / PER_OCTAVE
            };
            numbers.push(last + step);
        }
        let count = |readers: &u32| Count {
            readers: *readers,
            level: level_of(*readers).min(levels - 1),
            thinning: Thinning::new(&numbers, *readers),
        };
        Self(numbers.iter().map(count).collect())
    }

    /// Calls, and delay in seconds summed over the readers, of a message that begins with so many `readers`.
    pub(super) fn spend(&self, problem: &Problem, next: &Next, readers: f64) -> (f64, f64) {
        let above = self
            .0
            .partition_point(|count| f64::from(count.readers) < readers);
        let begin = above.min(self.0.len() - 1);
        let below = begin.saturating_sub(1);
        let mut chances = vec![vec![0.0; begin + 1]; problem.end() + 1];
        let (least, most) = (
            f64::from(self.0[below].readers),
            f64::from(self.0[begin].readers),
        );
        let share = if most > least {
            ((readers - least) / (most - least)).clamp(0.0, 1.0)
        } else {
            1.0
        };
        chances[0][below] = 1.0 - share;
        chances[0][begin] += share;
        let (mut calls, mut delay) = (0.0, 0.0);
        for from in 0..problem.end() {
            for (index, count) in self.0[..=begin].iter().enumerate() {
                let chance = chances[from][index];
                if chance < NEVER {
                    continue;
                }
                let to = next[count.level][from];
                let step = problem.step(from, to, f64::from(count.readers));
                calls += chance * step.calls;
                delay += chance * step.delay;
                let missing = count.thinning.at(problem.survives(from, to));
                for (then, share) in chances[to].iter_mut().zip(missing) {
                    *then += chance * share;
                }
            }
        }
        (calls, delay)
    }
}
