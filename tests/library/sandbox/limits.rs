//! Tokens, rates, the month, and what another process may ask.

use std::time::Duration;

use receiptd::sandbox::{App, Sandbox, SandboxConfig};
use serde_json::{Value, json};

use super::http::{CORP_TOKEN, GROUP, Got, PRIVATE, TOKEN, ask, call, post, sandbox, token};

async fn corp_token(sandbox: &Sandbox, change: &Value) -> Got {
    let mut asked = json!({
        "suiteKey": "suite1", "suiteSecret": "secret", "authCorpId": "corpA", "suiteTicket": "t1"
    });
    for (name, value) in change.as_object().expect("an object") {
        asked[name] = value.clone();
    }
    call(sandbox, "POST", CORP_TOKEN, None, &asked.to_string()).await
}

#[tokio::test]
async fn an_internal_token_is_kept_alive_by_asking_again() {
    let (sandbox, first) = sandbox().await;
    let asked = r#"{"appKey":"sandbox","appSecret":"sandbox"}"#;
    let got = call(&sandbox, "POST", TOKEN, None, asked).await;
    let same = format!(r#"{{"accessToken":"{first}","expireIn":7200}}"#);
    assert_eq!(got.body, same);
    sandbox.advance(Duration::from_secs(7_000));
    assert_eq!(token(&sandbox).await, first);
    sandbox.advance(Duration::from_secs(7_000));
    assert_eq!(ask(&sandbox, &first, "k").await.status, 200);
    sandbox.advance(Duration::from_secs(201));
    let got = ask(&sandbox, &first, "k").await;
    assert_eq!((got.status, &*got.code()), (400, "InvalidAuthentication"));
    let second = token(&sandbox).await;
    assert_ne!(second, first);
    assert_eq!(sandbox.revoke_tokens(Some("other")), 0);
    assert_eq!(sandbox.revoke_tokens(Some("sandbox")), 1);
    let got = ask(&sandbox, &second, "k").await;
    assert_eq!(got.code(), "InvalidAuthentication");
    // A token that has ended is no fault of the client's.
    assert_eq!(sandbox.violations(), []);
    // Of a request that is none the note says nothing: a secret may stand in it.
    let asked = r#"{"appKey":"sandbox","appSecret":4711}"#;
    let got = call(&sandbox, "POST", TOKEN, None, asked).await;
    assert_eq!(got.code(), "invalidParameter.param.invalid");
    assert_eq!(
        sandbox.violations()[0].what,
        "the body is not as documented"
    );
}

#[tokio::test]
async fn a_corp_token_is_new_each_time_and_every_refusal_has_its_code() {
    let app = App::third_party("suite1", "secret", "t1", &["corpA", "corpB"]);
    let config = SandboxConfig {
        apps: vec![app],
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let got = corp_token(&sandbox, &json!({})).await.json();
        tokens.push(got["accessToken"].as_str().expect("a token").to_owned());
    }
    assert_ne!(tokens[0], tokens[1]);
    for token in &tokens {
        assert_eq!(ask(&sandbox, token, "k").await.status, 200);
    }
    let refusals = [
        (json!({ "suiteKey": "x" }), "invalidSuiteKey"),
        (json!({ "suiteSecret": "x" }), "invalidSuiteKey"),
        (json!({ "suiteTicket": "old" }), "invalidSuiteTicket"),
        (json!({ "authCorpId": "x" }), "invalidAuthInfo"),
    ];
    for (change, code) in refusals {
        let got = corp_token(&sandbox, &change).await;
        assert_eq!((got.status, &*got.code()), (400, code));
    }
    let renewed = sandbox.change_app("suite1", |app| {
        app.suite.as_mut().expect("a suite").ticket = "t2".to_owned();
    });
    assert!(renewed);
    let old = corp_token(&sandbox, &json!({})).await;
    assert_eq!(old.code(), "invalidSuiteTicket");
    let new = corp_token(&sandbox, &json!({ "suiteTicket": "t2" })).await;
    assert_eq!(new.status, 200);
}

#[tokio::test]
async fn a_wrong_secret_and_a_refused_app_are_refused_until_they_are_mended() {
    let (sandbox, token) = sandbox().await;
    let asked = r#"{"appKey":"sandbox","appSecret":"wrong"}"#;
    let got = call(&sandbox, "POST", TOKEN, None, asked).await;
    assert_eq!((got.status, &*got.code()), (400, "invalidClientIdOrSecret"));
    let foreign = "Forbidden.AccessDenied.IpNotInWhiteList";
    for (refusal, status) in [(Some(foreign), 403), (None, 200)] {
        sandbox.change_app("sandbox", |app| app.refusal = refusal.map(str::to_owned));
        assert_eq!(ask(&sandbox, &token, "k").await.status, status);
    }
}

#[tokio::test]
async fn too_many_calls_in_a_second_are_throttled_and_seen() {
    let config = SandboxConfig {
        calls_per_second: 5,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    let mut statuses = Vec::new();
    // However slow the machine is, 5,000 calls cannot all be a fifth of a second apart.
    while statuses.len() < 5_000 && !statuses.contains(&403) {
        statuses.push(ask(&sandbox, &token, "k").await.status);
    }
    assert!(
        statuses.len() > 5 && statuses[..5].iter().all(|status| *status == 200),
        "{statuses:?}"
    );
    let last = sandbox.calls_after(0).pop().expect("a call");
    let throttled = "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi";
    assert_eq!((&*last.outcome, last.metered), (throttled, false));
    assert_eq!(sandbox.counts().throttled, 1);
    assert!(sandbox.violations()[0].what.contains("5 calls in a second"));
}

#[tokio::test]
async fn the_months_calls_are_used_up_and_come_back() {
    let config = SandboxConfig {
        monthly_calls: 3,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let first = token(&sandbox).await;
    let mut statuses = Vec::new();
    // Neither a throttled call is charged, nor one that something else answered.
    for key in [
        "sb:throttle*1;x",
        "sb:html*1;y",
        "sb:throttle*1;x",
        "k",
        "k",
        "k",
    ] {
        statuses.push(ask(&sandbox, &first, key).await.status);
    }
    assert_eq!(statuses, [403, 503, 200, 200, 200, 403]);
    let last = sandbox.calls_after(0).pop().expect("a call");
    assert_eq!(last.outcome, "Forbidden.AccessDenied.ApiCountLimitForOrg");
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
    let got = call(&sandbox, "GET", "/sandbox/log", None, "").await.json();
    let told = got.as_array().expect("a list").iter();
    let told: Vec<_> = told.map(|call| [&call["key"], &call["outcome"]]).collect();
    let expected = json!([
        ["b", "ok"],
        ["sb:code=bot.stopped;c", "bot.stopped"],
        ["d", "ok"]
    ]);
    assert_eq!(json!(told), expected);
    assert_eq!(sandbox.counts().queries, 4);
    let call = &sandbox.calls_after(0)[0];
    assert_eq!(
        (&*call.path, &*call.caller, call.page),
        (PRIVATE, "sandbox", 1)
    );
}

#[tokio::test]
async fn another_process_sets_messages_up_and_asks_for_the_truth() {
    let (sandbox, token) = sandbox().await;
    let messages = r#"[{"key":"a","chat":"private","readers":[{"userId":"ann","afterMs":0},{"userId":"bob"}]},
        {"key":"b","rule":"recall=0s"}]"#;
    let got = call(&sandbox, "PUT", "/sandbox/messages", None, messages).await;
    assert_eq!(got.json(), json!({ "published": 2 }));
    assert_eq!(ask(&sandbox, &token, "a").await.readers(), ["ann"]);
    // A key that was sent to a private chat is none of a group.
    let got = post(&sandbox, GROUP, &token, &json!({ "processQueryKey": "a" })).await;
    assert_eq!(got.code(), "invalid.processQueryKey");
    let got = ask(&sandbox, &token, "b").await.json();
    assert_eq!(got["sendStatus"], "RECALLED");
    let truth = call(&sandbox, "GET", "/sandbox/truth", None, "")
        .await
        .json();
    let truth = truth.as_array().expect("a list").iter();
    let of_a: Vec<&Value> = truth.filter(|one| one["key"] == "a").collect();
    assert_eq!(of_a[0]["readers"][0]["userId"], "ann");
    assert_eq!(of_a[0]["readers"][0]["readAt"], of_a[0]["sentAt"]);
    assert_eq!(of_a[0]["absent"], json!(["bob"]));
    for wrong in [
        r#"{"key":"c","rule":"recall=x"}"#,
        r#"{"kee":"c"}"#,
        "[1]",
        "",
    ] {
        let got = call(&sandbox, "PUT", "/sandbox/messages", None, wrong).await;
        assert_eq!(got.status, 400, "{wrong}");
    }
    let counts = call(&sandbox, "GET", "/sandbox/counts", None, "").await;
    assert_eq!(counts.json()["metered"], 3);
    let none = call(&sandbox, "GET", "/sandbox/violations", None, "").await;
    assert_eq!(none.body, "[]");
}
