//! What a walk over a message's pages brought.

use super::{Claim, ErrorCode, Message, SendStatus, UnixMs, UserId};

/// A reader, and when the page that named them arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenReader {
    /// Who.
    pub user_id: UserId,
    /// When the answer that named them arrived.
    pub seen_at: UnixMs,
    /// When they read, as DingTalk says; `None` where it does not.
    pub read_at: Option<UnixMs>,
}

impl SeenReader {
    /// When they read, as far as it agrees with what is known of the message: not before it was sent, nor before the last
    /// complete walk, which had not seen them, nor after they were seen.
    pub fn read_at(&self, row: &Message) -> Option<UnixMs> {
        let earliest = row.seen_until();
        self.read_at
            .map(|read| read.max(earliest).min(self.seen_at))
    }
}

/// The result of one claim: everything that was seen, whatever ended the walk.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What was claimed.
    pub claim: Claim,
    /// When the walk made its first call; reads before it are in a complete walk's answer.
    pub started_at: UnixMs,
    /// When the walk ended.
    pub ended_at: UnixMs,
    /// Metered calls made, pages and retries included.
    pub calls: u32,
    /// Calls that were throttled, which the vendor does not charge.
    pub throttled: u32,
    /// Calls that met upstream trouble, whether the vendor counted them or not.
    pub failed_calls: u32,
    /// Each reader once, in the order seen.
    pub readers: Vec<SeenReader>,
    /// How many recipients the answer listed, read or not; `None` where it lists readers alone.
    pub listed: Option<u32>,
    /// The last status reported within the walk; `Some` as soon as a page was answered.
    pub send_status: Option<SendStatus>,
    /// How it ended.
    pub end: WalkEnd,
}

impl Outcome {
    /// A claim that ended at `at` before any call.
    pub fn without_call(claim: Claim, at: UnixMs, end: WalkEnd) -> Self {
        Self {
            claim,
            started_at: at,
            ended_at: at,
            calls: 0,
            throttled: 0,
            failed_calls: 0,
            readers: Vec::new(),
            listed: None,
            send_status: None,
            end,
        }
    }

    /// Whether the message was asked for at all, whatever came of it and whether the vendor counted it or not. A
    /// throttled call asked nothing.
    pub fn attempted(&self) -> bool {
        self.calls > 0 || self.failed_calls > 0
    }

    /// Whether everybody was seen who had read `row` when the walk began: every page was read, and nobody is missing whom an
    /// earlier answer listed.
    pub fn saw_all(&self, row: &Message) -> bool {
        self.end == WalkEnd::Complete && self.listed.unwrap_or(u32::MAX) >= row.listed.unwrap_or(0)
    }
}

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalkEnd {
    /// Every page was read.
    Complete,
    /// Upstream trouble to the end of its retries: what was seen counts, and the next poll waits longer.
    Failed(ErrorCode),
    /// Too many pages, or pages that bring nothing new: what was seen counts, the rest comes with a later poll.
    Cut(ErrorCode),
    /// `processQueryKey.expireTime`.
    NotGeneratedOrExpired(ErrorCode),
    /// `unknown.send.result`: what became of the sending is not known yet.
    SendingUnknown(ErrorCode),
    /// The row is wrong.
    Rejected(ErrorCode),
    /// This message is refused for now.
    Blocked(ErrorCode),
    /// The lane is refused for now: the row stays due.
    LaneBlocked(ErrorCode),
    /// The endpoint is in trouble for the lane, and a call of this walk failed: the row stays due, as one with a former
    /// error.
    Unreachable(ErrorCode),
    /// The month's budget cannot afford the next call: what was seen counts, and the row waits as
    /// [`Schedule::refused`](super::Schedule::refused) says.
    OverBudget,
    /// Given back as it was: a stop, or a lane that may not call. Nothing of the row's schedule changes.
    Released,
    /// Older than `max_age`: ended without a call.
    TooOld,
    /// No walk at all: DingTalk pushed these readers to another service, which inserted them into `read_events`.
    Pushed {
        /// A walk of the row is under way, and its claim must stay good.
        in_flight: bool,
    },
}

impl WalkEnd {
    /// Whether the readers were pushed, and not polled for.
    pub fn is_pushed(&self) -> bool {
        matches!(self, Self::Pushed { .. })
    }
}
