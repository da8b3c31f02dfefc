//! When people read: how many reads were seen in each bin of age, how much waiting they were seen in, and the estimate that
//! follows.
//!
//! A poll only bounds a read: it lies between two polls. Each read is spread over that interval as the present estimate
//! would have it there, which is the expectation step of the EM algorithm for interval-censored data (Turnbull 1976). The
//! estimate is a smooth multiple of the prior: the logarithm of the multiple is fitted by penalised likelihood (P-splines,
//! Eilers and Marx 1996), so that where little was seen it goes on as it went where much was.

use std::sync::LazyLock;
use std::time::Duration;

use super::activity::{HOUR, HOURS, NOBODY, Rhythm, hour_of_week, into_hour};
use super::grid::{BINS_PER_OCTAVE, Grid};

/// How much the trend of the multiple's logarithm changes from bin to bin, as a standard deviation.
const BEND: f64 = 0.012;
/// How far that logarithm lies from zero before anything was seen, as a standard deviation for each octave of age.
const BREADTH: f64 = 10.0;
/// A read whose time is known lies within so many seconds before it: DingTalk says whole seconds.
const A_READ: f64 = 1.0;
/// Newton's method has converged below such a step.
const CONVERGED: f64 = 1e-3;

/// Which of the two tables: their units differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `expected_readers` is known. Exposure in missing readers × seconds; a reader who is ready to read is at risk no more.
    PerReader,
    /// It is not. Exposure in messages × seconds; a message brings reads for as long as it lives.
    PerMessage,
}

/// An estimate of when people are ready to read: where they sleep at no hour, of when they read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub(super) kind: Kind,
    /// At each edge of the grid: the share of readers that are not ready by then, or minus the mean number of a message's reads.
    rest: Vec<f64>,
}

impl Curve {
    /// The share of readers that are ready by `age` seconds, or the mean number of reads of a message by then.
    pub(super) fn mass(&self, grid: &Grid, age: f64) -> f64 {
        self.rest[0] - self.rest_at(grid, grid.bin_of(age), age)
    }

    /// What is left at an age in seconds that lies in a bin, all through which the hazard is the same.
    fn rest_at(&self, grid: &Grid, bin: usize, age: f64) -> f64 {
        let (first, last) = (self.rest[bin], self.rest[bin + 1]);
        let within = (age - grid.edges()[bin]) / grid.width(bin);
        if within <= 0.0 {
            first
        } else if within >= 1.0 || first == last {
            last
        } else {
            match self.kind {
                Kind::PerReader => first * (last / first).powf(within),
                Kind::PerMessage => first + within * (last - first),
            }
        }
    }
}

/// What one poll saw: `reads` between the ages `from` and `to`, in seconds, while `waiting` more were waited for throughout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// When the message was sent, in Unix milliseconds.
    pub(super) sent_at: i64,
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) reads: f64,
    pub(super) waiting: f64,
    /// Every page was read.
    pub(super) complete: bool,
}

impl Seen {
    /// The day of the poll, since 1970.
    pub(super) fn day(&self) -> i64 {
        // Rounded down; no age is beyond what an i64 holds.
        #[allow(clippy::cast_possible_truncation)]
        let now = self.sent_at.saturating_add((self.to * 1e3) as i64);
        now.div_euclid(86_400_000)
    }

    /// What is known where some of the reads have a time, at ages `read`: of each of these readers that he had not read shortly
    /// before, and had then, which are complete polls of him alone; and what the poll says of all others. Nothing where no read
    /// has a time.
    pub(super) fn parts(self, kind: Kind, read: &[f64]) -> Vec<Self> {
        if read.is_empty() {
            return Vec::new();
        }
        let mut untimed = self.reads;
        let mut parts = Vec::with_capacity(1 + 2 * read.len());
        for age in read {
            untimed -= 1.0;
            let before = (age - A_READ).clamp(self.from, self.to);
            let of_one = Self {
                waiting: 0.0,
                complete: true,
                ..self
            };
            if kind == Kind::PerReader && before > self.from {
                parts.push(Self {
                    to: before,
                    reads: 0.0,
                    waiting: 1.0,
                    ..of_one
                });
            }
            parts.push(Self {
                from: before,
                to: age.max(before + A_READ).min(self.to.max(before + A_READ)),
                reads: 1.0,
                ..of_one
            });
        }
        let others = Self {
            reads: untimed.max(0.0),
            ..self
        };
        if others.reads > 0.0 || self.complete {
            parts.push(others);
        }
        parts
    }

