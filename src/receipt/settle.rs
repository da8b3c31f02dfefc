//! What a walk's outcome makes of a message: the one place where states change.

use super::{
    Doubt, ErrorCode, Message, Outcome, Phase, Schedule, SendStatus, State, UnixMs, WalkEnd,
};
use crate::cadence::Call;

/// The code of a key that is not generated yet, or expired.
const EXPIRED: &str = "processQueryKey.expireTime";
/// `last_error` of a key that expired without ever having been answered.
const NEVER_GENERATED: &str = "processQueryKey.neverGenerated";
/// `last_error` of a message whose last chance the month's budget could not afford.
const BUDGET_SPENT: &str = "budget.spent";

/// The row as it stands after `outcome`, of whose readers `new_readers` were not known before. `recorded` is how many
/// readers are recorded in all, where the store counted them: that is what a message completes by.
///
/// `row` is the row as it is now. Where it is no longer the one that was claimed (cancelled, finished, re-scheduled or
/// moved to another lane meanwhile) it keeps its state and schedule: readers and calls are counted, and nothing else.
pub fn settle(
    row: &Message,
    outcome: &Outcome,
    new_readers: u32,
    recorded: Option<u32>,
    schedule: &Schedule,
) -> Message {
    let now = outcome.ended_at;
    let mut next = Message {
        reader_count: recorded.unwrap_or(row.reader_count.saturating_add(new_readers)),
        call_count: row.call_count.saturating_add(outcome.calls),
        ..row.clone()
    };
    if outcome.attempted() {
        next.last_polled_at = Some(outcome.started_at);
    }
    if let WalkEnd::Pushed { in_flight } = outcome.end {
        return pushed(row, next, in_flight, now, schedule);
    }
    let claim = &outcome.claim;
    if row.state.is_final() || row.next_poll_at != claim.fence || row.lane != claim.lane {
        return next;
    }
    if let Some(status) = &outcome.send_status {
        next.send_status = Some(status.clone());
        next.answered_at = row.answered_at.or(Some(now));
        next.doubt = None;
        // Nobody at all is no list of recipients.
        next.listed = row.listed.max(outcome.listed.filter(|listed| *listed > 0));
    }
    match &outcome.end {
        WalkEnd::Complete => {
            heard(&mut next);
            next.last_error = None;
            next.last_error_at = None;
            if outcome.saw_all(row) {
                next.last_complete_at = Some(outcome.started_at);
            }
            match &next.send_status {
                Some(SendStatus::Recalled) => finish(&mut next, State::Recalled, now),
                Some(SendStatus::Success) if next.all_read() => {
                    finish(&mut next, State::Complete, now);
                }
                _ => poll_again(&mut next, now, schedule),
            }
        }
        WalkEnd::Failed(code) => {
            fail_with(&mut next, code, now);
            next.blocked = false;
            next.failed_walks = row.failed_walks.saturating_add(1);
            next.failed_calls = row.failed_calls.saturating_add(outcome.failed_calls);
            cut_short(&mut next, outcome, now, schedule);
            if !next.state.is_final() && schedule.is_spent(&next, now) {
                // No call would be made until `max_age` ends it.
                next = aged_out(&next, now);
            }
        }
        WalkEnd::Cut(code) => {
            fail_with(&mut next, code, now);
            heard(&mut next);
            cut_short(&mut next, outcome, now, schedule);
        }
        WalkEnd::NotGeneratedOrExpired(code) => {
            fail_with(&mut next, code, now);
            heard(&mut next);
            expired_or_not_generated(&mut next, outcome, code, schedule);
        }
        WalkEnd::Rejected(code) => {
            fail_with(&mut next, code, now);
            heard(&mut next);
            let contradicts =
                next.answered_at.is_some() || row.age(now) < schedule.rules.generation_grace;
            if contradicts && !confirmed(&mut next, Refusal::Rejected, code, now, schedule) {
                poll_in(&mut next, now, Phase::Ladder, schedule);
            } else {
                finish(&mut next, State::Failed, now);
            }
        }
        WalkEnd::Blocked(code) => {
            fail_with(&mut next, code, now);
            heard(&mut next);
            next.blocked = true;
            cut_short(&mut next, outcome, now, schedule);
        }
        WalkEnd::SendingUnknown(code) => {
            fail_with(&mut next, code, now);
            heard(&mut next);
            let is_new =
                next.answered_at.is_none() && next.age(now) < schedule.rules.generation_grace;
            if is_new {
                poll_in(&mut next, now, Phase::Ladder, schedule);
            } else {
                next.blocked = true;
                cut_short(&mut next, outcome, now, schedule);
            }
        }
        WalkEnd::LaneBlocked(code) => {
            fail_with(&mut next, code, now);
            next.blocked = true;
        }
        WalkEnd::Unreachable(code) => {
            fail_with(&mut next, code, now);
            // It is due still, but behind those of which nothing speaks against, and behind those that failed before it.
            next.failed_walks = row.failed_walks.max(1);
            next.next_poll_at = row.next_poll_at.max(Some(now));
            next.last_chance_at = schedule.last_chance_after(&next, now);
        }
        WalkEnd::OverBudget => over_budget(&mut next, outcome, schedule),
        WalkEnd::Released | WalkEnd::Pushed { .. } => {}
        WalkEnd::TooOld => next = aged_out(&next, now),
    }
    next
}

