//! The behaviour of a store, backend by backend.

use std::collections::BTreeSet;
use std::time::Duration;

use receiptd::receipt::{
    Chat, ErrorCode, LaneId, Message, MessageKey, Outcome, SeenReader, SendStatus, State, UnixMs,
    WalkEnd,
};
use receiptd::store::{
    CallCount, DueQuery, EventWrites, Found, HabitsRow, LastChanceFit, NewMessage, NewRows, Owed,
    Placement, Pruned, ReadEvent, ReadEvents, Reader, Scope, SeenBy, Selection, Store, Unplace,
    Wanted, Writes,
};
use receiptd::store::{Claims as _, Commands as _, Results as _, Upkeep as _};

use super::{
    Backend, T0, add_placed, at, claim, commit, due_rows, keys, lane, new, new_of, new_rows, place,
    polled, pruned, settled, show, try_commit, walk,
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
    let arrived = new_rows(store, 10).await;
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
    assert_eq!(store.lanes(Scope::All, &[]).await.unwrap(), []);
    let placed = Message {
        next_poll_at: Some(at(5)),
        admitted_at: Some(at(1)),
        last_chance_at: Some(at(100)),
        ..c.clone()
    };
    place(store, &[placed]).await;
    assert_eq!(a.key.as_str(), "a");
    assert_eq!(keys(&new_rows(store, 10).await), ["a", "b"]);
    let (c, _) = show(store, "c").await;
    assert_eq!(c.next_poll_at, Some(at(5)));
    assert_eq!(c.admitted_at, Some(at(1)));
    assert_eq!(c.last_chance_at, Some(at(100)));
}

/// A million new rows of one lane do not stand before another's first.
async fn new_rows_are_asked_for_lane_by_lane<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let of_corp = |key: &str, corp: &str| NewMessage {
        corp: Some(corp.into()),
        ..new_of(key, "a")
    };
    store
        .add(&[new_of("a1", "a"), new_of("a2", "a"), new_of("b1", "b")])
        .await
        .unwrap();
    store
        .add(&[
            of_corp("ac1", "c"),
            of_corp("ad1", "d"),
            of_corp("ac2", "c"),
        ])
        .await
        .unwrap();
    let lane_of = |corp: &str| LaneId {
        account: "a".into(),
        corp: Some(corp.into()),
    };
    let ask = async |after: Option<LaneId>, per_lane, limit| {
        let NewRows { rows, next } = store
            .new_rows(Scope::All, after.as_ref(), per_lane, limit)
            .await
            .unwrap();
        let keys: Vec<String> = rows.iter().map(|row| row.key.to_string()).collect();
        (keys.join(" "), next)
    };
    let words = |words: &str, next| (words.to_owned(), next);
    assert_eq!(ask(None, 9, 99).await, words("a1 a2 ac1 ac2 ad1 b1", None));
    assert_eq!(ask(None, 1, 99).await, words("a1 ac1 ad1 b1", None));
    let page = ask(None, 1, 2).await;
    assert_eq!(page, words("a1 ac1", Some(lane_of("c"))));
    let page = ask(page.1, 1, 2).await;
    assert_eq!(page, words("ad1 b1", Some(lane("b"))));
    assert_eq!(ask(page.1, 1, 2).await, words("", None));
    assert_eq!(
        ask(None, 9, 3).await,
        words("a1 a2 ac1", Some(lane_of("c")))
    );
    // A lane that has no rows any more, or never had.
    assert_eq!(ask(Some(lane("aa")), 9, 9).await, words("b1", None));
    assert_eq!(ask(Some(lane("z")), 9, 9).await, words("", None));
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
    for row in new_rows(store, 10).await {
        assert!(
            row.sent_at > T0 && row.sent_at < future,
            "{:?}",
            row.sent_at
        );
        assert_eq!(row.lives_from, row.sent_at);
    }
}

async fn placing_leaves_a_cancelled_or_placed_row_alone<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store.add(&[new("a"), new("b")]).await.unwrap();
    let arrived = new_rows(store, 10).await;
    let placed_at = |seconds| {
        let rows = arrived.iter().map(|row| Message {
            next_poll_at: Some(at(seconds)),
            admitted_at: Some(at(seconds)),
            ..row.clone()
        });
        rows.collect::<Vec<_>>()
    };
    backend.cancel("a").await;
    place(store, &placed_at(5)).await;
    place(store, &placed_at(9)).await;
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
    add_placed(store, &rows[..3]).await;
    let corps = ["1", "2"].map(|corp| NewMessage {
        corp: Some(corp.into()),
        ..new_of(corp, "x")
    });
    store.add(&corps).await.unwrap();
    let arrived = new_rows(store, 10).await;
    let placed: Vec<_> = arrived
        .into_iter()
        .filter(|row| row.lane.corp.is_some())
        .map(|row| Message {
            next_poll_at: Some(at(9)),
            admitted_at: Some(T0),
            ..row
        })
        .collect();
    place(store, &placed).await;
    let due = |lanes: Vec<receiptd::store::LaneDue>| {
        let mut due: Vec<_> = lanes
            .into_iter()
            .map(|due| (due.lane.to_string(), due.sound_at.unwrap()))
            .collect();
        due.sort();
        due
    };
    let word = str::to_owned;
    assert_eq!(
        due(store.lanes(Scope::All, &[]).await.unwrap()),
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
        due(store.lanes(Scope::All, &in_flight).await.unwrap()),
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
    add_placed(store, &rows).await;
    let due = due_rows(store, &lane("x"), at(5), at(5), &[], 10).await;
    assert_eq!(keys(&due), ["b", "d", "a"]);
    let rest = due_rows(store, &lane("x"), at(5), at(5), &[due[1].id], 10).await;
    assert_eq!(keys(&rest), ["b", "a"]);
    let two = due_rows(store, &lane("x"), at(9), at(9), &[], 2).await;
    assert_eq!(keys(&two), ["b", "d"]);
    assert_eq!(due_rows(store, &lane("x"), at(2), at(2), &[], 9).await, []);
    assert_eq!(due_rows(store, &lane("z"), at(9), at(9), &[], 9).await, []);
}

