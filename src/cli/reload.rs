//! `receiptd reload`: has the daemon read its configuration again, and waits for how that ended.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::common::{self, Serving};
use crate::store::sqlite::{DaemonLock, lock_path};

/// Have the running daemon read its configuration again; returns once it is in force
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  receiptd reload            # by hand; under systemd: systemctl reload receiptd

If the new configuration is refused, the old one stays in force and the command ends with 1 (or 2, if it sees the mistake itself).")]
pub(super) struct Args {
    /// The daemon's process, if it must be this one [default: the one that holds the database's lock]
    #[arg(value_name = "PID")]
    pid: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Reloaded {
    pid: u32,
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} has the new configuration in force", self.pid)
    }
}

/// How long the daemon may take: a scheduler that waits for another process's lock takes new settings when it turns.
const PATIENCE: Duration = Duration::from_secs(45);
/// Between two looks at what it published.
const LOOK: Duration = Duration::from_millis(20);

pub(super) async fn run(config: Option<&Path>, args: &Args) -> anyhow::Result<ExitCode> {
    // What is refused here the daemon would refuse too; and it says which database is served.
    let loaded = common::settings(config)?;
    let paths = loaded.settings.database.local_paths();
    let shown = paths
        .first()
        .map_or(Path::new(""), PathBuf::as_path)
        .display();
    let mut holders = Vec::new();
    for path in &paths {
        match Serving::of(path) {
            Serving::By(pid) => holders.push((path, pid)),
            Serving::Nobody => {}
            Serving::Unknown(error) => bail!(
                "{}: {error}; run this as the service's user or as root",
                lock_path(path).display()
            ),
        }
    }
    let Some((_, first)) = holders.first() else {
        bail!("no daemon serves {shown}: there is nothing to reload");
    };
    if let Some(pid) = args
        .pid
        .filter(|pid| holders.iter().all(|(_, holder)| holder != pid))
    {
        bail!(
            "process {pid} does not serve {shown}, process {first} does; a change of [database] needs a restart"
        );
    }
    holders.retain(|(_, holder)| args.pid.is_none_or(|pid| pid == *holder));
    for (path, holder) in holders {
        reload(path, holder).await?;
        common::tell(args.json, &Reloaded { pid: holder })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Has one daemon read its configuration again.
async fn reload(database: &Path, holder: u32) -> anyhow::Result<()> {
    let shown = database.display();
    let Some(pid) = signalled(holder, &lock_path(database)) else {
        bail!(
            "a daemon serves {shown}, and its process cannot be told from here (another container, or a disk that was \
             full at its start): send it SIGHUP where it runs"
        );
    };
    let published = || common::published(database).filter(|found| found.pid == holder);
    let before = published().map_or(0, |found| found.reloads.count);
    kill_process(pid, Signal::HUP).with_context(|| format!("process {holder}"))?;
    let since = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let found = published();
        let reloads = found.as_ref().map(|found| &found.reloads);
        match reloads.and_then(|reloads| reloads.ending_after(before)) {
            None => {}
            Some(None) => break,
            Some(Some(why)) => bail!("the new configuration is refused, the old one stays: {why}"),
        }
        ensure!(
            DaemonLock::holder(database) == Some(holder),
            "process {holder} ended before the new configuration was in force; see its log"
        );
        ensure!(
            since.elapsed() < PATIENCE,
            "process {holder} did not say how the reload ended; see its log"
        );
    }
    Ok(())
}

/// The process `holder`, where it is certain that it holds the lock: its number in the lock file says nothing in another
/// container, where a stranger may bear it.
fn signalled(holder: u32, lock: &Path) -> Option<Pid> {
    let pid = i32::try_from(holder).ok().and_then(Pid::from_raw)?;
    let inode = std::fs::metadata(lock).ok()?.ino().to_string();
    // "1: FLOCK  ADVISORY  WRITE 4711 08:01:393225 0 EOF"
    let holds = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(&words[..], [_, "FLOCK", _, "WRITE", owner, file, ..]
            if *owner == holder.to_string() && file.rsplit(':').next() == Some(&*inode))
    };
    match std::fs::read_to_string("/proc/locks") {
        Ok(locks) => locks.lines().any(holds).then_some(pid),
        // Another system, or systemd's ProcSubset=pid: there the lock file's word is all there is.
        Err(_) => Some(pid),
    }
}