/// The row with readers whom DingTalk pushed, as `next` counts them. It is no answer of the key: no status, no error and no doubt
/// changes. A final row, one in no lane and one in flight keep their schedule; so does one that waits for as many readers as
/// before, and one that is due about now anyway.
fn pushed(
    row: &Message,
    mut next: Message,
    in_flight: bool,
    now: UnixMs,
    schedule: &Schedule,
) -> Message {
    if row.state.is_final() {
        return next;
    }
    if next.all_read() {
        finish(&mut next, State::Complete, now);
        return next;
    }
    let soon = now + schedule.rules.min_interval;
    if let Some(due) = row.next_poll_at
        && row.admitted_at.is_some()
        && !in_flight
        && due > soon
        && next.missing() != row.missing()
    {
        // Fewer readers are worth fewer calls; a feeder's own "not before" holds.
        let wanted = schedule.next_poll_at(&next, now, Phase::Cadence);
        next.next_poll_at = Some(due.max(wanted));
    }
    next
}

/// What a refusal says of the key, if it is true.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Expired,
    Rejected,
}

impl Refusal {
    /// What the refusal said whose code stands on the row.
    fn of(code: &ErrorCode) -> Self {
        if code.as_str().eq_ignore_ascii_case(EXPIRED) {
            Self::Expired
        } else {
            Self::Rejected
        }
    }
}

/// Whether a refusal that contradicts what is known of the key is the second of its kind. The first stands on the row as
/// a doubt until an answer clears it; one that came sooner than `min_interval` after it says nothing more.
fn confirmed(
    next: &mut Message,
    refusal: Refusal,
    code: &ErrorCode,
    now: UnixMs,
    schedule: &Schedule,
) -> bool {
    match &next.doubt {
        Some(doubt) if Refusal::of(&doubt.code) == refusal => {
            now >= doubt.at + schedule.rules.min_interval
        }
        _ => {
            let code = match refusal {
                Refusal::Expired => ErrorCode::from(EXPIRED),
                Refusal::Rejected => code.clone(),
            };
            next.doubt = Some(Doubt { code, at: now });
            false
        }
    }
}

/// `processQueryKey.expireTime` means two opposite things; only the message's past tells which.
fn expired_or_not_generated(
    next: &mut Message,
    outcome: &Outcome,
    code: &ErrorCode,
    schedule: &Schedule,
) {
    let now = outcome.ended_at;
    if finished_by_pages(next, outcome, now) {
        return;
    }
    if next.answered_at.is_none() {
        if next.age(now) < schedule.rules.generation_grace {
            poll_in(next, now, Phase::Ladder, schedule);
        } else {
            next.last_error = Some(ErrorCode::from(NEVER_GENERATED));
            finish(next, State::Expired, now);
        }
        return;
    }
    let never_sent = next.send_status == Some(SendStatus::Processing);
    let contradicts = never_sent || next.age(now) < schedule.lifetime / 2;
    if contradicts && !confirmed(next, Refusal::Expired, code, now, schedule) {
        poll_in(next, now, Phase::Ladder, schedule);
    } else {
        finish(next, State::Expired, now);
    }
}

/// The row as it stands when it grew older than `max_age`: expired, or failed if it was still blocked or never asked.
fn aged_out(row: &Message, now: UnixMs) -> Message {
    let mut next = row.clone();
    let asked = row.last_polled_at.is_some() && !row.blocked;
    if !asked && next.last_error.is_none() {
        fail_with(&mut next, &ErrorCode::from("message.neverAsked"), now);
    }
    finish(
        &mut next,
        if asked { State::Expired } else { State::Failed },
        now,
    );
    next
}