async fn overdue_last_chances_go_first<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store
        .add(&[new("a"), new("b"), new("c"), new("d")])
        .await
        .unwrap();
    let arrived = new_rows(store, 10).await;
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
    place(store, &placed).await;
    let all = due_rows(store, &lane("default"), at(10), at(10), &[], 10).await;
    assert_eq!(keys(&all), ["c", "b", "a", "d"]);
    let three = due_rows(store, &lane("default"), at(10), at(10), &[], 3).await;
    assert_eq!(keys(&three), ["c", "b", "a"]);
    let early = due_rows(store, &lane("default"), at(7), at(7), &[], 10).await;
    assert_eq!(keys(&early), ["c", "a", "d"]);
}

/// Where last chances do not fit the rate, those that are not due yet are asked for too, but never before their feeder allows.
async fn last_chances_can_be_taken_early<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = ["soon", "later", "held", "none"].map(new);
    store.add(&rows).await.unwrap();
    let mut placed = new_rows(store, 9).await;
    let last = [Some(at(20)), Some(at(30)), Some(at(20)), None];
    for (row, last) in placed.iter_mut().zip(last) {
        row.admitted_at = Some(T0);
        row.next_poll_at = Some(at(15));
        row.last_chance_at = last;
    }
    // Its feeder wants it later than its last chance.
    placed[2].next_poll_at = Some(at(25));
    place(store, &placed).await;
    let x = lane("default");
    assert_eq!(due_rows(store, &x, at(10), at(10), &[], 9).await, []);
    let early = due_rows(store, &x, at(10), at(25), &[], 9).await;
    assert_eq!(keys(&early), ["soon"]);
    let early = due_rows(store, &x, at(10), at(99), &[], 9).await;
    assert_eq!(keys(&early), ["soon", "later"]);
    let all = due_rows(store, &x, at(15), at(30), &[], 9).await;
    assert_eq!(keys(&all), ["soon", "later", "none"]);
}

async fn last_chances_are_counted_for_the_plans<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store.add(&["a", "b", "c", "d"].map(new)).await.unwrap();
    store.add(&[new_of("e", "other")]).await.unwrap();
    let mut placed = new_rows(store, 9).await;
    let last = [Some(at(10)), Some(at(11)), Some(at(70)), None, Some(at(10))];
    for (row, last) in placed.iter_mut().zip(last) {
        row.admitted_at = Some(T0);
        row.next_poll_at = Some(at(5));
        row.last_chance_at = last;
    }
    place(store, &placed).await;
    let x = lane("default");
    let owed = |lane: LaneId, until, in_all| Owed {
        lane,
        until,
        in_all,
    };
    let other = owed(lane("other"), 1, 1);
    for (until, of_x) in [(70, 2), (71, 3)] {
        let expected = [owed(x.clone(), of_x, 3), other.clone()];
        assert_eq!(store.owed(at(until)).await.unwrap(), expected);
    }
    // Three last chances of ten seconds each: two at once, the third a minute later.
    let fit = |now, slack| LastChanceFit {
        now,
        calls_per_second: 0.1,
        slack: Duration::from_secs(slack),
        again: Duration::from_secs(5),
    };
    let begin = async |lane: &LaneId, fit| store.last_chances_to_begin(lane, &fit).await.unwrap();
    assert_eq!(begin(&x, fit(T0, 25)).await, None, "each at its moment");
    assert_eq!(begin(&x, fit(T0, 10)).await, Some(at(11)));
    assert_eq!(begin(&lane("y"), fit(T0, 1)).await, None);
    let claimed = claim(store, "a", at(5)).await;
    let ended = |_: &[Outcome], found: &[Found]| Writes {
        messages: vec![Message {
            state: State::Expired,
            ..found[0].row.clone().unwrap()
        }],
        ..Writes::default()
    };
    commit(store, &[walk(&claimed, at(10), &[])], ended).await;
    assert_eq!(store.owed(at(70)).await.unwrap(), [owed(x, 1, 2), other]);
}

