//! What goes wrong on request, and by a seed.

use std::time::{Duration, Instant};

use receiptd::sandbox::{FaultPlan, Mischief, Sandbox, SandboxConfig};
use serde_json::json;

use crate::http::{GROUP, Got, PRIVATE, ask, call, post, token, walk};

async fn sandbox() -> (Sandbox, String) {
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("a free port");
    let token = token(&sandbox).await;
    (sandbox, token)
}

async fn meet(rule: &str) -> Got {
    let (sandbox, token) = sandbox().await;
    let key = format!("sb:readers=20,never=0,median=0s,{rule};x");
    let got = post(&sandbox, GROUP, &token, &json!({ "processQueryKey": key })).await;
    assert_eq!(sandbox.violations(), [], "{rule}");
    assert_eq!(sandbox.counts().faults, 1, "{rule}");
    got
}

#[tokio::test]
async fn connections_end_where_told() {
    let got = meet("drop=before").await;
    assert_eq!((got.status, got.body.len()), (0, 0));
    let got = meet("drop=after-head").await;
    assert_eq!(
        (got.status, got.body.len(), got.whole),
        (200, 0, false),
        "{got:?}"
    );
    let got = meet("drop=mid-body").await;
    assert!(
        got.status == 200 && !got.body.is_empty() && !got.whole,
        "{got:?}"
    );
    let before = Instant::now();
    let got = meet("hang=200ms").await;
    assert!(got.status == 0 && before.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn bodies_are_odd_as_told() {
    let got = meet("truncate").await;
    assert!(
        got.whole && serde_json::from_str::<serde_json::Value>(&got.body).is_err(),
        "{got:?}"
    );
    let got = meet("huge").await;
    assert!(got.whole && got.body.len() > 2 << 20 && got.readers().len() == 20);
    let got = meet("endless").await;
    assert!(!got.whole && got.body.len() > 32 << 20);
    let before = Instant::now();
    let got = meet("slow=200ms").await;
    assert!(
        got.whole && got.readers().len() == 20 && before.elapsed() >= Duration::from_millis(200)
    );
    let got = meet("html").await;
    assert!(got.status == 503 && got.body.starts_with('<') && got.head.contains("text/html"));
    assert_eq!(meet("html-ok").await.status, 200);
    assert_eq!(meet("empty-object").await.body, "{}");
    let got = meet("empty-body").await;
    assert!(
        got.whole && got.body.is_empty() && got.status == 200,
        "{got:?}"
    );
    assert_eq!(meet("errcode404").await.json()["errcode"], 404);
    assert_eq!(meet("banned").await.json()["status"], 1111);
    assert_eq!(meet("bare401").await.status, 401);
    assert_eq!(meet("fields=null").await.json()["sendStatus"], json!(null));
    assert_eq!(
        meet("fields=missing").await.body,
        r#"{"sendStatus":"SUCCESS"}"#
    );
    assert_eq!(
        meet("fields=no-status").await.json()["sendStatus"],
        json!(null)
    );
    assert!(meet("fields=wrong").await.json()["hasMore"].is_string());
    let got = meet("fields=extra").await;
    assert!(got.readers().len() == 20 && got.json()["ext"].is_object());
}

#[tokio::test]
async fn paging_lies_as_told() {
    let got = meet("page=no-token").await;
    assert!(got.json()["hasMore"] == true && got.json().get("nextToken").is_none());
    assert_eq!(
        meet("page=bad-cursor").await.code(),
        "invalidParameter.cursor.invalid"
    );
    assert_eq!(
        meet("page=too-large").await.code(),
        "invalidParameter.pageSize.invalid"
    );

    let (sandbox, token) = sandbox().await;
    let key = "sb:readers=20,never=0,median=0s,page=repeat;x";
    let mut asked = json!({ "processQueryKey": key });
    let first = post(&sandbox, GROUP, &token, &asked).await.json()["nextToken"].clone();
    for _ in 0..3 {
        asked["nextToken"] = first.clone();
        let got = post(&sandbox, GROUP, &token, &asked).await;
        assert_eq!(
            (&got.json()["nextToken"], &got.json()["hasMore"]),
            (&first, &json!(true))
        );
    }
    let key = "sb:readers=20,never=0,median=0s,page=empty*2;x";
    let (_, readers, sizes) = walk(&sandbox, &token, GROUP, key, 200).await;
    assert_eq!((readers.len(), sizes), (20, vec![0, 0, 20]));
    assert_eq!(sandbox.violations(), []);
}

#[tokio::test]
async fn a_redirect_that_is_followed_is_a_violation() {
    let (sandbox, token) = sandbox().await;
    let got = ask(&sandbox, &token, "sb:redirect;x").await;
    assert_eq!(got.status, 302);
    let to = got
        .head
        .lines()
        .find_map(|line| line.strip_prefix("location: http://"))
        .expect("a place");
    let (host, path) = to.split_once('/').expect("a path");
    assert_ne!(host, sandbox.addr().to_string());
    let mut stream = tokio::net::TcpStream::connect(host)
        .await
        .expect("the trap listens");
    let followed = format!(
        "GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nx-acs-dingtalk-access-token: {token}\r\n\r\n"
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, followed.as_bytes())
        .await
        .expect("written");
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)
        .await
        .expect("answered");
    assert_eq!(
        sandbox.violations()[0].what,
        "a redirect was followed, and the token came along"
    );
}

#[tokio::test]
async fn faults_count_down_and_keep_to_their_page() {
    let (sandbox, token) = sandbox().await;
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(
            ask(&sandbox, &token, "sb:code=system.error*3,html*2;x")
                .await
                .status,
        );
    }
    assert_eq!(statuses, [500, 500, 500, 503, 503, 200, 200]);

    let key = "sb:readers=20,never=0,median=0s,code=system.error@2*1;x";
    let asked = json!({ "processQueryKey": key, "maxResults": 10 });
    let first = post(&sandbox, GROUP, &token, &asked).await;
    let mut asked = asked;
    asked["nextToken"] = first.json()["nextToken"].clone();
    assert_eq!(post(&sandbox, GROUP, &token, &asked).await.status, 500);
    assert_eq!(post(&sandbox, GROUP, &token, &asked).await.status, 200);
}

