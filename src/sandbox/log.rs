//! What the sandbox saw: calls, and what the interface would not allow.

use std::collections::VecDeque;

use serde::Serialize;

/// A call and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Call {
    /// Counts every call since the start, from 1.
    pub seq: u64,
    /// When it came, Unix milliseconds of the sandbox's clock.
    pub at: i64,
    /// The address that was called, as its caller wrote it: clients that use different ones are told apart.
    pub host: String,
    /// The path.
    pub path: String,
    /// Whose it is: `appKey`, or `suiteKey/corpId`; empty where the call did not get so far.
    pub caller: String,
    /// The message; empty on a token call.
    pub key: String,
    /// Page of the walk, from 1; 0 where the call did not get so far.
    pub page: u32,
    /// HTTP status of the answer; 0: none was given.
    pub status: u16,
    /// `ok`, the error's code, or the name of what went wrong.
    pub outcome: String,
    /// `sendStatus` as answered.
    pub send_status: String,
    /// Readers in the answer.
    pub readers: u32,
    /// Whether it counts against the month.
    pub metered: bool,
}

/// Something that the interface does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// The call's number.
    pub seq: u64,
    /// The message; empty where it was not known.
    pub key: String,
    /// What was wrong, without any secret.
    pub what: String,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Queries of read receipts, whatever their answer.
    pub queries: u64,
    /// Token calls.
    pub token_calls: u64,
    /// Queries that count against the month.
    pub metered: u64,
    /// Queries refused for their rate.
    pub throttled: u64,
    /// Calls that met something laid down to go wrong.
    pub faults: u64,
    /// Things that the interface does not allow.
    pub violations: u64,
}

/// So many violations are kept; beyond that they are only counted.
const VIOLATIONS_KEPT: usize = 1_000;

/// The memory of calls, bounded.
pub(super) struct Log {
    capacity: usize,
    calls: VecDeque<Call>,
    violations: Vec<Violation>,
    pub(super) counts: Counts,
    seq: u64,
}

impl Log {
    pub(super) fn new(capacity: usize) -> Self {
        let (calls, violations) = (VecDeque::new(), Vec::new());
        Self {
            capacity,
            calls,
            violations,
            counts: Counts::default(),
            seq: 0,
        }
    }

    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn record(&mut self, call: Call) {
        if self.capacity == 0 {
            return;
        }
        if self.calls.len() == self.capacity {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    pub(super) fn violation(&mut self, call: &Call, what: impl Into<String>) {
        self.counts.violations += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(Violation {
                seq: call.seq,
                key: call.key.clone(),
                what: what.into(),
            });
        }
    }

    /// Remembered calls after a number, oldest first.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = &Call> {
        let from = self.calls.partition_point(|call| call.seq <= seq);
        self.calls.range(from..)
    }

    pub(super) fn violations(&self) -> &[Violation] {
        &self.violations
    }
}
