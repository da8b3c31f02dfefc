//! Repeatable chance: everything that looks random here is a pure function of a seed, a text and a number.

/// One well-mixed number for a seed, a text and a number (FNV-1a, then the finaliser of SplitMix64).
pub(super) fn hash(seed: u64, text: &str, n: u64) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64 ^ mix(seed);
    for byte in text.bytes() {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(sum ^ mix(n.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A hash as a share in `[0, 1)`.
pub(super) fn fraction(hash: u64) -> f64 {
    // 32 bits are exact in an f64 and fine enough for every rate here.
    f64::from(u32::try_from(hash >> 32).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0)
}

/// A run of numbers from one start.
pub(super) struct Stream(u64);

impl Stream {
    pub(super) fn new(start: u64) -> Self {
        Self(start)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(super) fn fraction(&mut self) -> f64 {
        fraction(self.next())
    }

    /// Standard normal (Box and Muller).
    pub(super) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.fraction()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_even() {
        let mean = (0..10_000).map(|n| fraction(hash(1, "k", n))).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }

    #[test]
    fn normals_have_mean_zero_and_spread_one() {
        let mut stream = Stream::new(7);
        let all: Vec<f64> = (0..20_000).map(|_| stream.normal()).collect();
        let mean = all.iter().sum::<f64>() / 20_000.0;
        let spread = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(
            mean.abs() < 0.03 && (spread - 1.0).abs() < 0.05,
            "{mean} {spread}"
        );
    }
}
