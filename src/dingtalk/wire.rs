//! The bytes of requests and answers, read tolerantly.

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::values::{Scalar, TextItem, TextList};
use crate::receipt::{Chat, MessageKey, UserId};

/// The largest page that the endpoint gives.
const LARGEST_PAGE: u16 = 200;
/// Readers that are taken from one answer: as many as a walk of full pages brings, and far fewer than a body can name.
const MOST_READERS: usize = 40_000;
/// The longest reader's id and status, in bytes; the vendor's are under 40. What is kept for every reader is bounded so.
const LONGEST_WORD: usize = 256;
/// The longest page token, in bytes; the vendor's are under 100.
const LONGEST_TOKEN: usize = 4_096;

/// Where the next page starts: opaque, handed back as it came.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PageToken(Box<str>);

impl PageToken {
    /// The token in an answer; `None` if it is empty, which means that there is none.
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The token as it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A question: who has read this message?
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Which endpoint answers.
    pub chat: Chat,
    /// The message.
    pub key: &'a MessageKey,
    /// The bot that sent it: the row's, else the account's. Empty counts as unset.
    pub robot_code: Option<&'a str>,
    /// The conversation, where the row names it. Empty counts as unset.
    pub conversation: Option<&'a str>,
    /// Items a page, brought within 1..=200.
    pub page_size: u16,
    /// Where to go on; `None` asks for the first page.
    pub next_token: Option<&'a PageToken>,
}

impl Query<'_> {
    /// The request's body. What is unset is left out: to the endpoint an empty string is not an absent field.
    pub(super) fn to_json(self) -> serde_json::Result<Vec<u8>> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            open_conversation_id: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            robot_code: Option<&'a str>,
            process_query_key: &'a str,
            max_results: u16,
            #[serde(skip_serializing_if = "Option::is_none")]
            next_token: Option<&'a str>,
        }
        serde_json::to_vec(&Body {
            open_conversation_id: self.conversation.filter(|id| !id.is_empty()),
            robot_code: self.robot_code.filter(|code| !code.is_empty()),
            process_query_key: self.key.as_str(),
            max_results: self.page_size.clamp(1, LARGEST_PAGE),
            next_token: self.next_token.map(PageToken::as_str),
        })
    }
}

/// Every field that an answer of any of our endpoints may hold, success or failure. An absent field, `null` and a type that
/// cannot be understood are the same here; where the difference matters, [`Answer::wrong_type`] says so.
#[derive(Default)]
pub(super) struct Answer<'a> {
    /// `sendStatus`, only if a string.
    pub(super) send_status: Option<Cow<'a, str>>,
    /// `readUserIds` and the `userId` of each of `readUsers`, as they came; empty ones are left out.
    pub(super) readers: Vec<UserId>,
    /// `nextToken`
    pub(super) next_token: Option<Cow<'a, str>>,
    /// `hasMore`, also as text.
    pub(super) has_more: bool,
    /// `accessToken`, only if a string.
    pub(super) access_token: Option<Cow<'a, str>>,
    /// `expireIn`, seconds, also as text.
    pub(super) expire_in: Option<u64>,
    /// `code`
    pub(super) code: Option<Cow<'a, str>>,
    /// `message` or `errmsg`
    pub(super) message: Option<Cow<'a, str>>,
    /// `requestid`
    pub(super) request_id: Option<Cow<'a, str>>,
    /// `errcode`, where it is not 0.
    pub(super) errcode: Option<Cow<'a, str>>,
    /// `status`
    pub(super) status: Option<Cow<'a, str>>,
    /// `accessdenieddetail.requiredScopes`
    pub(super) required_scopes: Vec<String>,
    /// The readers are in a form that cannot be understood, or what is to be kept is too long: some may be missing.
    pub(super) wrong_type: bool,
}

