//! The nodes of a database that several daemons may serve, as the commands see them.

use serde::Serialize;

use super::common::{self, Serving};
use crate::daemon::{LoopBeat, Published};
use crate::receipt::UnixMs;
use crate::settings::Database;
use crate::store::{Member, Members, Result, Store};

/// One node.
#[derive(Serialize)]
pub(super) struct NodeStatus {
    pub(super) name: String,
    pub(super) version: String,
    /// Whether it was heard of within its lease.
    pub(super) alive: bool,
    pub(super) heard_of_s: u64,
    pub(super) started_at: i64,
    /// It stops, and takes no more accounts.
    pub(super) stops: bool,
    /// Those that it has; `NAME/CORP` where it has one organisation alone.
    pub(super) accounts: Vec<String>,
    /// A number that differs where the settings do that should be the same everywhere.
    pub(super) settings: String,
    pub(super) in_flight: Option<usize>,
    pub(super) loops: Vec<LoopBeat>,
}

/// Who serves a database.
pub(super) struct Found {
    pub(super) serving: Serving,
    /// What the daemons published last, as one.
    pub(super) published: Option<Published>,
    /// Empty where one daemon alone could.
    pub(super) nodes: Vec<NodeStatus>,
}

/// Looks who serves `database`: by the lock beside a file, or by the signs of life in a server's tables.
pub(super) async fn look(database: &Database, store: &dyn Store) -> Result<Found> {
    if !store.is_shared() {
        let path = database.local_path();
        return Ok(Found {
            serving: Serving::of(&path),
            published: common::published(&path),
            nodes: Vec::new(),
        });
    }
    let members = store.members().await?;
    let alive = members.nodes.iter().filter(|node| !node.expired);
    let published: Vec<Published> = alive.filter_map(published).collect();
    let serving = match members.nodes.iter().any(|node| !node.expired) {
        // One of them alone has a number that says something.
        true => Serving::By(match &published[..] {
            [one] => one.pid,
            _ => 0,
        }),
        false => Serving::Nobody,
    };
    Ok(Found {
        serving,
        nodes: members
            .nodes
            .iter()
            .map(|node| NodeStatus::of(node, &members))
            .collect(),
        published: published.into_iter().reduce(together),
    })
}

fn published(node: &Member) -> Option<Published> {
    serde_json::from_str(node.condition.as_deref()?).ok()
}

/// What two daemons published, as one: of each loop the one that turned longest ago. A lane is one node's; what the other
/// says of it is of messages that nobody serves.
fn together(mut one: Published, other: Published) -> Published {
    one.started_at = one.started_at.min(other.started_at);
    one.updated_at = one.updated_at.min(other.updated_at);
    one.in_flight += other.in_flight;
    for beat in &mut one.loops {
        let same = other.loops.iter().find(|other| other.name == beat.name);
        let age = same.map_or(0, |other| other.turned_ms_ago);
        beat.turned_ms_ago = beat.turned_ms_ago.max(age);
    }
    for lane in other.lanes {
        let known = one
            .lanes
            .iter_mut()
            .find(|known| (&known.account, &known.corp_id) == (&lane.account, &lane.corp_id));
        match known {
            Some(known) if lane.last_success_at > known.last_success_at => *known = lane,
            Some(_) => {}
            None => one.lanes.push(lane),
        }
    }
    for budget in other.budgets {
        if one.budgets.iter().all(|known| known.name != budget.name) {
            one.budgets.push(budget);
        }
    }
    one
}

impl NodeStatus {
    fn of(node: &Member, members: &Members) -> Self {
        let held = members
            .holdings
            .iter()
            .filter(|holding| holding.node_id == node.node_id);
        let mut accounts: Vec<String> = held
            .flat_map(|holding| {
                holding.accounts.iter().map(|account| match &holding.corp {
                    Some(corp) => format!("{account}/{corp}"),
                    None => account.to_string(),
                })
            })
            .collect();
        accounts.sort();
        let published = published(node);
        Self {
            name: node.text.name.clone(),
            version: node.text.version.clone(),
            alive: !node.expired,
            heard_of_s: node.heard_of.as_secs(),
            started_at: node.started_at.0,
            stops: node.draining,
            accounts,
            settings: node.text.settings.clone(),
            in_flight: published.as_ref().map(|published| published.in_flight),
            loops: published
                .map(|published| published.loops)
                .unwrap_or_default(),
        }
    }

    /// One line for a person.
    pub(super) fn line(&self, now: UnixMs) -> String {
        /// More of them fill a screen.
        const SHOWN: usize = 12;
        let up = common::rounded(now.since(UnixMs(self.started_at)));
        let life = match (self.alive, self.stops) {
            (false, _) => format!(
                "not heard of for {} s: its accounts go to others",
                self.heard_of_s
            ),
            (true, true) => "it stops".to_owned(),
            (true, false) => format!("heard of {} s ago, running for {up}", self.heard_of_s),
        };
        let mut accounts: Vec<&str> = self
            .accounts
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect();
        let more = format!("and {} more", self.accounts.len().saturating_sub(SHOWN));
        if self.accounts.len() > SHOWN {
            accounts.push(&more);
        }
        let has = match accounts.is_empty() {
            true => "no account".to_owned(),
            false => accounts.join(", "),
        };
        format!("{} ({}): {life}; {has}", self.name, self.version)
    }
}
