//! From the merged layers to [`Settings`]: section by section through serde, and every mistake noted with its place.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize as _;
use serde_path_to_error::{Segment, Track};
use toml::{Table, Value};

use super::error::Refusal;
use super::layers::{DEFAULTS, Origins};
use super::model::{AccountText, Cadence, SharedBudget};
use super::rules::{self, Mistake};
use super::secret::Places;
use super::database::DatabaseText;
use super::{Endpoint, Log, Retention, Retry, Settings, Workers};
use crate::receipt::AccountName;

/// A section on its way through serde, which says at which key it failed.
type Tracked<'a, 'b> = serde_path_to_error::Deserializer<'a, 'b, Table>;

const SECTIONS: [&str; 9] = [
    "database",
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
            let problem = "is a section, not a value".to_owned();
            let remedy = format!("write [{}] and its keys below", dotted(section));
            self.refuse(
                section,
                Mistake {
                    key: None,
                    problem,
                    remedy,
                },
            );
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
            let mistake = self.explained(at, error.message());
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
    fn explained(&self, at: Option<String>, message: &str) -> Mistake {
        if let Some((key, known)) = between(message, "unknown field `") {
            let remedy = match nearest(key, quoted(known)) {
                Some(near) => format!("did you mean {near}?"),
                None => self.remedy_for_strange(key),
            };
            let problem = "is unknown".to_owned();
            return Mistake {
                key: Some(key.to_owned()),
                problem,
                remedy,
            };
        }
        if let Some((word, known)) = between(message, "unknown variant `") {
            let known: Vec<String> = quoted(known).map(|word| format!("{word:?}")).collect();
            let (problem, remedy) = (
                format!("cannot be {word}"),
                format!("write {}", known.join(" or ")),
            );
            return Mistake {
                key: at,
                problem,
                remedy,
            };
        }
        let mut named = quoted(message);
        let (key, problem, remedy) = if message.starts_with("missing field") {
            (
                named.next().map(str::to_owned),
                "is missing".to_owned(),
                "add it".to_owned(),
            )
        } else if message.starts_with("duplicate field") {
            let names = named.next().unwrap_or_default();
            (
                None,
                format!("sets {names} twice, by two of its names"),
                "keep one of them".to_owned(),
            )
        } else {
            let (problem, remedy) = message
                .rsplit_once("; ")
                .unwrap_or((message, "see config/receiptd.toml"));
            (at, problem.to_owned(), remedy.to_owned())
        };
        Mistake {
            key,
            problem,
            remedy,
        }
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
                let problem = "is a section, not a value".to_owned();
                let remedy = format!("write [{section}.NAME] and its keys below");
                self.refuse(
                    &[section],
                    Mistake {
                        key: None,
                        problem,
                        remedy,
                    },
                );
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
            let remedy = match nearest(key, SECTIONS.into_iter()) {
                Some(near) => format!("did you mean {near}?"),
                None => self.remedy_for_strange(key),
            };
            let problem = "is unknown".to_owned();
            self.refuse(
                &[],
                Mistake {
                    key: Some(key.clone()),
                    problem,
                    remedy,
                },
            );
        }
    }

    /// For the right key in the wrong section, and for one that no section has.
    fn remedy_for_strange(&self, key: &str) -> String {
        let of = self
            .defaults
            .iter()
            .find(|(_, section)| section.get(key).is_some());
        of.map_or("remove it".to_owned(), |(section, _)| {
            format!("it belongs in [{section}]")
        })
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
