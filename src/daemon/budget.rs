//! The calls of a group of lanes in a month: what was made, and whether another may go out.
//!
//! Counted here and nowhere else: a call is *pending* from the moment it may go out, and *committed* once its result is.
//! The figures of a month come from the tables whenever they may have changed without us ([`Budget::refresh`]): at the start,
//! at a new month, after a step of the clock, where the configuration groups lanes anew, and where another process wrote.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lanes::lane_of;
use crate::cadence::{Call, Month, Rules, Threshold};
use crate::receipt::{AccountName, LaneId, QuotaMonth, UnixMs, real};
use crate::settings::{App, Budget as Setting, Settings};
use crate::store::{CallCount, Group, GroupId, Owed, Promise};

/// The calls of lanes that share a month's budget. A lane without a budget is a group of its own, without a limit.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) group: GroupId,
    ledger: Mutex<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    /// Metered calls that a month may cost.
    limit: Option<u64>,
    /// The month that the calls are of.
    quota_month: Option<QuotaMonth>,
    /// What is known of it besides the calls; `None` until it was read from the tables.
    month: Option<Month>,
    calls: HashMap<LaneId, Calls>,
    /// The sum of all of them: asked for before each call.
    spent: u64,
    /// Last chances refused since this was asked last.
    dropped: u64,
    /// Whether no call may go out that was not promised before: one that is made and lost must be counted by whoever serves the
    /// group next.
    by_promise: bool,
}

/// Metered calls of a lane in the month.
#[derive(Clone, Copy, Debug, Default)]
struct Calls {
    committed: u64,
    pending: u64,
    /// The month's calls as other nodes know them, at most.
    promised: u64,
    /// The month's calls when that was promised.
    then: u64,
    /// Whether a call was refused since.
    asked: bool,
}

impl Calls {
    fn made(&self) -> u64 {
        self.committed.saturating_add(self.pending)
    }
}

/// Calls that a lane may make at first, before the next sign of life.
const FIRST_PROMISE: u64 = 8;

/// Why a call may not go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The month cannot afford it.
    OverBudget,
    /// The figures of the month are still to be read.
    NotRead,
    /// The other nodes are to be told of it first.
    NotPromised,
}

/// What the tables say of a group's month.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// This month's counts, by lane.
    this_month: Vec<CallCount>,
    /// Those of the month before.
    before: Vec<CallCount>,
    /// Last chances owed until the month ends.
    owed: u64,
}

/// What the tables say of a month, as a store gives it.
#[derive(Clone, Debug, Default)]
pub(super) struct MonthCounts {
    /// Calls of this month.
    pub(super) this_month: Vec<CallCount>,
    /// And of the one before.
    pub(super) before: Vec<CallCount>,
    /// Last chances owed until the month ends.
    pub(super) owed: Vec<Owed>,
}

impl Budget {
    /// The group of a lane, and its limit. `lane.account` is configured.
    pub(super) fn group_of(settings: &Settings, lane: &LaneId) -> (GroupId, Option<u64>) {
        let account = settings.accounts.get(&lane.account);
        match account.and_then(|account| account.budget.as_ref()) {
            Some(Setting::Shared(name)) => (
                GroupId::new(format!("budget {name}")),
                settings.budgets.get(name).copied(),
            ),
            Some(Setting::Own(calls)) => (
                GroupId::new(format!("account {}", lane.account)),
                Some(*calls),
            ),
            None => (GroupId::new(format!("lane {lane}")), None),
        }
    }

    /// The group of a lane, and whose lanes are in it.
    pub(super) fn group(settings: &Settings, lane: &LaneId) -> Group {
        let (id, _) = Self::group_of(settings, lane);
        let budget = |account: &AccountName| settings.accounts.get(account)?.budget.as_ref();
        let of = budget(&lane.account);
        let accounts = match of {
            Some(Setting::Shared(_)) => {
                let names = settings.accounts.keys();
                names.filter(|name| budget(name) == of).cloned().collect()
            }
            _ => vec![lane.account.clone()],
        };
        let corp = lane.corp.clone().filter(|_| of.is_none());
        Group { id, accounts, corp }
    }

