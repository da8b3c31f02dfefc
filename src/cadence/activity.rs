//! At which hours of the week people read.
//!
//! A reader becomes ready for a message at an age that the life table tells. Who is awake then reads at once, who sleeps reads
//! when people wake. So much of the people is awake in an hour as read in it at once of those who became ready in it; where
//! hours differ by more than chance they are cut into stretches, and working days and days off each have their own.

use super::estimate::Cell;

/// Seconds.
pub(super) const HOUR: f64 = 3_600.0;
/// Hours of a week, from Monday, 00:00 UTC.
pub(super) const HOURS: usize = 168;
const DAY: usize = 24;
/// Nine in ten of those who wake at an hour read within this many seconds …
const WAKING: f64 = 600.0;
const WAKING_SHARE: f64 = 0.97;
/// What another stretch of hours must explain, in nats: a night by chance is found once in a hundred looks.
const STRETCH: f64 = 6.0;
/// The same once there is a night.
const NEXT_STRETCH: f64 = 2.5;
/// So many expected reads of an hour weigh as much as the stretch that it lies in.
const BY_HOUR: f64 = 1.0;
/// This many reads are believed of a stretch before any was seen, and as many are expected.
const BELIEVED: f64 = 0.5;
/// Where fewer are awake than this share, it may be nobody …
pub(super) const NOBODY: f64 = 0.08;
/// … but no hour is impossible to read in.
const LEAST: f64 = 2e-4;
/// A day is off where fewer than this share of the usual reads come …
const OFF: f64 = 0.4;
/// Hours in which fewer than this share is awake prove a rhythm.
const PROOF: f64 = 0.75;

/// The hour of the week of a message's age in seconds, and how many seconds of that hour are over.
pub(super) fn hour_of_week(sent_at: i64, age: f64) -> usize {
    // 1970 began on a Thursday. Rounded down, and no age is beyond what an i64 holds.
    #[allow(clippy::cast_possible_truncation)]
    let at = sent_at.saturating_add((age * 1e3) as i64);
    let hour = (at.div_euclid(3_600_000) + 72).rem_euclid(168);
    usize::try_from(hour).unwrap_or(0)
}

/// How many seconds of the hour are over at a message's age.
#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds of an hour are exact"
)]
pub(super) fn into_hour(sent_at: i64, age: f64) -> f64 {
    (sent_at.rem_euclid(3_600_000) as f64 / 1e3 + age) % HOUR
}

