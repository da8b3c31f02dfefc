//! JSON values whose type is not to be relied upon: whatever stands there is read to its end, and what can be understood is kept.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

/// A value of any type, of which only a scalar one is kept.
pub(super) enum Scalar<'a> {
    Text(Cow<'a, str>),
    Whole(String),
    Bool(bool),
    Other,
}

impl<'a> Scalar<'a> {
    /// A string that is not empty.
    pub(super) fn string(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A string that is not empty, or a whole number's digits.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Whole(digits) => Some(Cow::Owned(digits)),
            other => other.string(),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Bool(value) => *value,
            Self::Text(text) => text.eq_ignore_ascii_case("true"),
            Self::Whole(_) | Self::Other => false,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Bool(value))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Whole(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Whole(number.to_string()))
            }
            fn visit_f64<E>(self, _: f64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Other)
            }
            fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Scalar<'de>, A::Error> {
                skip_seq(seq)?;
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar<'de>, A::Error> {
                skip_map(map)?;
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A list of texts, handed on one by one so that a hostile list is never held. Gives whether all of it was
/// understood; `null` is an empty list.
pub(super) struct TextList<'k> {
    /// Of items that are objects: the member to take.
    pub(super) member: &'static str,
    pub(super) keep: &'k mut dyn FnMut(&str),
}

impl<'de> DeserializeSeed<'de> for TextList<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextList<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(true)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut understood = true;
        loop {
            let item = TextItem {
                member: self.member,
                keep: &mut *self.keep,
            };
            match seq.next_element_seed(item)? {
                Some(this) => understood &= this,
                None => return Ok(understood),
            }
        }
    }
    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<bool, A::Error> {
        skip_map(map)?;
        Ok(false)
    }
}

/// A text: a string, a whole number's digits, or the member of an object that is either or a list of them.
pub(super) struct TextItem<'k> {
    pub(super) member: &'static str,
    pub(super) keep: &'k mut dyn FnMut(&str),
}

impl<'de> DeserializeSeed<'de> for TextItem<'_> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextItem<'_> {
    type Value = bool;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }
    fn visit_str<E>(self, text: &str) -> Result<bool, E> {
        if !text.is_empty() {
            (self.keep)(text);
        }
        Ok(true)
    }
    fn visit_u64<E>(self, number: u64) -> Result<bool, E> {
        (self.keep)(&number.to_string());
        Ok(true)
    }
    fn visit_i64<E>(self, number: i64) -> Result<bool, E> {
        (self.keep)(&number.to_string());
        Ok(true)
    }
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(true)
    }
    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut understood = true;
        while let Some(item) = seq.next_element::<Scalar<'_>>()? {
            match item.text() {
                Some(text) => (self.keep)(&text),
                None => understood = false,
            }
        }
        Ok(understood)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let mut understood = true;
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            if name.eq_ignore_ascii_case(self.member) {
                let item = TextItem {
                    member: self.member,
                    keep: &mut *self.keep,
                };
                understood &= map.next_value_seed(item)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(understood)
    }
}

fn skip_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}
