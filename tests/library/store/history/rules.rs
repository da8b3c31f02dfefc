//! What a step may change: the promises, said of the tables before and after it.

use std::collections::{BTreeMap, BTreeSet};

use receiptd::receipt::{
    LaneId, Message, MessageId, Outcome, Schedule, SendStatus, State, UnixMs, WalkEnd,
};
use receiptd::store::{NewMessage, Placement, Pruned, Reader, SeenBy, Selection};

/// Metered and throttled calls of a lane and month.
pub(super) type Calls = BTreeMap<(LaneId, String), (u64, u64)>;

/// All that the tables hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Tables {
    /// By key.
    pub(super) rows: BTreeMap<String, Message>,
    /// In the order recorded, those of deleted messages included.
    pub(super) readers: Vec<(String, Reader)>,
    /// Pushed reads that were not taken yet: key and reader, in the order of their insert.
    pub(super) pushed: Vec<(String, String)>,
    pub(super) calls: Calls,
}

impl Tables {
    fn readers_of(&self, key: &str) -> usize {
        self.readers.iter().filter(|(of, _)| of == key).count()
    }
}

/// What holds at any moment.
pub(super) fn always(tables: &Tables, calls: &Calls) {
    let mut seen = BTreeSet::new();
    for (key, reader) in &tables.readers {
        assert!(
            seen.insert((key, reader.user_id.as_str())),
            "a reader is recorded once: {} of {key}",
            reader.user_id
        );
    }
    for (key, row) in &tables.rows {
        assert_eq!(row.key.as_str(), key);
        assert!(
            row.admitted_at.is_none() || row.next_poll_at.is_some(),
            "a placed message has a next poll: {row:?}"
        );
        assert_eq!(
            row.state.is_final(),
            row.finished_at.is_some(),
            "a final message has an end, and no other: {row:?}"
        );
    }
    let counted = calls.iter().filter(|(_, calls)| **calls != (0, 0));
    let counted: Calls = counted.map(|(of, calls)| (of.clone(), *calls)).collect();
    assert_eq!(
        tables.calls, counted,
        "every call is counted with its result, once"
    );
}

/// Who became complete in this step has all its readers. Later a final row's key may become another by its owner's word,
/// and that key's readers are counted instead.
pub(super) fn completed(before: &Tables, after: &Tables) {
    let was_complete = |row: &Message| {
        let mut known = before.rows.values();
        known.any(|old| old.id == row.id && old.state == State::Complete)
    };
    for row in after.rows.values() {
        if let (State::Complete, Some(expected)) = (row.state, row.expected_readers) {
            assert!(
                row.reader_count >= expected || was_complete(row),
                "a message completes with all its readers: {row:?}"
            );
        }
    }
}

pub(super) fn same(before: &Tables, after: &Tables) -> bool {
    before == after
}

pub(super) fn unchanged(before: &Tables, after: &Tables) {
    assert_eq!(before, after, "nothing may change here");
}

/// Nothing but the rows that `changed` accepts, of the same number and identity, may differ.
fn only_rows(before: &Tables, after: &Tables, changed: impl Fn(&Message, &Message)) {
    assert_eq!(
        (&before.readers, &before.pushed),
        (&after.readers, &after.pushed),
        "no reader comes or goes here"
    );
    let keys = |tables: &Tables| tables.rows.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(before), keys(after), "no key comes or goes here");
    for (old, new) in before.rows.values().zip(after.rows.values()) {
        if old != new {
            changed(old, new);
        }
    }
}

fn number_changed(before: &Tables, after: &Tables) -> u64 {
    let pairs = before.rows.values().zip(after.rows.values());
    pairs.filter(|(old, new)| old != new).count() as u64
}

pub(super) fn inserted(before: &Tables, after: &Tables, new: &NewMessage, added: u64) {
    let key = new.key.as_str();
    assert_eq!(added, u64::from(!before.rows.contains_key(key)));
    let mut rest = after.clone();
    let row = rest.rows.remove(key).expect("an inserted key is there");
    let mut others = before.clone();
    let known = others.rows.remove(key);
    unchanged(&others, &rest);
    if let Some(known) = known {
        assert_eq!(known, row, "a key that is there already stays as it is");
        return;
    }
    assert!(
        before.rows.values().all(|other| other.id != row.id),
        "a row's number is its own"
    );
    assert_eq!(row.state, State::Pending);
    assert_eq!(row.next_poll_at, new.next_poll_at);
    assert_eq!((row.call_count, row.admitted_at), (0, None));
}

