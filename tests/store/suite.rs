//! The behaviour of a store, backend by backend.

use std::time::Duration;

use receiptd::receipt::{
    ErrorCode, LaneId, Message, MessageKey, SendStatus, State, UnixMs, Upcoming, UserId, WalkEnd,
};
use receiptd::store::{
    CallCount, HabitsRow, NewMessage, Owed, Pruned, Reader, Selection, Store, Writes,
};

use super::{
    Backend, T0, admitted, arrivals, at, claim, keys, lane, new, new_of, pruned, settled, show,
    walk,
};

async fn an_added_message_arrives_once<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let full = NewMessage {
        corp: Some("corp".into()),
        robot_code: Some("robot".into()),
        conversation: Some("cid==".into()),
        chat: receiptd::receipt::Chat::Group,
        expected_readers: Some(3),
        next_poll_at: Some(at(60)),
        ..new_of("b", "other")
    };
    assert_eq!(store.add(&[new("a"), full.clone()]).await.unwrap(), 2);
    assert_eq!(store.add(&[new("a"), new("c")]).await.unwrap(), 1);
    let arrived = arrivals(store, &[], 10, T0).await;
    assert_eq!(keys(&arrived), ["a", "b", "c"]);
    let [a, b, c] = &arrived[..] else { panic!() };
    assert_eq!(a.lane, lane("default"));
    assert_eq!((a.sent_at, a.lives_from, a.next_poll_at), (T0, T0, None));
    assert_eq!(a.state, State::Pending);
    assert_eq!(b.lane.corp, full.corp);
    assert_eq!(b.robot_code, full.robot_code);
    assert_eq!(b.conversation, full.conversation);
    assert_eq!(b.chat, full.chat);
    assert_eq!(b.expected_readers, Some(3));
    assert_eq!(b.next_poll_at, Some(at(60)));
    let rest = arrivals(store, &[a.id], 1, T0).await;
    assert_eq!(keys(&rest), ["b"]);
    assert_eq!(store.lanes(&[]).await.unwrap(), []);
    store
        .admit(&[Message {
            next_poll_at: Some(at(5)),
            admitted_at: Some(at(1)),
            last_chance_at: Some(at(100)),
            ..c.clone()
        }])
        .await
        .unwrap();
    assert_eq!(keys(&arrivals(store, &[], 10, T0).await), ["a", "b"]);
    let (c, _) = show(store, "c").await;
    assert_eq!(c.next_poll_at, Some(at(5)));
    assert_eq!(c.admitted_at, Some(at(1)));
    assert_eq!(c.last_chance_at, Some(at(100)));
}

/// A million new rows of one lane do not stand before another's first.
async fn new_rows_are_asked_for_lane_by_lane<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store
        .add(&[new_of("a1", "a"), new_of("a2", "a"), new_of("b1", "b")])
        .await
        .unwrap();
    let lanes = store.new_lanes().await.unwrap();
    assert_eq!(lanes, [lane("a"), lane("b")]);
    let first = store.arrivals(&lane("b"), &[], 1, T0).await.unwrap();
    assert_eq!(keys(&first), ["b1"]);
    let first = store.arrivals(&lane("a"), &[], 1, T0).await.unwrap();
    assert_eq!(keys(&first), ["a1"]);
    // Also those in flight are new, until their first result is written.
    let taken = [first[0].id];
    let next = store.arrivals(&lane("a"), &taken, 9, T0).await.unwrap();
    assert_eq!(keys(&next), ["a2"]);
    assert_eq!(store.new_lanes().await.unwrap(), lanes);
}

async fn a_message_sent_in_the_future_was_sent_at_its_insert<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let future = UnixMs(9_000_000_000_000);
    let late = NewMessage {
        sent_at: Some(future),
        ..new("a")
    };
    let now = NewMessage {
        sent_at: None,
        ..new("b")
    };
    store.add(&[late, now]).await.unwrap();
    for row in arrivals(store, &[], 10, T0).await {
        assert!(
            row.sent_at > T0 && row.sent_at < future,
            "{:?}",
            row.sent_at
        );
        assert_eq!(row.lives_from, row.sent_at);
    }
}

async fn admitting_leaves_a_cancelled_or_admitted_row_alone<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store.add(&[new("a"), new("b")]).await.unwrap();
    let arrived = arrivals(store, &[], 10, T0).await;
    let place = |seconds| {
        let rows = arrived.iter().map(|row| Message {
            next_poll_at: Some(at(seconds)),
            admitted_at: Some(at(seconds)),
            ..row.clone()
        });
        rows.collect::<Vec<_>>()
    };
    backend.cancel("a").await;
    store.admit(&place(5)).await.unwrap();
    store.admit(&place(9)).await.unwrap();
    let (a, _) = show(store, "a").await;
    assert_eq!((a.state, a.next_poll_at), (State::Cancelled, None));
    assert!(a.finished_at.is_some(), "a cancelled row has an end");
    let (b, _) = show(store, "b").await;
    assert_eq!(b.next_poll_at, Some(at(5)));
}

