//! This process among others that serve the same database: signs of life, and which groups of lanes are whose.
//!
//! Every node comes to the same plan from what it reads: a group is for the node that wins it by rendezvous hashing
//! (Thaler and Ravishankar 1998), among those that are alive, take groups, and name its accounts. So a node that comes or goes
//! moves its own share and no more. A node takes what is free; nothing is taken from anybody but by the end of his life.
//!
//! A process that was stopped for a while cannot know what happened meanwhile. So no call goes out but while the last sign of
//! life holds by the monotonic clock ([`Nodes::may_call`]), a little less long than the database believes it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::budget::Budget;
use super::clock::Clock;
use super::lanes::{Lanes, lane_of};
use super::status::LoopName;
use super::upkeep::save_habits;
use super::{DaemonError, Shared};
use crate::cadence::KeyHash;
use crate::receipt::{AccountName, GroupId, LaneId, UnixMs, whole_ms};
use crate::settings::{App, Settings};
use crate::store::{Beat, Group, Lease, Member, Members, NodeText, Result, StoreError};

/// A node shows itself so many times a lease.
const BEATS_A_LEASE: u32 = 3;
/// So much of the lease, as a part, is left between the end of a node's trust in it and the moment at which others may take its
/// groups.
const MARGIN: u32 = 8;
/// Where wall clock and monotonic clock move apart by more, the machine slept: the monotonic clock did not count that.
const LARGEST_DRIFT: Duration = Duration::from_secs(2);
/// Between a node's last call for a group and the next node's first: the vendor counts by the second.
const REST: Duration = Duration::from_secs(1);
/// Of its groups a node gives at most this part up at once, so that the others keep up.
const PART_GIVEN: usize = 4;
/// While groups are about to be released.
const LEAVING_INTERVAL: Duration = Duration::from_millis(50);
/// By so much a machine's clock may be wrong before it is told.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);
/// After a passing error, as a part of the lease.
const RETRY_PART: u32 = 15;
/// The group of what one node does for all: retention, and messages that no lane serves.
const HOUSE: &str = "upkeep";

/// What the other loops ask. One process alone always may.
#[derive(Debug)]
pub(super) struct Nodes {
    is_shared: bool,
    trust: Mutex<Option<Trust>>,
    /// Groups that do not follow from the configuration: rows were met of their lanes.
    wanted: Mutex<HashMap<GroupId, Group>>,
    seen: Mutex<Seen>,
    /// The first sign of life was given.
    joined: CancellationToken,
    /// Other nodes are to be told of something now.
    show: Notify,
    /// Groups are to be taken now.
    look: Notify,
}

/// For how long the last sign of life holds.
#[derive(Clone, Copy, Debug)]
struct Trust {
    until: Instant,
    /// When it was given, by both clocks of the machine.
    given: Instant,
    wall: UnixMs,
}

