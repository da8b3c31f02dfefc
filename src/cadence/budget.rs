//! A month's calls, made to last the month.

use super::Rules;

/// A rate is taken over at least this many seconds: a few early bursts are no rate yet. A lane that sends more than its
/// budget covers must be known for one within hours, since each ordinary poll until then is a last chance less.
const SHORTEST_COUNTED: f64 = 6.0 * 3_600.0;
/// At first, what is known of the months before weighs as much as this many seconds of this month.
const USUAL_WEIGHT: f64 = 3.0 * 86_400.0;
/// After this many seconds it weighs nothing: a week has shown its weekdays itself.
const USUAL_FADES: f64 = 7.0 * 86_400.0;
/// A pending message will spend, besides its last chance, about half of what one still to come will: calls go out early.
const PENDING_SHARE: f64 = 0.5;

/// What a call is for. From the first to be dropped to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// Whether a key lives on after its life: nothing is lost without it.
    ExpiryCheck,
    /// A poll of the cadence, or a further page or a retry of one.
    Ordinary,
    /// The poll after which the answer is lost for ever, and its further pages.
    LastChance,
}

/// A budget and how its month stands. Everything is counted over all lanes that share the budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Month {
    /// Metered calls that the month may cost.
    pub budget: u64,
    /// Metered calls made this month, those under way included.
    pub spent: u64,
    /// When the month began, in Unix milliseconds, like the moments below.
    pub starts_at: i64,
    /// When the next one begins.
    pub ends_at: i64,
    /// Now, within the month.
    pub now: i64,
    /// Pending messages whose last chance is still to come within the month.
    pub owed: u64,
    /// Messages sent since the month began, see [`Self::begin`].
    pub messages: u64,
    /// In how many bursts they came, see [`Self::burst_gap`].
    bursts: u64,
    /// When the newest of them came.
    newest_at: i64,
    /// Since when they were counted: the month's beginning, or the first of them where the lanes are younger than the
    /// month. A moment outside the month counts as the end of it that is nearer.
    pub since: i64,
    /// Messages a month that are usual, where that is known: steadies the first days.
    pub usual: Option<f64>,
}

/// A share of the budget that was reached, each logged once a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Threshold {
    /// 80 %.
    Low,
    /// 100 %: nothing more goes out this month.
    Spent,
}

impl Month {
    /// The month from `starts_at` to `ends_at` (Unix milliseconds), of which nothing was spent by `now`.
    pub fn new(budget: u64, starts_at: i64, ends_at: i64, now: i64) -> Self {
        Self {
            budget,
            spent: 0,
            starts_at,
            ends_at,
            now,
            owed: 0,
            messages: 0,
            bursts: 0,
            newest_at: 0,
            since: now,
            usual: None,
        }
    }

    /// Counts messages that were sent about now.
    pub fn begin(&mut self, messages: u64) {
        if messages > 0 {
            let follows = self.bursts > 0 && seconds(self.newest_at, self.now) < self.burst_gap();
            self.bursts += u64::from(!follows);
            self.newest_at = self.now;
            self.messages = self.messages.saturating_add(messages);
        }
    }

    /// Counts messages of this month that were sent before this was made, the first of them at `first_at`. Nobody remembers
    /// when the others were: they are taken to have come evenly.
    pub fn begun_before(&mut self, messages: u64, first_at: i64) {
        self.since = first_at.min(self.since);
        self.messages = self.messages.saturating_add(messages);
        let gaps = seconds(self.since.max(self.starts_at), self.now) / self.burst_gap();
        // Cut off at the number of messages, which a float holds.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bursts = (1.0 + gaps).min(real(self.messages)) as u64;
        self.bursts = bursts;
        self.newest_at = self.now;
    }

    /// Calls a message to spend from now on, its last chance included: what is left, less one last chance for each
    /// pending message, over the messages still to come this month. Never above `calls_per_message`, which
    /// a plentiful budget leaves as it is. Below 1 not even the last chances are covered.
    pub fn target(&self, rules: &Rules) -> f64 {
        let pending = PENDING_SHARE * real(self.owed);
        let to_share = self.to_come(rules) + pending;
        // What one still to come will spend includes its last chance; those of the pending are set aside.
        let left = real(self.left()) - real(self.owed) + pending;
        if to_share <= 0.0 {
            return if left > 0.0 {
                rules.calls_per_message
            } else {
                0.0
            };
        }
        (left / to_share).clamp(0.0, rules.calls_per_message.max(0.0))
    }

