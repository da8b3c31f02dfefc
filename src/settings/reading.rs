//! From the merged layers to [`Settings`]: section by section through serde, and every mistake noted with its place.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize as _;
use serde_path_to_error::{Segment, Track};
use toml::{Table, Value};

use super::database::DatabaseText;
use super::error::Refusal;
use super::layers::{DEFAULTS, Origins};
use super::model::{AccountText, Cadence, SharedBudget};
use super::rules::{self, Mistake};
use super::secret::Places;
use super::{Endpoint, Log, Node, Retention, Retry, Settings, Workers};
use crate::receipt::AccountName;

/// A section on its way through serde, which says at which key it failed.
type Tracked<'a, 'b> = serde_path_to_error::Deserializer<'a, 'b, Table>;

const SECTIONS: [&str; 10] = [
    "database",
    "node",
    "endpoint",
    "workers",
    "retry",
    "cadence",
    "budgets",
    "accounts",
    "log",
    "retention",
];

/// Reads every section of `root`.
///
/// # Errors
/// Every mistake that was found.
pub(super) fn settings(
    root: &Table,
    origins: &Origins,
    places: &Places,
) -> Result<Settings, Vec<Refusal>> {
    let mut reading = Reading {
        root,
        origins,
        defaults: defaults(),
        refusals: Vec::new(),
    };
    let settings = reading.settings(places);
    reading.unknown_sections();
    match settings {
        Some(settings) if reading.refusals.is_empty() => Ok(settings),
        _ => Err(reading.refusals),
    }
}

/// The built-in defaults, which a test reads.
fn defaults() -> Table {
    toml::from_str(DEFAULTS).unwrap_or_default()
}

struct Reading<'a> {
    root: &'a Table,
    origins: &'a Origins,
    defaults: Table,
    refusals: Vec<Refusal>,
}