pub(super) fn pushed(before: &Tables, after: &Tables, key: &str, user: &str, times: usize) {
    let mut expected = before.clone();
    let one = (key.to_owned(), user.to_owned());
    expected.pushed.extend(std::iter::repeat_n(one, times));
    unchanged(&expected, after);
}

/// At the end what was pushed is left of unknown messages alone.
pub(super) fn all_taken(tables: &Tables) {
    for (key, user) in &tables.pushed {
        assert!(
            !tables.rows.contains_key(key),
            "{user} of {key} was not taken"
        );
    }
}

pub(super) fn pulled(before: &Tables, after: &Tables, latest: UnixMs, pulled: u64) {
    only_rows(before, after, |old, new| {
        let expected = Message {
            next_poll_at: new.next_poll_at,
            ..old.clone()
        };
        assert_eq!(*new, expected, "a set-back clock moves schedules only");
        assert!(new.next_poll_at < old.next_poll_at && new.next_poll_at >= Some(latest));
        assert!(old.state == State::Pending && old.admitted_at.is_some());
    });
    assert_eq!(pulled, number_changed(before, after));
}

pub(super) fn placed(
    before: &Tables,
    after: &Tables,
    schedule: &Schedule,
    places: &[Placement],
    limit: usize,
    now: UnixMs,
) {
    only_rows(before, after, |old, new| {
        assert!(
            old.state == State::Pending && old.admitted_at.is_none(),
            "only a new row is placed: {old:?}"
        );
        let not_before = old.next_poll_at.min(Some(schedule.end_of_life(old)));
        assert!(
            new.next_poll_at >= not_before,
            "not before what its feeder said: {new:?}"
        );
        let place = places.iter().find(|place| place.message.id == old.id);
        let waits_for = place.and_then(|place| place.waits_for.clone());
        let expected = Message {
            last_error_at: waits_for.as_ref().map_or(old.last_error_at, |_| Some(now)),
            last_error: waits_for.or_else(|| old.last_error.clone()),
            ..schedule.place(old, now)
        };
        assert_eq!(*new, expected);
    });
    let new = before
        .rows
        .values()
        .filter(|row| row.state == State::Pending && row.admitted_at.is_none());
    let expected = new.count().min(limit) as u64;
    assert_eq!(number_changed(before, after), expected, "new rows arrive");
}

/// A row that was never asked for again begins with its feeder's wish, and any other keeps its schedule.
fn is_new_again(old: &Message, new: &Message) {
    let has_schedule = old.last_polled_at.is_some() || old.lives_from > old.sent_at;
    assert!(
        !has_schedule || new.next_poll_at == old.next_poll_at,
        "a schedule was lost: {new:?}"
    );
    let expected = Message {
        lane: new.lane.clone(),
        next_poll_at: new.next_poll_at,
        admitted_at: None,
        last_error: new.last_error.clone(),
        last_error_at: new.last_error_at,
        ..old.clone()
    };
    assert_eq!(*new, expected, "what is known of the key stays");
    assert!(new.last_error.is_none() || new.last_error == old.last_error);
}

pub(super) fn unplaced(
    before: &Tables,
    after: &Tables,
    account: &str,
    waiting: bool,
    in_flight: &[MessageId],
    limit: usize,
    unplaced: u64,
) {
    let meant = |row: &&Message| {
        row.state == State::Pending
            && row.admitted_at.is_some()
            && row.lane.account.as_str() == account
            && is_waiting(row) == waiting
            && !in_flight.contains(&row.id)
    };
    only_rows(before, after, |old, new| {
        assert!(meant(&old), "{old:?} was not meant");
        is_new_again(old, new);
    });
    let expected = before.rows.values().filter(meant).count().min(limit) as u64;
    assert_eq!(
        (unplaced, number_changed(before, after)),
        (expected, expected)
    );
}

