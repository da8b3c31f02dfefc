//! The domain: messages, what a walk brings, what follows from it. Pure: no clock of its own, no I/O.
//!
//! ```text
//! pending ──all expected readers seen──────────────► complete
//!    │  ──sendStatus RECALLED────────────────────────► recalled
//!    │  ──processQueryKey.expireTime, or max_age─────► expired
//!    │  ──a rejected row; blocked till its life ends─► failed
//!    │  ──a feeder sets it───────────────────────────► cancelled
//!    ◄── `receiptd retry` (failed, expired, cancelled)
//! ```

mod disposition;
mod ids;
mod lease;
mod message;
mod observation;
mod outcome;
mod schedule;
mod settle;
mod time;

pub use crate::cadence::Missing;
pub use disposition::Disposition;
pub use ids::{
    AccountName, ConversationId, CorpId, ErrorCode, EventId, LaneId, MessageId, MessageKey,
    RobotCode, UserId,
};
pub use lease::{GroupId, Lease};
pub use message::{Chat, Claim, Doubt, Message, SendStatus, State};
pub use observation::observe;
pub use outcome::{Outcome, SeenReader, WalkEnd};
pub use schedule::{Phase, Schedule};
pub use settle::settle;
pub use time::{QuotaMonth, UnixMs, real, whole_ms};