    /// The groups that follow from the configuration alone. That of a single organisation follows from its rows.
    pub(super) fn groups(settings: &Settings) -> HashMap<GroupId, Group> {
        let named = settings.accounts.iter();
        let named = named.filter(|(_, account)| {
            account.budget.is_some() || matches!(account.app, App::Internal { .. })
        });
        let groups = named.map(|(name, _)| {
            let lane = LaneId {
                account: name.clone(),
                corp: None,
            };
            let group = Self::group(settings, &lane);
            (group.id.clone(), group)
        });
        groups.collect()
    }

    /// `by_promise`: other nodes may serve the group after this one.
    pub(super) fn new(group: GroupId, limit: Option<u64>, by_promise: bool) -> Self {
        Self {
            group,
            ledger: Mutex::new(Ledger {
                limit,
                quota_month: None,
                month: None,
                calls: HashMap::new(),
                spent: 0,
                dropped: 0,
                by_promise,
            }),
        }
    }

    pub(super) fn limit(&self) -> Option<u64> {
        self.ledger().limit
    }

    pub(super) fn set_limit(&self, limit: Option<u64>) {
        self.ledger().limit = limit;
    }

    /// Whether the figures of the month of `now` were read.
    pub(super) fn is_read(&self, now: UnixMs) -> bool {
        self.ledger().read_month(now).is_some()
    }

    /// Takes over what is pending of a lane that comes out of another group.
    pub(super) fn inherit(&self, lane: &LaneId, from: &Self) {
        let mut theirs = from.ledger();
        let (month, calls) = (theirs.quota_month, theirs.calls.remove(lane));
        theirs.add_up();
        drop(theirs);
        let mut ledger = self.ledger();
        // Until the tables were read nothing more may go out.
        ledger.month = None;
        if ledger.quota_month.is_none() {
            ledger.quota_month = month;
        }
        if let Some(calls) = calls.filter(|_| ledger.quota_month == month) {
            ledger.calls.entry(lane.clone()).or_default().pending += calls.pending;
        }
        ledger.add_up();
    }

    /// Takes the tables' figures of `month` over. What is pending stays, where it is of that month: nothing may be
    /// committed between the reading of the tables and this.
    pub(super) fn refresh(&self, month: QuotaMonth, figures: &Figures, now: UnixMs) {
        let mut ledger = self.ledger();
        if ledger.quota_month != Some(month) {
            // What is pending was called in another month, and is counted there.
            ledger.calls.clear();
            ledger.quota_month = Some(month);
            ledger.month = None;
        }
        for calls in ledger.calls.values_mut() {
            calls.committed = 0;
        }
        for count in &figures.this_month {
            let calls = ledger.calls.entry(count.lane.clone()).or_default();
            calls.committed = calls.committed.saturating_add(count.calls);
        }
        ledger.add_up();
        let messages = figures.this_month.iter().map(|count| count.messages).sum();
        // When its messages came is known better to a month that was counted from its beginning.
        let known = ledger.month.filter(|known| known.messages == messages);
        let mut figured = known.unwrap_or_else(|| figures.month(month, messages, now));
        figured.owed = figures.owed;
        ledger.month = Some(figured);
    }

    /// Takes one call out of the month. Says so once where 80 % and 100 % are reached.
    pub(super) fn take(
        &self,
        lane: &LaneId,
        call: Call,
        now: UnixMs,
    ) -> Result<QuotaMonth, Refused> {
        let mut ledger = self.ledger();
        let (quota_month, _) = ledger.read_month(now).ok_or(Refused::NotRead)?;
        let before = ledger.month_at(now);
        if let Some(month) = before
            && !month.allows(call)
        {
            ledger.dropped += u64::from(call == Call::LastChance);
            return Err(Refused::OverBudget);
        }
        let by_promise = ledger.by_promise && ledger.limit.is_some();
        let calls = ledger.calls.entry(lane.clone()).or_default();
        if by_promise && calls.made() >= calls.promised {
            calls.asked = true;
            return Err(Refused::NotPromised);
        }
        calls.pending += 1;
        ledger.spent += 1;
        drop(ledger);
        if let Some(mut month) = before {
            month.spent += 1;
            if let Some(threshold) = month.crossed(month.spent - 1) {
                self.warn_of(threshold, &month, quota_month);
            }
        }
        Ok(quota_month)
    }

