//! From the merged layers to [`Settings`]. What cannot be is refused; what is merely unwise is not.

use std::path::PathBuf;

use reqwest::Url;

use super::accounts;
use super::reader::{Given, Reader, Wrong};
use super::secret::Places;
use super::sections::{Database, Endpoint, Log, LogFormat, Retention, Retry, Synchronous, Workers};
use super::{Settings, values};
use crate::cadence::Rules;

/// Reads every section. `None` means that at least one refusal was noted.
pub(super) fn settings(reader: &mut Reader<'_>, places: &Places) -> Option<Settings> {
    // All are read before any is judged, so that every mistake is found at once.
    let database = database(reader);
    let endpoint = endpoint(reader, places);
    let workers = workers(reader);
    let retry = retry(reader);
    let cadence = cadence(reader);
    let budgets = accounts::budgets(reader);
    let accounts = accounts::accounts(reader, &budgets, places);
    let log = log(reader);
    let retention = retention(reader);
    Some(Settings {
        database: database?,
        endpoint: endpoint?,
        workers: workers?,
        retry: retry?,
        cadence: cadence?,
        accounts,
        budgets,
        log: log?,
        retention: retention?,
    })
}

fn database(reader: &mut Reader<'_>) -> Option<Database> {
    reader.section(&["database"]);
    let path = reader.required(&["database", "url"], database_path);
    let synchronous = reader.required(
        &["database", "synchronous"],
        values::one_of(&Synchronous::WORDS),
    );
    Some(Database {
        path: path?,
        synchronous: synchronous?,
    })
}

fn endpoint(reader: &mut Reader<'_>, places: &Places) -> Option<Endpoint> {
    reader.section(&["endpoint"]);
    let base_url = reader.required(&["endpoint", "base_url"], base_url);
    let connect_timeout = reader.required(&["endpoint", "connect_timeout"], values::some_time);
    let request_timeout = reader.required(&["endpoint", "request_timeout"], values::some_time);
    // The vendor's limit; it answers `invalidParameter.pageSize.invalid` above.
    let page_size = reader.required(&["endpoint", "page_size"], values::whole(1..=200));
    let calls_per_second = reader.required(
        &["endpoint", "calls_per_second"],
        values::whole(1..=1_000_000),
    );
    let ca_file = reader.optional(&["endpoint", "ca_file"], values::path);
    Some(Endpoint {
        base_url: base_url?,
        connect_timeout: connect_timeout?,
        request_timeout: request_timeout?,
        page_size: page_size?,
        calls_per_second: calls_per_second?,
        ca_file: ca_file.map(|named| places.find(&named).0),
    })
}

fn workers(reader: &mut Reader<'_>) -> Option<Workers> {
    reader.section(&["workers"]);
    // A call under way holds a TCP port, and an address has no more.
    let concurrency = reader.required(&["workers", "concurrency"], values::whole(1..=65_535));
    let shutdown_grace = reader.required(&["workers", "shutdown_grace"], values::duration);
    Some(Workers {
        concurrency: concurrency?,
        shutdown_grace: shutdown_grace?,
    })
}

fn retry(reader: &mut Reader<'_>) -> Option<Retry> {
    reader.section(&["retry"]);
    let initial_interval = reader.required(&["retry", "initial_interval"], values::some_time);
    let at_least_one = values::number("a number of 1 or more", |number| number >= 1.0);
    let multiplier = reader.required(&["retry", "multiplier"], at_least_one);
    let share = values::number("a number from 0 to 1", |number| {
        (0.0..=1.0).contains(&number)
    });
    let randomization_factor = reader.required(&["retry", "randomization_factor"], share);
    let max_interval = reader.required(&["retry", "max_interval"], values::some_time);
    let max_elapsed_time = reader.required(&["retry", "max_elapsed_time"], values::duration);
    Some(Retry {
        initial_interval: initial_interval?,
        multiplier: multiplier?,
        randomization_factor: randomization_factor?,
        max_interval: max_interval?,
        max_elapsed_time: max_elapsed_time?,
    })
}

