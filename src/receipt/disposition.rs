//! What an answer of the endpoint means for the message and its lane.

use std::time::Duration;

/// What to do about a failed call. The caller branches on this, never on a status or a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Upstream trouble: the same call again, with exponential backoff.
    Retry,
    /// Called too often: the lane waits the window out. The key loses nothing, and the vendor charges nothing.
    Throttled {
        /// The vendor's window: a second (`Qps`) or a minute (`Qpm`).
        window: Duration,
    },
    /// The organisation's calls of this calendar month are used up.
    QuotaExhausted,
    /// The token is expired or unknown: fetch another, once.
    RefreshToken,
    /// The account may not call at all (scope, egress address, credentials): an operator must act.
    LaneBlocked,
    /// This message cannot be asked for now, and an operator may mend that while its key lives.
    Blocked,
    /// This row is wrong and will stay so.
    Rejected,
    /// The row is wrong if it named the robot itself; if the account's default was sent, it is blocked.
    RobotRejected,
    /// The page token was refused: read the walk from its first page again.
    RestartPaging,
    /// Too many items asked for a page: halve and go on.
    SmallerPages,
    /// `processQueryKey.expireTime`: not generated yet, or expired. Only the message's past tells which.
    NotGeneratedOrExpired,
    /// What became of the sending is not known yet: of a young key that was never answered, not generated yet; else this
    /// message is blocked.
    SendingUnknown,
    /// The egress address is banned: every lane stops for five minutes.
    AddressBanned,
}