async fn lanes_tell_their_first_due_row_beyond_those_in_flight<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = [
        ("a", "x", at(5)),
        ("b", "x", at(3)),
        ("c", "y", at(4)),
        ("d", "", at(1)),
    ];
    admitted(store, &rows[..3]).await;
    let corps = ["1", "2"].map(|corp| NewMessage {
        corp: Some(corp.into()),
        ..new_of(corp, "x")
    });
    store.add(&corps).await.unwrap();
    let arrived = arrivals(store, &[], 10, T0).await;
    let placed: Vec<_> = arrived
        .into_iter()
        .map(|row| Message {
            next_poll_at: Some(at(9)),
            admitted_at: Some(T0),
            ..row
        })
        .collect();
    store.admit(&placed).await.unwrap();
    let due = |lanes: Vec<receiptd::store::LaneDue>| {
        let mut due: Vec<_> = lanes
            .into_iter()
            .map(|due| (due.lane.to_string(), due.next_poll_at))
            .collect();
        due.sort();
        due
    };
    let word = str::to_owned;
    assert_eq!(
        due(store.lanes(&[]).await.unwrap()),
        [
            (word("x"), at(3)),
            (word("x/1"), at(9)),
            (word("x/2"), at(9)),
            (word("y"), at(4))
        ]
    );
    let (b, _) = show(store, "b").await;
    let (c, _) = show(store, "c").await;
    let in_flight = [b.id, c.id, placed[0].id];
    assert_eq!(
        due(store.lanes(&in_flight).await.unwrap()),
        [(word("x"), at(5)), (word("x/2"), at(9))]
    );
}

async fn due_rows_come_in_order_and_without_those_in_flight<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = [
        ("a", "x", at(5)),
        ("b", "x", at(3)),
        ("c", "y", at(1)),
        ("d", "x", at(4)),
        ("e", "x", at(7)),
    ];
    admitted(store, &rows).await;
    let due = store.due(&lane("x"), at(5), at(5), &[], 10).await.unwrap();
    assert_eq!(keys(&due), ["b", "d", "a"]);
    let rest = store
        .due(&lane("x"), at(5), at(5), &[due[1].id], 10)
        .await
        .unwrap();
    assert_eq!(keys(&rest), ["b", "a"]);
    let two = store.due(&lane("x"), at(9), at(9), &[], 2).await.unwrap();
    assert_eq!(keys(&two), ["b", "d"]);
    assert_eq!(
        store.due(&lane("x"), at(2), at(2), &[], 9).await.unwrap(),
        []
    );
    assert_eq!(
        store.due(&lane("z"), at(9), at(9), &[], 9).await.unwrap(),
        []
    );
}

async fn overdue_last_chances_go_first<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store
        .add(&[new("a"), new("b"), new("c"), new("d")])
        .await
        .unwrap();
    let arrived = arrivals(store, &[], 10, T0).await;
    let chances = [None, Some(at(8)), Some(at(6)), Some(at(99))];
    let placed: Vec<_> = arrived
        .into_iter()
        .zip(chances)
        .zip([1, 8, 6, 2])
        .map(|((row, last_chance_at), due)| Message {
            next_poll_at: Some(at(due)),
            admitted_at: Some(T0),
            last_chance_at,
            ..row
        })
        .collect();
    store.admit(&placed).await.unwrap();
    let all = store
        .due(&lane("default"), at(10), at(10), &[], 10)
        .await
        .unwrap();
    assert_eq!(keys(&all), ["c", "b", "a", "d"]);
    let three = store
        .due(&lane("default"), at(10), at(10), &[], 3)
        .await
        .unwrap();
    assert_eq!(keys(&three), ["c", "b", "a"]);
    let early = store
        .due(&lane("default"), at(7), at(7), &[], 10)
        .await
        .unwrap();
    assert_eq!(keys(&early), ["c", "a", "d"]);
}

/// Where last chances jam, those that are not due yet are asked for too, but never before their feeder allows.
async fn last_chances_can_be_taken_early<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = ["soon", "later", "held", "none"].map(new);
    store.add(&rows).await.unwrap();
    let mut placed = arrivals(store, &[], 9, T0).await;
    let last = [Some(at(20)), Some(at(30)), Some(at(20)), None];
    for (row, last) in placed.iter_mut().zip(last) {
        row.admitted_at = Some(T0);
        row.next_poll_at = Some(at(15));
        row.last_chance_at = last;
    }
    // Its feeder wants it later than its last chance.
    placed[2].next_poll_at = Some(at(25));
    store.admit(&placed).await.unwrap();
    let x = lane("default");
    assert_eq!(store.due(&x, at(10), at(10), &[], 9).await.unwrap(), []);
    let early = store.due(&x, at(10), at(25), &[], 9).await.unwrap();
    assert_eq!(keys(&early), ["soon"]);
    let early = store.due(&x, at(10), at(99), &[], 9).await.unwrap();
    assert_eq!(keys(&early), ["soon", "later"]);
    let all = store.due(&x, at(15), at(30), &[], 9).await.unwrap();
    assert_eq!(keys(&all), ["soon", "later", "none"]);
}

