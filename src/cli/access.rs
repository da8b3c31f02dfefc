//! Whether the files of a database can be used: by this process, and by the user of the service.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::process::geteuid;

use crate::store::Role;
use crate::store::sqlite::lock_path;

/// The user of the packaged service.
pub(super) const SERVICE_USER: &str = "receiptd";

/// What stands in the way, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Denied {
    fn new(problem: String, remedy: String) -> Option<Self> {
        Some(Self { problem, remedy })
    }
}

/// Who wants to use the files.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// This process.
    Me,
    /// A user of this machine, by the mode of the files: what else keeps it out (a sandbox) does not show.
    User {
        name: String,
        uid: u32,
        groups: Vec<u32>,
    },
}

impl Who {
    /// The service's user, where this machine has it and it is another one than this process's.
    pub(super) fn service() -> Option<Self> {
        let uid = users().find(|(name, ..)| name == SERVICE_USER)?;
        let (name, uid, gid) = uid;
        if uid == geteuid().as_raw() {
            return None;
        }
        let text = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let more = text.lines().filter_map(|line| {
            let mut parts = line.split(':').skip(2);
            let (gid, members) = (parts.next()?, parts.next()?);
            members
                .split(',')
                .any(|member| member == SERVICE_USER)
                .then(|| gid.parse().ok())?
        });
        Some(Self::User {
            name,
            uid,
            groups: more.chain([gid]).collect(),
        })
    }

    fn may(&self, path: &Path, found: &Metadata, wanted: Access) -> bool {
        match self {
            Self::Me => access(path, wanted).is_ok(),
            Self::User { uid: 0, .. } => true,
            Self::User { uid, groups, .. } => {
                let shift = match (found.uid() == *uid, groups.contains(&found.gid())) {
                    (true, _) => 6,
                    (false, true) => 3,
                    (false, false) => 0,
                };
                let bits = wanted.bits();
                (found.mode() >> shift) & bits == bits
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Me => user(geteuid().as_raw()),
            Self::User { name, .. } => format!("user {name}"),
        }
    }
}

/// What keeps `who` from using the database at `database` in a role. `None`: nothing that shows.
pub(super) fn denied(database: &Path, role: Role, who: &Who) -> Option<Denied> {
    let real = std::fs::canonicalize(database).unwrap_or_else(|_| database.to_owned());
    let directory = directory_of(&real);
    let (shown, name) = (directory.display(), who.name());
    let found = match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => found,
        Ok(_) => {
            let remedy = "change [database] url".to_owned();
            return Denied::new(format!("{shown} is no directory"), remedy);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let remedy =
                format!("create it (install -d -m 2770 {shown}), or change [database] url");
            return Denied::new(format!("the directory {shown} does not exist"), remedy);
        }
        Err(error) => {
            let remedy = format!("run this as another user, or let {name} enter it");
            return Denied::new(
                format!("{name} may not enter the directory {shown}: {error}"),
                remedy,
            );
        }
    };
    let entered = Access::READ_OK | Access::EXEC_OK;
    if !who.may(directory, &found, entered | Access::WRITE_OK) {
        // A reader needs to write here only where SQLite's -shm is missing.
        let shm = beside(&real, "-shm");
        if role != Role::Reader
            || !who.may(directory, &found, entered)
            || (real.exists() && !shm.exists())
        {
            return Denied::new(
                format!(
                    "{name} may not write in the directory {shown} ({})",
                    owned(&found)
                ),
                format!(
                    "SQLite keeps files beside the database: run this as its owner, or add {name} to its group"
                ),
            );
        }
    }
    let wanted = match role {
        Role::Reader => Access::READ_OK,
        Role::Owner | Role::Writer => Access::READ_OK | Access::WRITE_OK,
    };
    let mut files = vec![real.clone(), beside(&real, "-wal"), beside(&real, "-shm")];
    if role == Role::Owner {
        files.push(lock_path(database));
    }
    files.iter().find_map(|file| {
        let found = std::fs::metadata(file).ok()?;
        if who.may(file, &found, wanted) {
            return None;
        }
        let (file, verb) = (file.display(), if role == Role::Reader { "read" } else { "write" });
        let remedy = format!("give it the directory's owner and group: chown --reference={shown} {file} && chmod 660 {file}");
        Denied::new(format!("{name} may not {verb} {file} ({})", owned(&found)), remedy)
    })
}

/// The directory of a file.
pub(super) fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// `<database><suffix>`
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn owned(found: &Metadata) -> String {
    format!(
        "it belongs to {} and has mode {:04o}",
        user(found.uid()),
        found.mode() & 0o7777
    )
}

fn user(uid: u32) -> String {
    let name = users().find_map(|(name, of, _)| (of == uid).then_some(name));
    name.map_or_else(|| format!("user {uid}"), |name| format!("user {name}"))
}

/// The users of this machine: name, user id, group id.
fn users() -> impl Iterator<Item = (String, u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let users: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let parts: Vec<&str> = line.split(':').collect();
            Some((
                (*parts.first()?).to_owned(),
                parts.get(2)?.parse().ok()?,
                parts.get(3)?.parse().ok()?,
            ))
        })
        .collect();
    users.into_iter()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn another_user_is_judged_by_owner_group_and_mode() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("receiptd.db");
        std::fs::write(&database, "").unwrap();
        let found = std::fs::metadata(&database).unwrap();
        let chmod = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        // Somebody else than the owner, be that root.
        let (stranger, group) = (found.uid() + 7, found.gid());
        const DIRECTORY: &str = "may not write in the directory";
        // Mode of the directory, mode of the file, whether the user is in the group, what stands in its way.
        let cases = [
            (0o700, 0o600, true, DIRECTORY),
            (0o770, 0o600, true, "may not write"),
            (0o770, 0o660, true, ""),
            (0o770, 0o660, false, DIRECTORY),
            (0o755, 0o666, false, DIRECTORY),
            (0o777, 0o666, false, ""),
        ];
        for (of_directory, of_file, in_group, expected) in cases {
            chmod(directory.path(), of_directory);
            chmod(&database, of_file);
            let groups = if in_group { vec![group] } else { vec![] };
            let who = Who::User {
                name: "service".to_owned(),
                uid: stranger,
                groups,
            };
            let denied = denied(&database, Role::Owner, &who);
            let problem = denied.map(|denied| denied.problem).unwrap_or_default();
            let case = format!("{of_directory:o} {of_file:o} {in_group}: {problem}");
            assert!(problem.contains(expected), "{case}");
            assert_eq!(problem.is_empty(), expected.is_empty(), "{case}");
        }
    }
}