/// What was seen of the others last.
#[derive(Debug, Default)]
struct Seen {
    /// Nodes that are alive.
    alive: u32,
    named: HashSet<AccountName>,
    /// Nobody came or went for a whole lease.
    is_stable: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Nodes {
    pub(super) fn new(is_shared: bool) -> Self {
        let joined = CancellationToken::new();
        if !is_shared {
            joined.cancel();
        }
        Self {
            is_shared,
            trust: Mutex::new(None),
            wanted: Mutex::default(),
            seen: Mutex::default(),
            joined,
            show: Notify::new(),
            look: Notify::new(),
        }
    }

    /// Whether other processes may serve the same database.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Resolves once this process is a node, by whose clock it works.
    pub(super) async fn joined(&self) {
        self.joined.cancelled().await;
    }

    /// Whether what this process has is certainly still its own.
    pub(super) fn may_call(&self, clock: &Clock) -> bool {
        if !self.is_shared {
            return true;
        }
        let trust = *lock(&self.trust);
        trust.is_some_and(|trust| trust.holds(Instant::now(), clock.of_machine()))
    }

    /// Calls a second from this process's address.
    pub(super) fn ceiling(&self, settings: &Settings) -> u32 {
        let all = settings.endpoint.calls_per_second;
        match self.is_shared && settings.node.shared_egress {
            true => (all / lock(&self.seen).alive.max(1)).max(1),
            false => all,
        }
    }

    /// Groups whose rows were met, and that are to be taken if they are this node's.
    pub(super) fn want(&self, groups: impl Iterator<Item = Group>) {
        let mut wanted = lock(&self.wanted);
        let before = wanted.len();
        wanted.extend(groups.map(|group| (group.id.clone(), group)));
        if wanted.len() > before {
            self.look.notify_one();
        }
    }

    /// The configuration is another: the other nodes are told, and groups compared.
    pub(super) fn reloaded(&self) {
        self.show.notify_one();
        self.look.notify_one();
    }

    /// A sign of life is due before its time.
    pub(super) fn show_life(&self) {
        self.show.notify_one();
    }

    /// Whether this process does what one does for all.
    pub(super) fn keeps_house(&self, lanes: &Lanes) -> bool {
        !self.is_shared || lanes.has(&GroupId::new(HOUSE))
    }

    /// The accounts that some node names, for who marks the rows of the others. `None`: that is not for this process to do now.
    /// Its own are among them as soon as they are in force, and not only once it has shown them.
    pub(super) fn named(&self, lanes: &Lanes) -> Option<HashSet<AccountName>> {
        let seen = lock(&self.seen);
        // Who comes back from a restart names his accounts again.
        let may = self.is_shared && seen.is_stable && self.keeps_house(lanes);
        may.then(|| seen.named.iter().cloned().chain(lanes.accounts()).collect())
    }
}

impl Trust {
    fn holds(&self, now: Instant, wall: UnixMs) -> bool {
        let expected = self.wall + now.saturating_duration_since(self.given);
        let drift = wall.since(expected).max(expected.since(wall));
        now < self.until && drift <= LARGEST_DRIFT
    }
}

/// The loop's own state.
struct Membership {
    shared: Arc<Shared>,
    is_member: bool,
    next_beat: Instant,
    /// Who was there last: ids, and the accounts that they name.
    others: Vec<(String, Vec<AccountName>)>,
    /// Since when nobody has come or gone.
    unchanged_since: Instant,
    /// Groups that nobody has, and since when.
    free_since: HashMap<GroupId, Instant>,
    next_give: Instant,
    /// No other node's life is ended before: the clock by which it would be over was set forward.
    no_deaths_until: Instant,
    /// What was published when it was told last.
    told: i64,
    /// This process stops.
    stops: bool,
    /// When a sign of life is due that is given for no promise's sake.
    regular_at: Instant,
    /// The apps for which a token was asked since the start.
    asked: HashMap<AccountName, App>,
}

/// Shows signs of life, takes groups and gives them up, until all is committed.
pub(super) async fn run(shared: Arc<Shared>) -> std::result::Result<(), DaemonError> {
    let now = Instant::now();
    let mut membership = Membership {
        shared: shared.clone(),
        is_member: false,
        next_beat: now,
        others: Vec::new(),
        unchanged_since: now,
        free_since: HashMap::new(),
        next_give: now,
        no_deaths_until: now,
        told: 0,
        stops: false,
        regular_at: now,
        asked: HashMap::new(),
    };
    let mut looks = true;
    loop {
        let lease = shared.lanes.configured().settings.node.lease;
        let heartbeats = shared.handle.heartbeats();
        let turning = membership.turn(lease, looks);
        // All that it waits for has its time-out.
        let turned = heartbeats.while_waiting(LoopName::Nodes, turning).await;
        let next = match turned {
            Ok(()) => {
                looks = false;
                let busy = shared.lanes.is_leaving() || shared.claimed.is_cancelled();
                let soon = busy.then(|| Instant::now() + LEAVING_INTERVAL);
                soon.map_or(membership.next_beat, |soon| soon.min(membership.next_beat))
            }
            Err(error) if error.is_transient() => {
                membership.warn_of(&error);
                Instant::now() + lease / RETRY_PART
            }
            Err(error) => return Err(error.into()),
        };
        tokio::select! {
            () = shared.ended.cancelled() => return Ok(()),
            () = tokio::time::sleep_until(next) => looks |= Instant::now() >= membership.next_beat,
            () = shared.nodes.look.notified() => looks = true,
            () = shared.store.members_changed() => looks = true,
            () = shared.nodes.show.notified() => membership.next_beat = Instant::now(),
            () = shared.stop.graceful.cancelled(), if !membership.stops => {
                membership.stops = true;
                membership.next_beat = Instant::now();
            }
        }
    }
}

impl Membership {
    async fn turn(&mut self, lease: Duration, looks: bool) -> Result<()> {
        if Instant::now() >= self.next_beat {
            self.show_life(lease).await?;
        }
        if looks && self.is_member {
            self.look(lease).await?;
        }
        self.release().await
    }