    /// How many readers it speaks of, as one of those that speak of a message.
    pub(super) fn weight(&self, kind: Kind) -> f64 {
        match kind {
            Kind::PerReader => (self.reads + self.waiting).max(1.0),
            Kind::PerMessage => self.reads.max(1.0),
        }
    }
}

/// A part of a message's life within one bin and one hour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    bin: usize,
    pub(super) hour: usize,
    pub(super) start: f64,
    end: f64,
    /// The share of readers that become ready in it, or of a message's reads the mean number.
    ready: f64,
    /// Of those the shares that have read by `from` and by `to`.
    by_from: f64,
    by_to: f64,
}

/// What a poll says under an estimate: the cells that its reads and the missing may have become ready in.
#[derive(Debug)]
pub(super) struct Posterior {
    kind: Kind,
    pub(super) seen: Seen,
    cells: Vec<Cell>,
    /// The chance to have read within the interval, or the mean number of reads in it.
    read: f64,
    /// The chances not to have read by the interval's ends: [`Kind::PerReader`] alone.
    unread_from: f64,
    unread_to: f64,
    /// The chances not even to be ready by then.
    unready_from: f64,
    unready_to: f64,
}

impl Posterior {
    /// `None` for an interval that holds nothing of a key's life.
    pub(super) fn new(
        grid: &Grid,
        curve: &Curve,
        rhythm: Option<&Rhythm>,
        mut seen: Seen,
    ) -> Option<Self> {
        seen.to = seen.to.min(grid.lifetime());
        if seen.from >= seen.to {
            return None;
        }
        // Without a rhythm all who were ready had read: what lies before the interval says nothing.
        let begin = if rhythm.is_some() { 0.0 } else { seen.from };
        let mut cells = cells(grid, curve, seen.sent_at, begin, seen.from, seen.to);
        if let Some(rhythm) = rhythm {
            rhythm.shares_read(seen.sent_at, seen.to, &mut cells, |cell, share| {
                cell.by_to = share;
            });
            rhythm.shares_read(seen.sent_at, seen.from, &mut cells, |cell, share| {
                cell.by_from = share;
            });
        }
        let unready = |age: f64| 1.0 - curve.mass(grid, age);
        let (unready_from, unready_to) = (unready(seen.from), unready(seen.to));
        let (mut read, mut asleep_from, mut asleep_to) = (0.0, 0.0, 0.0);
        for cell in &cells {
            read += cell.ready * (cell.by_to - cell.by_from);
            asleep_to += cell.ready * (1.0 - cell.by_to);
            if cell.end <= seen.from {
                asleep_from += cell.ready * (1.0 - cell.by_from);
            }
        }
        Some(Self {
            kind: curve.kind,
            seen,
            cells,
            read: read.max(1e-300),
            unread_from: (unready_from + asleep_from).max(1e-12),
            unread_to: (unready_to + asleep_to).max(1e-12),
            unready_from,
            unready_to,
        })
    }

    /// How well the estimate foretold what a complete poll saw: the logarithm of its likelihood, as of one reader however
    /// many there were, since those of one message read alike.
    pub(super) fn log_likelihood(&self) -> f64 {
        let Seen { reads, waiting, .. } = self.seen;
        match self.kind {
            Kind::PerReader => {
                let share = (self.read / self.unread_from).clamp(1e-9, 1.0 - 1e-9);
                (reads * share.ln() + waiting * (-share).ln_1p()) / (reads + waiting).max(1.0)
            }
            // A Poisson number of reads, its factor that no estimate changes left out.
            Kind::PerMessage => {
                let mean = self.read.max(1e-9);
                (reads * mean.ln() - mean) / reads.max(mean).max(1.0)
            }
        }
    }

