//! A message as the store knows it.

use std::fmt;

use super::{ConversationId, ErrorCode, LaneId, Lease, MessageId, MessageKey, RobotCode, UnixMs};
use crate::cadence::{Missing, Pending};

/// Where a message stands. See the module's picture of the states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Still polled.
    Pending,
    /// All expected readers were seen.
    Complete,
    /// The sender took the message back.
    Recalled,
    /// Its key no longer answers, or it grew older than `max_age`.
    Expired,
    /// The row is wrong, or was blocked or never asked until its life ended.
    Failed,
    /// A feeder wants no more of it.
    Cancelled,
}

impl State {
    /// Every state, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::Complete,
        Self::Recalled,
        Self::Expired,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The word in the `state` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Complete => "complete",
            Self::Recalled => "recalled",
            Self::Expired => "expired",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state that a column's word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether the message is no longer polled.
    pub fn is_final(self) -> bool {
        self != Self::Pending
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What DingTalk says of the sending (`sendStatus`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// Delivered.
    Success,
    /// Taken back by its sender.
    Recalled,
    /// Not delivered yet.
    Processing,
    /// A word that we do not know, kept as it came. Not final.
    Other(String),
}

impl SendStatus {
    /// Reads the endpoint's word, in any case; the vendor's own samples also spell the first one `SUCESS`.
    pub fn parse(word: &str) -> Self {
        match word.to_ascii_uppercase().as_str() {
            "SUCCESS" | "SUCESS" => Self::Success,
            "RECALLED" => Self::Recalled,
            "PROCESSING" => Self::Processing,
            _ => Self::Other(word.to_owned()),
        }
    }

    /// The endpoint's word, as it is documented; an unknown one as it came.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Success => "SUCCESS",
            Self::Recalled => "RECALLED",
            Self::Processing => "PROCESSING",
            Self::Other(word) => word,
        }
    }
}

/// Which endpoint answers for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chat {
    /// A one-to-one conversation: `privateChatMessages/query`.
    Private,
    /// A group: `groupMessages/query`.
    Group,
    /// The bot's own chats with persons: `oToMessages/readStatus`.
    Oto,
}

impl Chat {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Private, Self::Group, Self::Oto];

    /// The word in the `chat` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Group => "group",
            Self::Oto => "oto",
        }
    }

    /// The chat that a column's word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chat| chat.as_str() == word)
    }
}

/// A row of `messages`: all that a worker and the cadence need of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The row.
    pub id: MessageId,
    /// The message's name at DingTalk.
    pub key: MessageKey,
    /// Whose call it is: the lane that the row was placed in; of a row that is in none, account and `corp_id` as its
    /// feeder wrote them.
    pub lane: LaneId,
    /// The bot, where the row names it; else the account's.
    pub robot_code: Option<RobotCode>,
    /// The conversation, where the row names it.
    pub conversation: Option<ConversationId>,
    /// Which endpoint answers.
    pub chat: Chat,
    /// Finish as soon as so many have read.
    pub expected_readers: Option<u32>,
    /// How many recipients an answer listed, as many as ever; `None` where no answer listed any.
    pub listed: Option<u32>,
    /// When it was sent; never later than the insert.
    pub sent_at: UnixMs,
    /// Where `max_age` counts from: `sent_at`, or the last `retry`.
    pub lives_from: UnixMs,
    /// Where it stands.
    pub state: State,
    /// The schedule, and so the fence of a claim. `None` only on a new row whose feeder left it open.
    pub next_poll_at: Option<UnixMs>,
    /// When the scheduler first placed it in the cadence; `None` on a new row.
    pub admitted_at: Option<UnixMs>,
    /// The start of the last attempt.
    pub last_polled_at: Option<UnixMs>,
    /// The start of the last walk that read every page.
    pub last_complete_at: Option<UnixMs>,
    /// When the key was first answered: from then on `processQueryKey.expireTime` means expired.
    pub answered_at: Option<UnixMs>,
    /// Readers recorded so far.
    pub reader_count: u32,
    /// The last attempt was refused for this message in a way that an operator can mend.
    pub blocked: bool,
    /// The code of the last attempt that failed; cleared by a complete walk.
    pub last_error: Option<ErrorCode>,
    /// When that was.
    pub last_error_at: Option<UnixMs>,
    /// Walks in a row that failed to the end of their retries ([`WalkEnd::Failed`](super::WalkEnd::Failed)); 1 also where the
    /// only one was cut short by trouble of its lane ([`WalkEnd::Unreachable`](super::WalkEnd::Unreachable)).
    pub failed_walks: u32,
    /// Calls of those walks that failed, whether the vendor counted them or not.
    pub failed_calls: u32,
    /// A refusal that would end the message and contradicts what is known: a second of the same kind ends it.
    pub doubt: Option<Doubt>,
    /// What was last reported of the sending.
    pub send_status: Option<SendStatus>,
    /// Metered calls spent on it so far.
    pub call_count: u32,
    /// When its last chance is due, until that was taken: the poll shortly before the key's life ends, which
    /// goes before all others.
    pub last_chance_at: Option<UnixMs>,
    /// When it became final.
    pub finished_at: Option<UnixMs>,
}

