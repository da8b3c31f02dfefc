//! Who serves which group of lanes.

use std::time::Duration;

use async_trait::async_trait;

use super::Result;
use crate::receipt::{AccountName, CorpId, GroupId, LaneId, Lease, UnixMs};

/// A group as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub id: GroupId,
    /// Whose lanes are in it: no other group of any of them is leased to another node meanwhile.
    pub accounts: Vec<AccountName>,
    /// Of its one account this organisation alone; `None`: all.
    pub corp: Option<CorpId>,
}

/// A lease that was taken just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The lease.
    pub lease: Lease,
    /// How long ago another node gave the group up; `None` where none had it before.
    pub given_up: Option<Duration>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeText {
    /// For people.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// Of settings that should be the same on every node.
    pub settings: String,
    /// The accounts that it names.
    pub accounts: Vec<AccountName>,
}

/// How many metered calls a lane's month will have cost at most before the next sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promise {
    /// Whose.
    pub lane: LaneId,
    /// `YYYY-MM` at UTC+8.
    pub month: String,
    /// The whole month's calls, those included that are not written yet.
    pub calls: u64,
}

/// A sign of life.
#[derive(Clone, Copy, Debug)]
pub struct Beat<'a> {
    /// Who.
    pub node: &'a NodeText,
    /// How long it is believed.
    pub lease: Duration,
    /// It stops: it takes no more groups.
    pub draining: bool,
    /// The calls that may be lost if it is never heard of again.
    pub promises: &'a [Promise],
    /// What it publishes of itself, JSON, for `status`; `None`: as before.
    pub condition: Option<&'a str>,
}

/// A node that is alive, by the database's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Another one at each start.
    pub node_id: String,
    /// What it says of itself.
    pub text: NodeText,
    /// It stops.
    pub draining: bool,
    /// When it started.
    pub started_at: UnixMs,
    /// How long ago it was heard of.
    pub heard_of: Duration,
    /// Whether it was heard of too long ago.
    pub expired: bool,
    /// What it published last, JSON.
    pub condition: Option<String>,
}

/// A group that a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which, and for which time.
    pub lease: Lease,
    /// Whose lanes are in it.
    pub accounts: Vec<AccountName>,
    /// Of one organisation alone.
    pub corp: Option<CorpId>,
    /// Who.
    pub node_id: String,
}

/// Who is there, and who has what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// This process's own id; empty where it is no node.
    pub me: String,
    /// All that are there.
    pub nodes: Vec<Member>,
    /// Groups that somebody has.
    pub holdings: Vec<Holding>,
}

/// Who serves which group of lanes. Unless a backend says otherwise one process serves the database: every lease is granted
/// at once and never lost.
///
/// All times are the database's.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// Whether other processes may serve groups of the same database: then leases are to be kept by [`Leases::beat`].
    fn is_shared(&self) -> bool {
        false
    }

    /// Begins a life as a node under a new id. Groups of the life before are lost.
    async fn join(&self, _beat: &Beat<'_>) -> Result<UnixMs> {
        Ok(UnixMs(0))
    }

    /// Shows that this node lives; the database's time. `None`: it was not heard of for too long, and everything that
    /// it had is lost.
    async fn beat(&self, _beat: &Beat<'_>) -> Result<Option<UnixMs>> {
        Ok(None)
    }

    /// Ends the lives of nodes that were not heard of for too long, which frees their groups and counts the calls that they
    /// had promised; their names.
    async fn reap(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Who is there, and who has what.
    async fn members(&self) -> Result<Members> {
        Ok(Members::default())
    }

    /// Takes what is free of `groups`.
    async fn acquire(&self, groups: &[Group]) -> Result<Vec<Granted>> {
        let granted = groups.iter().map(|group| Granted {
            lease: Lease {
                group: group.id.clone(),
                epoch: 0,
            },
            given_up: None,
        });
        Ok(granted.collect())
    }

    /// Gives leases back.
    async fn release(&self, _leases: &[Lease]) -> Result<()> {
        Ok(())
    }

    /// Ends this node's life, with whatever it still has.
    async fn leave(&self) -> Result<()> {
        Ok(())
    }

    /// Resolves when another node may have come, gone or given something up. May resolve in vain, or late.
    async fn members_changed(&self) {
        std::future::pending::<()>().await;
    }
}
