//! Names that could be mistaken for one another, each with a type of its own.

use std::fmt;
use std::sync::Arc;

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
    /// A number in `0.0..1.0` that depends on the key and `salt` alone: what is mixed or spread over messages must
    /// come out the same for a message every time. FNV-1a (Fowler, Noll, Vo) with the finalizer of MurmurHash3,
    /// since FNV's high bits are weak on short keys.
    pub fn fraction(&self, salt: u64) -> f64 {
        let bytes = self.0.bytes().chain(salt.to_le_bytes());
        let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        let mixed = u32::try_from((mixed ^ (mixed >> 33)) >> 32).unwrap_or(0);
        f64::from(mixed) / (f64::from(u32::MAX) + 1.0)
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

/// Whose calls they are: an account and, for third-party apps, the organisation. Tokens, pacing, pauses,
/// blocks, fairness, quota and learning are a lane's, since the vendor counts them so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// Which account asks.
    pub account: AccountName,
    /// The organisation; `None` for an internal app.
    pub corp: Option<CorpId>,
}

impl fmt::Display for Lane {
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
    fn fractions_are_even_and_repeatable() {
        let keys = (0..10_000).map(|n| MessageKey::from(format!("key-{n}")));
        let mean = keys.map(|key| key.fraction(7)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
        assert_eq!(
            MessageKey::from("k").fraction(1),
            MessageKey::from("k").fraction(1)
        );
        assert_ne!(
            MessageKey::from("k").fraction(1),
            MessageKey::from("k").fraction(2)
        );
    }

    #[test]
    fn control_characters_do_not_reach_a_display() {
        let key = MessageKey::from("a\nERROR forged\u{1b}[2J");
        assert_eq!(key.to_string(), "a\\nERROR forged\\u{1b}[2J");
        assert_eq!(key.as_str(), "a\nERROR forged\u{1b}[2J");
    }
}