fn cadence(reader: &mut Reader<'_>) -> Option<Rules> {
    reader.section(&["cadence"]);
    let above_zero = values::number("a number above 0", |number| number > 0.0);
    let calls_per_message = reader.required(&["cadence", "calls_per_message"], above_zero);
    let min_interval = reader.required(&["cadence", "min_interval"], values::some_time);
    let max_interval = reader.required(&["cadence", "max_interval"], values::some_time);
    let generation_grace = reader.required(&["cadence", "generation_grace"], values::duration);
    let key_lifetime = reader.required(&["cadence", "key_lifetime"], values::some_time);
    let last_chance = reader.required(&["cadence", "last_chance"], values::duration);
    let max_age = reader.required(&["cadence", "max_age"], values::some_time);
    let memory = reader.required(&["cadence", "memory"], values::some_time);
    let rules = Rules {
        calls_per_message: calls_per_message?,
        min_interval: min_interval?,
        max_interval: max_interval?,
        generation_grace: generation_grace?,
        key_lifetime: key_lifetime?,
        last_chance: last_chance?,
        max_age: max_age?,
        memory: memory?,
    };
    let text = |span| format!("({})", humantime::format_duration(span));
    if rules.min_interval > rules.max_interval {
        let [min, max] = [rules.min_interval, rules.max_interval].map(text);
        reader.refuse_either(
            [
                (
                    &["cadence", "min_interval"],
                    format!("{min} is over cadence.max_interval {max}"),
                ),
                (
                    &["cadence", "max_interval"],
                    format!("{max} is under cadence.min_interval {min}"),
                ),
            ],
            "let min_interval be the shorter one",
        );
    }
    if rules.last_chance >= rules.key_lifetime {
        let [last, life] = [rules.last_chance, rules.key_lifetime].map(text);
        reader.refuse_either(
            [
                (
                    &["cadence", "last_chance"],
                    format!("{last} does not fit into cadence.key_lifetime {life}"),
                ),
                (
                    &["cadence", "key_lifetime"],
                    format!("{life} does not leave room for cadence.last_chance {last}"),
                ),
            ],
            "make last_chance shorter: the last poll goes out so long before the key's life ends",
        );
    }
    Some(rules)
}

fn log(reader: &mut Reader<'_>) -> Option<Log> {
    reader.section(&["log"]);
    let filter = reader.required(&["log", "filter"], filter);
    let format = reader.required(&["log", "format"], values::one_of(&LogFormat::WORDS));
    let summary_interval = reader.required(&["log", "summary_interval"], values::some_time);
    Some(Log {
        filter: filter?,
        format: format?,
        summary_interval: summary_interval?,
    })
}

fn retention(reader: &mut Reader<'_>) -> Option<Retention> {
    reader.section(&["retention"]);
    let finished = reader.required(&["retention", "finished"], values::some_time_or_never);
    Some(Retention {
        finished: finished?,
    })
}

fn filter(given: &Given<'_>) -> Result<String, Wrong> {
    let text = values::text(given)?;
    match super::filter::check(&text) {
        Ok(()) => Ok(text),
        Err((problem, remedy)) => Err(Wrong::new(problem, remedy)),
    }
}

/// The path in `sqlite://PATH`. Other databases would be other schemes; none of them exists yet.
fn database_path(given: &Given<'_>) -> Result<PathBuf, Wrong> {
    const REMEDY: &str = r#"write "sqlite://PATH", as "sqlite:///var/lib/receiptd/receiptd.db""#;
    let url = values::text(given)?;
    // The address of another kind of database may hold a password, so it is not shown.
    let Some(path) = url.strip_prefix("sqlite://") else {
        return Err(Wrong::new("is no sqlite:// address", REMEDY));
    };
    match path {
        "" => Err(Wrong::new("names no file", REMEDY)),
        ":memory:" => Err(Wrong::new(
            "names no file, and other processes could not reach the database",
            REMEDY,
        )),
        path if path.contains(['?', '#', '\0']) => Err(Wrong::new(
            "holds options or a character that no path here may have",
            REMEDY,
        )),
        path => Ok(PathBuf::from(path)),
    }
}

fn base_url(given: &Given<'_>) -> Result<String, Wrong> {
    const EXAMPLE: &str = r#"write "https://api.dingtalk.io" or "https://api.dingtalk.com""#;
    let text = values::text(given)?;
    let Ok(url) = Url::parse(&text) else {
        return Err(Wrong::new("is no web address", EXAMPLE));
    };
    // It appears in logs and errors, which hold no secret. Not shown here either.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Wrong::new(
            "holds a user or a password, which DingTalk does not know",
            EXAMPLE,
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Wrong::new(
            "holds a `?` or a `#`, and paths are put behind it",
            "end it before that character",
        ));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => {
            return Err(Wrong::new(
                "would send secrets in the clear: plain http is only for a loopback address",
                "write https://",
            ));
        }
        _ => return Err(Wrong::new("is no web address", EXAMPLE)),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}