async fn a_walk_records_readers_once_and_moves_the_row_on<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(5))]).await;
    let claimed = claim(store, "a", at(5)).await;
    let first = walk(&claimed, at(6), &["u1", "u2"]);
    let mut decided = 0;
    let write = |outcomes: &[Outcome], found: &[Found]| {
        decided += 1;
        assert_eq!((found[0].new_readers, found[0].recorded), (2, Some(2)));
        settled(outcomes, found)
    };
    commit(store, &[first], write).await;
    assert_eq!(decided, 1);
    let (row, readers) = store.message(&"a".into()).await.unwrap().unwrap();
    let reader = |user: &str, after, seen| Reader {
        user_id: user.into(),
        seen_after: after,
        seen_at: seen,
        read_at: None,
        seen_by: SeenBy::Poll,
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
    commit(store, &[again], settled).await;
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
    add_placed(store, &rows).await;
    let due = due_rows(store, &lane("x"), at(5), at(5), &[], 1000).await;
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
        let write = |outcomes: &[Outcome], found: &[Found]| Writes {
            calls: [(lane("x"), 300), (corp.clone(), 7)]
                .map(|(lane, calls)| CallCount {
                    calls,
                    throttled: 2,
                    messages: 1,
                    first_at: Some(at(10 - round)),
                    ..CallCount::nothing(lane, "2023-11".to_owned())
                })
                .into(),
            ..settled(outcomes, found)
        };
        commit(store, &outcomes, write).await;
        let habits = HabitsRow {
            lane: corp.clone(),
            chat: Chat::Group,
            habits: format!("{{\"round\":{round}}}"),
            lease: None,
        };
        store.save_habits(&[habits]).await.unwrap();
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
        assert_eq!(store.habits(&[lane("x")]).await.unwrap(), []);
        let habits = store.habits(&[lane("x"), corp.clone()]).await.unwrap();
        assert_eq!(store.all_habits().await.unwrap(), habits);
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
    add_placed(store, &rows).await;
    let due = due_rows(store, &lane("x"), at(5), at(5), &[], 10).await;
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
    let write = |outcomes: &[Outcome], found: &[Found]| {
        let pairs = outcomes.iter().zip(found);
        let gone: Vec<_> = pairs
            .filter(|(_, found)| found.row.is_none())
            .map(|(outcome, _)| outcome.claim.key.as_str())
            .collect();
        assert_eq!(gone, ["deleted"]);
        settled(outcomes, found)
    };
    let (ended, _) = show(store, "cancelled").await;
    commit(store, &outcomes, write).await;
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
    add_placed(store, &[("a", "x", at(5))]).await;
    let claimed = claim(store, "a", at(5)).await;
    backend.delete("a").await;
    store.add(&[new_of("a", "x")]).await.unwrap();
    let (row, _) = show(store, "a").await;
    assert_ne!(row.id, claimed.id);
    commit(store, &[walk(&claimed, at(6), &["u"])], settled).await;
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
    let arrived = new_rows(store, 1).await;
    let placed = Message {
        next_poll_at: Some(at(2)),
        admitted_at: Some(T0),
        ..arrived[0].clone()
    };
    place(store, &[placed]).await;
    let claimed = claim(store, "a", at(5)).await;
    let seen = walk(&claimed, at(6), &["u"]);
    commit(store, &[seen], settled).await;
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
    assert_eq!(keys(&new_rows(store, 9).await), ["b"]);
    let write = |outcomes: &[Outcome], found: &[Found]| {
        assert!(found[0].row.is_none());
        settled(outcomes, found)
    };
    let late = walk(&claimed, due, &["u", "v"]);
    commit(store, &[late], write).await;
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
    let arrived = new_rows(store, 1).await;
    let placed = Message {
        next_poll_at: Some(due),
        admitted_at: Some(due),
        ..arrived[0].clone()
    };
    place(store, &[placed]).await;
    let claimed = claim(store, "b", due).await;
    commit(store, &[walk(&claimed, due, &["w"])], settled).await;
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
    let counts = pruned(store, at(1), None).await;
    assert_eq!((counts.messages, counts.readers), (0, 1));
    assert_eq!(show(store, "b").await.1, ["w"]);
}

async fn a_final_row_leaves_the_claims<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(5)), ("b", "x", at(6))]).await;
    let claimed = claim(store, "a", at(5)).await;
    // Older than the grace, so that one refusal is enough.
    let mut outcome = walk(&claimed, at(700), &["u"]);
    outcome.send_status = None;
    outcome.end = WalkEnd::Rejected("invalid.processQueryKey".into());
    commit(store, &[outcome], settled).await;
    let (row, _) = show(store, "a").await;
    assert_eq!(row.state, State::Failed);
    assert!(row.finished_at.is_some());
    assert_eq!(
        row.last_error,
        Some(ErrorCode::from("invalid.processQueryKey"))
    );
    let lanes = store.lanes(Scope::All, &[]).await.unwrap();
    assert_eq!(
        (lanes[0].sound_at, lanes[0].failing_at),
        (Some(at(6)), None)
    );
    let due = due_rows(store, &lane("x"), at(99), at(99), &[], 10).await;
    assert_eq!(keys(&due), ["b"]);
}

async fn a_row_that_is_no_message_is_quarantined_once_and_stops_nobody<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(
        store,
        &[("a", "x", at(3)), ("b", "x", at(4)), ("c", "x", at(5))],
    )
    .await;
    let claimed = claim(store, "c", at(5)).await;
    store.add(&[new("n1"), new("n2")]).await.unwrap();
    for key in ["a", "c", "n1"] {
        backend.corrupt(key).await;
    }
    let arrived = new_rows(store, 10).await;
    assert_eq!(keys(&arrived), ["n2"]);
    let outcomes = [walk(&claimed, at(6), &["u"])];
    let nobody = |outcomes: &[Outcome], found: &[Found]| {
        assert!(found[0].row.is_none());
        settled(outcomes, found)
    };
    commit(store, &outcomes, nobody).await;
    let due = due_rows(store, &lane("x"), at(5), at(5), &[], 10).await;
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
    let arrived = new_rows(store, 10).await;
    let placed: Vec<_> = arrived
        .into_iter()
        .map(|row| Message {
            next_poll_at: Some(at(20)),
            admitted_at: Some(T0),
            ..row
        })
        .collect();
    place(store, &placed).await;
    let overaged = async |lane: &LaneId, without: &[_]| {
        let rows = store.overaged(Some(lane), at(10), without, 10);
        rows.await.unwrap()
    };
    let old = overaged(&lane("x"), &[]).await;
    assert_eq!(keys(&old), ["old", "edge"]);
    let rest = overaged(&lane("x"), &[old[0].id]).await;
    assert_eq!(keys(&rest), ["edge"]);
    assert_eq!(overaged(&lane("y"), &[]).await, []);
    assert_eq!(store.overaged(None, at(10), &[], 10).await.unwrap(), []);
}

