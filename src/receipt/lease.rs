//! Who may serve what.

use std::fmt;
use std::sync::Arc;

/// The name of lanes that are served together, since they share a month's budget.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(Arc<str>);

impl GroupId {
    /// Wraps the name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The right to serve a group. What is written for the group's lanes names its epoch, which grows whenever the group
/// changes hands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Of which group.
    pub group: GroupId,
    /// Which time the group was taken.
    pub epoch: i64,
}
