//! Other services that insert messages: processes with connections of their own, Python for a file and `psql` for a server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::thread::JoinHandle;

use super::harness::House;
use super::scenario::{Kind, Planned};

/// Says each key once its INSERT is committed, after what was pushed of it, each twice. A careless one has no busy timeout,
/// keeps SQLite's own checkpoints, and tries a row again that met a lock.
const PROGRAM: &str = "
import os, sqlite3, sys, time
careless = os.environ['FEEDER'] == 'careless'
db = sqlite3.connect(sys.argv[1], timeout=0 if careless else 30, isolation_level=None)
if not careless:
    db.execute('PRAGMA wal_autocheckpoint = 0')
def inserted(line):
    key, chat, expected, told = line.rstrip('\\n').split('|')
    try:
        for reader in 2 * list(range(int(told))):
            db.execute('INSERT INTO read_events (process_query_key, user_id, read_at) VALUES (?, ?, ?)',
                       (key, f'told-{reader}', int(time.time() * 1000)))
        db.execute('INSERT INTO messages (process_query_key, chat, expected_readers) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
                   (key, chat, int(expected) if expected else None))
    except sqlite3.OperationalError as error:
        if careless and 'locked' in str(error):
            return False
        raise
    print(key, flush=True)
    return True
refused = []
for line in sys.stdin:
    refused = [row for row in refused + [line] if not inserted(row)]
while refused:
    time.sleep(0.002)
    refused = [row for row in refused if not inserted(row)]
";

/// How a careless feeder on a server ends a transaction: after other work, so that rows of later ids are seen before its own.
const LATE_COMMIT: &str = "DO 'BEGIN PERFORM pg_sleep(0.05); END'; COMMIT;";

/// A running feeder.
pub(crate) struct Feeder {
    process: Child,
    rows: ChildStdin,
    is_psql: bool,
    careless: bool,
    acknowledged: JoinHandle<Vec<String>>,
}

impl Feeder {
    pub(crate) fn new(house: &House, careless: bool) -> Self {
        let mut process = house
            .client(PROGRAM)
            .env("FEEDER", if careless { "careless" } else { "patient" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let rows = process.stdin.take().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        Self {
            process,
            rows,
            is_psql: house.is_on_a_server(),
            careless,
            acknowledged: std::thread::spawn(move || said.lines().map(Result::unwrap).collect()),
        }
    }

    pub(crate) fn feed(&mut self, message: &Planned) {
        let told = match message.kind {
            Kind::Told => message.expected.unwrap(),
            _ => 0,
        };
        let (key, chat) = (&message.key, message.chat);
        let expected = message.expected.map(|number| number.to_string());
        if !self.is_psql {
            let expected = expected.unwrap_or_default();
            writeln!(self.rows, "{key}|{chat}|{expected}|{told}").unwrap();
            return;
        }
        let expected = expected.unwrap_or_else(|| "NULL".to_owned());
        let (begin, commit) = match self.careless {
            true => ("BEGIN;", LATE_COMMIT),
            false => ("", ""),
        };
        writeln!(
            self.rows,
            "{begin}
            INSERT INTO read_events (process_query_key, user_id, read_at)
            SELECT '{key}', 'told-' || reader, extract(epoch FROM clock_timestamp()) * 1000
            FROM generate_series(1, 2), generate_series(0, {told} - 1) AS reader;
            INSERT INTO messages (process_query_key, chat, expected_readers) VALUES ('{key}', '{chat}', {expected})
            ON CONFLICT DO NOTHING;
            {commit}
            \\echo {key}"
        )
        .unwrap();
    }

    /// Waits until every row is in; the keys whose INSERT was acknowledged.
    pub(crate) fn finish(mut self) -> Vec<String> {
        drop(self.rows);
        assert!(self.process.wait().unwrap().success(), "a feeder failed");
        self.acknowledged.join().unwrap()
    }
}
