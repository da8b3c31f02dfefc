//! Settings as a person may see them, and what a reload changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::reading::dotted;
use super::{Loaded, Place, Secret, Settings, SettingsError, Synchronous, database, from_text};

/// One setting that a reload changes, with its values as they may be shown. `None`: not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The dotted key.
    pub key: String,
    /// Before.
    pub old: Option<String>,
    /// After.
    pub new: Option<String>,
}

/// What takes effect only with a restart.
const RESTART: [&str; 5] = [
    "database.url",
    "database.synchronous",
    "database.password_file",
    "workers.concurrency",
    "log.format",
];

impl Settings {
    /// The defaults with another database, for commands that are given one instead of a configuration: `sqlite://PATH`,
    /// the path alone, or `postgres://…`.
    ///
    /// # Errors
    /// `url` is no address of a database.
    pub fn of_database(url: &str) -> Result<Self, SettingsError> {
        let mut settings = from_text(Path::new(""), "", std::iter::empty())?.settings;
        settings.database =
            database::of_argument(url, Synchronous::Full).map_err(SettingsError::Database)?;
        Ok(settings)
    }

    /// Every setting in force, as dotted key and shown value: secrets redacted, secret files as their paths.
    pub fn describe(&self) -> BTreeMap<String, String> {
        let plain = |value| match value {
            Value::String(text) => text,
            // A whole number without ".0".
            Value::Number(number) => number.as_f64().unwrap_or(f64::NAN).to_string(),
            other => other.to_string(),
        };
        let values = self.values().into_iter();
        values
            .map(|(key, value)| (dotted(&key), plain(value)))
            .collect()
    }

    fn values(&self) -> BTreeMap<Vec<String>, Value> {
        fn walk(value: Value, path: &mut Vec<String>, found: &mut BTreeMap<Vec<String>, Value>) {
            match value {
                Value::Null => {}
                Value::Object(map) => {
                    for (key, value) in map {
                        path.push(key);
                        walk(value, path, found);
                        path.pop();
                    }
                }
                value => drop(found.insert(path.clone(), value)),
            }
        }
        let mut found = BTreeMap::new();
        // Text, numbers and maps with text for keys: there is nothing that JSON could refuse.
        let all = serde_json::to_value(self).unwrap_or_default();
        walk(all, &mut Vec::new(), &mut found);
        found
    }

    /// What differs in `new`. A changed inline secret is told from an equal one.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let (old_shown, new_shown) = (self.describe(), new.describe());
        let keys: BTreeSet<&String> = old_shown.keys().chain(new_shown.keys()).collect();
        let differ = keys
            .into_iter()
            .filter(|key| old_shown.get(*key) != new_shown.get(*key));
        let mut changes: Vec<Change> = differ
            .map(|key| Change {
                key: key.clone(),
                old: old_shown.get(key).cloned(),
                new: new_shown.get(key).cloned(),
            })
            .collect();
        for (name, account) in &self.accounts {
            let Some(other) = new.accounts.get(name) else {
                continue;
            };
            let (old, now) = (account.app.credentials().1, other.app.credentials().1);
            if matches!((old, now), (Secret::Inline(_), Secret::Inline(_))) && old != now {
                changes.push(Change {
                    key: format!("accounts.{name} (secret)"),
                    old: Some(old.shown()),
                    new: Some("[redacted], another one".to_owned()),
                });
            }
        }
        changes
    }

    /// The settings that differ in `new` and need a restart, by dotted key.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changes = self.changes(new);
        let changed = |key: &&str| changes.iter().any(|change| change.key == *key);
        RESTART.into_iter().filter(changed).collect()
    }

    /// These settings with what cannot change in a running daemon taken from `running`: what a reload puts in force.
    pub fn reloaded_over(mut self, running: &Self) -> Self {
        self.database = running.database.clone();
        self.workers.concurrency = running.workers.concurrency;
        self.log.format = running.log.format;
        self
    }
}

/// A setting in force, and who said it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// `cadence`, `accounts.default`
    pub section: String,
    /// `min_interval`
    pub key: String,
    /// As it stands in TOML; a secret is redacted.
    pub value: String,
    /// Where it was said.
    #[serde(serialize_with = "shown")]
    pub place: Place,
}

fn shown<S: Serializer>(place: &Place, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(place)
}

impl fmt::Display for InForce {
    /// `cadence.min_interval = "5s"`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} = {}", self.section, self.key, self.value)
    }
}

impl Loaded {
    /// Every setting in force with the place that it comes from, section by section.
    pub fn in_force(&self) -> Vec<InForce> {
        let values = self.settings.values().into_iter();
        let told = values.map(|(path, value)| {
            let (key, section) = path
                .split_last()
                .map_or(("", &[][..]), |(key, of)| (key.as_str(), of));
            InForce {
                section: dotted(section),
                key: key.to_owned(),
                value: value.to_string(),
                place: self.origins.source(section, key),
            }
        });
        told.collect()
    }
}
