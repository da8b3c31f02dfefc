//! What a message is to the cadence, and what a poll of it teaches.

use std::time::Duration;

/// What the cadence knows of a pending message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Stands for its key.
    pub key: KeyHash,
    /// When it was sent, in Unix milliseconds.
    pub sent_at: i64,
    /// Readers that it waits for.
    pub missing: Missing,
}

/// How many more readers a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// As many as this, at least one.
    Known(u32),
    /// Nobody said how many read it.
    Unknown,
}

/// A hash of a message's key: what is mixed or spread over messages comes out the same for a message every time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(u64);

impl KeyHash {
    /// FNV-1a (Fowler, Noll, Vo) of a key.
    pub fn of(key: &str) -> Self {
        Self(0xcbf2_9ce4_8422_2325).with(key.bytes())
    }

    /// A number in `0.0..1.0` that depends on the key and `salt` alone. Mixed by the finalizer of MurmurHash3, since
    /// FNV's high bits are weak on short keys.
    pub fn fraction(self, salt: u64) -> f64 {
        let Self(fnv) = self.with(salt.to_le_bytes().into_iter());
        let mixed = (fnv ^ (fnv >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        let mixed = u32::try_from((mixed ^ (mixed >> 33)) >> 32).unwrap_or(0);
        f64::from(mixed) / (f64::from(u32::MAX) + 1.0)
    }

    fn with(self, bytes: impl Iterator<Item = u8>) -> Self {
        Self(bytes.fold(self.0, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        }))
    }
}

/// What one poll teaches of a lane's habits.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When the message was sent, in Unix milliseconds.
    pub sent_at: i64,
    /// The message's age when the poll began.
    pub age: Duration,
    /// Its age at the last complete poll before; zero where there was none.
    pub seen_until: Duration,
    /// Metered calls that the poll made.
    pub calls: u32,
    /// On a message's first poll: the readers that it waited for.
    pub begins: Option<Missing>,
    /// Every page was read. A poll that was cut short tells only of those who read: it is the next complete one, over an
    /// interval that begins at the same age, that tells of the rest.
    pub complete: bool,
    /// Readers that nobody had seen before.
    pub new_readers: u32,
    /// The ages at which those of them read of whom that is said.
    pub read_ages: Vec<Duration>,
    /// Readers still missing after it; `None` where nobody said how many there are.
    pub still_missing: Option<u32>,
    /// The key is gone, and had answered last at this age.
    pub expired_after: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_even_and_repeatable() {
        let keys = (0..10_000).map(|n| KeyHash::of(&format!("key-{n}")));
        let mean = keys.map(|key| key.fraction(7)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
        let key = KeyHash::of("k");
        assert_eq!(key.fraction(1), key.fraction(1));
        assert_ne!(key.fraction(1), key.fraction(2));
        assert_ne!(key.fraction(1), KeyHash::of("l").fraction(1));
    }
}
