//! The table of error codes. This is its documentation: what is here is what receiptd does.

use std::time::Duration;

use receiptd::dingtalk::{Said, classify};
use receiptd::receipt::Disposition::{self, *};

const SECOND: Disposition = Throttled {
    window: Duration::from_secs(1),
};
const MINUTE: Disposition = Throttled {
    window: Duration::from_secs(60),
};

/// Each code, the statuses that it was documented or seen with, and what it means.
const TABLE: &[(&str, &[u16], Disposition)] = &[
    // Upstream trouble.
    ("system.error", &[400, 500, 503], Retry),
    ("system.busy", &[400, 403, 429, 500, 503], Retry),
    ("systemBusy", &[400, 403, 429, 500, 503], Retry),
    ("systemError.busy", &[400, 403, 429, 500, 503], Retry),
    ("serviceBusy", &[400, 403, 429, 500, 503], Retry),
    ("request.too.fast", &[400, 403, 429, 500, 503], Retry),
    ("unknownError", &[400, 403, 429, 500, 503], Retry),
    ("operationTimeout", &[400, 403, 429, 500, 503], Retry),
    ("service.timeout", &[400, 403, 429, 500, 503], Retry),
    ("ServiceUnavailable", &[400, 403, 429, 500, 503], Retry),
    // Called too often: by app, by suite and organisation, by API; and families not seen yet.
    (
        "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi",
        &[403],
        SECOND,
    ),
    (
        "Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi",
        &[403],
        SECOND,
    ),
    ("Forbidden.AccessDenied.QpsLimitForApi", &[403], SECOND),
    (
        "Forbidden.AccessDenied.QpsLimitForSomethingNew",
        &[403],
        SECOND,
    ),
    (
        "Forbidden.AccessDenied.QpmLimitForAppkeyAndApi",
        &[403],
        MINUTE,
    ),
    ("Forbidden.AccessDenied.QpmLimitForApi", &[403], MINUTE),
    // The month is used up.
    (
        "Forbidden.AccessDenied.ApiCountLimitForOrg",
        &[403],
        QuotaExhausted,
    ),
    // The token is dead. It comes with 400 in practice.
    ("InvalidAuthentication", &[400, 401], RefreshToken),
    // The account may not call.
    (
        "Forbidden.AccessDenied.AccessTokenPermissionDenied",
        &[403],
        LaneBlocked,
    ),
    (
        "Forbidden.AccessDenied.IpNotInWhiteList",
        &[403],
        LaneBlocked,
    ),
    ("invalidClientIdOrSecret", &[400], LaneBlocked),
    ("invalidSuiteKey", &[400], LaneBlocked),
    ("invalidSuiteTicket", &[400], LaneBlocked),
    ("invalidAuthInfo", &[400], LaneBlocked),
    // This message is refused for now.
    ("unauthorized", &[400], Blocked),
    ("auth.error", &[400], Blocked),
    ("bot.stopped", &[400], Blocked),
    ("template.stopped", &[400], Blocked),
    ("resource.not.found", &[400], Blocked),
    ("template.not.existed", &[400], Blocked),
    ("unknown.send.result", &[400], SendingUnknown),
    // Paging.
    ("invalidParameter.cursor.invalid", &[400], RestartPaging),
    ("invalidParameter.pageSize.invalid", &[400], SmallerPages),
    // The row is wrong.
    ("invalidParameter.param.invalid", &[400], Rejected),
    ("invalidParameter.processQueryKey.missing", &[400], Rejected),
    ("invalidParameter.invalid", &[400], Rejected),
    ("invalid.openConversationId", &[400], Rejected),
    ("openConversationId.notExisted", &[400], Rejected),
    ("invalid.processQueryKey", &[400], Rejected),
    ("conversation.org.dismatch", &[400], Rejected),
    ("invalidParameter.robotCode.notExsit", &[400], RobotRejected),
    ("invalidParameter.robotCode.missing", &[400], RobotRejected),
    ("invalidParameter.robotCode.invalid", &[400], RobotRejected),
    ("invalidParameter.robotCode.empty", &[400], RobotRejected),
    // Not generated yet, or expired.
    (
        "processQueryKey.expireTime",
        &[400, 503],
        NotGeneratedOrExpired,
    ),
];

/// What the status decides where no code is known: an unknown code, a JSON object without one, anything else.
const STATUSES: &[(u16, [Disposition; 3])] = &[
    (200, [Retry, Retry, Retry]),
    (204, [Retry, Retry, Retry]),
    (302, [Retry, Retry, Retry]),
    (400, [Blocked, Retry, Retry]),
    (401, [Blocked, RefreshToken, RefreshToken]),
    (403, [Blocked, Retry, Retry]),
    (404, [Blocked, Retry, Retry]),
    (408, [Blocked, Retry, Retry]),
    (429, [Retry, Retry, Retry]),
    (500, [Retry, Retry, Retry]),
    (502, [Retry, Retry, Retry]),
    (503, [Retry, Retry, Retry]),
    (599, [Retry, Retry, Retry]),
];

#[test]
fn every_code_means_the_same_with_every_status() {
    for (code, listed, expected) in TABLE {
        for status in listed
            .iter()
            .copied()
            .chain([200, 400, 401, 403, 429, 500, 503])
        {
            assert_eq!(
                classify(status, Said::Code(code)),
                *expected,
                "{status} {code}"
            );
        }
    }
}

#[test]
fn the_status_decides_where_no_code_is_known() {
    for (status, [unknown, none, not_json]) in STATUSES {
        assert_eq!(
            classify(*status, Said::Code("no.such.code")),
            *unknown,
            "{status}"
        );
        assert_eq!(classify(*status, Said::NoCode), *none, "{status}");
        assert_eq!(classify(*status, Said::NotJson), *not_json, "{status}");
    }
}

#[test]
fn codes_are_compared_to_the_letter() {
    for (code, _, _) in TABLE
        .iter()
        .filter(|(_, _, expected)| *expected == Rejected)
    {
        for alike in [code.to_uppercase(), format!("{code} "), format!("{code}.x")] {
            assert_eq!(classify(400, Said::Code(&alike)), Blocked, "{alike}");
        }
    }
}

#[test]
fn a_redirect_is_nobodys_answer() {
    for (code, _, _) in TABLE {
        assert_eq!(classify(302, Said::Code(code)), Retry, "{code}");
    }
    assert_eq!(classify(307, Said::Banned), Retry);
}

#[test]
fn a_ban_is_seen_whatever_its_status() {
    for status in [200, 403, 503] {
        assert_eq!(classify(status, Said::Banned), AddressBanned);
    }
}