async fn last_chances_are_counted_for_the_plans<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store.add(&["a", "b", "c", "d"].map(new)).await.unwrap();
    store.add(&[new_of("e", "other")]).await.unwrap();
    let mut placed = arrivals(store, &[], 9, T0).await;
    let last = [Some(at(10)), Some(at(11)), Some(at(70)), None, Some(at(10))];
    for (row, last) in placed.iter_mut().zip(last) {
        row.admitted_at = Some(T0);
        row.next_poll_at = Some(at(5));
        row.last_chance_at = last;
    }
    store.admit(&placed).await.unwrap();
    let x = lane("default");
    let owed = |until, in_all| Owed { until, in_all };
    assert_eq!(store.owed(&x, at(70)).await.unwrap(), owed(2, 3));
    assert_eq!(store.owed(&x, at(71)).await.unwrap(), owed(3, 3));
    let minute = Duration::from_secs(60);
    let parts = store.last_chances(&x, minute).await.unwrap();
    let part = |until, count| Upcoming { until, count };
    assert_eq!(parts, [part(at(11), 2), part(at(70), 1)]);
    assert_eq!(store.last_chances(&lane("y"), minute).await.unwrap(), []);
    let claimed = claim(store, "a", at(5)).await;
    store
        .commit(&[walk(&claimed, at(10), &[])], |found| Writes {
            messages: vec![Message {
                state: State::Expired,
                ..found[0].row.clone().unwrap()
            }],
            ..Writes::default()
        })
        .await
        .unwrap();
    assert_eq!(store.owed(&x, at(70)).await.unwrap(), owed(1, 2));
}

async fn a_walk_records_readers_once_and_moves_the_row_on<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    admitted(store, &[("a", "x", at(5))]).await;
    let claimed = claim(store, "a", at(5)).await;
    let first = walk(&claimed, at(6), &["u1", "u2"]);
    let mut decided = 0;
    let write = |found: &[receiptd::store::Found<'_>]| {
        decided += 1;
        assert_eq!(found[0].new_readers, ["u1", "u2"].map(UserId::from));
        settled(found)
    };
    store.commit(&[first], write).await.unwrap();
    assert_eq!(decided, 1);
    let (row, readers) = store.message(&"a".into()).await.unwrap().unwrap();
    let reader = |user: &str, after, seen| Reader {
        user_id: user.into(),
        seen_after: after,
        seen_at: seen,
    };
    assert_eq!(readers, [reader("u1", T0, at(6)), reader("u2", T0, at(6))]);
    assert_eq!(row.reader_count, 2);
    assert_eq!(row.call_count, 1);
    assert_eq!(row.last_polled_at, Some(at(6)));
    assert_eq!(row.last_complete_at, Some(at(6)));
    assert_eq!(row.send_status, Some(SendStatus::Success));
    let next = row.next_poll_at.unwrap();
    assert!(next > at(6));
    // The second walk names one again, one that is new, and leaves one out: nobody is removed, nobody doubled.
    let again = walk(&row, next, &["u3", "u1"]);
    store.commit(&[again], settled).await.unwrap();
    let (row, readers) = store.message(&"a".into()).await.unwrap().unwrap();
    assert_eq!(row.reader_count, 3);
    assert_eq!(readers[2], reader("u3", at(6), next));
    assert_eq!(readers.len(), 3);
}

