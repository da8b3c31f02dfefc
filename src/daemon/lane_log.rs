//! What happens to a lane, as lines of log. A lane that fares ill for long says so once, and then with a count.

use std::time::Duration;

use crate::dingtalk::{Failure, remedy};
use crate::receipt::{ErrorCode, LaneId, whole_ms};
use crate::telemetry::Warnings;

#[derive(Debug)]
pub(super) struct LaneLog {
    lane: LaneId,
    warnings: Warnings,
}

impl LaneLog {
    pub(super) fn new(lane: LaneId, warnings: Warnings) -> Self {
        Self { lane, warnings }
    }

    pub(super) fn works_again(&self) {
        let lane = &self.lane;
        tracing::info!(
            account = %lane.account,
            corp_id = lane.corp.as_ref().map(tracing::field::display),
            "account {lane}: works again"
        );
    }

    pub(super) fn throttled(&self, code: &ErrorCode, window: Duration) {
        let lane = &self.lane;
        if let Some(again) = self.warnings.admit(format!("account {lane}: throttled")) {
            let wait_ms = whole_ms(window);
            tracing::warn!(
                account = %lane.account,
                corp_id = lane.corp.as_ref().map(tracing::field::display),
                error.code = %code,
                wait_ms,
                suppressed = again.count(),
                "account {lane}: throttled ({code}), its calls wait {wait_ms} ms{again}"
            );
        }
    }

    pub(super) fn blocked(&self, code: &ErrorCode, why: &str) {
        let lane = &self.lane;
        let what = format!("account {lane}: blocked ({code})");
        if let Some(again) = self.warnings.admit(what) {
            tracing::warn!(
                account = %lane.account,
                corp_id = lane.corp.as_ref().map(tracing::field::display),
                error.code = %code,
                error = why,
                suppressed = again.count(),
                "account {lane}: blocked ({code}): {why}; its messages wait, one call probes now and then{again}"
            );
        }
    }

    pub(super) fn out_of_calls(&self, code: &ErrorCode) {
        let lane = &self.lane;
        let what = format!("account {lane}: out of calls");
        if let Some(again) = self.warnings.admit(what) {
            tracing::warn!(
                account = %lane.account,
                corp_id = lane.corp.as_ref().map(tracing::field::display),
                error.code = %code,
                suppressed = again.count(),
                "account {lane}: the organisation's calls of this month are used up ({code}); one call an hour probes{again}"
            );
        }
    }

    pub(super) fn unreachable(&self, failure: &Failure) {
        let lane = &self.lane;
        let what = format!("account {lane}: no answer");
        if let Some(again) = self.warnings.admit(what) {
            tracing::warn!(
                account = %lane.account,
                corp_id = lane.corp.as_ref().map(tracing::field::display),
                error.code = %failure.code,
                error = failure.detail,
                suppressed = again.count(),
                "account {lane}: many calls in a row failed, the last with {failure}; one probes, the others wait{again}"
            );
        }
    }

    /// Messages are refused for a reason that an operator can mend.
    pub(super) fn refuses_messages(&self, failure: &Failure) {
        let (lane, code) = (&self.lane, &failure.code);
        let what = format!("account {lane}: messages refused ({code})");
        if let Some(again) = self.warnings.admit(what) {
            tracing::warn!(
                account = %lane.account,
                corp_id = lane.corp.as_ref().map(tracing::field::display),
                error.code = %code,
                error = failure.detail,
                suppressed = again.count(),
                "account {lane}: messages are refused with {failure}; they wait; {}{again}",
                remedy(code.as_str())
            );
        }
    }

    /// All lanes: the address is banned.
    pub(super) fn banned(&self) {
        if let Some(again) = self.warnings.admit("address banned") {
            tracing::error!(
                error.code = "address.banned",
                suppressed = again.count(),
                "DingTalk has banned this address: all accounts stop for five minutes; lower [endpoint] \
                 calls_per_second, or find who else calls from it{again}"
            );
        }
    }
}
