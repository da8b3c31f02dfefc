//! The table of events is the code's, and the list in `deploy/README.md` is the table's.

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

/// `lane_event!(warn, self, [a.b = c,], "text")` in full: it adds the two fields that say which lane.
fn with_lanes(text: &str) -> String {
    let mut pieces = text.split("lane_event!(");
    let mut whole = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (level, rest) = piece.split_once(',').unwrap();
        let (fields, rest) = rest.split_once('[').unwrap().1.split_once("],").unwrap();
        whole += &format!(
            "tracing::{}!(account, corp_id, {fields} {rest}",
            level.trim()
        );
    }
    whole
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
            let text = with_lanes(&lines.join("\n").replace("\\\n", ""));
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
    let opening = format!("\"{}", literal(pieces[0]));
    let begins = |start: usize| {
        let (fields, mut text) = source.split_at(start);
        // An argument of its own, and no field's value.
        let before = fields.trim_end();
        if !before.is_empty() && !before.ends_with(',') {
            return None;
        }
        text = text.strip_prefix(&opening)?;
        for piece in &pieces[1..] {
            // Nothing follows a value: its own end.
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
    let (mut met, mut wrong) = (BTreeSet::new(), Vec::new());
    for one in &uses {
        let fits = EVENTS.iter().enumerate().filter_map(|(row, event)| {
            let fields = (event.level == one.level).then(|| fields_of(&one.source, event))??;
            Some((row, event, names(fields)))
        });
        // One that is all value fits whatever begins as it does.
        let found = fits.max_by_key(|(_, event, _)| event.text.len());
        let shown = || {
            format!(
                "{}: {}",
                one.file,
                one.source.chars().take(400).collect::<String>()
            )
        };
        match found {
            None => wrong.push(format!(
                "in the code, and not in src/telemetry/events.rs: {}",
                shown()
            )),
            Some((row, event, fields)) => {
                met.insert(row);
                let expected: BTreeSet<&str> = event.fields.iter().copied().collect();
                if fields != expected {
                    wrong.push(format!(
                        "other fields in the table, {expected:?}: {}",
                        shown()
                    ));
                }
            }
        }
    }
    let stale = (0..EVENTS.len()).filter(|row| !met.contains(row));
    wrong.extend(
        stale.map(|row| format!("in the table, and not in the code: {}", EVENTS[row].text)),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
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
