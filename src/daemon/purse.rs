//! A budget of metered calls, asked before each call: what a month has left, and what it still owes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cadence::{Call, Month, Rules, Threshold};
use crate::receipt::{UnixMs, real};
use crate::store::CallCount;

/// What the lanes of one budget spend together. Counted before each call goes out, so that a month is never a call over.
#[derive(Debug)]
pub(super) struct Purse {
    /// For logs: `account NAME` or `budget NAME`.
    name: String,
    ledger: Mutex<Ledger>,
}

#[derive(Clone, Copy, Debug)]
struct Ledger {
    month: Month,
    /// Last chances refused since this was asked last.
    dropped: u64,
}

/// How a budget stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// `account NAME` or `budget NAME`.
    pub name: String,
    /// Its month. A lane without a budget has one that never ends.
    pub month: Month,
}

impl Purse {
    /// An untouched budget of `monthly_calls`.
    pub(super) fn new(name: String, monthly_calls: u64, now: UnixMs) -> Self {
        Self {
            name,
            ledger: Mutex::new(Ledger {
                month: Month {
                    budget: monthly_calls,
                    spent: 0,
                    starts_at: now.quota_month_start().0,
                    ends_at: now.next_quota_month().0,
                    now: now.0,
                    owed: 0,
                    messages: 0,
                    since: now.0,
                    usual: None,
                },
                dropped: 0,
            }),
        }
    }

