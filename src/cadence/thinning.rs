//! How a number of missing readers thins out, each of whom is still missing with the same probability.

/// How finely that probability is tabulated between 0 and 1.
const STEPS: u32 = 256;

/// For one number of readers: the chances of smaller numbers, for each share still missing in even steps.
#[derive(Clone, Debug)]
pub(super) struct Thinning(Vec<Vec<f64>>);

impl Thinning {
    /// Of `readers` readers: the binomial distribution of how many are still missing, laid onto `counts` (in order, from one
    /// on, `readers` among them) linearly.
    pub(super) fn new(counts: &[u32], readers: u32) -> Self {
        let share = |step| f64::from(step) / f64::from(STEPS);
        Self(
            (0..=STEPS)
                .map(|step| laid_out(counts, readers, share(step)))
                .collect(),
        )
    }

    /// The chance of each count where each reader is still missing with probability `survives`.
    pub(super) fn at(&self, survives: f64) -> impl Iterator<Item = f64> {
        let steps = survives.clamp(0.0, 1.0) * f64::from(STEPS);
        let (cell, within) = (steps.floor(), steps.fract());
        // Exact: between 0 and STEPS.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let cell = cell as usize;
        let (low, high) = (&self.0[cell], &self.0[(cell + 1).min(self.0.len() - 1)]);
        low.iter()
            .zip(high)
            .map(move |(low, high)| low + within * (high - low))
    }
}

fn laid_out(counts: &[u32], readers: u32, survives: f64) -> Vec<f64> {
    let mut chances = vec![0.0; counts.partition_point(|count| *count <= readers)];
    let mut log_choose = 0.0_f64;
    let mut below = 0;
    for missing in 1..=readers {
        let (of, k) = (f64::from(readers), f64::from(missing));
        log_choose += ((of - k + 1.0) / k).ln();
        let chance = binomial(log_choose, k, of, survives);
        while below + 1 < chances.len() && counts[below + 1] <= missing {
            below += 1;
        }
        let floor = f64::from(counts[below]);
        let above = if k > floor {
            (k - floor) / (f64::from(counts[below + 1]) - floor)
        } else {
            0.0
        };
        chances[below] += chance * (1.0 - above);
        if above > 0.0 {
            chances[below + 1] += chance * above;
        }
    }
    chances
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
    fn readers_are_neither_lost_nor_won() {
        let powers: Vec<u32> = (0..11).map(|level| 1 << level).collect();
        let all: Vec<u32> = (1..=64).collect();
        for (counts, readers) in [(&powers, 1), (&powers, 8), (&powers, 1_024), (&all, 50)] {
            let thinning = Thinning::new(counts, readers);
            for survives in [0.0, 0.003, 0.25, 0.4, 0.9, 0.999, 1.0] {
                let chances = thinning.at(survives).zip(counts);
                let mean: f64 = chances
                    .map(|(chance, count)| chance * f64::from(*count))
                    .sum();
                let expected = f64::from(readers) * survives;
                assert!(
                    (mean - expected).abs() < 1e-6 * (1.0 + expected),
                    "{mean} {expected}"
                );
            }
        }
    }

    #[test]
    fn a_known_distribution_is_met() {
        // Of three, each missing with probability one half: 3, 3 and 1 eighths for one, two and three.
        let chances: Vec<f64> = Thinning::new(&[1, 2, 3], 3).at(0.5).collect();
        for (chance, eighths) in chances.iter().zip([3.0, 3.0, 1.0]) {
            assert!((chance - eighths / 8.0).abs() < 1e-12, "{chances:?}");
        }
    }
}