    /// Whether a call may go out now. Asked before each call, a month is never a call over its budget.
    pub fn allows(&self, call: Call) -> bool {
        let left = self.left();
        let free = real(left) - real(self.owed);
        match call {
            Call::LastChance => left >= 1,
            // Those still to come have their last chances kept for them too.
            Call::Ordinary => left > self.owed && free >= self.shown() + 1.0,
            Call::ExpiryCheck => left > self.owed && free >= 2.0 * self.shown() + 1.0,
        }
    }

    /// Calls that are left.
    pub fn left(&self) -> u64 {
        self.budget.saturating_sub(self.spent)
    }

    /// Messages still to come this month. Where neither earlier months nor this one tell, as many as the budget affords at
    /// `calls_per_message`.
    pub fn to_come(&self, rules: &Rules) -> f64 {
        let afforded = match self.usual {
            Some(_) => 0.0,
            None => real(self.budget) / rules.calls_per_message.max(1.0),
        };
        self.shown().max(afforded * self.left_of_month())
    }

    /// Messages still to come at the rate that this month and the ones before have shown.
    fn shown(&self) -> f64 {
        let counted = seconds(self.since.max(self.starts_at), self.now);
        let shortest = counted.max(SHORTEST_COUNTED);
        let size = real(self.messages) / real(self.bursts.max(1));
        // Counting begins with the first burst.
        let followed = real(self.bursts.saturating_sub(1));
        let rate = match self.usual {
            None => size * followed / shortest,
            Some(usual) => {
                let weight = USUAL_WEIGHT * (1.0 - counted / USUAL_FADES).max(0.0);
                let known = usual.max(0.0) / self.length() * weight;
                let steadied = (size * followed + known) / (counted + weight).max(1.0);
                // A month far above the usual is believed sooner: a standard deviation below what it shows is its least.
                let least = size * (followed - followed.sqrt()) / shortest;
                steadied.max(least)
            }
        };
        rate * seconds(self.now, self.ends_at)
    }

    /// Messages that follow one another within this many seconds are one burst: a month's length over its budget. More than
    /// that the budget could not cover all month at one call each, which is a sign that they will not go on so. One burst
    /// is no rate, however large: only the next one tells how soon others follow.
    fn burst_gap(&self) -> f64 {
        self.length() / real(self.budget.max(1))
    }

    fn length(&self) -> f64 {
        seconds(self.starts_at, self.ends_at).max(1.0)
    }

    /// As a share of the month.
    fn left_of_month(&self) -> f64 {
        seconds(self.now, self.ends_at) / self.length()
    }

    /// Where the month's spend will end if messages keep coming at this rate.
    pub fn forecast(&self, rules: &Rules) -> u64 {
        let pending = PENDING_SHARE * real(self.owed);
        let ahead = self.target(rules) * (self.to_come(rules) + pending) - pending;
        // Rounded, and cut off at the budget, so it fits; below zero it is zero.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let ahead = ahead.round() as u64;
        self.spent
            .saturating_add(self.owed)
            .saturating_add(ahead)
            .min(self.budget.max(self.spent))
    }

    /// The threshold that was crossed when the month's spend rose from `before` to what it is now; the higher one
    /// where it was both.
    pub fn crossed(&self, before: u64) -> Option<Threshold> {
        let reached = |spent: u64| {
            if spent >= self.budget {
                Some(Threshold::Spent)
            } else if spent.saturating_mul(5) >= self.budget.saturating_mul(4) {
                Some(Threshold::Low)
            } else {
                None
            }
        };
        let now = reached(self.spent);
        if now > reached(before) { now } else { None }
    }
}

/// From one moment to another in seconds; zero where the other is earlier.
#[allow(
    clippy::cast_precision_loss,
    reason = "milliseconds of a month are exact"
)]
fn seconds(from: i64, to: i64) -> f64 {
    to.saturating_sub(from).max(0) as f64 / 1e3
}

