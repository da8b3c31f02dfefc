//! Noticing another connection's commit.
//!
//! `PRAGMA data_version` is the truth: on a connection of its own it moves with every other connection's commit. When to
//! ask it is told by inotify, which fires when a commit *starts* to be written, so that an event is followed by
//! questions at growing distances until the commit must have become visible. A slow beat covers what inotify misses
//! (a network file system, a queue that ran over), and is all there is where inotify can't be had.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::failure;
use crate::store::{Result, StoreError};

/// The beat beside inotify.
const SLOW: Duration = Duration::from_millis(250);
/// The beat without it.
const ALONE: Duration = Duration::from_millis(20);
/// The first question after an event: most commits are visible a millisecond later.
const FIRST: Duration = Duration::from_millis(1);
/// The questions' largest distance after an event.
const WIDEST: Duration = Duration::from_millis(50);
/// How long after the last event a commit may become visible, before it is left to the slow beat: a slow fsync.
const FOLLOW: Duration = Duration::from_secs(1);
/// How often the file is looked at for having been replaced.
const LOOK: Duration = Duration::from_secs(1);

/// Which file a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    #[cfg(unix)]
    pub(super) fn of(path: &std::path::Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    #[cfg(not(unix))]
    pub(super) fn of(path: &std::path::Path) -> io::Result<Self> {
        std::fs::metadata(path)?;
        Ok(Self {
            device: 0,
            inode: 0,
        })
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Wakeup {
    path: PathBuf,
    file: FileId,
    watch: Mutex<Watch>,
}

#[derive(Debug)]
struct Watch {
    /// `None`: closed.
    connection: Option<SqliteConnection>,
    /// The version at the last return; `None` before the first.
    seen: Option<i64>,
    /// Until when, and at which distance, an event is followed. Kept here and not in the future, which may be dropped.
    follow_until: Option<Instant>,
    gap: Duration,
    looked_at: Instant,
    events: Option<events::Events>,
}

impl Wakeup {
    pub(super) fn new(path: PathBuf, file: FileId, connection: SqliteConnection) -> Self {
        let events = events::Events::new(&path).ok();
        Self {
            path,
            file,
            watch: Mutex::new(Watch {
                connection: Some(connection),
                seen: None,
                follow_until: None,
                gap: FIRST,
                looked_at: Instant::now(),
                events,
            }),
        }
    }

    /// Refuses to go on with a file that is no longer the one in its place: what is written to it is lost.
    pub(super) fn check_file(&self) -> Result<()> {
        match FileId::of(&self.path) {
            Ok(found) if found == self.file => Ok(()),
            Ok(_) => Err(self.unusable("was replaced by another file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.unusable("was deleted or moved"))
            }
            // A look that failed proves nothing.
            Err(_) => Ok(()),
        }
    }

    fn unusable(&self, what: &str) -> StoreError {
        StoreError::Unusable(format!(
            "{}: the database {what} while receiptd had it open: restart receiptd once the right file is in place",
            self.path.display()
        ))
    }

    /// Closes the connection, unless somebody waits for a change all the while.
    pub(super) async fn close(&self) {
        use sqlx::Connection as _;
        let Ok(mut watch) = tokio::time::timeout(SLOW, self.watch.lock()).await else {
            return;
        };
        if let Some(connection) = watch.connection.take() {
            // It only reads: an error here is of no use to anybody.
            let _ = connection.close().await;
        }
    }

    /// See [`crate::store::Claims::changed`].
    pub(super) async fn changed(&self) -> Result<()> {
        let mut watch = self.watch.lock().await;
        let watch = &mut *watch;
        loop {
            let Some(connection) = &mut watch.connection else {
                return Err(StoreError::Other(sqlx::Error::PoolClosed));
            };
            let version = data_version(connection).await?;
            if watch.seen != Some(version) {
                watch.seen = Some(version);
                return Ok(());
            }
            if watch.looked_at.elapsed() >= LOOK {
                watch.looked_at = Instant::now();
                self.check_file()?;
            }
            watch.pause().await;
        }
    }
}

impl Watch {
    /// Waits until it is worth asking again.
    async fn pause(&mut self) {
        let Some(events) = &mut self.events else {
            tokio::time::sleep(ALONE).await;
            return;
        };
        match events.drain() {
            // What was announced meanwhile is followed from its beginning.
            Ok(true) => {
                self.gap = FIRST;
                self.follow_until = Some(Instant::now() + FOLLOW);
            }
            Ok(false) => {}
            Err(_) => {
                self.events = None;
                return;
            }
        }
        match self.follow_until {
            Some(until) if Instant::now() < until => {
                let gap = self.gap;
                self.gap = (gap * 2).min(WIDEST);
                if gap == FIRST {
                    tokio::time::sleep(gap).await;
                } else {
                    // A new event cuts the distance short.
                    let _ = tokio::time::timeout(gap, events.ready()).await;
                }
            }
            _ => {
                self.follow_until = None;
                let _ = tokio::time::timeout(SLOW, events.ready()).await;
            }
        }
    }
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64> {
    let rows = sqlx::query("PRAGMA data_version")
        .fetch_all(connection)
        .await
        .map_err(failure)?;
    match rows.first() {
        Some(row) => row.try_get(0).map_err(failure),
        None => Err(StoreError::Other(sqlx::Error::RowNotFound)),
    }
}

#[cfg(target_os = "linux")]
mod events {
    use std::ffi::OsString;
    use std::io;
    use std::path::Path;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use futures_util::Stream as _;
    use inotify::{EventMask, EventStream, Inotify, WatchMask};

    /// Writes to the database and its log.
    pub(super) struct Events {
        stream: EventStream<[u8; 4096]>,
        names: [OsString; 2],
        /// Something was written since the last drain.
        announced: bool,
        broken: Option<io::Error>,
    }

    impl std::fmt::Debug for Events {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "Events({:?})", self.names)
        }
    }

    impl Events {
        /// Watches the directory and not the files: a log may be deleted and created again.
        pub(super) fn new(database: &Path) -> io::Result<Self> {
            let real = std::fs::canonicalize(database)?;
            let (Some(directory), Some(name)) = (real.parent(), real.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let inotify = Inotify::init()?;
            inotify.watches().add(directory, WatchMask::MODIFY)?;
            let mut log = name.to_owned();
            log.push("-wal");
            Ok(Self {
                stream: inotify.into_event_stream([0; 4096])?,
                names: [name.to_owned(), log],
                announced: false,
                broken: None,
            })
        }

        /// Resolves when there is something to drain.
        pub(super) async fn ready(&mut self) {
            std::future::poll_fn(|context| self.poll(context)).await;
        }

        /// Takes what is there; whether it concerns the database.
        pub(super) fn drain(&mut self) -> io::Result<bool> {
            let _ = self.poll(&mut Context::from_waker(Waker::noop()));
            match self.broken.take() {
                Some(error) => Err(error),
                None => Ok(std::mem::take(&mut self.announced)),
            }
        }

        fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
            loop {
                match Pin::new(&mut self.stream).poll_next(context) {
                    Poll::Ready(Some(Ok(event))) => {
                        self.announced |= event.mask.contains(EventMask::Q_OVERFLOW)
                            || event.name.is_some_and(|name| self.names.contains(&name));
                    }
                    Poll::Ready(Some(Err(error))) => self.broken = Some(error),
                    Poll::Ready(None) => {
                        self.broken = Some(io::ErrorKind::UnexpectedEof.into());
                    }
                    Poll::Pending if self.announced => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
                if self.broken.is_some() {
                    return Poll::Ready(());
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod events {
    use std::io;
    use std::path::Path;

    /// No inotify here.
    #[derive(Debug)]
    pub(super) enum Events {}

    impl Events {
        pub(super) fn new(_database: &Path) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) async fn ready(&mut self) {
            match *self {}
        }

        pub(super) fn drain(&mut self) -> io::Result<bool> {
            match *self {}
        }
    }
}
