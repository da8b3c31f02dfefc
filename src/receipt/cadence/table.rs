//! A life table: how many reads were seen in each bin of age, and how much waiting they were seen in.
//!
//! A poll only bounds a read: it lies between two walks. Each read is spread over that interval as the present estimate
//! would have it there, which is the expectation step of the EM algorithm for interval-censored data (Turnbull 1976);
//! the ratio of the sums is its maximisation step, smoothed over neighbouring bins (Silverman, Jones, Wilson and
//! Nychka 1990) since polls at the same ages every time leave the shape within an interval open.

use std::ops::Range;
use std::sync::LazyLock;
use std::time::Duration;

use super::grid::Grid;
use super::prior;

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

/// Which of the two tables: their units differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `expected_readers` is known. Exposure in missing readers × seconds; a reader who has read is at risk no more.
    PerReader,
    /// It is not. Exposure in messages × seconds; a message brings reads for as long as it lives.
    PerMessage,
}

impl Kind {
    /// See [`Curve::progress`]; `sum` as in [`Curve::cumulative`]. Of readers it is those left, with a minus.
    fn progress(self, sum: f64) -> f64 {
        match self {
            Self::PerReader => -(-sum).exp(),
            Self::PerMessage => sum,
        }
    }
}

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

/// Where the reads of an interval of age lie, as an estimate has it.
#[derive(Debug)]
pub(super) struct Spread {
    bins: Range<usize>,
    /// Where the bins' parts of the interval begin and end, in seconds.
    ages: Vec<f64>,
    /// The share of the reads that happened by each of these ages.
    read: Vec<f64>,
}

impl Spread {
    /// `None` for an interval that holds nothing of a key's life.
    pub(super) fn new(grid: &Grid, curve: &Curve, (from, to): (f64, f64)) -> Option<Self> {
        let to = to.min(grid.lifetime());
        if from >= to {
            return None;
        }
        let bins = grid.bin_of(from)..grid.bin_of(to) + 1;
        let cut = |edges: &[f64], from: f64, to: f64| {
            let mut cut = Vec::with_capacity(bins.len() + 1);
            cut.push(from);
            cut.extend_from_slice(&edges[bins.start + 1..bins.end]);
            cut.push(to);
            cut
        };
        let ages = cut(grid.edges(), from, to);
        let (first, last) = (curve.progress(grid, from), curve.progress(grid, to));
        let mut read = if last - first > f64::MIN_POSITIVE {
            cut(&curve.progress, first, last)
        } else {
            // Where the estimate sees nothing at all in the interval, any place in it is as good.
            ages.clone()
        };
        let (first, last) = (read[0], read[bins.len()]);
        let scale = 1.0 / (last - first);
        for read in &mut read {
            *read = (*read - first) * scale;
        }
        Some(Self { bins, ages, read })
    }

    /// How long a read waited on average for the walk that saw it at the age `to`, in seconds.
    pub(super) fn delay(&self, to: f64) -> f64 {
        let mut delay = 0.0;
        for ((start, end), (before, after)) in self.parts() {
            delay += (after - before) * (to - (start + end) / 2.0);
        }
        delay
    }

    /// The parts' ages, and the shares by then.
    fn parts(&self) -> impl Iterator<Item = ((&f64, &f64), (&f64, &f64))> {
        let ages = self.ages.iter().zip(&self.ages[1..]);
        ages.zip(self.read.iter().zip(&self.read[1..]))
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

/// An estimate of when reads happen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub(super) kind: Kind,
    /// At each edge of the grid: the cumulative hazard of a reader, or the mean number of reads of a message.
    cumulative: Vec<f64>,
    /// [`Self::progress`] at each edge, which every walk asks for.
    progress: Vec<f64>,
}

impl Curve {
    /// A curve that is known: `share` gives what [`Self::mass`] shall give at each age in seconds.
    pub(super) fn known(kind: Kind, grid: &Grid, share: impl Fn(f64) -> f64) -> Self {
        let cumulative = grid.edges().iter().map(|age| match kind {
            Kind::PerReader => -(1.0 - share(*age)).max(1e-12).ln(),
            Kind::PerMessage => share(*age),
        });
        Self::new(kind, cumulative.collect())
    }