/// What was seen hour by hour, faded like the rest but faster.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Activity {
    /// Reads of those who became ready in the hour.
    pub(super) reads: Vec<f64>,
    /// How many would have been if nobody slept.
    pub(super) expected: Vec<f64>,
    /// Messages sent.
    pub(super) sent: Vec<f64>,
    /// Reads, and how many are usual, by day of the week: what is earlier in the week fades less.
    pub(super) days: Vec<(f64, f64)>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            reads: vec![0.0; HOURS],
            expected: vec![0.0; HOURS],
            sent: vec![0.0; HOURS],
            days: vec![(0.0, 0.0); HOURS / DAY],
        }
    }

    /// Adds reads of an hour, and how many would have been if nobody slept.
    pub(super) fn add(&mut self, hour: usize, reads: f64, expected: f64, usual: f64) {
        self.reads[hour] += reads;
        self.expected[hour] += expected;
        let day = &mut self.days[hour / DAY];
        *day = (day.0 + reads, day.1 + expected * usual);
    }

    pub(super) fn fade(&mut self, factor: f64) {
        self.fade_hours(factor);
        self.sent.iter_mut().for_each(|number| *number *= factor);
        for (reads, usual) in &mut self.days {
            (*reads, *usual) = (*reads * factor, *usual * factor);
        }
    }

    /// Weighs down who read when, and keeps when messages are sent.
    pub(super) fn fade_hours(&mut self, factor: f64) {
        for number in self.reads.iter_mut().chain(&mut self.expected) {
            *number *= factor;
        }
    }

    /// What is learned of the hours; `None` where chance explains it as well.
    pub(super) fn rhythm(&self) -> Option<Rhythm> {
        let rhythm = self.rhythm_of(STRETCH, f64::INFINITY);
        let proven = rhythm.awake.iter().any(|awake| *awake < PROOF);
        proven.then(|| self.rhythm_of(NEXT_STRETCH, f64::INFINITY))
    }

    /// The same hour by hour, once it is proven: what reads are spread by. Stretches would hide that an hour at their edge
    /// is about to leave them.
    pub(super) fn rhythm_by_hour(&self) -> Option<Rhythm> {
        self.rhythm().map(|_| self.rhythm_of(NEXT_STRETCH, BY_HOUR))
    }

    /// An hour weighs against its stretch as its expected reads against `alike`.
    fn rhythm_of(&self, stretch: f64, alike: f64) -> Rhythm {
        let all = self
            .days
            .iter()
            .fold((0.0, 0.0), |sum, day| (sum.0 + day.0, sum.1 + day.1));
        let off: Vec<bool> = self
            .days
            .iter()
            .map(|(reads, usual)| {
                let expected = usual * all.0 / f64::max(all.1, f64::MIN_POSITIVE);
                let missed = expected / (reads + BELIEVED);
                *reads < OFF * expected && expected - reads - reads * missed.ln() > STRETCH
            })
            .collect();
        let [working, free] = [false, true].map(|kind| {
            let hours = self.of_days(|day| off[day] == kind);
            let mut stretches = Stretches::new(&hours, stretch);
            if alike.is_finite() {
                for (ratio, (reads, expected)) in stretches.ratios.iter_mut().zip(hours) {
                    *ratio = (reads + alike * *ratio) / (expected + alike);
                }
            }
            stretches
        });
        let free = Stretches {
            usual: working.usual,
            ..free
        };
        let of_hour = |hour: usize| {
            let stretches = if off[hour / DAY] { &free } else { &working };
            stretches.awake(hour % DAY)
        };
        let awake = (0..HOURS).map(of_hour).collect();
        Rhythm { awake }
    }

    /// Reads and what was expected by hour of the day, over some days.
    fn of_days(&self, days: impl Fn(usize) -> bool) -> Vec<(f64, f64)> {
        let mut hours = vec![(0.0, 0.0); DAY];
        for hour in (0..HOURS).filter(|hour| days(hour / DAY)) {
            hours[hour % DAY].0 += self.reads[hour];
            hours[hour % DAY].1 += self.expected[hour];
        }
        hours
    }
}

/// The hours of a day, cut where it pays: how many times what was expected was read in each.
#[derive(Clone, Debug)]
struct Stretches {
    ratios: Vec<f64>,
    /// Three quarters of the reads come in hours with at least this ratio: there, people are awake.
    usual: f64,
}

impl Stretches {
    /// By maximum likelihood of Poisson numbers, over all ways to cut the round of hours.
    fn new(hours: &[(f64, f64)], stretch: f64) -> Self {
        let mut ratios = vec![1.0; DAY];
        let mut least = f64::INFINITY;
        for turn in 0..DAY {
            let mut sums = vec![(0.0, 0.0)];
            for hour in 0..DAY {
                let (reads, expected) = hours[(turn + hour) % DAY];
                sums.push((sums[hour].0 + reads, sums[hour].1 + expected));
            }
            let ratio = |from: usize, to: usize| {
                let reads = sums[to].0 - sums[from].0;
                let expected = sums[to].1 - sums[from].1;
                (reads, expected, (reads + BELIEVED) / (expected + BELIEVED))
            };
            // The best way to cut the hours up to each, and where its last stretch begins.
            let mut best = vec![(0.0, 0)];
            for to in 1..=DAY {
                let ways = (0..to).map(|from| {
                    let (reads, expected, ratio) = ratio(from, to);
                    (
                        best[from].0 + stretch + expected * ratio - reads * ratio.ln(),
                        from,
                    )
                });
                let cheapest = ways.min_by(|a, b| a.0.total_cmp(&b.0));
                best.push(cheapest.unwrap_or((f64::INFINITY, 0)));
            }
            if best[DAY].0 < least - 1e-9 {
                least = best[DAY].0;
                let mut to = DAY;
                while to > 0 {
                    let from = best[to].1;
                    for hour in from..to {
                        ratios[(turn + hour) % DAY] = ratio(from, to).2;
                    }
                    to = from;
                }
            }
        }
        let mut by_ratio: Vec<(f64, f64)> = ratios
            .iter()
            .zip(hours)
            .map(|(ratio, (reads, _))| (*ratio, *reads))
            .collect();
        by_ratio.sort_by(|a, b| a.0.total_cmp(&b.0));
        let quarter = by_ratio.iter().map(|(_, reads)| reads).sum::<f64>() / 4.0;
        let mut sum = 0.0;
        let usual = by_ratio.iter().find(|(_, reads)| {
            sum += reads;
            sum >= quarter
        });
        Self {
            usual: usual.map_or(1.0, |(ratio, _)| *ratio),
            ratios,
        }
    }

