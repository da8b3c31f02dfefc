//! The Chinese documents say what the English ones say: the same commands, names, links, and figures.

use std::collections::BTreeSet;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A document's parts that are the same in every language.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    /// Fenced blocks, in order, without what is said in comments.
    blocks: Vec<Vec<String>>,
    /// What stands in backquotes outside of them: commands, columns, settings, paths.
    names: BTreeSet<String>,
    links: BTreeSet<String>,
    /// Rows of each table.
    tables: Vec<usize>,
    headings: usize,
}

/// A line of a program without its comment.
fn code(line: &str) -> String {
    let comments = [" # ", "  # "];
    let end = comments.iter().filter_map(|mark| line.find(mark)).min();
    line[..end.unwrap_or(line.len())].trim().to_owned()
}

fn parts(text: &str) -> Parts {
    let mut parts = Parts {
        blocks: Vec::new(),
        names: BTreeSet::new(),
        links: BTreeSet::new(),
        tables: Vec::new(),
        headings: 0,
    };
    let mut fenced = false;
    let mut rows = 0;
    for line in text.lines().chain([""]) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            if fenced {
                parts.blocks.push(vec![line.trim().to_owned()]);
            }
            continue;
        }
        if fenced {
            parts.blocks.last_mut().unwrap().push(code(line));
            continue;
        }
        parts.headings += usize::from(line.starts_with('#'));
        if line.starts_with('|') {
            rows += 1;
        } else if rows > 0 {
            parts.tables.push(rows);
            rows = 0;
        }
        let quoted = line.split('`').skip(1).step_by(2);
        parts.names.extend(quoted.map(str::to_owned));
        let links = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        parts
            .links
            .extend(links.map(|link| link.replace(".zh-CN", "")));
    }
    assert!(!fenced, "a block without an end");
    parts
}

fn same(english: &str, chinese: &str, what: &str) {
    let (english, chinese) = (parts(english), parts(chinese));
    let missing: Vec<_> = english.names.difference(&chinese.names).collect();
    let extra: Vec<_> = chinese.names.difference(&english.names).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{what}: the translation lacks {missing:?}, and has {extra:?}"
    );
    assert_eq!(english, chinese, "{what}");
    assert!(!english.blocks.is_empty(), "{what}");
}

#[test]
fn the_readme_is_the_same_in_chinese() {
    same(&read("README.md"), &read("README.zh-CN.md"), "README");
}

#[test]
fn the_tables_contract_is_the_same_in_chinese() {
    let [english, chinese] = ["", ".zh-CN"].map(|of| read(&format!("migrations/README{of}.md")));
    same(&english, &chinese, "migrations/README");
}

/// Of the guide for operation, the way to a running service.
#[test]
fn the_way_to_a_running_service_is_the_same_in_chinese() {
    let english = read("deploy/README.md");
    let end = english.find("\n### Who may do what").unwrap();
    // What the translation says in addition: that the rest is in English.
    let chinese = read("deploy/README.zh-CN.md");
    let also = chinese.rfind("\n---\n").unwrap();
    same(&english[..end], &chinese[..also], "deploy/README");
}

/// The costs that the README promises are those that were measured.
#[test]
fn the_readmes_costs_are_the_measured_ones() {
    let measured = read("benches/README.md");
    let readme = read("README.md");
    let (_, costs) = readme.split_once("**What it costs.**").unwrap();
    let rows = costs.lines().skip_while(|line| !line.starts_with("|--:"));
    let rows: Vec<&str> = rows
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .collect();
    assert!(rows.len() >= 3, "{rows:?}");
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [messages, calls, delay] = cells[..] else {
            panic!("{row}");
        };
        let plain = |number: &str| number.replace(',', "").replace(" s", "");
        let found = measured.lines().any(|line| {
            let of: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            of.len() == 5
                && of[0] == plain(messages)
                && of[1] == plain(calls)
                && of[4] == plain(delay)
        });
        assert!(found, "{row} is not in benches/README.md");
    }
}
