//! The poll ages in force for a lane.

use std::sync::Arc;
use std::time::Duration;

use super::activity::{HOUR, HOURS, Rhythm, hour_of_week, into_hour};
use super::estimate::{Curve, Kind};
use super::grid::Grid;
use super::groups::{Start, level_of};
use super::solve::{Mixture, Plan, Problem, Row, ages, mixture};
use super::{Habits, KeyHash, Missing, Pending, Rules};

/// Sets the hash that mixes two policies apart from those that spread and jitter.
const MIX: u64 = 0x6d69_7865;
/// Sets apart the hash that chooses the messages whose expiry is checked.
const EXPIRY_CHECK: u64 = 0x636f_6e66;
/// Up to this many calls a message no expiry is checked.
const CHECK_NONE: f64 = 2.0;
/// From this many on each is. In between the share grows evenly, so that a higher target is never spent on these checks
/// alone.
const CHECK_ALL: f64 = 3.0;
/// Above so many calls a message the bins of the grid are too coarse, and are split.
const CALLS_PER_GRID: f64 = 48.0;
/// Sets apart the hash that chooses the messages that look whether people still sleep.
const NIGHT_CHECK: u64 = 0x6e69_6768;
/// A rhythm that ends is not seen by calls that keep to it. So this share of messages calls in the middle of a night, too …
const NIGHT_CHECKS: f64 = 0.04;
/// … where no call is planned for as long as this.
const NIGHT: Duration = Duration::from_secs(2 * 3_600);
/// No more kinds of hour have a policy of their own.
const MOST_KINDS: usize = 48;
/// An hour that has no policy of its own takes the one under which most hours to come are alike, if at least so many are.
const ALIKE: usize = 6;
/// An hour is in use where at least this share of messages is sent.
const IN_USE: f64 = 0.002;
/// Where the share of people that is awake changes by more than this, a plan turns from age to clock.
const TURN: f64 = 0.2;
/// Reads closer to the last chance than this share of a life cannot be told apart from it.
const SHORTEST_HORIZON: f64 = 1e-4;

/// The poll ages in force for one lane. Cheap to clone and to share.
#[derive(Clone, Debug)]
pub struct Policy {
    known: Arc<Mixture>,
    unknown: Arc<Mixture>,
    hours: Arc<Hours>,
    /// The share of expiries that are checked.
    checked: f64,
    /// The age of that check, after the last chance, in seconds.
    expiry_check: f64,
    /// The age of the last chance, in seconds.
    horizon: f64,
}

/// Which plan serves a message that is sent in an hour of the week.
#[derive(Clone, Debug, PartialEq)]
struct Hours {
    /// The plan of each hour of the week. Plan 0 goes by age alone: it serves the hours that were not in use.
    plans: Vec<u8>,
    /// For each plan the age, of a message sent at the hour's beginning, at which other people are awake than before.
    /// Until then a plan goes by age; from then on by the clock, whenever in its hour the message was sent.
    turns: Vec<f64>,
}

/// A message's place in its plan.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    plan: &'a Plan,
    /// How many seconds after its hour's beginning it was sent.
    into: f64,
    /// Its age at the turn.
    turn: f64,
}

impl Place<'_> {
    /// The plan's age for an age.
    fn planned(&self, age: f64) -> f64 {
        if age < self.turn {
            age
        } else {
            age + self.into
        }
    }

    /// The age for a plan's age. Between the turn of a message sent at the hour's beginning and this one's lies nothing.
    fn age(&self, planned: f64) -> f64 {
        planned.min(self.turn).max(planned - self.into)
    }
}

/// What a policy is expected to bring, as far as the habits it was solved for are true.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Metered calls a message.
    pub calls_per_message: f64,
    /// From a read to the poll that sees it, the mean over reads.
    pub mean_delay: Duration,
    /// Whether the target could be met within `min_interval` and `max_interval`.
    pub reachable: bool,
}

