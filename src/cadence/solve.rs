//! The dynamic programme: which age follows which, at a price of a call, and the price that meets the target.
//!
//! V(i, m) = min over j of [p · calls + delay of the reads between tᵢ and tⱼ + E V(j, m′)]: the expected cost, in seconds, of
//! a message polled at age tᵢ with m readers missing, p being what one call is worth in seconds of delay, m′ how many of
//! the m are still missing at tⱼ (none: no further call). It is solved from the last chance backwards.
//!
//! Spend is a step function of p. Bisection on p finds the two policies around the target; a hash of the key says which
//! of them a message follows, so that the mean meets the target. Where messages are sent at several kinds of hour each has
//! its own problem, all at the same price: a call is worth as much whenever the message was sent.

use std::sync::Arc;

use super::Rules;
use super::estimate::Kind;
use super::grid::Grid;
use super::groups::{Counts, MOST_LEVELS, Start, Thinning};

/// Which index follows which, for 1, 2, 4, … missing readers.
pub(super) type Next = Vec<Vec<u16>>;

/// No more ages than this to choose from, however short `max_interval` is.
const MOST_AGES: usize = 1_500;
/// Below so small a share of readers still unread, all have read.
const MIN_SURVIVAL: f64 = 1e-9;
/// The first price tried lies this many doublings below a second …
const CHEAPEST: f64 = -50.0;
/// … and this many above it: more than a lifetime's delay of any number of readers.
const DEAREST: f64 = 50.0;
/// How often the range of prices is halved at most. The same for every target, so that targets share the policies they meet.
const HALVINGS: u32 = 48;
/// Two policies that differ by less than this share of their calls are neighbours.
const NEIGHBOURS: f64 = 0.002;
/// Minutes after people wake at which a poll may be worth while.
const AFTER_WAKING: [f64; 10] = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 45.0];

/// For one kind of message, sent at one kind of hour: everything but the price of a call.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// How many messages are of this kind, in any unit.
    pub(super) weight: f64,
    /// The ages in seconds: zero first, the last chance last.
    pub(super) ages: Vec<f64>,
    /// The share of readers not read by each age; all ones where the number of readers is unknown.
    survival: Vec<f64>,
    /// Reads by each age, per reader or per message.
    mass: Vec<f64>,
    /// The integral of age over the mass.
    moment: Vec<f64>,
    /// For each age, the first and the last that may follow it.
    successors: Vec<(usize, usize)>,
    /// No two calls lie farther apart, in seconds.
    max_interval: f64,
    /// Calls a walk.
    pages: f64,
}

/// A step from one polled age to the next, as one message with so many missing readers sees it.
pub(super) struct Step {
    /// Calls.
    pub(super) calls: f64,
    /// Delay of the reads in between, in seconds, summed over readers.
    pub(super) delay: f64,
}

impl Problem {
    /// `mass` is what was read by each of `ages`, of a reader or of a message.
    pub(super) fn new(
        kind: Kind,
        ages: Vec<f64>,
        mass: Vec<f64>,
        rules: &Rules,
        pages: f64,
        weight: f64,
    ) -> Self {
        let mut moment = vec![0.0];
        for index in 1..ages.len() {
            let middle = (ages[index - 1] + ages[index]) / 2.0;
            moment.push(moment[index - 1] + middle * (mass[index] - mass[index - 1]));
        }
        let survival = match kind {
            Kind::PerReader => mass
                .iter()
                .map(|read| (1.0 - read).max(MIN_SURVIVAL))
                .collect(),
            Kind::PerMessage => vec![1.0; ages.len()],
        };
        let max_interval = longest_interval(rules);
        Self {
            weight,
            successors: successors(&ages, rules.min_interval.as_secs_f64(), max_interval),
            ages,
            survival,
            mass,
            moment,
            max_interval,
            pages,
        }
    }

    /// The index of the last chance.
    pub(super) fn end(&self) -> usize {
        self.ages.len() - 1
    }