async fn one_commit_settles_many_and_counts_calls_and_habits<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let names: Vec<String> = (0..300).map(|number| format!("key-{number:03}")).collect();
    let rows: Vec<_> = names.iter().map(|name| (&**name, "x", at(5))).collect();
    admitted(store, &rows).await;
    let due = store
        .due(&lane("x"), at(5), at(5), &[], 1000)
        .await
        .unwrap();
    assert_eq!(due.len(), 300);
    let outcomes: Vec<_> = due
        .iter()
        .map(|row| walk(row, at(6), &["u", row.key.as_str()]))
        .collect();
    let corp = LaneId {
        account: "x".into(),
        corp: Some("corp".into()),
    };
    for round in 1..=2_u64 {
        let write = |found: &[receiptd::store::Found<'_>]| Writes {
            calls: [(lane("x"), 300), (corp.clone(), 7)]
                .map(|(lane, calls)| CallCount {
                    calls,
                    throttled: 2,
                    messages: 1,
                    first_at: Some(at(10 - round)),
                    ..CallCount::nothing(lane, "2023-11".to_owned())
                })
                .into(),
            habits: vec![HabitsRow {
                lane: corp.clone(),
                habits: format!("{{\"round\":{round}}}"),
            }],
            ..settled(found)
        };
        store.commit(&outcomes, write).await.unwrap();
        let mut calls = store.calls_in("2023-11").await.unwrap();
        calls.sort_by_key(|count| count.lane.clone());
        let figures: Vec<_> = calls
            .iter()
            .map(|count| (count.lane.clone(), count.calls, count.throttled))
            .collect();
        let first_at = Some(at(10 - round));
        assert_eq!((calls[0].messages, calls[0].first_at), (round, first_at));
        assert_eq!(
            figures,
            [
                (lane("x"), 300 * round, 2 * round),
                (corp.clone(), 7 * round, 2 * round)
            ]
        );
        let habits = store.habits().await.unwrap();
        assert_eq!(habits.len(), 1);
        assert_eq!(habits[0].lane, corp);
        assert_eq!(habits[0].habits, format!("{{\"round\":{round}}}"));
    }
    assert_eq!(store.calls_in("2023-12").await.unwrap(), []);
    // Those of a command come on top.
    let own = CallCount {
        calls: 5,
        throttled: 1,
        ..CallCount::nothing(lane("x"), "2023-11".to_owned())
    };
    store.count_calls(&[own.clone(), own]).await.unwrap();
    let calls = store.calls_in("2023-11").await.unwrap();
    let of_x = calls.iter().find(|count| count.lane == lane("x")).unwrap();
    assert_eq!((of_x.calls, of_x.throttled), (610, 6));
    let (row, readers) = show(store, "key-123").await;
    assert_eq!(readers, ["u", "key-123"]);
    assert_eq!(
        row.reader_count, 2,
        "the second commit was stale and found nobody new"
    );
    assert_eq!(
        row.call_count, 2,
        "a stale walk's call was made all the same"
    );
}

async fn a_stale_claim_adds_its_readers_and_nothing_else<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = [
        ("cancelled", "x", at(5)),
        ("deleted", "x", at(5)),
        ("moved", "x", at(5)),
        ("same", "x", at(5)),
    ];
    admitted(store, &rows).await;
    let due = store.due(&lane("x"), at(5), at(5), &[], 10).await.unwrap();
    let claims: Vec<_> = due.iter().map(Message::claim).collect();
    assert_eq!(store.stale(&claims).await.unwrap(), []);
    backend.cancel("cancelled").await;
    backend.delete("deleted").await;
    backend.reschedule("moved", at(50)).await;
    let mut stale = store.stale(&claims).await.unwrap();
    stale.sort();
    let mut expected: Vec<_> = due
        .iter()
        .filter(|row| row.key.as_str() != "same")
        .map(|row| row.id)
        .collect();
    expected.sort();
    assert_eq!(stale, expected);
    let outcomes: Vec<_> = due.iter().map(|row| walk(row, at(6), &["u"])).collect();
    let write = |found: &[receiptd::store::Found<'_>]| {
        let gone = found.iter().filter(|found| found.row.is_none());
        let gone: Vec<_> = gone.map(|found| found.outcome.claim.key.as_str()).collect();
        assert_eq!(gone, ["deleted"]);
        settled(found)
    };
    let (ended, _) = show(store, "cancelled").await;
    store.commit(&outcomes, write).await.unwrap();
    let (cancelled, readers) = show(store, "cancelled").await;
    // Its fence is the same still: what is final is left for that alone.
    let counted = Message {
        reader_count: 1,
        call_count: 1,
        last_polled_at: Some(at(6)),
        ..ended
    };
    assert_eq!(cancelled, counted);
    assert_eq!(cancelled.state, State::Cancelled);
    assert_eq!(readers, ["u"]);
    let (moved, readers) = show(store, "moved").await;
    assert_eq!(moved.next_poll_at, Some(at(50)));
    assert_eq!((moved.state, moved.reader_count), (State::Pending, 1));
    assert_eq!(readers, ["u"]);
    assert_eq!(store.message(&"deleted".into()).await.unwrap(), None);
    let (same, _) = show(store, "same").await;
    assert!(same.next_poll_at > Some(at(6)));
}

async fn a_key_inserted_again_is_another_message<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    admitted(store, &[("a", "x", at(5))]).await;
    let claimed = claim(store, "a", at(5)).await;
    backend.delete("a").await;
    store.add(&[new_of("a", "x")]).await.unwrap();
    let (row, _) = show(store, "a").await;
    assert_ne!(row.id, claimed.id);
    store
        .commit(&[walk(&claimed, at(6), &["u"])], settled)
        .await
        .unwrap();
    let (after, readers) = show(store, "a").await;
    assert_eq!(after, row);
    assert_eq!(readers, Vec::<String>::new());
}