impl Policy {
    /// The policy of the prior alone, before anything was learned.
    pub fn prior(rules: &Rules) -> Self {
        Self::solve(&Habits::prior(rules), rules, rules.calls_per_message)
    }

    /// The policy that spends `target` calls a message where reads happen by `habits`. Takes milliseconds for single
    /// readers and an unknown number, some tens of them where people have a rhythm, and up to a few hundred where a lane has
    /// groups of hundreds.
    ///
    /// At the same habits and rules a higher target never means a later next poll, up to 48 calls a message.
    pub fn solve(habits: &Habits, rules: &Rules, target: f64) -> Self {
        let shape = Shape {
            grid: habits.grid(),
            rules,
            horizon: horizon(rules, habits.lifetime(rules)),
            pieces: (target / CALLS_PER_GRID).ceil().clamp(1.0, 6.0),
            pages: habits.pages(),
        };
        let rhythm = habits.rhythm();
        let kinds = match &rhythm {
            Some((rhythm, sent)) => kinds_of_hours(rhythm, sent, shape.horizon, MOST_KINDS),
            None => vec![],
        };
        let rhythm = rhythm.as_ref().map(|(rhythm, _)| rhythm);
        let reads_by = |curve: &Curve, sent: usize, ages: &[f64]| {
            let ready: Vec<f64> = ages
                .iter()
                .map(|age| curve.mass(shape.grid, *age))
                .collect();
            match rhythm {
                Some(rhythm) => rhythm.reads_by(sent, ages, &ready),
                None => ready,
            }
        };
        let [known, unknown] = [Kind::PerReader, Kind::PerMessage].map(|kind| {
            let starts = match kind {
                Kind::PerReader => habits.starting_readers(),
                Kind::PerMessage => &[Start::ONE],
            };
            let curve = habits.curve(kind);
            let by_age = |age: f64| curve.mass(shape.grid, age);
            let by_hour = |sent, ages: &[f64]| reads_by(&curve, sent, ages);
            // Where no such message was seen, the policy that goes by age serves the first.
            let in_use = habits.reads_of(kind) >= 1.0;
            let kinds = if in_use { &kinds[..] } else { &[] };
            shape.mixture(kind, rhythm, kinds, by_age, by_hour, (starts, target))
        });
        let hours = Hours::of(rhythm, &kinds, shape.horizon);
        Self {
            known: Arc::new(known),
            unknown: Arc::new(unknown),
            hours: Arc::new(hours),
            checked: checked(target),
            expiry_check: (habits.lifetime(rules) + rules.last_chance).as_secs_f64(),
            horizon: shape.horizon,
        }
    }

    /// The policy for readers whose habits are known exactly: `share_read` gives the share that has read by an age, and
    /// `readers` how many readers a message has. On a grid twice as fine: what the learned policies are measured against.
    pub fn optimal(
        share_read: impl Fn(Duration) -> f64,
        readers: u32,
        rules: &Rules,
        target: f64,
    ) -> Self {
        Self::optimal_by_hour(|_, age| share_read(age), None, readers, rules, target)
    }

