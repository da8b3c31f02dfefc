//! Opening a database, whichever it is.

/// What a database is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The daemon, `migrate`, `demo`: creates a file where there is none and brings the schema up to date.
    Owner,
    /// A command that writes, beside a daemon or without one: the tables must exist, as they are today.
    Writer,
    /// A command that reads: as `Writer`, and nothing can be written.
    Reader,
}

/// A change of the schema that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Migrating<'a> {
    /// The version it leads to.
    pub version: i64,
    /// What it does.
    pub description: &'a str,
}
