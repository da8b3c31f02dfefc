//! Every lane that has rows, and what the configuration makes of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::address::Address;
use super::gate::{Gate, LaneSetup};
use super::tokens::TicketSource;
use crate::dingtalk::{Client, ClientError, Credentials};
use crate::receipt::{ErrorCode, Lane, UnixMs};
use crate::settings::{Budget, Settings};
use crate::store::CallCount;

/// Calls that a budget has left, counted before each call goes out.
#[derive(Debug)]
pub(super) struct Spent {
    limit: u64,
    counted: Mutex<(String, u64)>,
}

impl Spent {
    /// Takes one call out of the month's budget; false where it is spent.
    pub(super) fn spend(&self, now: UnixMs) -> bool {
        let month = now.quota_month();
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != month {
            *counted = (month, 0);
        }
        let within = counted.1 < self.limit;
        counted.1 += u64::from(within);
        within
    }
}

/// The lanes, their gates, and what is made anew when the configuration changes.
pub(super) struct Lanes {
    gates: Mutex<HashMap<Lane, Arc<Gate>>>,
    made: Mutex<Made>,
    address: Arc<Address>,
    tickets: TicketSource,
}

struct Made {
    settings: Arc<Settings>,
    client: Client,
    budgets: HashMap<BudgetName, Arc<Spent>>,
}

/// Which budget a lane's calls come out of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum BudgetName {
    Account(String),
    Shared(String),
}

impl Lanes {
    pub(super) fn new(
        settings: &Arc<Settings>,
        tickets: TicketSource,
    ) -> Result<Self, ClientError> {
        let client = Client::new(&settings.endpoint)?;
        Ok(Self {
            gates: Mutex::new(HashMap::new()),
            made: Mutex::new(Made {
                settings: settings.clone(),
                client,
                budgets: HashMap::new(),
            }),
            address: Arc::new(Address::new(settings.workers.concurrency)),
            tickets,
        })
    }

    /// Takes over the calls that were counted in this month before a restart.
    pub(super) fn load_spent(&self, counts: &[CallCount]) {
        let mut made = self.made();
        let settings = made.settings.clone();
        for count in counts {
            let Some(account) = settings.accounts.get(&count.lane.account) else {
                continue;
            };
            let Some(budget) = spent(&mut made, &settings, &count.lane, account.budget.as_ref())
            else {
                continue;
            };
            let mut counted = budget
                .counted
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if counted.0 != count.month {
                *counted = (count.month.clone(), 0);
            }
            counted.1 += count.calls;
        }
    }

    /// Takes a new configuration over; walks under way keep the old one.
    pub(super) fn reload(&self, settings: &Arc<Settings>) -> Result<(), ClientError> {
        let mut made = self.made();
        if made.settings.endpoint != settings.endpoint {
            made.client = Client::new(&settings.endpoint)?;
        }
        // What was counted against a budget whose limit changed stays counted.
        let old = std::mem::take(&mut made.budgets);
        made.settings = settings.clone();
        for (name, spent) in old {
            let limit = match &name {
                BudgetName::Shared(budget) => settings.budgets.get(budget).copied(),
                BudgetName::Account(account) => settings
                    .accounts
                    .get(&account.as_str().into())
                    .and_then(|account| match account.budget {
                        Some(Budget::Own(calls)) => Some(calls),
                        _ => None,
                    }),
            };
            if let Some(limit) = limit {
                let counted = spent
                    .counted
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .clone();
                made.budgets.insert(
                    name,
                    Arc::new(Spent {
                        limit,
                        counted: Mutex::new(counted),
                    }),
                );
            }
        }
        drop(made);
        let now = tokio::time::Instant::now();
        for gate in self.gates().values() {
            gate.health().probe_now(now);
        }
        Ok(())
    }

    /// The lane's gate.
    pub(super) fn gate(&self, lane: &Lane) -> Arc<Gate> {
        self.gates()
            .entry(lane.clone())
            .or_insert_with(|| {
                Arc::new(Gate::new(
                    lane.clone(),
                    self.address.clone(),
                    self.tickets.clone(),
                ))
            })
            .clone()
    }

    /// What the configuration says of the lane.
    ///
    /// # Errors
    /// The code for its rows' `last_error` where no account, or no organisation, is named.
    pub(super) fn setup(&self, lane: &Lane) -> Result<LaneSetup, ErrorCode> {
        let mut made = self.made();
        let settings = made.settings.clone();
        let Some(account) = settings.accounts.get(&lane.account) else {
            return Err(ErrorCode::from("account.unknown"));
        };
        let credentials = Credentials::of(&account.app, lane.corp.as_ref())
            .ok_or_else(|| ErrorCode::from("corp_id.missing"))?;
        Ok(LaneSetup {
            account: Arc::new(account.clone()),
            credentials,
            client: made.client.clone(),
            budget: spent(&mut made, &settings, lane, account.budget.as_ref()),
            settings: settings.clone(),
        })
    }

    /// The gates of all lanes that were met so far.
    pub(super) fn all(&self) -> Vec<Arc<Gate>> {
        self.gates().values().cloned().collect()
    }

    fn gates(&self) -> MutexGuard<'_, HashMap<Lane, Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spent(
    made: &mut Made,
    settings: &Settings,
    lane: &Lane,
    budget: Option<&Budget>,
) -> Option<Arc<Spent>> {
    let (name, limit) = match budget? {
        Budget::Own(limit) => (
            BudgetName::Account(lane.account.as_str().to_owned()),
            *limit,
        ),
        Budget::Shared(name) => (
            BudgetName::Shared(name.clone()),
            *settings.budgets.get(name)?,
        ),
    };
    let made = made.budgets.entry(name).or_insert_with(|| {
        Arc::new(Spent {
            limit,
            counted: Mutex::new((String::new(), 0)),
        })
    });
    Some(made.clone())
}
