//! The ages that the cadence tells apart: bins that grow with age, relative to the life of a key.
//!
//! Nothing here is in absolute time but the life itself, so that the demo's day of a few seconds behaves as a day does.

use std::ops::Range;
use std::time::Duration;

/// How many octaves below the life of a key the first bin ends: 0.66 s for a day.
const OCTAVES: u32 = 17;
/// Bins an octave: neighbours differ by 6 %, finer than any habit that can be learned and than the jitter.
pub(super) const BINS_PER_OCTAVE: u32 = 12;
/// No life is shorter than this, in seconds: a setting of zero must not make bins of zero width.
const SHORTEST_LIFE: f64 = 1e-3;

/// Log-spaced bins of age, from zero to the end of a key's life.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grid {
    /// Seconds: the first is zero, the last the life of a key.
    edges: Vec<f64>,
}

impl Grid {
    /// The bins for keys that live so long.
    pub(super) fn new(lifetime: Duration) -> Self {
        let lifetime = lifetime.as_secs_f64().max(SHORTEST_LIFE);
        let steps = OCTAVES * BINS_PER_OCTAVE;
        let edge = |step: u32| {
            let octaves = f64::from(steps - step) / f64::from(BINS_PER_OCTAVE);
            lifetime * (-octaves).exp2()
        };
        let edges = std::iter::once(0.0).chain((0..=steps).map(edge)).collect();
        Self { edges }
    }

    /// The bins' ends in seconds, one more than there are bins.
    pub(super) fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// How many bins there are.
    pub(super) fn bins(&self) -> usize {
        self.edges.len() - 1
    }

    /// The end of the last bin, in seconds.
    pub(super) fn lifetime(&self) -> f64 {
        self.edges[self.bins()]
    }

    /// A bin's width in seconds.
    pub(super) fn width(&self, bin: usize) -> f64 {
        self.edges[bin + 1] - self.edges[bin]
    }

    /// The bin that holds an age in seconds; the last one for all that is older.
    pub(super) fn bin_of(&self, age: f64) -> usize {
        self.edges
            .partition_point(|edge| *edge <= age)
            .clamp(1, self.bins())
            - 1
    }

    /// The bins that hold a part of `from..to` (seconds). What lies beyond the life of a key is in none.
    pub(super) fn bins_within(&self, from: f64, to: f64) -> Range<usize> {
        if from >= to.min(self.lifetime()) {
            return 0..0;
        }
        let end = self.edges.partition_point(|edge| *edge < to);
        self.bin_of(from)..end.min(self.bins())
    }

    /// The parts of `from..to` (seconds) by bin: the bin, where its part starts, where it ends.
    pub(super) fn parts(&self, from: f64, to: f64) -> impl Iterator<Item = (usize, f64, f64)> {
        self.bins_within(from, to).map(move |bin| {
            let (start, end) = (self.edges[bin], self.edges[bin + 1]);
            (bin, start.max(from), end.min(to))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn bins_grow_evenly_up_to_the_end_of_life() {
        let grid = Grid::new(DAY);
        assert_eq!(grid.bins(), 205);
        assert_eq!(grid.lifetime(), 86_400.0);
        let edges = grid.edges();
        assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
        for pair in edges[1..].windows(2) {
            let ratio = pair[1] / pair[0];
            assert!((ratio - 2_f64.powf(1.0 / 12.0)).abs() < 1e-9, "{ratio}");
        }
    }

    #[test]
    fn a_shorter_life_has_the_same_bins_scaled() {
        let (day, demo) = (Grid::new(DAY), Grid::new(DAY / 8640));
        for (long, short) in day.edges().iter().zip(demo.edges()) {
            assert!((long / 8640.0 - short).abs() < 1e-9);
        }
    }

    #[test]
    fn parts_cover_an_interval_once() {
        let grid = Grid::new(DAY);
        for (from, to) in [(0.0, 10.0), (0.3, 0.4), (7.0, 90_000.0), (5.0, 5.0)] {
            let parts: Vec<_> = grid.parts(from, to).collect();
            let covered: f64 = parts.iter().map(|(_, start, end)| end - start).sum();
            assert!((covered - (to.min(86_400.0) - from)).abs() < 1e-6);
            assert!(parts.windows(2).all(|pair| pair[0].2 == pair[1].1));
        }
        assert_eq!(grid.parts(90_000.0, 100_000.0).count(), 0);
    }

    #[test]
    fn every_age_has_a_bin() {
        let grid = Grid::new(DAY);
        assert_eq!(grid.bin_of(0.0), 0);
        assert_eq!(grid.bin_of(1e12), grid.bins() - 1);
        for bin in 0..grid.bins() {
            assert_eq!(grid.bin_of(grid.edges()[bin]), bin);
        }
    }
}
