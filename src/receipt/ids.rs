//! Names that could be mistaken for one another, each with a type of its own.

use std::fmt;
use std::sync::Arc;

use crate::cadence::KeyHash;

/// Makes a cheap-to-clone newtype over text.
macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps the text as it came; nothing is checked or changed.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The text as it came.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // Control characters of a hostile row must not reach a log line as they are.
                if self.0.chars().any(char::is_control) {
                    write!(f, "{}", self.0.escape_debug())
                } else {
                    f.write_str(&self.0)
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self::new(text)
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self::new(text)
            }
        }
    };
}

text_newtype! {
    /// The `processQueryKey` that the send call returned: the name of a message at DingTalk.
    MessageKey
}
impl MessageKey {
    /// What stands for the key in the cadence.
    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

text_newtype! {
    /// A reader's `userId` within the organisation. Personal: never logged above `debug`.
    UserId
}
text_newtype! {
    /// The name of an `[accounts.*]` section.
    AccountName
}
text_newtype! {
    /// An organisation that authorised a third-party app (`authCorpId`).
    CorpId
}
text_newtype! {
    /// The bot that sent the message.
    RobotCode
}
text_newtype! {
    /// The conversation that the message was sent to (`openConversationId`).
    ConversationId
}
text_newtype! {
    /// An error's code as the endpoint gave it, or one of receiptd's own (`account.unknown`).
    ErrorCode
}

/// The row's number in the store: shorter than the key, and another one after delete and insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub i64);

/// The number of a row of `read_events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(pub i64);

/// Whose calls they are: an account and, for third-party apps, the organisation. Tokens, pacing, pauses,
/// blocks, fairness, quota and learning are a lane's, since the vendor counts them so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId {
    /// Which account asks.
    pub account: AccountName,
    /// The organisation; `None` for an internal app.
    pub corp: Option<CorpId>,
}

impl fmt::Display for LaneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.corp {
            Some(corp) => write!(f, "{}/{corp}", self.account),
            None => write!(f, "{}", self.account),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_a_display() {
        let key = MessageKey::from("a\nERROR forged\u{1b}[2J");
        assert_eq!(key.to_string(), "a\\nERROR forged\\u{1b}[2J");
        assert_eq!(key.as_str(), "a\nERROR forged\u{1b}[2J");
    }
}