    /// What to promise of a lane until the next sign of life: about twice as much as it used of the last, and no more than `most`.
    /// A sign of life out of turn takes no promise back. `None` where nothing can be lost.
    pub(super) fn draft(&self, lane: &LaneId, most: u64, out_of_turn: bool) -> Option<Promise> {
        let mut ledger = self.ledger();
        if !ledger.by_promise || ledger.limit.is_none() {
            return None;
        }
        let month = ledger.quota_month?;
        let calls = ledger.calls.get_mut(lane)?;
        let used = calls.made().saturating_sub(calls.then);
        let at_first = if calls.asked { FIRST_PROMISE } else { 0 };
        let more = used.saturating_mul(2).max(at_first).min(most);
        let mut promised = calls.made().saturating_add(more);
        if out_of_turn {
            let asked = if calls.asked { promised } else { 0 };
            promised = calls.promised.max(asked);
        }
        // At once where it is less: what goes out meanwhile is not in what the others are told.
        calls.promised = calls.promised.min(promised);
        (promised > calls.committed).then(|| Promise {
            lane: lane.clone(),
            month: month.to_string(),
            calls: promised,
        })
    }

    /// The other nodes know of these promises now.
    pub(super) fn promised(&self, promises: &HashMap<&LaneId, &Promise>, out_of_turn: bool) {
        let mut ledger = self.ledger();
        let month = ledger.quota_month.map(|month| month.to_string());
        for (lane, calls) in &mut ledger.calls {
            let promise = promises
                .get(lane)
                .filter(|promise| Some(&promise.month) == month.as_ref());
            if let Some(promise) = promise {
                calls.promised = promise.calls;
                calls.asked = false;
            }
            if !out_of_turn {
                calls.then = calls.made();
            }
        }
    }

    fn warn_of(&self, threshold: Threshold, month: &Month, quota_month: QuotaMonth) {
        let (name, calls, ends_at) = (&self.group, month.budget, quota_month.ends_at());
        match threshold {
            Threshold::Low => tracing::warn!(
                budget.name = %name, budget.calls = calls, budget.spent = month.spent,
                "{name}: 80 % of the {calls} calls of {quota_month} are spent; polls thin out until {ends_at}"
            ),
            Threshold::Spent => tracing::warn!(
                budget.name = %name, budget.calls = calls, budget.spent = month.spent,
                "{name}: all {calls} calls of {quota_month} are spent; no message is polled until {ends_at}"
            ),
        }
    }

    /// Gives a call of `month` back that the vendor did not count.
    pub(super) fn refund(&self, lane: &LaneId, month: QuotaMonth) {
        let mut ledger = self.ledger();
        if let Some(calls) = ledger
            .of_month(month, lane)
            .filter(|calls| calls.pending > 0)
        {
            calls.pending -= 1;
            ledger.spent -= 1;
        }
    }

    /// Calls of a month whose results were committed just now.
    pub(super) fn committed(&self, lane: &LaneId, month: QuotaMonth, number: u64) {
        let mut ledger = self.ledger();
        if let Some(calls) = ledger.of_month(month, lane) {
            let pending = calls.pending.min(number);
            calls.pending -= pending;
            calls.committed = calls.committed.saturating_add(number);
            ledger.spent = ledger.spent.saturating_add(number - pending);
        }
    }

    /// Messages that were polled for the first time just now, as committed.
    pub(super) fn begun(&self, messages: u64, now: UnixMs) {
        if let Some(month) = &mut self.ledger().month {
            month.now = now.0;
            month.begin(messages);
        }
    }

    /// Last chances came up or went, as committed.
    pub(super) fn shift_owed(&self, more: u64, fewer: u64) {
        if let Some(month) = &mut self.ledger().month {
            month.owed = month.owed.saturating_add(more).saturating_sub(fewer);
        }
    }

    /// How the month stands; `None` without a limit, or before its figures were read.
    pub(super) fn month(&self, now: UnixMs) -> Option<Month> {
        self.ledger().month_at(now)
    }

    /// Calls a message to spend from now on.
    pub(super) fn target(&self, rules: &Rules, now: UnixMs) -> f64 {
        self.month(now)
            .map_or(rules.calls_per_message, |month| month.target(rules))
    }

    /// The month that is counted, and the lane's metered calls in it, pending ones included; `None` where there are none.
    pub(super) fn calls_of(&self, lane: &LaneId) -> Option<(QuotaMonth, u64)> {
        let ledger = self.ledger();
        let calls = ledger.calls.get(lane)?;
        Some((ledger.quota_month?, calls.made()))
    }

