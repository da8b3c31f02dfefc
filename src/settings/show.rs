//! Settings as a person may see them, and what a reload changes.

use std::fmt::Display;
use std::time::Duration;

use super::{App, Budget, LogFormat, Secret, Settings, Synchronous};

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

impl Settings {
    /// Every setting in force, as dotted key and shown value: secrets redacted, secret files as their paths.
    pub fn describe(&self) -> Vec<(String, String)> {
        let mut shown = Shown(Vec::new());
        let database = &self.database;
        shown.add(
            "database.url",
            &format_args!("sqlite://{}", database.path.display()),
        );
        shown.add(
            "database.synchronous",
            &word(&Synchronous::WORDS, &database.synchronous),
        );
        let endpoint = &self.endpoint;
        shown.add("endpoint.base_url", &endpoint.base_url);
        shown.span("endpoint.connect_timeout", endpoint.connect_timeout);
        shown.span("endpoint.request_timeout", endpoint.request_timeout);
        shown.add("endpoint.page_size", &endpoint.page_size);
        shown.add("endpoint.calls_per_second", &endpoint.calls_per_second);
        if let Some(path) = &endpoint.ca_file {
            shown.add("endpoint.ca_file", &path.display());
        }
        shown.add("workers.concurrency", &self.workers.concurrency);
        shown.span("workers.shutdown_grace", self.workers.shutdown_grace);
        let retry = &self.retry;
        shown.span("retry.initial_interval", retry.initial_interval);
        shown.add("retry.multiplier", &retry.multiplier);
        shown.add("retry.randomization_factor", &retry.randomization_factor);
        shown.span("retry.max_interval", retry.max_interval);
        shown.span("retry.max_elapsed_time", retry.max_elapsed_time);
        let cadence = &self.cadence;
        shown.add("cadence.calls_per_message", &cadence.calls_per_message);
        shown.span("cadence.min_interval", cadence.min_interval);
        shown.span("cadence.max_interval", cadence.max_interval);
        shown.span("cadence.generation_grace", cadence.generation_grace);
        shown.span("cadence.key_lifetime", cadence.key_lifetime);
        shown.span("cadence.last_chance", cadence.last_chance);
        shown.span("cadence.max_age", cadence.max_age);
        shown.span("cadence.memory", cadence.memory);
        self.describe_accounts(&mut shown);
        shown.add("log.filter", &self.log.filter);
        shown.add("log.format", &word(&LogFormat::WORDS, &self.log.format));
        shown.span("log.summary_interval", self.log.summary_interval);
        match self.retention.finished {
            Some(span) => shown.span("retention.finished", span),
            None => shown.add("retention.finished", &"never"),
        }
        shown.0
    }

    /// As [`Self::describe`], a section after the other: its name and its settings in one line, `key = value, …`.
    pub fn describe_by_section(&self) -> Vec<(String, String)> {
        let mut sections: Vec<(String, String)> = Vec::new();
        for (key, value) in self.describe() {
            let (section, word) = key.rsplit_once('.').unwrap_or(("", &key));
            match sections.last_mut() {
                Some((last, values)) if last == section => {
                    values.push_str(&format!(", {word} = {value}"));
                }
                _ => sections.push((section.to_owned(), format!("{word} = {value}"))),
            }
        }
        sections
    }

    fn describe_accounts(&self, shown: &mut Shown) {
        for (name, account) in &self.accounts {
            let mut add =
                |word: &str, value: String| shown.add(&format!("accounts.{name}.{word}"), &value);
            let (kind, prefix) = match account.app {
                App::Internal { .. } => ("internal", "app"),
                App::ThirdParty { .. } => ("third_party", "suite"),
            };
            add("app", kind.to_owned());
            let (key, secret) = account.app.credentials();
            add(&format!("{prefix}_key"), key.to_owned());
            match secret {
                Secret::Inline(_) => add(&format!("{prefix}_secret"), secret.shown()),
                Secret::File { .. } => add(&format!("{prefix}_secret_file"), secret.shown()),
            }
            if let Some(robot) = &account.robot_code {
                add("robot_code", robot.to_string());
            }
            add("calls_per_second", account.calls_per_second.to_string());
            match &account.budget {
                Some(Budget::Own(calls)) => add("monthly_calls", calls.to_string()),
                Some(Budget::Shared(name)) => add("budget", name.clone()),
                None => {}
            }
        }
        for (name, calls) in &self.budgets {
            shown.add(&format!("budgets.{name}.monthly_calls"), calls);
        }
    }

    /// What differs in `new`, for the log line of a reload. A changed inline secret is told from an equal one.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let (old_shown, new_shown) = (self.describe(), new.describe());
        let value_of = |list: &[(String, String)], key: &str| {
            list.iter()
                .find(|(known, _)| known == key)
                .map(|(_, value)| value.clone())
        };
        let mut changes = Vec::new();
        for (key, old) in &old_shown {
            let now = value_of(&new_shown, key);
            if now.as_ref() != Some(old) {
                changes.push(Change {
                    key: key.clone(),
                    old: Some(old.clone()),
                    new: now,
                });
            }
        }
        for (key, now) in &new_shown {
            if value_of(&old_shown, key).is_none() {
                changes.push(Change {
                    key: key.clone(),
                    old: None,
                    new: Some(now.clone()),
                });
            }
        }
        for (name, account) in &self.accounts {
            let old = account.app.credentials().1;
            let Some(other) = new.accounts.get(name) else {
                continue;
            };
            let now = other.app.credentials().1;
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
        let differ = [
            ("database.url", self.database.path != new.database.path),
            (
                "database.synchronous",
                self.database.synchronous != new.database.synchronous,
            ),
            (
                "workers.concurrency",
                self.workers.concurrency != new.workers.concurrency,
            ),
            ("log.format", self.log.format != new.log.format),
        ];
        differ
            .iter()
            .filter(|(_, differs)| *differs)
            .map(|(key, _)| *key)
            .collect()
    }

    /// These settings with what cannot change in a running daemon taken from `running`: what a reload puts in force.
    pub fn reloaded_over(mut self, running: &Self) -> Self {
        self.database = running.database.clone();
        self.workers.concurrency = running.workers.concurrency;
        self.log.format = running.log.format;
        self
    }
}

struct Shown(Vec<(String, String)>);

impl Shown {
    fn add(&mut self, key: &str, value: &dyn Display) {
        self.0.push((key.to_owned(), value.to_string()));
    }

    fn span(&mut self, key: &str, span: Duration) {
        const DAY: u64 = 86_400;
        match span.as_secs() / DAY {
            // Of 90 days humantime would make "2months 29days 2h 52m 48s".
            days @ 31.. if span == Duration::from_secs(days * DAY) => {
                self.add(key, &format_args!("{days}days"));
            }
            _ => self.add(key, &humantime::format_duration(span)),
        }
    }
}

fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    // Every variant has its word; the lists stand beside the enums.
    words
        .iter()
        .find(|(_, known)| known == value)
        .map_or("", |(word, _)| word)
}