/// A row that no lane serves is not due, costs a round nothing, and comes back with its feeder's wish.
async fn rows_wait_for_the_configuration<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let early = NewMessage {
        next_poll_at: Some(at(7)),
        ..new_of("b", "nobody")
    };
    store.add(&[new_of("a", "nobody"), early]).await.unwrap();
    let places: Vec<_> = new_rows(store, 9)
        .await
        .into_iter()
        .map(|message| Placement {
            message: Message {
                admitted_at: Some(at(3)),
                ..message
            },
            waits_for: Some("account.unknown".into()),
            lease: None,
        })
        .collect();
    store.place(&places).await.unwrap();
    assert_eq!(new_rows(store, 9).await, []);
    assert_eq!(store.lanes(Scope::All, &[]).await.unwrap(), []);
    let nobody = lane("nobody");
    assert_eq!(due_rows(store, &nobody, at(99), at(99), &[], 9).await, []);
    let old = store.overaged(None, at(9), &[], 9).await.unwrap();
    assert_eq!(keys(&old), ["a", "b"]);
    for key in ["a", "b"] {
        let (row, _) = show(store, key).await;
        assert_eq!((row.state, &row.lane), (State::Pending, &nobody));
        assert_eq!(row.last_error, Some(ErrorCode::from("account.unknown")));
        assert_eq!(row.last_error_at, Some(at(3)));
    }
    let totals = store.totals(at(9)).await.unwrap();
    assert_eq!((totals[0].pending, totals.len()), (2, 1));
    let which = Unplace::Waiting("nobody".into());
    assert_eq!(store.unplace(&which, &[old[0].id], 9).await.unwrap(), 1);
    let fed = new_rows(store, 9).await;
    assert_eq!((keys(&fed), fed[0].next_poll_at), (vec!["b"], Some(at(7))));
    assert_eq!(fed[0].last_error, None);
    assert_eq!(store.unplace(&which, &[], 9).await.unwrap(), 1);
    // A feeder that names another account has its row looked at again too.
    store.place(&places).await.unwrap();
    backend.give_to("a", "somebody").await;
    let fed = new_rows(store, 9).await;
    assert_eq!((keys(&fed), &fed[0].lane), (vec!["a"], &lane("somebody")));
    assert_eq!(fed[0].next_poll_at, None);
}

/// An internal account is one lane, whatever `corp_id` its rows name; and it may become another kind of account.
async fn a_lane_is_where_a_row_was_placed<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = ["1", "2"].map(|corp| NewMessage {
        corp: Some(corp.into()),
        ..new_of(corp, "x")
    });
    store.add(&rows).await.unwrap();
    let fed = new_rows(store, 9).await;
    let placed: Vec<_> = fed
        .iter()
        .map(|row| Message {
            lane: lane("x"),
            next_poll_at: Some(at(5)),
            admitted_at: Some(T0),
            ..row.clone()
        })
        .collect();
    place(store, &placed).await;
    let lanes = store.lanes(Scope::All, &[]).await.unwrap();
    assert_eq!(lanes.len(), 1);
    assert_eq!(
        (&lanes[0].lane, lanes[0].sound_at),
        (&lane("x"), Some(at(5)))
    );
    let due = due_rows(store, &lane("x"), at(5), at(5), &[], 9).await;
    assert_eq!(keys(&due), ["1", "2"]);
    assert_eq!(due[0].lane, lane("x"));
    let claims: Vec<_> = due.iter().map(Message::claim).collect();
    assert_eq!(store.stale(&claims).await.unwrap(), []);
    commit(store, &[walk(&due[0], at(6), &["u"])], settled).await;
    let next = show(store, "1").await.0.next_poll_at;
    assert_eq!(
        store
            .unplace(&Unplace::Lanes(vec![lane("x")]), &[], 1)
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        store
            .unplace(&Unplace::Lanes(vec![lane("x")]), &[], 9)
            .await
            .unwrap(),
        1
    );
    assert_eq!(store.stale(&claims).await.unwrap().len(), 2);
    let again = new_rows(store, 9).await;
    assert_eq!(again[0].lane.corp, Some("1".into()));
    assert_eq!(
        (
            again[0].next_poll_at,
            again[0].call_count,
            again[1].next_poll_at
        ),
        (next, 1, None),
        "one was polled and keeps its schedule, the other was not"
    );
    let placed: Vec<_> = again
        .into_iter()
        .map(|row| Message {
            next_poll_at: row.next_poll_at.or(Some(at(8))),
            admitted_at: Some(T0),
            ..row
        })
        .collect();
    place(store, &placed).await;
    assert_eq!(store.lanes(Scope::All, &[]).await.unwrap().len(), 2);
    // A result of the lane before brings facts alone.
    commit(store, &[walk(&due[1], at(9), &["v"])], settled).await;
    let (row, readers) = show(store, "2").await;
    assert_eq!(
        (row.next_poll_at, row.last_complete_at),
        (Some(at(8)), None)
    );
    assert_eq!((row.call_count, readers), (1, vec!["v".to_owned()]));
}

