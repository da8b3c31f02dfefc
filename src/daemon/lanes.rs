//! The lanes that this process serves, their budgets, and what is in flight of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::budget::{Budget, Figures, MonthCounts};
use super::lane::{Lane, LanePolicy, Setup, has_robot};
use super::{Configured, Shared};
use crate::dingtalk::Credentials;
use crate::receipt::{
    AccountName, Chat, Claim, ErrorCode, LaneId, Message, MessageId, QuotaMonth, Schedule,
};
use crate::settings::{App, Settings};
use crate::store::{GroupId, Lease, Result};

/// See the module.
pub(super) struct Lanes {
    state: Mutex<State>,
    in_flight: Mutex<HashMap<MessageId, Held>>,
    /// Held by whoever commits something that budgets count, from before the commit until it is counted; and, alone, by who
    /// reads the tables' figures. So nothing is counted twice or not at all.
    counting: tokio::sync::RwLock<()>,
}

struct State {
    configured: Arc<Configured>,
    prior: Arc<Schedule>,
    lanes: HashMap<LaneId, Arc<Lane>>,
    budgets: HashMap<GroupId, Arc<Budget>>,
    leases: HashMap<GroupId, Lease>,
}

/// A claim that is out.
struct Held {
    claim: Claim,
    /// `None` for a row that is ended without a call, whose lane need not be served.
    lane: Option<Arc<Lane>>,
    is_failing: bool,
    recall: CancellationToken,
}

impl Lanes {
    pub(super) fn new(configured: Arc<Configured>) -> Self {
        Self {
            state: Mutex::new(State {
                prior: Arc::new(Schedule::prior(&configured.settings.cadence)),
                configured,
                lanes: HashMap::new(),
                budgets: HashMap::new(),
                leases: HashMap::new(),
            }),
            in_flight: Mutex::default(),
            counting: tokio::sync::RwLock::new(()),
        }
    }

    // --- the configuration ---------------------------------------------------------------------------------------

    pub(super) fn configured(&self) -> Arc<Configured> {
        self.state().configured.clone()
    }

    /// The schedule of a lane of which nothing was learned.
    pub(super) fn prior(&self) -> Arc<Schedule> {
        self.state().prior.clone()
    }

    /// The lane that serves rows of an account and `corp_id`: of an internal app the account is the lane, whatever its rows
    /// say.
    ///
    /// # Errors
    /// The code for the rows' `last_error` where no account, or no organisation, is named.
    pub(super) fn lane_of(&self, written: &LaneId) -> std::result::Result<LaneId, ErrorCode> {
        lane_of(&self.state().configured.settings, written)
    }

    /// Whether the robot of a row is known where its endpoint must be told it: by the row itself, or by its account.
    pub(super) fn has_robot(&self, row: &Message) -> bool {
        let state = self.state();
        let account = state.configured.settings.accounts.get(&row.lane.account);
        account.is_some_and(|account| has_robot(row, account))
    }

    /// Takes a new configuration over. Lanes whose account is gone are dropped, and their walks under way finish. Lanes
    /// whose app or site changed are made anew, without the old ones' tokens, pauses and walks.
    pub(super) fn reload(&self, configured: Arc<Configured>, shared: &Arc<Shared>) {
        let state = &mut *self.state();
        let (old, settings) = (state.configured.clone(), configured.settings.clone());
        state.configured = configured;
        if old.settings.cadence != settings.cadence {
            state.prior = Arc::new(Schedule::prior(&settings.cadence));
        }
        let budgets = std::mem::take(&mut state.budgets);
        for (id, lane) in std::mem::take(&mut state.lanes) {
            if lane_of(&settings, &id).as_ref() != Ok(&id) {
                continue;
            }
            lane.policy.reload(&state.prior);
            let (group, limit) = Budget::group_of(&settings, &id);
            if let Some(budget) = budgets.get(&group) {
                budget.set_limit(limit);
                state.budgets.insert(group, budget.clone());
            }
            let Some(setup) = state.setup(&id) else {
                continue;
            };
            let before = lane.setup();
            if before.budget.group != setup.budget.group {
                setup.budget.inherit(&id, &before.budget);
            }
            let same_app = before.credentials == setup.credentials
                && old.settings.endpoint.base_url == settings.endpoint.base_url;
            if same_app {
                lane.set_setup(setup);
                state.lanes.insert(id, lane);
            } else {
                lane.gone.cancel();
                let lane = Lane::new(id.clone(), setup, lane.policy.clone(), shared.clone());
                state.lanes.insert(id, Arc::new(lane));
            }
        }
    }

