//! The bytes of requests and answers, read tolerantly: what cannot be understood costs itself and nothing beside it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use reqwest::Url;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::receipt::{Chat, MessageKey, UnixMs, UserId};

/// The largest page that the endpoint gives.
const LARGEST_PAGE: u16 = 200;
/// Readers that are taken from one answer: as many as a walk of full pages brings, and far fewer than a body can name.
const MOST_READERS: usize = 40_000;
/// The longest reader's id and status, in bytes; the vendor's are under 40. What is kept for every reader is bounded so.
const LONGEST_WORD: usize = 256;
/// The longest page token, in bytes; the vendor's are under 100.
const LONGEST_TOKEN: usize = 4_096;
/// Scopes that are named to a person: as many as a line of detail has room for.
const MOST_SCOPES: usize = 8;

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

/// Somebody who has read a message. Names that an answer may hold are nobody's to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Who.
    pub user_id: UserId,
    /// When, as the endpoint has it; `None` where it does not say. Not yet held against what is known of the message.
    pub read_at: Option<UnixMs>,
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
    /// The parameters of a GET, percent-encoded, on `url`.
    pub(super) fn on(self, url: &Url) -> Url {
        let mut url = url.clone();
        {
            let mut parameters = url.query_pairs_mut();
            if let Some(robot) = self.robot_code.filter(|code| !code.is_empty()) {
                parameters.append_pair("robotCode", robot);
            }
            parameters.append_pair("processQueryKey", self.key.as_str());
        }
        url
    }

    /// The body of a POST. What is unset is left out: to the endpoint an empty string is not an absent field.
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

/// A body as text. What is not UTF-8 is replaced, so that a message in another encoding costs no more than itself.
pub(super) fn as_text(body: &[u8]) -> Cow<'_, str> {
    let mut text = String::new();
    let mut rest = body;
    loop {
        match std::str::from_utf8(rest) {
            Ok(whole) if text.is_empty() => return Cow::Borrowed(whole),
            Ok(end) => return Cow::Owned(text + end),
            Err(error) => {
                let (good, bad) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(good));
                text.push(char::REPLACEMENT_CHARACTER);
                // GBK and its like write two bytes, and the second may look like a backslash, which JSON would heed.
                let pair = bad.get(1).is_some_and(|second| *second >= 0x40);
                rest = &bad[if pair { 2 } else { 1 }..];
            }
        }
    }
}

/// Every field that an answer of any of our endpoints may hold, success or failure. An absent field, `null` and a type that
/// cannot be understood are the same here; where the difference matters, [`Answer::wrong_type`] says so.
#[derive(Default)]
pub(super) struct Answer<'a> {
    /// `sendStatus`, only if a string.
    pub(super) send_status: Option<Cow<'a, str>>,
    /// `readUserIds`, the `userId` of each of `readUsers`, and those of `messageReadInfoList` who have read, as they came;
    /// empty ones are left out.
    pub(super) readers: Vec<Reader>,
    /// How many `messageReadInfoList` names, read or not.
    pub(super) listed: Option<u32>,
    /// `nextToken`
    pub(super) next_token: Option<Cow<'a, str>>,
    /// `hasMore`, also as text or a number.
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
    pub(super) required_scopes: Vec<Cow<'a, str>>,
    /// What makes a page is in a form that cannot be understood, or too long to be kept: some readers may be missing.
    pub(super) wrong_type: bool,
}

