//! A month of messages to persons whose reads DingTalk also pushes to another service: what that spares.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use receiptd::cadence::{Basis, Habits, Policy, Rules};
use receiptd::receipt::{
    Chat, ErrorCode, Message, Outcome, SeenReader, SendStatus, UnixMs, UserId, WalkEnd,
};

use super::crowd::Crowd;
use super::sim::{Lesson, Live, START, Tally, schedule};

/// From a read to its row in `read_events` and the take-over.
const DELIVERY: Duration = Duration::from_millis(500);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// What a month is like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Messages sent, evenly by chance.
    pub(crate) messages: u64,
    /// Calls a message that the operator asks for.
    pub(crate) target: f64,
    /// The share of the reads that are pushed: the others get lost on their way.
    pub(crate) pushed: f64,
    /// Whether answers say when somebody read.
    pub(crate) timed: bool,
}

/// What comes next for a message: a poll, or the push of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Push(usize),
    Poll,
}

/// A message under way.
struct Sent {
    row: Message,
    /// Ages in milliseconds, in order, and whether each is known.
    reads: Vec<(i64, bool)>,
    life: i64,
}

impl Sent {
    fn reader(&self, number: usize, now: UnixMs, timed: bool) -> SeenReader {
        let read = self.row.sent_at + Duration::from_millis(self.reads[number].0 as u64);
        SeenReader {
            user_id: UserId::from(format!("u{number}")),
            seen_at: now,
            read_at: timed.then_some(read),
        }
    }

    /// Notes a reader; how long it took, in seconds.
    fn know(&mut self, number: usize, now: UnixMs) -> f64 {
        let (age, known) = &mut self.reads[number];
        *known = true;
        (now.0 - self.row.sent_at.0 - *age) as f64 / 1_000.0
    }

    /// What a poll brings, and how many calls it makes.
    fn poll(&mut self, now: UnixMs, over: bool, timed: bool, tally: &mut Tally) -> Outcome {
        let age = now.0 - self.row.sent_at.0;
        let mut outcome = Outcome::without_call(self.row.claim(), now, WalkEnd::TooOld);
        if over {
            return outcome;
        }
        outcome.calls = 1;
        tally.calls += 1;
        if age >= self.life {
            let code = ErrorCode::from("processQueryKey.expireTime");
            outcome.end = WalkEnd::NotGeneratedOrExpired(code);
            return outcome;
        }
        for number in 0..self.reads.len() {
            let (read, known) = self.reads[number];
            if read <= age && !known {
                outcome.readers.push(self.reader(number, now, timed));
                let delay = self.know(number, now);
                tally.delays.push(delay);
            }
        }
        outcome.send_status = Some(SendStatus::Success);
        outcome.end = WalkEnd::Complete;
        outcome
    }
}

/// Lives a month, and until every message is final.
pub(crate) fn run(crowd: &Crowd, rules: &Rules, plan: Plan, seed: u64) -> Tally {
    let mut random = fastrand::Rng::with_seed(seed);
    let rules = Rules {
        calls_per_message: plan.target,
        ..rules.clone()
    };
    let mut arrivals: Vec<UnixMs> = (0..plan.messages)
        .map(|_| START + MONTH.mul_f64(random.f64()))
        .collect();
    arrivals.sort_unstable();
    let mut arrivals = arrivals.into_iter().peekable();
    let mut habits = Habits::prior(&rules);
    let mut policy = Policy::solve(&habits, &rules, plan.target);
    let mut basis = Basis::prior(plan.target);
    let mut tally = Tally::default();
    let mut sent: Vec<Sent> = Vec::new();
    let mut due: BinaryHeap<Reverse<(UnixMs, usize, Next)>> = BinaryHeap::new();
    loop {
        if basis.is_stale(&habits, plan.target) {
            policy = Policy::solve(&habits, &rules, plan.target);
            basis = Basis::of(&habits, plan.target);
        }
        let schedule = schedule(&rules, &policy, Some(&habits));
        let first = due.peek().map(|Reverse((at, ..))| *at);
        if let Some(arrival) = arrivals.next_if(|at| first.is_none_or(|first| *at <= first)) {
            let reads = crowd.reads(&mut random, arrival.0);
            let index = sent.len();
            for (number, read) in reads.iter().enumerate() {
                if random.f64() < plan.pushed {
                    let at = arrival + Duration::from_millis(*read as u64) + DELIVERY;
                    due.push(Reverse((at, index, Next::Push(number))));
                }
            }
            let live = Live::new(index as u64, crowd, arrival, Vec::new(), rules.key_lifetime);
            let row = Message {
                chat: Chat::Oto,
                ..schedule.place(&live.row, arrival)
            };
            due.extend(row.next_poll_at.map(|at| Reverse((at, index, Next::Poll))));
            sent.push(Sent {
                row,
                reads: reads.into_iter().map(|read| (read, false)).collect(),
                life: rules.key_lifetime.as_millis() as i64,
            });
            tally.messages += 1;
            continue;
        }
        let Some(Reverse((now, index, next))) = due.pop() else {
            break;
        };
        let message = &mut sent[index];
        let outcome = match next {
            // Moved, or ended, meanwhile.
            Next::Poll if message.row.state.is_final() => continue,
            Next::Poll if message.row.next_poll_at != Some(now) => continue,
            Next::Poll => {
                let over = now >= schedule.end_of_life(&message.row);
                message.poll(now, over, plan.timed, &mut tally)
            }
            Next::Push(number) if message.reads[number].1 => continue,
            Next::Push(number) => {
                let end = WalkEnd::Pushed { in_flight: false };
                let mut outcome = Outcome::without_call(message.row.claim(), now, end);
                outcome.readers.push(message.reader(number, now, true));
                tally.delays.push(message.know(number, now));
                outcome
            }
        };
        let mut lesson = Lesson::begin(habits.clone(), now, rules.memory);
        let new_readers = outcome.readers.len() as u32;
        let before = message.row.next_poll_at;
        message.row = lesson.settle(&message.row, &outcome, new_readers, &schedule);
        let open = !message.row.state.is_final();
        if open && (next == Next::Poll || message.row.next_poll_at != before) {
            let at = message.row.next_poll_at;
            due.extend(at.map(|at| Reverse((at, index, Next::Poll))));
        }
        if let Some((learned, new_messages)) = lesson.into_learned() {
            habits = learned;
            basis.add(new_messages);
        }
    }
    for message in &sent {
        let missed = message
            .reads
            .iter()
            .filter(|(at, known)| !known && *at < message.life);
        tally.missed += missed.count() as u64;
    }
    tally
}
