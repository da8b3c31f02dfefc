//! Rows of `messages` and `read_events` that got round every check. An input is a line a cell, `column=kind:value`: `n` NULL,
//! `i` an integer, `r` a real number, `t` text, `b` a BLOB, `T` text of so many characters, `B` a BLOB of so many bytes.
//! `admitted` alone on a line: the row is corrupted after the scheduler has placed it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use receiptd::receipt::{LaneId, Message, Outcome, SendStatus, State, UnixMs, WalkEnd};
use receiptd::settings::{SqliteFile, Synchronous};
use receiptd::store::sqlite::{Role, SqliteStore};
use receiptd::store::{
    Begun, DueQuery, EventWrites, LastChanceFit, NewMessage, Placement, ReadEvent, Scope, Unplace,
    Wanted, Writes,
};
use receiptd::store::{Claims as _, Commands as _, Results as _, Upkeep as _};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};

/// Every column of a message that somebody may corrupt.
const COLUMNS: [&str; 31] = [
    "process_query_key",
    "account",
    "corp_id",
    "robot_code",
    "open_conversation_id",
    "chat",
    "expected_readers",
    "sent_at",
    "next_poll_at",
    "state",
    "send_status",
    "reader_count",
    "last_polled_at",
    "finished_at",
    "call_count",
    "last_error",
    "last_error_at",
    "inserted_at",
    "admitted_at",
    "not_before",
    "last_complete_at",
    "answered_at",
    "last_chance_at",
    "retried_at",
    "blocked",
    "lane_corp",
    "failed_walks",
    "failed_calls",
    "doubt",
    "doubt_at",
    "listed",
];
/// The same of a pushed read; an input puts `event.` before their names.
const EVENT_COLUMNS: [&str; 5] = [
    "process_query_key",
    "user_id",
    "read_at",
    "waits_since",
    "refused",
];
/// The largest cell that an input may ask for.
const LARGEST: usize = 4 << 20;
const NOW: UnixMs = UnixMs(1_800_000_000_000);

struct Bench {
    runtime: tokio::runtime::Runtime,
    store: SqliteStore,
    feeder: SqliteConnection,
    _directory: tempfile::TempDir,
}

/// Those that nobody uses: an input waits mostly, and several may be tried side by side.
static BENCHES: Mutex<Vec<Bench>> = Mutex::new(Vec::new());

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        // In memory where the machine has such a place: the disk is not what is tried here.
        let memory = PathBuf::from("/dev/shm");
        let directory = tempfile::tempdir_in(memory)
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let path = directory.path().join("receiptd.db");
        let database = SqliteFile {
            path: path.clone(),
            synchronous: Synchronous::Normal,
        };
        let (store, feeder) = runtime.block_on(async {
            let store = SqliteStore::open(&database, Role::Owner).await.unwrap();
            let options = SqliteConnectOptions::new().filename(&path);
            let options = options.pragma("ignore_check_constraints", "ON");
            let feeder = options.disable_statement_logging().connect().await.unwrap();
            (store, feeder)
        });
        Self {
            runtime,
            store,
            feeder,
            _directory: directory,
        }
    }
}

enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(Vec<u8>),
    Blob(Vec<u8>),
    Unknown,
}

fn cell(value: &[u8]) -> Cell {
    let [kind, rest @ ..] = value else {
        return Cell::Null;
    };
    let rest = rest.strip_prefix(b":").unwrap_or(rest);
    let word = String::from_utf8_lossy(rest);
    let size = || word.parse().unwrap_or(0_usize).min(LARGEST);
    match kind {
        b'n' => Cell::Null,
        b'i' => Cell::Integer(word.parse().unwrap_or(0)),
        b'r' => Cell::Real(word.parse().unwrap_or(0.5)),
        b't' => Cell::Text(rest.to_vec()),
        b'b' => Cell::Blob(rest.to_vec()),
        b'T' => Cell::Text(vec![b'x'; size()]),
        b'B' => Cell::Blob(vec![0; size()]),
        _ => Cell::Unknown,
    }
}

/// Whatever a row holds: no statement of the store fails, and the row beside it is served.
pub fn rows(input: &[u8]) {
    let benches = || BENCHES.lock().unwrap_or_else(PoisonError::into_inner);
    let idle = benches().pop();
    let mut bench = idle.unwrap_or_else(Bench::new);
    let Bench {
        runtime,
        store,
        feeder,
        ..
    } = &mut bench;
    runtime.block_on(async {
        let new = |key: &str| NewMessage {
            sent_at: Some(UnixMs(1_700_000_000_000)),
            ..NewMessage::new(key, "default")
        };
        store.add(&[new("hostile"), new("sound")]).await.unwrap();
        let events = "INSERT INTO read_events (process_query_key, user_id) VALUES ('hostile', 'u'), ('sound', 'u')";
        sqlx::raw_sql(events).execute(&mut *feeder).await.unwrap();
        let mut claimed = None;
        for line in input.split(|byte| *byte == b'\n').take(40) {
            if line == b"admitted" {
                place(store).await;
                let found = store.message(&"hostile".into()).await.unwrap();
                claimed = claimed.or(found.map(|(row, _)| row));
                continue;
            }
            let Some(equals) = line.iter().position(|byte| *byte == b'=') else {
                continue;
            };
            let (name, value) = (&line[..equals], &line[equals + 1..]);
            let (table, name, columns) = match name.strip_prefix(b"event.") {
                Some(name) => ("read_events", name, &EVENT_COLUMNS[..]),
                None => ("messages", name, &COLUMNS[..]),
            };
            let column = columns.iter().find(|column| column.as_bytes() == name);
            if let Some(column) = column {
                corrupt(feeder, table, column, cell(value)).await;
            }
        }
        judge(store, claimed).await;
        let clear = "DELETE FROM messages; DELETE FROM readers; DELETE FROM orphans; DELETE FROM read_events";
        sqlx::raw_sql(clear).execute(feeder).await.unwrap();
    });
    benches().push(bench);
}