    // --- signs of life -------------------------------------------------------------------------------------------

    /// Shows that this node lives. Where that comes too late, all that it had is lost, and it begins anew.
    async fn show_life(&mut self, lease: Duration) -> Result<()> {
        let shared = self.shared.clone();
        let settings = shared.lanes.configured().settings.clone();
        let node = node_text(&settings);
        let published = shared.handle.published().borrow().clone();
        let news = published.filter(|published| published.updated_at != self.told);
        let condition = news
            .as_ref()
            .and_then(|published| serde_json::to_string(&**published).ok());
        let interval = lease / BEATS_A_LEASE;
        let out_of_turn = Instant::now() < self.regular_at;
        let promises = shared.lanes.draft_promises(interval, out_of_turn);
        let draining = self.stops;
        let beat = |promises| Beat {
            node: &node,
            lease,
            draining,
            promises,
            condition: condition.as_deref(),
        };
        // Before it is sent: the database's time begins later, so it ends later.
        let (given, wall) = (Instant::now(), shared.clock.of_machine());
        let mut now = None;
        if self.is_member {
            now = shared.store.beat(&beat(&promises)).await?;
        }
        let now = match now {
            Some(now) => {
                shared.lanes.promised(&promises, out_of_turn);
                now
            }
            None => {
                self.lose_all();
                let now = shared.store.join(&beat(&[])).await?;
                self.is_member = true;
                now
            }
        };
        *lock(&shared.nodes.trust) = Some(Trust {
            until: given + lease - lease / MARGIN,
            given,
            wall,
        });
        if shared.nodes.joined.is_cancelled() && now.since(shared.clock.now()) > LARGEST_DRIFT {
            // Every life seems over by a clock that was set forward, and each node still trusts in its own.
            self.no_deaths_until = Instant::now() + lease;
        }
        self.warn_of_clock(now, wall + given.elapsed() / 2);
        shared.clock.follow(now, given + given.elapsed() / 2);
        shared.nodes.joined.cancel();
        self.told = news.map_or(self.told, |published| published.updated_at);
        if !out_of_turn {
            self.regular_at = given + interval;
        }
        self.next_beat = self.regular_at;
        Ok(())
    }

    fn lose_all(&mut self) {
        *lock(&self.shared.nodes.trust) = None;
        let lost = self.shared.lanes.leases().len();
        self.shared.lanes.lose_all();
        if std::mem::take(&mut self.is_member) {
            tracing::warn!(
                groups.lost = lost,
                "this node was not heard of for longer than its lease (node.lease): others may have its accounts, it begins anew"
            );
        }
    }

    // --- whose is what -------------------------------------------------------------------------------------------

    /// Looks who is there and who has what; takes what is free and this node's, and gives up what is another's by now.
    async fn look(&mut self, lease: Duration) -> Result<()> {
        let shared = self.shared.clone();
        if Instant::now() >= self.no_deaths_until {
            for name in shared.store.reap().await? {
                tracing::warn!(
                    node.name = name,
                    "node {name}: not heard of for longer than its lease; its accounts go to others"
                );
            }
        }
        let members = shared.store.members().await?;
        self.learn(&members, lease);
        self.compare(&members);
        if self.stops {
            if shared.claimed.is_cancelled() {
                shared.lanes.leave_unused();
            }
            return Ok(());
        }
        let groups = self.groups();
        let candidates: Vec<&Member> = members
            .nodes
            .iter()
            .filter(|node| !node.expired && !node.draining)
            .collect();
        self.give(&groups, &candidates, &members.me, lease);
        self.take(&groups, &candidates, &members, lease).await?;
        self.ask_for_tokens();
        Ok(())
    }

