//! What a lane's readers were seen to do.

mod stored;

use std::convert::Infallible;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Rules;
use super::activity::{Activity, HOURS, Rhythm, hour_of_week};
use super::estimate::{Curve, Kind, Posterior, Seen, Table};
use super::grid::Grid;
use super::groups::{MOST_LEVELS, Start, level_of};
use super::lifetime::Lifetime;
use super::observe::{Missing, Observation};

pub use stored::HabitsError;

/// What is believed of the number of readers: it stands for one message with one.
const PRIOR_START: Start = Start::ONE;
/// So many walks of one call stand for what is believed of the calls a walk takes.
const PRIOR_WALKS: f64 = 20.0;

/// The estimate that reads are spread by is computed anew after this many polls at first, later after a larger number.
const REFRESH_FIRST: u32 = 16;
/// At the latest after so many.
const REFRESH_LAST: u32 = 1_000;
/// The recent table forgets this many times as fast: five days of the usual thirty, so that a night or a Sunday is no change.
const RECENT_FASTER: f64 = 6.0;
/// Hours are forgotten this many times as fast: there are few of them, and a rhythm that ended keeps calls back.
const HOURS_FASTER: f64 = 6.0;
/// Days of the week, of which there are fewer still, this many times.
const DAYS_FASTER: f64 = 3.0;
/// What the hours' earlier polls weigh each time that their estimate is computed anew.
const EARLIER: f64 = 0.8;
/// How much better, in nats, another estimate must have foretold the polls. By chance alone that happens less than once in
/// e¹² = 160,000 polls (Lorden 1971).
const ALARM: f64 = 12.0;
/// What is left then of the recent past, a part of which is from before the change.
const AT_A_CHANGE: f64 = 0.5;
/// No poll says more than this many nats for either: one odd message is no change.
const MOST_SAID: f64 = 2.0;
/// Nor do all polls of a day for other habits: a weekend is no change.
const MOST_A_DAY: f64 = 4.0;

/// When an estimate is computed anew: the more was learned, the less one poll changes.
#[derive(Clone, Copy, Debug)]
struct Refresh {
    since: u32,
    until: u32,
}

impl Default for Refresh {
    fn default() -> Self {
        Self {
            since: 0,
            until: REFRESH_FIRST,
        }
    }
}

impl Refresh {
    /// Counts a poll. A tenth more polls each time.
    fn is_due(&mut self) -> bool {
        self.since += 1;
        let due = self.since >= self.until;
        if due {
            self.since = 0;
            self.until = (self.until + self.until / 10 + 1).min(REFRESH_LAST);
        }
        due
    }

    /// As [`Self::is_due`], for what is forgotten fast: after a tenth of the reads that `table` remembers.
    fn is_due_for(&mut self, table: &Table) -> bool {
        let due = self.is_due();
        if due {
            let tenth = table.weight() / 10.0;
            // Both ends are whole numbers above zero.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let until = tenth.clamp(f64::from(REFRESH_FIRST), f64::from(REFRESH_LAST)) as u32;
            self.until = until;
        }
        due
    }
}

/// What is learned of one kind of message, and the watch for the day on which its readers change.
///
/// An old habit that merely fades still weighs 1/e after one memory, and most where it hurts: a crowd that turned quick is
/// polled as a slow one. So the newest messages are counted twice, once more in a table of their own that forgets fast. Each
/// poll is foretold by both. While habits stand, the short table, being the noisier, foretells worse; when it has foretold
/// better by [`ALARM`] (Page's cumulative sum of log-likelihood ratios, 1954) the habits have changed, and it takes the
/// place of the long one.
#[derive(Clone, Debug)]
struct Learned {
    table: Table,
    /// The estimate that reads are spread by, which lags a little behind the table.
    curve: Curve,
    refresh: Refresh,
    recent: Table,
    recent_curve: Curve,
    recent_refresh: Refresh,
    /// By how many nats the recent table has lately foretold better; never below zero.
    cusum: f64,
    /// The same before the present day, and that day.
    before_today: f64,
    day: i64,
}

impl Learned {
    fn new(table: Table, recent: Table, cusum: f64, grid: &Grid) -> Self {
        Self {
            curve: table.curve(grid),
            table,
            refresh: Refresh::default(),
            recent_curve: recent.curve(grid),
            recent,
            recent_refresh: Refresh::default(),
            cusum,
            before_today: cusum,
            day: 0,
        }
    }

