//! What a process costs, as the kernel counts it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// `USER_HZ`, in which Linux gives times to programs; its books are finer and are only rounded for display.
const TICKS_A_SECOND: f64 = 100.0;

/// A measurement under way.
pub(crate) struct Meter {
    process: u32,
    began: Instant,
    cpu: f64,
}

/// What it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// User and system time of all threads, in seconds.
    pub(crate) cpu: f64,
    pub(crate) wall: Duration,
}

impl Spent {
    /// Microseconds of CPU for each of `count`.
    pub(crate) fn cpu_us(&self, count: u64) -> f64 {
        self.cpu * 1e6 / count as f64
    }

    /// So many a second.
    pub(crate) fn rate(&self, count: u64) -> f64 {
        count as f64 / self.wall.as_secs_f64()
    }

    /// Share of one core, in per cent.
    pub(crate) fn share(&self) -> f64 {
        100.0 * self.cpu / self.wall.as_secs_f64()
    }
}

impl Meter {
    pub(crate) fn start(process: u32) -> anyhow::Result<Self> {
        Ok(Self {
            cpu: cpu(process)?,
            began: Instant::now(),
            process,
        })
    }

    pub(crate) fn stop(&self) -> anyhow::Result<Spent> {
        Ok(Spent {
            wall: self.began.elapsed(),
            cpu: cpu(self.process)? - self.cpu,
        })
    }
}

/// User and system time so far, in seconds, of all threads that live or have lived.
fn cpu(process: u32) -> anyhow::Result<f64> {
    let fields = stat(process)?;
    seconds(&fields, 11..13)
}

/// The same of a process and its children, those included that have ended and were waited for.
pub(crate) fn cpu_with_children(process: u32) -> anyhow::Result<f64> {
    let mut sum = seconds(&stat(process)?, 11..15)?;
    for entry in fs::read_dir("/proc")?.flatten() {
        let child = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // It may have ended meanwhile.
        let Some(fields) = child.and_then(|child| stat(child).ok()) else {
            continue;
        };
        if fields
            .get(1)
            .is_some_and(|parent| *parent == process.to_string())
        {
            sum += seconds(&fields, 11..13)?;
        }
    }
    Ok(sum)
}

/// What stands behind the name in `/proc/PID/stat`: the state first.
fn stat(process: u32) -> anyhow::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold spaces.
    let (_, rest) = stat
        .rsplit_once(')')
        .context("/proc/PID/stat is not as it was")?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

fn seconds(fields: &[String], which: std::ops::Range<usize>) -> anyhow::Result<f64> {
    let ticks = fields
        .get(which)
        .context("/proc/PID/stat is not as it was")?;
    let ticks: Vec<f64> = ticks
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_A_SECOND)
}

/// The most memory that was resident at once, in MiB.
pub(crate) fn peak_memory(process: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("/proc/PID/status has no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

/// Bytes that the process has handed to the file system for writing.
pub(crate) fn written(process: u32) -> anyhow::Result<u64> {
    let io = fs::read_to_string(format!("/proc/{process}/io"))?;
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("wchar:"))
        .context("/proc/PID/io has no wchar")?;
    Ok(line.trim().parse()?)
}
