//! One daemon a file: a lock beside the database.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The right to serve a database, until dropped. The kernel takes it back from a process that dies.
#[derive(Debug)]
pub struct DaemonLock {
    /// The lock belongs to the open file.
    file: File,
}

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon serves this file.
    #[error(
        "another receiptd{} already serves this database (it holds {}): stop that one first",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        path.display()
    )]
    Held {
        /// Who; `None` if the holder had not written it yet.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file could not be opened or written.
    #[error("{}: the lock file can't be used: {error}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why. Told by the text, so that it is no `source` that would be told again.
        error: io::Error,
    },
}

impl DaemonLock {
    /// Takes the lock beside `database` and writes this process's id into it.
    pub fn acquire(database: &Path) -> Result<Self, LockError> {
        let path = lock_path(database);
        let failed = |error| LockError::Io {
            path: path.clone(),
            error,
        };
        let mut file = open_beside(&path).map_err(failed)?;
        // Whoever asks for the holder (`status`) holds the file for a moment itself: not every refusal is a daemon.
        const ATTEMPTS: u32 = 5;
        for attempt in 1..=ATTEMPTS {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if attempt < ATTEMPTS => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held {
                        pid: read_pid(&mut file),
                        path,
                    });
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        let mut lock = Self { file };
        match lock.sign() {
            // The lock holds without a name in it, and a full disk is waited out, as the database's is.
            Err(error) if is_full(&error) => {}
            signed => signed.map_err(failed)?,
        }
        Ok(lock)
    }

    /// Writes this process's id into the lock, for those who ask who holds it.
    ///
    /// # Errors
    /// The file system's. The lock holds all the same.
    pub fn sign(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// The process id of the daemon that serves `database`; 0 if it did not say. `None` if none does.
    pub fn holder(database: &Path) -> Option<u32> {
        let path = lock_path(database);
        // Nothing else is opened: a pipe in its place would be waited for.
        if !std::fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(read_pid(&mut file).unwrap_or(0)),
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }
}

/// `<database>.lock`, beside the file that a symbolic link leads to.
pub fn lock_path(database: &Path) -> PathBuf {
    beside(database, ".lock")
}

/// A file beside the database, named after it. The database need not be there yet, not even where a symbolic link leads to:
/// whatever it is called, there is one such file.
pub(super) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = real_path(database).into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

fn real_path(path: &Path) -> PathBuf {
    /// As many links as Linux follows.
    const LINKS: usize = 40;
    let mut real = path.to_owned();
    for _ in 0..LINKS {
        let Ok(target) = std::fs::read_link(&real) else {
            break;
        };
        // A relative target counts from the link's directory; an absolute one takes its place.
        real = real.parent().unwrap_or(Path::new("")).join(target);
    }
    match (std::fs::canonicalize(directory_of(&real)), real.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => real,
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}

/// Opens for reading and writing, and creates with all that the umask leaves to owner and group: feeders in the group
/// write here too.
pub(super) fn open_for_all(path: &Path) -> io::Result<File> {
    open_with(&real_path(path), 0)
}

/// The same of a file beside the database. A link is refused before anything is written: a feeder may write to this
/// directory, and a link that it left here could lead to any file of ours.
fn open_beside(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    let opened = open_with(path, rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    #[cfg(not(unix))]
    let opened = open_with(path, 0);
    let no_file = || {
        io::Error::other(
            "it is a link or no regular file: find out who put it there, and remove it",
        )
    };
    match opened {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Ok(_) => Err(no_file()),
        Err(error) if is_link(&error) => Err(no_file()),
        Err(error) => Err(error),
    }
}

/// Whether a file could not be opened since it is a link.
fn is_link(error: &io::Error) -> bool {
    #[cfg(unix)]
    return error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    #[cfg(not(unix))]
    return false;
}

fn open_with(path: &Path, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o660).custom_flags(flags);
    }
    #[cfg(not(unix))]
    let _ = flags;
    // Only what was certainly created here is given away.
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            give_to_directorys_owner(path, &file)?;
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path),
        Err(error) => Err(error),
    }
}