    fn empty(kind: Kind, grid: &Grid) -> Self {
        Self::new(Table::new(kind, grid), Table::new(kind, grid), 0.0, grid)
    }

    /// Takes in a poll, of whose reads some have an age that is known; returns what it says under the estimate, and what each
    /// part of it says, where it has several.
    fn add(
        &mut self,
        grid: &Grid,
        rhythm: Option<&Rhythm>,
        seen: Seen,
        read: &[f64],
    ) -> Option<(Posterior, Vec<Posterior>)> {
        let posterior = Posterior::new(grid, &self.curve, rhythm, seen)?;
        let recent = Posterior::new(grid, &self.recent_curve, rhythm, seen)?;
        let mut parts = Vec::new();
        let mut llr_of_timed = 0.0;
        if read.is_empty() {
            self.table.add(&posterior);
            self.recent.add(&recent);
        }
        for part in seen.parts(self.table.kind, read) {
            let of = |curve| Posterior::new(grid, curve, rhythm, part);
            let (Some(long), Some(recent)) = (of(&self.curve), of(&self.recent_curve)) else {
                continue;
            };
            self.table.add(&long);
            self.recent.add(&recent);
            llr_of_timed += recent.log_likelihood() - long.log_likelihood();
            parts.push(long);
        }
        let llr = if seen.complete {
            Some(recent.log_likelihood() - posterior.log_likelihood())
        } else {
            // Nothing was asked, but of these readers all is known.
            (!read.is_empty()).then(|| llr_of_timed / seen.reads.max(1.0))
        };
        if let Some(llr) = llr {
            if seen.day() != self.day {
                (self.day, self.before_today) = (seen.day(), self.cusum);
            }
            let cusum = self.cusum + llr.clamp(-MOST_SAID, MOST_SAID);
            self.cusum = cusum.clamp(0.0, self.before_today + MOST_A_DAY);
        }
        if self.recent_refresh.is_due_for(&self.recent) {
            self.recent_curve = self.recent.curve(grid);
        }
        if self.refresh.is_due() {
            self.curve = self.table.curve(grid);
        }
        if self.cusum > ALARM {
            // The habits have changed: only the recent past counts.
            self.recent.fade(AT_A_CHANGE);
            *self = Self::new(self.recent.clone(), self.recent.clone(), 0.0, grid);
        }
        Some((posterior, parts))
    }

    /// Lets what was learned fade: after `lives` = 1 it weighs 1/e.
    fn fade(&mut self, lives: f64) {
        self.table.fade((-lives).exp());
        self.recent.fade((-RECENT_FASTER * lives).exp());
    }
}

/// What was measured lately, with the same forgetting as the habits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Metered calls a message.
    pub calls_per_message: f64,
    /// From a read to when it was seen, where any was. An estimate for reads of which DingTalk does not say when they were.
    pub mean_delay: Option<Duration>,
    /// How many messages these figures stand for.
    pub messages: f64,
}

/// What a lane's readers were seen to do, and the prior. Grows by [`Self::learn`], fades by [`Self::forget`].
#[derive(Clone, Debug)]
pub struct Habits {
    grid: Grid,
    known: Learned,
    unknown: Learned,
    /// Messages that began with about 1, 2, 4, … readers, without the prior.
    starts: Vec<Start>,
    /// The prior and `starts`, up to the largest seen.
    starts_or_prior: Vec<Start>,
    activity: Activity,
    rhythm: Option<Rhythm>,
    rhythm_refresh: Refresh,
    /// By how many nats polls have lately been foretold better without the rhythm; never below zero.
    rhythm_doubt: f64,
    totals: Totals,
    lifetime: Lifetime,
    /// Up to when the past has faded, in Unix milliseconds; zero where nothing was learned yet.
    updated_at: i64,
}

/// Sums that fade like the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Totals<T = f64> {
    /// Complete walks, and the calls they took.
    walks: T,
    walk_calls: T,
    /// Messages begun, and calls made.
    messages: T,
    calls: T,
    /// Reads seen, and their delay in seconds.
    reads: T,
    delay: T,
}

impl<T> Totals<T> {
    fn try_map<U, E>(self, mut of: impl FnMut(T) -> Result<U, E>) -> Result<Totals<U>, E> {
        Ok(Totals {
            walks: of(self.walks)?,
            walk_calls: of(self.walk_calls)?,
            messages: of(self.messages)?,
            calls: of(self.calls)?,
            reads: of(self.reads)?,
            delay: of(self.delay)?,
        })
    }