    /// The share of people that are awake in an hour of the day.
    fn awake(&self, hour: usize) -> f64 {
        let awake = (self.ratios[hour] / self.usual).min(1.0);
        if awake < NOBODY { LEAST } else { awake }
    }
}

/// The share of people that are awake, by hour of the week.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rhythm {
    awake: Vec<f64>,
}

impl Rhythm {
    /// For people who are known: the share that is awake in each hour of the week, from Monday, 00:00 UTC.
    pub(super) fn known(awake: impl Fn(usize) -> f64) -> Self {
        Self {
            awake: (0..HOURS).map(awake).collect(),
        }
    }

    pub(super) fn awake(&self, hour: usize) -> f64 {
        self.awake[hour]
    }

    /// The same at the hour of the day at which most are, whatever the day.
    pub(super) fn usually_awake(&self, hour: usize) -> f64 {
        let days = self.awake.iter().skip(hour % DAY).step_by(DAY);
        days.fold(0.0, |most, awake| awake.max(most))
    }

    /// How many of the hours that follow two hours of the week are alike, those two included; at most `most`.
    pub(super) fn alike(&self, one: usize, other: usize, most: usize) -> usize {
        let awake = |from: usize, hour: usize| self.awake[(from + hour) % HOURS];
        let differs = (0..most).find(|hour| awake(one, *hour) != awake(other, *hour));
        differs.unwrap_or(most)
    }

    /// How far those who wake at an hour have read, this many seconds into it.
    pub(super) fn woken(into: f64) -> f64 {
        if into < WAKING {
            WAKING_SHARE * into / WAKING
        } else {
            WAKING_SHARE + (1.0 - WAKING_SHARE) * ((into - WAKING) / (HOUR - WAKING)).min(1.0)
        }
    }

    /// For each cell, last to first, the share of those who became ready in it that have read by the age `at`: who is awake
    /// then, or was in between.
    pub(super) fn shares_read(
        &self,
        sent_at: i64,
        at: f64,
        cells: &mut [Cell],
        mut take: impl FnMut(&mut Cell, f64),
    ) {
        let (hour, into) = (hour_of_week(sent_at, at), into_hour(sent_at, at));
        let (before, now) = (self.awake[(hour + HOURS - 1) % HOURS], self.awake[hour]);
        // At a full hour nobody of the new hour has read yet.
        let mut most = before.min(now) + (now - before).max(0.0) * Self::woken(into);
        for cell in cells.iter_mut().rev().filter(|cell| cell.start < at) {
            if cell.start >= at - into - 1e-6 {
                take(cell, now);
            } else {
                most = most.max(self.awake[cell.hour]);
                take(cell, most);
            }
        }
    }

    /// What is read by each of `ages` of a message sent at the beginning of the hour `sent`, where `ready` are ready by then.
    /// Among the ages are all [`Self::changes`].
    pub(super) fn reads_by(&self, sent: usize, ages: &[f64], ready: &[f64]) -> Vec<f64> {
        // Who sleeps, by the share of people that is awake when they wake, those who wake first last; and who is waking.
        let mut asleep: Vec<(f64, f64)> = vec![];
        let (mut waking, mut since) = (0.0, 0.0);
        let (mut settled, mut awake_before) = (0.0, 1.0);
        let mut read = vec![0.0];
        for (ages, ready) in ages.windows(2).zip(ready.windows(2)) {
            // Exact: ages are hours of a life, at most some thousands.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let hours = (ages[0] / HOUR + 1e-9) as usize;
            let awake = self.awake[(sent + hours) % HOURS];
            if awake > awake_before {
                settled += waking;
                (waking, since) = (0.0, ages[0]);
                let mut rest = 0.0;
                while let Some((level, mass)) = asleep.pop_if(|(level, _)| *level < awake) {
                    let woken = mass * (awake - level) / (1.0 - level);
                    waking += woken;
                    rest += mass - woken;
                }
                asleep.push((awake, rest));
            }
            awake_before = awake;
            let new = ready[1] - ready[0];
            settled += new * awake;
            if awake < 1.0 {
                match asleep.last_mut().filter(|(level, _)| *level <= awake) {
                    Some((_, mass)) => *mass += new * (1.0 - awake),
                    None => asleep.push((awake, new * (1.0 - awake))),
                }
            }
            read.push(settled + waking * Self::woken(ages[1] - since));
        }
        read
    }

