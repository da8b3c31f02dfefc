//! The list of events in `deploy/README.md` is the code's: no event without a row, no row without an event.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, which may unwrap as tests may"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The levels that are written by default.
const LEVELS: [&str; 3] = ["error", "warn", "info"];

/// What stands in the list of an event: its level and its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Event {
    level: String,
    fields: BTreeSet<String>,
}

/// Events by their text, `{}` in the place of each value.
type Events = BTreeMap<String, Event>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `{name}` is `{}`: which names are chosen is the list's own business.
fn without_names(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (_, behind) = after.split_once('}').unwrap();
        plain.push_str(before);
        plain.push_str("{}");
        rest = behind;
    }
    plain + rest
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What the scan below has to tell apart in Rust's text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// A string literal's value.
    Text(String),
    Sign(char),
}

/// The tokens of a file, without comments, characters and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let next = rest.peek().copied();
        match c {
            '/' if next == Some('/') => while rest.next().is_some_and(|c| c != '\n') {},
            '"' => tokens.push(Token::Text(literal(&mut rest))),
            'r' if next == Some('"') => {
                rest.next();
                tokens.push(Token::Text(
                    rest.by_ref().take_while(|c| *c != '"').collect(),
                ));
            }
            // A lifetime has no second quote after its first letter; a character may be an escape, or a quote.
            '\'' => {
                let first = rest.next();
                if first == Some('\\') {
                    rest.next();
                    while rest.next().is_some_and(|c| c != '\'') {}
                } else if rest.peek() == Some(&'\'') {
                    rest.next();
                }
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut word = c.to_string();
                while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            c if c.is_whitespace() => {}
            c => tokens.push(Token::Sign(c)),
        }
    }
    tokens
}

/// The value of a string literal, up to and with its closing quote.
fn literal(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut value = String::new();
    while let Some(c) = rest.next() {
        match c {
            '"' => break,
            '\\' => match rest.next() {
                // The line goes on, without its indentation.
                Some('\n') => while rest.next_if(|c| c.is_whitespace()).is_some() {},
                Some('n') => value.push('\n'),
                Some(c) => value.push(c),
                None => break,
            },
            c => value.push(c),
        }
    }
    value
}

/// The events of the code. Tokens and not a syntax tree: what stands within another macro, as `select!`, is no syntax.
fn of_the_code() -> Events {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    assert!(files.len() > 50, "{files:?}");
    let mut events = Events::new();
    for file in files {
        let shown = file.display();
        let tokens = tokens(&std::fs::read_to_string(&file).unwrap());
        let word = |place: usize| match tokens.get(place) {
            Some(Token::Word(word)) => word.as_str(),
            _ => "",
        };
        let sign = |place: usize, sign: char| tokens.get(place) == Some(&Token::Sign(sign));
        for place in 0..tokens.len() {
            let level = word(place);
            if !(LEVELS.contains(&level) && sign(place + 1, '!') && sign(place + 2, '(')) {
                continue;
            }
            assert!(
                place > 2 && word(place - 3) == "tracing",
                "{shown}: write tracing::{level}!, so that it is found"
            );
            let (text, fields) = arguments(&tokens[place + 3..]);
            let text =
                text.unwrap_or_else(|| panic!("{shown}: {level}! without a text: {fields:?}"));
            let level = level.to_owned();
            let event = Event { level, fields };
            let known = events.entry(text.clone()).or_insert_with(|| event.clone());
            assert_eq!(*known, event, "{shown}: {text:?} has two shapes");
        }
    }
    events
}

/// The text and the fields of an invocation: `name.part = value, %name, name, "text {}", values)`.
fn arguments(tokens: &[Token]) -> (Option<String>, BTreeSet<String>) {
    let mut fields = BTreeSet::new();
    let mut depth = 0;
    let (mut argument, mut length): (Option<String>, usize) = (Some(String::new()), 0);
    for token in tokens {
        match token {
            Token::Text(text) if depth == 0 && length == 0 => {
                return (Some(without_names(text)), fields);
            }
            Token::Sign(')') if depth == 0 => break,
            Token::Sign(',') if depth == 0 => {
                fields.extend(argument.take().filter(|name| !name.is_empty()));
                (argument, length) = (Some(String::new()), 0);
                continue;
            }
            // From here on it is the value.
            Token::Sign('=') if depth == 0 => fields.extend(argument.take()),
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth -= 1,
            Token::Sign('%' | '?') if length == 0 => {}
            Token::Sign(c) => {
                if let Some(name) = &mut argument {
                    name.push(*c);
                }
            }
            Token::Word(word) => {
                if let Some(name) = &mut argument {
                    name.push_str(word);
                }
            }
            Token::Text(_) => {}
        }
        length += 1;
    }
    (None, fields)
}

