//! Whether the database opens, who may write it, and whether there is room.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::super::access::{self, Denied, Who, beside, directory_of};
use super::super::common::{self, Serving};
use super::super::nodes::{self, NodeStatus};
use super::{Findings, server};
use crate::settings::Database;
use crate::store::sqlite::JOURNAL_SIZE_LIMIT;
use crate::store::{self, Role, SharedStore};

const MIB: u64 = 1 << 20;
/// Less, and a write-ahead log at its ordinary limit leaves nothing over.
const LEAST_ROOM: u64 = 2 * JOURNAL_SIZE_LIMIT;
/// Less is worth a thought.
const LITTLE_ROOM: u64 = 1024 * MIB;

const GROUP_READS_AND_WRITES: u32 = 0o060;
const GROUP_WRITES_AND_ENTERS: u32 = 0o030;
const SETGID: u32 = 0o2000;
const OTHERS: u32 = 0o006;

/// Opens the database; to write it where calls are to be counted.
pub(super) async fn look(
    database: &Database,
    to_write: bool,
    found: &mut Findings,
) -> Option<SharedStore> {
    let path = &database.local_path();
    let file = match database {
        Database::Sqlite(_) => Some(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())),
        Database::Postgres(_) => None,
    };
    // Before it is opened, which may make a -wal and a -shm.
    if let Some(file) = &file
        && may_be_used(path, found)
    {
        shared(file, found);
    }
    let role = if to_write { Role::Writer } else { Role::Reader };
    let store = match store::open(database, role, &mut |_| ()).await {
        Ok(store) => {
            let version = store::schema_version(database);
            let said = format!("{database} opens, its schema is up to date (version {version})");
            found.works("database", said);
            Some(store)
        }
        Err(error) if common::is_fresh(&error) => {
            found.note(
                "database",
                format!(
                    "{} does not exist yet: `receiptd run` creates it",
                    path.display()
                ),
            );
            None
        }
        Err(error) => {
            found.fails_with("database", &common::not_opened(database, role, error));
            None
        }
    };
    match (&file, database, &store) {
        (Some(file), ..) => {
            write_ahead_log(file, found);
            room(file, found);
        }
        (None, Database::Postgres(url), Some(store)) => server::look(url, &**store, found).await,
        (None, ..) => {}
    }
    let nodes = match &store {
        Some(store) if store.is_shared() => {
            match nodes::look(database, &**store).await {
                Ok(looked) => told_nodes(&looked.nodes, found),
                Err(error) => found.fails("nodes", error.with_source(), "try again"),
            }
            true
        }
        _ => false,
    };
    match Serving::of(path) {
        _ if nodes => {}
        Serving::By(pid) => found.works("daemon", format!("runs (process {pid})")),
        Serving::Nobody => found.note("daemon", "none runs; `receiptd run` starts one"),
        Serving::Unknown(error) => found.note(
            "daemon",
            format!("whether one runs cannot be told from here ({error}): run this as the service's user"),
        ),
    }
    store
}

/// The daemons that serve a database together.
fn told_nodes(nodes: &[NodeStatus], found: &mut Findings) {
    const WHAT: &str = "nodes";
    if nodes.iter().all(|node| !node.alive) {
        found.note(WHAT, "none runs; `receiptd run` starts one");
    }
    for node in nodes.iter().filter(|node| node.alive) {
        found.works(WHAT, node.line(common::now()));
    }
    for node in nodes.iter().filter(|node| !node.alive) {
        found.warns(
            WHAT,
            node.line(common::now()),
            "nothing, if others run; else start one",
        );
    }
    let settings: BTreeSet<&String> = nodes.iter().map(|node| &node.settings).collect();
    if settings.len() > 1 {
        found.warns(
            WHAT,
            "their settings differ (accounts, budgets, cadence, retention or lease)",
            "give all of them the same",
        );
    }
}

/// Whether this process, and the service's user, can write what `receiptd run` writes.
fn may_be_used(database: &Path, found: &mut Findings) -> bool {
    let asked = [Some(Who::Me), Who::service()].into_iter().flatten();
    let denied: Vec<Denied> = asked
        .filter_map(|who| access::denied(database, Role::Owner, &who))
        .collect();
    for Denied { problem, remedy } in &denied {
        found.fails("permissions", problem, remedy);
    }
    denied.is_empty()
}

