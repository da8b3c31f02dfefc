//! The table of events is the code's, and the list in `deploy/README.md` is the table's.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which may unwrap as tests may"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use receiptd::telemetry::{EVENTS, Event, EventLevel};

const HEAD: &str = "| text | level | fields | meaning | what to do |\n|---|---|---|---|---|\n";

fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/README.md")
}

/// The list is written anew by `UPDATE_EVENTS=1 cargo test --test events`.
#[test]
fn the_list_in_the_guide_is_the_table() {
    let text = std::fs::read_to_string(readme()).unwrap();
    let (before, rest) = text.split_once(HEAD).unwrap();
    let (found, after) = rest.split_once("\n\n").unwrap();
    let rows: Vec<String> = EVENTS.iter().map(Event::row).collect();
    let rows = rows.join("\n");
    if found != rows && std::env::var_os("UPDATE_EVENTS").is_some() {
        std::fs::write(readme(), format!("{before}{HEAD}{rows}\n\n{after}")).unwrap();
        return;
    }
    assert_eq!(
        found, rows,
        "UPDATE_EVENTS=1 cargo test --test events writes the list anew"
    );
}

/// One use of a `tracing` macro: the text of the source from there on, up to the next.
struct Use {
    file: String,
    level: EventLevel,
    source: String,
}

fn uses() -> Vec<Use> {
    fn walk(directory: &Path, found: &mut Vec<Use>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            // Comments hold no events, and a literal over several lines is one.
            let lines: Vec<&str> = text
                .lines()
                .map(str::trim)
                .filter(|line| !line.starts_with("//"))
                .collect();
            let text = lines.join("\n").replace("\\\n", "");
            for level in [EventLevel::Info, EventLevel::Warn, EventLevel::Error] {
                let call = format!("tracing::{}!(", level.as_str());
                for after in text.split(&call).skip(1) {
                    let next = ["info", "warn", "error", "debug", "trace"].map(|level| {
                        after
                            .find(&format!("tracing::{level}!("))
                            .unwrap_or(after.len())
                    });
                    found.push(Use {
                        file: path.display().to_string(),
                        level,
                        source: after[..*next.iter().min().unwrap()].to_owned(),
                    });
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        &mut found,
    );
    found
}

/// What stands before the event's text where `source` begins with that event, else `None`.
fn fields_of<'s>(source: &'s str, event: &Event) -> Option<&'s str> {
    let mut pieces = vec![];
    let mut rest = event.text;
    while let Some((before, after)) = rest.split_once('{') {
        pieces.push(before);
        rest = after.split_once('}').unwrap().1;
    }
    pieces.push(rest);
    // As it is written in Rust.
    let literal = |piece: &str| piece.replace('"', "\\\"");
    let begins = |start: usize| {
        let (fields, mut text) = source.split_at(start);
        // An argument of its own, and no field's value.
        let before = fields.trim_end();
        if !before.is_empty() && !before.ends_with(',') {
            return None;
        }
        for piece in &pieces {
            // Nothing follows the last value.
            let piece = if piece.is_empty() { "}" } else { piece };
            text = text.split_once(&literal(piece))?.1;
        }
        text.starts_with('"').then_some(fields)
    };
    let opening = format!("\"{}", literal(pieces[0]));
    source
        .match_indices(&opening)
        .find_map(|(start, _)| begins(start))
}

/// The names in `a.b = value, %c, d,`.
fn names(fields: &str) -> BTreeSet<&str> {
    let arguments = fields
        .split(',')
        .map(|part| part.split('=').next().unwrap().trim());
    let names = arguments.map(|name| name.trim_start_matches(['%', '?']));
    let is_name = |name: &&str| {
        let mut letters = name.chars();
        letters
            .next()
            .is_some_and(|first| first.is_ascii_lowercase())
            && letters.all(|c| c.is_ascii_lowercase() || c == '.' || c == '_')
    };
    names.filter(is_name).collect()
}

#[test]
fn every_event_of_the_code_is_in_the_table_and_every_row_is_an_event() {
    let uses = uses();
    assert!(uses.len() > 40, "{}", uses.len());
    let mut met = BTreeSet::new();
    for one in &uses {
        let fits = EVENTS.iter().enumerate().filter_map(|(row, event)| {
            let fields = (event.level == one.level).then(|| fields_of(&one.source, event))??;
            Some((row, event, names(fields)))
        });
        // One that is all value fits whatever begins as it does.
        let found = fits.max_by_key(|(_, event, _)| event.text.len());
        let shown: String = one.source.chars().take(300).collect();
        let Some((row, event, fields)) = found else {
            panic!(
                "{}: not in the table of src/telemetry/events.rs: {shown}",
                one.file
            );
        };
        assert_eq!(
            fields,
            event.fields.iter().copied().collect(),
            "{}: {shown}",
            one.file
        );
        met.insert(row);
    }
    let stale: Vec<&str> = (0..EVENTS.len())
        .filter(|row| !met.contains(row))
        .map(|row| EVENTS[row].text)
        .collect();
    assert!(
        stale.is_empty(),
        "in the table, and not in the code: {stale:#?}"
    );
}

#[test]
fn every_field_is_explained_once() {
    let text = std::fs::read_to_string(readme()).unwrap();
    let (_, section) = text.split_once("\n### Fields\n").unwrap();
    let rows = section.split("\n#").next().unwrap().lines();
    let explained: Vec<&str> = rows
        .filter_map(|row| row.strip_prefix("| `")?.split('`').next())
        .collect();
    let names: BTreeSet<&str> = explained.iter().copied().collect();
    assert_eq!(names.len(), explained.len(), "{explained:?}");
    let used: BTreeSet<&str> = EVENTS
        .iter()
        .flat_map(|event| event.fields.iter().copied())
        .collect();
    assert_eq!(used, names);
}

/// `journalctl` shows the text alone: it must say about whom it is where the fields do.
#[test]
fn a_text_that_is_about_an_account_or_a_message_names_it() {
    for event in EVENTS {
        for (field, start) in [
            ("message.key", "message {key}: "),
            ("account", "account {account}: "),
        ] {
            if event.fields.contains(&field) {
                assert!(event.text.starts_with(start), "{}", event.text);
                break;
            }
        }
    }
}