    /// Reads by the last chance, of so many readers or of a message.
    fn reads(&self, readers: f64) -> f64 {
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
    fn unfinished(&self, readers: f64) -> f64 {
        1.0 - (1.0 - self.survives(0, self.end())).powf(readers)
    }
}

/// In seconds, and never zero.
fn longest_interval(rules: &Rules) -> f64 {
    rules.max_interval.as_secs_f64().max(1e-3)
}

/// The ages to choose from: the grid's edges up to the last chance, each bin split into so many `pieces`, and where
/// `max_interval` is shorter than a bin is wide into more; and those around the `changes` of who is awake, given as
/// [`super::activity::Rhythm::changes`] gives them.
pub(super) fn ages(
    grid: &Grid,
    horizon: f64,
    rules: &Rules,
    pieces: f64,
    changes: &[(f64, f64, f64)],
) -> Vec<f64> {
    let max_interval = longest_interval(rules);
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
    for (age, before, then) in changes {
        let waking = if then > before {
            &AFTER_WAKING[..]
        } else {
            &[]
        };
        ages.push(*age);
        ages.extend(waking.iter().map(|minutes| age + 60.0 * minutes));
    }
    if !changes.is_empty() {
        ages.retain(|age| *age < horizon * 0.999);
        ages.push(horizon);
        ages.sort_by(f64::total_cmp);
        ages.dedup_by(|a, b| *a - *b < 1e-6 * horizon);
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

/// Of one kind of hour: two neighbouring policies over the same ages.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) ages: Vec<f32>,
    /// The policy that calls less.
    pub(super) sparse: Arc<[Row]>,
    /// The policy that calls more: mostly the same.
    pub(super) dense: Arc<[Row]>,
}

/// Which index follows which, for one number of missing readers: how far it lies ahead, in a byte each where all fit. A lane
/// with a rhythm keeps some forty plans.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Row {
    Near(Box<[u8]>),
    Far(Box<[u16]>),
}

impl Row {
    fn new(next: &[u16]) -> Self {
        let ahead = || (0..).zip(next).map(|(from, to)| to - from);
        let near: Result<Box<[u8]>, _> = ahead().map(u8::try_from).collect();
        near.map_or_else(|_| Self::Far(ahead().collect()), Self::Near)
    }

    /// The index that follows `from`.
    pub(super) fn next(&self, from: usize) -> usize {
        from + match self {
            Self::Near(ahead) => usize::from(ahead[from]),
            Self::Far(ahead) => usize::from(ahead[from]),
        }
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Near(ahead) => ahead.len(),
                Self::Far(ahead) => 2 * ahead.len(),
            }
    }
}

/// Two neighbouring policies at the same price for every kind of hour, and how they are mixed.
#[derive(Clone, Debug)]
pub(super) struct Mixture {
    pub(super) plans: Vec<Plan>,
    /// The share of messages that follow the denser policies.
    pub(super) dense_share: f64,
    /// Calls a message.
    pub(super) calls: f64,
    /// Mean delay of a read, in seconds.
    pub(super) mean_delay: f64,
    /// Whether the target could be met.
    pub(super) reachable: bool,
}

/// The best policies for all problems at one price, and what they are expected to bring.
struct Candidate {
    next: Vec<Next>,
    /// Calls a message and delay in seconds summed over the readers: means over all messages.
    calls: f64,
    delay: f64,
}

/// All kinds of hour of one kind of message.
struct Solver<'a> {
    problems: &'a [Problem],
    /// How many messages begin with about 1, 2, 4, … readers.
    starts: &'a [Start],
    thinnings: Vec<Thinning>,
    counts: Counts,
}

impl Solver<'_> {
    /// The mean over all messages of what `of` tells for a problem and a start's level.
    fn mean(&self, of: impl Fn(usize, usize) -> f64) -> f64 {
        let (mut sum, mut total) = (0.0, 0.0);
        for (index, problem) in self.problems.iter().enumerate() {
            for (level, start) in self.starts.iter().enumerate() {
                let weight = problem.weight * start.messages;
                if weight > 0.0 {
                    sum += weight * of(index, level);
                    total += weight;
                }
            }
        }
        sum / total.max(f64::MIN_POSITIVE)
    }

    /// The policies at a price, each step between `earliest` and `latest`.
    fn at(&self, price: f64, earliest: &[Next], latest: &[Next]) -> Candidate {
        let bounds = earliest.iter().zip(latest);
        let solved: Vec<(Next, Vec<(f64, f64)>)> = self
            .problems
            .iter()
            .zip(bounds)
            .map(|(problem, (earliest, latest))| self.solve(problem, price, earliest, latest))
            .collect();
        Candidate {
            calls: self.mean(|problem, level| solved[problem].1[level].0),
            delay: self.mean(|problem, level| solved[problem].1[level].1),
            next: solved.into_iter().map(|(next, _)| next).collect(),
        }
    }

    /// The best policy at a price of `price` seconds a call, and for each start its calls and delay.
    fn solve(
        &self,
        problem: &Problem,
        price: f64,
        earliest: &Next,
        latest: &Next,
    ) -> (Next, Vec<(f64, f64)>) {
        let (end, levels) = (problem.end(), self.thinnings.len());
        let mut next: Next = vec![vec![index(end); end]; levels];
        let mut spent = vec![vec![(0.0, 0.0); end + 1]; levels];
        for from in (0..end).rev() {
            for level in 0..levels {
                let mut best = f64::INFINITY;
                for to in earliest[level][from]..=latest[level][from] {
                    let to_index = usize::from(to);
                    let step = problem.step(from, to_index, readers(level));
                    let (mut calls, mut delay) = (step.calls, step.delay);
                    let survives = problem.survives(from, to_index);
                    let mut then = |node: usize, chance: f64| {
                        let (more_calls, more_delay) = spent[node][to_index];
                        calls += chance * more_calls;
                        delay += chance * more_delay;
                    };
                    if level == 0 {
                        then(0, survives);
                    } else {
                        let missing = self.thinnings[level].at(survives);
                        missing
                            .enumerate()
                            .for_each(|(node, chance)| then(node, chance));
                    }
                    let cost = price * calls + delay;
                    if cost < best {
                        best = cost;
                        next[level][from] = to;
                        spent[level][from] = (calls, delay);
                    }
                }
            }
        }
        let of_start = |(level, start): (usize, &Start)| match level {
            // For one reader or an unknown number the programme counts as finely itself.
            0 => spent[0][0],
            _ if start.messages > 0.0 => self.counts.spend(problem, &next, start.mean()),
            _ => (0.0, 0.0),
        };
        let by_start = self.starts.iter().enumerate().map(of_start).collect();
        (next, by_start)
    }
}