    fn new(kind: Kind, cumulative: Vec<f64>) -> Self {
        let progress = cumulative.iter().map(|sum| kind.progress(*sum));
        Self {
            kind,
            progress: progress.collect(),
            cumulative,
        }
    }

    /// The share of readers that have read by `age` seconds, or the mean number of reads of a message by then.
    pub(super) fn mass(&self, grid: &Grid, age: f64) -> f64 {
        match self.kind {
            Kind::PerReader => -(-self.at(grid, age)).exp_m1(),
            Kind::PerMessage => self.at(grid, age),
        }
    }

    /// How well this estimate foretold what a complete walk saw, see [`Table::add`]: the logarithm of its likelihood, as of
    /// one reader however many there were, since those of one message read alike.
    pub(super) fn foretells(
        &self,
        grid: &Grid,
        (from, to): (f64, f64),
        reads: f64,
        waiting: f64,
    ) -> f64 {
        let share = self.share(grid, from, to).max(1e-9);
        match self.kind {
            Kind::PerReader => {
                let missed = (1.0 - share).max(1e-9);
                (reads * share.ln() + waiting * missed.ln()) / (reads + waiting).max(1.0)
            }
            // A Poisson number of reads, its factor that no estimate changes left out.
            Kind::PerMessage => (reads * share.ln() - share) / reads.max(share).max(1.0),
        }
    }

    /// The share of a part's reads among those still at risk at its start.
    fn share(&self, grid: &Grid, start: f64, end: f64) -> f64 {
        let events = self.at(grid, end) - self.at(grid, start);
        match self.kind {
            Kind::PerReader => -(-events).exp_m1(),
            Kind::PerMessage => events,
        }
    }

    /// A measure that grows as reads do: its growth over an interval is to that over another as the reads in the one are
    /// to the reads in the other.
    fn progress(&self, grid: &Grid, age: f64) -> f64 {
        self.kind.progress(self.at(grid, age))
    }

    fn at(&self, grid: &Grid, age: f64) -> f64 {
        let bin = grid.bin_of(age);
        let within = ((age - grid.edges()[bin]) / grid.width(bin)).clamp(0.0, 1.0);
        self.cumulative[bin] + within * (self.cumulative[bin + 1] - self.cumulative[bin])
    }
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
    fn an_interval_is_cut_at_the_edges_of_its_bins() {
        let grid = day();
        let believed = Table::new(Kind::PerReader, &grid).curve(&grid);
        let blind = Curve::known(Kind::PerReader, &grid, |_| 0.0);
        let edge = grid.edges()[100];
        for (from, to) in [
            (0.0, 10.0),
            (7.0, 90_000.0),
            (300.0, 300.1),
            (3.0, edge),
            (edge, 1e5),
        ] {
            for curve in [&believed, &blind] {
                let spread = Spread::new(&grid, curve, (from, to)).unwrap();
                assert_eq!((spread.ages[0], spread.read[0]), (from, 0.0));
                assert_eq!(spread.ages.last(), Some(&to.min(86_400.0)));
                assert!((spread.read[spread.bins.len()] - 1.0).abs() < 1e-9);
                for (bin, ((start, end), (before, after))) in
                    spread.bins.clone().zip(spread.parts())
                {
                    assert!(grid.edges()[bin] <= *start && *end <= grid.edges()[bin + 1]);
                    assert!(start <= end && *before <= after + 1e-12);
                }
            }
            // Where nothing is foretold, a read may lie anywhere: in the middle, on average.
            let spread = Spread::new(&grid, &blind, (from, to)).unwrap();
            let middle = (from + to.min(86_400.0)) / 2.0;
            assert!((spread.delay(to) - (to - middle)).abs() < 1e-6 * to);
        }
        assert!(Spread::new(&grid, &believed, (90_000.0, 100_000.0)).is_none());
        assert!(Spread::new(&grid, &believed, (5.0, 5.0)).is_none());
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