    /// The ages (in seconds, up to `end`) of a message sent at an hour's beginning at which other shares of people are awake
    /// than before, and the two shares.
    pub(super) fn changes(&self, sent: usize, end: f64) -> Vec<(f64, f64, f64)> {
        let mut changes = vec![];
        let mut age = HOUR;
        for hour in sent + 1.. {
            if age >= end {
                break;
            }
            let (before, then) = (self.awake[(hour - 1) % HOURS], self.awake[hour % HOURS]);
            if before != then {
                changes.push((age, before, then));
            }
            age += HOUR;
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is seen in some weeks of `daily` reads, half as many or another share in some hours.
    fn seen(weeks: f64, daily: f64, awake: impl Fn(usize) -> f64) -> Activity {
        let mut activity = Activity::new();
        for hour in 0..HOURS {
            let expected = weeks * daily / 24.0;
            activity.add(hour, expected * awake(hour), expected, 1.0);
        }
        activity
    }

    #[test]
    fn hours_of_the_week_begin_on_a_monday() {
        // 2026-09-28T00:00:00Z.
        let monday = 1_790_553_600_000;
        assert_eq!(hour_of_week(monday, 0.0), 0);
        assert_eq!(hour_of_week(monday, 3_599.9), 0);
        assert_eq!(hour_of_week(monday - 1, 0.0), 167);
        assert_eq!(hour_of_week(monday, 30.0 * HOUR), 30);
        assert_eq!(into_hour(monday + 90_000, 3_600.0), 90.0);
    }

    #[test]
    fn where_people_read_at_all_hours_there_is_no_rhythm() {
        assert_eq!(Activity::new().rhythm(), None);
        // As many in each hour but for chance.
        let mut random = fastrand::Rng::with_seed(7);
        for reads in [200_u32, 1_400, 14_000] {
            let mut activity = seen(f64::from(reads) / 700.0, 100.0, |_| 0.0);
            for _ in 0..reads {
                activity.add(random.usize(0..HOURS), 1.0, 0.0, 0.0);
            }
            assert_eq!(activity.rhythm(), None, "{reads} reads, seed 7");
        }
    }

    #[test]
    fn a_night_and_days_off_are_found_and_their_edges_too() {
        let quiet = |hour: usize| hour % 24 >= 14 || hour >= 120;
        let rhythm = seen(2.0, 100.0, |hour| if quiet(hour) { 0.0 } else { 1.7 });
        let rhythm = rhythm.rhythm().unwrap();
        for hour in 0..HOURS {
            assert_eq!(rhythm.awake(hour) < NOBODY, quiet(hour), "hour {hour}");
        }
        let half = seen(4.0, 100.0, |hour| if hour % 24 < 6 { 0.5 } else { 1.0 });
        let half = half.rhythm().unwrap();
        assert!((0.4..0.6).contains(&half.awake(27)), "{half:?}");
    }

    #[test]
    fn who_sleeps_reads_when_people_wake() {
        let rhythm = Rhythm::known(|hour| match hour % 24 {
            0..14 => 1.0,
            14..20 => 0.0,
            _ => 0.5,
        });
        // Sent at 13:00: a tenth becomes ready each hour.
        let ages: Vec<f64> = (0..=12).map(|hour| f64::from(hour) * HOUR).collect();
        let ready: Vec<f64> = (0..=12).map(|hour| f64::from(hour) / 10.0).collect();
        let read = rhythm.reads_by(13, &ages, &ready);
        // At 14:00, 20:00, 21:00, 24:00 and 1:00.
        for (hour, share) in [
            (1, 0.1),
            (7, 0.1),
            (8, 0.1 + 0.35),
            (11, 0.1 + 0.5),
            (12, 1.2),
        ] {
            assert!((read[hour] - share).abs() < 1e-9, "{hour}: {read:?}");
        }
        assert!(read.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