    fn map<U>(self, mut of: impl FnMut(T) -> U) -> Totals<U> {
        let Ok(mapped) = self.try_map(|total| Ok::<_, Infallible>(of(total)));
        mapped
    }
}

impl Habits {
    /// Nothing learned yet.
    pub fn prior(rules: &Rules) -> Self {
        let grid = Grid::new(rules.key_lifetime);
        let [known, unknown] =
            [Kind::PerReader, Kind::PerMessage].map(|kind| Learned::empty(kind, &grid));
        Self {
            grid,
            known,
            unknown,
            starts: vec![Start::default(); MOST_LEVELS],
            starts_or_prior: vec![PRIOR_START],
            activity: Activity::new(),
            rhythm: None,
            rhythm_refresh: Refresh::default(),
            rhythm_doubt: 0.0,
            totals: Totals::default(),
            lifetime: Lifetime::default(),
            updated_at: 0,
        }
    }

    /// Takes in what one poll saw. Cheap: some hundred additions.
    pub fn learn(&mut self, seen: &Observation) {
        self.totals.calls += f64::from(seen.calls);
        if let Some(missing) = seen.begins {
            self.totals.messages += 1.0;
            self.activity.sent[hour_of_week(seen.sent_at, 0.0)] += 1.0;
            if let Missing::Known(readers) = missing {
                self.starts[level_of(readers)].add(readers);
                self.count_starts();
            }
        }
        if seen.complete {
            self.totals.walks += 1.0;
            self.totals.walk_calls += f64::from(seen.calls.max(1));
            self.lifetime.answered(seen.age);
        }
        if let Some(answered) = seen.expired_after {
            self.lifetime.expired(answered, seen.age);
        }
        if (seen.complete || seen.new_readers > 0) && seen.seen_until < seen.age {
            self.learn_reads(seen);
        }
    }

    fn learn_reads(&mut self, seen: &Observation) {
        let learned = match seen.still_missing {
            Some(_) => &mut self.known,
            None => &mut self.unknown,
        };
        let interval = Seen {
            sent_at: seen.sent_at,
            from: seen.seen_until.as_secs_f64(),
            to: seen.age.as_secs_f64(),
            reads: f64::from(seen.new_readers),
            waiting: f64::from(seen.still_missing.unwrap_or(1)),
            complete: seen.complete,
        };
        let rhythm = self.rhythm.as_ref();
        let read: Vec<f64> = seen.read_ages.iter().map(Duration::as_secs_f64).collect();
        let kind = learned.table.kind;
        let Some((posterior, parts)) = learned.add(&self.grid, rhythm, interval, &read) else {
            return;
        };
        if interval.reads > 0.0 {
            self.totals.reads += interval.reads;
            // Of a read whose time is known the delay is known too.
            let untimed = (interval.reads - read.iter().map(|_| 1.0).sum::<f64>()).max(0.0);
            let known: f64 = read.iter().map(|age| (interval.to - age).max(0.0)).sum();
            self.totals.delay += known + posterior.delay(rhythm) * (untimed / interval.reads);
        }
        if !seen.complete && read.is_empty() {
            return;
        }
        if seen.complete
            && posterior.is_of_sleep(rhythm)
            && let Some(sleepless) = Posterior::new(&self.grid, &learned.curve, None, interval)
        {
            let llr = sleepless.log_likelihood() - posterior.log_likelihood();
            self.rhythm_doubt = (self.rhythm_doubt + llr.clamp(-MOST_SAID, MOST_SAID)).max(0.0);
        }
        let activity = &mut self.activity;
        let whole = interval.weight(kind);
        let parts = match read.is_empty() {
            true => std::slice::from_ref(&posterior),
            false => &parts,
        };
        for part in parts.iter().filter(|part| part.seen.complete) {
            // All that is said of a message counts as one reader.
            let share = part.seen.weight(kind) / whole;
            part.by_hour(rhythm, |hour, reads, expected| {
                let usual = rhythm.map_or(1.0, |rhythm| rhythm.usually_awake(hour));
                activity.add(hour, share * reads, share * expected, usual);
            });
        }
        if self.rhythm_doubt > ALARM {
            // People read at other hours than they did.
            self.rhythm_doubt = 0.0;
            self.activity.fade_hours(0.0);
            self.rhythm = None;
        } else if self.rhythm_refresh.is_due() {
            self.rhythm = self.activity.rhythm_by_hour();
            // What was spread by a poorer estimate counts less and less.
            self.activity.fade_hours(EARLIER);
        }
    }