async fn a_row_given_to_another_account_is_placed_anew<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(5))]).await;
    let claimed = claim(store, "a", at(5)).await;
    commit(store, &[walk(&claimed, at(6), &["u"])], settled).await;
    let (before, _) = show(store, "a").await;
    backend.give_to("a", "y").await;
    assert_eq!(store.stale(&[before.claim()]).await.unwrap(), [before.id]);
    assert_eq!(store.lanes(Scope::All, &[]).await.unwrap(), []);
    let fed = new_rows(store, 9).await;
    let expected = Message {
        lane: lane("y"),
        admitted_at: None,
        ..before.clone()
    };
    assert_eq!(fed, [expected], "its history and its schedule stay");
    // Read for its old lane, it is not placed there.
    place(store, &[before]).await;
    assert_eq!(new_rows(store, 9).await, fed);
}

async fn sound_and_failing_rows_are_asked_for_apart<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let names: Vec<String> = (0..9).map(|number| format!("k{number}")).collect();
    let rows: Vec<_> = names
        .iter()
        .zip(1..)
        .map(|(name, seconds)| (&**name, "x", at(seconds)))
        .collect();
    add_placed(store, &rows).await;
    add_placed(store, &[("other", "y", at(1))]).await;
    let x = lane("x");
    let due = due_rows(store, &x, at(3), at(3), &[], 9).await;
    let failed: Vec<_> = due
        .iter()
        .map(|row| Outcome {
            failed_calls: 2,
            ..Outcome::without_call(row.claim(), at(4), WalkEnd::Failed("system.error".into()))
        })
        .collect();
    commit(store, &failed, settled).await;
    let (row, _) = show(store, "k0").await;
    assert_eq!((row.failed_walks, row.failed_calls), (1, 2));
    let ask = async |wanted, lanes: &[LaneId], until, per_lane| {
        let query = DueQuery {
            lanes,
            wanted,
            now: at(900_000),
            last_chances_until: until,
            without: &[],
            per_lane,
        };
        let rows = store.due(&query).await.unwrap();
        rows.iter()
            .map(|row| row.key.to_string())
            .collect::<Vec<_>>()
    };
    let both = [x.clone(), lane("y"), lane("z")];
    let lanes = store.lanes(Scope::All, &[]).await.unwrap();
    let of_x = lanes.iter().find(|due| due.lane == x).unwrap();
    assert_eq!(of_x.sound_at, Some(at(4)));
    let (k0, _) = show(store, "k0").await;
    assert!(of_x.failing_at <= k0.next_poll_at && of_x.failing_at > Some(at(4)));
    assert_eq!(
        ask(Wanted::Sound, &both, T0, 2).await,
        ["other", "k3", "k4"]
    );
    let mut failing = ask(Wanted::Failing, &both, T0, 9).await;
    failing.sort();
    assert_eq!(failing, ["k0", "k1", "k2"]);
    let mut shuffled = BTreeSet::new();
    for _ in 0..200 {
        let rows = ask(Wanted::SoundShuffled, std::slice::from_ref(&x), T0, 2).await;
        assert_eq!(rows.len(), 2);
        shuffled.extend(rows);
    }
    let sound = ["k3", "k4", "k5", "k6", "k7", "k8"];
    assert_eq!(
        shuffled.into_iter().collect::<Vec<_>>(),
        sound,
        "each has its turn"
    );
    // The failed ones keep a last chance; the others were placed without one.
    assert_eq!(ask(Wanted::LastChances, &both, T0, 9).await, [""; 0]);
    let mut last = ask(Wanted::LastChances, &both, at(900_000), 9).await;
    last.sort();
    assert_eq!(last, ["k0", "k1", "k2"]);
}

async fn a_clock_set_back_pulls_our_own_schedule_forward<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let rows = [
        ("far", "x", at(900)),
        ("near", "x", at(50)),
        ("far2", "y", at(800)),
    ];
    add_placed(store, &rows).await;
    let asked = NewMessage {
        next_poll_at: Some(at(700)),
        ..new_of("asked", "x")
    };
    store.add(&[asked]).await.unwrap();
    let arrived = new_rows(store, 10).await;
    let placed = Message {
        admitted_at: Some(T0),
        ..arrived[0].clone()
    };
    place(store, &[placed]).await;
    assert_eq!(store.pull_forward(at(100), 1).await.unwrap(), 1);
    assert_eq!(store.pull_forward(at(100), 9).await.unwrap(), 1);
    assert_eq!(store.pull_forward(at(100), 9).await.unwrap(), 0);
    for (key, due) in [("far", 100), ("near", 50), ("far2", 100), ("asked", 700)] {
        let (row, _) = show(store, key).await;
        assert_eq!(row.next_poll_at, Some(at(due)), "{key}");
    }
}