    /// The same where it matters when a message is sent: `share_read` is asked for one sent at the beginning of an hour of the
    /// week (from Monday, 00:00 UTC), and `hours` gives for each of these hours the share of people that is awake and how
    /// many messages are sent.
    pub fn optimal_by_hour(
        share_read: impl Fn(usize, Duration) -> f64,
        hours: Option<[(f64, f64); HOURS]>,
        readers: u32,
        rules: &Rules,
        target: f64,
    ) -> Self {
        let shape = Shape {
            grid: &Grid::new(rules.key_lifetime),
            rules,
            horizon: horizon(rules, rules.key_lifetime),
            pieces: 2.0,
            pages: 1.0,
        };
        let rhythm = hours.map(|hours| Rhythm::known(|hour| hours[hour].0));
        let sent: Vec<f64> = hours.iter().flatten().map(|(_, sent)| *sent).collect();
        let kinds = match &rhythm {
            Some(rhythm) => kinds_of_hours(rhythm, &sent, shape.horizon, HOURS),
            None => vec![],
        };
        let mut starts = vec![Start::default(); level_of(readers) + 1];
        starts[level_of(readers)].add(readers);
        let share = |sent: usize, age: f64| share_read(sent, Duration::from_secs_f64(age));
        let [known, unknown] = [
            (Kind::PerReader, 1.0, &starts[..]),
            (Kind::PerMessage, f64::from(readers), &[Start::ONE]),
        ]
        .map(|(kind, scale, starts)| {
            let by_age = |age: f64| scale * share(0, age);
            let by_hour = |sent: usize, ages: &[f64]| {
                ages.iter().map(|age| scale * share(sent, *age)).collect()
            };
            shape.mixture(
                kind,
                rhythm.as_ref(),
                &kinds,
                by_age,
                by_hour,
                (starts, target),
            )
        });
        Self {
            known: Arc::new(known),
            unknown: Arc::new(unknown),
            hours: Arc::new(Hours::of(rhythm.as_ref(), &kinds, shape.horizon)),
            checked: checked(target),
            expiry_check: (rules.key_lifetime + rules.last_chance).as_secs_f64(),
            horizon: shape.horizon,
        }
    }

    /// The age at which a message is polled next that is `age` old and was polled just now. Always greater than `age`.
    pub fn next_age(&self, message: Pending, age: Duration) -> Duration {
        let next = self.planned_after(message, age.as_secs_f64());
        // Beyond everything that was planned the distance doubles; nothing plans there, but no interval may be zero.
        let next = Duration::try_from_secs_f64(next).unwrap_or(Duration::MAX);
        if next <= age {
            return age.saturating_mul(2).max(age + Duration::from_millis(1));
        }
        let night = next - age;
        let checks_night =
            self.has_rhythm() && night > NIGHT && message.key.fraction(NIGHT_CHECK) < NIGHT_CHECKS;
        if checks_night { age + night / 2 } else { next }
    }

    fn planned_after(&self, message: Pending, age: f64) -> f64 {
        if age >= self.horizon {
            return self.expiry_check;
        }
        let place = self.place(message);
        let mixture = self.mixture(message.missing);
        let table = if message.key.fraction(MIX) < mixture.dense_share {
            &place.plan.dense
        } else {
            &place.plan.sparse
        };
        let level = match message.missing {
            Missing::Known(readers) => level_of(readers),
            Missing::Unknown => 0,
        };
        let row = &table[level.min(table.len() - 1)];
        let next = row.next(nearest(&place.plan.ages, place.planned(age)));
        if next + 1 == place.plan.ages.len() {
            return self.horizon;
        }
        place
            .age(f64::from(place.plan.ages[next]))
            .min(self.horizon)
    }

    /// How far a poll planned for `age` may be moved and is still followed by what was planned to follow it: half the way
    /// to the ages before and after. As far as one likes beyond what was planned.
    pub fn jitter_bounds(&self, message: Pending, age: Duration) -> (Duration, Duration) {
        let place = self.place(message);
        let ages = &place.plan.ages;
        // A `Duration` is a little less or more than the age that it was made from.
        let planned = place.planned(age.as_secs_f64()) * (1.0 - 1e-6) - 1e-6;
        let at = ages.partition_point(|at| f64::from(*at) < planned);
        let span = |from: usize, to: usize| match (ages.get(from), ages.get(to)) {
            // A little less than half, since rows count whole milliseconds.
            (Some(from), Some(to)) => {
                Duration::try_from_secs_f64(f64::from(to - from) * 0.49).unwrap_or(Duration::ZERO)
            }
            _ => Duration::MAX,
        };
        (span(at.saturating_sub(1), at), span(at, at + 1))
    }