/// Feeders of other users write through the group of the directory, or there are none.
fn shared(database: &Path, found: &mut Findings) {
    let what = "permissions";
    let directory = directory_of(database);
    // Looked at before: it is there.
    let Ok(looked) = std::fs::metadata(directory) else {
        return;
    };
    let shown = directory.display();
    let (mode, group) = (looked.mode() & 0o7777, looked.gid());
    if mode & GROUP_WRITES_AND_ENTERS != GROUP_WRITES_AND_ENTERS {
        return found.note(
            what,
            format!(
                "{shown} (mode {mode:04o}) can be written by its owner only: feeders must run as user {}; to let a group \
                 write: chgrp GROUP {shown} && chmod 2770 {shown}, and the same group with mode 0660 for the files in it",
                looked.uid()
            ),
        );
    }
    let mut sound = true;
    if mode & SETGID == 0 {
        sound = false;
        found.fails(
            what,
            format!(
                "{shown} (mode {mode:04o}) does not hand its group on: files that SQLite makes in it will belong to \
                 another group, and feeders meet \"attempt to write a readonly database\""
            ),
            &format!("chmod g+s {shown}"),
        );
    }
    if mode & OTHERS != 0 {
        sound = false;
        found.warns(
            what,
            format!("{shown} (mode {mode:04o}) is open to everybody on this machine"),
            &format!("chmod o= {shown}"),
        );
    }
    for file in ["", "-wal", "-shm"].map(|suffix| beside(database, suffix)) {
        match std::fs::metadata(&file) {
            Ok(looked) => sound &= one_file(&file, &looked, group, found),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                sound = false;
                let shown = file.display();
                found.fails(what, format!("{shown}: {error}"), "look at the directory");
            }
        }
    }
    if sound {
        found.works(what, format!("group {group} may write {shown}"));
    }
}

fn one_file(file: &Path, looked: &Metadata, group: u32, found: &mut Findings) -> bool {
    let shown = file.display();
    let mode = looked.mode() & 0o7777;
    if looked.gid() != group {
        found.fails(
            "permissions",
            format!(
                "{shown} belongs to group {}, its directory to group {group}",
                looked.gid()
            ),
            &format!("chgrp {group} {shown}"),
        );
        return false;
    }
    if mode & GROUP_READS_AND_WRITES != GROUP_READS_AND_WRITES {
        found.fails(
            "permissions",
            format!(
                "{shown} (mode {mode:04o}) cannot be written by group {group}, its directory can"
            ),
            &format!("chmod g+rw {shown}, and let whoever created it run with umask 0007"),
        );
        return false;
    }
    true
}

fn write_ahead_log(database: &Path, found: &mut Findings) {
    let what = "write-ahead log";
    let bytes = match std::fs::metadata(beside(database, "-wal")) {
        Ok(looked) => looked.len(),
        // No database, or one that nobody has open.
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => return found.note(what, format!("its size cannot be told: {error}")),
    };
    let size = bytes / MIB;
    // It may be past its limit by one large transaction.
    match bytes > 2 * JOURNAL_SIZE_LIMIT {
        true => found.warns(
            what,
            format!(
                "it has grown to {size} MiB: somebody keeps a transaction open, or no daemon runs"
            ),
            &format!(
                "see that a daemon runs, and who has the file open: fuser -v {}",
                database.display()
            ),
        ),
        false => found.works(what, format!("{size} MiB")),
    }
}

fn room(database: &Path, found: &mut Findings) {
    let what = "free space";
    let directory = directory_of(database);
    let free = match rustix::fs::statvfs(directory) {
        Ok(volume) => volume.f_bavail.saturating_mul(volume.f_frsize),
        // A directory that is missing was told already.
        Err(_) => return,
    };
    let said = format!("{} MiB free in {}", free / MIB, directory.display());
    let remedy = "make room: on a full disk results wait, and a feeder's INSERT fails; `receiptd prune` and [retention] \
                  remove what is finished";
    match free {
        ..LEAST_ROOM => found.fails(what, said, remedy),
        LEAST_ROOM..LITTLE_ROOM => found.warns(what, said, remedy),
        _ => found.works(what, said),
    }
}
