//! What may happen, and what is true outside of the daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;
use receiptd::receipt::{Chat, State, UnixMs};

use super::super::T0;

/// So few keys that a history comes back to them again and again.
pub(super) const KEYS: [&str; 4] = ["k0", "k1", "k2", "k3"];
pub(super) const ACCOUNTS: [&str; 2] = ["x", "y"];
pub(super) const USERS: [&str; 4] = ["u0", "u1", "u2", "u3"];

/// What is true outside: nothing in here is the daemon's.
#[derive(Clone, Debug)]
pub(super) struct World {
    /// The wall clock.
    pub(super) now: UnixMs,
    /// Who has read what and when, in the order of the endpoint's answer.
    pub(super) truth: BTreeMap<&'static str, BTreeMap<&'static str, UnixMs>>,
}

/// How a walk ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Complete,
    Failed,
    Cut,
    NotGeneratedOrExpired,
    Rejected,
    Blocked,
    LaneBlocked,
    Released,
}

/// A walk over one of the claims that are out.
#[derive(Clone, Debug)]
pub(super) struct Walk {
    /// Which claim, counted modulo their number.
    pub(super) claim: usize,
    pub(super) end: End,
    /// `sendStatus`, where a page was answered.
    pub(super) status: Option<&'static str>,
    /// So many of the readers are on the pages that were answered.
    pub(super) sees: usize,
    pub(super) calls: u32,
    pub(super) throttled: u32,
    pub(super) failed_calls: u32,
}

/// What a feeder or an operator does to the row of a walk that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Meanwhile {
    Cancels,
    Deletes,
    /// Gives it another key.
    Renames(&'static str),
    /// Seconds from now on.
    Reschedules(i64),
    /// Gives it to another account.
    GivesTo(&'static str),
    /// Cancels, and asks for a retry at once.
    Retries,
}

/// A commit that is dropped half way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drop {
    /// After so many polls of its future.
    pub(super) after: usize,
    /// While its statement still runs, or once that is done.
    pub(super) at_once: bool,
    /// The process dies with it; else the same outcomes are given again.
    pub(super) crash: bool,
}

/// One step.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Insert {
        key: &'static str,
        chat: Chat,
        account: &'static str,
        expected_readers: Option<u32>,
        sent_before: Duration,
        not_before: Option<Duration>,
    },
    /// Somebody reads.
    Read {
        key: &'static str,
        user: &'static str,
    },
    /// Time passes.
    Pass(Duration),
    /// The wall clock is set back.
    SetBack(Duration),
    Place {
        limit: usize,
        /// Every other row waits for the configuration.
        some_wait: bool,
    },
    Claim {
        account: &'static str,
        failing: bool,
        limit: usize,
    },
    /// The configuration is another one: rows of an account are placed anew.
    Unplace {
        account: &'static str,
        waiting: bool,
        limit: usize,
    },
    Commit {
        walks: Vec<Walk>,
        /// To the row of the first of them.
        meanwhile: Option<Meanwhile>,
        drop: Option<Drop>,
    },
    /// Another service inserts reads that DingTalk pushed to it.
    Push {
        key: &'static str,
        user: &'static str,
        /// Seconds before now, where the event says when.
        read_before: Option<i64>,
        times: usize,
    },
    /// Pushed reads are taken over.
    TakePushed {
        limit: usize,
        /// To the row of the first of them.
        meanwhile: Option<Meanwhile>,
        drop: Option<Drop>,
    },
    Crash,
    Cancel {
        key: &'static str,
    },
    Delete {
        key: &'static str,
    },
    Rename {
        key: &'static str,
        to: &'static str,
    },
    Reschedule {
        key: &'static str,
        /// From now on; negative: it is due.
        seconds: i64,
    },
    RetryKey {
        key: &'static str,
    },
    RetryState {
        state: State,
        limit: usize,
    },
    GiveTo {
        key: &'static str,
        account: &'static str,
    },
    Prune {
        older_than: Duration,
    },
    /// A consumer removes a recorded reader, which it should not.
    RemoveReader {
        key: &'static str,
        user: &'static str,
    },
}

const MINUTE: u64 = 60;
const DAY: u64 = 86_400;

fn seconds(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_secs)
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&KEYS[..])
}

fn account() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&ACCOUNTS[..])
}

fn walk() -> impl Strategy<Value = Walk> {
    let end = prop_oneof![
        8 => Just(End::Complete),
        2 => Just(End::Failed),
        1 => Just(End::Cut),
        2 => Just(End::NotGeneratedOrExpired),
        2 => Just(End::Rejected),
        1 => Just(End::Blocked),
        1 => Just(End::LaneBlocked),
        2 => Just(End::Released),
    ];
    let status = prop_oneof![
        6 => Just(Some("SUCCESS")),
        1 => Just(Some("PROCESSING")),
        1 => Just(Some("RECALLED")),
        1 => Just(Some("SUCESS")),
        2 => Just(None),
    ];
    let numbers = (1..4_u32, 0..2_u32, 0..5_u32);
    (0..8_usize, end, status, 0..5_usize, numbers).prop_map(
        |(claim, end, status, sees, (calls, throttled, failed_calls))| Walk {
            claim,
            end,
            // A walk that read every page was answered.
            status: match end {
                End::Complete => status.or(Some("SUCCESS")),
                _ => status,
            },
            sees: if status.is_none() && !matches!(end, End::Complete) {
                0
            } else {
                sees
            },
            // What somebody else answered is an attempt that is not counted.
            calls: if status.is_none() && matches!(end, End::Failed) {
                calls - 1
            } else {
                calls
            },
            throttled,
            failed_calls,
        },
    )
}

