//! Another process with the database open, which does as it is told.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Runs a statement a line, and answers with a line.
const PROGRAM: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
db.execute('PRAGMA wal_autocheckpoint = 0')
for line in sys.stdin:
    try:
        print(db.execute(line).fetchall(), flush=True)
    except sqlite3.Error as error:
        print('refused:', error, flush=True)
";

/// The process; it dies with its test.
pub(crate) struct Neighbour {
    process: Child,
    statements: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Neighbour {
    pub(crate) fn of(database: &Path) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", PROGRAM])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            statements: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    /// Runs a statement of one line; what it brought, as Python writes a list of tuples.
    pub(crate) fn run(&mut self, statement: &str) -> String {
        writeln!(self.statements, "{}", statement.replace('\n', " ")).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert!(
            answer.starts_with('['),
            "{statement}: {}",
            answer.trim_end()
        );
        answer.trim_end().to_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // It may be gone, or stopped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