impl<'a> Answer<'a> {
    /// Reads a body; `None` if it is no JSON object.
    pub(super) fn parse(body: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// The fields by name. The names of an error are written in several ways, so case does not count.
#[derive(Clone, Copy)]
enum Field {
    SendStatus,
    Readers,
    NextToken,
    HasMore,
    AccessToken,
    ExpireIn,
    Code,
    Message,
    RequestId,
    ErrCode,
    Status,
    AccessDenied,
    Other,
}

impl Field {
    const NAMES: [(&'static str, Self); 14] = [
        ("sendStatus", Self::SendStatus),
        ("readUserIds", Self::Readers),
        ("hasMore", Self::HasMore),
        ("nextToken", Self::NextToken),
        ("readUsers", Self::Readers),
        ("code", Self::Code),
        ("message", Self::Message),
        ("requestid", Self::RequestId),
        ("accessToken", Self::AccessToken),
        ("expireIn", Self::ExpireIn),
        ("errcode", Self::ErrCode),
        ("errmsg", Self::Message),
        ("status", Self::Status),
        ("accessdenieddetail", Self::AccessDenied),
    ];

    fn named(name: &str) -> Self {
        Self::NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map_or(Self::Other, |&(_, field)| field)
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Field;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Field, E> {
                Ok(Field::named(name))
            }
        }
        deserializer.deserialize_identifier(Name)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Answer<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Answer<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Answer<'de>, A::Error> {
                let mut answer = Answer::default();
                while let Some(field) = map.next_key()? {
                    answer.read(field, &mut map)?;
                }
                Ok(answer)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl<'a> Answer<'a> {
    fn refuse_longer(&mut self, limit: usize, text: impl Fn(&Self) -> &Option<Cow<'a, str>>) {
        let length = text(self).as_ref().map_or(0, |text| text.len());
        self.wrong_type |= length > limit;
    }

    fn read<A: MapAccess<'a>>(&mut self, field: Field, map: &mut A) -> Result<(), A::Error> {
        match field {
            Field::SendStatus => {
                self.send_status = map.next_value::<Scalar<'_>>()?.string();
                self.refuse_longer(LONGEST_WORD, |answer| &answer.send_status);
            }
            Field::AccessToken => self.access_token = map.next_value::<Scalar<'_>>()?.string(),
            Field::NextToken => {
                self.next_token = map.next_value::<Scalar<'_>>()?.text();
                self.refuse_longer(LONGEST_TOKEN, |answer| &answer.next_token);
            }
            Field::HasMore => self.has_more = map.next_value::<Scalar<'_>>()?.is_true(),
            Field::ExpireIn => {
                let text = map.next_value::<Scalar<'_>>()?.text();
                self.expire_in = text.and_then(|text| text.trim().parse().ok());
            }
            Field::Code => self.code = map.next_value::<Scalar<'_>>()?.text(),
            Field::Message => self.message = map.next_value::<Scalar<'_>>()?.text(),
            Field::RequestId => self.request_id = map.next_value::<Scalar<'_>>()?.text(),
            Field::Status => self.status = map.next_value::<Scalar<'_>>()?.text(),
            Field::ErrCode => {
                let text = map.next_value::<Scalar<'_>>()?.text();
                self.errcode = text.filter(|code| code != "0");
            }
            Field::Readers => {
                let readers = &mut self.readers;
                let too_much = &mut self.wrong_type;
                let mut keep = |id: &str| {
                    if id.len() > LONGEST_WORD || readers.len() >= MOST_READERS {
                        *too_much = true;
                    } else {
                        readers.push(UserId::from(id));
                    }
                };
                let list = TextList {
                    member: "userId",
                    keep: &mut keep,
                };
                let understood = map.next_value_seed(list)?;
                self.wrong_type |= !understood;
            }
            Field::AccessDenied => {
                let scopes = &mut self.required_scopes;
                let mut keep = |scope: &str| {
                    // As many as a line of detail has room for.
                    if scopes.len() < 8 {
                        scopes.push(scope.to_owned());
                    }
                };
                map.next_value_seed(TextItem {
                    member: "requiredScopes",
                    keep: &mut keep,
                })?;
            }
            Field::Other => {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}