    /// How many last chances were refused since this was asked last.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.ledger().dropped)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn of_month(&mut self, month: QuotaMonth, lane: &LaneId) -> Option<&mut Calls> {
        let same = self.quota_month == Some(month);
        self.calls.get_mut(lane).filter(|_| same)
    }

    fn add_up(&mut self) {
        let calls = self.calls.values();
        self.spent = calls.map(Calls::made).sum();
    }

    /// The month of `now`, if its figures were read.
    fn read_month(&self, now: UnixMs) -> Option<(QuotaMonth, Month)> {
        let quota_month = self.quota_month.filter(|month| month.contains(now))?;
        Some((quota_month, self.month?))
    }

    fn month_at(&self, now: UnixMs) -> Option<Month> {
        let (_, mut month) = self.read_month(now)?;
        month.budget = self.limit?;
        month.spent = self.spent;
        month.now = now.0;
        Some(month)
    }
}

impl Figures {
    /// The figures of each group. Of an internal account every row counts, whatever its `corp_id`.
    pub(super) fn by_group(settings: &Settings, counts: MonthCounts) -> HashMap<GroupId, Self> {
        let mut figures: HashMap<GroupId, Self> = HashMap::new();
        let mut of = |written: &LaneId, count: &dyn Fn(&mut Self, LaneId)| {
            if let Ok(lane) = lane_of(settings, written) {
                let (group, _) = Budget::group_of(settings, &lane);
                count(figures.entry(group).or_default(), lane);
            }
        };
        for calls in counts.this_month {
            of(&calls.lane, &|figures, lane| {
                let calls = calls.clone();
                figures.this_month.push(CallCount { lane, ..calls });
            });
        }
        for calls in counts.before {
            of(&calls.lane, &|figures, _| {
                figures.before.push(calls.clone());
            });
        }
        for owed in counts.owed {
            of(&owed.lane, &|figures, _| figures.owed += owed.until);
        }
        figures
    }

