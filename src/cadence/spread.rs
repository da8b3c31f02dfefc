//! Where the reads that a walk saw lie: somewhere since the walk before, as the present estimate has it. This is the
//! expectation step of [`super::table`].

use std::ops::Range;

use super::curve::Curve;
use super::grid::Grid;

/// The reads of an interval of age, bin by bin.
#[derive(Debug)]
pub(super) struct Spread {
    /// The bins that the interval touches.
    pub(super) bins: Range<usize>,
    /// Where the bins' parts of the interval begin and end, in seconds.
    ages: Vec<f64>,
    /// The share of the reads that happened by each of these ages.
    read: Vec<f64>,
}

impl Spread {
    /// `None` for an interval that holds nothing of a key's life.
    pub(super) fn new(grid: &Grid, curve: &Curve, (from, to): (f64, f64)) -> Option<Self> {
        let bins = grid.bins_within(from, to);
        if bins.is_empty() {
            return None;
        }
        let to = to.min(grid.lifetime());
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
            cut(curve.progress_at_edges(), first, last)
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
    pub(super) fn parts(&self) -> impl Iterator<Item = ((&f64, &f64), (&f64, &f64))> {
        let ages = self.ages.iter().zip(&self.ages[1..]);
        ages.zip(self.read.iter().zip(&self.read[1..]))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::curve::Kind;
    use super::super::table::Table;
    use super::*;

    #[test]
    fn an_interval_is_cut_at_the_edges_of_its_bins() {
        let grid = Grid::new(Duration::from_secs(86_400));
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
}