    /// Adds what the poll says of ages to a table: the expectation of what is known after it, less that of what was known
    /// before, so that all polls of a message together say what its last one does.
    fn add_to(&self, table: &mut Table) {
        let Seen { from, reads, .. } = self.seen;
        let waiting = if self.seen.complete {
            self.seen.waiting
        } else {
            0.0
        };
        let by_read = reads / self.read;
        let (by_unread, by_before) = match self.kind {
            Kind::PerReader => (
                waiting / self.unread_to,
                (reads + waiting) / self.unread_from,
            ),
            Kind::PerMessage => (waiting, waiting),
        };
        // Who becomes ready later is at risk before: from the last cell to the first.
        let mut later = by_unread * self.unready_to;
        let mut later_before = by_before * self.unready_from;
        for cell in self.cells.iter().rev() {
            let before = cell.end <= from;
            let mut ready = cell.ready
                * (by_read * (cell.by_to - cell.by_from) + by_unread * (1.0 - cell.by_to));
            let mut at_risk = later + ready / 2.0;
            later += ready;
            if before {
                let was = cell.ready * by_before * (1.0 - cell.by_from);
                at_risk -= later_before + was / 2.0;
                later_before += was;
                ready -= was;
            }
            if self.kind == Kind::PerMessage {
                at_risk = if before { 0.0 } else { waiting };
            }
            // Between two polls the estimate may have changed a little; no bin may hold less than nothing.
            let (events, exposure) = (&mut table.events[cell.bin], &mut table.exposure[cell.bin]);
            *events = (*events + ready).max(0.0);
            *exposure = (*exposure + at_risk * (cell.end - cell.start)).max(0.0);
        }
    }

    /// For each hour that the interval touches: how many people read in it or had before, and how many would have if everybody
    /// was awake. Those of one message count as one reader.
    pub(super) fn by_hour(&self, rhythm: Option<&Rhythm>, mut take: impl FnMut(usize, f64, f64)) {
        let Seen {
            sent_at,
            from,
            to,
            reads,
            waiting,
            ..
        } = self.seen;
        let (scale, by_all) = match self.kind {
            Kind::PerReader => {
                let all = reads + waiting;
                (1.0 / all.max(1.0), all / self.unread_from)
            }
            Kind::PerMessage => (1.0 / reads.max(1.0), 1.0),
        };
        let (by_read, by_all) = (scale * reads / self.read, scale * by_all);
        // Who slept, by the share of people that was awake at most since they became ready.
        let mut asleep: Vec<(f64, f64)> = vec![];
        let mut before = usize::MAX;
        for cell in &self.cells {
            let awake = rhythm.map_or(1.0, |rhythm| rhythm.awake(cell.hour));
            if cell.hour != before {
                before = cell.hour;
                let begin = cell.start - into_hour(sent_at, cell.start);
                let chance = Rhythm::woken(to - begin) - Rhythm::woken((from - begin).max(0.0));
                let mut woken = 0.0;
                while let Some((most, people)) = asleep.pop_if(|(most, _)| *most < awake) {
                    // As many people more had read before, as a share of all; what these do tells of the rest.
                    let rest = 1.0 - most;
                    let all = chance * people * by_all * rest;
                    let read = chance * people * by_read * (awake - most);
                    take(cell.hour, all * most + read * rest, all);
                    woken += people;
                }
                asleep.push((awake, woken));
            }
            if cell.start >= from {
                take(cell.hour, by_read * cell.ready * awake, by_all * cell.ready);
            }
            if let Some((_, people)) = asleep.last_mut() {
                *people += cell.ready;
            }
        }
    }