/// A walk that did not read every page: its pages may have finished the message all the same.
fn cut_short(next: &mut Message, outcome: &Outcome, now: UnixMs, schedule: &Schedule) {
    let known_sent = outcome.send_status == Some(SendStatus::Success);
    if known_sent && next.all_read() {
        finish(next, State::Complete, now);
    } else {
        poll_again(next, now, schedule);
    }
}

/// The month could not afford the next call. A poll of the cadence that is left out is no error; a last chance that is
/// dropped stands on the row, since its answer is lost.
fn over_budget(next: &mut Message, outcome: &Outcome, schedule: &Schedule) {
    let now = outcome.ended_at;
    let call = schedule.call(next, now);
    if outcome.send_status.is_some() {
        next.blocked = false;
    }
    if outcome.send_status == Some(SendStatus::Success) && next.all_read() {
        finish(next, State::Complete, now);
        return;
    }
    next.next_poll_at = Some(schedule.refused(next, now));
    if call == Call::LastChance {
        fail_with(next, &ErrorCode::from(BUDGET_SPENT), now);
        next.last_chance_at = None;
    } else {
        next.last_chance_at = schedule.last_chance_after(next, now);
    }
}

/// The key expired within the walk: what the pages before it said is the last word.
fn finished_by_pages(next: &mut Message, outcome: &Outcome, now: UnixMs) -> bool {
    let state = match outcome.send_status {
        Some(SendStatus::Recalled) => State::Recalled,
        Some(SendStatus::Success) if next.all_read() => State::Complete,
        _ => return false,
    };
    finish(next, state, now);
    true
}

/// The endpoint answered for the key: whatever failed before, it no longer does.
fn heard(next: &mut Message) {
    next.blocked = false;
    next.failed_walks = 0;
    next.failed_calls = 0;
}

fn finish(next: &mut Message, state: State, now: UnixMs) {
    next.state = state;
    next.finished_at = Some(now);
    next.last_chance_at = None;
    next.doubt = None;
}

fn fail_with(next: &mut Message, code: &ErrorCode, now: UnixMs) {
    next.last_error = Some(code.clone());
    next.last_error_at = Some(now);
}

fn poll_again(next: &mut Message, now: UnixMs, schedule: &Schedule) {
    let phase = match &next.send_status {
        Some(SendStatus::Processing) => Phase::Ladder,
        _ => Phase::Cadence,
    };
    poll_in(next, now, phase, schedule);
}