    fn month(&self, month: QuotaMonth, messages: u64, now: UnixMs) -> Month {
        let (starts_at, ends_at) = (month.starts_at().0, month.ends_at().0);
        // Its limit and its calls are put in where it is asked.
        let mut figured = Month::new(0, starts_at, ends_at, now.0);
        if messages > 0 {
            let first_at = self.this_month.iter().filter_map(|count| count.first_at);
            let first_at = first_at.min().unwrap_or(now);
            figured.begun_before(messages, first_at.0);
        }
        let before: u64 = self.before.iter().map(|count| count.messages).sum();
        if before > 0 {
            figured.usual = Some(real(before));
            // Older than the month: its rate is that of the whole month.
            figured.since = starts_at;
        }
        figured
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// The last second of November 2026 at UTC+8.
    const LATE: UnixMs = UnixMs(1_796_054_399_000);

    fn lane() -> LaneId {
        LaneId {
            account: "a".into(),
            corp: None,
        }
    }

    fn count(calls: u64, messages: u64, first_at: UnixMs) -> CallCount {
        CallCount {
            calls,
            messages,
            first_at: Some(first_at),
            ..CallCount::nothing(lane(), String::new())
        }
    }

    fn budget(limit: u64, owed: u64) -> Budget {
        let budget = Budget::new(GroupId::new("account a"), Some(limit), false);
        let figures = Figures {
            owed,
            ..Figures::default()
        };
        budget.refresh(QuotaMonth::of(LATE), &figures, LATE);
        budget
    }

    fn granted(budget: &Budget, call: Call, now: UnixMs) -> usize {
        (0..100)
            .take_while(|_| budget.take(&lane(), call, now).is_ok())
            .count()
    }

    #[test]
    fn a_month_is_never_overdrawn() {
        let budget = budget(3, 0);
        assert_eq!(granted(&budget, Call::LastChance, LATE), 3);
        assert_eq!((budget.take_dropped(), budget.take_dropped()), (1, 0));
        let month = QuotaMonth::of(LATE);
        budget.refund(&lane(), month);
        assert_eq!(granted(&budget, Call::LastChance, LATE), 1);
        // What becomes committed stays counted.
        budget.committed(&lane(), month, 3);
        assert_eq!(granted(&budget, Call::LastChance, LATE), 0);
        assert_eq!(budget.calls_of(&lane()), Some((month, 3)));
    }

    #[test]
    fn what_is_owed_is_kept_from_ordinary_polls() {
        let budget = budget(10, 9);
        assert_eq!(granted(&budget, Call::Ordinary, LATE), 1);
        assert_eq!(granted(&budget, Call::LastChance, LATE), 9);
    }

    /// A clock that was stepped over the month's end and back left the budget in the wrong month until a restart.
    #[test]
    fn a_step_over_the_end_of_a_month_and_back_asks_the_tables() {
        let budget = budget(10, 0);
        let november = QuotaMonth::of(LATE);
        assert_eq!(granted(&budget, Call::LastChance, LATE), 10);
        budget.committed(&lane(), november, 10);
        let next = LATE + Duration::from_secs(1);
        let asked = |now| budget.take(&lane(), Call::LastChance, now);
        assert_eq!(asked(next), Err(Refused::NotRead));
        budget.refresh(QuotaMonth::of(next), &Figures::default(), next);
        assert!(asked(next).is_ok());
        // And back, with what November's table holds.
        assert_eq!(asked(LATE), Err(Refused::NotRead));
        let figures = Figures {
            this_month: vec![count(10, 1, LATE)],
            ..Figures::default()
        };
        budget.refresh(november, &figures, LATE);
        assert_eq!(asked(LATE), Err(Refused::OverBudget));
        // A call of December that is committed late is not November's.
        budget.committed(&lane(), QuotaMonth::of(next), 1);
        assert_eq!(budget.calls_of(&lane()), Some((november, 10)));
    }

    /// What is lost with a node is within what it promised, and counted by who comes after it.
    #[test]
    fn no_call_goes_out_that_was_not_promised() {
        let budget = Budget::new(GroupId::new("account a"), Some(100), true);
        budget.refresh(QuotaMonth::of(LATE), &Figures::default(), LATE);
        let promise = |most, out_of_turn| {
            let draft = budget.draft(&lane(), most, out_of_turn);
            let promises = draft.iter().map(|promise| (&promise.lane, promise));
            budget.promised(&promises.collect(), out_of_turn);
            draft.map_or(0, |promise| promise.calls)
        };
        let ask = || budget.take(&lane(), Call::LastChance, LATE);
        assert_eq!(ask(), Err(Refused::NotPromised));
        assert_eq!(promise(50, true), FIRST_PROMISE);
        // Another lane asked: this one's promise stays until it is used.
        assert_eq!(promise(50, true), FIRST_PROMISE);
        assert_eq!(granted(&budget, Call::LastChance, LATE), 8);
        assert_eq!(ask(), Err(Refused::NotPromised));
        assert_eq!(promise(50, false), 8 + 16, "twice as much as was used");
        assert_eq!(granted(&budget, Call::LastChance, LATE), 16);
        assert_eq!(promise(20, false), 24 + 20, "no more than its rate makes");
        budget.committed(&lane(), QuotaMonth::of(LATE), 24);
        assert_eq!(promise(20, false), 0, "idle, and all is written");
        assert_eq!(ask(), Err(Refused::NotPromised));
        assert_eq!(promise(20, true), 24 + FIRST_PROMISE);
        assert!(ask().is_ok());
    }

    #[test]
    fn a_refresh_keeps_what_is_pending_and_counts_what_others_wrote() {
        let budget = budget(10, 0);
        let month = QuotaMonth::of(LATE);
        assert!(budget.take(&lane(), Call::LastChance, LATE).is_ok());
        let figures = Figures {
            this_month: vec![
                count(4, 2, LATE - Duration::from_secs(9)),
                count(2, 1, LATE),
            ],
            before: vec![count(900, 30, UnixMs(0))],
            owed: 0,
        };
        budget.refresh(month, &figures, LATE);
        assert_eq!(budget.calls_of(&lane()), Some((month, 7)));
        assert_eq!(granted(&budget, Call::LastChance, LATE), 3);
        let month = budget.month(LATE).unwrap();
        assert_eq!((month.messages, month.usual), (3, Some(30.0)));
        assert_eq!(month.since, QuotaMonth::of(LATE).starts_at().0);
    }
}
