//! Asks the merged layers for one key after the other, and notes every mistake instead of stopping at the first.

use std::collections::BTreeSet;

use config::{Map, Value, ValueKind};

use super::error::Refusal;
use super::layers::{Key, Origins};

/// What is wrong with a value, and what would be right.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Wrong {
    pub(super) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// A value as it was given.
pub(super) struct Given<'a> {
    pub(super) kind: &'a ValueKind,
    /// All values are text there, numbers too.
    pub(super) from_environment: bool,
}

/// What is asked for, what was asked, and what was wrong with it.
pub(super) struct Reader<'a> {
    root: &'a Value,
    origins: &'a Origins,
    asked: BTreeSet<Key>,
    sections: BTreeSet<Key>,
    refusals: Vec<Refusal>,
}

enum Found<'a> {
    Value(&'a Value),
    Absent,
    /// Something else stands where its section should.
    NoSection,
}

impl<'a> Reader<'a> {
    pub(super) fn new(root: &'a Value, origins: &'a Origins) -> Self {
        Self {
            root,
            origins,
            asked: BTreeSet::new(),
            sections: BTreeSet::new(),
            refusals: Vec::new(),
        }
    }

    /// A key that has a default. `None` means that a refusal was noted.
    pub(super) fn required<T>(
        &mut self,
        key: &[&str],
        convert: impl FnOnce(&Given<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        let absent = matches!(self.find(key), Found::Absent);
        if absent {
            self.asked.insert(owned(key));
            self.refuse(key, Wrong::new("is missing", "add it"));
            return None;
        }
        self.optional(key, convert)
    }

    /// A key that may be absent. `None`: it is, or a refusal was noted.
    pub(super) fn optional<T>(
        &mut self,
        key: &[&str],
        convert: impl FnOnce(&Given<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.asked.insert(owned(key));
        let Found::Value(value) = self.find(key) else {
            return None;
        };
        let given = Given {
            kind: &value.kind,
            from_environment: self.origins.in_environment(&owned(key)),
        };
        match convert(&given) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.refuse(key, wrong);
                None
            }
        }
    }

    /// Whether anyone said this key.
    pub(super) fn is_set(&self, key: &[&str]) -> bool {
        matches!(self.find(key), Found::Value(_))
    }

    /// Notes that `[name]` exists.
    pub(super) fn section(&mut self, key: &[&str]) {
        self.sections.insert(owned(key));
        if let Found::Value(value) = self.find(key)
            && !matches!(value.kind, ValueKind::Table(_))
        {
            let name = dotted(key);
            self.refuse(
                key,
                Wrong::new(
                    "is a section, not a value",
                    format!("write [{name}] and its keys below"),
                ),
            );
        }
    }

    /// The names under `[section.*]`, in order.
    pub(super) fn names(&mut self, section: &str) -> Vec<String> {
        self.section(&[section]);
        match self.find(&[section]) {
            Found::Value(Value {
                kind: ValueKind::Table(table),
                ..
            }) => {
                let mut names: Vec<String> = table.keys().cloned().collect();
                names.sort();
                names
            }
            _ => Vec::new(),
        }
    }

    /// Notes a mistake.
    pub(super) fn refuse(&mut self, key: &[&str], wrong: Wrong) {
        self.refusals.push(Refusal {
            place: self.origins.place(&owned(key)),
            key: dotted(key),
            problem: wrong.problem,
            remedy: wrong.remedy,
        });
    }

    /// Notes that two values contradict each other, at the first of them that the operator said: the other one may be
    /// a default.
    pub(super) fn refuse_either(&mut self, sides: [(&[&str], String); 2], remedy: &str) {
        let origins = self.origins;
        let said = |key: &[&str]| origins.is_said(&owned(key));
        let [one, two] = sides;
        let (key, problem) = if said(two.0) && !said(one.0) {
            two
        } else {
            one
        };
        self.refuse(key, Wrong::new(problem, remedy));
    }

    /// Ends the questions: what nobody asked for is unknown. Gives every mistake, and every key that was asked for.
    pub(super) fn finish(mut self) -> (Vec<Refusal>, BTreeSet<Key>) {
        if let ValueKind::Table(table) = &self.root.kind {
            let mut unknown = Vec::new();
            self.collect_unknown(table, &mut Vec::new(), &mut unknown);
            unknown.sort();
            for key in unknown {
                let remedy = self.remedy_for_unknown(&key);
                let key: Vec<&str> = key.iter().map(String::as_str).collect();
                self.refuse(&key, Wrong::new("is unknown", remedy));
            }
        }
        (self.refusals, self.asked)
    }

    fn find(&self, key: &[&str]) -> Found<'a> {
        let mut value = self.root;
        for part in key {
            let ValueKind::Table(table) = &value.kind else {
                return Found::NoSection;
            };
            match table.get(*part) {
                Some(inner) => value = inner,
                None => return Found::Absent,
            }
        }
        Found::Value(value)
    }

    fn collect_unknown(&self, table: &Map<String, Value>, path: &mut Key, unknown: &mut Vec<Key>) {
        for (name, value) in table {
            path.push(name.clone());
            if self.sections.contains(path) {
                if let ValueKind::Table(inner) = &value.kind {
                    self.collect_unknown(inner, path, unknown);
                }
            } else if !self.asked.contains(path) {
                unknown.push(path.clone());
            }
            path.pop();
        }
    }

    fn remedy_for_unknown(&self, key: &[String]) -> String {
        let Some((name, section)) = key.split_last() else {
            return "remove it".to_owned();
        };
        let known = || self.asked.iter().chain(&self.sections);
        let siblings =
            known().filter(|known| known.len() == key.len() && known.starts_with(section));
        if let Some(near) = nearest(name, siblings.filter_map(|known| known.last())) {
            return format!("did you mean {near}?");
        }
        // The right key in the wrong section.
        match known()
            .find(|known| known.last() == Some(name))
            .map(Vec::as_slice)
        {
            Some([of @ .., _]) if !of.is_empty() => format!("it belongs in [{}]", dotted(of)),
            _ => "remove it".to_owned(),
        }
    }
}

/// The candidate that `name` is a slip of the fingers away from.
pub(super) fn nearest<'n>(
    name: &str,
    candidates: impl Iterator<Item = &'n String>,
) -> Option<&'n String> {
    let slips = |candidate: &String| strsim::damerau_levenshtein(name, candidate);
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

fn owned(key: &[&str]) -> Key {
    key.iter().map(|part| (*part).to_owned()).collect()
}
