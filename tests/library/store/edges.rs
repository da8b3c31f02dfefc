//! The behaviour of a store at the edges of its promises: text of all kinds, sizes, repetitions, and what is not its own.

use receiptd::receipt::{
    Doubt, ErrorCode, LaneId, Message, Outcome, RobotCode, SendStatus, State, UnixMs, UserId,
    WalkEnd,
};
use receiptd::store::{
    CallCount, Found, NewMessage, Placement, Pruned, Scope, Selection, Unplace, Writes,
};
use receiptd::store::{Claims as _, Commands as _, Results as _, Upkeep as _};

use super::{
    Backend, T0, add_placed, at, claim, commit, due_rows, keys, lane, new, new_of, new_rows, place,
    polled, pruned, settled, show, try_commit, walk,
};

/// Quotes, wildcards, line ends, other scripts, and what looks like SQL or JSON.
const ODD: [&str; 6] = [
    "o'brien\"; DROP TABLE messages; --",
    "100%_\\x",
    "界\u{1f600}é",
    "a\tb\r\nc\u{1b}[2J",
    "[\"a\",null]",
    "$1 ?1 :key @key",
];

async fn text_comes_back_as_it_went_in<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    for (number, odd) in ODD.into_iter().enumerate() {
        let key = format!("k{number}'\"%_\\;--[]");
        let sent = NewMessage {
            account: odd.into(),
            corp: Some(odd.into()),
            robot_code: Some(odd.into()),
            conversation: Some(odd.into()),
            ..new(&key)
        };
        assert_eq!(store.add(std::slice::from_ref(&sent)).await.unwrap(), 1);
        let lane = LaneId {
            account: odd.into(),
            corp: Some(odd.into()),
        };
        let arrived = new_rows(store, 9).await;
        assert_eq!(keys(&arrived), [key.as_str()]);
        let placed = Message {
            next_poll_at: Some(at(1)),
            admitted_at: Some(T0),
            ..arrived[0].clone()
        };
        place(store, &[placed]).await;
        let due = due_rows(store, &lane, at(1), at(1), &[], 9).await;
        assert_eq!(
            (&due[0].robot_code, &due[0].conversation),
            (&sent.robot_code, &sent.conversation)
        );
        let mut outcome = walk(&due[0], at(2), &ODD);
        outcome.send_status = Some(SendStatus::Other(odd.to_owned()));
        outcome.end = WalkEnd::Cut(odd.into());
        let doubt = Doubt {
            code: odd.into(),
            at: at(3),
        };
        let doubted = |outcomes: &[Outcome], found: &[Found]| {
            let mut writes = settled(outcomes, found);
            writes.messages[0].doubt = Some(doubt.clone());
            writes
        };
        commit(store, &[outcome], doubted).await;
        let (row, readers) = show(store, &key).await;
        assert_eq!(readers, ODD.map(|user| UserId::from(user).to_string()));
        assert_eq!(row.send_status, Some(SendStatus::Other(odd.to_owned())));
        assert_eq!(row.last_error, Some(ErrorCode::from(odd)));
        assert_eq!(row.doubt, Some(doubt));
        assert_eq!(store.stale(&[row.claim()]).await.unwrap(), []);
        let which = Unplace::Lanes(vec![lane]);
        assert_eq!(store.unplace(&which, &[], 9).await.unwrap(), 1);
        let message = new_rows(store, 9).await.remove(0);
        let waits = Placement {
            message: Message {
                admitted_at: Some(at(4)),
                ..message
            },
            waits_for: Some(odd.into()),
            lease: None,
        };
        store.place(&[waits]).await.unwrap();
        let (row, _) = show(store, &key).await;
        assert_eq!(row.last_error, Some(ErrorCode::from(odd)));
        let which = Unplace::Waiting(odd.into());
        assert_eq!(store.unplace(&which, &[], 9).await.unwrap(), 1);
        let rows = new_rows(store, 9).await;
        place(
            store,
            &[Message {
                admitted_at: Some(at(4)),
                ..rows[0].clone()
            }],
        )
        .await;
        backend.put_ticket(odd, odd).await;
        let ticket = store.suite_ticket(odd).await.unwrap();
        assert_eq!(ticket.as_deref(), Some(odd));
    }
    assert_eq!(store.lanes(Scope::All, &[]).await.unwrap().len(), ODD.len());
}

