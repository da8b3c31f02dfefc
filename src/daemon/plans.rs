//! The cadence in force, shared by the scheduler (first polls) and the reconciler (next polls).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::receipt::Schedule;
use crate::receipt::cadence::{Policy, Rules};
use crate::settings::Settings;

/// The policy of the present settings.
#[derive(Debug)]
pub(super) struct Plans(Mutex<Arc<Plan>>);

/// One policy with the rules it was made from.
#[derive(Debug)]
pub(super) struct Plan {
    rules: Rules,
    policy: Policy,
}

impl Plan {
    fn new(settings: &Settings) -> Arc<Self> {
        let rules = settings.cadence.clone();
        Arc::new(Self {
            policy: Policy::prior(&rules),
            rules,
        })
    }

    /// When messages are polled.
    pub(super) fn schedule(&self) -> Schedule<'_> {
        Schedule {
            rules: &self.rules,
            policy: &self.policy,
            lifetime: self.rules.key_lifetime,
            spread: Duration::ZERO,
        }
    }
}

impl Plans {
    pub(super) fn new(settings: &Settings) -> Self {
        Self(Mutex::new(Plan::new(settings)))
    }

    /// The plan in force.
    pub(super) fn plan(&self) -> Arc<Plan> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn reload(&self, settings: &Settings) {
        if self.plan().rules != settings.cadence {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Plan::new(settings);
        }
    }
}
