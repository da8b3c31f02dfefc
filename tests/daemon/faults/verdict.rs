//! Whether a round ended as the truth has it.

use std::collections::BTreeMap;

use receiptd::sandbox::{Call, Truth};

use super::ROUNDING;
use super::harness::House;
use super::ledger::{Ledger, counts};
use super::scenario::{Kind, PROCESSING_MS, Planned, Scenario};

/// A message's row when all is over.
struct Row {
    state: String,
    send_status: String,
    reader_count: usize,
    last_error: String,
    call_count: usize,
    sent_at: i64,
    finished_at: i64,
    last_complete_at: i64,
}

/// A reader as recorded.
struct Seen {
    user: String,
    seen_after: i64,
    seen_at: i64,
}

/// Reads the database and compares; how many readers there are. Panics at the first thing that is not right.
pub(crate) fn pass(
    house: &House,
    scenario: &Scenario,
    ledger: &Ledger,
    acknowledged: &[String],
) -> usize {
    let seed = scenario.seed;
    assert!(house.is_sound(), "seed {seed}");
    let violations = house.sandbox.violations();
    assert!(violations.is_empty(), "seed {seed}: {violations:?}");
    assert!(!house.log().contains("panicked"), "{}", house.log());

    let rows = rows(house);
    let readers = readers(house);
    for key in acknowledged {
        assert!(
            rows.contains_key(key),
            "seed {seed}: {key} was acknowledged to its feeder"
        );
    }
    assert_eq!(rows.len(), acknowledged.len(), "seed {seed}");
    assert_eq!(rows.len(), scenario.messages.len(), "seed {seed}");
    let left = house.sql("SELECT count(*) FROM read_events");
    assert_eq!(left, ["0"], "seed {seed}: pushed reads are left");
    let all = house.sql("SELECT id, process_query_key, user_id FROM readers ORDER BY id");
    assert_eq!(
        ledger.tailed, all,
        "seed {seed}: a consumer with a cursor saw other readers"
    );

    for message in &scenario.messages {
        let row = &rows[&message.key];
        let none = Vec::new();
        let seen = readers.get(&message.key).unwrap_or(&none);
        let calls = ledger
            .calls
            .get(&message.key)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let truth = house.sandbox.truth(&message.key).unwrap();
        let context = format!(
            "seed {seed}: {}: {}, {}, {:?}, {} calls; the last: {:#?}",
            message.key,
            row.state,
            row.send_status,
            row.last_error,
            row.call_count,
            &calls[calls.len().saturating_sub(3)..]
        );
        judge_state(message, row, &truth, &context);
        judge_readers(message, row, seen, calls, &truth, &context);
        judge_calls(scenario, row, calls, ledger, message, &context);
    }
    // Written with the rows, in the same transactions; what a kill cut off may be added by the next daemon.
    let counted: usize = rows.values().map(|row| row.call_count).sum();
    let made = ledger
        .calls
        .values()
        .flatten()
        .filter(|call| counts(call))
        .count();
    let of_month: usize = house.sql("SELECT sum(calls) FROM api_calls")[0]
        .parse()
        .unwrap();
    assert!(
        (counted..=made).contains(&of_month),
        "seed {seed}: {of_month} calls stand in api_calls, {counted} in the rows, and {made} were made"
    );
    all.len()
}

fn judge_state(message: &Planned, row: &Row, truth: &Truth, context: &str) {
    // No answer outlived the kills while the key lived: then nothing is known of it.
    let unheard = row.last_error == "processQueryKey.neverGenerated" && row.reader_count == 0;
    // The last answer that outlived the kills came before it was delivered.
    let undelivered = row.last_complete_at < truth.sent_at.0 + PROCESSING_MS + ROUNDING;
    let wanted = match message.kind {
        Kind::Group | Kind::Late | Kind::Plain if unheard => ("expired", ""),
        Kind::Expected | Kind::Trouble | Kind::Persons => ("complete", "SUCCESS"),
        // Whether a poll came before is the moment's.
        Kind::Told => ("complete", &*row.send_status),
        Kind::Recalled => ("recalled", "RECALLED"),
        Kind::Late if undelivered && row.send_status == "PROCESSING" => ("expired", "PROCESSING"),
        Kind::Group | Kind::Late | Kind::Plain => ("expired", "SUCCESS"),
        Kind::Never => ("expired", ""),
        Kind::Refused => ("failed", ""),
    };
    assert_eq!(
        (&*row.state, &*row.send_status),
        wanted,
        "{context}\n{truth:?}"
    );
    match message.kind {
        Kind::Never => assert_eq!(
            row.last_error, "processQueryKey.neverGenerated",
            "{context}"
        ),
        Kind::Refused => assert_eq!(
            row.last_error, "invalidParameter.param.invalid",
            "{context}"
        ),
        Kind::Group | Kind::Late | Kind::Plain => assert!(
            row.finished_at >= truth.expires_at.0 - ROUNDING,
            "{context}: expired too early"
        ),
        Kind::Recalled => assert!(
            row.finished_at >= truth.recalled_at.unwrap().0 - ROUNDING,
            "{context}: recalled too early"
        ),
        Kind::Expected | Kind::Trouble | Kind::Persons | Kind::Told => {}
    }
}

