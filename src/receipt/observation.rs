//! What a walk teaches the cadence.

use std::time::Duration;

use super::{Message, Outcome, State, UnixMs, WalkEnd};
use crate::cadence::{Missing, Observation};

/// What `outcome` teaches, which found the row as `before` and left it as `after`; `None` where it asked nothing and nobody told
/// anything. `read_at` says when those of the new readers read of whom that is known.
pub fn observe(
    before: &Message,
    outcome: &Outcome,
    new_readers: u32,
    read_at: &[UnixMs],
    after: &Message,
) -> Option<Observation> {
    let told = outcome.end.is_pushed() && new_readers > 0;
    if !outcome.attempted() && !told {
        return None;
    }
    // One that ends without a poll is a message that cost no call.
    let ends_unpolled = told && after.state == State::Complete && !before.state.is_final();
    let is_first = before.last_polled_at.is_none() && (!told || ends_unpolled);
    let last_answer = before.last_complete_at.or(before.answered_at);
    let gone = matches!(outcome.end, WalkEnd::NotGeneratedOrExpired(_));
    Some(Observation {
        sent_at: before.sent_at.0,
        age: before.age(outcome.started_at),
        seen_until: before
            .last_complete_at
            .map_or(Duration::ZERO, |at| before.age(at)),
        calls: outcome.calls,
        // How many an answer lists is known with it.
        begins: is_first.then(|| match after.expected() {
            Some(expected) => {
                let seen = after.reader_count.saturating_sub(new_readers);
                Missing::Known(expected.saturating_sub(seen).max(1))
            }
            None => Missing::Unknown,
        }),
        complete: outcome.saw_all(before),
        new_readers,
        read_ages: read_at.iter().map(|at| before.age(*at)).collect(),
        still_missing: after
            .expected()
            .map(|expected| expected.saturating_sub(after.reader_count)),
        expired_after: last_answer
            .filter(|_| gone && after.state == State::Expired)
            .map(|answered| before.age(answered)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{ErrorCode, LaneId, MessageId};

    const HOUR: Duration = Duration::from_secs(3_600);
    const SENT: UnixMs = UnixMs(1_790_000_000_000);

    fn message(expected_readers: Option<u32>) -> Message {
        let lane = LaneId {
            account: "a".into(),
            corp: None,
        };
        Message {
            expected_readers,
            ..Message::inserted(MessageId(1), "key".into(), lane, SENT)
        }
    }

    fn walk(row: &Message, age: Duration, calls: u32, end: WalkEnd) -> Outcome {
        Outcome {
            calls,
            ..Outcome::without_call(row.claim(), SENT + age, end)
        }
    }

    #[test]
    fn a_first_walk_tells_whom_it_waited_for_and_a_later_one_what_is_new() {
        let mut row = message(Some(5));
        let first = walk(&row, HOUR, 2, WalkEnd::Complete);
        let counted = |reader_count| Message {
            reader_count,
            ..row.clone()
        };
        let seen = observe(&row, &first, 2, &[], &counted(2)).unwrap();
        assert_eq!((seen.age, seen.seen_until), (HOUR, Duration::ZERO));
        assert_eq!(seen.begins, Some(Missing::Known(5)));
        assert_eq!(
            (seen.calls, seen.new_readers, seen.still_missing),
            (2, 2, Some(3))
        );
        let after = counted(11);
        (row.reader_count, row.last_complete_at) = (2, Some(SENT + HOUR));
        row.last_polled_at = row.last_complete_at;
        let cut = WalkEnd::Cut(ErrorCode::from("system.error"));
        let seen = observe(&row, &walk(&row, 2 * HOUR, 1, cut), 9, &[], &after).unwrap();
        assert_eq!((seen.age, seen.seen_until), (2 * HOUR, HOUR));
        assert_eq!((seen.begins, seen.complete), (None, false));
        assert_eq!((seen.new_readers, seen.still_missing), (9, Some(0)));
        let unknown = message(None);
        let seen = observe(&unknown, &first, 2, &[], &unknown).unwrap();
        assert_eq!(
            (seen.begins, seen.still_missing),
            (Some(Missing::Unknown), None)
        );
    }

    #[test]
    fn a_walk_without_a_call_teaches_nothing() {
        let row = message(Some(1));
        let given_back = walk(&row, HOUR, 0, WalkEnd::Released);
        assert_eq!(observe(&row, &given_back, 0, &[], &row), None);
    }

    #[test]
    fn only_the_expiry_of_a_key_that_had_answered_tells_of_its_life() {
        let gone = WalkEnd::NotGeneratedOrExpired(ErrorCode::from("processQueryKey.expireTime"));
        let mut before = message(Some(1));
        let expired = |before: &Message, state| {
            let after = Message {
                state,
                ..before.clone()
            };
            let outcome = walk(before, 12 * HOUR, 1, gone.clone());
            let seen = observe(before, &outcome, 0, &[], &after).unwrap();
            seen.expired_after
        };
        assert_eq!(expired(&before, State::Expired), None);
        before.answered_at = Some(SENT + 7 * HOUR);
        assert_eq!(expired(&before, State::Expired), Some(7 * HOUR));
        before.last_complete_at = Some(SENT + 8 * HOUR);
        assert_eq!(expired(&before, State::Expired), Some(8 * HOUR));
        assert_eq!(expired(&before, State::Pending), None);
    }
}