/// Asked for by its old key while it was given another: neither its history nor the walk's readers are the new key's.
async fn a_row_given_another_key_in_flight_is_another_message<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let first = NewMessage {
        expected_readers: Some(2),
        next_poll_at: Some(at(1)),
        ..new_of("a", "x")
    };
    store.add(&[first]).await.unwrap();
    let arrived = arrivals(store, &[], 1, T0).await;
    let placed = Message {
        next_poll_at: Some(at(2)),
        admitted_at: Some(T0),
        ..arrived[0].clone()
    };
    store.admit(&[placed]).await.unwrap();
    let claimed = claim(store, "a", at(5)).await;
    let seen = walk(&claimed, at(6), &["u"]);
    store.commit(&[seen], settled).await.unwrap();
    let due = show(store, "a").await.0.next_poll_at.unwrap();
    let claimed = claim(store, "a", due).await;
    assert_eq!((claimed.reader_count, claimed.call_count), (1, 1));
    assert!(claimed.answered_at.is_some() && claimed.last_complete_at.is_some());

    backend.rename("a", "b").await;
    assert_eq!(
        store.stale(&[claimed.claim()]).await.unwrap(),
        [claimed.id],
        "its walk is called back"
    );
    assert_eq!(keys(&arrivals(store, &[], 9, due).await), ["b"]);
    let write = |found: &[receiptd::store::Found<'_>]| {
        assert!(found[0].row.is_none());
        settled(found)
    };
    let late = walk(&claimed, due, &["u", "v"]);
    store.commit(&[late], write).await.unwrap();
    assert_eq!(store.message(&"a".into()).await.unwrap(), None);
    let (row, readers) = show(store, "b").await;
    assert_eq!(row.id, claimed.id);
    let expected = Message {
        key: "b".into(),
        next_poll_at: Some(at(1)),
        ..arrived[0].clone()
    };
    assert_eq!((row, readers), (expected, Vec::new()));

    // From here on it is a message like others: one reader is one, and not the second.
    let arrived = arrivals(store, &[], 1, due).await;
    let placed = Message {
        next_poll_at: Some(due),
        admitted_at: Some(due),
        ..arrived[0].clone()
    };
    store.admit(&[placed]).await.unwrap();
    let claimed = claim(store, "b", due).await;
    store
        .commit(&[walk(&claimed, due, &["w"])], settled)
        .await
        .unwrap();
    let (row, readers) = show(store, "b").await;
    assert_eq!((row.state, row.reader_count), (State::Pending, 1));
    assert_eq!(readers, ["w"]);
    let recorded = backend.readers().await;
    let [(old_key, u), (new_key, w)] = &recorded[..] else {
        panic!("{recorded:?}");
    };
    assert_eq!((old_key.as_str(), u.user_id.as_str()), ("a", "u"));
    assert_eq!((new_key.as_str(), w.user_id.as_str()), ("b", "w"));
    assert_eq!((w.seen_after, w.seen_at), (T0, due));
    // What the old key brought stays until it is pruned, as a deleted message's.
    let counts = pruned(store, at(1), None, 9).await;
    assert_eq!((counts.messages, counts.readers), (0, 1));
    assert_eq!(show(store, "b").await.1, ["w"]);
}

async fn a_final_row_leaves_the_claims<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    admitted(store, &[("a", "x", at(5)), ("b", "x", at(6))]).await;
    let claimed = claim(store, "a", at(5)).await;
    let mut outcome = walk(&claimed, at(6), &["u"]);
    outcome.end = WalkEnd::Rejected("invalid.processQueryKey".into());
    store.commit(&[outcome], settled).await.unwrap();
    let (row, _) = show(store, "a").await;
    assert_eq!(row.state, State::Failed);
    assert!(row.finished_at.is_some());
    assert_eq!(
        row.last_error,
        Some(ErrorCode::from("invalid.processQueryKey"))
    );
    let lanes = store.lanes(&[]).await.unwrap();
    assert_eq!(lanes[0].next_poll_at, at(6));
    let due = store
        .due(&lane("x"), at(99), at(99), &[], 10)
        .await
        .unwrap();
    assert_eq!(keys(&due), ["b"]);
}

async fn a_row_that_is_no_message_is_set_aside_once_and_stops_nobody<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    admitted(
        store,
        &[("a", "x", at(3)), ("b", "x", at(4)), ("c", "x", at(5))],
    )
    .await;
    let claimed = claim(store, "c", at(5)).await;
    store.add(&[new("n1"), new("n2")]).await.unwrap();
    for key in ["a", "c", "n1"] {
        backend.spoil(key).await;
    }
    let arrived = arrivals(store, &[], 10, at(1)).await;
    assert_eq!(keys(&arrived), ["n2"]);
    let outcomes = [walk(&claimed, at(6), &["u"])];
    let nobody = |found: &[receiptd::store::Found<'_>]| {
        assert!(found[0].row.is_none());
        settled(found)
    };
    store.commit(&outcomes, nobody).await.unwrap();
    let due = store.due(&lane("x"), at(5), at(5), &[], 10).await.unwrap();
    assert_eq!(keys(&due), ["b"]);
    for key in ["a", "c", "n1"] {
        let (row, _) = show(store, key).await;
        assert_eq!(row.state, State::Failed, "{key}");
        assert_eq!(row.last_error, Some(ErrorCode::from("row.invalid: chat")));
        assert!(row.finished_at.is_some() && row.last_error_at.is_some());
    }
}

