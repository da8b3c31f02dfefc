//! Whether the database opens, who may write it, and whether there is room.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Findings, server};
use crate::settings::Database;
use crate::store::sqlite::{DaemonLock, JOURNAL_SIZE_LIMIT};
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
    let path = database.local_path();
    let file = match database {
        Database::Sqlite(_) => Some(std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone())),
        Database::Postgres(_) => None,
    };
    let role = match to_write {
        true => Role::Writer,
        false => Role::Reader,
    };
    // Before it is opened, which may make a -wal and a -shm.
    if let Some(file) = &file {
        permissions(file, found);
    }
    let store = match store::open(database, role, &mut |_| ()).await {
        Ok(store) => {
            let version = store::schema_version(database);
            let said = format!("{database} opens, its schema is today's (version {version})");
            found.works("database", said);
            Some(store)
        }
        // Each of these says what to do.
        Err(error) => {
            found.fails_with("database", &error);
            None
        }
    };
    match &file {
        Some(file) => {
            write_ahead_log(file, found);
            room(file, found);
        }
        None => {
            if let (Database::Postgres(url), Some(store)) = (database, &store) {
                server::look(url, &**store, found).await;
            }
        }
    }
    match DaemonLock::holder(&path) {
        Some(pid) => found.works("daemon", format!("runs (process {pid})")),
        None => found.note("daemon", "none runs: `receiptd run` starts one"),
    }
    store
}

/// `<database><suffix>`
fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Feeders of other users write through the group of the directory, or there are none.
fn permissions(database: &Path, found: &mut Findings) {
    let what = "permissions";
    let directory = match database.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let looked = match std::fs::metadata(directory) {
        Ok(looked) => looked,
        Err(error) => {
            return found.fails(
                what,
                format!("{}: {error}", directory.display()),
                "create the directory, or change database.url",
            );
        }
    };
    let shown = directory.display();
    let (mode, group) = (looked.mode() & 0o7777, looked.gid());
    if mode & GROUP_WRITES_AND_ENTERS != GROUP_WRITES_AND_ENTERS {
        return found.note(
            what,
            format!(
                "{shown} (mode {mode:04o}) is its owner's alone to write: feeders must run as user {}; to let a group \
                 in: chgrp GROUP {shown} && chmod 2770 {shown}, and the same group with mode 0660 for the files in it",
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
    let bytes = std::fs::metadata(beside(database, "-wal")).map_or(0, |looked| looked.len());
    let size = bytes / MIB;
    // It may be past its limit by one large transaction.
    match bytes > 2 * JOURNAL_SIZE_LIMIT {
        true => found.warns(
            "write-ahead log",
            format!("it has grown to {size} MiB: somebody keeps a transaction open, or nobody checkpoints"),
            &format!(
                "see that a daemon runs, and who holds the file: fuser -v {}",
                database.display()
            ),
        ),
        false => found.works("write-ahead log", format!("in use, {size} MiB")),
    }
}

fn room(database: &Path, found: &mut Findings) {
    let what = "free space";
    let directory = database.parent().unwrap_or(Path::new("/"));
    let free = match rustix::fs::statvfs(directory) {
        Ok(volume) => volume.f_bavail.saturating_mul(volume.f_frsize),
        Err(error) => return found.note(what, format!("cannot be told: {error}")),
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
