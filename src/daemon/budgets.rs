//! Which budget a lane's calls come out of, and how it stands for a command beside the daemon.

use std::fmt;

use super::purse::{Purse, Standing};
use crate::receipt::{AccountName, LaneId, UnixMs};
use crate::settings::{Budget, Settings};
use crate::store::CallCount;

/// Which budget a lane's calls come out of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum BudgetName {
    Account(AccountName),
    Shared(String),
}

impl BudgetName {
    pub(super) fn of(settings: &Settings, lane: &LaneId) -> Option<Self> {
        let account = settings.accounts.get(&lane.account)?;
        Some(match account.budget.as_ref()? {
            Budget::Own(_) => Self::Account(lane.account.clone()),
            Budget::Shared(name) => Self::Shared(name.clone()),
        })
    }

    /// What the configuration says of it; `None` where it is no longer there.
    pub(super) fn monthly_calls(&self, settings: &Settings) -> Option<u64> {
        match self {
            Self::Shared(name) => settings.budgets.get(name).copied(),
            Self::Account(name) => match settings.accounts.get(name)?.budget {
                Some(Budget::Own(calls)) => Some(calls),
                _ => None,
            },
        }
    }
}

impl fmt::Display for BudgetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(name) => write!(f, "account {name}"),
            Self::Shared(name) => write!(f, "budget {name}"),
        }
    }
}

/// What the tables hold of a lane's calls: see [`standing`].
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// Whose.
    pub lane: &'a LaneId,
    /// What was counted in this month.
    pub this_month: Option<&'a CallCount>,
    /// And in the one before.
    pub before: Option<&'a CallCount>,
    /// Last chances that the month still owes.
    pub owed: u64,
}

/// How the budget of `lane` stands by what the tables hold of `all` lanes: what a command beside the daemon can know.
pub fn standing(settings: &Settings, lane: &LaneId, all: &[Counted<'_>], now: UnixMs) -> Standing {
    let name = BudgetName::of(settings, lane);
    let calls = name.as_ref().and_then(|name| name.monthly_calls(settings));
    let label = match &name {
        Some(name) => name.to_string(),
        None => BudgetName::Account(lane.account.clone()).to_string(),
    };
    let purse = Purse::new(label, calls.unwrap_or(u64::MAX), now);
    let shared = all.iter().filter(|counted| match &name {
        Some(name) => BudgetName::of(settings, counted.lane).as_ref() == Some(name),
        None => counted.lane == lane,
    });
    for counted in shared {
        purse.load(counted.this_month, counted.before);
        purse.shift_owed(counted.owed, 0);
    }
    purse.standing(now)
}
