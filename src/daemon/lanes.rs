//! The lanes that this process serves, their budgets, and what is in flight of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::budget::{Budget, Figures, MonthCounts};
use super::lane::{Lane, LanePolicy, Setup, has_robot};
use super::{Configured, Shared};
use crate::dingtalk::Credentials;
use crate::receipt::{
    AccountName, Chat, Claim, ErrorCode, LaneId, Message, MessageId, QuotaMonth, Schedule,
};
use crate::settings::{App, Settings};
use crate::store::{Granted, Group, GroupId, Lease, Promise, Result};

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
    /// The groups that are served.
    leases: HashMap<GroupId, Leased>,
    /// Those that are given up as soon as what is in flight of them is committed.
    leaving: HashMap<GroupId, Leaving>,
    /// Whether other processes may serve groups of the same database.
    is_shared: bool,
}

/// The right to serve a group.
#[derive(Clone, Debug)]
pub(super) struct Leased {
    /// `None` where no other process could serve it.
    pub(super) lease: Option<Lease>,
    /// No call before: another node may have called just now.
    pub(super) first_call: Instant,
}

/// A group that is given up, with what was learned of its lanes.
pub(super) struct Leaving {
    pub(super) lease: Lease,
    pub(super) lanes: Vec<Arc<Lane>>,
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
    pub(super) fn new(configured: Arc<Configured>, is_shared: bool) -> Self {
        Self {
            state: Mutex::new(State {
                prior: Arc::new(Schedule::prior(&configured.settings.cadence)),
                configured,
                lanes: HashMap::new(),
                budgets: HashMap::new(),
                leases: HashMap::new(),
                leaving: HashMap::new(),
                is_shared,
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
            if !state.is_leased(&lane) {
                // Its new group has to be taken first; the old one is given up.
                lane.gone.cancel();
                continue;
            }
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
                let leased = Leased {
                    lease: lane.lease.clone(),
                    first_call: Instant::now(),
                };
                let policy = lane.policy.clone();
                let lane = Lane::new(id.clone(), setup, policy, &leased, shared.clone());
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

    /// Begins to serve lanes that are not served yet: reads what is stored of them, and reads the month's figures of new
    /// budgets. Of a group whose lease is another's, or has yet to be taken, no lane is served.
    pub(super) async fn load(&self, wanted: &[LaneId], shared: &Arc<Shared>) -> Result<()> {
        let (mut new, missing) = self.missing(wanted);
        if new.is_empty() {
            return Ok(());
        }
        if self.is_shared() {
            shared.nodes.want(missing.into_values());
        } else if !missing.is_empty() {
            let groups: Vec<Group> = missing.into_values().collect();
            for granted in shared.store.acquire(&groups).await? {
                self.grant(granted.lease.group, None, Instant::now());
            }
        }
        // As of before what is read: a group that is lost and taken meanwhile was another node's.
        let leased: HashMap<GroupId, Leased> = self.state().leases.clone();
        new.retain(|(_, group)| leased.contains_key(group));
        if new.is_empty() {
            return Ok(());
        }
        let ids: Vec<LaneId> = new.iter().map(|(id, _)| id.clone()).collect();
        let habits = shared.store.habits(&ids).await?;
        let stored: HashMap<(&LaneId, Chat), &str> = habits
            .iter()
            .map(|row| ((&row.lane, row.chat), row.habits.as_str()))
            .collect();
        {
            let mut state = self.state();
            for (id, group) in new {
                let now = state.leases.get(&group).cloned();
                if let (Some(now), Some(then)) = (now, leased.get(&group))
                    && now.lease == then.lease
                {
                    let of_kind = |chat| stored.get(&(&id, chat)).copied();
                    state.serve(&id, &now, of_kind, shared);
                }
            }
        }
        let unread = |budget: &Arc<Budget>| !budget.is_read(shared.clock.now());
        if self.budgets().iter().any(unread) {
            self.refresh_budgets(shared).await?;
        }
        Ok(())
    }

    /// The lanes that are not served, each with its group, and the groups that have yet to be taken.
    fn missing(&self, wanted: &[LaneId]) -> (Vec<(LaneId, GroupId)>, HashMap<GroupId, Group>) {
        let state = self.state();
        let settings = &state.configured.settings;
        let mut groups = HashMap::new();
        let new = wanted.iter().filter(|id| !state.lanes.contains_key(*id));
        let new = new.map(|id| {
            let (group, _) = Budget::group_of(settings, id);
            if !state.leases.contains_key(&group) {
                groups
                    .entry(group.clone())
                    .or_insert_with(|| Budget::group(settings, id));
            }
            (id.clone(), group)
        });
        (new.collect(), groups)
    }

    // --- leases --------------------------------------------------------------------------------------------------

    fn is_shared(&self) -> bool {
        self.state().is_shared
    }

    /// A group is this process's from now on.
    pub(super) fn grant(&self, group: GroupId, lease: Option<Lease>, first_call: Instant) {
        let leased = Leased { lease, first_call };
        self.state().leases.insert(group, leased);
    }

    /// The groups of several processes that took them.
    pub(super) fn granted(&self, granted: Granted, rest: Duration) {
        let passed = granted.given_up.unwrap_or(rest);
        let first_call = Instant::now() + rest.saturating_sub(passed);
        self.grant(granted.lease.group.clone(), Some(granted.lease), first_call);
    }

    /// Ends to serve a group, at once: its lanes go with their walks, tokens and counters.
    pub(super) fn lose(&self, group: &GroupId) {
        let mut state = self.state();
        state.leaving.remove(group);
        state.take_lanes(group);
    }

    /// As [`Lanes::lose`], of all groups.
    pub(super) fn lose_all(&self) {
        let mut state = self.state();
        state.leaving.clear();
        let groups: Vec<GroupId> = state.leases.keys().cloned().collect();
        for group in groups {
            state.take_lanes(&group);
        }
    }

    /// Begins to give a group up: nothing of it is claimed or called any more.
    pub(super) fn leave(&self, group: &GroupId) {
        let mut state = self.state();
        let lease = state.leases.get(group).and_then(|held| held.lease.clone());
        let lanes = state.take_lanes(group);
        if let Some(lease) = lease {
            state
                .leaving
                .insert(group.clone(), Leaving { lease, lanes });
        }
    }

    /// As [`Lanes::leave`], of the groups of which nothing is in flight.
    pub(super) fn leave_unused(&self) {
        for group in self.leased() {
            if !self.has_claims(&group) {
                self.leave(&group);
            }
        }
    }

    /// Groups that are given up and of which nothing is in flight any more: they can be released. Taken out.
    pub(super) fn left(&self) -> Vec<Leaving> {
        let mut state = self.state();
        let done: Vec<GroupId> = state
            .leaving
            .keys()
            .filter(|group| !self.has_claims(group))
            .cloned()
            .collect();
        done.iter()
            .filter_map(|group| state.leaving.remove(group))
            .collect()
    }

    /// A group could not be released: it is tried again.
    pub(super) fn still_leaving(&self, leaving: Leaving) {
        let group = leaving.lease.group.clone();
        self.state().leaving.insert(group, leaving);
    }

    /// Whether a group is about to be released.
    pub(super) fn is_leaving(&self) -> bool {
        !self.state().leaving.is_empty()
    }

    fn has_claims(&self, group: &GroupId) -> bool {
        let of_group = |held: &Held| {
            let lease = held.claim.lease.as_ref();
            lease.is_some_and(|lease| lease.group == *group)
        };
        self.held().values().any(of_group)
    }

    /// The leases that are held, those included that are about to be released.
    pub(super) fn leases(&self) -> Vec<Lease> {
        let state = self.state();
        let held = state.leases.values().filter_map(|held| held.lease.clone());
        let leaving = state.leaving.values().map(|leaving| leaving.lease.clone());
        held.chain(leaving).collect()
    }

    /// The groups that are served.
    pub(super) fn leased(&self) -> Vec<GroupId> {
        self.state().leases.keys().cloned().collect()
    }

    /// Whether a group is served.
    pub(super) fn has(&self, group: &GroupId) -> bool {
        self.state().leases.contains_key(group)
    }

    /// Whether the group of a whole account is served.
    pub(super) fn has_account(&self, name: &AccountName) -> bool {
        self.state().has_account(name)
    }

    /// The accounts whose rows are looked for; `None`: all. Lanes of single organisations are found by their rows.
    pub(super) fn looked_for(&self) -> Option<Vec<AccountName>> {
        let state = self.state();
        if !state.is_shared {
            return None;
        }
        let settings = &state.configured.settings;
        let looked_for = settings.accounts.iter().filter(|(name, account)| {
            let by_corp = account.budget.is_none() && matches!(account.app, App::ThirdParty { .. });
            by_corp || state.has_account(name)
        });
        Some(looked_for.map(|(name, _)| name.clone()).collect())
    }

    /// What to promise of every lane until the next sign of life, in `within` at the latest.
    pub(super) fn draft_promises(&self, within: Duration, out_of_turn: bool) -> Vec<Promise> {
        let drafts = self.all();
        let drafts = drafts.iter().filter_map(|lane| {
            let setup = lane.setup();
            let most = f64::from(setup.account.calls_per_second) * within.as_secs_f64();
            setup.budget.draft(&lane.id, rounded_up(most), out_of_turn)
        });
        drafts.collect()
    }

    /// The other nodes know of these promises now.
    pub(super) fn promised(&self, promises: &[Promise], out_of_turn: bool) {
        let promises: HashMap<&LaneId, &Promise> = promises
            .iter()
            .map(|promise| (&promise.lane, promise))
            .collect();
        for budget in self.budgets() {
            budget.promised(&promises, out_of_turn);
        }
    }

    /// Groups without a pending row that made no claim for long end to be served: they are taken again when a row comes. Gives the
    /// lanes, so that what was learned of them is stored. Among several nodes the lease stays.
    pub(super) fn drop_idle(&self, pending: &HashSet<LaneId>) -> Vec<Arc<Lane>> {
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
        for (group, lanes) in &idle {
            if !state.is_shared {
                state.leases.remove(group);
            }
            state.budgets.remove(group);
            for lane in lanes {
                state.lanes.remove(&lane.id);
            }
        }
        idle.into_values().flatten().collect()
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

/// A number of calls.
fn rounded_up(number: f64) -> u64 {
    // Far below 2^32: a million calls a second for ten minutes.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "see above"
    )]
    {
        number.ceil() as u64
    }
}

impl State {
    fn has_account(&self, name: &AccountName) -> bool {
        let lane = LaneId {
            account: name.clone(),
            corp: None,
        };
        let (group, _) = Budget::group_of(&self.configured.settings, &lane);
        self.leases.contains_key(&group)
    }

    /// What the configuration says of a lane; `None` where it does not name it.
    fn setup(&mut self, id: &LaneId) -> Option<Setup> {
        let settings = self.configured.settings.clone();
        let account = settings.accounts.get(&id.account)?;
        let credentials = Credentials::of(&account.app, id.corp.as_ref())?;
        let (group, limit) = Budget::group_of(&settings, id);
        let budget = self.budgets.entry(group).or_insert_with_key(|group| {
            Arc::new(Budget::new(group.clone(), limit, self.is_shared))
        });
        Some(Setup {
            account: account.clone(),
            credentials,
            configured: self.configured.clone(),
            budget: budget.clone(),
        })
    }

    /// Whether a lane's lease is that of the group to which the configuration counts it now.
    fn is_leased(&self, lane: &Lane) -> bool {
        let (group, _) = Budget::group_of(&self.configured.settings, &lane.id);
        let held = self.leases.get(&group);
        !self.is_shared || held.is_some_and(|held| held.lease == lane.lease)
    }

    /// Takes a group's lanes out, with their walks.
    fn take_lanes(&mut self, group: &GroupId) -> Vec<Arc<Lane>> {
        self.leases.remove(group);
        self.budgets.remove(group);
        let taken: Vec<Arc<Lane>> = self
            .lanes
            .values()
            .filter(|lane| lane.setup().budget.group == *group)
            .cloned()
            .collect();
        for lane in &taken {
            lane.gone.cancel();
            self.lanes.remove(&lane.id);
        }
        taken
    }

    /// Makes a lane.
    fn serve<'s>(
        &mut self,
        id: &LaneId,
        leased: &Leased,
        stored: impl Fn(Chat) -> Option<&'s str>,
        shared: &Arc<Shared>,
    ) {
        let Some(setup) = self.setup(id) else {
            return;
        };
        let (policy, read) = LanePolicy::load(id.clone(), stored, &self.prior);
        let lane = Arc::new(Lane::new(
            id.clone(),
            setup,
            Arc::new(policy),
            leased,
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