/// Every reader once, none invented, none missing whom a complete walk must have met.
fn judge_readers(
    message: &Planned,
    row: &Row,
    seen: &[Seen],
    calls: &[Call],
    truth: &Truth,
    context: &str,
) {
    assert_eq!(row.reader_count, seen.len(), "{context}");
    if message.kind == Kind::Told {
        let mut users: Vec<&str> = seen.iter().map(|seen| &*seen.user).collect();
        users.sort_unstable();
        let told = 0..message.expected.unwrap();
        let told: Vec<String> = told.map(|reader| format!("told-{reader}")).collect();
        assert_eq!(users, told, "{context}");
        return;
    }
    let read_at: BTreeMap<&str, i64> = truth
        .readers
        .iter()
        .map(|read| (&*read.user_id, read.read_at.0))
        .collect();
    // A page that hides what follows it leaves readers to a later walk.
    let lies = |call: &&Call| matches!(&*call.outcome, "page=repeat" | "page=no-token");
    let honest = calls.iter().filter(lies).count() == 0;
    let users: std::collections::BTreeSet<&str> =
        seen.iter().map(|seen| seen.user.as_str()).collect();
    assert_eq!(users.len(), seen.len(), "{context}: a reader twice");
    for seen in seen {
        let Some(read_at) = read_at.get(&*seen.user) else {
            panic!("{context}: {} never read it", seen.user);
        };
        assert!(
            seen.seen_at >= read_at - ROUNDING,
            "{context}: {} was seen before reading",
            seen.user
        );
        assert!(
            !honest || seen.seen_after <= row.sent_at || seen.seen_after <= read_at + ROUNDING,
            "{context}: {} read at {read_at}, before a complete walk at {} that did not tell",
            seen.user,
            seen.seen_after
        );
    }
    let last_walk_lied = calls
        .iter()
        .filter(lies)
        .any(|call| call.at >= row.last_complete_at - ROUNDING);
    if last_walk_lied {
        return;
    }
    for read in truth.knowable() {
        let must = match message.kind {
            Kind::Recalled => true,
            _ => read.read_at.0 < row.last_complete_at - ROUNDING,
        };
        assert!(
            !must || users.contains(&*read.user_id),
            "{context}: {read:?} is missing; the last complete walk began at {}",
            row.last_complete_at
        );
    }
    if matches!(message.kind, Kind::Expected | Kind::Trouble | Kind::Persons) {
        assert_eq!(seen.len(), truth.readers.len(), "{context}");
    }
}

/// Counted is what was made, less what a kill cut off; and nothing was made after the end.
fn judge_calls(
    scenario: &Scenario,
    row: &Row,
    calls: &[Call],
    ledger: &Ledger,
    message: &Planned,
    context: &str,
) {
    let made = calls.iter().filter(|call| counts(call)).count();
    let last_kill = ledger.kills.last().copied().unwrap_or(0);
    let since = calls
        .iter()
        .filter(|call| counts(call) && call.at > last_kill + ROUNDING)
        .count();
    assert!(
        row.call_count <= made,
        "{context}: {made} were made: {:?}",
        calls
            .iter()
            .map(|call| (call.at, &*call.outcome))
            .collect::<Vec<_>>()
    );
    assert!(
        row.call_count >= since,
        "{context}: {since} were made after the last kill"
    );
    if scenario.watched {
        let cut = ledger.cut.get(&message.key).copied().unwrap_or(0);
        assert_eq!(
            row.call_count + cut,
            made,
            "{context}: {cut} were cut off by kills"
        );
    }
    // What was pushed may end a message whose walk is on its way: it tries until it is answered, or called back after the
    // commit, which some lives of the daemon slow down.
    let after_the_end = calls
        .iter()
        .filter(|call| call.at > row.finished_at + ROUNDING);
    let is_told = message.kind == Kind::Told;
    for (place, call) in after_the_end.rev().enumerate() {
        assert!(
            is_told && (place == 0 || call.outcome != "ok"),
            "{context}: finished at {}, and then {call:?}",
            row.finished_at
        );
    }
    // What the endpoint said to be final is asked for again only where a kill came before the commit.
    let last_word = calls.iter().find(|call| {
        call.outcome == "ok"
            && call.send_status == "RECALLED"
            && call.readers == row.reader_count_u32()
    });
    if let (Kind::Recalled, Some(last_word)) = (message.kind, last_word) {
        let walks = calls
            .iter()
            .filter(|call| {
                call.at > last_word.at + ROUNDING && call.page == 1 && call.outcome == "ok"
            })
            .count();
        let kills = ledger
            .kills
            .iter()
            .filter(|at| **at >= last_word.at)
            .count();
        assert!(
            walks <= kills,
            "{context}: {walks} walks after the recall was answered, {kills} kills"
        );
    }
}

impl Row {
    fn reader_count_u32(&self) -> u32 {
        u32::try_from(self.reader_count).unwrap()
    }
}

fn rows(house: &House) -> BTreeMap<String, Row> {
    house
        .sql(
            "SELECT process_query_key, state, coalesce(send_status, ''), reader_count, coalesce(last_error, ''), call_count,
             sent_at, finished_at, coalesce(last_complete_at, 0) FROM messages",
        )
        .iter()
        .map(|row| {
            let cells: Vec<&str> = row.split('|').collect();
            let number = |place: usize| cells[place].parse::<i64>().unwrap();
            let row = Row {
                state: cells[1].to_owned(),
                send_status: cells[2].to_owned(),
                reader_count: cells[3].parse().unwrap(),
                last_error: cells[4].to_owned(),
                call_count: cells[5].parse().unwrap(),
                sent_at: number(6),
                finished_at: number(7),
                last_complete_at: number(8),
            };
            (cells[0].to_owned(), row)
        })
        .collect()
}

fn readers(house: &House) -> BTreeMap<String, Vec<Seen>> {
    let mut readers: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for row in house.sql("SELECT process_query_key, user_id, seen_after, seen_at FROM readers") {
        let cells: Vec<&str> = row.split('|').collect();
        readers.entry(cells[0].to_owned()).or_default().push(Seen {
            user: cells[1].to_owned(),
            seen_after: cells[2].parse().unwrap(),
            seen_at: cells[3].parse().unwrap(),
        });
    }
    readers
}