async fn corrupt(feeder: &mut SqliteConnection, table: &str, column: &str, cell: Cell) {
    // The id of the first row: its key may be what was corrupted last.
    let set = |value: &str| {
        AssertSqlSafe(format!(
            "UPDATE {table} SET {column} = {value} WHERE id = (SELECT min(id) FROM {table})"
        ))
    };
    let done = match cell {
        Cell::Null => sqlx::query(set("NULL")).execute(feeder).await,
        Cell::Integer(number) => sqlx::query(set("?1")).bind(number).execute(feeder).await,
        Cell::Real(number) => sqlx::query(set("?1")).bind(number).execute(feeder).await,
        Cell::Text(bytes) => {
            sqlx::query(set("CAST(?1 AS TEXT)"))
                .bind(bytes)
                .execute(feeder)
                .await
        }
        Cell::Blob(bytes) => sqlx::query(set("?1")).bind(bytes).execute(feeder).await,
        Cell::Unknown => return,
    };
    // NOT NULL and UNIQUE cannot be switched off.
    drop(done);
}

async fn place(store: &SqliteStore) {
    // A row is quarantined by the first who meets it.
    for _ in 0..3 {
        let rows = store.new_rows(Scope::All, None, 9, 99).await.unwrap().rows;
        let places: Vec<Placement> = rows
            .into_iter()
            .map(|row| Placement {
                message: Message {
                    next_poll_at: Some(UnixMs(1)),
                    admitted_at: Some(UnixMs(1)),
                    ..row
                },
                waits_for: None,
                lease: None,
            })
            .collect();
        store.place(&places).await.unwrap();
    }
}

/// Takes pushed reads over until there are none: whatever one of them holds, the one beside it is given.
async fn take_pushed(store: &SqliteStore) {
    let mut given = false;
    for _ in 0..4 {
        let read = store.read_events(&[], 1, NOW).await.unwrap();
        let sound =
            |event: &ReadEvent| event.key.as_str() == "sound" && event.user_id.as_str() == "u";
        given |= read.events.iter().any(sound);
        let events = EventWrites {
            taken: Vec::new(),
            waiting: read.events.iter().map(|event| (event.id, NOW)).collect(),
        };
        if let Begun::Open(open) = store.begin(&[]).await.unwrap() {
            let writes = Writes {
                events,
                ..Writes::default()
            };
            open.commit(&writes).await.unwrap();
        }
    }
    assert!(given, "a corrupt event kept its neighbour waiting");
    store.forget_events(NOW, NOW, 9).await.unwrap();
}

/// Asks the store everything that the daemon and the commands ask.
async fn judge(store: &SqliteStore, claimed: Option<Message>) {
    let lane = LaneId {
        account: "default".into(),
        corp: None,
    };
    place(store).await;
    let mut served = false;
    for _ in 0..3 {
        let lanes: Vec<LaneId> = store
            .lanes(Scope::All, &[])
            .await
            .unwrap()
            .into_iter()
            .map(|due| due.lane)
            .collect();
        for wanted in [
            Wanted::Sound,
            Wanted::SoundShuffled,
            Wanted::Failing,
            Wanted::LastChances,
        ] {
            let query = DueQuery {
                lanes: &lanes,
                wanted,
                now: NOW,
                last_chances_until: NOW,
                without: &[],
                per_lane: 9,
            };
            let rows = store.due(&query).await.unwrap();
            served |= rows.iter().any(|row| row.key.as_str() == "sound");
            let claims: Vec<_> = rows.iter().map(Message::claim).collect();
            store.stale(&claims).await.unwrap();
        }
    }
    assert!(served, "a corrupt row kept its neighbour waiting");
    if let Some(row) = claimed {
        let outcome = Outcome {
            calls: 1,
            send_status: Some(SendStatus::Success),
            ..Outcome::without_call(row.claim(), NOW, WalkEnd::Complete)
        };
        if let Begun::Open(open) = store.begin(&[outcome]).await.unwrap() {
            let rows = open.found().iter().filter_map(|found| found.row.clone());
            let writes = Writes {
                messages: rows.collect(),
                ..Writes::default()
            };
            open.commit(&writes).await.unwrap();
        }
    }
    take_pushed(store).await;
    store.overaged(Some(&lane), NOW, &[], 9).await.unwrap();
    store.overaged(None, NOW, &[], 9).await.unwrap();
    store.pull_forward(UnixMs(5), 9).await.unwrap();
    store.totals(NOW).await.unwrap();
    store.owed(NOW).await.unwrap();
    let fit = LastChanceFit {
        now: NOW,
        calls_per_second: 0.001,
        slack: Duration::from_secs(60),
        again: Duration::from_secs(60),
    };
    store.last_chances_to_begin(&lane, &fit).await.unwrap();
    store.message(&"hostile".into()).await.unwrap();
    for which in [
        Unplace::Lanes(vec![lane]),
        Unplace::Waiting("default".into()),
    ] {
        store.unplace(&which, &[], 9).await.unwrap();
    }
    let which = receiptd::store::Selection::InState(State::Failed, None);
    store.retry(&which, NOW, 9).await.unwrap();
    store.prunable(NOW, None).await.unwrap();
    store.prune(NOW, None).await.unwrap();
}
