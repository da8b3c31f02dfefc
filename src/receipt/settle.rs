//! What a walk's outcome makes of a message: the one place where states change.

use super::{ErrorCode, Message, Outcome, Phase, Schedule, SendStatus, State, UnixMs, WalkEnd};
use crate::cadence::Call;

/// `last_error` of a key that expired without ever having been answered.
const NEVER_GENERATED: &str = "processQueryKey.neverGenerated";
/// `last_error` of a message whose last chance the month's budget could not afford.
const BUDGET_SPENT: &str = "budget.spent";

/// The row as it stands after `outcome`, of whose readers `new_readers` were not known before.
///
/// `row` is the row as it is now. Where it is no longer the one that was claimed (cancelled, finished or
/// re-scheduled meanwhile) it keeps its state and schedule: readers and calls are counted, and nothing else.
pub fn settle(row: &Message, outcome: &Outcome, new_readers: u32, schedule: &Schedule) -> Message {
    let now = outcome.ended_at;
    let mut next = Message {
        reader_count: row.reader_count.saturating_add(new_readers),
        call_count: row.call_count.saturating_add(outcome.calls),
        ..row.clone()
    };
    if outcome.calls > 0 {
        next.last_polled_at = Some(outcome.started_at);
    }
    if row.state.is_final() || row.next_poll_at != outcome.claim.fence {
        return next;
    }
    if let Some(status) = &outcome.send_status {
        next.send_status = Some(status.clone());
        next.answered_at = row.answered_at.or(Some(now));
    }
    match &outcome.end {
        WalkEnd::Complete => {
            next.blocked = false;
            next.last_error = None;
            next.last_error_at = None;
            next.last_complete_at = Some(outcome.started_at);
            match &next.send_status {
                Some(SendStatus::Recalled) => finish(&mut next, State::Recalled, now),
                Some(SendStatus::Success) if all_read(&next) => {
                    finish(&mut next, State::Complete, now);
                }
                Some(SendStatus::Processing) => poll_again(&mut next, now, Phase::Ladder, schedule),
                _ => poll_again(&mut next, now, Phase::Cadence, schedule),
            }
        }
        WalkEnd::Cut(code) => {
            fail_with(&mut next, code, now);
            next.blocked = false;
            cut_short(&mut next, outcome, now, schedule);
        }
        WalkEnd::NotGeneratedOrExpired(code) => {
            fail_with(&mut next, code, now);
            next.blocked = false;
            if finished_by_pages(&mut next, outcome, now) {
                // The pages before the refusal said it all.
            } else if next.answered_at.is_some() {
                finish(&mut next, State::Expired, now);
            } else if row.age(now) < schedule.rules.generation_grace {
                poll_again(&mut next, now, Phase::Ladder, schedule);
            } else {
                next.last_error = Some(ErrorCode::from(NEVER_GENERATED));
                finish(&mut next, State::Expired, now);
            }
        }
        WalkEnd::Rejected(code) => {
            fail_with(&mut next, code, now);
            finish(&mut next, State::Failed, now);
        }
        WalkEnd::Blocked(code) => {
            fail_with(&mut next, code, now);
            next.blocked = true;
            cut_short(&mut next, outcome, now, schedule);
        }
        WalkEnd::LaneBlocked(code) => {
            fail_with(&mut next, code, now);
            next.blocked = true;
        }
        WalkEnd::OverBudget => over_budget(&mut next, outcome, schedule),
        WalkEnd::Released => {}
        WalkEnd::TooOld => next = aged_out(&next, now),
    }
    let moved = next.next_poll_at != row.next_poll_at;
    if next.next_poll_at.is_some() && (moved || outcome.calls > 0) {
        // A new row that was called at once was never admitted in so many words. One that was given back unscheduled
        // is as new as before.
        next.admitted_at = row.admitted_at.or(Some(now));
    }
    next
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
    if known_sent && all_read(next) {
        finish(next, State::Complete, now);
    } else if next.send_status == Some(SendStatus::Processing) {
        poll_again(next, now, Phase::Ladder, schedule);
    } else {
        poll_again(next, now, Phase::Cadence, schedule);
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
    if outcome.send_status == Some(SendStatus::Success) && all_read(next) {
        finish(next, State::Complete, now);
        return;
    }
    next.next_poll_at = Some(schedule.refused(next, now));
    if call == Call::LastChance {
        fail_with(next, &ErrorCode::from(BUDGET_SPENT), now);
        next.last_chance_at = None;
    } else {
        next.last_chance_at = schedule.last_chance_at(next, now);
    }
}

/// The key expired within the walk: what the pages before it said is the last word.
fn finished_by_pages(next: &mut Message, outcome: &Outcome, now: UnixMs) -> bool {
    let state = match outcome.send_status {
        Some(SendStatus::Recalled) => State::Recalled,
        Some(SendStatus::Success) if all_read(next) => State::Complete,
        _ => return false,
    };
    finish(next, state, now);
    true
}

fn all_read(row: &Message) -> bool {
    row.expected_readers
        .is_some_and(|expected| row.reader_count >= expected)
}

fn finish(next: &mut Message, state: State, now: UnixMs) {
    next.state = state;
    next.finished_at = Some(now);
    next.last_chance_at = None;
}

fn fail_with(next: &mut Message, code: &ErrorCode, now: UnixMs) {
    next.last_error = Some(code.clone());
    next.last_error_at = Some(now);
}

fn poll_again(next: &mut Message, now: UnixMs, phase: Phase, schedule: &Schedule) {
    next.next_poll_at = Some(schedule.next_poll_at(next, now, phase));
    next.last_chance_at = schedule.last_chance_at(next, now);
}
