//! A message's readers, cut into pages.

use std::time::Duration;

use super::bodies::{Answer, ReadInfo, ReadUser, StatusList};
use super::mischief::Mischief;
use super::paging::Cursor;
use super::random::hash;
use super::script::Recipient;
use super::state::{Known, Shared};
use crate::receipt::Chat;

/// Most recipients that `readStatus` tells of.
const READ_STATUS_CAP: usize = 20;

/// `sendStatus` and who has read it at an age.
pub(super) fn standing(known: &Known, age: Duration) -> (&str, &[Recipient]) {
    let script = &known.script;
    if script.recalled_after.is_some_and(|recall| age >= recall) {
        ("RECALLED", known.crowd.read_at(age))
    } else if age < script.delivered_after.unwrap_or_default() {
        ("PROCESSING", &[])
    } else {
        (
            script.says.as_deref().unwrap_or("SUCCESS"),
            known.crowd.read_at(age),
        )
    }
}

/// What a page is asked of.
pub(super) struct Walk<'a> {
    pub(super) key: &'a str,
    pub(super) chat: Chat,
    pub(super) cursor: Cursor,
    pub(super) size: u32,
    /// `nextToken` as it came.
    pub(super) sent: Option<&'a str>,
}

/// A page of a walk.
pub(super) fn page<'a>(
    shared: &Shared,
    status: &'a str,
    readers: &'a [Recipient],
    walk: &Walk<'_>,
    mischief: Option<&Mischief>,
) -> Answer<'a> {
    let Cursor { offset, page } = walk.cursor;
    let seed = shared.config.seed;
    let luck = hash(seed, walk.key, u64::from(offset));
    let mut size = walk.size;
    if shared.config.uneven_pages && luck.is_multiple_of(4) {
        size = (size - size / 4).max(1);
    }
    if mischief == Some(&Mischief::EmptyPage) {
        size = 0;
    }
    let index = |n: u32| usize::try_from(n).unwrap_or(usize::MAX).min(readers.len());
    let end = offset.saturating_add(size);
    let here = &readers[index(offset)..index(end)];
    let more = index(end) < readers.len();
    let seal = || {
        Cursor {
            offset: end,
            page: page.saturating_add(1),
        }
        .seal(seed, walk.key)
    };
    let (next_token, has_more) = match mischief {
        Some(Mischief::RepeatToken) => {
            let token = walk
                .sent
                .map_or_else(|| walk.cursor.seal(seed, walk.key), str::to_owned);
            (Some(Some(token)), true)
        }
        Some(Mischief::MoreWithoutToken) => (None, true),
        Some(Mischief::EmptyPage) => (Some(Some(seal())), true),
        _ if more => (Some(Some(seal())), true),
        // The last page's token is absent, null, empty or of no use, all of which the vendor allows itself.
        _ => match luck >> 8 & 3 {
            0 => (None, false),
            1 => (Some(None), false),
            2 => (Some(Some(String::new())), false),
            _ => (Some(Some(seal())), false),
        },
    };
    let union_id = |user: &str| format!("{:016x}iE", hash(seed, user, 1));
    let read_users = (walk.chat == Chat::Group).then(|| {
        let user = |one: &'a Recipient| ReadUser {
            user_id: &one.user_id,
            union_id: union_id(&one.user_id),
        };
        here.iter().map(user).collect()
    });
    let read_user_ids = here.iter().map(|one| &*one.user_id).collect();
    Answer {
        send_status: status,
        read_user_ids,
        next_token,
        has_more,
        read_users,
    }
}

/// The answer of `readStatus`.
pub(super) fn read_status<'a>(
    shared: &Shared,
    status: &'a str,
    readers: &'a [Recipient],
    known: &'a Known,
) -> StatusList<'a> {
    let unread = known.crowd.readers[readers.len()..]
        .iter()
        .chain(&known.crowd.absent);
    let info = |one: &'a Recipient, read: bool| ReadInfo {
        name: one.user_id.to_string(),
        user_id: &one.user_id,
        read_status: if read { "READ" } else { "UNREAD" },
        read_timestamp: one
            .reads_after
            .filter(|_| read)
            .map(|after| shared.moment(known.sent_at, after)),
    };
    let list = readers
        .iter()
        .map(|one| info(one, true))
        .chain(unread.map(|one| info(one, false)));
    StatusList {
        send_status: status,
        message_read_info_list: list.take(READ_STATUS_CAP).collect(),
    }
}