    /// The configured accounts.
    pub(super) fn accounts(&self) -> Vec<AccountName> {
        self.state()
            .configured
            .settings
            .accounts
            .keys()
            .cloned()
            .collect()
    }

    // --- lanes ---------------------------------------------------------------------------------------------------

    /// A lane that is served already.
    pub(super) fn get(&self, id: &LaneId) -> Option<Arc<Lane>> {
        self.state().lanes.get(id).cloned()
    }

    /// Every lane that is served.
    pub(super) fn all(&self) -> Vec<Arc<Lane>> {
        self.state().lanes.values().cloned().collect()
    }

    /// Every budget of a lane that is served.
    pub(super) fn budgets(&self) -> Vec<Arc<Budget>> {
        self.state().budgets.values().cloned().collect()
    }

    /// Begins to serve lanes that are not served yet: takes the leases of their groups, reads what is stored of them, and
    /// reads the month's figures of new budgets. Of a group whose lease is another's no lane is served.
    pub(super) async fn load(&self, wanted: &[LaneId], shared: &Arc<Shared>) -> Result<()> {
        let (new, groups) = {
            let state = self.state();
            let new: Vec<LaneId> = wanted
                .iter()
                .filter(|id| !state.lanes.contains_key(*id))
                .cloned()
                .collect();
            let group = |id| Budget::group_of(&state.configured.settings, id).0;
            let groups: HashSet<GroupId> = new
                .iter()
                .map(group)
                .filter(|group| !state.leases.contains_key(group))
                .collect();
            (new, groups.into_iter().collect::<Vec<_>>())
        };
        if new.is_empty() {
            return Ok(());
        }
        let leases = if groups.is_empty() {
            Vec::new()
        } else {
            shared.store.acquire(&groups).await?
        };
        let habits = shared.store.habits(&new).await?;
        let stored: HashMap<(&LaneId, Chat), &str> = habits
            .iter()
            .map(|row| ((&row.lane, row.chat), row.habits.as_str()))
            .collect();
        {
            let mut state = self.state();
            for lease in leases {
                state.leases.insert(lease.group.clone(), lease);
            }
            for id in new {
                let of_kind = |chat| stored.get(&(&id, chat)).copied();
                state.serve(&id, of_kind, shared);
            }
        }
        let unread = |budget: &Arc<Budget>| !budget.is_read(shared.clock.now());
        if self.budgets().iter().any(unread) {
            self.refresh_budgets(shared).await?;
        }
        Ok(())
    }

    /// Ends to serve a group, at once: its lanes go with their walks, tokens and counters.
    pub(super) fn lose(&self, group: &GroupId) {
        let mut state = self.state();
        state.leases.remove(group);
        state.budgets.remove(group);
        state.lanes.retain(|_, lane| {
            let lost = lane.setup().budget.group == *group;
            if lost {
                lane.gone.cancel();
            }
            !lost
        });
    }

    /// The leases that are held.
    pub(super) fn leases(&self) -> Vec<Lease> {
        self.state().leases.values().cloned().collect()
    }

    /// Groups without a pending row that made no claim for long end to be served: they are taken again when a row comes. Gives the
    /// leases back that may be released, and what was learned of their lanes.
    pub(super) fn drop_idle(&self, pending: &HashSet<LaneId>) -> (Vec<Lease>, Vec<Arc<Lane>>) {
        let mut state = self.state();
        let mut idle: HashMap<GroupId, Vec<Arc<Lane>>> = HashMap::new();
        let mut in_use: HashSet<GroupId> = HashSet::new();
        for lane in state.lanes.values() {
            let group = lane.setup().budget.group.clone();
            if pending.contains(&lane.id) || !lane.is_idle() {
                in_use.insert(group);
            } else {
                idle.entry(group).or_default().push(lane.clone());
            }
        }
        idle.retain(|group, _| !in_use.contains(group));
        let mut leases = Vec::new();
        for (group, lanes) in &idle {
            leases.extend(state.leases.remove(group));
            state.budgets.remove(group);
            for lane in lanes {
                state.lanes.remove(&lane.id);
            }
        }
        (leases, idle.into_values().flatten().collect())
    }

    // --- budgets -------------------------------------------------------------------------------------------------

    /// To be held from before a commit until budgets have counted it.
    pub(super) async fn counting(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.counting.read().await
    }

