//! Messages with several readers: how the missing thin out from poll to poll, and what a policy costs for them.
//!
//! The programme that finds a policy tells 1, 2, 4, … missing readers apart. That is enough to choose by and not to count by:
//! groups of eight took up to 10 % more calls than were counted so. Here numbers are told apart one by one up to [`EXACT`],
//! and [`PER_OCTAVE`] between doublings above.

use super::solve::{Next, Problem};

/// The largest number of missing readers that is told apart is 2^10. More are treated as that many.
pub(super) const MOST_LEVELS: usize = 11;
/// How finely that probability is tabulated between 0 and 1.
const STEPS: u32 = 256;

/// For one number of readers: the chances of smaller numbers, for each share still missing in even steps.
#[derive(Clone, Debug)]
pub(super) struct Thinning(Vec<Vec<f64>>);

impl Thinning {
    /// Of `readers` readers: the binomial distribution of how many are still missing, laid onto `counts` (in order, from one
    /// on, `readers` among them) linearly.
    pub(super) fn new(counts: &[u32], readers: u32) -> Self {
        let share = |step| f64::from(step) / f64::from(STEPS);
        Self(
            (0..=STEPS)
                .map(|step| laid_out(counts, readers, share(step)))
                .collect(),
        )
    }

    /// The chance of each count where each reader is still missing with probability `survives`.
    pub(super) fn at(&self, survives: f64) -> impl Iterator<Item = f64> {
        let steps = survives.clamp(0.0, 1.0) * f64::from(STEPS);
        let (cell, within) = (steps.floor(), steps.fract());
        // Exact: between 0 and STEPS.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let cell = cell as usize;
        let (low, high) = (&self.0[cell], &self.0[(cell + 1).min(self.0.len() - 1)]);
        low.iter()
            .zip(high)
            .map(move |(low, high)| low + within * (high - low))
    }
}

fn laid_out(counts: &[u32], readers: u32, survives: f64) -> Vec<f64> {
    let mut chances = vec![0.0; counts.partition_point(|count| *count <= readers)];
    let mut log_choose = 0.0_f64;
    let mut below = 0;
    for missing in 1..=readers {
        let (of, k) = (f64::from(readers), f64::from(missing));
        log_choose += ((of - k + 1.0) / k).ln();
        let chance = binomial(log_choose, k, of, survives);
        while below + 1 < chances.len() && counts[below + 1] <= missing {
            below += 1;
        }
        let floor = f64::from(counts[below]);
        let above = if k > floor {
            (k - floor) / (f64::from(counts[below + 1]) - floor)
        } else {
            0.0
        };
        chances[below] += chance * (1.0 - above);
        if above > 0.0 {
            chances[below + 1] += chance * above;
        }
    }
    chances
}

/// The probability of `k` of `of`, each with probability `p`; in logarithms, since 1024 over 512 is beyond an `f64`.
fn binomial(log_choose: f64, k: f64, of: f64, p: f64) -> f64 {
    if p <= 0.0 {
        return 0.0;
    }
    if p >= 1.0 {
        return if k < of { 0.0 } else { 1.0 };
    }
    (log_choose + k * p.ln() + (of - k) * (-p).ln_1p()).exp()
}

/// Up to so many missing readers each number is told apart.
const EXACT: u32 = 8;
/// Above, so many between a number and its double.
const PER_OCTAVE: u32 = 4;
/// Courses that are rarer are left out.
const MIN_PROBABILITY: f64 = 1e-12;

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
                if chance < MIN_PROBABILITY {
                    continue;
                }
                let to = usize::from(next[count.level][from]);
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

/// Which of 1, 2, 4, … a number of readers is closest to.
pub(super) fn level_of(readers: u32) -> usize {
    // Exact: a logarithm of a u32 lies between 0 and 32.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let level = f64::from(readers.max(1)).log2().round() as usize;
    level.min(MOST_LEVELS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_neither_lost_nor_won() {
        let powers: Vec<u32> = (0..11).map(|level| 1 << level).collect();
        let all: Vec<u32> = (1..=64).collect();
        for (counts, readers) in [(&powers, 1), (&powers, 8), (&powers, 1_024), (&all, 50)] {
            let thinning = Thinning::new(counts, readers);
            for survives in [0.0, 0.003, 0.25, 0.4, 0.9, 0.999, 1.0] {
                let chances = thinning.at(survives).zip(counts);
                let mean: f64 = chances
                    .map(|(chance, count)| chance * f64::from(*count))
                    .sum();
                let expected = f64::from(readers) * survives;
                assert!(
                    (mean - expected).abs() < 1e-6 * (1.0 + expected),
                    "{mean} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_known_distribution_is_met() {
        // Of three, each missing with probability one half: 3, 3 and 1 eighths for one, two and three.
        let chances: Vec<f64> = Thinning::new(&[1, 2, 3], 3).at(0.5).collect();
        for (chance, eighths) in chances.iter().zip([3.0, 3.0, 1.0]) {
            assert!((chance - eighths / 8.0).abs() < 1e-12, "{chances:?}");
        }
    }
}