impl Reading<'_> {
    fn settings(&mut self, places: &Places) -> Option<Settings> {
        // All are read before any is missed, so that every mistake is found at once.
        let database = self.section(&["database"], |from| DatabaseText::deserialize(from));
        // As all paths of the file, it is looked for beside it; the environment's is the working directory's.
        let beside = match self.origins.in_environment(&["database", "url"]) {
            true => Path::new(""),
            false => &places.beside,
        };
        let is_said = |key: &str| self.origins.is_said(&["database", key]);
        let database = database.and_then(|text| match text.checked(places, beside, is_said) {
            Ok(database) => Some(database),
            Err(mistake) => {
                self.refuse(&["database"], mistake);
                None
            }
        });
        let node = self.section(&["node"], |from| Node::deserialize(from));
        let endpoint = self.section(&["endpoint"], |from| Endpoint::deserialize(from));
        let workers = self.section(&["workers"], |from| Workers::deserialize(from));
        let retry = self.section(&["retry"], |from| Retry::deserialize(from));
        let cadence = self.section(&["cadence"], |from| Cadence::deserialize(from));
        if let Some(rules) = &cadence {
            let is_said = |key: &str| self.origins.is_said(&["cadence", key]);
            for mistake in rules::cadence(rules, is_said) {
                self.refuse(&["cadence"], mistake);
            }
        }
        let mut budgets = BTreeMap::new();
        for name in self.names("budgets") {
            let budget = self.section(&["budgets", &name], |from| SharedBudget::deserialize(from));
            // A broken one is there: who names it makes no mistake.
            budgets.insert(name, budget.map_or(0, |budget| budget.monthly_calls));
        }
        let mut accounts = BTreeMap::new();
        for name in self.names("accounts") {
            let section = ["accounts", &name];
            let Some(text) = self.section(&section, |from| AccountText::deserialize(from)) else {
                continue;
            };
            let keys: Vec<&str> = self
                .table(&section)
                .into_iter()
                .flat_map(Table::keys)
                .map(String::as_str)
                .collect();
            match rules::account(text, &keys, &budgets, places) {
                Ok(account) => drop(accounts.insert(AccountName::from(&*name), account)),
                Err(mistake) => self.refuse(&section, mistake),
            }
        }
        let log = self.section(&["log"], |from| Log::deserialize(from));
        let retention = self.section(&["retention"], |from| Retention::deserialize(from));
        let (database, mut endpoint) = (database?, endpoint?);
        endpoint.ca_file = endpoint.ca_file.map(|named| places.find(&named).0);
        Some(Settings {
            database,
            node: node?,
            endpoint,
            workers: workers?,
            retry: retry?,
            cadence: cadence?,
            accounts,
            budgets,
            log: log?,
            retention: retention?,
        })
    }

    /// Reads one section. A key that is wrong gives way to its default, so that the next mistake is found too.
    fn section<T>(
        &mut self,
        section: &[&str],
        read: impl Fn(Tracked<'_, '_>) -> Result<T, toml::de::Error>,
    ) -> Option<T> {
        let Some(found) = self.table(section) else {
            self.refuse(section, no_section(&dotted(section)));
            return None;
        };
        let mut table = found.clone();
        let mut is_sound = true;
        loop {
            let mut track = Track::new();
            let error = match read(Tracked::new(table.clone(), &mut track)) {
                Ok(value) => return is_sound.then_some(value),
                Err(error) => error,
            };
            let at = match track.path().iter().next() {
                Some(Segment::Map { key }) => Some(key.clone()),
                _ => None,
            };
            let mistake = self.explained(at.as_deref(), error.message());
            let key = mistake.key.clone().unwrap_or_default();
            let removed = table.remove(&key);
            // What is missing after something was removed was there.
            if is_sound || removed.is_some() {
                self.refuse(section, mistake);
            }
            is_sound = false;
            let default = self.default_of(section, &key);
            // One that is its default already is no way on.
            removed.filter(|value| default.as_ref() != Some(value))?;
            if let Some(default) = default {
                table.insert(key, default);
            }
        }
    }

    fn default_of(&self, section: &[&str], key: &str) -> Option<Value> {
        let [section] = section else { return None };
        self.defaults.get(*section)?.get(key).cloned()
    }

    /// serde's words as ours. Those of `types` read `problem; remedy` already.
    fn explained(&self, at: Option<&str>, message: &str) -> Mistake {
        if let Some((key, known)) = between(message, "unknown field `") {
            return self.unknown(key, quoted(known));
        }
        if let Some((word, known)) = between(message, "unknown variant `") {
            let known: Vec<String> = quoted(known).map(|word| format!("{word:?}")).collect();
            let remedy = format!("write {}", known.join(" or "));
            return Mistake::new(at, format!("cannot be {word}"), remedy);
        }
        let name = quoted(message).next();
        if message.starts_with("missing field") {
            return Mistake::new(name, "is missing", "add it");
        }
        if message.starts_with("duplicate field") {
            let problem = format!(
                "sets {} twice, by two of its names",
                name.unwrap_or_default()
            );
            return Mistake::new(None, problem, "keep one of them");
        }
        let (problem, remedy) = message
            .rsplit_once("; ")
            .unwrap_or((message, "see `receiptd config`"));
        Mistake::new(at, problem, remedy)
    }

    /// A key that nobody knows: nearly another, the right one in the wrong section, or neither.
    fn unknown<'k>(&self, key: &str, known: impl Iterator<Item = &'k str>) -> Mistake {
        let of = || {
            self.defaults
                .iter()
                .find(|(_, section)| section.get(key).is_some())
        };
        let remedy = match (nearest(key, known), of()) {
            (Some(near), _) => format!("did you mean {near}?"),
            (None, Some((section, _))) => format!("it belongs in [{section}]"),
            (None, None) => "remove it".to_owned(),
        };
        Mistake::new(Some(key), "is unknown", remedy)
    }

    /// The table of a section; `None` where something else stands there.
    fn table(&self, section: &[&str]) -> Option<&'_ Table> {
        let mut table = self.root;
        for part in section {
            table = table.get(*part)?.as_table()?;
        }
        Some(table)
    }

    /// The names under `[section.*]`, in order.
    fn names(&mut self, section: &str) -> Vec<String> {
        match self.root.get(section) {
            None => Vec::new(),
            Some(Value::Table(table)) => table.keys().cloned().collect(),
            Some(_) => {
                self.refuse(&[section], no_section(&format!("{section}.NAME")));
                Vec::new()
            }
        }
    }

    fn unknown_sections(&mut self) {
        for key in self
            .root
            .keys()
            .filter(|key| !SECTIONS.contains(&key.as_str()))
        {
            let mistake = self.unknown(key, SECTIONS.into_iter());
            self.refuse(&[], mistake);
        }
    }

    fn refuse(&mut self, section: &[&str], mistake: Mistake) {
        let key: Vec<&str> = section
            .iter()
            .copied()
            .chain(mistake.key.as_deref())
            .collect();
        self.refusals.push(Refusal {
            place: self.origins.place(&key),
            key: dotted(&key),
            problem: mistake.problem,
            remedy: mistake.remedy,
        });
    }
}

fn no_section(name: &str) -> Mistake {
    let remedy = format!("write [{name}] and its keys below");
    Mistake::new(None, "is a section, not a value", remedy)
}

/// What stands in `message` after `start` and before the list of what was expected, and that list.
fn between<'m>(message: &'m str, start: &str) -> Option<(&'m str, &'m str)> {
    message.strip_prefix(start)?.rsplit_once("`, expected ")
}

/// The words in code marks.
fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('`').skip(1).step_by(2)
}

/// The candidate that `name` is a slip of the fingers away from.
pub(super) fn nearest<'n>(
    name: &str,
    candidates: impl Iterator<Item = &'n str>,
) -> Option<&'n str> {
    let slips = |candidate: &str| strsim::damerau_levenshtein(name, candidate);
    let (best, distance) = candidates
        .map(|c| (c, slips(c)))
        .min_by_key(|(_, distance)| *distance)?;
    // A third of the letters wrong is another word.
    (distance <= (name.chars().count() / 3).max(1)).then_some(best)
}

/// `cadence.min_interval`; a part that TOML would quote is quoted, so that a hostile name cannot forge a line.
pub(super) fn dotted(key: &[impl AsRef<str>]) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let quoted = key.iter().map(|part| match part.as_ref() {
        part if !part.is_empty() && part.chars().all(bare) => part.to_owned(),
        part => format!("{part:?}"),
    });
    quoted.collect::<Vec<_>>().join(".")
}
