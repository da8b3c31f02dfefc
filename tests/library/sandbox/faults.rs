//! What goes wrong on request, and by a seed.

use std::time::{Duration, Instant};

use receiptd::sandbox::{FaultPlan, Mischief, Sandbox, SandboxConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::http::{GROUP, Got, ask, post, request, sandbox, token};

/// What a group's page is like when this goes wrong with it, and whether it counts against the month.
async fn meet(rule: &str) -> (Got, bool) {
    let (sandbox, token) = sandbox().await;
    let key = format!("sb:readers=20,never=0,median=0s,{rule};x");
    let got = post(&sandbox, GROUP, &token, &json!({ "processQueryKey": key })).await;
    assert_eq!(sandbox.violations(), [], "{rule}");
    let counts = sandbox.counts();
    assert_eq!((counts.queries, counts.faults), (1, 1), "{rule}");
    let metered = sandbox.calls_after(0).pop().expect("a call").metered;
    assert_eq!(counts.metered, u64::from(metered), "{rule}");
    (got, metered)
}

type Holds = fn(&Got) -> bool;

#[tokio::test]
async fn answers_go_wrong_as_told_and_count_where_they_arrived() {
    let table: &[(&str, u16, bool, Holds)] = &[
        ("drop=before", 0, true, |got| got.body.is_empty()),
        ("hang=50ms", 0, true, |got| got.body.is_empty()),
        ("drop=after-head", 200, true, |got| {
            got.body.is_empty() && !got.whole
        }),
        ("drop=mid-body", 200, true, |got| {
            !got.body.is_empty() && !got.whole
        }),
        ("slow=50ms", 200, true, |got| {
            got.whole && got.readers().len() == 20
        }),
        ("huge", 200, true, |got| {
            got.whole && got.body.len() > 2 << 20 && got.readers().len() == 20
        }),
        ("endless", 200, true, |got| {
            !got.whole && got.body.len() > 32 << 20
        }),
        ("page=no-token", 200, true, |got| {
            got.json()["hasMore"] == true && got.json().get("nextToken").is_none()
        }),
        ("code=bot.stopped", 400, true, |got| {
            got.code() == "bot.stopped"
        }),
        ("dead-token", 400, true, |got| {
            got.code() == "InvalidAuthentication"
        }),
        ("page=bad-cursor", 400, true, |got| {
            got.code() == "invalidParameter.cursor.invalid"
        }),
        ("throttle", 403, false, |got| {
            got.code().contains("QpsLimit")
        }),
        (
            "code=Forbidden.AccessDenied.QpmLimitForApi",
            403,
            false,
            |got| got.code().contains("Qpm"),
        ),
        ("truncate", 200, false, |got| {
            got.whole && !got.body.is_empty() && !got.body.ends_with('}')
        }),
        ("html", 503, false, |got| {
            got.body.starts_with('<') && got.head.contains("text/html")
        }),
        ("html-ok", 200, false, |got| got.body.starts_with('<')),
        ("empty-object", 200, false, |got| got.body == "{}"),
        ("empty-body", 200, false, |got| {
            got.whole && got.body.is_empty()
        }),
        ("errcode404", 200, false, |got| got.json()["errcode"] == 404),
        ("banned", 200, false, |got| got.json()["status"] == 1111),
        ("bare401", 401, false, |got| got.body.is_empty()),
        ("redirect", 302, false, |got| {
            got.head.contains("location: http://")
        }),
        ("fields=null", 200, false, |got| {
            got.json()["readUserIds"].is_null()
        }),
        ("fields=no-status", 200, false, |got| {
            got.json().get("sendStatus").is_none()
        }),
    ];
    for (rule, status, metered, holds) in table {
        let (got, counted) = meet(rule).await;
        assert_eq!((got.status, counted), (*status, *metered), "{rule}");
        assert!(holds(&got), "{rule}: {got:.300?}");
    }
}

#[tokio::test]
async fn a_page_that_is_repeated_is_so_for_ever() {
    let (sandbox, token) = sandbox().await;
    let mut asked = json!({ "processQueryKey": "sb:readers=20,never=0,median=0s,page=repeat;x" });
    let first = post(&sandbox, GROUP, &token, &asked).await.json()["nextToken"].clone();
    for _ in 0..3 {
        asked["nextToken"] = first.clone();
        let got = post(&sandbox, GROUP, &token, &asked).await.json();
        assert_eq!((&got["nextToken"], &got["hasMore"]), (&first, &json!(true)));
    }
    assert_eq!(sandbox.violations(), []);
}

#[tokio::test]
async fn a_redirect_that_is_followed_is_a_violation() {
    let (sandbox, token) = sandbox().await;
    let head = ask(&sandbox, &token, "sb:redirect;x").await.head;
    let mut lines = head.lines();
    let to = lines.find_map(|line| line.strip_prefix("location: http://"));
    let (host, path) = to.and_then(|to| to.split_once('/')).expect("a place");
    assert_ne!(host, sandbox.addr().to_string());
    let mut stream = TcpStream::connect(host).await.expect("the trap listens");
    let followed = request("GET", &format!("/{path}"), Some(&token), "");
    stream
        .write_all(followed.as_bytes())
        .await
        .expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    let noted = &sandbox.violations()[0].what;
    assert_eq!(noted, "a redirect was followed, and the token came along");
}

#[tokio::test]
async fn faults_count_down_and_keep_to_their_page() {
    let (sandbox, token) = sandbox().await;
    let mut statuses = Vec::new();
    for _ in 0..7 {
        let key = "sb:code=system.error*3,html*2;x";
        statuses.push(ask(&sandbox, &token, key).await.status);
    }
    assert_eq!(statuses, [500, 500, 500, 503, 503, 200, 200]);
    let key = "sb:readers=20,never=0,median=0s,code=system.error@2*1;x";
    let mut asked = json!({ "processQueryKey": key, "maxResults": 10 });
    let first = post(&sandbox, GROUP, &token, &asked).await;
    asked["nextToken"] = first.json()["nextToken"].clone();
    assert_eq!(post(&sandbox, GROUP, &token, &asked).await.status, 500);
    assert_eq!(post(&sandbox, GROUP, &token, &asked).await.status, 200);
}

#[tokio::test]
async fn a_dead_token_is_really_dead() {
    let (sandbox, first) = sandbox().await;
    for key in ["sb:dead-token*1;x", "other"] {
        let got = ask(&sandbox, &first, key).await;
        assert_eq!(got.code(), "InvalidAuthentication");
    }
    let second = token(&sandbox).await;
    let got = ask(&sandbox, &second, "sb:dead-token*1;x").await;
    assert_eq!(got.status, 200);
    assert_eq!(sandbox.violations(), []);
}

/// What the calls of some keys met, by a seed.
async fn history(seed: u64) -> Vec<(String, String)> {
    let kinds = [
        "code=system.error",
        "html",
        "drop=before",
        "drop=mid-body",
        "redirect",
    ];
    let rates = kinds.map(|kind| (Mischief::parse(kind).expect("known").expect("right"), 0.1));
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
    let calls = sandbox.calls_after(1).into_iter();
    calls.map(|call| (call.key, call.outcome)).collect()
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let first = history(11).await;
    let failed = first.iter().filter(|(_, outcome)| outcome != "ok");
    assert!(failed.count() > 10, "{first:?}");
    assert_eq!(first, history(11).await);
    assert_ne!(first, history(12).await);
}

#[tokio::test]
async fn a_stop_ends_calls_that_hang() {
    let (sandbox, token) = sandbox().await;
    let addr = sandbox.addr();
    let asked = json!({ "processQueryKey": "sb:hang=1h;x" }).to_string();
    let mut stream = TcpStream::connect(addr).await.expect("the sandbox listens");
    let request = request("POST", GROUP, Some(&token), &asked);
    stream.write_all(request.as_bytes()).await.expect("written");
    let began = Instant::now();
    while sandbox.counts().queries == 0 {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "the call never arrived"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sandbox.stop().await;
    assert!(TcpStream::connect(addr).await.is_err(), "it still listens");
}

#[tokio::test]
async fn no_figure_in_a_key_is_too_large() {
    let config = SandboxConfig {
        time_scale: 1e6,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    for rule in [
        "sent=-9223372036854775808",
        "sent=9223372036854775807",
        "median=500000000000y,sigma=1e300",
        "recall=500000000000y,expire=500000000000y",
        "never=NaN,sigma=NaN",
        "readers=4294967295",
    ] {
        let got = ask(&sandbox, &token, &format!("sb:{rule};x")).await;
        assert!(matches!(got.status, 200 | 400), "{rule}: {got:?}");
    }
}
