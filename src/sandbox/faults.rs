//! Seeded faults: whether a call fails, and how, follows from the seed, the key and the call's number alone.

use std::time::Duration;

use super::mischief::Mischief;
use super::random::{fraction, hash};
use crate::receipt::whole_ms;

/// Random faults for every key.
#[derive(Clone, Debug)]
pub struct FaultPlan {
    /// The same seed gives the same faults.
    pub seed: u64,
    /// How often each happens, as a share of the calls; together at most 1.
    pub rates: Vec<(Mischief, f64)>,
    /// At most so many of a key's calls fail in a row, so that everything ends.
    pub in_a_row: u32,
    /// Whether token calls suffer too.
    pub tokens_too: bool,
    /// Times in which nothing works.
    pub outages: Option<Outages>,
}

/// One outage of a fixed length in each stretch of a fixed length, at a place that the seed decides.
#[derive(Clone, Copy, Debug)]
pub struct Outages {
    /// One outage in each stretch of this length.
    pub every: Duration,
    /// How long one takes.
    pub length: Duration,
}

impl Default for FaultPlan {
    fn default() -> Self {
        Self {
            seed: 1,
            rates: Vec::new(),
            in_a_row: 3,
            tokens_too: true,
            outages: None,
        }
    }
}

impl FaultPlan {
    /// Every usual kind, together at `rate` of the calls.
    pub fn usual(seed: u64, rate: f64) -> Self {
        let kinds = [
            "code=system.error",
            "html",
            "throttle",
            "drop=before",
            "drop=after-head",
            "drop=mid-body",
            "hang=3s",
            "slow=500ms",
            "truncate",
            "huge",
            "page=repeat",
            "page=no-token",
            "dead-token",
            "redirect",
        ];
        let kinds: Vec<Mischief> = kinds
            .into_iter()
            .filter_map(|name| Mischief::parse(name)?.ok())
            .collect();
        let each = rate / f64::from(u32::try_from(kinds.len()).unwrap_or(1));
        let rates = kinds.into_iter().map(|kind| (kind, each)).collect();
        Self {
            seed,
            rates,
            ..Self::default()
        }
    }

    /// Reads `KIND=RATE`, the kind as in a key's rule: `html=0.01`, `drop=mid-body=0.02`, `hang=3s=0.01`.
    pub fn parse_rate(text: &str) -> Result<(Mischief, f64), String> {
        let (kind, rate) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("{text}: write KIND=RATE, for example html=0.01"))?;
        let mischief = Mischief::parse(kind).unwrap_or_else(|| {
            let known = Mischief::names().collect::<Vec<_>>().join(", ");
            Err(format!("{kind} is no kind of fault; known are {known}"))
        })?;
        let rate: f64 = rate
            .parse()
            .map_err(|_| format!("{rate} is no rate; write one like 0.01"))?;
        if !(0.0..=1.0).contains(&rate) {
            return Err(format!("{rate} is no rate: it must lie between 0 and 1"));
        }
        Ok((mischief, rate))
    }

    /// What call number `n` (from 0) of a key meets.
    pub fn fault(&self, key: &str, n: u32) -> Option<&Mischief> {
        // Every (in_a_row + 1)th call is clean, counted from a place of the key's own: O(1) and a hard limit.
        let turn = u64::from(self.in_a_row) + 1;
        if (hash(self.seed, key, u64::MAX) % turn + u64::from(n)).is_multiple_of(turn) {
            return None;
        }
        let mut left = fraction(hash(self.seed, key, u64::from(n)));
        for (mischief, rate) in &self.rates {
            if left < *rate {
                return Some(mischief);
            }
            left -= rate;
        }
        None
    }

    /// What every call meets at a time since the start, if an outage is on.
    pub fn outage(&self, since_start: Duration) -> Option<Mischief> {
        let Outages { every, length } = self.outages?;
        let every_ms = whole_ms(every).max(1);
        let length_ms = whole_ms(length).min(every_ms);
        let at = whole_ms(since_start);
        let luck = hash(self.seed, "outage", at / every_ms);
        let begin = (luck >> 8) % (every_ms - length_ms + 1);
        let inside = (begin..begin + length_ms).contains(&(at % every_ms));
        inside.then(|| match luck % 3 {
            0 => Mischief::DropBefore,
            1 => Mischief::Html,
            _ => Mischief::Refuse {
                code: "ServiceUnavailable".to_owned(),
                status: None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_faults_and_another_gives_others() {
        let history = |seed| -> Vec<Option<String>> {
            let plan = FaultPlan::usual(seed, 0.3);
            (0..500)
                .map(|n| plan.fault("key", n).map(Mischief::name))
                .collect()
        };
        assert_eq!(history(1), history(1));
        assert_ne!(history(1), history(2));
    }

    #[test]
    fn rates_hold_and_runs_are_bounded() {
        let plan = FaultPlan {
            rates: vec![(Mischief::Html, 1.0)],
            in_a_row: 3,
            ..FaultPlan::default()
        };
        let mut run = 0;
        for n in 0..1_000 {
            run = if plan.fault("k", n).is_some() {
                run + 1
            } else {
                0
            };
            assert!(run <= 3);
        }
        let plan = FaultPlan {
            in_a_row: 9,
            ..FaultPlan::usual(5, 0.2)
        };
        let hit = (0..20_000)
            .filter(|n| plan.fault("k", *n).is_some())
            .count();
        // 0.2 of the nine calls in ten that may fail.
        assert!((3_300..3_900).contains(&hit), "{hit}");
        assert!(
            FaultPlan {
                in_a_row: 0,
                ..plan
            }
            .fault("k", 1)
            .is_none()
        );
    }

    #[test]
    fn one_outage_in_each_stretch() {
        let outages = Outages {
            every: Duration::from_secs(20),
            length: Duration::from_secs(2),
        };
        let plan = FaultPlan {
            outages: Some(outages),
            ..FaultPlan::default()
        };
        for stretch in 0..50_u64 {
            let down = (0..20_000_u64).step_by(10).filter(|ms| {
                plan.outage(Duration::from_millis(stretch * 20_000 + ms))
                    .is_some()
            });
            assert_eq!(down.count(), 200);
        }
    }

    #[test]
    fn rates_are_read_or_refused_in_words() {
        assert_eq!(
            FaultPlan::parse_rate("drop=mid-body=0.5"),
            Ok((Mischief::DropMidBody, 0.5))
        );
        assert_eq!(
            FaultPlan::parse_rate("hang=3s=0.01"),
            Ok((Mischief::Hang(Duration::from_secs(3)), 0.01))
        );
        for wrong in [
            "html",
            "html=2",
            "nonsense=0.1",
            "drop=sideways=0.1",
            "hang=3=0.1",
        ] {
            assert!(FaultPlan::parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
