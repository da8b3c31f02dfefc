//! `nextToken`: opaque, bound to its key, with `+`, `/` and `=` in it as the vendor's have.

use super::random::hash;

/// Where a walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Readers given so far.
    pub(super) offset: u32,
    /// The page that comes next, from 1.
    pub(super) page: u32,
}

impl Cursor {
    pub(super) const FIRST: Self = Self { offset: 0, page: 1 };

    pub(super) fn seal(self, seed: u64, key: &str) -> String {
        // A salt is tried until all three awkward characters are in it; one try in five succeeds, and 256 fail
        // together only in theory, where a token without them is as good.
        let mut text = String::new();
        for salt in 0..=u8::MAX {
            text = encode(&self.bytes(seed, key, salt));
            if text.contains('+') && text.contains('/') {
                break;
            }
        }
        text
    }

    pub(super) fn open(text: &str, seed: u64, key: &str) -> Option<Self> {
        let bytes = decode(text)?;
        let (salt, rest) = bytes.split_first()?;
        let mask = hash(seed, key, u64::from(*salt)).to_be_bytes();
        let plain: [u8; 8] = rest.get(..8)?.try_into().ok()?;
        let plain = u64::from_be_bytes(plain) ^ u64::from_be_bytes(mask);
        let (offset, page) = (
            u32::try_from(plain >> 32).ok()?,
            u32::try_from(plain & 0xffff_ffff).ok()?,
        );
        let cursor = Self { offset, page };
        (cursor.bytes(seed, key, *salt).as_slice() == bytes).then_some(cursor)
    }

    fn bytes(self, seed: u64, key: &str, salt: u8) -> [u8; 17] {
        let plain = u64::from(self.offset) << 32 | u64::from(self.page);
        let masked = plain ^ hash(seed, key, u64::from(salt));
        let check = hash(masked, key, seed);
        let mut all = [salt; 17];
        all[1..9].copy_from_slice(&masked.to_be_bytes());
        all[9..].copy_from_slice(&check.to_be_bytes());
        all
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let number = (0..3).fold(0_usize, |n, i| {
            n << 8 | usize::from(*three.get(i).unwrap_or(&0))
        });
        for i in 0..4 {
            let sextet = ALPHABET[number >> (18 - 6 * i) & 63];
            text.push(if i <= three.len() {
                char::from(sextet)
            } else {
                '='
            });
        }
    }
    text
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for four in text.as_bytes().chunks(4) {
        let given = four.iter().take_while(|c| **c != b'=').count();
        if four.len() != 4 || given < 2 {
            return None;
        }
        let mut number = 0_u32;
        for c in four {
            let value = ALPHABET.iter().position(|known| known == c).unwrap_or(0);
            number = number << 6 | u32::try_from(value).ok()?;
        }
        bytes.extend_from_slice(&number.to_be_bytes()[1..given]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_serves_no_other_key() {
        for offset in [0, 1, 200, 5_000] {
            let cursor = Cursor { offset, page: 3 };
            let token = cursor.seal(9, "key");
            assert!(
                token.contains('+') && token.contains('/') && token.ends_with('='),
                "{token}"
            );
            assert_eq!(Cursor::open(&token, 9, "key"), Some(cursor));
            assert_eq!(Cursor::open(&token, 9, "other"), None);
            assert_eq!(Cursor::open(&token.replace('+', " "), 9, "key"), None);
            assert_eq!(Cursor::open(&token[1..], 9, "key"), None);
        }
        for wrong in ["", "=", "====", "AAAA", "ключ"] {
            assert_eq!(Cursor::open(wrong, 9, "key"), None, "{wrong}");
        }
    }
}
