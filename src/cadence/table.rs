//! A life table: how many reads were seen in each bin of age, and how much waiting they were seen in.
//!
//! A poll only bounds a read: it lies between two walks. Each read is spread over that interval as the present estimate
//! would have it there, which is the expectation step of the EM algorithm for interval-censored data (Turnbull 1976);
//! the ratio of the sums is its maximisation step, smoothed over neighbouring bins (Silverman, Jones, Wilson and
//! Nychka 1990) since polls at the same ages every time leave the shape within an interval open.

use std::sync::LazyLock;
use std::time::Duration;

use super::curve::{Curve, Kind};
use super::grid::Grid;
use super::prior;
use super::spread::Spread;

/// So many messages' worth of pseudo-observations stand for the prior. A few: a hundred real messages overrule it.
const PRIOR_MESSAGES: f64 = 8.0;
/// The standard deviation of the smoothing, in bins: a third of an octave, well below the breadth of human habits.
const SMOOTHING_BINS: f64 = 4.0;
/// How far the smoothing reaches, in bins.
const SMOOTHING_REACH: usize = 10;

/// The prior at each edge of a grid. Edges are fixed parts of a key's life, so that it is the same on every grid.
static BELIEVED: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let grid = Grid::new(Duration::from_secs(1));
    grid.edges()
        .iter()
        .map(|edge| prior::share_read_by(edge / grid.lifetime()))
        .collect()
});

/// What was seen, without the prior: two numbers a bin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) kind: Kind,
    /// Reads.
    pub(super) events: Vec<f64>,
    /// Seconds of waiting for a read, see [`Kind`].
    pub(super) exposure: Vec<f64>,
}

impl Table {
    /// Nothing seen yet.
    pub(super) fn new(kind: Kind, grid: &Grid) -> Self {
        Self {
            kind,
            events: vec![0.0; grid.bins()],
            exposure: vec![0.0; grid.bins()],
        }
    }

    /// Weighs all that was seen down by `factor`. The prior does not fade.
    pub(super) fn fade(&mut self, factor: f64) {
        for number in self.events.iter_mut().chain(&mut self.exposure) {
            *number *= factor;
        }
    }

    /// How many reads were seen, as far as they are remembered.
    pub(super) fn weight(&self) -> f64 {
        self.events.iter().sum()
    }

    /// Adds what one walk saw: `reads` somewhere in an interval, spread as the present estimate has them, while `waiting`
    /// more readers (or the message itself, where their number is unknown) were waited for throughout.
    pub(super) fn add(&mut self, spread: &Spread, reads: f64, waiting: f64) {
        let readers = match self.kind {
            Kind::PerReader => reads,
            Kind::PerMessage => 0.0,
        };
        let bins = spread.bins.clone();
        let seen = self.events[bins.clone()]
            .iter_mut()
            .zip(&mut self.exposure[bins]);
        // No bin depends on another, so that the compiler does several at once: a walk may cover two hundred.
        for ((events, exposure), ((start, end), (before, after))) in seen.zip(spread.parts()) {
            // What is rounded below zero would be refused when it is read again from the store.
            let (read, unread) = (after - before, 1.0 - (before + after) / 2.0);
            *events += reads * read.max(0.0);
            *exposure += (end - start) * (waiting + readers * unread.max(0.0));
        }
    }

    /// The present estimate: what was seen and the prior together.
    pub(super) fn curve(&self, grid: &Grid) -> Curve {
        let believed = &*BELIEVED;
        // Bins are even in the logarithm of age, so what is smoothed is the probability of a read within a bin: reads
        // over the mean number at risk there.
        let (events, at_risk): (Vec<f64>, Vec<f64>) = (0..grid.bins())
            .map(|bin| {
                let left = match self.kind {
                    Kind::PerReader => 1.0 - (believed[bin] + believed[bin + 1]) / 2.0,
                    Kind::PerMessage => 1.0,
                };
                let prior_events = PRIOR_MESSAGES * (believed[bin + 1] - believed[bin]);
                (
                    self.events[bin] + prior_events,
                    self.exposure[bin] / grid.width(bin) + PRIOR_MESSAGES * left,
                )
            })
            .unzip();
        let (events, at_risk) = (smooth(&events), smooth(&at_risk));
        let mut cumulative = Vec::with_capacity(grid.bins() + 1);
        let mut sum = 0.0;
        cumulative.push(sum);
        for (events, at_risk) in events.iter().zip(&at_risk) {
            sum += events / at_risk.max(f64::MIN_POSITIVE);
            cumulative.push(sum);
        }
        Curve::new(self.kind, cumulative)
    }