    /// Whether about everybody slept for most of the interval, and at its end.
    pub(super) fn is_of_sleep(&self, rhythm: Option<&Rhythm>) -> bool {
        let Some(rhythm) = rhythm else {
            return false;
        };
        let Seen { from, to, .. } = self.seen;
        let sleeps = |cell: &Cell| rhythm.awake(cell.hour) < NOBODY;
        let within = self.cells.iter().filter(|cell| cell.start >= from);
        let asleep = within
            .filter(|cell| sleeps(cell))
            .map(|cell| cell.end - cell.start);
        self.cells.last().is_some_and(sleeps) && 2.0 * asleep.sum::<f64>() > to - from
    }

    /// How long the reads waited for the poll that saw them, in seconds, all together.
    pub(super) fn delay(&self, rhythm: Option<&Rhythm>) -> f64 {
        let Seen {
            from, to, reads, ..
        } = self.seen;
        let (mut delay, mut awake_since) = (0.0, to);
        for cell in self.cells.iter().rev() {
            let read = cell.ready * (cell.by_to - cell.by_from);
            let awake = rhythm.map_or(1.0, |rhythm| rhythm.awake(cell.hour));
            if cell.start >= from {
                let at_once = (cell.ready * awake).min(read);
                delay += at_once * (to - (cell.start + cell.end) / 2.0);
                // Who slept reads about when people wake.
                delay += (read - at_once) * (to - awake_since.max(cell.end));
            } else {
                delay += read * (to - awake_since.max(from));
            }
            if awake > 0.5 {
                awake_since = cell.start;
            }
        }
        reads * delay / self.read
    }
}

/// The parts of `begin..to` by bin and hour, cut at `from` too.
fn cells(grid: &Grid, curve: &Curve, sent_at: i64, begin: f64, from: f64, to: f64) -> Vec<Cell> {
    let bins = grid.bins_within(begin, to);
    let mut cells = Vec::with_capacity(bins.len() + 32);
    let mut hour = hour_of_week(sent_at, begin);
    let mut next_hour = HOUR - into_hour(sent_at, begin) + begin;
    let mut start = begin;
    let mut rest = curve.rest_at(grid, bins.start, begin);
    for bin in bins {
        let bin_end = grid.edges()[bin + 1].min(to);
        while start < bin_end {
            let mut end = bin_end.min(next_hour);
            if start < from {
                end = end.min(from);
            }
            let rest_then = curve.rest_at(grid, bin, end);
            cells.push(Cell {
                bin,
                hour,
                start,
                end,
                // Where the estimate sees nothing at all, any place is as good as another.
                ready: (rest - rest_then).max(1e-12 * (end - start)),
                by_from: 0.0,
                by_to: 1.0,
            });
            (start, rest) = (end, rest_then);
            if end >= next_hour {
                hour = (hour + 1) % HOURS;
                next_hour += HOUR;
            }
        }
    }
    cells
}

/// The prior's probability that a reader who is not ready becomes so, for each bin of a grid, and a message's mean number of
/// reads. Bins are fixed parts of a key's life, so that it is the same on every grid.
static PRIOR: LazyLock<[Vec<f64>; 2]> = LazyLock::new(|| {
    let grid = Grid::new(Duration::from_secs(1));
    let shares: Vec<f64> = grid
        .edges()
        .iter()
        .map(|edge| prior_share_read_by(edge / grid.lifetime()))
        .collect();
    let events = shares.windows(2).map(|pair| (pair[1] - pair[0]).max(1e-9));
    let at_risk = shares
        .windows(2)
        .map(|pair| 1.0 - (pair[0] + pair[1]) / 2.0);
    let per_reader = events
        .clone()
        .zip(at_risk)
        .map(|(events, at_risk)| events / at_risk);
    [per_reader.collect(), events.collect()]
});