#[test]
fn the_scan_reads_rust() {
    let text = r#"
        // tracing::info!("in a comment");
        let quote = '"'; let escape = '\''; fn lives<'a>(x: &'a str) {}
        tokio::select! { _ = x => tracing::warn!(a.b = %f(x, "no, not this"), c, ?d, "one {} \
            two {three}", four), }
    "#;
    let tokens = tokens(text);
    let start = tokens
        .iter()
        .position(|token| *token == Token::Word("warn".to_owned()))
        .unwrap();
    let (text, fields) = arguments(&tokens[start + 3..]);
    assert_eq!(text.as_deref(), Some("one {} two {}"));
    assert_eq!(Vec::from_iter(fields), ["a.b", "c", "d"]);
    assert!(!tokens.contains(&Token::Word("comment".to_owned())));
}

/// The rows of the table under a heading of `deploy/README.md`, cell by cell.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(root().join("deploy/README.md")).unwrap();
    let (_, section) = text
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("no {heading:?}"));
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells = line.trim().trim_matches('|').split(" | ");
        cells.map(|cell| cell.trim().to_owned()).collect()
    })
    .collect()
}

/// The words in code marks.
fn marked(cell: &str) -> BTreeSet<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn of_the_list() -> Events {
    let mut events = Events::new();
    for row in rows("### Events") {
        let [text, level, fields, meaning, remedy] = &row[..] else {
            panic!("not five cells: {row:?}");
        };
        let text = without_names(text.trim_matches('`'));
        assert!(!meaning.is_empty() && !remedy.is_empty(), "{text}");
        let event = Event {
            level: level.clone(),
            fields: marked(fields),
        };
        assert_eq!(events.insert(text.clone(), event), None, "{text} twice");
    }
    events
}

#[test]
fn every_event_stands_in_the_list_and_every_row_is_an_event() {
    let (code, list) = (of_the_code(), of_the_list());
    let missing: Vec<_> = code
        .iter()
        .filter(|(text, _)| !list.contains_key(*text))
        .collect();
    let stale: Vec<_> = list
        .keys()
        .filter(|text| !code.contains_key(*text))
        .collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "in the code, and not in deploy/README.md: {missing:#?}\nin deploy/README.md, and not in the code: {stale:#?}"
    );
    for (text, event) in &code {
        assert_eq!(list.get(text), Some(event), "{text}");
    }
}

#[test]
fn every_field_is_explained_once_and_its_name_is_dotted_and_lower_case() {
    let explained: Vec<String> = rows("### Fields")
        .iter()
        .flat_map(|row| marked(&row[0]))
        .collect();
    let named: BTreeSet<String> = explained.iter().cloned().collect();
    assert_eq!(named.len(), explained.len(), "{explained:?}");
    let events = of_the_code();
    let used: BTreeSet<String> = events
        .values()
        .flat_map(|event| event.fields.iter().cloned())
        .collect();
    assert_eq!(used, named);
    for name in used {
        let fits = name.split('.').all(|part| {
            let mut letters = part.chars();
            letters
                .next()
                .is_some_and(|first| first.is_ascii_lowercase())
                && letters.all(|letter| letter.is_ascii_lowercase() || letter == '_')
        });
        assert!(fits, "{name}");
    }
}

/// `journalctl` shows the text alone: it must say about whom it is where the fields do.
#[test]
fn a_text_that_is_about_an_account_or_a_message_names_it() {
    for (text, event) in of_the_code() {
        if event.fields.contains("message.key") {
            assert!(text.starts_with("message {}: "), "{text}");
        } else if event.fields.contains("account") {
            assert!(text.starts_with("account {}: "), "{text}");
        }
    }
}