async fn organisations_of_an_account_are_lanes_apart<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let of = |corp: &str| LaneId {
        account: "x".into(),
        corp: Some(corp.into()),
    };
    let rows = ["1", "2"].map(|corp| NewMessage {
        corp: Some(corp.into()),
        ..new_of(corp, "x")
    });
    store.add(&rows).await.unwrap();
    store.add(&[new_of("none", "x")]).await.unwrap();
    let arrived = new_rows(store, 9).await;
    let placed: Vec<_> = arrived
        .into_iter()
        .map(|row| Message {
            next_poll_at: Some(at(1)),
            admitted_at: Some(T0),
            ..row
        })
        .collect();
    place(store, &placed).await;
    for (lane, key) in [(of("1"), "1"), (of("2"), "2"), (lane("x"), "none")] {
        let due = due_rows(store, &lane, at(1), at(1), &[], 9).await;
        assert_eq!(keys(&due), [key]);
        let old = store.overaged(Some(&lane), at(9), &[], 9).await.unwrap();
        assert_eq!(keys(&old), [key]);
    }
    let which = Unplace::Lanes(vec![of("1")]);
    assert_eq!(store.unplace(&which, &[], 9).await.unwrap(), 1);
    assert_eq!(keys(&new_rows(store, 9).await), ["1"]);
}

async fn a_key_named_twice_at_once_is_added_once<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let twice = [new("a"), new("b"), new_of("a", "other")];
    assert_eq!(store.add(&twice).await.unwrap(), 2);
    assert_eq!(store.add(&twice).await.unwrap(), 0);
    let (row, _) = show(store, "a").await;
    assert_eq!(row.lane, lane("default"));
}

async fn a_reader_named_twice_at_once_is_recorded_once<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(1)), ("b", "x", at(1))]).await;
    let a = claim(store, "a", at(1)).await;
    let b = claim(store, "b", at(1)).await;
    let outcomes = [
        walk(&a, at(2), &["u", "v", "u"]),
        walk(&b, at(2), &["v", "u"]),
    ];
    let write = |outcomes: &[Outcome], found: &[Found]| {
        assert_eq!(found[0].new_readers, 2);
        assert_eq!(found[1].new_readers, 2);
        settled(outcomes, found)
    };
    commit(store, &outcomes, write).await;
    assert_eq!(show(store, "a").await.1, ["u", "v"]);
    assert_eq!(show(store, "b").await.1, ["v", "u"]);
}

/// More than one statement carries.
async fn a_commit_brings_tens_of_thousands_of_readers<B: Backend>() {
    const READERS: usize = 12_000;
    let backend = B::fresh().await;
    let store = backend.store();
    let names: Vec<String> = (0..READERS).map(|number| format!("u{number}")).collect();
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    add_placed(store, &[("a", "x", at(1)), ("b", "x", at(1))]).await;
    let a = claim(store, "a", at(1)).await;
    let b = claim(store, "b", at(1)).await;
    let outcomes = [
        walk(&a, at(2), &users[..READERS / 2]),
        walk(&b, at(2), &users),
    ];
    commit(store, &outcomes, settled).await;
    let (row, readers) = show(store, "b").await;
    assert_eq!(row.reader_count as usize, READERS);
    assert_eq!(readers, names);
    let next = row.next_poll_at.unwrap();
    let again = walk(&row, next, &users);
    let nobody = |outcomes: &[Outcome], found: &[Found]| {
        assert_eq!(found[0].new_readers, 0);
        settled(outcomes, found)
    };
    commit(store, &[again], nobody).await;
    assert_eq!(show(store, "a").await.1.len(), READERS / 2);
}

/// Its COMMIT may still be on its way when it is given again: it takes place once all the same.
async fn a_commit_dropped_anywhere_and_given_again_counts_once<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(1))]).await;
    let mut now = at(1);
    let mut users = Vec::new();
    for round in 0..60_usize {
        let claimed = claim(store, "a", now).await;
        users.push(format!("u{round}"));
        let seen: Vec<&str> = users.iter().map(String::as_str).collect();
        let outcomes = [walk(&claimed, now, &seen)];
        let write = |outcomes: &[Outcome], found: &[Found]| Writes {
            calls: vec![CallCount {
                calls: 1,
                ..CallCount::nothing(lane("x"), "2023-11".to_owned())
            }],
            ..settled(outcomes, found)
        };
        let dropped = polled(
            try_commit(store, &outcomes, write),
            round / 4,
            round % 2 == 0,
        )
        .await;
        if dropped.is_none() {
            commit(store, &outcomes, write).await;
        }
        let (row, readers) = show(store, "a").await;
        assert_eq!(readers, users);
        assert_eq!(
            row.reader_count as usize,
            round + 1,
            "moved on without them"
        );
        assert_eq!(row.call_count as usize, round + 1);
        let calls = store.calls_in("2023-11").await.unwrap();
        assert_eq!(calls[0].calls, round as u64 + 1, "counted twice, or not");
        now = row.next_poll_at.unwrap();
    }
}