pub(super) fn given(before: &Tables, after: &Tables, key: &str, account: &str) {
    only_rows(before, after, |old, new| {
        assert_eq!(old.key.as_str(), key);
        assert_eq!(new.lane.account.as_str(), account);
        if old.admitted_at.is_some() {
            is_new_again(old, new);
        }
    });
}

/// Whether a placed row waits for the configuration. In these histories nothing else leaves that error, and a row that
/// was claimed is in a lane.
fn is_waiting(row: &Message) -> bool {
    row.last_error
        .as_ref()
        .is_some_and(|code| code.as_str() == super::daemon::UNKNOWN)
}

pub(super) fn reader_removed(before: &Tables, after: &Tables, key: &str, user: &str) {
    let mut expected = before.clone();
    expected
        .readers
        .retain(|(of, reader)| of != key || reader.user_id.as_str() != user);
    unchanged(&expected, after);
}

/// At most one live claim a key, only what is due, and nothing that is due is kept back.
pub(super) fn claimed(
    tables: &Tables,
    due: &[Message],
    account: &str,
    failing: bool,
    now: UnixMs,
    in_flight: &[MessageId],
    limit: usize,
) {
    let is_due = |row: &Message| row.next_poll_at <= Some(now);
    assert!(due.len() <= limit);
    let mut ids: BTreeSet<MessageId> = in_flight.iter().copied().collect();
    for row in due {
        assert!(
            ids.insert(row.id),
            "at most one live claim a key: {} was claimed twice",
            row.key
        );
        assert_eq!(tables.rows.get(row.key.as_str()), Some(row));
        assert!(
            row.state == State::Pending && is_due(row),
            "not due: {row:?}"
        );
        assert_eq!(row.lane.account.as_str(), account);
        assert_eq!(row.failed_walks > 0, failing);
    }
    let waiting = tables.rows.values().filter(|row| {
        row.state == State::Pending
            && row.admitted_at.is_some()
            && row.lane.account.as_str() == account
            && (row.failed_walks > 0) == failing
            && !is_waiting(row)
            && is_due(row)
            && !in_flight.contains(&row.id)
    });
    assert_eq!(
        due.len(),
        waiting.count().min(limit),
        "what is due is given"
    );
}

pub(super) fn committed(
    before: &Tables,
    after: &Tables,
    outcomes: &[Outcome],
    schedule: &Schedule,
) {
    let mut readers = before.readers.clone();
    let mut pushed = before.pushed.clone();
    let mut new_readers: BTreeMap<MessageId, u32> = BTreeMap::new();
    for outcome in outcomes {
        let key = outcome.claim.key.as_str();
        let row = before.rows.get(key);
        // A deleted row's readers are not recorded, nor are they another row's of the same key.
        let Some(row) = row.filter(|row| row.id == outcome.claim.id) else {
            continue;
        };
        for seen in &outcome.readers {
            // A time is believed as far as it lies between the look before and the one that saw the reader.
            let believed =
                |after: UnixMs, at: UnixMs| seen.read_at.map(|read| read.max(after).min(at));
            let known =
                |(of, reader): &&mut (String, Reader)| of == key && reader.user_id == seen.user_id;
            if let Some((_, reader)) = readers.iter_mut().find(known) {
                let told = believed(reader.seen_after, reader.seen_at);
                reader.read_at = reader.read_at.or(told);
                continue;
            }
            let seen_after = row.last_complete_at.unwrap_or(row.sent_at);
            let reader = Reader {
                user_id: seen.user_id.clone(),
                seen_after,
                seen_at: seen.seen_at,
                read_at: believed(seen_after, seen.seen_at),
                seen_by: match outcome.end.is_pushed() {
                    true => SeenBy::Event,
                    false => SeenBy::Poll,
                },
            };
            readers.push((key.to_owned(), reader));
            *new_readers.entry(row.id).or_default() += 1;
        }
        if outcome.end.is_pushed() {
            // Each event is deleted with the reader that it brought, and no other is.
            for seen in &outcome.readers {
                let event = (key.to_owned(), seen.user_id.as_str().to_owned());
                let place = pushed.iter().position(|other| *other == event);
                pushed.remove(place.expect("an event that was read is there"));
            }
        }
    }
    assert_eq!(
        after.readers, readers,
        "readers only grow, by those of the walks whose row exists, each once"
    );
    assert_eq!(after.pushed, pushed, "an event goes with its reader");
    let keys = |tables: &Tables| tables.rows.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(before), keys(after), "a commit loses no key");
    for (old, new) in before.rows.values().zip(after.rows.values()) {
        let of_it = |outcome: &&Outcome| outcome.claim.id == old.id && outcome.claim.key == old.key;
        match outcomes.iter().find(of_it) {
            None => assert_eq!(old, new, "a row without an outcome stays as it is"),
            Some(outcome) => {
                let found = new_readers.get(&old.id).copied().unwrap_or(0);
                let recorded = after.readers_of(old.key.as_str());
                match outcome.end {
                    WalkEnd::Pushed { in_flight } => {
                        told(old, new, outcome.ended_at, in_flight, recorded, schedule);
                    }
                    _ => settled(old, new, outcome, found, recorded, schedule),
                }
            }
        }
    }
}