async fn rows_at_the_end_of_their_life_are_found_in_a_blocked_lane<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let sent = |key, seconds| NewMessage {
        sent_at: Some(at(seconds)),
        ..new_of(key, "x")
    };
    store
        .add(&[sent("old", 0), sent("edge", 10), sent("young", 11)])
        .await
        .unwrap();
    let arrived = arrivals(store, &[], 10, T0).await;
    let placed: Vec<_> = arrived
        .into_iter()
        .map(|row| Message {
            next_poll_at: Some(at(20)),
            admitted_at: Some(T0),
            ..row
        })
        .collect();
    store.admit(&placed).await.unwrap();
    let old = store.overaged(&lane("x"), at(10), &[], 10).await.unwrap();
    assert_eq!(keys(&old), ["old", "edge"]);
    let rest = store
        .overaged(&lane("x"), at(10), &[old[0].id], 10)
        .await
        .unwrap();
    assert_eq!(keys(&rest), ["edge"]);
    assert_eq!(
        store.overaged(&lane("y"), at(10), &[], 10).await.unwrap(),
        []
    );
}

async fn a_lanes_error_is_noted_in_batches<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = [
        ("a", "x", at(1)),
        ("b", "x", at(2)),
        ("c", "x", at(3)),
        ("d", "y", at(1)),
    ];
    admitted(store, &rows).await;
    let code = ErrorCode::from("account.unknown");
    assert_eq!(
        store
            .note_lane_error(&lane("x"), &code, at(9), 2)
            .await
            .unwrap(),
        2
    );
    assert_eq!(
        store
            .note_lane_error(&lane("x"), &code, at(9), 2)
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        store
            .note_lane_error(&lane("x"), &code, at(9), 2)
            .await
            .unwrap(),
        0
    );
    for (key, noted) in [("a", true), ("b", true), ("c", true), ("d", false)] {
        let (row, _) = show(store, key).await;
        assert_eq!(row.last_error.is_some(), noted, "{key}");
        assert_eq!(row.last_error_at, noted.then_some(at(9)));
        assert_eq!(row.state, State::Pending);
    }
}

async fn a_clock_set_back_pulls_our_own_schedule_forward<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = [
        ("far", "x", at(900)),
        ("near", "x", at(50)),
        ("far2", "y", at(800)),
    ];
    admitted(store, &rows).await;
    let asked = NewMessage {
        next_poll_at: Some(at(700)),
        ..new_of("asked", "x")
    };
    store.add(&[asked]).await.unwrap();
    let arrived = arrivals(store, &[], 10, T0).await;
    store
        .admit(&[Message {
            admitted_at: Some(T0),
            ..arrived[0].clone()
        }])
        .await
        .unwrap();
    assert_eq!(store.pull_forward(at(100), 1).await.unwrap(), 1);
    assert_eq!(store.pull_forward(at(100), 9).await.unwrap(), 1);
    assert_eq!(store.pull_forward(at(100), 9).await.unwrap(), 0);
    for (key, due) in [("far", 100), ("near", 50), ("far2", 100), ("asked", 700)] {
        let (row, _) = show(store, key).await;
        assert_eq!(row.next_poll_at, Some(at(due)), "{key}");
    }
}

async fn retry_makes_final_rows_due_and_young_again<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = [
        ("failed", "x", at(1)),
        ("cancelled", "y", at(1)),
        ("done", "x", at(1)),
        ("open", "x", at(1)),
    ];
    admitted(store, &rows).await;
    backend.cancel("cancelled").await;
    let claimed = claim(store, "failed", at(5)).await;
    let mut outcome = walk(&claimed, at(6), &["u"]);
    outcome.end = WalkEnd::Rejected("bad".into());
    let claimed = claim(store, "done", at(5)).await;
    let mut done = walk(&claimed, at(6), &[]);
    done.send_status = Some(SendStatus::Recalled);
    store.commit(&[outcome, done], settled).await.unwrap();
    store.add(&[new("never admitted")]).await.ok();
    let all = ["failed", "done", "open", "nobody"].map(MessageKey::from);
    let which = Selection::Keys(all.to_vec());
    assert_eq!(store.retry(&which, at(70), 10).await.unwrap(), 1);
    let (row, readers) = show(store, "failed").await;
    assert_eq!(
        (row.state, row.next_poll_at),
        (State::Pending, Some(at(70)))
    );
    assert_eq!((row.lives_from, row.sent_at), (at(70), T0));
    assert_eq!((row.last_error, row.finished_at), (None, None));
    assert_eq!((row.reader_count, readers.len()), (1, 1));
    claim(store, "failed", at(70)).await;
    let (done, _) = show(store, "done").await;
    assert_eq!(
        done.state,
        State::Recalled,
        "a recalled message stays recalled"
    );
    let cancelled = |account: &str| Selection::InState(State::Cancelled, Some(account.into()));
    assert_eq!(store.retry(&cancelled("x"), at(80), 10).await.unwrap(), 0);
    assert_eq!(store.retry(&cancelled("y"), at(80), 10).await.unwrap(), 1);
    claim(store, "cancelled", at(80)).await;
    let recalled = Selection::InState(State::Recalled, None);
    assert_eq!(store.retry(&recalled, at(80), 10).await.unwrap(), 0);
}