/// The share of readers that have read by an age, given as a share of a key's life, before any was seen: three kinds of
/// reader, in a life of a day at the phone (median 2 minutes), between two meetings (20 minutes), in the evening (3 hours),
/// each log-logistic. The 15 % that are left never read. Deliberately broad: a wrong prior costs calls until the habits
/// are learned, a narrow one costs far more than a broad one.
fn prior_share_read_by(age: f64) -> f64 {
    // Share of all readers, median in minutes of a day, scale of the age's logarithm.
    const PARTS: [(f64, f64, f64); 3] =
        [(0.30, 2.0, 1.05), (0.30, 20.0, 0.94), (0.25, 180.0, 0.83)];
    let by = |(share, median, scale): &(f64, f64, f64)| {
        share / (1.0 + (age * 1_440.0 / median).powf(-1.0 / scale))
    };
    PARTS.iter().map(by).sum()
}

/// What was seen, without the prior: two numbers a bin.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) kind: Kind,
    /// Readers that became ready, which is when they read but for sleep.
    pub(super) events: Vec<f64>,
    /// Seconds of waiting for that, see [`Kind`].
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

    /// Adds what a poll saw.
    pub(super) fn add(&mut self, posterior: &Posterior) {
        posterior.add_to(self);
    }

    /// The present estimate: what was seen and the prior together.
    pub(super) fn curve(&self, grid: &Grid) -> Curve {
        let prior = match self.kind {
            Kind::PerReader => &PRIOR[0],
            Kind::PerMessage => &PRIOR[1],
        };
        let expected: Vec<f64> = (0..grid.bins())
            .map(|bin| self.exposure[bin] / grid.width(bin) * prior[bin])
            .collect();
        let mut sum = 0.0;
        let logs = fit(&self.events, &expected);
        let sums = prior.iter().zip(logs).map(|(prior, log)| {
            sum += prior * log.exp();
            sum
        });
        let rest = |sum: f64| match self.kind {
            Kind::PerReader => (-sum).exp(),
            Kind::PerMessage => -sum,
        };
        Curve {
            kind: self.kind,
            rest: std::iter::once(0.0).chain(sums).map(rest).collect(),
        }
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

/// For each bin the logarithm of how many times as many reads as `expected` are to be believed after `events` were seen:
/// the mode of a posterior whose prior is a random walk of the trend. By Newton's method; the matrix has five diagonals.
fn fit(events: &[f64], expected: &[f64]) -> Vec<f64> {
    let bins = events.len();
    let bend = (BEND * BEND).recip();
    let breadth = (BREADTH * BREADTH * f64::from(BINS_PER_OCTAVE)).recip();
    let mut logs = vec![0.0_f64; bins];
    for _ in 0..40 {
        let mut diagonal = vec![0.0; bins];
        let (mut first, mut second) = (vec![0.0; bins], vec![0.0; bins]);
        let mut gradient = vec![0.0; bins];
        for bin in 0..bins {
            let mean = expected[bin] * logs[bin].exp();
            gradient[bin] += events[bin] - mean - breadth * logs[bin];
            diagonal[bin] += mean + breadth;
        }
        for bin in 1..bins - 1 {
            let pull = bend * (logs[bin - 1] - 2.0 * logs[bin] + logs[bin + 1]);
            for (at, weight) in [(bin - 1, 1.0), (bin, -2.0), (bin + 1, 1.0)] {
                gradient[at] -= weight * pull;
                diagonal[at] += weight * weight * bend;
            }
            first[bin - 1] -= 2.0 * bend;
            first[bin] -= 2.0 * bend;
            second[bin - 1] += bend;
        }
        let step = solved(&mut diagonal, &mut first, &mut second, gradient);
        let longest = step.iter().fold(0.0_f64, |most, step| most.max(step.abs()));
        let damping = longest.max(1.0).recip();
        for (log, step) in logs.iter_mut().zip(&step) {
            *log += damping * step;
        }
        if longest < CONVERGED {
            break;
        }
    }
    logs
}

/// Solves a symmetric system with five diagonals by Cholesky's method without roots: `right` becomes the answer.
fn solved(
    diagonal: &mut [f64],
    first: &mut [f64],
    second: &mut [f64],
    mut right: Vec<f64>,
) -> Vec<f64> {
    let size = right.len();
    for row in 0..size {
        if row >= 1 {
            diagonal[row] -= first[row - 1] * first[row - 1] * diagonal[row - 1];
            right[row] -= first[row - 1] * right[row - 1];
        }
        if row >= 2 {
            diagonal[row] -= second[row - 2] * second[row - 2] * diagonal[row - 2];
            right[row] -= second[row - 2] * right[row - 2];
        }
        if row >= 1 {
            first[row] -= second[row - 1] * first[row - 1] * diagonal[row - 1];
        }
        first[row] /= diagonal[row];
        second[row] /= diagonal[row];
    }
    for row in (0..size).rev() {
        right[row] /= diagonal[row];
        if row + 1 < size {
            right[row] -= first[row] * right[row + 1];
        }
        if row + 2 < size {
            right[row] -= second[row] * right[row + 2];
        }
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: f64 = 86_400.0;
    /// A Monday, 00:00 UTC.
    const MONDAY: i64 = 1_790_553_600_000;

    fn day() -> Grid {
        Grid::new(Duration::from_secs(86_400))
    }

    fn seen(from: f64, to: f64, reads: f64, waiting: f64) -> Seen {
        Seen {
            sent_at: MONDAY,
            from,
            to,
            reads,
            waiting,
            complete: true,
        }
    }

    /// Nobody is awake from 14:00 to 24:00.
    fn night() -> Rhythm {
        Rhythm::known(|hour| if hour % 24 < 14 { 1.0 } else { 0.0 })
    }

    #[test]
    fn the_prior_rises_and_leaves_some_unread() {
        let ages: Vec<f64> = (0..400).map(|n| 1e-6 * 1.035_f64.powi(n)).collect();
        let shares: Vec<f64> = ages.iter().map(|age| prior_share_read_by(*age)).collect();
        assert!(shares.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(prior_share_read_by(0.0), 0.0);
        assert!((0.75..0.86).contains(&prior_share_read_by(1.0)));
    }

    #[test]
    fn an_empty_table_is_the_prior() {
        let grid = day();
        for kind in [Kind::PerReader, Kind::PerMessage] {
            let curve = Table::new(kind, &grid).curve(&grid);
            for age in [10.0, 300.0, 3_600.0, 40_000.0] {
                let (prior, learned) = (prior_share_read_by(age / DAY), curve.mass(&grid, age));
                assert!((learned - prior).abs() < 0.02, "{age}: {learned} {prior}");
            }
        }
    }

    #[test]
    fn a_read_counts_once_wherever_it_is_spread() {
        let grid = day();
        for kind in [Kind::PerReader, Kind::PerMessage] {
            for rhythm in [None, Some(night())] {
                let mut table = Table::new(kind, &grid);
                let curve = table.curve(&grid);
                // Within the first day's waking hours, so that nobody sleeps.
                let seen = seen(100.0, 5_000.0, 3.0, 0.0);
                let posterior = Posterior::new(&grid, &curve, rhythm.as_ref(), seen).unwrap();
                table.add(&posterior);
                let delay = posterior.delay(rhythm.as_ref());
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
    }

    /// What all polls of a message say together is what its last one does: however often a night is looked into.
    #[test]
    fn polls_in_a_night_change_nothing_of_what_is_known_after_it() {
        let grid = day();
        let rhythm = night();
        for kind in [Kind::PerReader, Kind::PerMessage] {
            let curve = Table::new(kind, &grid).curve(&grid);
            let table = |polls: &[f64]| {
                let mut table = Table::new(kind, &grid);
                let mut from = 0.0;
                for (index, to) in polls.iter().enumerate() {
                    let reads = f64::from(u8::from(index + 1 == polls.len()));
                    let waiting = match kind {
                        Kind::PerReader => 1.0 - reads,
                        Kind::PerMessage => 1.0,
                    };
                    let seen = Seen {
                        sent_at: MONDAY + 12 * 3_600_000,
                        ..seen(from, *to, reads, waiting)
                    };
                    table.add(&Posterior::new(&grid, &curve, Some(&rhythm), seen).unwrap());
                    from = *to;
                }
                table
            };
            // Sent at noon, read by two in the morning.
            let often = table(&[3_600.0, 10_000.0, 15_000.0, 40_000.0, 50_000.0]);
            let once = table(&[3_600.0, 10_000.0, 50_000.0]);
            assert!(
                (often.weight() - once.weight()).abs() < 1e-6,
                "{kind:?}: {} {}",
                often.weight(),
                once.weight()
            );
            if kind == Kind::PerReader {
                // Who becomes ready within a cell is taken for ready in its middle, wherever cells are cut.
                let waited = |table: &Table| table.exposure.iter().sum::<f64>();
                let (often, once) = (waited(&often), waited(&once));
                assert!((often / once - 1.0).abs() < 0.02, "{often} {once}");
            }
        }
    }

    #[test]
    fn a_read_after_a_night_tells_of_the_hour_at_which_people_wake() {
        let grid = day();
        let rhythm = night();
        let curve = Table::new(Kind::PerReader, &grid).curve(&grid);
        // Sent at 13:00, unread at 13:30, read by half past midnight.
        let seen = Seen {
            sent_at: MONDAY + 13 * 3_600_000,
            ..seen(1_800.0, 41_400.0, 1.0, 0.0)
        };
        let posterior = Posterior::new(&grid, &curve, Some(&rhythm), seen).unwrap();
        let mut reads = [0.0; 24];
        posterior.by_hour(Some(&rhythm), |hour, read, _| reads[hour % 24] += read);
        assert!(reads[0] > 0.5 && reads[13] > 0.05, "{reads:?}");
        assert!(reads[14..].iter().all(|read| *read < 1e-9), "{reads:?}");
        // It waited for the half hour since people woke, or most of the night.
        let delay = posterior.delay(Some(&rhythm));
        assert!((1_000.0..20_000.0).contains(&delay), "{delay}");
    }

    #[test]
    fn what_was_never_seen_goes_on_as_what_was() {
        let grid = day();
        let mut table = Table::new(Kind::PerReader, &grid);
        let curve = table.curve(&grid);
        // Quick readers: all of 2,000 within a minute, but 200 who never do.
        for (from, to, reads) in [(0.0, 10.0, 900.0), (10.0, 25.0, 700.0), (25.0, 60.0, 200.0)] {
            let waiting = if from > 20.0 { 200.0 } else { 400.0 };
            table
                .add(&Posterior::new(&grid, &curve, None, seen(from, to, reads, waiting)).unwrap());
        }
        table.add(&Posterior::new(&grid, &curve, None, seen(60.0, 86_100.0, 0.0, 200.0)).unwrap());
        let curve = table.curve(&grid);
        let late = curve.mass(&grid, 86_100.0) - curve.mass(&grid, 300.0);
        assert!(
            late < 0.002,
            "{late} are believed to read later than any did"
        );
    }

    #[test]
    fn another_grid_keeps_the_counts() {
        let (from, to) = (day(), Grid::new(Duration::from_secs(40_000)));
        let mut table = Table::new(Kind::PerReader, &from);
        let curve = table.curve(&from);
        table.add(&Posterior::new(&from, &curve, None, seen(50.0, 900.0, 5.0, 7.0)).unwrap());
        let moved = table.rebinned(&from, &to);
        assert!((moved.weight() - 5.0).abs() < 1e-9);
        let total = |table: &Table| table.exposure.iter().sum::<f64>();
        assert!((total(&moved) - total(&table)).abs() < 1e-6);
    }

    #[test]
    fn an_interval_beyond_a_keys_life_says_nothing() {
        let grid = day();
        let curve = Table::new(Kind::PerReader, &grid).curve(&grid);
        for (from, to) in [(90_000.0, 100_000.0), (5.0, 5.0)] {
            assert!(Posterior::new(&grid, &curve, None, seen(from, to, 1.0, 1.0)).is_none());
        }
    }
}
