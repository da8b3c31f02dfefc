//! SQL goes out by parameters only. sqlx takes no text but one that is compiled in, unless it is wrapped in `AssertSqlSafe`:
//! so wherever that stands, somebody has looked at what goes in.

use std::path::{Path, PathBuf};

/// Where the wrapper stands, how often, and what it wraps.
const LOOKED_AT: [(&str, usize); 5] = [
    // EXPLAIN before each of our own statements, for a test of their plans.
    ("store/sqlite/mod.rs", 1),
    // Indexes and triggers that a file has lost, as our own migrations made them.
    ("store/sqlite/migrate.rs", 1),
    // The patience of a connection: a constant of ours, in milliseconds.
    ("store/sqlite/upkeep.rs", 1),
    // EXPLAIN before each of our own statements, for a test of their plans.
    ("store/postgres/mod.rs", 1),
    // The names of our own tables and columns, which stand in the code; the values are bound. One of the five is the import.
    ("store/postgres/transfer.rs", 5),
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn statements_are_compiled_in() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 50, "the sources are elsewhere");
    let mut seen = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let wrapped = text.matches("AssertSqlSafe").count();
        let allowed = LOOKED_AT.iter().find(|(known, _)| *known == name);
        let allowed = allowed.map_or(0, |(_, times)| *times);
        assert_eq!(
            wrapped, allowed,
            "src/{name} builds the text of a statement: bind its values, or say in this test why it can't"
        );
        seen += wrapped;
        // The other ways round the compiler's check.
        for way in [".leak()", "Box::leak"] {
            assert!(!text.contains(way), "src/{name}: {way}");
        }
    }
    assert_eq!(
        seen,
        LOOKED_AT.iter().map(|(_, times)| times).sum::<usize>()
    );
}