async fn a_row_cancelled_before_it_was_admitted_can_be_retried<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store.add(&[new("a"), new("b")]).await.unwrap();
    backend.cancel("a").await;
    backend.cancel("b").await;
    let all = Selection::InState(State::Cancelled, None);
    assert_eq!(store.retry(&all, at(9), 1).await.unwrap(), 1);
    assert_eq!(store.retry(&all, at(9), 9).await.unwrap(), 1);
    let due = store
        .due(&lane("default"), at(9), at(9), &[], 9)
        .await
        .unwrap();
    assert_eq!(due.len(), 2);
}

async fn prune_removes_what_finished_long_ago<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let names: Vec<String> = (0..6).map(|number| format!("k{number}")).collect();
    let rows: Vec<_> = names.iter().map(|name| (&**name, "x", at(1))).collect();
    admitted(store, &rows).await;
    for (seconds, name) in names.iter().enumerate() {
        let claimed = claim(store, name, at(5)).await;
        let mut outcome = walk(&claimed, at(100 + seconds as u64), &["u", "v"]);
        if seconds < 4 {
            outcome.end = WalkEnd::Rejected("bad".into());
        }
        store.commit(&[outcome], settled).await.unwrap();
    }
    let before = at(103);
    let counts = |messages, readers| Pruned { messages, readers };
    assert_eq!(store.prunable(before, None).await.unwrap(), counts(3, 6));
    assert_eq!(
        store.prunable(before, Some(State::Expired)).await.unwrap(),
        counts(0, 0)
    );
    assert_eq!(
        pruned(store, before, Some(State::Expired), 10).await,
        counts(0, 0)
    );
    assert_eq!(
        pruned(store, before, Some(State::Failed), 2).await,
        counts(2, 4)
    );
    assert_eq!(pruned(store, before, None, 2).await, counts(1, 2));
    assert_eq!(pruned(store, before, None, 2).await, counts(0, 0));
    for (name, there) in names.iter().zip([false, false, false, true, true, true]) {
        let row = store.message(&MessageKey::from(&**name)).await.unwrap();
        assert_eq!(row.is_some(), there, "{name}");
    }
    // A feeder deletes: the readers stay until pruned, and go then.
    backend.delete("k5").await;
    assert_eq!(store.prunable(before, None).await.unwrap(), counts(0, 2));
    assert_eq!(pruned(store, before, None, 2).await, counts(0, 2));
    assert_eq!(pruned(store, before, None, 2).await, counts(0, 0));
    assert_eq!(show(store, "k4").await.1, ["u", "v"]);
}

async fn readers_of_a_key_that_came_back_are_kept<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    admitted(store, &[("a", "x", at(1))]).await;
    let claimed = claim(store, "a", at(5)).await;
    store
        .commit(&[walk(&claimed, at(6), &["u"])], settled)
        .await
        .unwrap();
    backend.delete("a").await;
    store.add(&[new_of("a", "x")]).await.unwrap();
    assert_eq!(pruned(store, at(999), None, 5).await, Pruned::default());
    assert_eq!(show(store, "a").await.1, ["u"]);
}

/// Its count began at nought, those readers were nobody new, and so `expected_readers` was never reached.
async fn readers_of_a_key_that_came_back_count<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    admitted(store, &[("a", "x", at(1)), ("b", "x", at(1))]).await;
    for key in ["a", "b"] {
        let claimed = claim(store, key, at(5)).await;
        let seen = walk(&claimed, at(6), &["u", "v"]);
        store.commit(&[seen], settled).await.unwrap();
        backend.delete(key).await;
        let again = NewMessage {
            expected_readers: Some(2),
            ..new_of(key, "x")
        };
        store.add(&[again]).await.unwrap();
    }
    // Cancelled before it was admitted, and then retried.
    backend.cancel("b").await;
    let which = Selection::Keys(vec!["b".into()]);
    assert_eq!(store.retry(&which, at(7), 1).await.unwrap(), 1);
    let arrived = arrivals(store, &[], 9, at(7)).await;
    assert_eq!(keys(&arrived), ["a"]);
    let placed = Message {
        next_poll_at: Some(at(7)),
        admitted_at: Some(at(7)),
        ..arrived[0].clone()
    };
    store.admit(&[placed]).await.unwrap();
    for key in ["a", "b"] {
        assert_eq!(show(store, key).await.0.reader_count, 2, "{key}");
        let claimed = claim(store, key, at(8)).await;
        let seen = walk(&claimed, at(8), &["u", "v"]);
        store.commit(&[seen], settled).await.unwrap();
        let (row, readers) = show(store, key).await;
        assert_eq!(row.state, State::Complete, "{key}");
        assert_eq!((row.reader_count, readers.len()), (2, 2), "{key}");
    }
}