    /// Lets what was learned fade toward the prior: after `memory` it weighs 1/e.
    pub fn forget(&mut self, elapsed: Duration, memory: Duration) {
        let lives = elapsed.as_secs_f64() / memory.as_secs_f64().max(1e-3);
        let factor = (-lives).exp();
        for learned in [&mut self.known, &mut self.unknown] {
            learned.fade(lives);
        }
        for start in &mut self.starts {
            start.fade(factor);
        }
        self.activity.fade((-DAYS_FASTER * lives).exp());
        self.activity
            .fade_hours((-(HOURS_FASTER - DAYS_FASTER) * lives).exp());
        self.count_starts();
        self.totals = self.totals.map(|total| total * factor);
    }

    /// [`Self::forget`] for the time from the last call of this to `now` (Unix milliseconds); a clock that stands or runs
    /// backwards changes nothing.
    pub fn forget_until(&mut self, now: i64, memory: Duration) {
        if now > self.updated_at {
            if self.updated_at != 0 {
                let elapsed = now.saturating_sub(self.updated_at).unsigned_abs();
                self.forget(Duration::from_millis(elapsed), memory);
            }
            self.updated_at = now;
        }
    }

    /// How long a key answers: the setting, or less where that was learned.
    pub fn lifetime(&self, rules: &Rules) -> Duration {
        let learned = self.lifetime.shorter_than(rules.key_lifetime);
        learned.unwrap_or(rules.key_lifetime)
    }

    /// The share of readers that have read by `age`, their sleep left aside, and never more than 1; where the number of
    /// readers is unknown, the share of those that read within the life of a key.
    pub fn share_read_by(&self, age: Duration, known: bool) -> f64 {
        let age = age.as_secs_f64();
        let (learned, whole) = if known {
            (&self.known, 1.0)
        } else {
            let curve = &self.unknown.curve;
            (&self.unknown, curve.mass(&self.grid, self.grid.lifetime()))
        };
        (learned.curve.mass(&self.grid, age) / whole.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }

    /// Reads learned from, as far as they are remembered: with `expected_readers` known, and without.
    pub fn reads(&self) -> (f64, f64) {
        (self.known.table.weight(), self.unknown.table.weight())
    }

    pub(super) fn reads_of(&self, kind: Kind) -> f64 {
        match kind {
            Kind::PerReader => self.known.table.weight(),
            Kind::PerMessage => self.unknown.table.weight(),
        }
    }

    /// What was measured lately; `None` before the first message.
    pub fn measured(&self) -> Option<Measured> {
        let totals = &self.totals;
        (totals.messages > 0.0).then(|| Measured {
            calls_per_message: totals.calls / totals.messages,
            mean_delay: Duration::try_from_secs_f64(totals.delay / totals.reads).ok(),
            messages: totals.messages,
        })
    }

    /// The share of people that are awake in each hour of the week, from Monday, 00:00 UTC; `None` where no hour was found to
    /// differ from the others.
    pub fn awake(&self) -> Option<[f64; HOURS]> {
        let rhythm = self.rhythm.as_ref()?;
        Some(std::array::from_fn(|hour| rhythm.awake(hour)))
    }

    /// The newest estimate of the hours, and how many messages were sent in each hour of the week.
    pub(super) fn rhythm(&self) -> Option<(Rhythm, &[f64])> {
        Some((self.activity.rhythm()?, &self.activity.sent))
    }

    pub(super) fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The newest estimate.
    pub(super) fn curve(&self, kind: Kind) -> Curve {
        let learned = match kind {
            Kind::PerReader => &self.known,
            Kind::PerMessage => &self.unknown,
        };
        learned.table.curve(&self.grid)
    }

    /// How many messages begin with about 1, 2, 4, … readers, up to the largest seen.
    pub(super) fn starting_readers(&self) -> &[Start] {
        &self.starts_or_prior
    }

    /// Calls a complete walk takes: its pages, and what had to be repeated.
    pub(super) fn pages(&self) -> f64 {
        (self.totals.walk_calls + PRIOR_WALKS) / (self.totals.walks + PRIOR_WALKS)
    }

    fn count_starts(&mut self) {
        // What has faded to less than this is as good as never seen.
        let seen = self.starts.iter().rposition(|start| start.messages > 1e-3);
        self.starts_or_prior = self.starts[..=seen.unwrap_or(0)].to_vec();
        self.starts_or_prior[0].messages += PRIOR_START.messages;
        self.starts_or_prior[0].readers += PRIOR_START.readers;
    }
}
