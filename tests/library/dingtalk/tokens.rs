//! Tokens: answers, refusals, and when the next one is due.

use std::time::{Duration, Instant};

use receiptd::dingtalk::{
    AccessToken, Answered, Credentials, Freshness, IssuedToken, TokenCache, TokenRefusal,
    read_token,
};
use receiptd::receipt::CorpId;
use receiptd::settings::{App, Secret};

fn read(status: u16, body: &str) -> Result<IssuedToken, TokenRefusal> {
    read_token(
        &Answered {
            status,
            retry_after: None,
            body: body.as_bytes().into(),
        },
        &["s3cret"],
    )
}

fn token(text: &str) -> AccessToken {
    AccessToken::new(text).unwrap()
}

#[test]
fn a_token_lives_as_long_as_it_says_within_reason() {
    let life = |expire_in: &str| {
        let issued = read(
            200,
            &format!(r#"{{"accessToken":"abc","expireIn":{expire_in}}}"#),
        )
        .unwrap();
        assert_eq!(issued.token, token("abc"));
        issued.lifetime.as_secs()
    };
    assert_eq!(life("7200"), 7200);
    assert_eq!(life("\"7200\""), 7200);
    assert_eq!(life("2"), 2);
    assert_eq!(life("18446744073709551615"), 24 * 3600);
    for nonsense in ["0", "-1", "null", "true", "{}", "\"soon\""] {
        assert_eq!(life(nonsense), 7200, "{nonsense}");
    }
}

#[test]
fn a_200_without_a_usable_token_is_upstream_trouble() {
    for body in [
        "{}",
        "",
        "<html>",
        r#"{"accessToken":""}"#,
        r#"{"accessToken":null,"expireIn":7200}"#,
        r#"{"accessToken":7}"#,
        r#"{"accessToken":"a b"}"#,
        r#"{"accessToken":"a\r\nx-evil: 1"}"#,
        r#"{"accessToken":"钥匙"}"#,
        r#"{"code":"system.busy"}"#,
    ] {
        let refusal = read(200, body).unwrap_err();
        let TokenRefusal::Upstream(failure) = refusal else {
            panic!("{body}: {refusal:?}")
        };
        assert!(!failure.metered, "{body}");
    }
}

#[test]
fn refusals_are_named_by_what_to_do() {
    for code in [
        "invalidClientIdOrSecret",
        "invalidSuiteKey",
        "invalidSuiteTicket",
        "invalidAuthInfo",
        "Forbidden.AccessDenied.IpNotInWhiteList",
        "InvalidAuthentication",
        "invalidParameter.param.invalid",
        "no.such.code",
    ] {
        let body = format!(r#"{{"code":"{code}","message":"s3cret is wrong"}}"#);
        let refusal = read(400, &body).unwrap_err();
        assert!(
            matches!(refusal, TokenRefusal::Refused { .. }),
            "{code}: {refusal:?}"
        );
        assert_eq!(refusal.code().as_str(), code);
        assert!(
            !format!("{refusal} {refusal:?}").contains("s3cret"),
            "{refusal}"
        );
    }
    let body = r#"{"code":"Forbidden.AccessDenied.QpmLimitForApi"}"#;
    let throttled = Answered {
        status: 403,
        retry_after: Some(Duration::from_secs(90)),
        body: body.as_bytes().into(),
    };
    let refusal = read_token(&throttled, &[]).unwrap_err();
    assert!(matches!(refusal, TokenRefusal::Throttled { window, .. } if window.as_secs() == 90));
    let refusal = read(403, body).unwrap_err();
    assert!(matches!(refusal, TokenRefusal::Throttled { window, .. } if window.as_secs() == 60));
    assert_eq!(
        read(200, r#"{"status":1111}"#),
        Err(TokenRefusal::AddressBanned)
    );
    assert!(matches!(
        read(503, "<html>"),
        Err(TokenRefusal::Upstream(_))
    ));
    assert!(matches!(
        read(400, r#"{"code":"system.error"}"#),
        Err(TokenRefusal::Upstream(_))
    ));
}

#[test]
fn a_wrong_secret_says_what_to_check() {
    let refusal = read(
        400,
        r#"{"code":"invalidClientIdOrSecret","message":"无效的clientId"}"#,
    );
    let text = refusal.unwrap_err().to_string();
    assert_eq!(
        text,
        "DingTalk refuses the credentials (invalidClientIdOrSecret: HTTP 400: 无效的clientId); \
         check app_key and app_secret, and that endpoint.base_url is the site of this app"
    );
}

#[test]
fn a_token_shows_itself_to_nobody() {
    let issued = read(200, r#"{"accessToken":"hunter2","expireIn":7200}"#).unwrap();
    let mut cache = TokenCache::default();
    cache.set(issued.clone(), Instant::now(), 0.0);
    assert!(!format!("{issued:?} {cache:?}").contains("hunter2"));
}

#[test]
fn a_token_is_refreshed_ahead_of_its_end() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut cache = TokenCache::default();
    assert_eq!(cache.freshness(start), Freshness::Expired);
    assert_eq!(cache.token(start), None);

    let issued = |seconds| IssuedToken {
        token: token("a"),
        lifetime: Duration::from_secs(seconds),
    };
    cache.set(issued(7200), start, 0.0);
    assert_eq!(cache.freshness(after(6599)), Freshness::Valid);
    assert_eq!(cache.freshness(after(6600)), Freshness::RefreshSoon);
    assert_eq!(cache.token(after(7199)), Some(&token("a")));
    assert_eq!(cache.freshness(after(7200)), Freshness::Expired);
    assert_eq!(cache.token(after(7200)), None);

    // A short life is not all refreshing.
    cache.set(issued(30), start, 0.0);
    assert_eq!(cache.freshness(after(19)), Freshness::Valid);
    assert_eq!(cache.freshness(after(20)), Freshness::RefreshSoon);
    assert_eq!(cache.freshness(after(30)), Freshness::Expired);
}

#[test]
fn a_late_refusal_of_an_old_token_does_not_cost_the_new_one() {
    let now = Instant::now();
    let issued = |text| IssuedToken {
        token: token(text),
        lifetime: Duration::from_secs(7200),
    };
    let mut cache = TokenCache::default();
    cache.set(issued("old"), now, 0.0);
    cache.set(issued("new"), now, 0.0);
    cache.invalidate(&token("old"));
    assert_eq!(cache.token(now), Some(&token("new")));
    cache.invalidate(&token("new"));
    assert_eq!(cache.freshness(now), Freshness::Expired);
}

#[test]
fn a_third_party_lane_needs_its_organisation() {
    let app = App::ThirdParty {
        suite_key: "suite".into(),
        suite_secret: Secret::Inline("x".into()),
    };
    assert_eq!(Credentials::of(&app, None), None);
    let corp = CorpId::from("ding1");
    let expected = Credentials::ThirdParty {
        suite_key: "suite".into(),
        corp: corp.clone(),
    };
    assert_eq!(Credentials::of(&app, Some(&corp)), Some(expected));
}
