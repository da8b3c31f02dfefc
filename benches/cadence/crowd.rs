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
    /// Nobody reads on Saturdays and Sundays (UTC) either.
    pub(crate) weekends: bool,
    /// Hours of the day (UTC) between which messages are sent.
    pub(crate) sends: (u32, u32),
}

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// Who slept has read so many milliseconds after the end of the quiet hours.
const WAKING: i64 = 600_000;

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
            weekends: false,
            sends: (0, 24),
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

    /// The true share of readers that have read by an age, over all moments of sending.
    pub(crate) fn share_read(&self, age: Duration) -> f64 {
        if !self.has_rhythm() {
            return self.share_ready(age.as_secs_f64());
        }
        // Each quarter of an hour.
        let moments: Vec<i64> = (0..if self.weekends { 7 } else { 1 })
            .flat_map(|day| (0..96).map(move |quarter| day * DAY + quarter * HOUR / 4 + HOUR / 8))
            .filter(|at| self.sends_in(*at))
            .collect();
        let shares = moments.iter().map(|at| self.share_read_of(*at, age));
        shares.sum::<f64>() / moments.len() as f64
    }

    /// Whether it matters at which hour a message is sent.
    pub(crate) fn has_rhythm(&self) -> bool {
        self.quiet.is_some() || self.weekends
    }

    /// Whether messages are sent at a moment, in milliseconds since any Monday, 00:00 UTC.
    pub(crate) fn sends_in(&self, at: i64) -> bool {
        let hour = at.rem_euclid(DAY) / HOUR;
        let (from, to) = (i64::from(self.sends.0), i64::from(self.sends.1));
        if from < to {
            (from..to).contains(&hour)
        } else {
            hour >= from || hour < to
        }
    }

    /// When a message is sent that would be sent so long after a beginning if messages were sent at all hours: as many a day.
    pub(crate) fn in_sending_hours(&self, after: Duration) -> Duration {
        const DAY: u64 = 86_400;
        let (day, of_day) = (after.as_secs() / DAY, after.as_secs_f64() % DAY as f64);
        let hours = (24 + self.sends.1 - self.sends.0 - 1) % 24 + 1;
        Duration::from_secs(day * DAY + u64::from(self.sends.0) * 3_600)
            + Duration::from_secs_f64(of_day * f64::from(hours) / 24.0)
    }

    /// Whether nobody reads in an hour of the week, from Monday, 00:00 UTC.
    pub(crate) fn is_quiet(&self, hour: i64) -> bool {
        let of_day = hour.rem_euclid(24);
        let quiet = self.quiet.is_some_and(|(from, to)| {
            let (from, to) = (i64::from(from), i64::from(to));
            if from < to {
                (from..to).contains(&of_day)
            } else {
                of_day >= from || of_day < to
            }
        });
        quiet || (self.weekends && hour.rem_euclid(168) >= 120)
    }

    /// The true share of readers of a message that have read by an age; it was sent so many milliseconds after any Monday,
    /// 00:00 UTC.
    pub(crate) fn share_read_of(&self, sent_at: i64, age: Duration) -> f64 {
        let now = sent_at + age.as_millis() as i64;
        let ready = |at: i64| self.share_ready((at - sent_at).max(0) as f64 / 1e3);
        let hour = now.div_euclid(HOUR);
        let begin = |mut hour: i64| {
            while hour * HOUR > sent_at && self.is_quiet(hour - 1) {
                hour -= 1;
            }
            hour * HOUR
        };
        if self.is_quiet(hour) {
            return ready(begin(hour));
        }
        let woke = hour * HOUR;
        let share = self.share_ready(age.as_secs_f64());
        if self.is_quiet(hour - 1) && now < woke + WAKING && woke > sent_at {
            let asleep = ready(woke) - ready(begin(hour));
            return share - asleep * (1.0 - (now - woke) as f64 / WAKING as f64);
        }
        share
    }

    /// The share of readers that would have read by an age in seconds if nobody slept.
    fn share_ready(&self, age: f64) -> f64 {
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
        let ready = sent_at + age - super::sim::START.0;
        let mut hour = ready.div_euclid(HOUR);
        if !self.is_quiet(hour) {
            return age;
        }
        while self.is_quiet(hour) {
            hour += 1;
        }
        age + hour * HOUR - ready + (random.f64() * WAKING as f64) as i64
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
