//! Every lane that has rows, and what the configuration makes of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Clock;
use super::address::Address;
use super::budgets::BudgetName;
use super::gate::{Gate, LaneSetup};
use super::purse::Purse;
use super::tokens::TicketSource;
use crate::dingtalk::{Client, ClientError, Credentials};
use crate::receipt::{ErrorCode, LaneId, QuotaMonth, UnixMs};
use crate::settings::Settings;
use crate::store::CallCount;
use crate::telemetry::Warnings;

/// The lanes, their gates, and what is made anew when the configuration changes.
pub(super) struct Lanes {
    clock: Clock,
    gates: Mutex<HashMap<LaneId, Arc<Gate>>>,
    made: Mutex<Made>,
    address: Arc<Address>,
    tickets: TicketSource,
    warnings: Warnings,
}

struct Made {
    settings: Arc<Settings>,
    client: Client,
    purses: HashMap<BudgetName, Arc<Purse>>,
    /// Those asked for since the configuration was read: every claim asks.
    setups: HashMap<LaneId, Arc<LaneSetup>>,
}

impl Lanes {
    pub(super) fn new(
        settings: &Arc<Settings>,
        tickets: TicketSource,
        clock: Clock,
        warnings: Warnings,
    ) -> Result<Self, ClientError> {
        let client = Client::new(&settings.endpoint)?;
        Ok(Self {
            clock,
            gates: Mutex::new(HashMap::new()),
            made: Mutex::new(Made {
                settings: settings.clone(),
                client,
                purses: HashMap::new(),
                setups: HashMap::new(),
            }),
            address: Arc::new(Address::new(settings.workers.concurrency)),
            tickets,
            warnings,
        })
    }

    /// Takes over what was counted before a restart, in the month of `now` and in the one before.
    pub(super) fn load(&self, now: UnixMs, counts: &[CallCount], before: &[CallCount]) {
        let month = QuotaMonth::of(now);
        for count in counts {
            self.gate(&count.lane).load_calls(month, count.calls);
            if let Some(purse) = self.purse(&count.lane) {
                purse.load(Some(count), None);
            }
        }
        for count in before {
            if let Some(purse) = self.purse(&count.lane) {
                purse.load(None, Some(count));
            }
        }
    }

    /// Takes a new configuration over; walks under way keep the old one.
    pub(super) fn reload(&self, settings: &Arc<Settings>) -> Result<(), ClientError> {
        let mut made = self.made();
        if made.settings.endpoint != settings.endpoint {
            made.client = Client::new(&settings.endpoint)?;
        }
        made.settings = settings.clone();
        made.setups.clear();
        // What was counted against a budget whose limit changed stays counted.
        made.purses
            .retain(|name, purse| match name.monthly_calls(settings) {
                Some(calls) => {
                    purse.set_budget(calls);
                    true
                }
                None => false,
            });
        drop(made);
        let now = tokio::time::Instant::now();
        for gate in self.gates().values() {
            gate.health().probe_now(now);
        }
        Ok(())
    }

    /// The lane's gate.
    pub(super) fn gate(&self, lane: &LaneId) -> Arc<Gate> {
        self.gates()
            .entry(lane.clone())
            .or_insert_with(|| {
                Arc::new(Gate::new(
                    lane.clone(),
                    self.address.clone(),
                    self.tickets.clone(),
                    self.warnings.clone(),
                ))
            })
            .clone()
    }

    /// What the configuration says of the lane.
    ///
    /// # Errors
    /// The code for its rows' `last_error` where no account, or no organisation, is named.
    pub(super) fn setup(&self, lane: &LaneId) -> Result<Arc<LaneSetup>, ErrorCode> {
        let mut made = self.made();
        if let Some(setup) = made.setups.get(lane) {
            return Ok(setup.clone());
        }
        let settings = made.settings.clone();
        let Some(account) = settings.accounts.get(&lane.account) else {
            return Err(ErrorCode::from("account.unknown"));
        };
        let credentials = Credentials::of(&account.app, lane.corp.as_ref())
            .ok_or_else(|| ErrorCode::from("corp_id.missing"))?;
        let setup = Arc::new(LaneSetup {
            account: account.clone(),
            credentials,
            client: made.client.clone(),
            purse: purse(&mut made, lane, self.clock.now()),
            settings: settings.clone(),
        });
        made.setups.insert(lane.clone(), setup.clone());
        Ok(setup)
    }

    /// The budget that the lane's calls come out of, if any.
    pub(super) fn purse(&self, lane: &LaneId) -> Option<Arc<Purse>> {
        purse(&mut self.made(), lane, self.clock.now())
    }

    /// Every budget that a lane was met of.
    pub(super) fn purses(&self) -> Vec<Arc<Purse>> {
        self.made().purses.values().cloned().collect()
    }

    /// The gates of all lanes that were met so far.
    pub(super) fn all(&self) -> Vec<Arc<Gate>> {
        self.gates().values().cloned().collect()
    }

    fn gates(&self) -> MutexGuard<'_, HashMap<LaneId, Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn purse(made: &mut Made, lane: &LaneId, now: UnixMs) -> Option<Arc<Purse>> {
    let name = BudgetName::of(&made.settings, lane)?;
    let monthly_calls = name.monthly_calls(&made.settings)?;
    let made = made
        .purses
        .entry(name)
        .or_insert_with_key(|name| Arc::new(Purse::new(name.to_string(), monthly_calls, now)));
    Some(made.clone())
}
