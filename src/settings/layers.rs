//! Three layers, one on the other: the defaults, the file, the environment.
//!
//! The `config` crate merges the files. It remembers no line of a file and no name of a variable, so [`Origins`] does,
//! for messages that say where to look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Config, FileFormat};
use toml::de::{DeTable, DeValue};

use super::error::{Place, SettingsError};

/// The defaults, with the comments that explain them.
pub const DEFAULTS: &str = include_str!("../../config/receiptd.toml");

/// A key's parts: `["cadence", "min_interval"]`.
pub(super) type Key = Vec<String>;

/// The variable that names the configuration where no `--config` does.
pub(super) const CONFIG: &str = "RECEIPTD_CONFIG";

/// The prefix of our variables, and what stands between their parts.
const PREFIX: &str = "RECEIPTD";
const SEPARATOR: &str = "__";

/// What was said, before anyone asked what it means.
pub(super) struct Layers {
    pub(super) root: toml::Table,
    pub(super) origins: Origins,
    /// Variables that look like ours and are not.
    pub(super) warnings: Vec<String>,
    /// `$CREDENTIALS_DIRECTORY`, where systemd puts what `LoadCredential=` names.
    pub(super) credentials: Option<PathBuf>,
}

/// The text of a configuration file, and where it came from.
pub(super) struct FileText<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

impl Layers {
    /// Lays the environment on the file on the defaults.
    pub(super) fn merge(
        file: Option<&FileText<'_>>,
        env: &[(String, String)],
    ) -> Result<Self, SettingsError> {
        let mut origins = Origins::default();
        let mut builder =
            Config::builder().add_source(config::File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            origins.read_lines(file)?;
            builder = builder.add_source(config::File::from_str(file.text, FileFormat::Toml));
        }
        let mut variables = Vec::new();
        let mut warnings = Vec::new();
        let mut credentials = None;
        for (name, value) in env {
            if name == CONFIG {
                // Read already: it names the file.
            } else if name == "CREDENTIALS_DIRECTORY" && !value.is_empty() {
                credentials = Some(PathBuf::from(value));
            } else if let Some(key) = key_of(name) {
                let key = origins.as_the_file_spells(key);
                origins.variables.insert(key.clone(), name.clone());
                variables.push((key, value));
            } else if name.to_ascii_uppercase().starts_with("RECEIPTD_") {
                warnings.push(format!(
                    "environment variable {name} is ignored: two underscores stand after {PREFIX} \
                     and between section and key, as in RECEIPTD__CADENCE__MIN_INTERVAL"
                ));
            }
        }
        // Cannot fail once the file has parsed. Said without the library's own words: they quote the file's lines.
        let merged = builder.build().and_then(Config::try_deserialize);
        let mut root = merged.map_err(|_| SettingsError::Syntax {
            place: origins.file_place(None),
            problem: "the settings cannot be merged".to_owned(),
        })?;
        // Sorted, so that the same environment gives the same settings whatever its order. Laid on by hand: `config`
        // would write every account's name in lower case.
        variables.sort();
        for (key, text) in variables {
            put(&mut root, &key, text);
        }
        Ok(Self {
            root,
            origins,
            warnings,
            credentials,
        })
    }
}

/// The key that a variable sets; `None` where it is none of ours. Names are compared without regard to case.
fn key_of(name: &str) -> Option<Key> {
    let name = name.to_ascii_lowercase();
    let rest = name
        .strip_prefix(&PREFIX.to_ascii_lowercase())?
        .strip_prefix(SEPARATOR)?;
    Some(rest.split(SEPARATOR).map(str::to_owned).collect())
}

/// Which key was said where.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins {
    path: Option<PathBuf>,
    lines: BTreeMap<Key, usize>,
    variables: BTreeMap<Key, String>,
}

impl Origins {
    /// Where `key` was said; for a key that nobody said, its section's place.
    pub(super) fn place(&self, key: &[&str]) -> Place {
        let key = owned(key);
        let said = (1..=key.len())
            .rev()
            .find_map(|length| self.said(&key[..length]));
        let below = || {
            let (_, name) = self
                .variables
                .iter()
                .find(|(set, _)| set.starts_with(&key))?;
            Some(Place::Environment(name.clone()))
        };
        said.or_else(below).unwrap_or_else(|| self.file_place(None))
    }