/// Places new rows with the schedule that they have.
async fn place_now<S: Store>(store: &S, rows: &[Message], now: UnixMs) {
    let placed = rows.iter().map(|row| Message {
        admitted_at: Some(now),
        ..row.clone()
    });
    place(store, &placed.collect::<Vec<_>>()).await;
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
    add_placed(store, &rows).await;
    backend.cancel("cancelled").await;
    let claimed = claim(store, "failed", at(5)).await;
    let mut outcome = walk(&claimed, at(700), &["u"]);
    outcome.send_status = None;
    outcome.end = WalkEnd::Rejected("bad".into());
    let claimed = claim(store, "done", at(5)).await;
    let mut done = walk(&claimed, at(6), &[]);
    done.send_status = Some(SendStatus::Recalled);
    commit(store, &[outcome, done], settled).await;
    store.add(&[new("never placed")]).await.ok();
    let all = ["failed", "done", "open", "nobody"].map(MessageKey::from);
    let which = Selection::Keys(all.to_vec());
    assert_eq!(store.retry(&which, at(710), 10).await.unwrap(), 1);
    let (row, readers) = show(store, "failed").await;
    assert_eq!(
        (row.state, row.next_poll_at),
        (State::Pending, Some(at(710)))
    );
    assert_eq!((row.lives_from, row.sent_at), (at(710), T0));
    assert_eq!((row.last_error, row.finished_at), (None, None));
    assert_eq!((row.reader_count, readers.len()), (1, 1));
    // It is placed anew, by the configuration as it is now, and due at once.
    let arrived = new_rows(store, 9).await;
    place_now(store, &arrived, at(710)).await;
    claim(store, "failed", at(710)).await;
    let (done, _) = show(store, "done").await;
    assert_eq!(
        done.state,
        State::Recalled,
        "a recalled message stays recalled"
    );
    let cancelled = |account: &str| Selection::InState(State::Cancelled, Some(account.into()));
    assert_eq!(store.retry(&cancelled("x"), at(720), 10).await.unwrap(), 0);
    assert_eq!(store.retry(&cancelled("y"), at(720), 10).await.unwrap(), 1);
    let arrived = new_rows(store, 9).await;
    place_now(store, &arrived, at(720)).await;
    claim(store, "cancelled", at(720)).await;
    let recalled = Selection::InState(State::Recalled, None);
    assert_eq!(store.retry(&recalled, at(720), 10).await.unwrap(), 0);
}

async fn a_row_cancelled_before_it_was_placed_can_be_retried<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    store.add(&[new("a"), new("b")]).await.unwrap();
    backend.cancel("a").await;
    backend.cancel("b").await;
    let all = Selection::InState(State::Cancelled, None);
    assert_eq!(store.retry(&all, at(9), 1).await.unwrap(), 1);
    assert_eq!(store.retry(&all, at(9), 9).await.unwrap(), 1);
    let arrived = new_rows(store, 9).await;
    place_now(store, &arrived, at(9)).await;
    let due = due_rows(store, &lane("default"), at(9), at(9), &[], 9).await;
    assert_eq!(due.len(), 2);
}

async fn prune_removes_what_finished_long_ago<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let names: Vec<String> = (0..6).map(|number| format!("k{number}")).collect();
    let rows: Vec<_> = names.iter().map(|name| (&**name, "x", at(1))).collect();
    add_placed(store, &rows).await;
    for (seconds, name) in names.iter().enumerate() {
        let claimed = claim(store, name, at(5)).await;
        let mut outcome = walk(&claimed, at(1_000 + seconds as u64), &["u", "v"]);
        if seconds < 4 {
            outcome.send_status = None;
            outcome.end = WalkEnd::Rejected("bad".into());
        }
        commit(store, &[outcome], settled).await;
    }
    let before = at(1_003);
    let counts = |messages, readers| Pruned {
        messages,
        readers,
        held: 0,
        events: 0,
    };
    assert_eq!(store.prunable(before, None).await.unwrap(), counts(3, 6));
    assert_eq!(
        store.prunable(before, Some(State::Expired)).await.unwrap(),
        counts(0, 0)
    );
    assert_eq!(
        pruned(store, before, Some(State::Expired)).await,
        counts(0, 0)
    );
    assert_eq!(
        pruned(store, at(1_002), Some(State::Failed)).await,
        counts(2, 4)
    );
    assert_eq!(pruned(store, before, None).await, counts(1, 2));
    assert_eq!(pruned(store, before, None).await, counts(0, 0));
    for (name, there) in names.iter().zip([false, false, false, true, true, true]) {
        let row = store.message(&MessageKey::from(&**name)).await.unwrap();
        assert_eq!(row.is_some(), there, "{name}");
    }
    // A feeder deletes: the readers stay until pruned, and go then.
    backend.delete("k5").await;
    assert_eq!(store.prunable(before, None).await.unwrap(), counts(0, 2));
    assert_eq!(pruned(store, before, None).await, counts(0, 2));
    assert_eq!(pruned(store, before, None).await, counts(0, 0));
    assert_eq!(show(store, "k4").await.1, ["u", "v"]);
}

async fn readers_of_a_key_that_came_back_are_kept<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(1))]).await;
    let claimed = claim(store, "a", at(5)).await;
    commit(store, &[walk(&claimed, at(6), &["u"])], settled).await;
    backend.delete("a").await;
    store.add(&[new_of("a", "x")]).await.unwrap();
    assert_eq!(pruned(store, at(999), None).await, Pruned::default());
    assert_eq!(show(store, "a").await.1, ["u"]);
}

/// Its count began at nought, those readers were nobody new, and so `expected_readers` was never reached.
async fn readers_of_a_key_that_came_back_count<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(1)), ("b", "x", at(1))]).await;
    for key in ["a", "b"] {
        let claimed = claim(store, key, at(5)).await;
        let seen = walk(&claimed, at(6), &["u", "v"]);
        commit(store, &[seen], settled).await;
        backend.delete(key).await;
        let again = NewMessage {
            expected_readers: Some(2),
            ..new_of(key, "x")
        };
        store.add(&[again]).await.unwrap();
    }
    // Cancelled before it was placed, and then retried.
    backend.cancel("b").await;
    let which = Selection::Keys(vec!["b".into()]);
    assert_eq!(store.retry(&which, at(7), 1).await.unwrap(), 1);
    let mut arrived = new_rows(store, 9).await;
    assert_eq!(keys(&arrived), ["a", "b"]);
    arrived[0].next_poll_at = Some(at(7));
    place_now(store, &arrived, at(7)).await;
    for key in ["a", "b"] {
        let claimed = claim(store, key, at(8)).await;
        let seen = walk(&claimed, at(8), &["u", "v"]);
        commit(store, &[seen], settled).await;
        let (row, readers) = show(store, key).await;
        assert_eq!(row.state, State::Complete, "{key}");
        assert_eq!((row.reader_count, readers.len()), (2, 2), "{key}");
    }
}