    /// `account NAME` or `budget NAME`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_budget(&self, monthly_calls: u64) {
        self.lock().month.budget = monthly_calls;
    }

    /// Takes over what was counted in this month and in the one before, before a restart.
    pub(super) fn load(&self, this_month: Option<&CallCount>, before: Option<&CallCount>) {
        let month = &mut self.lock().month;
        if let Some(counted) = this_month {
            month.spent = month.spent.saturating_add(counted.calls);
            month.messages = month.messages.saturating_add(counted.messages);
            month.since = counted
                .first_at
                .map_or(month.since, |at| at.0)
                .min(month.since);
        }
        if let Some(messages) = before.map(|counted| counted.messages)
            && messages > 0
        {
            month.usual = Some(month.usual.unwrap_or(0.0) + real(messages));
            // Older than the month: its rate is that of the whole month.
            month.since = month.starts_at;
        }
    }

    /// Takes one call out of the month; false where the month cannot afford it. Says so once where 80 % and 100 % are
    /// reached.
    pub(super) fn spend(&self, call: Call, now: UnixMs) -> bool {
        let mut ledger = self.at(now);
        if !ledger.month.allows(call) {
            ledger.dropped += u64::from(call == Call::LastChance);
            return false;
        }
        let before = ledger.month.spent;
        ledger.month.spent += 1;
        let (month, ends_at) = (ledger.month, UnixMs(ledger.month.ends_at));
        drop(ledger);
        let calls = month.budget;
        match month.crossed(before) {
            None => {}
            Some(Threshold::Low) => tracing::warn!(
                budget.name = %self.name, budget.calls = calls, budget.spent = month.spent,
                "{}: 80 % of the {calls} calls of {} are spent; polls thin out until {ends_at}",
                self.name, now.quota_month()
            ),
            Some(Threshold::Spent) => tracing::warn!(
                budget.name = %self.name, budget.calls = calls, budget.spent = month.spent,
                "{}: all {calls} calls of {} are spent; no message is polled until {ends_at}",
                self.name, now.quota_month()
            ),
        }
        true
    }

    /// Gives a call back that the vendor did not meter.
    pub(super) fn refund(&self, now: UnixMs) {
        let month = &mut self.at(now).month;
        month.spent = month.spent.saturating_sub(1);
    }

    /// A message was polled for the first time.
    pub(super) fn begun(&self, messages: u64, now: UnixMs) {
        let month = &mut self.at(now).month;
        month.messages = month.messages.saturating_add(messages);
    }

    /// Last chances came up or went, since they were counted last.
    pub(super) fn shift_owed(&self, more: u64, fewer: u64) {
        let month = &mut self.lock().month;
        month.owed = month.owed.saturating_add(more).saturating_sub(fewer);
    }

    /// Last chances that the table holds for the rest of the month.
    pub(super) fn set_owed(&self, owed: u64) {
        self.lock().month.owed = owed;
    }

    /// Calls a message to spend from now on.
    pub(super) fn target(&self, rules: &Rules, now: UnixMs) -> f64 {
        self.at(now).month.target(rules)
    }

    /// When the month ends whose calls are counted.
    pub(super) fn ends_at(&self, now: UnixMs) -> UnixMs {
        UnixMs(self.at(now).month.ends_at)
    }

    pub(super) fn standing(&self, now: UnixMs) -> Standing {
        Standing {
            name: self.name.clone(),
            month: self.at(now).month,
        }
    }

    /// How many last chances were refused since this was asked last.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.lock().dropped)
    }

    /// The ledger at `now`. A new month begins with a full purse, and remembers how many messages the old one had.
    fn at(&self, now: UnixMs) -> MutexGuard<'_, Ledger> {
        let mut ledger = self.lock();
        let month = &mut ledger.month;
        if now.0 >= month.ends_at {
            month.usual = Some(real(month.messages));
            month.messages = 0;
            month.spent = 0;
            month.starts_at = now.quota_month_start().0;
            month.since = month.starts_at;
            month.ends_at = now.next_quota_month().0;
        }
        month.now = now.0;
        ledger
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::receipt::Lane;

    /// The last second of November 2026 at UTC+8.
    const LATE: UnixMs = UnixMs(1_796_054_399_000);

    #[test]
    fn a_purse_is_never_overdrawn_and_is_full_again_in_a_new_month() {
        let purse = Purse::new("account a".to_owned(), 3, LATE);
        let granted = (0..5).filter(|_| purse.spend(Call::LastChance, LATE));
        assert_eq!(granted.count(), 3);
        assert_eq!((purse.take_dropped(), purse.take_dropped()), (2, 0));
        purse.refund(LATE);
        assert!(purse.spend(Call::LastChance, LATE));
        assert!(!purse.spend(Call::LastChance, LATE));
        purse.begun(7, LATE);
        let next = LATE + Duration::from_secs(1);
        assert!(purse.spend(Call::LastChance, next));
        let month = purse.standing(next).month;
        assert_eq!(
            (month.spent, month.messages, month.usual),
            (1, 0, Some(7.0))
        );
    }

    #[test]
    fn what_is_owed_is_kept_from_ordinary_polls() {
        let purse = Purse::new("account a".to_owned(), 10, LATE);
        purse.set_owed(9);
        assert!(purse.spend(Call::Ordinary, LATE));
        assert!(!purse.spend(Call::Ordinary, LATE));
        assert!(purse.spend(Call::LastChance, LATE));
        purse.shift_owed(0, 8);
        assert!(purse.spend(Call::Ordinary, LATE));
    }

    #[test]
    fn what_was_counted_before_a_restart_counts() {
        let purse = Purse::new("budget b".to_owned(), 10, LATE);
        let counted = |calls, messages, first_at| CallCount {
            calls,
            messages,
            first_at: Some(UnixMs(first_at)),
            ..CallCount::nothing(
                Lane {
                    account: "a".into(),
                    corp: None,
                },
                String::new(),
            )
        };
        purse.load(Some(&counted(6, 2, LATE.0 - 9)), None);
        purse.load(Some(&counted(4, 1, LATE.0 - 5)), None);
        assert!(!purse.spend(Call::LastChance, LATE));
        let month = purse.standing(LATE).month;
        assert_eq!((month.messages, month.since), (3, LATE.0 - 9));
        purse.load(None, Some(&counted(900, 30, 0)));
        let month = purse.standing(LATE).month;
        assert_eq!((month.spent, month.usual), (10, Some(30.0)));
        assert_eq!(month.since, LATE.quota_month_start().0);
    }
}
