//! The dynamic programme: which age follows which, at a price of a call, and the price that meets the target.
//!
//! V(i, m) = min over j of [p · calls + delay of the reads between tᵢ and tⱼ + E V(j, m′)]: the expected cost, in seconds, of
//! a message polled at age tᵢ with m readers missing, p being what one call is worth in seconds of delay, m′ how many of
//! the m are still missing at tⱼ (none: no further call). It is solved from the last chance backwards.
//!
//! Spend is a step function of p. Bisection on p finds the two policies around the target; a hash of the key says which
//! of them a message follows, so that the mean meets the target.

use super::problem::Problem;
use super::spend::{Counts, Start};

/// The first price tried lies so many doublings below a second …
const CHEAPEST: f64 = -50.0;
/// … and so many above it: more than a lifetime's delay of any number of readers.
const DEAREST: f64 = 50.0;
/// How often the range of prices is halved. The same for every target, so that targets share the policies they meet.
const HALVINGS: u32 = 48;

/// Which index follows which, for 1, 2, 4, … missing readers.
pub(super) type Next = Vec<Vec<usize>>;

/// A policy and what it is expected to bring a message, by the number of its readers.
#[derive(Clone, Debug)]
struct Candidate {
    next: Next,
    /// Calls a message, for 1, 2, 4, … readers.
    calls: Vec<f64>,
    /// Delay in seconds summed over the readers, for 1, 2, 4, … readers.
    delay: Vec<f64>,
}

/// Two neighbouring policies and how they are mixed.
#[derive(Clone, Debug)]
pub(super) struct Mixture {
    pub(super) ages: Vec<f64>,
    /// The policy that calls less.
    pub(super) sparse: Next,
    /// The policy that calls more.
    pub(super) dense: Next,
    /// The share of messages that follow the denser one.
    pub(super) dense_share: f64,
    /// Calls a message.
    pub(super) calls: f64,
    /// Mean delay of a read, in seconds.
    pub(super) mean_delay: f64,
    /// Whether the target could be met.
    pub(super) reachable: bool,
}

/// Finds the mixture that spends `target` calls on a mean message; `starts` says how many messages begin with about 1, 2,
/// 4, … readers. A share `checked` of the messages that are not complete at their last chance costs one call
/// more, which no policy can change.
pub(super) fn mixture(problem: Problem, starts: &[Start], target: f64, checked: f64) -> Mixture {
    let mean = |by_level: &[f64]| {
        let total: f64 = starts
            .iter()
            .zip(by_level)
            .map(|(start, _)| start.messages)
            .sum();
        let sum: f64 = starts
            .iter()
            .zip(by_level)
            .map(|(start, value)| start.messages * value)
            .sum();
        sum / total.max(f64::MIN_POSITIVE)
    };
    let starting = || starts.iter().take(problem.levels).map(|start| start.mean());
    let unfinished: Vec<f64> = starting()
        .map(|readers| problem.unfinished(readers))
        .collect();
    let checking = checked * mean(&unfinished);
    let target = target - checking;
    let counts = Counts::new(problem.levels);
    let solve = |price, earliest: &Next, latest: &Next| {
        let mut candidate = solve(&problem, price, earliest, latest);
        // For one reader or an unknown number the programme counts as finely itself.
        for (level, start) in starts.iter().enumerate().take(problem.levels).skip(1) {
            if start.messages > 0.0 {
                (candidate.calls[level], candidate.delay[level]) =
                    counts.spend(&problem, &candidate.next, start.mean());
            }
        }
        candidate
    };
    let rows = |index: fn(&(usize, usize)) -> usize| -> Next {
        let row: Vec<usize> = problem.successors.iter().map(index).collect();
        vec![row; problem.levels]
    };
    let (first, last) = (rows(|(first, _)| *first), rows(|(_, last)| *last));
    let mut dense = solve(0.0, &first, &first);
    let mut sparse = solve(0.0, &last, &last);
    let (most, least) = (mean(&dense.calls), mean(&sparse.calls));
    let reachable = (least..=most).contains(&target);
    if target >= most {
        sparse = dense.clone();
    } else if target <= least {
        dense = sparse.clone();
    } else {
        let (mut low, mut high) = (CHEAPEST, DEAREST);
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            // Cheaper calls never make a poll later. That is a theorem for one reader and for an unknown number (the
            // delay is a Monge array), and kept by construction for several: the search stays between its bounds.
            let tried = solve(middle.exp2(), &dense.next, &sparse.next);
            if mean(&tried.calls) >= target {
                dense = tried;
                low = middle;
            } else {
                sparse = tried;
                high = middle;
            }
        }
    }
    let (dense_calls, sparse_calls) = (mean(&dense.calls), mean(&sparse.calls));
    let dense_share = if dense_calls > sparse_calls {
        ((target - sparse_calls) / (dense_calls - sparse_calls)).clamp(0.0, 1.0)
    } else {
        1.0
    };
    let mix = |dense: f64, sparse: f64| dense_share * dense + (1.0 - dense_share) * sparse;
    let reads: Vec<f64> = starting().map(|readers| problem.reads(readers)).collect();
    let reads = mean(&reads);
    let delay = mix(mean(&dense.delay), mean(&sparse.delay));
    Mixture {
        dense_share,
        calls: mix(dense_calls, sparse_calls) + checking,
        mean_delay: if reads > 0.0 { delay / reads } else { 0.0 },
        reachable,
        sparse: sparse.next,
        dense: dense.next,
        ages: problem.ages,
    }
}

/// 1, 2, 4, …
fn readers(level: usize) -> f64 {
    // Exact: a level is at most MOST_LEVELS.
    (0..level).fold(1.0, |readers, _| 2.0 * readers)
}

/// The best policy at a price of `price` seconds a call, each step between `earliest` and `latest`.
fn solve(problem: &Problem, price: f64, earliest: &Next, latest: &Next) -> Candidate {
    let (end, levels) = (problem.end(), problem.levels);
    let mut next: Next = vec![vec![end; end]; levels];
    let mut calls = vec![vec![0.0; end + 1]; levels];
    let mut delay = vec![vec![0.0; end + 1]; levels];
    for from in (0..end).rev() {
        for level in 0..levels {
            let mut best = f64::INFINITY;
            for to in earliest[level][from]..=latest[level][from] {
                let step = problem.step(from, to, readers(level));
                let (mut total_calls, mut total_delay) = (step.calls, step.delay);
                let mut then = |node: usize, chance: f64| {
                    total_calls += chance * calls[node][to];
                    total_delay += chance * delay[node][to];
                };
                if level == 0 {
                    then(0, problem.survives(from, to));
                } else {
                    let missing = problem.still_missing(from, to, level);
                    for (node, chance) in missing.enumerate() {
                        then(node, chance);
                    }
                }
                let cost = price * total_calls + total_delay;
                if cost < best {
                    best = cost;
                    next[level][from] = to;
                    calls[level][from] = total_calls;
                    delay[level][from] = total_delay;
                }
            }
        }
    }
    Candidate {
        next,
        calls: calls.iter().map(|by_age| by_age[0]).collect(),
        delay: delay.iter().map(|by_age| by_age[0]).collect(),
    }
}