fn poll_in(next: &mut Message, now: UnixMs, phase: Phase, schedule: &Schedule) {
    next.next_poll_at = Some(schedule.next_poll_at(next, now, phase));
    next.last_chance_at = schedule.last_chance_after(next, now);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cadence::Rules;
    use crate::receipt::{Chat, LaneId, MessageId, Missing, SeenReader, observe};

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3_600);
    const SENT: UnixMs = UnixMs(1_800_000_000_000);
    const UNKNOWN_KEY: &str = "invalid.processQueryKey";

    fn schedule() -> Schedule {
        Schedule::prior(&Rules::default())
    }

    fn row() -> Message {
        let lane = LaneId {
            account: "a".into(),
            corp: None,
        };
        let new = Message {
            expected_readers: Some(2),
            ..Message::inserted(MessageId(1), "key".into(), lane, SENT)
        };
        schedule().place(&new, SENT)
    }

    /// The row after a walk of one call at `age`.
    fn walked(row: &Message, age: Duration, status: Option<SendStatus>, end: WalkEnd) -> Message {
        settle(row, &walk(row, age, status, end), 0, None, &schedule())
    }

    fn walk(row: &Message, age: Duration, status: Option<SendStatus>, end: WalkEnd) -> Outcome {
        Outcome {
            calls: 1,
            send_status: status,
            ..Outcome::without_call(row.claim(), SENT + age, end)
        }
    }

    fn answered(row: &Message, age: Duration, status: SendStatus) -> Message {
        walked(row, age, Some(status), WalkEnd::Complete)
    }

    fn expired(row: &Message, age: Duration) -> Message {
        let end = WalkEnd::NotGeneratedOrExpired(ErrorCode::from(EXPIRED));
        walked(row, age, None, end)
    }

    fn rejected(row: &Message, age: Duration, code: &str) -> Message {
        walked(row, age, None, WalkEnd::Rejected(ErrorCode::from(code)))
    }

    #[test]
    fn an_expiry_that_contradicts_an_answer_wants_a_second() {
        let row = answered(&row(), MINUTE, SendStatus::Success);
        let doubted = expired(&row, HOUR);
        assert_eq!(doubted.state, State::Pending);
        let doubt = doubted.doubt.as_ref().unwrap();
        assert_eq!((doubt.code.as_str(), doubt.at), (EXPIRED, SENT + HOUR));
        assert!(doubted.next_poll_at.unwrap() >= SENT + HOUR + schedule().rules.min_interval);
        // Too soon after the first to say more than it said.
        let soon = expired(&doubted, HOUR + Duration::from_secs(1));
        assert_eq!((soon.state, &soon.doubt), (State::Pending, &doubted.doubt));
        let ended = expired(&soon, 2 * HOUR);
        assert_eq!((ended.state, ended.doubt), (State::Expired, None));
        // A good answer clears it, and then it takes two again.
        let alive = answered(&doubted, 2 * HOUR, SendStatus::Success);
        assert_eq!(alive.doubt, None);
        assert_eq!(expired(&alive, 3 * HOUR).state, State::Pending);
        // A refusal of the other kind is a doubt of its own.
        let other = rejected(&doubted, 2 * HOUR, UNKNOWN_KEY);
        assert_eq!(other.state, State::Pending);
        assert_eq!(other.doubt.unwrap().code.as_str(), UNKNOWN_KEY);
    }

    #[test]
    fn an_expiry_that_contradicts_nothing_ends_at_once() {
        let row = answered(&row(), MINUTE, SendStatus::Success);
        assert_eq!(expired(&row, 13 * HOUR).state, State::Expired);
        let never = expired(&super::tests::row(), 11 * MINUTE);
        assert_eq!(never.state, State::Expired);
        assert_eq!(never.last_error.unwrap().as_str(), NEVER_GENERATED);
        let young = expired(&super::tests::row(), MINUTE);
        assert_eq!((young.state, young.doubt), (State::Pending, None));
    }

    #[test]
    fn a_key_that_only_said_processing_wants_two_expiries_at_any_age() {
        let row = answered(&row(), MINUTE, SendStatus::Processing);
        let doubted = expired(&row, 2 * MINUTE);
        assert_eq!(doubted.state, State::Pending);
        assert!(
            doubted.next_poll_at.unwrap() < SENT + 10 * MINUTE,
            "the ladder goes on"
        );
        let late = expired(&row, 20 * HOUR);
        assert_eq!(late.state, State::Pending);
        assert_eq!(expired(&late, 23 * HOUR).state, State::Expired);
    }

    #[test]
    fn a_rejection_of_a_young_or_answered_key_wants_a_second_whatever_its_code() {
        let young = rejected(&row(), MINUTE, UNKNOWN_KEY);
        assert_eq!(young.state, State::Pending);
        let ended = rejected(&young, 2 * MINUTE, "conversation.org.dismatch");
        assert_eq!((ended.state, &ended.doubt), (State::Failed, &None));
        assert_eq!(
            ended.last_error.unwrap().as_str(),
            "conversation.org.dismatch"
        );
        assert_eq!(
            rejected(&row(), 11 * MINUTE, UNKNOWN_KEY).state,
            State::Failed
        );
        let known = answered(&row(), MINUTE, SendStatus::Success);
        assert_eq!(
            rejected(&known, HOUR, UNKNOWN_KEY).state,
            State::Pending,
            "it was answered before"
        );
    }

    #[test]
    fn only_an_expiry_that_ended_the_message_teaches_a_lifetime() {
        let row = answered(&row(), MINUTE, SendStatus::Success);
        let end = WalkEnd::NotGeneratedOrExpired(ErrorCode::from(EXPIRED));
        let learned = |row: &Message, age| {
            let walk = walk(row, age, None, end.clone());
            let after = settle(row, &walk, 0, None, &schedule());
            (
                observe(row, &walk, 0, &[], &after).unwrap().expired_after,
                after,
            )
        };
        let (nothing, doubted) = learned(&row, HOUR);
        assert_eq!(nothing, None);
        assert_eq!(learned(&doubted, 2 * HOUR).0, Some(MINUTE));
    }

    #[test]
    fn a_message_completes_by_the_readers_that_are_recorded() {
        let row = row();
        let mut outcome = walk(&row, HOUR, Some(SendStatus::Success), WalkEnd::Complete);
        // The key was deleted and inserted again: its readers are not new.
        let again = settle(&row, &outcome, 0, Some(2), &schedule());
        assert_eq!((again.state, again.reader_count), (State::Complete, 2));
        // A consumer deleted one of those that were counted before.
        let counted = Message {
            reader_count: 1,
            ..row
        };
        outcome.claim = counted.claim();
        let short = settle(&counted, &outcome, 1, Some(1), &schedule());
        assert_eq!((short.state, short.reader_count), (State::Pending, 1));
    }

    /// Known to have failed, though not charged: were it asked for as often as the others, a hundred sick keys would close
    /// their lane again after every answer.
    #[test]
    fn a_walk_that_trouble_cuts_short_leaves_its_row_due_behind_the_others() {
        let row = row();
        let trouble = || WalkEnd::Unreachable(ErrorCode::from("system.error"));
        let due = row.next_poll_at.unwrap().since(SENT);
        let next = walked(&row, due + MINUTE, None, trouble());
        assert_eq!((next.failed_walks, next.failed_calls), (1, 0));
        assert_eq!(next.next_poll_at, Some(SENT + (due + MINUTE)));
        assert_eq!(next.last_chance_at, row.last_chance_at);
        // The last chance is taken with it.
        let late = row.last_chance_at.unwrap().since(SENT) + MINUTE;
        let last = walked(&next, late, None, trouble());
        assert_eq!((last.failed_walks, last.last_chance_at), (1, None));
        assert_eq!(
            answered(&last, late + MINUTE, SendStatus::Success).failed_walks,
            0
        );
    }

    #[test]
    fn failed_walks_count_until_the_endpoint_answers_for_the_key() {
        let code = || ErrorCode::from("system.error");
        // A proxy's own page is not counted by the vendor, and is an attempt all the same.
        let row = row();
        let outcome = Outcome {
            failed_calls: 4,
            ..Outcome::without_call(row.claim(), SENT + HOUR, WalkEnd::Failed(code()))
        };
        let failed = settle(&row, &outcome, 0, None, &schedule());
        assert_eq!((failed.failed_walks, failed.failed_calls), (1, 4));
        assert_eq!(failed.last_polled_at, Some(SENT + HOUR));
        assert_eq!(failed.call_count, 0);
        assert_eq!(failed.last_error, Some(code()));
        let counts = |end| {
            let row = walked(&failed, 2 * HOUR, None, end);
            (row.failed_walks, row.failed_calls)
        };
        for answered in [
            WalkEnd::Complete,
            WalkEnd::Cut(code()),
            WalkEnd::Blocked(code()),
            WalkEnd::Rejected(code()),
            WalkEnd::NotGeneratedOrExpired(code()),
        ] {
            assert_eq!(counts(answered.clone()), (0, 0), "{answered:?}");
        }
        for unheard in [
            WalkEnd::Released,
            WalkEnd::OverBudget,
            WalkEnd::LaneBlocked(code()),
            WalkEnd::TooOld,
        ] {
            assert_eq!(counts(unheard.clone()), (1, 4), "{unheard:?}");
        }
    }

    #[test]
    fn an_outcome_of_another_lane_brings_facts_alone() {
        let row = row();
        let mut outcome = walk(&row, HOUR, Some(SendStatus::Recalled), WalkEnd::Complete);
        outcome.claim.lane.account = "b".into();
        let after = settle(&row, &outcome, 1, None, &schedule());
        let expected = Message {
            reader_count: 1,
            call_count: 1,
            last_polled_at: Some(SENT + HOUR),
            ..row
        };
        assert_eq!(after, expected);
    }

    /// A message to persons whose feeder says nothing of how many they are.
    fn to_persons() -> Message {
        Message {
            chat: Chat::Oto,
            expected_readers: None,
            ..row()
        }
    }

    fn listing(row: &Message, age: Duration, listed: u32, recorded: u32) -> Message {
        let outcome = Outcome {
            listed: Some(listed),
            ..walk(row, age, Some(SendStatus::Success), WalkEnd::Complete)
        };
        let new = recorded - row.reader_count;
        settle(row, &outcome, new, Some(recorded), &schedule())
    }

    #[test]
    fn the_list_is_the_number_and_a_shorter_one_completes_nothing() {
        let seen = listing(&to_persons(), MINUTE, 3, 1);
        assert_eq!((seen.state, seen.listed), (State::Pending, Some(3)));
        assert_eq!(seen.missing(), Missing::Known(2));
        let short = listing(&seen, 2 * MINUTE, 2, 2);
        assert_eq!((short.state, short.listed), (State::Pending, Some(3)));
        // Who is not on it was not seen unread.
        assert_eq!(short.last_complete_at, Some(SENT + MINUTE));
        assert_eq!(listing(&short, HOUR, 3, 3).state, State::Complete);
        assert_eq!(listing(&short, HOUR, 4, 3).state, State::Pending);
        // Nobody at all is no list.
        let nobody = listing(&to_persons(), MINUTE, 0, 0);
        assert_eq!((nobody.state, nobody.listed), (State::Pending, None));
        // What a feeder says counts, whatever the list says.
        let expecting = Message {
            expected_readers: Some(2),
            ..to_persons()
        };
        assert_eq!(listing(&expecting, MINUTE, 3, 2).state, State::Complete);
    }

    #[test]
    fn an_unknown_result_of_the_sending_is_waited_for_and_then_blocked() {
        let unknown = || WalkEnd::SendingUnknown(ErrorCode::from("unknown.send.result"));
        let young = walked(&to_persons(), MINUTE, None, unknown());
        assert_eq!((young.state, young.blocked), (State::Pending, false));
        assert!(
            young.next_poll_at.unwrap() < SENT + 3 * MINUTE,
            "the ladder"
        );
        let old = walked(&young, 11 * MINUTE, None, unknown());
        assert_eq!((old.state, old.blocked), (State::Pending, true));
        assert_eq!(old.last_error.unwrap().as_str(), "unknown.send.result");
        let answered = answered(&to_persons(), MINUTE, SendStatus::Success);
        let later = walked(&answered, 2 * MINUTE, None, unknown());
        assert_eq!((later.state, later.blocked), (State::Pending, true));
        let ended = walked(&later, 8 * 24 * HOUR, None, WalkEnd::TooOld);
        assert_eq!(ended.state, State::Failed);
    }

    /// The row after pushed readers, `recorded` in all.
    fn told(row: &Message, age: Duration, recorded: u32, in_flight: bool) -> Message {
        let end = WalkEnd::Pushed { in_flight };
        let outcome = Outcome::without_call(row.claim(), SENT + age, end);
        let new = recorded - row.reader_count;
        settle(row, &outcome, new, Some(recorded), &schedule())
    }

    #[test]
    fn pushed_readers_complete_a_message_and_move_its_next_poll() {
        let row = Message {
            expected_readers: Some(3),
            ..row()
        };
        let one = told(&row, Duration::from_secs(5), 1, false);
        let expected = Message {
            reader_count: 1,
            next_poll_at: one.next_poll_at,
            ..row.clone()
        };
        assert_eq!(one, expected, "no status, no call, no poll");
        assert!(
            one.next_poll_at >= row.next_poll_at,
            "never before its time"
        );
        let two = told(&row, Duration::from_secs(5), 2, true);
        assert_eq!(two.next_poll_at, row.next_poll_at, "its claim stays good");
        for in_flight in [false, true] {
            let all = told(&row, MINUTE, 3, in_flight);
            assert_eq!(all.state, State::Complete);
            assert_eq!((all.send_status, all.call_count), (None, 0));
        }
        let cancelled = Message {
            state: State::Cancelled,
            ..row.clone()
        };
        assert_eq!(told(&cancelled, MINUTE, 3, false).state, State::Cancelled);
        // Without a number only a list completes.
        let unlisted = told(&to_persons(), MINUTE, 9, false);
        assert_eq!(unlisted.state, State::Pending);
        let listed = listing(&to_persons(), MINUTE, 2, 1);
        assert_eq!(told(&listed, 2 * MINUTE, 2, false).state, State::Complete);
    }

    #[test]
    fn a_time_of_a_read_lies_between_the_last_walk_and_the_answer() {
        let mut row = to_persons();
        row.last_complete_at = Some(SENT + MINUTE);
        let reader = |read_at| SeenReader {
            user_id: "u".into(),
            seen_at: SENT + HOUR,
            read_at,
        };
        for (said, believed) in [
            (Some(SENT + 2 * MINUTE), Some(SENT + 2 * MINUTE)),
            (Some(SENT), Some(SENT + MINUTE)),
            (Some(SENT + 2 * HOUR), Some(SENT + HOUR)),
            (None, None),
        ] {
            assert_eq!(reader(said).read_at(&row), believed);
        }
        // A clock that was set back.
        row.last_complete_at = Some(SENT + 2 * HOUR);
        assert_eq!(reader(Some(SENT)).read_at(&row), Some(SENT + HOUR));
    }
}