    fn learn(&mut self, members: &Members, lease: Duration) {
        let alive = || members.nodes.iter().filter(|node| !node.expired);
        let others: Vec<(String, Vec<AccountName>)> = alive()
            .filter(|node| !node.draining)
            .map(|node| (node.node_id.clone(), node.text.accounts.clone()))
            .collect();
        if others != self.others {
            self.others = others;
            self.unchanged_since = Instant::now();
        }
        let settings: HashSet<&str> = alive().map(|node| &*node.text.settings).collect();
        if settings.len() > 1
            && let Some(again) = self.shared.warnings.admit("the nodes' settings differ")
        {
            tracing::warn!(
                suppressed = again.count(),
                "the nodes' settings differ: an account goes by those of the node that has it, and only to nodes that name \
                 it; receiptd status shows which node has which{again}"
            );
        }
        *lock(&self.shared.nodes.seen) = Seen {
            alive: u32::try_from(alive().count()).unwrap_or(u32::MAX),
            named: alive()
                .flat_map(|node| node.text.accounts.iter().cloned())
                .collect(),
            is_stable: self.unchanged_since.elapsed() >= lease,
        };
    }

    /// What the database says is what holds: an answer may have been lost, or a lease.
    fn compare(&self, members: &Members) {
        let lanes = &self.shared.lanes;
        let ours: HashMap<&GroupId, &Lease> = members
            .holdings
            .iter()
            .filter(|holding| holding.node_id == members.me)
            .map(|holding| (&holding.lease.group, &holding.lease))
            .collect();
        let known = lanes.leases();
        for lease in &known {
            if ours.get(&lease.group) != Some(&lease) {
                lanes.lose(&lease.group);
            }
        }
        for lease in ours.into_values() {
            if !known.contains(lease) {
                let first_call = Instant::now() + REST;
                lanes.grant(lease.group.clone(), Some(lease.clone()), first_call);
            }
        }
    }

    /// All groups of which this node knows whose they should be.
    fn groups(&self) -> HashMap<GroupId, Group> {
        let settings = self.shared.lanes.configured().settings.clone();
        let mut groups = Budget::groups(&settings);
        let house = Group {
            id: GroupId::new(HOUSE),
            accounts: Vec::new(),
            corp: None,
        };
        groups.insert(house.id.clone(), house);
        let mut wanted = lock(&self.shared.nodes.wanted);
        // What a reload made a part of another group is no group any more.
        wanted.retain(|_, group| is_group(&settings, group));
        groups.extend(wanted.iter().map(|(id, group)| (id.clone(), group.clone())));
        groups
    }

    /// Gives up what is no group any more, and, if nobody has come or gone for a while, some of what another node should have.
    fn give(
        &mut self,
        groups: &HashMap<GroupId, Group>,
        candidates: &[&Member],
        me: &str,
        lease: Duration,
    ) {
        let lanes = &self.shared.lanes;
        let held = lanes.leased();
        for group in held.iter().filter(|group| !groups.contains_key(group)) {
            lanes.leave(group);
        }
        if self.unchanged_since.elapsed() < lease || Instant::now() < self.next_give {
            return;
        }
        let of_others = held.iter().filter(|id| {
            let group = groups.get(id);
            group.is_some_and(|group| winner(group, candidates).is_some_and(|of| of != me))
        });
        let most = held.len().div_ceil(PART_GIVEN);
        for group in of_others.take(most) {
            lanes.leave(group);
            self.next_give = Instant::now() + lease / BEATS_A_LEASE;
        }
    }

