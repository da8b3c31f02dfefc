//! Tokens, rates, the month.

use std::time::Duration;

use receiptd::sandbox::{App, Sandbox, SandboxConfig};
use serde_json::{Value, json};

use crate::http::{CORP_TOKEN, Got, PRIVATE, TOKEN, ask, call, post, token};

async fn corp_token(sandbox: &Sandbox, change: &Value) -> Got {
    let mut asked = json!({
        "suiteKey": "suite1", "suiteSecret": "secret", "authCorpId": "corpA", "suiteTicket": "t1"
    });
    for (name, value) in change.as_object().expect("an object") {
        asked[name] = value.clone();
    }
    call(sandbox, "POST", CORP_TOKEN, None, &asked.to_string()).await
}

fn text(got: &Got) -> String {
    got.json()["accessToken"]
        .as_str()
        .expect("a token")
        .to_owned()
}

#[tokio::test]
async fn an_internal_token_is_kept_alive_by_asking_again() {
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("a free port");
    let first = token(&sandbox).await;
    let asked = r#"{"appKey":"sandbox","appSecret":"sandbox"}"#;
    let got = call(&sandbox, "POST", TOKEN, None, asked).await;
    assert_eq!(
        got.body,
        format!(r#"{{"accessToken":"{first}","expireIn":7200}}"#)
    );
    sandbox.advance(Duration::from_secs(7_000));
    assert_eq!(token(&sandbox).await, first);
    sandbox.advance(Duration::from_secs(7_000));
    assert_eq!(ask(&sandbox, &first, "k").await.status, 200);
    sandbox.advance(Duration::from_secs(201));
    let got = ask(&sandbox, &first, "k").await;
    assert_eq!(
        (got.status, got.code().as_str()),
        (400, "InvalidAuthentication")
    );
    let second = token(&sandbox).await;
    assert_ne!(second, first);
    assert_eq!(sandbox.revoke_tokens(Some("other")), 0);
    assert_eq!(sandbox.revoke_tokens(Some("sandbox")), 1);
    assert_eq!(
        ask(&sandbox, &second, "k").await.code(),
        "InvalidAuthentication"
    );
    // A token that has ended is no fault of the client's.
    assert_eq!(sandbox.violations(), []);
}

#[tokio::test]
async fn a_corp_token_is_new_each_time_and_every_refusal_has_its_code() {
    for replaces in [false, true] {
        let config = SandboxConfig {
            apps: vec![App::third_party(
                "suite1",
                "secret",
                "t1",
                &["corpA", "corpB"],
            )],
            corp_token_replaces: replaces,
            ..SandboxConfig::default()
        };
        let sandbox = Sandbox::start(config).await.expect("a free port");
        let first = text(&corp_token(&sandbox, &json!({})).await);
        let second = text(&corp_token(&sandbox, &json!({})).await);
        assert_ne!(first, second);
        assert_eq!(
            ask(&sandbox, &first, "k").await.status,
            if replaces { 400 } else { 200 }
        );
        assert_eq!(ask(&sandbox, &second, "k").await.status, 200);
        let refusals = [
            (json!({ "suiteKey": "x" }), "invalidSuiteKey"),
            (json!({ "suiteSecret": "x" }), "invalidSuiteKey"),
            (json!({ "suiteTicket": "old" }), "invalidSuiteTicket"),
            (json!({ "authCorpId": "x" }), "invalidAuthInfo"),
        ];
        for (change, code) in refusals {
            let got = corp_token(&sandbox, &change).await;
            assert_eq!((got.status, got.code().as_str()), (400, code));
        }
        let renewed = |app: &mut App| {
            let suite = app.suite.as_mut().expect("a suite");
            suite.ticket = "t2".to_owned();
        };
        assert!(sandbox.change_app("suite1", renewed));
        assert_eq!(
            corp_token(&sandbox, &json!({})).await.code(),
            "invalidSuiteTicket"
        );
        assert_eq!(
            corp_token(&sandbox, &json!({ "suiteTicket": "t2" }))
                .await
                .status,
            200
        );
    }
}

#[tokio::test]
async fn a_wrong_secret_is_refused_until_it_is_mended() {
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("a free port");
    let asked = r#"{"appKey":"sandbox","appSecret":"wrong"}"#;
    let got = call(&sandbox, "POST", TOKEN, None, asked).await;
    assert_eq!(
        (got.status, got.code().as_str()),
        (400, "invalidClientIdOrSecret")
    );
    let change =
        r#"{"key":"sandbox","secret":"wrong","refusal":"Forbidden.AccessDenied.IpNotInWhiteList"}"#;
    assert_eq!(
        call(&sandbox, "POST", "/sandbox/accounts", None, change)
            .await
            .status,
        200
    );
    let token = text(&call(&sandbox, "POST", TOKEN, None, asked).await);
    let got = ask(&sandbox, &token, "k").await;
    assert_eq!(
        (got.status, got.code().as_str()),
        (403, "Forbidden.AccessDenied.IpNotInWhiteList")
    );
    let change = r#"{"key":"sandbox","refusal":null}"#;
    assert_eq!(
        call(&sandbox, "POST", "/sandbox/accounts", None, change)
            .await
            .status,
        200
    );
    assert_eq!(ask(&sandbox, &token, "k").await.status, 200);
}

#[tokio::test]
async fn too_many_calls_in_a_second_are_throttled_and_seen() {
    let config = SandboxConfig {
        calls_per_second: 5,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    let mut codes = Vec::new();
    // However slow the machine is, 5,000 calls cannot all be a fifth of a second apart.
    while codes.len() < 5_000 && !codes.contains(&403) {
        codes.push(ask(&sandbox, &token, "k").await.status);
    }
    assert!(
        codes.len() > 5 && codes[..5].iter().all(|status| *status == 200),
        "{codes:?}"
    );
    let last = sandbox.calls_after(0).pop().expect("a call");
    assert_eq!(
        last.outcome,
        "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"
    );
    assert!(!last.metered);
    assert_eq!(sandbox.counts().throttled, 1);
    assert!(sandbox.violations()[0].what.contains("5 calls in a second"));
}

#[tokio::test]
async fn an_address_that_calls_too_often_is_banned() {
    let config = SandboxConfig {
        calls_per_20s: 3,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    for _ in 0..3 {
        assert_eq!(
            ask(&sandbox, &token, "k").await.json()["sendStatus"],
            "SUCCESS"
        );
    }
    for _ in 0..2 {
        let got = ask(&sandbox, &token, "k").await;
        assert_eq!((got.status, &got.json()["status"]), (200, &json!(1111)));
    }
}

#[tokio::test]
async fn the_month_ends_and_another_begins() {
    let config = SandboxConfig {
        monthly_calls: 3,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let first = token(&sandbox).await;
    let mut outcomes = Vec::new();
    // A throttled call is not charged.
    for key in ["sb:throttle*1;x", "sb:throttle*1;x", "k", "k", "k"] {
        outcomes.push(ask(&sandbox, &first, key).await.status);
    }
    assert_eq!(outcomes, [403, 200, 200, 200, 403]);
    assert_eq!(
        sandbox.calls_after(0).pop().expect("a call").outcome,
        "Forbidden.AccessDenied.ApiCountLimitForOrg"
    );
    sandbox.advance(Duration::from_secs(32 * 24 * 3_600));
    let second = token(&sandbox).await;
    assert_eq!(ask(&sandbox, &second, "new").await.status, 200);
}

#[tokio::test]
async fn the_log_holds_every_call_and_is_bounded() {
    let config = SandboxConfig {
        log_capacity: 3,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    for key in ["a", "b", "sb:code=bot.stopped;c", "d"] {
        ask(&sandbox, &token, key).await;
    }
    let got = call(&sandbox, "GET", "/sandbox/log?after=0", None, "")
        .await
        .json();
    let told: Vec<_> = got
        .as_array()
        .expect("a list")
        .iter()
        .map(|call| {
            (
                call["key"].as_str().unwrap_or_default().to_owned(),
                call["outcome"].clone(),
            )
        })
        .collect();
    let expected = [
        ("b", "ok"),
        ("sb:code=bot.stopped;c", "bot.stopped"),
        ("d", "ok"),
    ];
    assert_eq!(
        told,
        expected.map(|(key, outcome)| (key.to_owned(), json!(outcome)))
    );
    assert_eq!(sandbox.counts().queries, 4);
    let call = &sandbox.calls_after(0)[0];
    assert_eq!(
        (call.path.as_str(), call.lane.as_str(), call.page),
        (PRIVATE, "sandbox", 1)
    );
}

#[tokio::test]
async fn another_process_sets_messages_up_and_asks_for_the_truth() {
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("a free port");
    let token = token(&sandbox).await;
    let messages = r#"[{"key":"a","chat":"private","readers":[{"userId":"ann","afterMs":0},{"userId":"bob"}]},
        {"key":"b","rule":"recall=0s"}]"#;
    let got = call(&sandbox, "PUT", "/sandbox/messages", None, messages).await;
    assert_eq!(got.json(), json!({ "published": 2 }));
    assert_eq!(ask(&sandbox, &token, "a").await.readers(), ["ann"]);
    let truth = call(&sandbox, "GET", "/sandbox/truth?key=a", None, "")
        .await
        .json();
    assert_eq!(truth[0]["readers"][0]["userId"], "ann");
    assert_eq!(truth[0]["readers"][0]["readAt"], truth[0]["sentAt"]);
    assert_eq!(truth[0]["absent"], json!(["bob"]));
    let all = call(&sandbox, "GET", "/sandbox/truth", None, "")
        .await
        .json();
    assert_eq!(all.as_array().map(Vec::len), Some(2));
    for wrong in [
        r#"{"key":"c","rule":"recall=x"}"#,
        r#"{"kee":"c"}"#,
        "[1]",
        "",
    ] {
        assert_eq!(
            call(&sandbox, "PUT", "/sandbox/messages", None, wrong)
                .await
                .status,
            400
        );
    }
    let got = post(
        &sandbox,
        PRIVATE,
        &token,
        &json!({ "processQueryKey": "b" }),
    )
    .await;
    assert_eq!(got.json()["sendStatus"], "RECALLED");
    sandbox.stop().await;
}