fn insert() -> impl Strategy<Value = Step> {
    let expected = prop::option::of(1..4_u32);
    let sent_before = prop_oneof![4 => seconds(0..60), 1 => seconds(0..8 * DAY)];
    let not_before = prop::option::weighted(0.2, seconds(0..2 * DAY));
    let chat = prop::sample::select(vec![Chat::Private, Chat::Oto]);
    (key(), chat, account(), expected, sent_before, not_before).prop_map(
        |(key, chat, account, expected_readers, sent_before, not_before)| Step::Insert {
            key,
            chat,
            account,
            expected_readers,
            sent_before,
            not_before,
        },
    )
}

fn dropped() -> impl Strategy<Value = Option<Drop>> {
    let drop =
        (0..9_usize, any::<bool>(), any::<bool>()).prop_map(|(after, at_once, crash)| Drop {
            after,
            at_once,
            crash,
        });
    prop::option::weighted(0.4, drop)
}

fn meanwhile() -> impl Strategy<Value = Option<Meanwhile>> {
    let meanwhile = prop_oneof![
        Just(Meanwhile::Cancels),
        Just(Meanwhile::Deletes),
        key().prop_map(Meanwhile::Renames),
        (-600..7200_i64).prop_map(Meanwhile::Reschedules),
        account().prop_map(Meanwhile::GivesTo),
        Just(Meanwhile::Retries),
    ];
    prop::option::weighted(0.25, meanwhile)
}

fn commit() -> impl Strategy<Value = Step> {
    let walks = prop::collection::vec(walk(), 1..4);
    (walks, meanwhile(), dropped()).prop_map(|(walks, meanwhile, drop)| Step::Commit {
        walks,
        meanwhile,
        drop,
    })
}

impl ReferenceStateMachine for World {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let world = Self {
            now: T0,
            truth: BTreeMap::new(),
        };
        Just(world).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let user = prop::sample::select(&USERS[..]);
        let passes = prop_oneof![
            3 => seconds(1..2 * MINUTE),
            3 => seconds(0..180 * MINUTE),
            1 => seconds(0..3 * DAY),
        ];
        let back = prop_oneof![seconds(1..60), seconds(1..2 * DAY)];
        let retried = prop::sample::select(vec![
            State::Failed,
            State::Expired,
            State::Cancelled,
            State::Complete,
        ]);
        prop_oneof![
            5 => insert(),
            6 => (key(), user.clone()).prop_map(|(key, user)| Step::Read { key, user }),
            5 => passes.prop_map(Step::Pass),
            1 => back.prop_map(Step::SetBack),
            5 => (1..4_usize, prop::bool::weighted(0.2))
                .prop_map(|(limit, some_wait)| Step::Place { limit, some_wait }),
            6 => (account(), prop::bool::weighted(0.3), 1..4_usize)
                .prop_map(|(account, failing, limit)| Step::Claim { account, failing, limit }),
            2 => (account(), any::<bool>(), 1..4_usize)
                .prop_map(|(account, waiting, limit)| Step::Unplace { account, waiting, limit }),
            8 => commit(),
            3 => (key(), user.clone(), prop::option::of(-60..7200_i64), 1..3_usize)
                .prop_map(|(key, user, read_before, times)| Step::Push { key, user, read_before, times }),
            4 => (1..6_usize, meanwhile(), dropped())
                .prop_map(|(limit, meanwhile, drop)| Step::TakePushed { limit, meanwhile, drop }),
            1 => Just(Step::Crash),
            2 => key().prop_map(|key| Step::Cancel { key }),
            2 => key().prop_map(|key| Step::Delete { key }),
            1 => (key(), key()).prop_map(|(key, to)| Step::Rename { key, to }),
            2 => (key(), -600..7200_i64).prop_map(|(key, seconds)| Step::Reschedule { key, seconds }),
            2 => key().prop_map(|key| Step::RetryKey { key }),
            2 => (retried, 1..3_usize).prop_map(|(state, limit)| Step::RetryState { state, limit }),
            2 => prop_oneof![seconds(0..60), seconds(0..2 * DAY)]
                .prop_map(|older_than| Step::Prune { older_than }),
            1 => (key(), account()).prop_map(|(key, account)| Step::GiveTo { key, account }),
            1 => (key(), prop::sample::select(&USERS[..]))
                .prop_map(|(key, user)| Step::RemoveReader { key, user }),
        ]
        .boxed()
    }

    fn apply(mut world: Self, step: &Step) -> Self {
        match step {
            Step::Read { key, user } => {
                let readers = world.truth.entry(key).or_default();
                readers.entry(user).or_insert(world.now);
            }
            Step::Pass(by) => world.now = world.now + *by,
            Step::SetBack(by) => world.now = world.now - *by,
            _ => {}
        }
        world
    }
}