    /// Whether it goes by the hours at which people are awake.
    pub fn has_rhythm(&self) -> bool {
        self.hours.turns.len() > 1
    }

    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        let of_next = |next: &[Row]| next.iter().map(Row::size).sum::<usize>();
        let of_plan = |plan: &Plan| {
            let sparse = match Arc::ptr_eq(&plan.sparse, &plan.dense) {
                true => 0,
                false => of_next(&plan.sparse),
            };
            4 * plan.ages.len() + of_next(&plan.dense) + sparse + 80
        };
        let plans = self.known.plans.iter().chain(&self.unknown.plans);
        plans.map(of_plan).sum::<usize>() + HOURS + 400
    }

    fn mixture(&self, missing: Missing) -> &Mixture {
        match missing {
            Missing::Known(_) => &self.known,
            Missing::Unknown => &self.unknown,
        }
    }

    fn place(&self, message: Pending) -> Place<'_> {
        let plans = &self.mixture(message.missing).plans;
        let plan = usize::from(self.hours.plans[hour_of_week(message.sent_at, 0.0)]);
        let plan = if plan < plans.len() { plan } else { 0 };
        let (into, turn) = match self.hours.turns[plan] {
            turn if turn.is_finite() => (into_hour(message.sent_at, 0.0), turn),
            turn => (0.0, turn),
        };
        Place {
            plan: &plans[plan],
            into,
            turn: turn - into,
        }
    }

    /// Whether it is worth a call at the present target to check that a key has expired.
    pub fn checks_expiry(&self, key: KeyHash) -> bool {
        key.fraction(EXPIRY_CHECK) < self.checked
    }

    /// What is expected of messages whose number of readers is known.
    pub fn expected(&self) -> Expected {
        Self::expectation(&self.known)
    }

    /// What is expected of messages whose number of readers is not known.
    pub fn expected_unknown(&self) -> Expected {
        Self::expectation(&self.unknown)
    }

    fn expectation(mixture: &Mixture) -> Expected {
        Expected {
            calls_per_message: mixture.calls,
            mean_delay: Duration::try_from_secs_f64(mixture.mean_delay).unwrap_or(Duration::MAX),
            reachable: mixture.reachable,
        }
    }
}

/// A kind of hour: who is awake in the hours that follow is the same. Its messages have a plan of their own.
#[derive(Clone, Debug)]
struct HourKind {
    /// The first of its hours of the week.
    sent: usize,
    hours: Vec<usize>,
    weight: f64,
}

/// The kinds of hours in which most messages are sent.
fn kinds_of_hours(rhythm: &Rhythm, sent: &[f64], horizon: f64, most: usize) -> Vec<HourKind> {
    let mut kinds: Vec<HourKind> = vec![];
    // Exact: a life is some days.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let hours = ((horizon / HOUR).ceil() as usize + 1).min(HOURS);
    for (hour, weight) in sent.iter().enumerate() {
        let same = |kind: &HourKind| rhythm.alike(kind.sent, hour, hours) == hours;
        match kinds.iter_mut().find(|kind| same(kind)) {
            Some(kind) => {
                kind.hours.push(hour);
                kind.weight += weight;
            }
            None => kinds.push(HourKind {
                sent: hour,
                hours: vec![hour],
                weight: *weight,
            }),
        }
    }
    let least = IN_USE * sent.iter().sum::<f64>();
    kinds.retain(|kind| kind.weight > least);
    kinds.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    kinds.truncate(most);
    kinds
}

