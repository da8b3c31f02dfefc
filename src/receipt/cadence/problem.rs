//! The inspection problem as the dynamic programme sees it: ages to choose from, reads between them, bounds.

use super::Rules;
use super::grid::Grid;
use super::table::{Curve, Kind};

/// The largest number of missing readers that is told apart: 2^10. More are treated as so many.
pub(super) const MOST_LEVELS: usize = 11;
/// How finely the share of readers still missing is tabulated between 0 and 1.
const SURVIVAL_STEPS: u32 = 256;
/// No more ages than this to choose from, however short `max_interval` is.
const MOST_AGES: usize = 1_500;
/// Below so small a share of readers still unread, all have read.
const NOBODY: f64 = 1e-9;

/// For one kind of message: everything but the price of a call.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// The ages in seconds: zero first, the last chance last.
    pub(super) ages: Vec<f64>,
    /// The share of readers not read by each age; all ones where the number of readers is unknown.
    survival: Vec<f64>,
    /// Reads by each age, per reader or per message.
    mass: Vec<f64>,
    /// The integral of age over the mass.
    moment: Vec<f64>,
    /// For each age, the first and the last that may follow it.
    pub(super) successors: Vec<(usize, usize)>,
    /// No two calls lie farther apart, in seconds.
    max_interval: f64,
    /// Calls a walk.
    pub(super) pages: f64,
    /// How many of 1, 2, 4, 8, … missing readers are told apart.
    pub(super) levels: usize,
    splits: Vec<Vec<[f64; MOST_LEVELS]>>,
}

/// A step from one polled age to the next, as one message with so many missing readers sees it.
pub(super) struct Step {
    /// Calls.
    pub(super) calls: f64,
    /// Delay of the reads in between, in seconds, summed over readers.
    pub(super) delay: f64,
}

impl Problem {
    pub(super) fn new(
        grid: &Grid,
        curve: &Curve,
        rules: &Rules,
        horizon: f64,
        pieces: f64,
        levels: usize,
    ) -> Self {
        let max_interval = rules.max_interval.as_secs_f64().max(1e-3);
        let ages = ages(grid, horizon, max_interval, pieces);
        let mass: Vec<f64> = ages.iter().map(|age| curve.mass(grid, *age)).collect();
        let mut moment = vec![0.0];
        for index in 1..ages.len() {
            let middle = (ages[index - 1] + ages[index]) / 2.0;
            moment.push(moment[index - 1] + middle * (mass[index] - mass[index - 1]));
        }
        let survival = match curve.kind {
            Kind::PerReader => mass.iter().map(|read| (1.0 - read).max(NOBODY)).collect(),
            Kind::PerMessage => vec![1.0; ages.len()],
        };
        let levels = match curve.kind {
            Kind::PerReader => levels.clamp(1, MOST_LEVELS),
            Kind::PerMessage => 1,
        };
        let min_interval = rules.min_interval.as_secs_f64();
        Self {
            successors: successors(&ages, min_interval, max_interval),
            ages,
            survival,
            mass,
            moment,
            max_interval,
            pages: 1.0,
            levels,
            splits: (0..levels).map(split).collect(),
        }
    }

    /// The index of the last chance.
    pub(super) fn end(&self) -> usize {
        self.ages.len() - 1
    }

    /// Reads by the last chance, of so many readers or of a message.
    pub(super) fn reads(&self, readers: f64) -> f64 {
        readers * self.mass[self.end()]
    }

    /// What it means to wait from age `from` to age `to` with `readers` missing at `from`.
    pub(super) fn step(&self, from: usize, to: usize, readers: f64) -> Step {
        let read = self.mass[to] - self.mass[from];
        let delay = self.ages[to] * read - (self.moment[to] - self.moment[from]);
        let gap = self.ages[to] - self.ages[from];
        // Where not even the next age lies within `max_interval`, the schedule polls in between.
        let calls = if to == from + 1 {
            (gap / self.max_interval - 1e-6).ceil().max(1.0)
        } else {
            1.0
        };
        Step {
            calls: calls * self.pages,
            delay: readers * delay.max(0.0) / (self.survival[from] * calls),
        }
    }

    /// The probability that a reader missing at `from` is missing at `to`.
    pub(super) fn survives(&self, from: usize, to: usize) -> f64 {
        (self.survival[to] / self.survival[from]).min(1.0)
    }

