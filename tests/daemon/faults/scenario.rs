//! What happens in a round of kills: all of it follows from one seed.

use std::time::Duration;

use receiptd::sandbox::{FaultPlan, Mischief, Outages};

/// A key of this age is not answered any more.
const KEY_LIFE: &str = "12s";
/// How long a late message is on its way: [`Kind::Late`].
pub(crate) const PROCESSING_MS: i64 = 1000;

/// A round: messages, the endpoint's faults, and how each of the daemon's lives ends.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) messages: Vec<Planned>,
    pub(crate) lives: Vec<Life>,
    pub(crate) faults: FaultPlan,
    /// Whether feeders stay connected, and the books are read after every kill. Where not, nobody has the file open
    /// when the daemon comes back, so that it is the daemon who recovers the write-ahead log.
    pub(crate) watched: bool,
}

/// A message, and what the endpoint makes of it.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) key: String,
    pub(crate) kind: Kind,
    pub(crate) chat: &'static str,
    pub(crate) expected: Option<u32>,
    pub(crate) rule: String,
}

/// How a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A group's readers over several pages, until the key expires.
    Group,
    /// Finished by its last reader.
    Expected,
    /// As `Expected`, after errors.
    Trouble,
    Recalled,
    /// Not generated and not sent at first.
    Late,
    /// Never generated.
    Never,
    Plain,
    /// Refused for good.
    Refused,
    /// To persons: finished by the last of whom an answer lists.
    Persons,
    /// Read by nobody as far as a poll can see: DingTalk pushed the reads to another service.
    Told,
}

const KINDS: [Kind; 12] = [
    Kind::Group,
    Kind::Expected,
    Kind::Recalled,
    Kind::Late,
    Kind::Trouble,
    Kind::Never,
    Kind::Plain,
    Kind::Refused,
    Kind::Expected,
    Kind::Group,
    Kind::Persons,
    Kind::Told,
];

/// One life of the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    /// Messages fed in it.
    pub(crate) fed: usize,
    /// Whether it dawdles around its commits, so that more of the random moments lie there.
    pub(crate) dawdles: bool,
    pub(crate) death: Death,
}

/// `kill -9`, at any moment or at a named one.
#[derive(Clone, Debug)]
pub(crate) enum Death {
    After(Duration),
    /// When the point is reached for the `nth` time, from 0.
    At {
        point: &'static str,
        nth: u32,
    },
}

/// The points that a serving daemon comes by; those in a migration and in a prune have tests of their own.
pub(crate) const POINTS: [&str; 4] = [
    "daemon.claim",
    "daemon.page",
    "store.commit.before",
    "store.commit.after",
];

impl Scenario {
    pub(crate) fn new(seed: u64, kills: usize) -> Self {
        let mut luck = fastrand::Rng::with_seed(seed);
        let lives: Vec<Life> = (0..kills)
            .map(|_| Life {
                fed: luck.usize(2..8),
                dawdles: luck.f64() < 0.4,
                death: if luck.f64() < 0.5 {
                    Death::After(Duration::from_millis(luck.u64(30..700)))
                } else {
                    Death::At {
                        point: POINTS[luck.usize(..POINTS.len())],
                        nth: luck.u32(..12),
                    }
                },
            })
            .collect();
        let fed = lives.iter().map(|life| life.fed).sum();
        let messages = (0..fed).map(|number| planned(number, &mut luck)).collect();
        let mut faults = FaultPlan::usual(seed, luck.f64() * 0.4);
        let more = ["fields=null", "empty-object", "bare401", "page=bad-cursor"];
        for name in more {
            let mischief = Mischief::parse(name).unwrap().unwrap();
            faults.rates.push((mischief, 0.01));
        }
        faults.outages = Some(Outages {
            every: Duration::from_secs(6),
            length: Duration::from_millis(luck.u64(200..1500)),
        });
        Self {
            seed,
            messages,
            lives,
            faults,
            watched: seed.is_multiple_of(2),
        }
    }
}

fn planned(number: usize, luck: &mut fastrand::Rng) -> Planned {
    let kind = KINDS[number % KINDS.len()];
    let readers = match kind {
        Kind::Group => luck.u32(150..500),
        Kind::Expected => luck.u32(1..40),
        Kind::Recalled => luck.u32(1..260),
        Kind::Persons => luck.u32(1..=20),
        _ => luck.u32(1..4),
    };
    let crowd = format!("readers={readers},sigma=0.8,median=1s");
    let (chat, expected, rule) = match kind {
        Kind::Group => ("group", None, format!("{crowd},expire={KEY_LIFE}")),
        Kind::Expected => ("group", Some(readers), format!("{crowd},never=0")),
        Kind::Trouble => (
            "private",
            Some(readers),
            format!("{crowd},never=0,code=system.error*2,drop=mid-body*1"),
        ),
        Kind::Recalled => ("group", None, format!("{crowd},recall=2s")),
        Kind::Late => (
            "private",
            None,
            format!("{crowd},generate=500ms,processing={PROCESSING_MS}ms,expire={KEY_LIFE}"),
        ),
        Kind::Never => ("private", None, "generate=1h".to_owned()),
        Kind::Plain => ("private", None, format!("{crowd},expire={KEY_LIFE}")),
        Kind::Refused => (
            "private",
            None,
            "code=invalidParameter.param.invalid".to_owned(),
        ),
        Kind::Persons => ("oto", None, format!("{crowd},never=0")),
        Kind::Told => ("private", Some(readers), "never=1".to_owned()),
    };
    Planned {
        key: format!("{kind:?}-{number}"),
        kind,
        chat,
        expected,
        rule,
    }
}

#[test]
fn the_same_seed_gives_the_same_round_and_the_same_faults() {
    let history = |seed| {
        let scenario = Scenario::new(seed, 25);
        let calls: Vec<_> = scenario
            .messages
            .iter()
            .flat_map(|message| (0..40).map(|call| scenario.faults.fault(&message.key, call)))
            .map(|fault| fault.map(Mischief::name))
            .collect();
        let seconds: Vec<_> = (0..600)
            .map(|tenth| scenario.faults.outage(Duration::from_millis(tenth * 100)))
            .collect();
        assert!(calls.iter().any(Option::is_some) && seconds.iter().any(Option::is_some));
        format!("{scenario:?} {calls:?} {seconds:?}")
    };
    assert_eq!(history(7), history(7));
    assert_ne!(history(7), history(8));
}