/// The message was complete with people who have not read: its count did not know that a consumer had removed a reader.
async fn a_message_completes_by_who_is_recorded<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let three = NewMessage {
        expected_readers: Some(3),
        ..new_of("a", "x")
    };
    store.add(&[three]).await.unwrap();
    let mut rows = new_rows(store, 9).await;
    rows[0].next_poll_at = Some(at(1));
    place_now(store, &rows, at(1)).await;
    let claimed = claim(store, "a", at(1)).await;
    commit(store, &[walk(&claimed, at(2), &["u", "v"])], settled).await;
    backend.remove_reader("a", "u").await;
    let (row, _) = show(store, "a").await;
    commit(
        store,
        &[walk(&row, row.next_poll_at.unwrap(), &["v", "w"])],
        settled,
    )
    .await;
    let (row, readers) = show(store, "a").await;
    assert_eq!((row.state, row.reader_count), (State::Pending, 2));
    assert_eq!(readers, ["v", "w"]);
    commit(
        store,
        &[walk(&row, row.next_poll_at.unwrap(), &["u", "v", "w"])],
        settled,
    )
    .await;
    let (row, readers) = show(store, "a").await;
    assert_eq!((row.state, row.reader_count), (State::Complete, 3));
    assert_eq!(readers, ["v", "w", "u"]);
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
    add_placed(store, &rows).await;
    backend.cancel("e").await;
    let claimed = claim(store, "d", at(5)).await;
    let mut outcome = walk(&claimed, at(6), &[]);
    outcome.send_status = Some(SendStatus::Recalled);
    commit(store, &[outcome], settled).await;
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
        store.maintain().await.unwrap();
        store.add(&[new("a")]).await.unwrap();
    }
    let health = store.maintain().await.unwrap();
    assert_eq!((health.wal_held_bytes, health.warning), (0, None));
    assert_eq!(keys(&new_rows(store, 9).await), ["a"]);
}

for_every_backend! {
    an_added_message_arrives_once
    new_rows_are_asked_for_lane_by_lane
    a_message_sent_in_the_future_was_sent_at_its_insert
    placing_leaves_a_cancelled_or_placed_row_alone
    lanes_tell_their_first_due_row_beyond_those_in_flight
    due_rows_come_in_order_and_without_those_in_flight
    overdue_last_chances_go_first
    last_chances_can_be_taken_early
    last_chances_are_counted_for_the_plans
    a_walk_records_readers_once_and_moves_the_row_on
    pushed_reads_become_readers_once_and_wait_for_their_message
    a_pushed_read_does_not_wait_for_a_message_that_was_placed_meanwhile
    pushed_reads_go_when_their_message_did_not_come_within_their_time
    a_list_of_recipients_is_kept_until_the_row_is_another_message
    one_commit_settles_many_and_counts_calls_and_habits
    a_stale_claim_adds_its_readers_and_nothing_else
    a_key_inserted_again_is_another_message
    a_row_given_another_key_in_flight_is_another_message
    a_final_row_leaves_the_claims
    a_row_that_is_no_message_is_quarantined_once_and_stops_nobody
    rows_at_the_end_of_their_life_are_found_in_a_blocked_lane
    rows_wait_for_the_configuration
    a_lane_is_where_a_row_was_placed
    a_row_given_to_another_account_is_placed_anew
    sound_and_failing_rows_are_asked_for_apart
    a_clock_set_back_pulls_our_own_schedule_forward
    retry_makes_final_rows_due_and_young_again
    a_row_cancelled_before_it_was_placed_can_be_retried
    prune_removes_what_finished_long_ago
    readers_of_a_key_that_came_back_are_kept
    readers_of_a_key_that_came_back_count
    a_message_completes_by_who_is_recorded
    totals_count_by_lane_and_state
    a_ticket_is_read_as_it_stands
    a_change_between_two_waits_is_not_lost
    housekeeping_may_be_called_at_any_time
}

/// The pushed reads of one message as the reconciler takes them.
fn told(row: &Message, now: UnixMs, events: &[ReadEvent]) -> Outcome {
    let mine = events.iter().filter(|event| event.key == row.key);
    let readers = mine.map(|event| SeenReader {
        user_id: event.user_id.clone(),
        seen_at: now,
        read_at: event.read_at,
    });
    let end = WalkEnd::Pushed { in_flight: false };
    Outcome {
        readers: readers.collect(),
        ..Outcome::without_call(row.claim(), now, end)
    }
}

