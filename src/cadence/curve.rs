//! An estimate of when reads happen.

use super::grid::Grid;

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

    /// From [`Self::cumulative`].
    pub(super) fn new(kind: Kind, cumulative: Vec<f64>) -> Self {
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

    /// How well this estimate foretold what a complete walk saw (`reads` in `from..to`, while `waiting` more were waited
    /// for): the logarithm of its likelihood, as of one reader however many there were, since those of one message read
    /// alike.
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
    pub(super) fn progress(&self, grid: &Grid, age: f64) -> f64 {
        self.kind.progress(self.at(grid, age))
    }

    /// [`Self::progress`] at each edge of the grid.
    pub(super) fn progress_at_edges(&self) -> &[f64] {
        &self.progress
    }

    fn at(&self, grid: &Grid, age: f64) -> f64 {
        let bin = grid.bin_of(age);
        let within = ((age - grid.edges()[bin]) / grid.width(bin)).clamp(0.0, 1.0);
        self.cumulative[bin] + within * (self.cumulative[bin + 1] - self.cumulative[bin])
    }
}