/// What pushed reads make of their message: it counts them, it may be complete, and its next poll may be later.
fn told(
    old: &Message,
    new: &Message,
    now: UnixMs,
    in_flight: bool,
    recorded: usize,
    schedule: &Schedule,
) {
    let counted = Message {
        reader_count: u32::try_from(recorded).unwrap(),
        ..old.clone()
    };
    let all_read = old
        .expected_readers
        .or(old.listed)
        .is_some_and(|expected| recorded >= expected as usize);
    let expected = match old.state {
        State::Pending if all_read => Message {
            state: State::Complete,
            finished_at: Some(now),
            last_chance_at: None,
            doubt: None,
            ..counted
        },
        State::Pending if !in_flight && old.admitted_at.is_some() => Message {
            next_poll_at: new.next_poll_at,
            ..counted
        },
        _ => counted,
    };
    assert_eq!(*new, expected, "an event is no answer of the key");
    let latest = old.next_poll_at.max(Some(schedule.end_of_life(old)));
    assert!(new.next_poll_at >= old.next_poll_at && new.next_poll_at <= latest);
}

/// What an outcome makes of its row, in the words of the design and not in those of the code.
fn settled(
    old: &Message,
    new: &Message,
    outcome: &Outcome,
    new_readers: u32,
    recorded: usize,
    schedule: &Schedule,
) {
    assert!(
        new.reader_count as usize == recorded || new.reader_count == old.reader_count + new_readers,
        "readers are counted: {new:?}"
    );
    if !outcome.readers.is_empty() {
        assert_eq!(
            new.reader_count as usize, recorded,
            "and counted anew where some are named"
        );
    }
    let mut counted = Message {
        reader_count: new.reader_count,
        call_count: old.call_count + outcome.calls,
        ..old.clone()
    };
    if outcome.calls > 0 || outcome.failed_calls > 0 {
        counted.last_polled_at = Some(outcome.started_at);
    }
    assert!(
        !old.state.is_final() || new.state == old.state,
        "a final state is left only by a retry: {old:?} became {new:?}"
    );
    if old.state.is_final()
        || old.next_poll_at != outcome.claim.fence
        || old.lane != outcome.claim.lane
    {
        assert_eq!(
            *new, counted,
            "a stale claim changes nothing but adds its readers"
        );
        return;
    }
    assert_eq!(
        (new.reader_count, new.call_count, new.last_polled_at),
        (
            counted.reader_count,
            counted.call_count,
            counted.last_polled_at
        )
    );
    let identity = |row: &Message| {
        let Message {
            id,
            key,
            lane,
            sent_at,
            lives_from,
            expected_readers,
            ..
        } = row.clone();
        (id, key, lane, sent_at, lives_from, expected_readers)
    };
    assert_eq!(
        identity(new),
        identity(old),
        "a feeder's columns are the feeder's"
    );
    let status = outcome.send_status.as_ref().or(old.send_status.as_ref());
    assert_eq!(new.send_status.as_ref(), status);

    let listed = match outcome.send_status {
        // Nobody at all is no list of recipients, and a shorter list takes nothing back.
        Some(_) => old.listed.max(outcome.listed.filter(|listed| *listed > 0)),
        None => old.listed,
    };
    assert_eq!(new.listed, listed);
    let all_read = old
        .expected_readers
        .or(listed)
        .is_some_and(|expected| recorded >= expected as usize);
    let now_said = outcome.send_status.as_ref();
    let answered = old.answered_at.is_some() || now_said.is_some();
    let age = old.age(outcome.ended_at);
    let young = age < schedule.rules.generation_grace;
    // A refusal that contradicts what is known ends nothing alone: the second of its kind does.
    let expiry = matches!(outcome.end, WalkEnd::NotGeneratedOrExpired(_));
    let contradicts = match expiry {
        true => age < schedule.lifetime / 2 || status == Some(&SendStatus::Processing),
        false => young || answered,
    };
    let doubted = old.doubt.as_ref().filter(|_| now_said.is_none());
    let second = doubted.is_some_and(|doubt| {
        let same_kind = doubt.code.as_str().ends_with("expireTime") == expiry;
        same_kind && outcome.ended_at.since(doubt.at) >= schedule.rules.min_interval
    });
    let state = match &outcome.end {
        WalkEnd::Complete if status == Some(&SendStatus::Recalled) => State::Recalled,
        WalkEnd::Complete if status == Some(&SendStatus::Success) && all_read => State::Complete,
        WalkEnd::Failed(_) | WalkEnd::Cut(_) | WalkEnd::Blocked(_)
            if now_said == Some(&SendStatus::Success) && all_read =>
        {
            State::Complete
        }
        WalkEnd::NotGeneratedOrExpired(_) => match now_said {
            Some(SendStatus::Recalled) => State::Recalled,
            Some(SendStatus::Success) if all_read => State::Complete,
            _ if !answered && young => State::Pending,
            _ if answered && contradicts && !second => State::Pending,
            _ => State::Expired,
        },
        WalkEnd::Rejected(_) if contradicts && !second => State::Pending,
        WalkEnd::Rejected(_) => State::Failed,
        WalkEnd::TooOld if old.last_polled_at.is_some() && !old.blocked => State::Expired,
        WalkEnd::TooOld => State::Failed,
        _ => State::Pending,
    };
    assert_eq!(new.state, state, "{outcome:?} made {new:?} of {old:?}");
    let failed = match outcome.end {
        WalkEnd::Failed(_) => (
            old.failed_walks + 1,
            old.failed_calls + outcome.failed_calls,
        ),
        WalkEnd::LaneBlocked(_) | WalkEnd::Released | WalkEnd::OverBudget | WalkEnd::TooOld => {
            (old.failed_walks, old.failed_calls)
        }
        _ => (0, 0),
    };
    assert_eq!((new.failed_walks, new.failed_calls), failed);
    if state.is_final() {
        assert_eq!(new.finished_at, Some(outcome.ended_at));
        assert_eq!(new.last_chance_at, None);
        return;
    }
    if matches!(outcome.end, WalkEnd::LaneBlocked(_) | WalkEnd::Released) {
        assert_eq!(
            new.next_poll_at, old.next_poll_at,
            "it stays as due as it was"
        );
    } else {
        let last = schedule
            .end_of_life(old)
            .max(UnixMs(outcome.ended_at.0 + 1));
        assert!(
            new.next_poll_at > Some(outcome.ended_at) && new.next_poll_at <= Some(last),
            "a polled row moves on, and no farther than its life: {new:?}"
        );
    }
}