/// Finds the mixture that spends `target` calls on a mean message; `starts` says how many messages begin with about 1, 2,
/// 4, … readers. A share `checked` of the messages that are not complete at their last chance costs one call more, which no
/// policy can change.
pub(super) fn mixture(
    problems: &[Problem],
    starts: &[Start],
    target: f64,
    checked: f64,
) -> Mixture {
    let levels = starts.len().clamp(1, MOST_LEVELS);
    let solver = Solver {
        problems,
        starts: &starts[..levels],
        thinnings: thinnings(levels),
        counts: Counts::new(levels),
    };
    let readers_of = |level: usize| starts[level].mean();
    let checking = checked * solver.mean(|of, level| problems[of].unfinished(readers_of(level)));
    let target = target - checking;
    let rows = |of: fn(&(usize, usize)) -> usize| -> Vec<Next> {
        let rows = problems.iter().map(|problem| {
            let row = problem.successors.iter().map(|bounds| index(of(bounds)));
            vec![row.collect(); levels]
        });
        rows.collect()
    };
    let (first, last) = (rows(|(first, _)| *first), rows(|(_, last)| *last));
    let mut dense = solver.at(0.0, &first, &first);
    let mut sparse = solver.at(0.0, &last, &last);
    let reachable = (sparse.calls..=dense.calls).contains(&target);
    let (mut low, mut high) = (CHEAPEST, DEAREST);
    for _ in 0..HALVINGS {
        if !reachable || dense.calls - sparse.calls < NEIGHBOURS * sparse.calls {
            break;
        }
        let middle = (low + high) / 2.0;
        // Cheaper calls never make a poll later. That is a theorem for one reader and for an unknown number (the delay is
        // a Monge array), and kept by construction for several: the search stays between its bounds.
        let tried = solver.at(middle.exp2(), &dense.next, &sparse.next);
        if tried.calls >= target {
            (dense, low) = (tried, middle);
        } else {
            (sparse, high) = (tried, middle);
        }
    }
    let dense_share = if dense.calls > sparse.calls {
        ((target - sparse.calls) / (dense.calls - sparse.calls)).clamp(0.0, 1.0)
    } else {
        1.0
    };
    let mix = |dense: f64, sparse: f64| dense_share * dense + (1.0 - dense_share) * sparse;
    let reads = solver.mean(|of, level| problems[of].reads(readers_of(level)));
    let (calls, delay) = (
        mix(dense.calls, sparse.calls),
        mix(dense.delay, sparse.delay),
    );
    let both = dense.next.into_iter().zip(sparse.next);
    let rows = |next: Next| -> Arc<[Row]> { next.iter().map(|row| Row::new(row)).collect() };
    let plans = both.zip(problems).map(|((dense, sparse), problem)| {
        let (dense, sparse) = (rows(dense), rows(sparse));
        Plan {
            // A sixteenth of a second in a day.
            #[allow(clippy::cast_possible_truncation)]
            ages: problem.ages.iter().map(|age| *age as f32).collect(),
            sparse: if sparse == dense {
                dense.clone()
            } else {
                sparse
            },
            dense,
        }
    });
    Mixture {
        plans: plans.collect(),
        dense_share,
        calls: calls + checking,
        mean_delay: if reads > 0.0 { delay / reads } else { 0.0 },
        reachable,
    }
}

/// 1, 2, 4, …
fn readers(level: usize) -> f64 {
    // Exact: a level is below MOST_LEVELS.
    (0..level).fold(1.0, |readers, _| 2.0 * readers)
}

/// Exact: there are at most a few times [`MOST_AGES`].
fn index(of_age: usize) -> u16 {
    u16::try_from(of_age).unwrap_or(u16::MAX)
}

/// How 1, 2, 4, … readers thin out, laid onto the same numbers.
fn thinnings(levels: usize) -> Vec<Thinning> {
    let powers: Vec<u32> = (0..levels).map(|level| 1 << level).collect();
    powers
        .iter()
        .map(|readers| Thinning::new(&powers, *readers))
        .collect()
}
