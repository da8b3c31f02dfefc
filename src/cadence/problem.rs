//! The inspection problem as the dynamic programme sees it: ages to choose from, reads between them, bounds.

use super::Rules;
use super::curve::{Curve, Kind};
use super::grid::Grid;
use super::thinning::Thinning;

/// The largest number of missing readers that is told apart: 2^10. More are treated as so many.
pub(super) const MOST_LEVELS: usize = 11;
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
    thinnings: Vec<Thinning>,
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
            thinnings: thinnings(levels),
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

    /// The probability that a message of so many readers is not complete at its last chance.
    pub(super) fn unfinished(&self, readers: f64) -> f64 {
        1.0 - (1.0 - self.survives(0, self.end())).powf(readers)
    }

    /// The probabilities that of 2^`level` readers missing at `from` about 1, 2, 4, … are missing at `to`.
    pub(super) fn still_missing(
        &self,
        from: usize,
        to: usize,
        level: usize,
    ) -> impl Iterator<Item = f64> {
        self.thinnings[level].at(self.survives(from, to))
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

/// How 1, 2, 4, … readers thin out, laid onto the same numbers.
fn thinnings(levels: usize) -> Vec<Thinning> {
    let powers: Vec<u32> = (0..levels).map(|level| 1 << level).collect();
    powers
        .iter()
        .map(|readers| Thinning::new(&powers, *readers))
        .collect()
}