    /// The probability that a message of 2^`level` readers is not complete at its last chance.
    pub(super) fn unfinished(&self, level: usize) -> f64 {
        self.still_missing(0, self.end(), level).iter().sum()
    }

    /// The probabilities that of 2^`level` readers missing at `from` about 1, 2, 4, … are missing at `to`.
    pub(super) fn still_missing(&self, from: usize, to: usize, level: usize) -> [f64; MOST_LEVELS] {
        let steps = self.survives(from, to) * f64::from(SURVIVAL_STEPS);
        let (cell, within) = (steps.floor(), steps.fract());
        // Exact: between 0 and SURVIVAL_STEPS.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let cell = cell as usize;
        let table = &self.splits[level];
        let (low, high) = (&table[cell], &table[(cell + 1).min(table.len() - 1)]);
        std::array::from_fn(|node| low[node] + within * (high[node] - low[node]))
    }
}

/// The ages to choose from: the grid's edges up to the last chance, each bin split into so many `pieces`, and where
/// `max_interval` is shorter than a bin is wide into more.
fn ages(grid: &Grid, horizon: f64, max_interval: f64, pieces: f64) -> Vec<f64> {
    let split = horizon / max_interval < 400.0;
    let mut ages = vec![0.0];
    let ends = grid.edges()[1..]
        .iter()
        .copied()
        .take_while(|edge| *edge < horizon * 0.999);
    for end in ends.chain(std::iter::once(horizon)) {
        let start = ages[ages.len() - 1];
        let for_bound = if split {
            (2.0 * (end - start) / max_interval).ceil()
        } else {
            1.0
        };
        let pieces = pieces.max(for_bound).max(1.0);
        let mut piece = 1.0;
        while piece < pieces && ages.len() < MOST_AGES {
            ages.push(start + (end - start) * piece / pieces);
            piece += 1.0;
        }
        ages.push(end);
    }
    ages
}

/// For each age the first and the last index that the bounds allow to follow it. The end is always allowed: the last
/// chance goes out whatever `min_interval` says.
fn successors(ages: &[f64], min_interval: f64, max_interval: f64) -> Vec<(usize, usize)> {
    let end = ages.len() - 1;
    (0..end)
        .map(|from| {
            let first = ages.partition_point(|age| *age < ages[from] + min_interval);
            let first = first.clamp(from + 1, end);
            let beyond = ages.partition_point(|age| *age <= ages[from] + max_interval);
            (first, (beyond.max(1) - 1).clamp(first, end))
        })
        .collect()
}

/// For 2^`level` readers, each still missing with a probability that runs from 0 to 1 in even steps: the binomial
/// distribution of how many are, laid onto 1, 2, 4, … linearly.
fn split(level: usize) -> Vec<[f64; MOST_LEVELS]> {
    let readers = 1_u32 << level;
    (0..=SURVIVAL_STEPS)
        .map(|step| {
            let survival = f64::from(step) / f64::from(SURVIVAL_STEPS);
            let mut nodes = [0.0; MOST_LEVELS];
            let mut log_choose = 0.0_f64;
            for missing in 1..=readers {
                let (of, k) = (f64::from(readers), f64::from(missing));
                log_choose += ((of - k + 1.0) / k).ln();
                let chance = binomial(log_choose, k, of, survival);
                // Between the powers of two below and above.
                let below = missing.ilog2() as usize;
                let floor = f64::from(1_u32 << below);
                let above = (k - floor) / floor;
                nodes[below] += chance * (1.0 - above);
                if above > 0.0 {
                    nodes[below + 1] += chance * above;
                }
            }
            nodes
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_neither_lost_nor_won_by_the_split() {
        for level in 0..MOST_LEVELS {
            for (step, nodes) in split(level).iter().enumerate() {
                let mean: f64 = (0..MOST_LEVELS)
                    .map(|node| nodes[node] * 2_f64.powi(i32::try_from(node).unwrap()))
                    .sum();
                let expected = 2_f64.powi(i32::try_from(level).unwrap())
                    * f64::from(u32::try_from(step).unwrap())
                    / 256.0;
                assert!((mean - expected).abs() < 1e-6 * (1.0 + expected));
            }
        }
    }
}
