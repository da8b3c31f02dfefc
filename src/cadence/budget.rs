//! A month's calls, made to last the month.

use std::time::Duration;

use super::Rules;

/// A rate that was counted for less than this is taken over so long: a few early messages are no rate yet. A lane that
/// sends more than its budget covers must be known for one within hours, since each ordinary poll until then is a last
/// chance less.
const SHORTEST_COUNTED: Duration = Duration::from_secs(6 * 3_600);
/// What is known of the months before weighs as much as so long of this one …
const USUAL_WEIGHT: Duration = Duration::from_secs(3 * 86_400);
/// … at first, and nothing from so long on: a week has shown its weekdays itself.
const USUAL_FADES: Duration = Duration::from_secs(7 * 86_400);
/// A pending message will spend, besides its last chance, about half of what one still to come will: calls go out early.
const PENDING_SHARE: f64 = 0.5;

/// What a call is for. From the first to be dropped to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Messages sent since the month began.
    pub messages: u64,
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
    /// Calls a message to spend from now on, its last chance included: what is left, less one last chance for each
    /// pending message, over the messages still to come this month at its rate. Never above `calls_per_message`, which
    /// a plentiful budget leaves as it is. Below 1 not even the last chances are covered.
    pub fn target(&self, rules: &Rules) -> f64 {
        let pending = PENDING_SHARE * real(self.owed);
        let to_share = self.to_come() + pending;
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
            Call::Ordinary => left > self.owed && free >= self.to_come() + 1.0,
            Call::ExpiryCheck => left > self.owed && free >= 2.0 * self.to_come() + 1.0,
        }
    }

    /// Calls that are left.
    pub fn left(&self) -> u64 {
        self.budget.saturating_sub(self.spent)
    }

    /// Messages still to come this month, at its rate.
    pub fn to_come(&self) -> f64 {
        self.rate() * seconds(self.now, self.ends_at)
    }

    /// Messages a second.
    fn rate(&self) -> f64 {
        let counted = seconds(self.since.max(self.starts_at), self.now);
        let messages = real(self.messages);
        let shortest = counted.max(SHORTEST_COUNTED.as_secs_f64());
        let Some(usual) = self.usual else {
            return messages / shortest;
        };
        let length = seconds(self.starts_at, self.ends_at).max(1.0);
        let fresh = 1.0 - counted / USUAL_FADES.as_secs_f64();
        let weight = USUAL_WEIGHT.as_secs_f64() * fresh.max(0.0);
        let known = usual.max(0.0) / length * weight;
        let steadied = (messages + known) / (counted + weight).max(1.0);
        // A month far above the usual is believed sooner: two standard deviations below what it shows is its least.
        let least = (messages - 2.0 * messages.sqrt()) / shortest;
        steadied.max(least)
    }

    /// Where the month's spend will end if messages keep coming at this rate.
    pub fn forecast(&self, rules: &Rules) -> u64 {
        let pending = PENDING_SHARE * real(self.owed);
        let ahead = self.target(rules) * (self.to_come() + pending) - pending;
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
    const DAY: i64 = 86_400_000;

    fn month(spent: u64, messages: u64) -> Month {
        Month {
            budget: 5_000,
            spent,
            now: MIDDLE,
            owed: 10,
            messages,
            since: START,
            starts_at: START,
            ends_at: MIDDLE + 15 * DAY,
            usual: None,
        }
    }

    #[test]
    fn what_is_left_is_shared_by_what_is_to_come() {
        let rules = Rules::default();
        // 150 more are to come, and 2,500 calls are left: the operator's 12 it is.
        assert!((month(2_500, 150).to_come() - 150.0).abs() < 1e-6);
        assert_eq!(month(2_500, 150).target(&rules), 12.0);
        let short = month(2_500, 750).target(&rules);
        assert!((short - 2_495.0 / 755.0).abs() < 1e-9, "{short}");
        assert!(month(2_500, 4_000).target(&rules) < 1.0);
        assert_eq!(month(5_000, 4_000).target(&rules), 0.0);
    }

    #[test]
    fn last_chances_are_kept_for_the_pending_and_for_those_to_come() {
        let mut tight = month(3_000, 1_985);
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
    fn a_month_that_has_just_begun_has_a_rate() {
        let fresh = Month {
            now: START,
            messages: 0,
            owed: 0,
            ..month(0, 0)
        };
        assert_eq!(fresh.target(&Rules::default()), 12.0);
        let usual = Month {
            usual: Some(2_000.0),
            ..fresh
        };
        assert!(
            (usual.to_come() - 2_000.0).abs() < 1e-6,
            "{}",
            usual.to_come()
        );
    }

    #[test]
    fn a_lane_younger_than_the_month_has_the_rate_of_its_own_days() {
        let whole = month(0, 100);
        let young = Month {
            since: MIDDLE - DAY,
            ..whole
        };
        // A hundred in a day, and fifteen days are left.
        assert!(
            (young.to_come() - 1_500.0).abs() < 1e-6,
            "{}",
            young.to_come()
        );
        for outside in [0, i64::MAX] {
            let odd = Month {
                since: outside,
                ..whole
            };
            assert!(odd.to_come().is_finite() && odd.to_come() >= whole.to_come());
        }
    }

    #[test]
    fn a_month_far_above_the_usual_is_believed_within_a_day() {
        let surprise = |messages, hours: i64| Month {
            now: START + hours * 3_600_000,
            since: START,
            usual: Some(300.0),
            ..month(0, messages)
        };
        // 267 in the first day instead of 10: more than 5,000 are to come, not the 2,000 of a mean with what is usual.
        assert!(surprise(267, 24).to_come() > 5_000.0);
        // A few that came together are no surprise.
        assert!(surprise(5, 1).to_come() < 600.0);
    }
}
