//! Another process with the database open, which does as it is told.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::House;

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

/// What of a server's database a neighbour holds who locks it: all that a result is written to. Reading goes on, as it does
/// beside a writer of a file.
const LOCK: &str = "LOCK TABLE messages, readers, read_events, api_calls IN EXCLUSIVE MODE";

/// The process; it dies with its test.
pub(crate) struct Neighbour {
    process: Child,
    statements: ChildStdin,
    answers: BufReader<ChildStdout>,
    is_psql: bool,
}

impl Neighbour {
    pub(crate) fn of(house: &House) -> Self {
        let mut process = house
            .client(PROGRAM)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            statements: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
            is_psql: house.is_on_a_server(),
        }
    }

    /// Begins to write, and keeps everybody else from it until the next `COMMIT`.
    pub(crate) fn lock(&mut self) {
        if self.is_psql {
            self.run("BEGIN");
            self.run(LOCK);
        } else {
            self.run("BEGIN IMMEDIATE");
        }
    }

    /// Runs a statement of one line, and waits for its end; what it brought of a file, as Python writes a list of tuples.
    pub(crate) fn run(&mut self, statement: &str) -> String {
        let statement = statement.replace('\n', " ");
        if self.is_psql {
            // The shell's answer to a command of its own; what the statement brings is not asked for.
            writeln!(self.statements, "{statement} \\g /dev/null\nSELECT '[]';").unwrap();
        } else {
            writeln!(self.statements, "{statement}").unwrap();
        }
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