    /// Takes what is free and should be this node's; and what nobody has taken for a while.
    async fn take(
        &mut self,
        groups: &HashMap<GroupId, Group>,
        candidates: &[&Member],
        members: &Members,
        lease: Duration,
    ) -> Result<()> {
        let held: HashSet<&GroupId> = members
            .holdings
            .iter()
            .map(|holding| &holding.lease.group)
            .collect();
        self.free_since
            .retain(|id, _| groups.contains_key(id) && !held.contains(id));
        let mut wanted = Vec::new();
        for (id, group) in groups.iter().filter(|(id, _)| !held.contains(*id)) {
            let since = self
                .free_since
                .entry(id.clone())
                .or_insert_with(Instant::now);
            let is_ours = winner(group, candidates) == Some(&members.me);
            if is_ours || since.elapsed() >= lease {
                wanted.push(group.clone());
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let granted = self.shared.store.acquire(&wanted).await?;
        if granted.is_empty() {
            return Ok(());
        }
        for granted in granted {
            self.free_since.remove(&granted.lease.group);
            self.shared.lanes.granted(granted, REST);
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Has a token asked of accounts that are new here, or whose app is another one: a wrong secret is told before a message is
    /// due.
    fn ask_for_tokens(&mut self) {
        let shared = self.shared.clone();
        let configured = shared.lanes.configured();
        let gone = shared.stop.graceful.clone();
        let is_ours = move |name: &AccountName| {
            shared.lanes.has_account(name) && shared.nodes.may_call(&shared.clock)
        };
        let mut new = HashSet::new();
        for (name, account) in &configured.settings.accounts {
            if self.asked.get(name) != Some(&account.app) && is_ours(name) {
                self.asked.insert(name.clone(), account.app.clone());
                new.insert(name.clone());
            }
        }
        if new.is_empty() {
            return;
        }
        self.shared
            .tasks
            .spawn(gone.run_until_cancelled_owned(async move {
                tokio::time::sleep(REST).await;
                super::tokens::ask_all(configured, |name, _| new.contains(name) && is_ours(name))
                    .await;
            }));
    }

    /// Gives back what is given up, as soon as all of it is committed and what was learned is stored.
    async fn release(&self) -> Result<()> {
        let shared = &self.shared;
        let left = shared.lanes.left();
        if left.is_empty() {
            return Ok(());
        }
        let leases: Vec<Lease> = left.iter().map(|left| left.lease.clone()).collect();
        let lanes: Vec<_> = left.iter().flat_map(|left| left.lanes.clone()).collect();
        let releasing = async {
            save_habits(shared, &lanes).await?;
            shared.store.release(&leases).await
        };
        let released = releasing.await;
        if released.is_err() {
            for left in left {
                shared.lanes.still_leaving(left);
            }
        }
        released
    }

    // --- warnings ------------------------------------------------------------------------------------------------

    fn warn_of(&self, error: &StoreError) {
        if let Some(again) = self.shared.warnings.admit("no sign of life") {
            let error = error.with_source();
            tracing::warn!(
                error,
                suppressed = again.count(),
                "the other nodes cannot be told that this one lives: {error}; it calls nobody once they may have its \
                 accounts{again}"
            );
        }
    }

    fn warn_of_clock(&self, shared_time: UnixMs, machine_time: UnixMs) {
        let apart = shared_time
            .since(machine_time)
            .max(machine_time.since(shared_time));
        if apart > CLOCK_TOLERANCE
            && let Some(again) = self.shared.warnings.admit("the clocks differ")
        {
            let apart_ms = whole_ms(apart);
            tracing::warn!(
                apart_ms,
                suppressed = again.count(),
                "this machine's clock and the database's are {apart_ms} ms apart: the database's is used{again}"
            );
        }
    }
}

/// What this node says of itself.
fn node_text(settings: &Settings) -> NodeText {
    NodeText {
        name: settings.node.name.clone().unwrap_or_else(host_name),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        settings: fingerprint(settings),
        accounts: settings.accounts.keys().cloned().collect(),
    }
}

fn host_name() -> String {
    let uname = rustix::system::uname();
    uname.nodename().to_string_lossy().into_owned()
}

/// A number that differs where settings do that should be the same on every node. Secrets are no part of it.
fn fingerprint(settings: &Settings) -> String {
    let shared = ["accounts.", "budgets.", "cadence.", "retention.", "node."];
    let told: Vec<String> = settings
        .describe()
        .into_iter()
        .filter(|(key, _)| shared.iter().any(|part| key.starts_with(part)))
        .filter(|(key, _)| key != "node.name" && !key.ends_with("_file"))
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("{:.9}", KeyHash::of(&told.join("\n")).fraction(0))
}

/// Whether the configuration still makes this group of a single organisation's lane.
fn is_group(settings: &Settings, group: &Group) -> bool {
    let account = group.accounts.first();
    account.is_some_and(|account| {
        let lane = LaneId {
            account: account.clone(),
            corp: group.corp.clone(),
        };
        lane_of(settings, &lane).as_ref() == Ok(&lane) && Budget::group(settings, &lane) == *group
    })
}

/// The node for which a group is: the one of `candidates` that names its accounts and has the highest number for it.
fn winner<'m>(group: &Group, candidates: &[&'m Member]) -> Option<&'m str> {
    let names = |node: &&&Member| {
        let accounts = &node.text.accounts;
        group.accounts.iter().all(|name| accounts.contains(name))
    };
    let number = |node: &Member| KeyHash::of(&format!("{}|{}", group.id, node.node_id)).fraction(0);
    candidates
        .iter()
        .filter(names)
        .max_by(|a, b| number(a).total_cmp(&number(b)))
        .map(|node| &*node.node_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_800_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    /// A machine that slept: its monotonic clock stood still, and its lease is another's by now.
    #[test]
    fn trust_ends_with_the_lease_and_with_any_sleep() {
        let given = Instant::now();
        let trust = Trust {
            until: given + 13 * SECOND,
            given,
            wall: NOW,
        };
        assert!(trust.holds(given + 12 * SECOND, NOW + 12 * SECOND));
        assert!(!trust.holds(given + 13 * SECOND, NOW + 13 * SECOND));
        // A clock that is disciplined, and one that went on while the machine slept.
        assert!(trust.holds(given + SECOND, NOW + 2 * SECOND));
        assert!(!trust.holds(given + SECOND, NOW + 60 * SECOND));
        assert!(!trust.holds(given + 5 * SECOND, NOW - 60 * SECOND));
    }

    fn member(node_id: &str, accounts: &[&str]) -> Member {
        Member {
            node_id: node_id.to_owned(),
            text: NodeText {
                name: "same".to_owned(),
                version: String::new(),
                settings: String::new(),
                accounts: accounts.iter().map(|name| (*name).into()).collect(),
            },
            draining: false,
            started_at: NOW,
            heard_of: Duration::ZERO,
            expired: false,
            condition: None,
        }
    }

    #[test]
    fn a_node_that_comes_or_goes_moves_its_own_share_alone() {
        let all: Vec<String> = (0..300).map(|number| format!("a{number}")).collect();
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        let nodes: Vec<Member> = ["i", "j", "k"].map(|id| member(id, &names)).to_vec();
        let some = member("l", &names[..100]);
        let group = |name: &str| Group {
            id: GroupId::new(format!("account {name}")),
            accounts: vec![name.into()],
            corp: None,
        };
        let mut shares = [0; 4];
        for (number, name) in names.iter().enumerate() {
            let three: Vec<&Member> = nodes.iter().collect();
            let before = winner(&group(name), &three).unwrap();
            let two: Vec<&Member> = nodes.iter().filter(|node| node.node_id != before).collect();
            assert_ne!(winner(&group(name), &two), Some(before));
            let without_k = winner(&group(name), &three[..2]).unwrap();
            assert!(
                before == "k" || before == without_k,
                "{name} moved between the others"
            );
            let four: Vec<&Member> = nodes.iter().chain([&some]).collect();
            let after = winner(&group(name), &four).unwrap();
            assert!(after == before || after == "l" && number < 100, "{name}");
            shares["ijkl".find(after).unwrap()] += 1;
        }
        assert!(shares.iter().all(|share| *share > 10), "{shares:?}");
        // Who names one of two accounts that share a budget cannot have it.
        let both = Group {
            accounts: vec!["a0".into(), "a200".into()],
            ..group("a0")
        };
        assert_eq!(winner(&both, &[&some]), None);
        assert_eq!(winner(&group("nobody's"), &[&some]), None);
    }
}