impl Message {
    /// A message as its feeder's INSERT leaves it who names nothing but the key, the account and when it was sent.
    pub fn inserted(id: MessageId, key: MessageKey, lane: LaneId, sent_at: UnixMs) -> Self {
        Self {
            id,
            key,
            lane,
            robot_code: None,
            conversation: None,
            chat: Chat::Private,
            expected_readers: None,
            listed: None,
            sent_at,
            lives_from: sent_at,
            state: State::Pending,
            next_poll_at: None,
            admitted_at: None,
            last_polled_at: None,
            last_complete_at: None,
            answered_at: None,
            reader_count: 0,
            blocked: false,
            last_error: None,
            last_error_at: None,
            failed_walks: 0,
            failed_calls: 0,
            doubt: None,
            send_status: None,
            call_count: 0,
            last_chance_at: None,
            finished_at: None,
        }
    }

    /// How many readers end it: as many as its feeder said, else all whom an answer listed.
    pub fn expected(&self) -> Option<u32> {
        self.expected_readers.or(self.listed)
    }

    /// Whether so many have read.
    pub fn all_read(&self) -> bool {
        self.expected()
            .is_some_and(|expected| self.reader_count >= expected)
    }

    /// How many readers are still missing. A message to persons goes to one until an answer lists more.
    pub fn missing(&self) -> Missing {
        let of_one = (self.chat == Chat::Oto).then_some(1);
        match self.expected().or(of_one) {
            Some(expected) => Missing::Known(expected.saturating_sub(self.reader_count).max(1)),
            None => Missing::Unknown,
        }
    }

    /// Up to when it is known who had read: the last complete walk, or the sending.
    pub fn seen_until(&self) -> UnixMs {
        self.last_complete_at.unwrap_or(self.sent_at)
    }

    /// What the cadence knows of it.
    pub fn pending(&self) -> Pending {
        Pending {
            key: self.key.hash(),
            sent_at: self.sent_at.0,
            missing: self.missing(),
        }
    }

    /// Its age at `now`.
    pub fn age(&self, now: UnixMs) -> std::time::Duration {
        now.since(self.sent_at)
    }

    /// Whether its last chance is still to come, before `until`.
    pub fn owes_last_chance(&self, until: UnixMs) -> bool {
        !self.state.is_final() && self.last_chance_at.is_some_and(|at| at < until)
    }

    /// The fenced claim of this row, without a lease.
    pub fn claim(&self) -> Claim {
        Claim {
            id: self.id,
            key: self.key.clone(),
            lane: self.lane.clone(),
            fence: self.next_poll_at,
            lease: None,
        }
    }
}

/// A refusal that waits for a second of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// Its code.
    pub code: ErrorCode,
    /// When it came.
    pub at: UnixMs,
}

/// A row taken to be polled. The fence is the row's `next_poll_at` as it was claimed: a write-back whose fence no
/// longer matches adds its readers and changes nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The row.
    pub id: MessageId,
    /// Its name, for logs.
    pub key: MessageKey,
    /// Whose call it is.
    pub lane: LaneId,
    /// The row's `next_poll_at` when it was claimed.
    pub fence: Option<UnixMs>,
    /// Under which lease it was claimed; `None` where none is needed.
    pub lease: Option<Lease>,
}