#[tokio::test]
async fn a_dead_token_is_really_dead() {
    let (sandbox, first) = sandbox().await;
    assert_eq!(
        ask(&sandbox, &first, "sb:dead-token*1;x").await.code(),
        "InvalidAuthentication"
    );
    assert_eq!(
        ask(&sandbox, &first, "other").await.code(),
        "InvalidAuthentication"
    );
    let second = token(&sandbox).await;
    assert_eq!(
        ask(&sandbox, &second, "sb:dead-token*1;x").await.status,
        200
    );
    assert_eq!(sandbox.violations(), []);
}

/// What the calls of some keys met, by a seed.
async fn history(seed: u64) -> Vec<(String, String)> {
    let kinds = [
        "code=system.error",
        "html",
        "drop=before",
        "drop=mid-body",
        "truncate",
        "redirect",
    ];
    let rates = kinds.map(|kind| (Mischief::parse(kind).expect("known").expect("right"), 0.08));
    let plan = FaultPlan {
        seed,
        rates: rates.to_vec(),
        tokens_too: false,
        ..FaultPlan::default()
    };
    let config = SandboxConfig {
        faults: Some(plan),
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    for n in 0..120 {
        ask(&sandbox, &token, &format!("key{}", n % 10)).await;
    }
    let calls = sandbox
        .calls_after(0)
        .into_iter()
        .filter(|call| !call.key.is_empty());
    calls.map(|call| (call.key, call.outcome)).collect()
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let first = history(11).await;
    assert!(
        first.iter().filter(|(_, outcome)| outcome != "ok").count() > 10,
        "{first:?}"
    );
    assert_eq!(first, history(11).await);
    assert_ne!(first, history(12).await);
}

#[tokio::test]
async fn faults_and_outages_come_and_go_while_it_runs() {
    let (sandbox, token) = sandbox().await;
    let faults = r#"{"seed":3,"rates":{"html":1.0},"inARow":1}"#;
    assert_eq!(
        call(&sandbox, "POST", "/sandbox/faults", None, faults)
            .await
            .status,
        200
    );
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&sandbox, &token, "k").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 503, 503]);
    assert_eq!(
        call(&sandbox, "POST", "/sandbox/faults", None, "null")
            .await
            .status,
        200
    );
    let outage = r#"{"for":"1h","kind":"code=ServiceUnavailable"}"#;
    assert_eq!(
        call(&sandbox, "POST", "/sandbox/outage", None, outage)
            .await
            .status,
        200
    );
    assert_eq!(
        ask(&sandbox, &token, "k").await.code(),
        "ServiceUnavailable"
    );
    assert_eq!(
        call(&sandbox, "POST", "/sandbox/outage", None, r#"{"for":"0s"}"#)
            .await
            .status,
        200
    );
    assert_eq!(
        post(
            &sandbox,
            PRIVATE,
            &token,
            &json!({ "processQueryKey": "k" })
        )
        .await
        .status,
        200
    );
    let wrong = r#"{"rates":{"nonsense":0.5}}"#;
    assert_eq!(
        call(&sandbox, "POST", "/sandbox/faults", None, wrong)
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_stop_ends_calls_that_hang() {
    let (sandbox, token) = sandbox().await;
    let addr = sandbox.addr();
    let asked = json!({ "processQueryKey": "sb:hang=1h;x" }).to_string();
    let mut stream = tokio::net::TcpStream::connect(addr)
        .await
        .expect("the sandbox listens");
    let request = format!(
        "POST {PRIVATE} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         x-acs-dingtalk-access-token: {token}\r\ncontent-length: {}\r\n\r\n{asked}",
        asked.len()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
        .await
        .expect("written");
    let began = Instant::now();
    while sandbox.counts().queries == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "the call never arrived"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sandbox.stop().await;
    assert!(
        tokio::net::TcpStream::connect(addr).await.is_err(),
        "it still listens"
    );
}

#[tokio::test]
async fn no_figure_in_a_key_is_too_large() {
    let config = SandboxConfig {
        time_scale: 1e6,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    let rules = [
        "sent=-9223372036854775808",
        "sent=9223372036854775807",
        "median=500000000000y,sigma=1e300",
        "recall=500000000000y,expire=500000000000y",
        "never=NaN,sigma=NaN",
        "readers=4294967295",
    ];
    for rule in rules {
        let got = ask(&sandbox, &token, &format!("sb:{rule};x")).await;
        assert!(matches!(got.status, 200 | 400), "{rule}: {got:?}");
    }
    assert_eq!(sandbox.truths().len(), rules.len());
}