/// What root creates (`receiptd migrate`, before the first start) is for the service, which owns the directory and could not
/// open it otherwise.
#[cfg(unix)]
fn give_to_directorys_owner(path: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let directory = std::fs::metadata(directory_of(path))?;
    std::os::unix::fs::fchown(file, Some(directory.uid()), Some(directory.gid()))
}

#[cfg(not(unix))]
fn give_to_directorys_owner(_path: &Path, _file: &File) -> io::Result<()> {
    Ok(())
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("receiptd.db");
        assert_eq!(DaemonLock::holder(&database), None);
        let first = DaemonLock::acquire(&database).unwrap();
        assert_eq!(DaemonLock::holder(&database), Some(std::process::id()));
        let second = DaemonLock::acquire(&database).unwrap_err();
        let LockError::Held { pid, .. } = &second else {
            panic!("{second}");
        };
        assert_eq!(*pid, Some(std::process::id()));
        assert!(second.to_string().contains(&std::process::id().to_string()));
        drop(first);
        assert_eq!(DaemonLock::holder(&database), None);
        DaemonLock::acquire(&database).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_locks_place_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("receiptd.db");
        let precious = dir.path().join("precious");
        std::fs::write(&precious, "of the daemon's").unwrap();
        let nowhere = dir.path().join("nowhere");
        std::os::unix::fs::symlink(&nowhere, lock_path(&database)).unwrap();
        assert!(DaemonLock::acquire(&database).is_err());
        assert!(!nowhere.exists());
        std::fs::remove_file(lock_path(&database)).unwrap();
        std::os::unix::fs::symlink(&precious, lock_path(&database)).unwrap();
        let error = DaemonLock::acquire(&database).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }), "{error}");
        assert!(error.to_string().contains("is a link"), "{error}");
        assert_eq!(
            std::fs::read_to_string(&precious).unwrap(),
            "of the daemon's"
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_leads_to_the_same_lock() {
        let dir = tempfile::tempdir().unwrap();
        let (database, link) = (
            dir.path().join("data/receiptd.db"),
            dir.path().join("link.db"),
        );
        let chain = dir.path().join("chain.db");
        std::fs::create_dir(dir.path().join("data")).unwrap();
        std::os::unix::fs::symlink("data/receiptd.db", &link).unwrap();
        std::os::unix::fs::symlink(&link, &chain).unwrap();
        // Before the first start there is nothing behind the link, and afterwards there is.
        let _first = DaemonLock::acquire(&chain).unwrap();
        for there in [false, true] {
            for name in [&database, &link, &chain] {
                let second = DaemonLock::acquire(name);
                assert!(
                    matches!(second, Err(LockError::Held { .. })),
                    "{there}: {name:?}"
                );
                assert_eq!(DaemonLock::holder(name), Some(std::process::id()));
            }
            File::create(&database).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_root_creates_belongs_to_the_directorys_owner() {
        use std::os::unix::fs::MetadataExt as _;
        const SERVICE: u32 = 65_534;
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("receiptd.db");
        let root = rustix::process::geteuid().is_root();
        if root {
            std::os::unix::fs::chown(dir.path(), Some(SERVICE), Some(SERVICE)).unwrap();
        }
        let lock = DaemonLock::acquire(&database).unwrap();
        let owners = |path: &Path| {
            let metadata = std::fs::metadata(path).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owners(&lock_path(&database)), owners(dir.path()));
        // A file that is there already is somebody's.
        drop(lock);
        if root {
            std::os::unix::fs::chown(lock_path(&database), Some(0), Some(0)).unwrap();
            DaemonLock::acquire(&database).unwrap();
            assert_eq!(owners(&lock_path(&database)), (0, 0));
        }
    }
}