async fn totals_count_by_lane_and_state<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = [
        ("a", "x", at(5)),
        ("b", "x", at(50)),
        ("c", "y", at(3)),
        ("d", "x", at(4)),
        ("e", "x", at(1)),
    ];
    admitted(store, &rows).await;
    backend.cancel("e").await;
    let claimed = claim(store, "d", at(5)).await;
    let mut outcome = walk(&claimed, at(6), &[]);
    outcome.send_status = Some(SendStatus::Recalled);
    store.commit(&[outcome], settled).await.unwrap();
    let later = NewMessage {
        next_poll_at: Some(at(7)),
        ..new_of("new", "z")
    };
    store.add(&[later]).await.unwrap();
    let mut totals = store.totals(at(10)).await.unwrap();
    totals.sort_by_key(|totals| totals.lane.clone());
    let figures: Vec<_> = totals
        .iter()
        .map(|of| {
            (
                of.lane.to_string(),
                of.pending,
                of.due,
                of.oldest_due,
                of.finished,
            )
        })
        .collect();
    assert_eq!(
        figures,
        [
            ("x".to_owned(), 2, 1, Some(at(5)), [0, 1, 0, 0, 1]),
            ("y".to_owned(), 1, 1, Some(at(3)), [0; 5]),
            ("z".to_owned(), 1, 1, Some(at(7)), [0; 5]),
        ]
    );
    let early = store.totals(at(4)).await.unwrap();
    let x = early.iter().find(|of| of.lane == lane("x")).unwrap();
    assert_eq!((x.due, x.oldest_due), (0, None));
}

async fn a_ticket_is_read_as_it_stands<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    assert_eq!(store.suite_ticket("suite").await.unwrap(), None);
    backend.put_ticket("suite", "one").await;
    assert_eq!(
        store.suite_ticket("suite").await.unwrap().as_deref(),
        Some("one")
    );
    backend.put_ticket("suite", "two").await;
    assert_eq!(
        store.suite_ticket("suite").await.unwrap().as_deref(),
        Some("two")
    );
}

/// Whatever committed between two waits ends the second one at once; without a commit it goes on.
async fn a_change_between_two_waits_is_not_lost<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store.changed().await.unwrap();
    for round in 0..20 {
        let key = format!("k{round}");
        store.add(&[new(&key)]).await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), store.changed())
            .await
            .unwrap_or_else(|_| panic!("round {round}: no wake-up"))
            .unwrap();
        // A wait that is dropped loses nothing either.
        backend.cancel(&key).await;
        let dropped = tokio::time::timeout(Duration::ZERO, store.changed()).await;
        if dropped.is_err() {
            tokio::time::timeout(Duration::from_secs(10), store.changed())
                .await
                .unwrap_or_else(|_| panic!("round {round}: the second wake-up was lost"))
                .unwrap();
        }
    }
}

async fn housekeeping_may_be_called_at_any_time<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    for _ in 0..2 {
        store.checkpoint().await.unwrap();
        store.optimize().await.unwrap();
        store.add(&[new("a")]).await.unwrap();
    }
    assert_eq!(store.checkpoint().await.unwrap().held_bytes, 0);
    assert_eq!(keys(&arrivals(store, &[], 9, T0).await), ["a"]);
}

for_every_backend! {
    an_added_message_arrives_once
    new_rows_are_asked_for_lane_by_lane
    a_message_sent_in_the_future_was_sent_at_its_insert
    admitting_leaves_a_cancelled_or_admitted_row_alone
    lanes_tell_their_first_due_row_beyond_those_in_flight
    due_rows_come_in_order_and_without_those_in_flight
    overdue_last_chances_go_first
    last_chances_can_be_taken_early
    last_chances_are_counted_for_the_plans
    a_walk_records_readers_once_and_moves_the_row_on
    one_commit_settles_many_and_counts_calls_and_habits
    a_stale_claim_adds_its_readers_and_nothing_else
    a_key_inserted_again_is_another_message
    a_row_given_another_key_in_flight_is_another_message
    a_final_row_leaves_the_claims
    a_row_that_is_no_message_is_set_aside_once_and_stops_nobody
    rows_at_the_end_of_their_life_are_found_in_a_blocked_lane
    a_lanes_error_is_noted_in_batches
    a_clock_set_back_pulls_our_own_schedule_forward
    retry_makes_final_rows_due_and_young_again
    a_row_cancelled_before_it_was_admitted_can_be_retried
    prune_removes_what_finished_long_ago
    readers_of_a_key_that_came_back_are_kept
    readers_of_a_key_that_came_back_count
    totals_count_by_lane_and_state
    a_ticket_is_read_as_it_stands
    a_change_between_two_waits_is_not_lost
    housekeeping_may_be_called_at_any_time
}
