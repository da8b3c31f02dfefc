//! What is believed of readers before any was seen.

/// A part of the prior: its share of all readers, its median as a share of a key's life, and the standard deviation of
/// the logarithm of its age.
struct Part {
    share: f64,
    median: f64,
    sigma: f64,
}

/// Three kinds of reader, in a life of a day: at the phone (median 2 minutes), between two meetings (20 minutes), in
/// the evening (3 hours). The 15 % that are left never read. Deliberately broad: a wrong prior costs calls until the
/// habits are learned, a narrow one costs far more than a broad one.
const PARTS: [Part; 3] = [
    Part {
        share: 0.30,
        median: 2.0 / 1440.0,
        sigma: 1.9,
    },
    Part {
        share: 0.30,
        median: 20.0 / 1440.0,
        sigma: 1.7,
    },
    Part {
        share: 0.25,
        median: 180.0 / 1440.0,
        sigma: 1.5,
    },
];

/// The share of readers that have read by an age, given as a share of a key's life.
pub(super) fn share_read_by(age: f64) -> f64 {
    if age <= 0.0 {
        return 0.0;
    }
    let by = |part: &Part| part.share * normal_cdf((age / part.median).ln() / part.sigma);
    PARTS.iter().map(by).sum()
}

/// The standard normal distribution function, to 1e-7: Abramowitz and Stegun, formula 7.1.26.
pub(super) fn normal_cdf(z: f64) -> f64 {
    const COEFFICIENTS: [f64; 5] = [
        0.254_829_592,
        -0.284_496_736,
        1.421_413_741,
        -1.453_152_027,
        1.061_405_429,
    ];
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let polynomial = COEFFICIENTS
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| (sum + coefficient) * t);
    let erf = 1.0 - polynomial * (-x * x).exp();
    0.5 * (1.0 + erf.copysign(z))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_distribution_is_met_at_its_known_points() {
        // Tabulated values.
        for (z, p) in [
            (0.0, 0.5),
            (1.0, 0.841_344_7),
            (-1.0, 0.158_655_3),
            (1.96, 0.975_002_1),
            (-3.0, 0.001_349_9),
        ] {
            assert!((normal_cdf(z) - p).abs() < 1e-6, "{z}");
        }
    }

    #[test]
    fn the_prior_rises_and_leaves_some_unread() {
        let ages: Vec<f64> = (0..400).map(|n| 1e-6 * 1.035_f64.powi(n)).collect();
        let shares: Vec<f64> = ages.iter().map(|age| share_read_by(*age)).collect();
        assert!(shares.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(share_read_by(0.0), 0.0);
        assert!((0.75..0.86).contains(&share_read_by(1.0)));
    }
}