async fn pushed_reads_become_readers_once_and_wait_for_their_message<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    add_placed(store, &[("a", "x", at(5)), ("b", "x", at(5))]).await;
    // A poll has seen v before DingTalk's time of it is told.
    let claimed = claim(store, "b", at(5)).await;
    commit(store, &[walk(&claimed, at(6), &["v"])], settled).await;
    backend.push("a", "u", Some(at(3))).await;
    backend.push("a", "u", Some(at(4))).await;
    backend.push("a", "w", None).await;
    backend.push("b", "v", Some(at(60))).await;
    backend.push("later", "y", Some(at(7))).await;
    let found = store.read_events(&[], 100, at(10)).await.unwrap();
    assert_eq!(keys(&found.messages), ["a", "b"]);
    assert_eq!(
        (found.events.len(), found.refused, found.more),
        (5, 0, false)
    );
    let outcomes: Vec<_> = found
        .messages
        .iter()
        .map(|row| told(row, at(10), &found.events))
        .collect();
    let (taken, waiting): (Vec<_>, Vec<_>) = found
        .events
        .iter()
        .partition(|event| event.key.as_str() != "later");
    // One commit that is dropped writes nothing of it.
    let write = |outcomes: &[Outcome], found: &[Found]| Writes {
        events: EventWrites {
            taken: taken.iter().map(|event| event.id).collect(),
            waiting: waiting.iter().map(|event| (event.id, at(10))).collect(),
        },
        ..settled(outcomes, found)
    };
    polled(try_commit(store, &outcomes, write), 3, true).await;
    commit(store, &outcomes, write).await;
    let reader = |user: &str, seen_after, seen_at, read_at, seen_by| Reader {
        user_id: user.into(),
        seen_after,
        seen_at,
        read_at,
        seen_by,
    };
    assert_eq!(
        backend.readers().await,
        [
            // Within the poll that saw it.
            (
                "b".to_owned(),
                reader("v", T0, at(6), Some(at(6)), SeenBy::Poll)
            ),
            (
                "a".to_owned(),
                reader("u", T0, at(10), Some(at(3)), SeenBy::Event)
            ),
            ("a".to_owned(), reader("w", T0, at(10), None, SeenBy::Event)),
        ]
    );
    let (row, _) = show(store, "a").await;
    assert_eq!(
        (row.reader_count, row.last_polled_at, row.send_status),
        (2, None, None)
    );
    assert_eq!(
        store.read_events(&[], 100, at(11)).await.unwrap(),
        ReadEvents::default()
    );
    // Once its message is placed, what waited is taken, and what comes after it at once.
    add_placed(store, &[("later", "x", at(20))]).await;
    let found = store.read_events(&[], 1, at(12)).await.unwrap();
    assert_eq!(
        (keys(&found.messages), found.events[0].user_id.as_str()),
        (vec!["later"], "y")
    );
    assert!(found.more);
}

async fn a_pushed_read_does_not_wait_for_a_message_that_was_placed_meanwhile<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    backend.push("comes", "u", None).await;
    let looked_up = T0 + Duration::from_millis(5);
    let found = store.read_events(&[], 100, looked_up).await.unwrap();
    assert_eq!((found.events.len(), found.messages.len()), (1, 0));
    // From a moment before the look on, in a transaction after it.
    add_placed(store, &[("comes", "x", at(5))]).await;
    let write = |_: &[Outcome], _: &[Found]| Writes {
        events: EventWrites {
            taken: Vec::new(),
            waiting: vec![(found.events[0].id, looked_up)],
        },
        ..Writes::default()
    };
    commit(store, &[], write).await;
    let found = store.read_events(&[], 100, at(12)).await.unwrap();
    assert_eq!(
        (keys(&found.messages), found.events.len()),
        (vec!["comes"], 1)
    );
}

async fn pushed_reads_go_when_their_message_did_not_come_within_their_time<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    for key in ["never", "comes", "cancelled"] {
        backend.push(key, "u", None).await;
    }
    let wait = async |now: UnixMs| {
        let found = store.read_events(&[], 100, now).await.unwrap();
        let events = found.events.iter();
        let write = |_: &[Outcome], _: &[Found]| Writes {
            events: EventWrites {
                taken: Vec::new(),
                waiting: events.clone().map(|event| (event.id, now)).collect(),
            },
            ..Writes::default()
        };
        commit(store, &[], write).await;
        found.events.len()
    };
    assert_eq!(wait(at(10)).await, 3);
    assert_eq!(wait(at(10)).await, 0);
    // One came and was ended before it was placed: nothing places it any more.
    store.add(&[new("cancelled")]).await.unwrap();
    backend.cancel("cancelled").await;
    assert_eq!(store.forget_events(at(10), at(11), 9).await.unwrap(), 0);
    assert_eq!(wait(at(20)).await, 0, "neither lately nor too long ago");
    assert_eq!(store.forget_events(at(5), at(10), 9).await.unwrap(), 0);
    assert_eq!(wait(at(30)).await, 1, "it waits since lately");
    assert_eq!(store.forget_events(at(11), at(40), 1).await.unwrap(), 1);
    assert_eq!(store.forget_events(at(11), at(40), 1).await.unwrap(), 1);
    assert_eq!(
        store.forget_events(at(31), at(40), 9).await.unwrap(),
        0,
        "its message is there"
    );
    assert_eq!(wait(at(40)).await, 1);
}

async fn a_list_of_recipients_is_kept_until_the_row_is_another_message<B: Backend>() {
    let backend = B::fresh().await;
    let store = backend.store();
    let persons = NewMessage {
        chat: Chat::Oto,
        ..new_of("a", "x")
    };
    store.add(&[persons]).await.unwrap();
    let row = new_rows(store, 1).await.remove(0);
    assert_eq!((row.chat, row.listed), (Chat::Oto, None));
    let placed = Message {
        next_poll_at: Some(at(5)),
        admitted_at: Some(T0),
        ..row
    };
    place(store, &[placed]).await;
    let claimed = claim(store, "a", at(5)).await;
    let listing = Outcome {
        listed: Some(3),
        ..walk(&claimed, at(6), &["u"])
    };
    commit(store, &[listing], settled).await;
    assert_eq!(show(store, "a").await.0.listed, Some(3));
    backend.rename("a", "b").await;
    assert_eq!(show(store, "b").await.0.listed, None);
}