/// Adds the outcomes' calls.
pub(super) fn count(calls: &mut Calls, outcomes: &[Outcome]) {
    for outcome in outcomes {
        let month = outcome.started_at.quota_month();
        let count = calls
            .entry((outcome.claim.lane.clone(), month))
            .or_default();
        count.0 += u64::from(outcome.calls);
        count.1 += u64::from(outcome.throttled);
    }
}

pub(super) fn cancelled(before: &Tables, after: &Tables, key: &str) {
    only_rows(before, after, |old, new| {
        assert_eq!(old.key.as_str(), key);
        let expected = Message {
            state: State::Cancelled,
            finished_at: new.finished_at,
            ..old.clone()
        };
        assert_eq!(*new, expected);
    });
    assert_eq!(number_changed(before, after), 1);
}

pub(super) fn deleted(before: &Tables, after: &Tables, key: &str) {
    let mut expected = before.clone();
    expected.rows.remove(key);
    assert_eq!(
        *after, expected,
        "a deleted message leaves its readers until they are pruned"
    );
}

pub(super) fn renamed(before: &Tables, after: &Tables, key: &str, to: &str) {
    let mut expected = before.clone();
    let old = expected.rows.remove(key).unwrap();
    let new = &after.rows[to];
    assert!(
        old.admitted_at.is_some() || new.next_poll_at == old.next_poll_at,
        "a feeder's schedule is the feeder's: {new:?}"
    );
    let begun_anew = Message {
        robot_code: old.robot_code,
        conversation: old.conversation,
        chat: old.chat,
        expected_readers: old.expected_readers,
        state: old.state,
        finished_at: old.finished_at,
        next_poll_at: new.next_poll_at,
        reader_count: u32::try_from(before.readers_of(to)).unwrap(),
        ..Message::inserted(old.id, to.into(), old.lane, old.sent_at)
    };
    expected.rows.insert(to.to_owned(), begun_anew);
    assert_eq!(
        *after, expected,
        "a row with another key is another message, and the old key's readers stay"
    );
}