    /// Reads every budget's figures of the month from the tables.
    pub(super) async fn refresh_budgets(&self, shared: &Shared) -> Result<()> {
        let _nothing_is_committed = self.counting.write().await;
        let now = shared.clock.now();
        let month = QuotaMonth::of(now);
        let limited = self.budgets().iter().any(|budget| budget.limit().is_some());
        let store = &shared.store;
        let counts = MonthCounts {
            this_month: store.calls_in(&month.to_string()).await?,
            before: store.calls_in(&month.before().to_string()).await?,
            owed: if limited {
                store.owed(month.ends_at()).await?
            } else {
                Vec::new()
            },
        };
        let state = self.state();
        let mut figures = Figures::by_group(&state.configured.settings, counts);
        for (group, budget) in &state.budgets {
            budget.refresh(month, &figures.remove(group).unwrap_or_default(), now);
        }
        Ok(())
    }

    // --- what is in flight ---------------------------------------------------------------------------------------

    /// Notes a claim; the token tells its walk that the row is no longer what was claimed.
    pub(super) fn take(
        &self,
        claim: Claim,
        lane: Option<Arc<Lane>>,
        is_failing: bool,
    ) -> CancellationToken {
        let recall = CancellationToken::new();
        if let Some(lane) = &lane {
            lane.claimed(is_failing);
        }
        let held = Held {
            claim,
            lane,
            is_failing,
            recall: recall.clone(),
        };
        self.held().insert(held.claim.id, held);
        recall
    }

    /// Calls walks back whose row was cancelled, deleted or re-scheduled meanwhile.
    pub(super) fn recall(&self, ids: &[MessageId]) {
        let claims = self.held();
        for held in ids.iter().filter_map(|id| claims.get(id)) {
            held.recall.cancel();
        }
    }

    /// Frees claims whose outcomes are committed.
    pub(super) fn free(&self, ids: impl Iterator<Item = MessageId>) {
        let mut claims = self.held();
        for held in ids.filter_map(|id| claims.remove(&id)) {
            if let Some(lane) = &held.lane {
                lane.freed(held.is_failing);
            }
        }
    }

    pub(super) fn claims(&self) -> Vec<Claim> {
        self.held()
            .values()
            .map(|held| held.claim.clone())
            .collect()
    }

    /// The lane that a claim was made for; it may no longer be served.
    pub(super) fn claimed_for(&self, id: MessageId) -> Option<Arc<Lane>> {
        self.held().get(&id)?.lane.clone()
    }

    pub(super) fn in_flight(&self) -> Vec<MessageId> {
        self.held().keys().copied().collect()
    }

    pub(super) fn in_flight_len(&self) -> usize {
        self.held().len()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<MessageId, Held>> {
        self.in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lane that serves rows of an account and `corp_id`; see [`Lanes::lane_of`].
pub(super) fn lane_of(
    settings: &Settings,
    written: &LaneId,
) -> std::result::Result<LaneId, ErrorCode> {
    match settings
        .accounts
        .get(&written.account)
        .map(|account| &account.app)
    {
        None => Err(ErrorCode::from("account.unknown")),
        Some(App::Internal { .. }) => Ok(LaneId {
            account: written.account.clone(),
            corp: None,
        }),
        Some(App::ThirdParty { .. }) if written.corp.is_none() => {
            Err(ErrorCode::from("corp_id.missing"))
        }
        Some(App::ThirdParty { .. }) => Ok(written.clone()),
    }
}

impl State {
    /// What the configuration says of a lane; `None` where it does not name it.
    fn setup(&mut self, id: &LaneId) -> Option<Setup> {
        let settings = self.configured.settings.clone();
        let account = settings.accounts.get(&id.account)?;
        let credentials = Credentials::of(&account.app, id.corp.as_ref())?;
        let (group, limit) = Budget::group_of(&settings, id);
        let budget = self
            .budgets
            .entry(group)
            .or_insert_with_key(|group| Arc::new(Budget::new(group.clone(), limit)));
        Some(Setup {
            account: account.clone(),
            credentials,
            configured: self.configured.clone(),
            budget: budget.clone(),
        })
    }

    /// Makes a lane, unless another node has its group.
    fn serve<'s>(
        &mut self,
        id: &LaneId,
        stored: impl Fn(Chat) -> Option<&'s str>,
        shared: &Arc<Shared>,
    ) {
        let (group, _) = Budget::group_of(&self.configured.settings, id);
        if !self.leases.contains_key(&group) {
            return;
        }
        let Some(setup) = self.setup(id) else {
            return;
        };
        let (policy, read) = LanePolicy::load(id.clone(), stored, &self.prior);
        let lane = Arc::new(Lane::new(
            id.clone(),
            setup,
            Arc::new(policy),
            shared.clone(),
        ));
        if let Err(error) = read {
            lane_event!(
                warn, lane, [error = %error,],
                "account {id}: what was learned of its readers is not used, and is learned anew: {error}"
            );
        }
        self.lanes.insert(id.clone(), lane);
    }
}