impl<'a> Answer<'a> {
    /// Reads a body; `None` if it is no JSON object.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let object = Object::parse(text)?;
        let mut answer = Self {
            send_status: object.get("sendStatus").and_then(string),
            next_token: object.get("nextToken").and_then(word),
            has_more: object.get("hasMore").is_some_and(is_true),
            access_token: object.get("accessToken").and_then(string),
            expire_in: object
                .get("expireIn")
                .and_then(word)
                .and_then(|text| text.trim().parse().ok()),
            code: object.get("code").and_then(word),
            message: object
                .get("message")
                .or_else(|| object.get("errmsg"))
                .and_then(shown),
            request_id: object.get("requestid").and_then(shown),
            errcode: object
                .get("errcode")
                .and_then(word)
                .filter(|code| code != "0"),
            status: object.get("status").and_then(word),
            required_scopes: object
                .get("accessdenieddetail")
                .and_then(Object::parse)
                .and_then(|detail| list(detail.get("requiredScopes")?))
                .into_iter()
                .flatten()
                .filter_map(shown)
                .take(MOST_SCOPES)
                .collect(),
            ..Self::default()
        };
        let mut understood = true;
        for name in ["readUserIds", "readUsers", "messageReadInfoList"] {
            if let Some(raw) = object.get(name) {
                understood &= answer.take_readers(raw, name == "messageReadInfoList");
            }
        }
        let fits = |text: &Option<Cow<'_, str>>, limit| {
            text.as_ref().is_none_or(|text| can_be_kept(text, limit))
        };
        answer.wrong_type = !understood
            || !fits(&answer.send_status, LONGEST_WORD)
            || !fits(&answer.next_token, LONGEST_TOKEN);
        Some(answer)
    }

    /// Adds a list of readers, or of recipients who may have read; whether all of it was understood.
    fn take_readers(&mut self, raw: &'a str, recipients: bool) -> bool {
        let Some(items) = list(raw) else {
            return false;
        };
        if self.readers.len() + items.len() > MOST_READERS {
            return false;
        }
        let mut understood = true;
        let mut listed = 0;
        for item in items {
            let person = item.starts_with('{').then(|| Object::parse(item)).flatten();
            let field = |name| person.as_ref().and_then(|person| person.get(name));
            // Who is listed without an id is nobody that could be told apart.
            let id = match person {
                Some(_) => field("userId"),
                None => Some(item),
            };
            let Some(id) = id.filter(|id| !matches!(*id, "null" | r#""""#)) else {
                continue;
            };
            listed += 1;
            let status = field("readStatus").and_then(string);
            if recipients && !status.is_some_and(|status| status.eq_ignore_ascii_case("READ")) {
                continue;
            }
            match word(id).filter(|id| can_be_kept(id, LONGEST_WORD)) {
                Some(id) => self.readers.push(Reader {
                    user_id: UserId::from(&*id),
                    read_at: field("readTimestamp").and_then(read_at),
                }),
                None => understood = false,
            }
        }
        if recipients {
            self.listed = Some(listed);
        }
        understood
    }
}

/// When somebody read: a number, or one as text. What is said in seconds lies far below what is said in milliseconds.
fn read_at(raw: &str) -> Option<UnixMs> {
    const LEAST_MS: i64 = 100_000_000_000;
    let number: i64 = word(raw)?.trim().parse().ok()?;
    match number {
        ..=0 => None,
        1..LEAST_MS => Some(UnixMs(number * 1_000)),
        _ => Some(UnixMs(number)),
    }
}

/// Whether a text that is kept, and compared later, is one: short enough, and not what is left of another encoding.
fn can_be_kept(text: &str, limit: usize) -> bool {
    text.len() <= limit && !text.contains(char::REPLACEMENT_CHARACTER)
}

/// A JSON object whose fields are read one by one.
struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// A field's JSON, unless it is `null`. The names of an error are written in several ways, so case does not count.
    fn get(&self, name: &str) -> Option<&'a str> {
        let mut named = self.0.iter();
        let (_, value) = named.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value.get()).filter(|raw| *raw != "null")
    }
}

/// A list's items, each as JSON.
fn list(raw: &str) -> Option<Vec<&str>> {
    let items: Vec<&RawValue> = serde_json::from_str(raw).ok()?;
    Some(items.into_iter().map(RawValue::get).collect())
}

/// A string that is not empty.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    let text = if inner.contains('\\') {
        Cow::Owned(serde_json::from_str(raw).ok()?)
    } else {
        Cow::Borrowed(inner)
    };
    (!text.is_empty()).then_some(text)
}

/// A string that is not empty, or a whole number's digits.
fn word(raw: &str) -> Option<Cow<'_, str>> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Some(Cow::Borrowed(raw)),
        false => string(raw),
    }
}

/// A [`word`], or a string as it came where its escapes mean nothing: good enough for a person.
fn shown(raw: &str) -> Option<Cow<'_, str>> {
    word(raw).or_else(|| raw.starts_with('"').then_some(Cow::Borrowed(raw)))
}

fn is_true(raw: &str) -> bool {
    let word = raw.trim_matches('"');
    word.eq_ignore_ascii_case("true") || word.parse::<i64>().is_ok_and(|number| number != 0)
}