impl Hours {
    fn of(rhythm: Option<&Rhythm>, kinds: &[HourKind], horizon: f64) -> Self {
        let mut hours = Self {
            plans: vec![0; HOURS],
            turns: vec![f64::INFINITY],
        };
        let turn = |kind: &HourKind| {
            let changes = rhythm?.changes(kind.sent, horizon);
            let turns = changes
                .iter()
                .find(|(_, before, then)| (before - then).abs() > TURN);
            turns.map(|(age, _, _)| *age)
        };
        for (plan, kind) in (1..).zip(kinds) {
            kind.hours.iter().for_each(|hour| hours.plans[*hour] = plan);
            hours.turns.push(turn(kind).unwrap_or(f64::INFINITY));
        }
        // Other hours are served by a plan under which the hours to come are long the same.
        for (hour, plan) in hours.plans.iter_mut().enumerate() {
            let alike = |kind: &HourKind| rhythm.map_or(0, |it| it.alike(kind.sent, hour, HOURS));
            let nearest = (1..).zip(kinds).max_by_key(|(_, kind)| alike(kind));
            if *plan == 0
                && let Some((nearest, kind)) = nearest
                && alike(kind) >= ALIKE
            {
                *plan = nearest;
            }
        }
        hours
    }
}

/// What the problems of both kinds of message have in common.
struct Shape<'a> {
    grid: &'a Grid,
    rules: &'a Rules,
    horizon: f64,
    /// Into how many pieces each bin of the grid is split.
    pieces: f64,
    /// Calls a walk.
    pages: f64,
}

impl Shape<'_> {
    /// `by_age` gives what is read by an age wherever hours are left aside, `by_hour` what is read by some ages of a message
    /// sent at the beginning of an hour of the week.
    fn mixture(
        &self,
        kind: Kind,
        rhythm: Option<&Rhythm>,
        kinds: &[HourKind],
        by_age: impl Fn(f64) -> f64,
        by_hour: impl Fn(usize, &[f64]) -> Vec<f64>,
        (starts, target): (&[Start], f64),
    ) -> Mixture {
        let target = if target.is_finite() {
            target.max(0.0)
        } else {
            f64::from(u16::MAX)
        };
        let lattice = |changes: &[(f64, f64, f64)]| {
            ages(self.grid, self.horizon, self.rules, self.pieces, changes)
        };
        let problem =
            |ages, mass, weight| Problem::new(kind, ages, mass, self.rules, self.pages, weight);
        let all = lattice(&[]);
        let mass = all.iter().map(|age| by_age(*age)).collect();
        // Where there are kinds of hours, what goes by age serves the exceptions, and counts for nothing.
        let weight = if kinds.is_empty() { 1.0 } else { 0.0 };
        let mut problems = vec![problem(all, mass, weight)];
        for of_hour in kinds {
            let changes = rhythm.map(|rhythm| rhythm.changes(of_hour.sent, self.horizon));
            let ages = lattice(&changes.unwrap_or_default());
            let mass = by_hour(of_hour.sent, &ages);
            problems.push(problem(ages, mass, of_hour.weight));
        }
        mixture(&problems, starts, target, checked(target))
    }
}

/// The share of expiries that are checked at a target.
fn checked(target: f64) -> f64 {
    ((target - CHECK_NONE) / (CHECK_ALL - CHECK_NONE)).clamp(0.0, 1.0)
}

/// The age of the last chance, in seconds.
fn horizon(rules: &Rules, lifetime: Duration) -> f64 {
    let last_chance = lifetime.saturating_sub(rules.last_chance);
    let shortest = rules.key_lifetime.mul_f64(SHORTEST_HORIZON);
    last_chance
        .min(rules.max_age)
        .max(shortest)
        .as_secs_f64()
        .max(1e-3)
}

/// The index of the age nearest to `age`, which need not be one of `ages`, and is never taken for the last of them. Jitter
/// thus leads back to the plan, and never to a poll just before the last chance.
fn nearest(ages: &[f32], age: f64) -> usize {
    let above = ages.partition_point(|at| f64::from(*at) <= age);
    let last = ages.len().saturating_sub(2);
    let above = above.clamp(1, ages.len() - 1);
    let (low, high) = (f64::from(ages[above - 1]), f64::from(ages[above]));
    let nearest = if age - low < high - age {
        above - 1
    } else {
        above
    };
    nearest.min(last)
}
