//! The books of a round: what the endpoint was asked, beside what the database says was asked and seen.

use std::collections::BTreeMap;
use std::time::Duration;

use receiptd::sandbox::Call;

use super::ROUNDING;
use super::harness::House;

/// The endpoint has read what a dead daemon sent when nothing more came for so long.
const QUIET: Duration = Duration::from_millis(50);

/// Everything that was read between two lives of the daemon.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) calls: BTreeMap<String, Vec<Call>>,
    last_call: u64,
    /// Calls of each key that a kill cut off before they were committed.
    pub(crate) cut: BTreeMap<String, usize>,
    /// The consumer's readers, as its cursor met them.
    pub(crate) tailed: Vec<String>,
    /// When the daemon was killed, by the sandbox's clock.
    pub(crate) kills: Vec<i64>,
}

/// Whether the call counts against the month, which the daemon must see as the endpoint does.
pub(crate) fn counts(call: &Call) -> bool {
    call.metered
}

/// Where no kill cut a call off: rows and months have counted what the endpoint was asked.
pub(crate) fn every_call_is_counted(house: &House) {
    let calls = house.sandbox.calls_after(0);
    let made = calls
        .iter()
        .filter(|call| !call.key.is_empty() && counts(call))
        .count();
    assert_eq!(
        house.sql("SELECT sum(call_count), (SELECT sum(calls) FROM api_calls) FROM messages"),
        [format!("{made}|{made}")]
    );
}

impl Ledger {
    /// Takes over what the sandbox was asked since the last time.
    pub(crate) fn hear(&mut self, house: &House) {
        for call in house.sandbox.calls_after(self.last_call) {
            self.last_call = call.seq;
            if !call.key.is_empty() {
                self.calls.entry(call.key.clone()).or_default().push(call);
            }
        }
    }

    /// Reads new readers as a consumer does, with a cursor.
    pub(crate) fn tail(&mut self, house: &House) {
        let last = self
            .tailed
            .last()
            .map_or("0", |row| row.split('|').next().unwrap())
            .to_owned();
        let rows = house.sql(&format!(
            "SELECT id, process_query_key, user_id FROM readers WHERE id > {last} ORDER BY id"
        ));
        self.tailed.extend(rows);
    }

    /// While no daemon runs: what the kill cut off is at most the walk that each key was in.
    pub(crate) async fn audit(&mut self, house: &House, context: &str) {
        // A request may still lie in the socket of a daemon that is dead.
        let mut heard = None;
        while heard != Some(self.last_call) {
            heard = Some(self.last_call);
            tokio::time::sleep(QUIET).await;
            self.hear(house);
        }
        for row in house
            .sql("SELECT process_query_key, call_count, coalesce(last_polled_at, 0) FROM messages")
        {
            let cells: Vec<&str> = row.split('|').collect();
            let (key, counted) = (cells[0], cells[1].parse::<usize>().unwrap());
            let last_walk: i64 = cells[2].parse().unwrap();
            let calls = self.calls.get(key).map(Vec::as_slice).unwrap_or_default();
            let made = calls.iter().filter(|call| counts(call)).count();
            let before = self.cut.get(key).copied().unwrap_or(0);
            let cut = made.checked_sub(counted + before).unwrap_or_else(|| {
                panic!("{context}: {key}: {made} calls made, {before} cut before, {counted} counted: {calls:#?}")
            });
            // The last committed walk began at `last_walk`; the one that was cut off came later.
            let later = calls
                .iter()
                .filter(|call| counts(call) && call.at >= last_walk - ROUNDING)
                .count();
            assert!(
                cut <= later,
                "{context}: {key}: {cut} calls are missing, {later} were made since the last counted walk began"
            );
            self.cut.insert(key.to_owned(), before + cut);
        }
    }
}
