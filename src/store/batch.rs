//! What a group commit decides the same way on every backend.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::Found;
use crate::receipt::{Message, MessageId, Outcome, State};

/// Tells a batch from every other: no walk starts and ends twice.
///
/// Written with the batch, it tells whether a COMMIT whose outcome was unknown took place. The rows alone could not: an
/// outcome without a call leaves no trace on its row, and one whose row was deleted has none, while both are counted.
pub(super) fn token(outcomes: &[Outcome]) -> String {
    let mut hasher = DefaultHasher::new();
    for outcome in outcomes {
        let Outcome {
            claim,
            started_at,
            ended_at,
            calls,
            throttled,
            ..
        } = outcome;
        (
            claim.id,
            claim.fence,
            started_at,
            ended_at,
            calls,
            throttled,
        )
            .hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// What there is of each outcome's row, before its readers are looked at.
pub(super) fn found(outcomes: &[Outcome], rows: impl IntoIterator<Item = Message>) -> Vec<Found> {
    let rows = rows.into_iter().map(|row| (row.id, row));
    let mut rows: HashMap<MessageId, Message> = rows.collect();
    outcomes
        .iter()
        .map(|outcome| Found {
            // A row that bears another key by now is another message.
            row: rows
                .remove(&outcome.claim.id)
                .filter(|row| row.key == outcome.claim.key),
            new_readers: 0,
            read_at: Vec::new(),
            recorded: None,
            fenced: false,
        })
        .collect()
}

/// The places of the outcomes whose recorded readers are counted.
pub(super) fn counted(outcomes: &[Outcome], found: &[Found]) -> Vec<usize> {
    let pairs = outcomes.iter().zip(found).enumerate();
    pairs
        .filter(|(_, (outcome, found))| {
            let row = found.row.as_ref();
            row.is_some_and(|row| counts_readers(row, outcome))
        })
        .map(|(place, _)| place)
        .collect()
}

/// Whether a message's recorded readers are counted: where readers were named, on its first poll (its key may have been
/// deleted and inserted again), and where it would complete by what was counted so far.
fn counts_readers(row: &Message, outcome: &Outcome) -> bool {
    !outcome.readers.is_empty()
        || row.last_polled_at.is_none() && outcome.attempted()
        || row.all_read()
}

/// The rows to be written, apart: those that stay pending where they are, as most do, and the others. A backend writes fewer
/// columns of the former.
pub(super) fn pending_and_changed<'m>(
    found: &[Found],
    messages: &'m [Message],
) -> (Vec<&'m Message>, Vec<&'m Message>) {
    let before: HashMap<MessageId, &Message> = found
        .iter()
        .filter_map(|found| found.row.as_ref())
        .map(|row| (row.id, row))
        .collect();
    messages.iter().partition(|row| {
        before
            .get(&row.id)
            .is_some_and(|old| stays_pending(old, row))
    })
}

/// Whether nothing differs but when it is polled next, what was seen and what went wrong last.
fn stays_pending(old: &Message, new: &Message) -> bool {
    old.state == State::Pending
        && new.state == State::Pending
        && old.admitted_at == new.admitted_at
        && old.last_chance_at == new.last_chance_at
        && old.finished_at == new.finished_at
        && old.failed_walks == new.failed_walks
        && old.failed_calls == new.failed_calls
        && old.doubt == new.doubt
        && old.listed == new.listed
}