    /// The same observations on another grid, spread evenly within each bin.
    pub(super) fn rebinned(&self, from: &Grid, to: &Grid) -> Self {
        let mut table = Self::new(self.kind, to);
        for bin in 0..from.bins() {
            let (start, end) = (from.edges()[bin], from.edges()[bin + 1]);
            for (target, part_start, part_end) in to.parts(start, end) {
                let share = (part_end - part_start) / (end - start);
                table.events[target] += self.events[bin] * share;
                table.exposure[target] += self.exposure[bin] * share;
            }
        }
        table
    }
}

/// A weighted mean over neighbours; at the ends over those that there are.
fn smooth(values: &[f64]) -> Vec<f64> {
    let (mut sums, mut totals) = (vec![0.0; values.len()], vec![0.0; values.len()]);
    // Distance by distance and not value by value: a straight run over the arrays, which takes an eighth of the time.
    let mut take = |centres: std::ops::Range<usize>, neighbours: &[f64], weight: f64| {
        let sums = sums[centres.clone()].iter_mut();
        for ((sum, total), value) in sums.zip(&mut totals[centres]).zip(neighbours) {
            *sum += weight * value;
            *total += weight;
        }
    };
    let all = values.len();
    take(0..all, values, 1.0);
    for distance in 1..=SMOOTHING_REACH.min(all) {
        // Exact: a distance is at most SMOOTHING_REACH.
        let deviations = f64::from(u32::try_from(distance).unwrap_or(u32::MAX)) / SMOOTHING_BINS;
        let weight = (-deviations * deviations / 2.0).exp();
        take(distance..all, &values[..all - distance], weight);
        take(0..all - distance, &values[distance..], weight);
    }
    sums.iter()
        .zip(&totals)
        .map(|(sum, total)| sum / total)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day() -> Grid {
        Grid::new(Duration::from_secs(86_400))
    }

    #[test]
    fn an_empty_table_is_the_prior() {
        let grid = day();
        for kind in [Kind::PerReader, Kind::PerMessage] {
            let curve = Table::new(kind, &grid).curve(&grid);
            for age in [10.0, 300.0, 3_600.0, 40_000.0] {
                let believed = prior::share_read_by(age / 86_400.0);
                let learned = curve.mass(&grid, age);
                assert!(
                    (learned - believed).abs() < 0.02,
                    "{age}: {learned} {believed}"
                );
            }
        }
    }

    #[test]
    fn a_read_counts_once_wherever_it_is_spread() {
        let grid = day();
        for kind in [Kind::PerReader, Kind::PerMessage] {
            let mut table = Table::new(kind, &grid);
            let curve = table.curve(&grid);
            let spread = Spread::new(&grid, &curve, (100.0, 5_000.0)).unwrap();
            table.add(&spread, 3.0, 0.0);
            let seen = table.events.iter().chain(&table.exposure);
            assert!(seen.into_iter().all(|number| *number >= 0.0));
            let delay = 3.0 * spread.delay(5_000.0);
            assert!((table.weight() - 3.0).abs() < 1e-9);
            assert!(delay > 0.0 && delay < 3.0 * 4_900.0);
            // Readers who read within the interval waited a part of it; a message that nobody waits for, not at all.
            let waited: f64 = table.exposure.iter().sum();
            match kind {
                Kind::PerReader => assert!((waited + delay - 3.0 * 4_900.0).abs() < 1.0),
                Kind::PerMessage => assert_eq!(waited, 0.0),
            }
        }
    }

    #[test]
    fn another_grid_keeps_the_counts() {
        let (from, to) = (day(), Grid::new(Duration::from_secs(40_000)));
        let mut table = Table::new(Kind::PerReader, &from);
        let curve = table.curve(&from);
        table.add(
            &Spread::new(&from, &curve, (50.0, 900.0)).unwrap(),
            5.0,
            7.0,
        );
        let moved = table.rebinned(&from, &to);
        assert!((moved.weight() - 5.0).abs() < 1e-9);
        let total = |table: &Table| table.exposure.iter().sum::<f64>();
        assert!((total(&moved) - total(&table)).abs() < 1e-6);
    }
}
