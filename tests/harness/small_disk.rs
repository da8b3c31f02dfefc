//! A disk that is soon full.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own in memory, unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// It is that user's. `None` where this machine does not let us mount one.
    pub(crate) fn mount(at: &Path, owner: u32) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size=24m,mode=700,uid={owner},gid={owner}"))
            .arg("tmpfs")
            .arg(at)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes until nothing fits any more.
    pub(crate) fn fill(&self) -> PathBuf {
        self.fill_up_to(0)
    }

    /// Writes until no more fits than so many pages.
    pub(crate) fn fill_up_to(&self, pages: u64) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        let full = file.metadata().unwrap().len();
        file.set_len(full.saturating_sub(pages * 4096)).unwrap();
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
