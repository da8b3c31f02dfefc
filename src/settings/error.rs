//! Why settings are refused, and where the mistake stands.

use std::fmt;
use std::path::PathBuf;

/// Why there are no settings. Shows no value that could be a secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is not there, or not ours to read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// What stands in `--database`, and what would be right.
    #[error("--database {0}")]
    Database(String),
    /// The file is no TOML.
    #[error("{place}: invalid TOML: {problem}")]
    Syntax {
        /// File and line.
        place: Place,
        /// What the parser met, without the line itself: a secret could stand there.
        problem: String,
    },
    /// Every mistake that was found, at least one.
    #[error("{}", lines(.0))]
    Refused(Vec<Refusal>),
}

/// One mistake: which key, where it stands, what is wrong, what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Where it was said.
    pub place: Place,
    /// The dotted key.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            key,
            problem,
            remedy,
        } = self;
        write!(f, "{place}: {key} {problem}; {remedy}")
    }
}

/// Where a setting was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, and the line where the parser knows it.
    File {
        /// As it was named.
        path: PathBuf,
        /// From 1.
        line: Option<usize>,
    },
    /// The environment variable of this name.
    Environment(String),
    /// The defaults that receiptd carries.
    Defaults,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                line: Some(line),
            } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Defaults => f.write_str("built-in defaults"),
        }
    }
}

fn lines(refusals: &[Refusal]) -> String {
    let lines: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
    lines.join("\n")
}