/// A count for a formula: exact up to 2^53, far beyond a month's calls.
#[allow(clippy::cast_precision_loss)]
fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-16T00:00:00 at UTC+8: the middle of a month of 30 days.
    const MIDDLE: i64 = 1_794_758_400_000;
    const START: i64 = MIDDLE - 15 * DAY;
    const END: i64 = MIDDLE + 15 * DAY;
    const DAY: i64 = 24 * HOUR;
    const HOUR: i64 = 3_600_000;

    /// 5,000 calls, of which some are spent by the middle of the month; messages came evenly since its beginning.
    fn month(spent: u64, messages: u64) -> Month {
        let mut month = Month::new(5_000, START, END, MIDDLE);
        month.begun_before(messages, START);
        (month.spent, month.owed) = (spent, 10);
        month
    }

    fn close(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.02
    }

    #[test]
    fn what_is_left_is_shared_by_what_is_to_come() {
        let rules = Rules::default();
        let to_come = month(2_500, 750).to_come(&rules);
        assert!(close(to_come, 750.0), "{to_come}");
        let short = month(2_500, 750).target(&rules);
        assert!(close(short, 2_495.0 / 755.0), "{short}");
        assert_eq!(
            month(2_500, 150).target(&rules),
            2_495.0 / (5_000.0 / 24.0 + 5.0)
        );
        assert!(month(2_500, 4_000).target(&rules) < 1.0);
        assert_eq!(month(5_000, 4_000).target(&rules), 0.0);
    }

    #[test]
    fn last_chances_are_kept_for_the_pending_and_for_those_to_come() {
        let mut tight = month(3_000, 1_986);
        assert!(tight.allows(Call::Ordinary));
        assert!(!tight.allows(Call::ExpiryCheck));
        tight.spent += 5;
        assert!(!tight.allows(Call::Ordinary));
        assert!(tight.allows(Call::LastChance));
        tight.spent = 4_999;
        assert!(tight.allows(Call::LastChance));
        tight.spent = 5_000;
        for call in [Call::ExpiryCheck, Call::Ordinary, Call::LastChance] {
            assert!(!tight.allows(call));
        }
    }

    #[test]
    fn each_threshold_is_crossed_once() {
        let crossed: Vec<_> = (1..=5_000)
            .filter_map(|spent| month(spent, 100).crossed(spent - 1))
            .collect();
        assert_eq!(crossed, [Threshold::Low, Threshold::Spent]);
        assert_eq!(month(5_000, 1).crossed(0), Some(Threshold::Spent));
        assert_eq!(month(4_100, 1).crossed(4_050), None);
    }

    #[test]
    fn a_month_that_has_just_begun_is_as_the_ones_before() {
        let rules = Rules::default();
        let mut fresh = Month::new(5_000, START, END, START);
        assert_eq!(fresh.target(&rules), 12.0);
        fresh.usual = Some(2_000.0);
        assert!(close(fresh.to_come(&rules), 2_000.0), "{fresh:?}");
    }

    #[test]
    fn one_burst_is_no_rate_and_the_next_one_makes_it_one() {
        let rules = Rules::default();
        for usual in [None, Some(300.0)] {
            let mut month = Month::new(4_000, START, END, START);
            month.usual = usual;
            // Within an hour.
            for minute in 0..50 {
                month.now = START + minute * HOUR / 50;
                month.begin(2);
            }
            month.owed = 100;
            for spent in [0, 300, 600] {
                month.spent = spent;
                let target = month.target(&rules);
                assert!(target >= 8.0, "usual {usual:?}, {spent} spent: {target}");
                assert!(month.allows(Call::Ordinary));
            }
            // The next day brings as many: they are daily, and 3,900 calls for 2,900 messages are few.
            (month.owed, month.now) = (100, START + DAY);
            month.begin(100);
            let target = month.target(&rules);
            assert!((1.0..3.5).contains(&target), "usual {usual:?}: {target}");
        }
    }

    #[test]
    fn a_burst_larger_than_the_month_affords_leaves_last_chances() {
        let rules = Rules::default();
        let mut month = Month::new(4_000, START, END, START);
        month.begin(3_500);
        month.owed = 3_500;
        let target = month.target(&rules);
        assert!((0.5..2.0).contains(&target), "{target}");
        month.spent = 500;
        assert!(!month.allows(Call::Ordinary));
        assert!(month.allows(Call::LastChance));
    }

    #[test]
    fn a_lane_younger_than_the_month_has_the_rate_of_its_own_days() {
        let rules = Rules::default();
        let mut young = Month::new(5_000, START, END, MIDDLE);
        young.begun_before(100, MIDDLE - DAY);
        // A hundred in a day, and fifteen days are left.
        assert!(close(young.to_come(&rules), 1_500.0), "{young:?}");
        for outside in [0, i64::MAX] {
            let mut odd = month(0, 100);
            odd.since = outside;
            assert!(odd.to_come(&rules).is_finite());
            assert!(odd.to_come(&rules) >= 100.0);
        }
    }

    #[test]
    fn a_month_far_above_the_usual_is_believed_within_a_day() {
        let rules = Rules::default();
        let surprise = |messages, hours: i64| {
            let mut month = Month::new(5_000, START, END, START + hours * HOUR);
            month.begun_before(messages, START);
            month.usual = Some(300.0);
            month.to_come(&rules)
        };
        // 267 in the first day instead of 10: more than 5,000 are to come, not the 2,000 of a mean with what is usual.
        assert!(surprise(267, 24) > 5_000.0);
        // A few that came together are no surprise.
        assert!(surprise(5, 1) < 600.0);
    }
}
