//! Three layers, one on the other: the defaults, the file, the environment.
//!
//! The `config` crate merges them. It remembers no line of a file and no name of a variable, so [`Origins`] does,
//! for messages that say where to look.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Config, FileFormat, Map, Source, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::error::{Place, SettingsError};

/// The defaults, with the comments that explain them.
pub const DEFAULTS: &str = include_str!("../../config/receiptd.toml");

/// A key's parts: `["cadence", "min_interval"]`.
pub(super) type Key = Vec<String>;

/// The prefix of our variables, and what stands between their parts.
const PREFIX: &str = "RECEIPTD";
const SEPARATOR: &str = "__";

/// What was said, before anyone asked what it means.
pub(super) struct Layers {
    pub(super) root: Value,
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
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let mut origins = Origins::default();
        let mut builder =
            Config::builder().add_source(config::File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(file) = file {
            origins.read_lines(file)?;
            builder = builder.add_source(config::File::from_str(file.text, FileFormat::Toml));
        }
        let mut variables = Variables::default();
        let mut warnings = Vec::new();
        let mut credentials = None;
        for (name, value) in env {
            if name == "CREDENTIALS_DIRECTORY" && !value.is_empty() {
                credentials = Some(PathBuf::from(value));
            } else if let Some(key) = key_of(&name) {
                let key = origins.as_the_file_spells(key);
                origins.variables.insert(key.clone(), name);
                variables.0.push((key, value));
            } else if name.to_ascii_uppercase().starts_with("RECEIPTD_") {
                warnings.push(format!(
                    "environment variable {name} is ignored: two underscores stand after {PREFIX} \
                     and between section and key, as in RECEIPTD__CADENCE__MIN_INTERVAL"
                ));
            }
        }
        // Sorted, so that the same environment gives the same settings whatever its order.
        variables.0.sort();
        let merged = builder.add_source(variables).build();
        // Cannot fail once the file has parsed. Said without the library's own words: they quote the file's lines.
        let merged = merged.map_err(|_| SettingsError::Syntax {
            place: origins.file_place(None),
            problem: "the settings cannot be merged".to_owned(),
        })?;
        Ok(Self {
            root: merged.cache,
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
#[derive(Default)]
pub(super) struct Origins {
    path: Option<PathBuf>,
    lines: BTreeMap<Key, usize>,
    variables: BTreeMap<Key, String>,
}

impl Origins {
    /// Where `key` was said; for a key that nobody said, its section's place.
    pub(super) fn place(&self, key: &[String]) -> Place {
        for length in (1..=key.len()).rev() {
            let part = &key[..length];
            if let Some(name) = self.variables.get(part) {
                return Place::Environment(name.clone());
            }
            if let Some(line) = self.lines.get(part) {
                return self.file_place(Some(*line));
            }
        }
        if let Some((_, name)) = self.variables.iter().find(|(set, _)| set.starts_with(key)) {
            return Place::Environment(name.clone());
        }
        self.file_place(None)
    }

    /// Whether the value in force comes from the environment, where everything is text.
    pub(super) fn in_environment(&self, key: &[String]) -> bool {
        self.variables.contains_key(key)
    }

    /// Whether the operator said this key anywhere.
    pub(super) fn is_said(&self, key: &[String]) -> bool {
        self.in_environment(key) || self.lines.contains_key(key)
    }

    /// Whether the file says this key and no variable overrides it.
    pub(super) fn in_file(&self, key: &[String]) -> bool {
        self.lines.contains_key(key) && !self.in_environment(key)
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

/// The environment as a layer. `config`'s own would guess at types ("0123" becomes 123: a secret damaged) and lose
/// an account's spelling; here every value stays the text that it is.
#[derive(Clone, Default)]
struct Variables(Vec<(Key, String)>);

impl std::fmt::Debug for Variables {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(key, _)| key))
            .finish()
    }
}

impl Source for Variables {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        let mut root = Map::new();
        for (key, text) in &self.0 {
            put(&mut root, key, text);
        }
        Ok(root)
    }
}

fn put(table: &mut Map<String, Value>, key: &[String], text: &str) {
    let [first, rest @ ..] = key else { return };
    if rest.is_empty() {
        table.insert(first.clone(), Value::new(None, text.to_owned()));
        return;
    }
    let slot = table
        .entry(first.clone())
        .or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
    if !matches!(slot.kind, ValueKind::Table(_)) {
        slot.kind = ValueKind::Table(Map::new());
    }
    if let ValueKind::Table(inner) = &mut slot.kind {
        put(inner, rest, text);
    }
}