async fn a_commit_leaves_a_feeders_columns_to_the_feeder<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(1))]).await;
    let claimed = claim(store, "a", at(1)).await;
    let outcome = walk(&claimed, at(2), &[]);
    let write = |outcomes: &[Outcome], found: &[Found]| {
        let decided = settled(outcomes, found).messages.remove(0);
        Writes {
            messages: vec![Message {
                key: "another".into(),
                lane: lane("another"),
                robot_code: Some(RobotCode::from("another")),
                conversation: Some("another".into()),
                expected_readers: Some(7),
                sent_at: UnixMs(1),
                lives_from: UnixMs(1),
                ..decided
            }],
            ..Writes::default()
        }
    };
    commit(store, &[outcome], write).await;
    let (row, _) = show(store, "a").await;
    assert_eq!(row.call_count, 1, "the rest was written");
    let feeders = |row: &Message| {
        let lane = row.lane.clone();
        (lane, row.robot_code.clone(), row.conversation.clone())
    };
    assert_eq!(feeders(&row), feeders(&claimed));
    assert_eq!(
        (row.expected_readers, row.sent_at, row.lives_from),
        (None, T0, T0)
    );
}

async fn a_retry_leaves_what_ended_well<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let complete = NewMessage {
        expected_readers: Some(1),
        ..new_of("complete", "x")
    };
    store.add(&[complete]).await.unwrap();
    add_placed(store, &[("recalled", "x", at(1)), ("pending", "x", at(1))]).await;
    let arrived = new_rows(store, 9).await;
    let placed = Message {
        next_poll_at: Some(at(1)),
        admitted_at: Some(T0),
        ..arrived[0].clone()
    };
    place(store, &[placed]).await;
    let read = walk(&claim(store, "complete", at(1)).await, at(2), &["u"]);
    let mut back = walk(&claim(store, "recalled", at(1)).await, at(2), &["u"]);
    back.send_status = Some(SendStatus::Recalled);
    commit(store, &[read, back], settled).await;
    for (key, state) in [
        ("complete", State::Complete),
        ("recalled", State::Recalled),
        ("pending", State::Pending),
    ] {
        let (before, _) = show(store, key).await;
        assert_eq!(before.state, state);
        for which in [
            Selection::InState(state, None),
            Selection::Keys(vec![key.into()]),
        ] {
            assert_eq!(store.retry(&which, at(9), 9).await.unwrap(), 0, "{key}");
        }
        assert_eq!(show(store, key).await.0, before);
    }
}

/// A large group goes in several batches, and nothing of it stays.
async fn a_group_is_pruned_to_its_last_reader<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let names: Vec<String> = (0..1_000).map(|number| format!("u{number}")).collect();
    let users: Vec<&str> = names.iter().map(String::as_str).collect();
    add_placed(store, &[("a", "x", at(1)), ("b", "x", at(1))]).await;
    for key in ["a", "b"] {
        let claimed = claim(store, key, at(1)).await;
        let mut outcome = walk(&claimed, at(700), &users);
        outcome.send_status = None;
        outcome.end = WalkEnd::Rejected("bad".into());
        commit(store, &[outcome], settled).await;
    }
    let told = store.prunable(at(900), None).await.unwrap();
    let expected = Pruned {
        messages: 2,
        readers: 2_000,
        held: 0,
        events: 0,
    };
    assert_eq!(told, expected);
    let some = store.prune(at(900), Some(State::Failed)).await.unwrap();
    assert!(some.readers < expected.readers, "a step is short: {some:?}");
    let rest = pruned(store, at(900), Some(State::Failed)).await;
    assert_eq!(some.messages + rest.messages, expected.messages);
    assert_eq!(some.readers + rest.readers, expected.readers);
    assert_eq!(backend.readers().await, []);
    assert_eq!(
        store.prunable(at(900), None).await.unwrap(),
        Pruned::default()
    );
}

for_every_backend! {
    text_comes_back_as_it_went_in
    organisations_of_an_account_are_lanes_apart
    a_key_named_twice_at_once_is_added_once
    a_reader_named_twice_at_once_is_recorded_once
    a_commit_brings_tens_of_thousands_of_readers
    a_commit_dropped_anywhere_and_given_again_counts_once
    a_commit_leaves_a_feeders_columns_to_the_feeder
    a_retry_leaves_what_ended_well
    a_group_is_pruned_to_its_last_reader
}
