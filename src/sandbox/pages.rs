//! A message's readers, cut into pages.

use serde::Serialize;

use super::faults::Mischief;
use super::random::hash;
use super::script::{ReadUnit, Recipient};
use super::state::{Known, Shared};
use crate::receipt::Chat;

/// Most recipients that `readStatus` tells of.
const READ_STATUS_CAP: usize = 20;

/// Where a walk stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Readers given so far.
    offset: u32,
    /// The page that comes next, from 1.
    pub(super) page: u32,
}

impl Cursor {
    pub(super) const FIRST: Self = Self { offset: 0, page: 1 };

    /// `nextToken`: bound to its key, with `+`, `/` and `=` in it as the vendor's have.
    fn seal(self, seed: u64, key: &str) -> String {
        let Self { offset, page } = self;
        let check = hash(seed, key, u64::from(offset) << 32 | u64::from(page));
        format!("{check:016x}+{offset:x}/{page:x}=")
    }

    pub(super) fn open(text: &str, seed: u64, key: &str) -> Option<Self> {
        let (_, place) = text.split_once('+')?;
        let (offset, page) = place.strip_suffix('=')?.split_once('/')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        let cursor = Self {
            offset: number(offset)?,
            page: number(page)?,
        };
        (cursor.seal(seed, key) == text).then_some(cursor)
    }
}

/// What a page is asked of.
pub(super) struct Walk<'a> {
    pub(super) seed: u64,
    pub(super) key: &'a str,
    pub(super) chat: Chat,
    pub(super) cursor: Cursor,
    pub(super) size: u32,
    /// `nextToken` as it came.
    pub(super) sent: Option<&'a str>,
}

/// A page of readers, its fields in the order of the vendor's example.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<'a> {
    send_status: &'a str,
    pub(super) read_user_ids: Vec<&'a str>,
    /// Absent, `null` or a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_token: Option<Option<String>>,
    has_more: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_users: Option<Vec<ReadUser<'a>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReadUser<'a> {
    user_id: &'a str,
    union_id: String,
}

/// A page of a walk. A quarter of the pages are shorter than asked for, though more follow.
pub(super) fn page<'a>(
    status: &'a str,
    readers: &'a [Recipient],
    walk: &Walk<'_>,
    mischief: Option<&Mischief>,
) -> Page<'a> {
    let Cursor { offset, page } = walk.cursor;
    let luck = hash(walk.seed, walk.key, u64::from(offset));
    let size = match luck.is_multiple_of(4) {
        true => (walk.size - walk.size / 4).max(1),
        false => walk.size,
    };
    let index = |n: u32| usize::try_from(n).unwrap_or(usize::MAX).min(readers.len());
    let end = offset.saturating_add(size);
    let here = &readers[index(offset)..index(end)];
    let next = Cursor {
        offset: end,
        page: page.saturating_add(1),
    };
    let next = next.seal(walk.seed, walk.key);
    let (next_token, has_more) = match mischief {
        Some(Mischief::RepeatToken) => {
            let sent = walk.sent.map(str::to_owned);
            (
                Some(Some(
                    sent.unwrap_or_else(|| walk.cursor.seal(walk.seed, walk.key)),
                )),
                true,
            )
        }
        Some(Mischief::MoreWithoutToken) => (None, true),
        _ if index(end) < readers.len() => (Some(Some(next)), true),
        // The last page's token is absent, null, empty or of no use, all of which the vendor allows itself.
        _ => match luck >> 8 & 3 {
            0 => (None, false),
            1 => (Some(None), false),
            2 => (Some(Some(String::new())), false),
            _ => (Some(Some(next)), false),
        },
    };
    let read_user_ids: Vec<&str> = here.iter().map(|one| &*one.user_id).collect();
    let user = |user_id: &&'a str| ReadUser {
        user_id,
        union_id: format!("{:016x}iE", hash(walk.seed, user_id, 1)),
    };
    Page {
        send_status: status,
        next_token,
        has_more,
        read_users: (walk.chat == Chat::Group).then(|| read_user_ids.iter().map(user).collect()),
        read_user_ids,
    }
}

/// The answer of `readStatus`: all who got it, read or not.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusList<'a> {
    send_status: &'a str,
    message_read_info_list: Vec<ReadInfo<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReadInfo<'a> {
    name: String,
    user_id: &'a str,
    read_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_timestamp: Option<i64>,
}

pub(super) fn read_status<'a>(
    shared: &Shared,
    status: &'a str,
    readers: &'a [Recipient],
    known: &'a Known,
) -> StatusList<'a> {
    let when = |read: Option<i64>| match (known.script.read_unit, read) {
        (ReadUnit::Absent, _) | (_, None) => None,
        (ReadUnit::Zero, _) => Some(0),
        (ReadUnit::Seconds, Some(ms)) => Some(ms / 1_000),
        (ReadUnit::Milliseconds, read) => read,
    };
    let all = known.crowd.readers.iter().chain(&known.crowd.absent);
    let info = |(n, one): (usize, &'a Recipient)| {
        let read = one.reads_after.filter(|_| n < readers.len());
        ReadInfo {
            name: format!("Name of {}", one.user_id),
            user_id: &one.user_id,
            read_status: if read.is_some() { "READ" } else { "UNREAD" },
            read_timestamp: when(read.map(|after| shared.moment(known.sent_at, after))),
        }
    };
    StatusList {
        send_status: status,
        message_read_info_list: all.enumerate().map(info).take(READ_STATUS_CAP).collect(),
    }
}