    /// Where the value in force of a key comes from, by whichever of its names it was said.
    pub(super) fn source(&self, section: &[String], key: &str) -> Place {
        const NAMES: [[&str; 3]; 3] = [
            ["app_key", "suite_key", "client_id"],
            ["app_secret", "suite_secret", "client_secret"],
            ["app_secret_file", "suite_secret_file", "client_secret_file"],
        ];
        let others = NAMES.iter().find(|names| names.contains(&key));
        let names = others.map_or(std::slice::from_ref(&key), |names| &names[..]);
        let said = names.iter().find_map(|name| {
            let path: Key = section
                .iter()
                .cloned()
                .chain([(*name).to_owned()])
                .collect();
            self.said(&path)
        });
        said.unwrap_or(Place::Defaults)
    }

    fn said(&self, key: &[String]) -> Option<Place> {
        let variable = self
            .variables
            .get(key)
            .map(|name| Place::Environment(name.clone()));
        variable.or_else(|| self.lines.get(key).map(|line| self.file_place(Some(*line))))
    }

    /// Whether the value in force comes from the environment.
    pub(super) fn in_environment(&self, key: &[&str]) -> bool {
        self.variables.contains_key(&owned(key))
    }

    /// Whether the operator said this key anywhere.
    pub(super) fn is_said(&self, key: &[&str]) -> bool {
        self.said(&owned(key)).is_some()
    }

    /// The keys that the file says and no variable overrides.
    pub(super) fn in_file(&self) -> impl Iterator<Item = (&Key, Place)> {
        let of_file = self
            .lines
            .iter()
            .filter(|(key, _)| !self.variables.contains_key(*key));
        of_file.map(|(key, line)| (key, self.file_place(Some(*line))))
    }

    fn file_place(&self, line: Option<usize>) -> Place {
        match &self.path {
            Some(path) => Place::File {
                path: path.clone(),
                line,
            },
            None => Place::Defaults,
        }
    }

    fn read_lines(&mut self, file: &FileText<'_>) -> Result<(), SettingsError> {
        self.path = Some(file.path.to_owned());
        let line_at = |offset: usize| {
            let before = file.text.as_bytes().iter().take(offset);
            before.filter(|byte| **byte == b'\n').count() + 1
        };
        let refused = |error: &toml::de::Error| SettingsError::Syntax {
            place: self.file_place(error.span().map(|span| line_at(span.start))),
            problem: error.message().to_owned(),
        };
        // Parsed twice: the first pass keeps positions, only the second one checks numbers.
        let table = DeTable::parse(file.text).map_err(|error| refused(&error))?;
        toml::from_str::<toml::Table>(file.text).map_err(|error| refused(&error))?;
        let mut lines = BTreeMap::new();
        collect_lines(table.get_ref(), &mut Vec::new(), &line_at, &mut lines);
        self.lines = lines;
        Ok(())
    }

    /// Variables carry no case: an account or a budget of the file is found however it is spelt there.
    fn as_the_file_spells(&self, mut key: Key) -> Key {
        let named = matches!(
            key.first().map(String::as_str),
            Some("accounts" | "budgets")
        );
        if named && key.len() > 1 {
            let mut names = self.lines.keys().filter(|line| {
                line.len() == 2 && line[0] == key[0] && line[1].to_lowercase() == key[1]
            });
            let exact = self.lines.contains_key(&key[..2]);
            if let (false, Some(found), None) = (exact, names.next(), names.next()) {
                key[1].clone_from(&found[1]);
            }
        }
        key
    }
}

fn collect_lines(
    table: &DeTable<'_>,
    path: &mut Key,
    line_at: &impl Fn(usize) -> usize,
    lines: &mut BTreeMap<Key, usize>,
) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        lines.insert(path.clone(), line_at(key.span().start));
        if let DeValue::Table(inner) = value.get_ref() {
            collect_lines(inner, path, line_at, lines);
        }
        path.pop();
    }
}

/// Sets a value, as the text that it is: a guess at its type would make 123 of a secret "0123".
fn put(table: &mut toml::Table, key: &[String], text: &str) {
    let [first, rest @ ..] = key else { return };
    if rest.is_empty() {
        table.insert(first.clone(), text.into());
        return;
    }
    let inner = table.entry(first).or_insert(toml::Table::new().into());
    if !inner.is_table() {
        *inner = toml::Table::new().into();
    }
    if let toml::Value::Table(inner) = inner {
        put(inner, rest, text);
    }
}

fn owned(key: &[&str]) -> Key {
    key.iter().map(|part| (*part).to_owned()).collect()
}
