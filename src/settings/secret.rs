//! Secrets: where they are, and how they are read.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::types::trimmed;

/// Where a secret is. `Debug` shows none.
#[derive(Clone, Debug)]
pub enum Secret {
    /// In the configuration or the environment.
    Inline(SecretString),
    /// In a file, read anew at every token request.
    File {
        /// The file, as it was found when the settings were read.
        path: PathBuf,
        /// Whether it lies in `$CREDENTIALS_DIRECTORY`. systemd fills that only at start, so a changed secret needs
        /// a restart there; whoever logs a refused secret says so.
        from_credentials: bool,
    },
}

/// Longer is no secret but a mistake: a log, a disk image.
const LONGEST: u64 = 64 * 1024;
/// Read permission of everybody else.
const OTHERS_READ: u32 = 0o004;

/// Why a secret cannot be used. Shows paths, never content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Not there, or not ours to read.
    #[error("cannot read the secret file {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A directory, a pipe, a device: nothing that can be read again and again.
    #[error("the secret file {} is no regular file; name one that holds the secret alone", .0.display())]
    NoFile(PathBuf),
    /// Nothing in it but blanks.
    #[error("the secret file {} is empty; write the secret into it", .0.display())]
    Empty(PathBuf),
    /// Over 64 KiB.
    #[error("the secret file {} is over 64 KiB; name one that holds the secret alone", .0.display())]
    TooLong(PathBuf),
    /// Not UTF-8.
    #[error("the secret file {} holds bytes that are no UTF-8 text; write the secret as text", .0.display())]
    NoText(PathBuf),
}

impl Secret {
    /// The secret as it is now. A file is read again at every call, so that a changed secret is used at once;
    /// blanks, line ends and a byte-order mark around it are not part of it.
    pub fn read(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File { path, .. } => read_file(path),
        }
    }

    /// What to say of a secret file that everybody on this machine may read. Containers mount secrets so, often
    /// read-only, which makes it a warning.
    pub fn exposed(&self) -> Option<String> {
        let Self::File { path, .. } = self else {
            return None;
        };
        let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
        (mode & OTHERS_READ != 0).then(|| {
            let path = path.display();
            format!(
                "the secret file {path} can be read by every user of this machine (mode {mode:04o}); unless a container \
                 mounts it so: chmod o-r {path}"
            )
        })
    }

    /// As a person may see it: the path of a file, nothing of an inline secret.
    pub fn shown(&self) -> String {
        match self {
            Self::Inline(_) => "[redacted]".to_owned(),
            Self::File { path, .. } => path.display().to_string(),
        }
    }
}

fn read_file(path: &Path) -> Result<SecretString, SecretError> {
    let unreadable = |error| SecretError::Unreadable {
        path: path.to_owned(),
        error,
    };
    // Asked by name first, since opening a pipe would wait for its other end; and again of what was opened.
    check(path, &std::fs::metadata(path).map_err(unreadable)?)?;
    let file = File::open(path).map_err(unreadable)?;
    check(path, &file.metadata().map_err(unreadable)?)?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err(SecretError::TooLong(path.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| SecretError::NoText(path.to_owned()))?;
    match trimmed(&text) {
        "" => Err(SecretError::Empty(path.to_owned())),
        text => Ok(SecretString::from(text)),
    }
}

fn check(path: &Path, found: &Metadata) -> Result<(), SecretError> {
    if !found.is_file() {
        return Err(SecretError::NoFile(path.to_owned()));
    }
    Ok(())
}

impl PartialEq for Secret {
    /// For a reload that asks what changed: never with a value from outside, so its time tells nobody anything.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Inline(one), Self::Inline(two)) => one.expose_secret() == two.expose_secret(),
            (
                Self::File {
                    path,
                    from_credentials,
                },
                Self::File {
                    path: other,
                    from_credentials: too,
                },
            ) => (path, from_credentials) == (other, too),
            _ => false,
        }
    }
}

impl Eq for Secret {}

/// Where the files that settings name are looked for.
pub(super) struct Places {
    /// `$CREDENTIALS_DIRECTORY`.
    pub(super) credentials: Option<PathBuf>,
    /// The configuration file's directory.
    pub(super) beside: PathBuf,
}

impl Places {
    /// The file that a `*_file` setting means, and whether it is one of systemd's credentials.
    pub(super) fn find(&self, named: &Path) -> (PathBuf, bool) {
        let credential = self
            .credentials
            .as_ref()
            .map(|directory| directory.join(named));
        match credential {
            Some(path) if named.is_relative() && path.exists() => (path, true),
            // `join` takes an absolute path as it is. One that leads into the credentials is one of them.
            _ => {
                let path = self.beside.join(named);
                let inside = self
                    .credentials
                    .as_ref()
                    .is_some_and(|of| path.starts_with(of));
                (path, inside)
            }
        }
    }
}
