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
    fastrand::Rng::with_seed(hash).f64()
}

/// A number of the standard normal distribution (Box and Muller).
pub(super) fn normal(random: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.f64()).cos()
}
