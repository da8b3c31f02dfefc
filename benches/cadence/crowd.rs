//! Readers, in virtual time.

use std::time::Duration;

/// How a crowd reads: log-normal parts, quiet hours, and those who never do.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    /// What tables call it.
    pub(crate) name: String,
    /// Share, median in seconds, σ of the logarithm. The shares sum to one.
    pub(crate) parts: Vec<(f64, f64, f64)>,
    /// The share of readers that never read.
    pub(crate) never: f64,
    /// Readers of each message.
    pub(crate) readers: u32,
    /// Whether `expected_readers` says so.
    pub(crate) known: bool,
    /// Hours of the day (UTC) between which nobody reads: who would have, does within ten minutes after.
    pub(crate) quiet: Option<(u32, u32)>,
}

impl Crowd {
    /// Single readers in one log-normal part.
    pub(crate) fn log_normal(minutes: f64, sigma: f64, never: f64) -> Self {
        Self {
            name: format!("{minutes} min s {sigma}, {:.0} % never", never * 100.0),
            parts: vec![(1.0, minutes * 60.0, sigma)],
            never,
            readers: 1,
            known: true,
            quiet: None,
        }
    }

    /// The four crowds that the bounds are stated for.
    pub(crate) fn four() -> Vec<Self> {
        let mixture = Self {
            name: "70/30 of 5 min s 1.3 and 3 h s 1.3, 10 % never".to_owned(),
            parts: vec![(0.7, 300.0, 1.3), (0.3, 10_800.0, 1.3)],
            ..Self::log_normal(5.0, 1.3, 0.10)
        };
        vec![
            Self::log_normal(5.0, 1.8, 0.15),
            Self::log_normal(30.0, 1.5, 0.30),
            Self::log_normal(1.0, 2.2, 0.05),
            mixture,
        ]
    }

    /// The true share of readers that have read by an age; quiet hours left aside.
    pub(crate) fn share_read(&self, age: Duration) -> f64 {
        let age = age.as_secs_f64();
        if age <= 0.0 {
            return 0.0;
        }
        let by = |(share, median, sigma): &(f64, f64, f64)| {
            share * normal_cdf((age / median).ln() / sigma)
        };
        (1.0 - self.never) * self.parts.iter().map(by).sum::<f64>()
    }

    /// The ages in milliseconds at which a message sent at `sent_at` (Unix ms) is read, in order; those who never read
    /// are left out.
    pub(crate) fn reads(&self, random: &mut fastrand::Rng, sent_at: i64) -> Vec<i64> {
        let mut ages: Vec<i64> = (0..self.readers)
            .filter_map(|_| self.read(random, sent_at))
            .collect();
        ages.sort_unstable();
        ages
    }

    fn read(&self, random: &mut fastrand::Rng, sent_at: i64) -> Option<i64> {
        if random.f64() < self.never {
            return None;
        }
        let mut draw = random.f64();
        let part = self.parts.iter().find(|(share, _, _)| {
            draw -= share;
            draw < 0.0
        });
        let (_, median, sigma) = part.or(self.parts.last())?;
        let age = ((median.ln() + sigma * normal(random)).exp() * 1_000.0) as i64;
        Some(self.after_quiet(random, sent_at, age))
    }

    fn after_quiet(&self, random: &mut fastrand::Rng, sent_at: i64, age: i64) -> i64 {
        const HOUR: i64 = 3_600_000;
        let Some((from, to)) = self.quiet else {
            return age;
        };
        let of_day = (sent_at + age).rem_euclid(24 * HOUR);
        let since = (of_day - i64::from(from) * HOUR).rem_euclid(24 * HOUR);
        let length = (i64::from(to) - i64::from(from)).rem_euclid(24) * HOUR;
        if since < length {
            age + (length - since) + (random.f64() * 600_000.0) as i64
        } else {
            age
        }
    }
}

/// Standard normal: Box and Muller's transform.
fn normal(random: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.f64()).cos()
}

/// The standard normal distribution function by Simpson's rule: a way of its own, so that an error in the cadence's
/// formula does not cancel here.
fn normal_cdf(z: f64) -> f64 {
    const STEPS: u32 = 200;
    if z.abs() > 8.0 {
        return if z > 0.0 { 1.0 } else { 0.0 };
    }
    let width = z / f64::from(STEPS);
    let density = |x: f64| (-x * x / 2.0).exp();
    let sum: f64 = (0..=STEPS)
        .map(|step| {
            let weight = match step {
                0 | STEPS => 1.0,
                odd if odd % 2 == 1 => 4.0,
                _ => 2.0,
            };
            weight * density(width * f64::from(step))
        })
        .sum();
    0.5 + sum * width / 3.0 / std::f64::consts::TAU.sqrt()
}