pub(super) fn rescheduled(before: &Tables, after: &Tables, key: &str, at: UnixMs) {
    let mut expected = before.clone();
    expected.rows.get_mut(key).unwrap().next_poll_at = Some(at);
    unchanged(&expected, after);
}

pub(super) fn retried(
    before: &Tables,
    after: &Tables,
    which: &Selection,
    now: UnixMs,
    limit: usize,
    retried: u64,
) {
    let meant = |row: &&Message| {
        [State::Failed, State::Expired, State::Cancelled].contains(&row.state)
            && match which {
                Selection::Keys(keys) => keys.contains(&row.key),
                Selection::InState(state, _) => row.state == *state,
            }
    };
    only_rows(before, after, |old, new| {
        assert!(
            meant(&old),
            "a final state that was not asked for is left alone: {old:?}"
        );
        let expected = Message {
            state: State::Pending,
            next_poll_at: Some(now),
            lives_from: old.sent_at.max(now),
            admitted_at: None,
            lane: new.lane.clone(),
            failed_walks: 0,
            failed_calls: 0,
            doubt: None,
            finished_at: None,
            last_chance_at: None,
            blocked: false,
            last_error: None,
            last_error_at: None,
            ..old.clone()
        };
        assert_eq!(*new, expected);
    });
    let expected = before.rows.values().filter(meant).count().min(limit) as u64;
    assert_eq!(
        (retried, number_changed(before, after)),
        (expected, expected)
    );
}

pub(super) fn pruned(before: &Tables, after: &Tables, limits: UnixMs, pruned: &Pruned) {
    let old = |row: &&Message| row.finished_at.is_some_and(|at| at < limits);
    let gone: Vec<&Message> = before
        .rows
        .values()
        .filter(|row| !after.rows.contains_key(row.key.as_str()))
        .collect();
    assert!(
        gone.iter().all(old),
        "only what finished long ago is pruned: {gone:?}"
    );
    assert_eq!(gone.len(), before.rows.values().filter(old).count());
    assert_eq!(pruned.messages, gone.len() as u64);
    let mut rest = before.clone();
    rest.rows.retain(|key, _| after.rows.contains_key(key));
    rest.readers.retain(|reader| {
        let stays = after.readers.contains(reader);
        assert!(
            stays || !after.rows.contains_key(&reader.0),
            "readers of a message that is there stay: {reader:?}"
        );
        stays
    });
    unchanged(&rest, after);
    let readers = before.readers.len() - after.readers.len();
    assert_eq!(pruned.readers, readers as u64);
}
