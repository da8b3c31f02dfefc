//! Good answers, refusals, and the life of a message.

use std::collections::BTreeSet;
use std::time::Duration;

use receiptd::sandbox::{CODES, Recipient, Sandbox, SandboxConfig, Script};
use serde_json::{Value, json};

use super::http::{GROUP, PRIVATE, STATUS, ask, call, post, sandbox, token, walk};

fn read_by(users: &[&str]) -> Script {
    let reader = |user: &&str| Recipient {
        user_id: (*user).into(),
        reads_after: Some(Duration::ZERO),
    };
    Script {
        recipients: Some(users.iter().map(reader).collect()),
        ..Script::default()
    }
}

#[tokio::test]
async fn a_page_has_the_vendors_bytes() {
    let (sandbox, token) = sandbox().await;
    sandbox.publish("k", read_by(&["manager123", "ann"]));
    let got = ask(&sandbox, &token, "k").await;
    let start = r#"{"sendStatus":"SUCCESS","readUserIds":["manager123","ann"],"#;
    assert!(
        got.body.starts_with(start) && got.body.ends_with(r#""hasMore":false}"#),
        "{got:?}"
    );
    assert!(
        got.whole && got.head.contains("content-type: application/json"),
        "{got:?}"
    );
    let asked = json!({ "processQueryKey": "k", "maxResults": 1 });
    let got = post(&sandbox, PRIVATE, &token, &asked).await;
    let next = got.json()["nextToken"]
        .as_str()
        .expect("a token")
        .to_owned();
    assert!(
        ['+', '/', '='].iter().all(|mark| next.contains(*mark)),
        "{next}"
    );
    let whole = format!(
        r#"{{"sendStatus":"SUCCESS","readUserIds":["manager123"],"nextToken":"{next}","hasMore":true}}"#
    );
    assert_eq!(got.body, whole);
    let got = post(&sandbox, GROUP, &token, &json!({ "processQueryKey": "k" })).await;
    assert_eq!(got.json()["readUsers"][1]["userId"], "ann");
    assert!(got.json()["readUsers"][1]["unionId"].is_string());
    assert_eq!(sandbox.violations(), []);
}

#[tokio::test]
async fn every_page_together_names_every_reader_once() {
    let (sandbox, token) = sandbox().await;
    let users: BTreeSet<String> = (0..950).map(|n| format!("u{n}")).collect();
    let named: Vec<&str> = users.iter().map(String::as_str).collect();
    for key in ["a", "b", "c"] {
        sandbox.publish(key, read_by(&named));
        let (status, readers, sizes) = walk(&sandbox, &token, GROUP, key, 100).await;
        assert_eq!((&*status, readers.len()), ("SUCCESS", 950));
        assert!(sizes.iter().all(|size| *size <= 100), "{sizes:?}");
        assert_eq!(readers.into_iter().collect::<BTreeSet<_>>(), users);
    }
    assert_eq!(sandbox.violations(), []);
}

#[tokio::test]
async fn every_code_comes_with_its_status() {
    let (sandbox, token) = sandbox().await;
    let mut first = BTreeSet::new();
    for code in CODES {
        let got = ask(&sandbox, &token, &format!("sb:code={};x", code.code)).await;
        assert_eq!((got.status, &*got.code()), (code.status, code.code));
        assert!(got.json()["requestid"].is_string() && got.json()["message"].is_string());
        first.insert(got.body.split(':').next().unwrap_or_default().to_owned());
        let got = ask(&sandbox, &token, &format!("sb:code={}/418;x", code.code)).await;
        assert_eq!((got.status, &*got.code()), (418, code.code));
    }
    // The order of the fields varies, and one code brings a field of its own.
    assert_eq!(first.len(), 3, "{first:?}");
    let denied = "Forbidden.AccessDenied.AccessTokenPermissionDenied";
    let got = ask(&sandbox, &token, &format!("sb:code={denied};y")).await;
    let scopes = &got.json()["accessdenieddetail"]["requiredScopes"];
    assert_eq!(scopes[0], "qyapi_robot_sendmsg");
    let got = ask(&sandbox, &token, "sb:recall=often;x").await;
    assert_eq!(got.code(), "invalid.processQueryKey");
    assert!(got.body.contains("recall=often"), "{got:?}");
}

#[tokio::test]
async fn a_message_lives_its_life_as_fast_as_told() {
    let config = SandboxConfig {
        time_scale: 10.0,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    let rule = "generate=100s,processing=200s,recall=10000s,expire=20000s";
    let reader = |user: &str, after| Recipient {
        user_id: user.into(),
        reads_after: Some(Duration::from_secs(after)),
    };
    // Nobody reads before the delivery, nor after the recall.
    let recipients = vec![
        reader("early", 10),
        reader("late", 1_000),
        reader("never", 15_000),
    ];
    let script = Script::parse(rule).expect("a rule");
    let recipients = Some(recipients);
    sandbox.publish(
        "k",
        Script {
            recipients,
            ..script
        },
    );
    let mut answers = Vec::new();
    for step in [0, 15, 10, 100, 1_000, 1_000] {
        sandbox.advance(Duration::from_secs(step));
        let got = ask(&sandbox, &token, "k").await;
        answers.push(match got.status {
            200 => format!("{} {}", got.json()["sendStatus"], got.readers().join(",")),
            _ => got.code(),
        });
    }
    let expected = [
        "processQueryKey.expireTime",
        "\"PROCESSING\" ",
        "\"SUCCESS\" early",
        "\"SUCCESS\" early,late",
        "\"RECALLED\" early,late",
        "processQueryKey.expireTime",
    ];
    assert_eq!(answers, expected);
    let truth = sandbox.truth("k").expect("it was published");
    let after = |seconds| truth.sent_at + Duration::from_secs(seconds);
    assert_eq!(truth.readers[0].read_at, after(20));
    assert_eq!(truth.readers.len(), 2);
    assert_eq!(truth.absent, ["never"]);
    assert_eq!(
        (truth.recalled_at, truth.expires_at),
        (Some(after(1_000)), after(2_000))
    );
}

/// A message is as old as its key says, not as its first call is.
#[tokio::test]
async fn a_key_counts_as_sent_when_it_was() {
    let (sandbox, token) = sandbox().await;
    let key = |age: i64| {
        let sent = sandbox.now().0 - age;
        format!("sb:readers=9,never=0,median=10s,sigma=0,sent={sent};x")
    };
    assert_eq!(ask(&sandbox, &token, &key(60_000)).await.readers().len(), 9);
    assert_eq!(ask(&sandbox, &token, &key(1_000)).await.readers().len(), 0);
}

#[tokio::test]
async fn an_unknown_keys_crowd_follows_from_the_seed_and_the_usual_rule() {
    let mut crowds = Vec::new();
    for seed in [1, 1, 2] {
        let config = SandboxConfig {
            seed,
            usual: Script::parse("median=0s").expect("a rule"),
            ..SandboxConfig::default()
        };
        let sandbox = Sandbox::start(config).await.expect("a free port");
        let token = token(&sandbox).await;
        crowds.push(walk(&sandbox, &token, GROUP, "anything", 200).await.1);
        let own = walk(&sandbox, &token, GROUP, "sb:readers=300,never=0;x", 200).await;
        assert_eq!(own.1.len(), 300);
    }
    assert!(!crowds[0].is_empty());
    assert_eq!(crowds[0], crowds[1]);
    assert_ne!(crowds[0], crowds[2]);
}

#[tokio::test]
async fn read_status_tells_of_all_who_got_it_and_when_in_any_unit() {
    let (sandbox, token) = sandbox().await;
    let mut told = Vec::new();
    for unit in ["s", "ms", "zero", "absent"] {
        let rule = format!("readers=25,never=0.5,median=0s,read_unit={unit}");
        sandbox.publish("k+/=", Script::parse(&rule).expect("a rule"));
        let path = format!("{STATUS}?robotCode=r&processQueryKey=k%2B%2F%3D");
        let got = call(&sandbox, "GET", &path, Some(&token), "").await.json();
        let list = got["messageReadInfoList"].as_array().expect("a list");
        assert_eq!(list.len(), 20);
        let of = |status| list.iter().filter(move |one| one["readStatus"] == status);
        assert!(of("READ").count() > 3 && of("UNREAD").count() > 3);
        assert!(of("UNREAD").all(|one| one.get("readTimestamp").is_none_or(|at| *at == 0)));
        told.push(of("READ").next().expect("a reader")["readTimestamp"].clone());
    }
    let ms = told[1].as_i64().expect("a time");
    assert!((told[0].as_i64().expect("a time") - ms / 1_000).abs() < 60);
    assert_eq!(told[2..], [json!(0), Value::Null]);
    assert_eq!(sandbox.violations(), []);
    for query in [
        "robotCode=r&processQueryKey=k+/=",
        "processQueryKey=k",
        "robotCode=r",
        "robotCode=&processQueryKey=k",
        "robotCode=r&processQueryKey=k&x=1",
    ] {
        let before = sandbox.violations().len();
        let got = call(
            &sandbox,
            "GET",
            &format!("{STATUS}?{query}"),
            Some(&token),
            "",
        )
        .await;
        assert_eq!(got.status, 400, "{query}");
        assert_eq!(sandbox.violations().len(), before + 1, "{query}");
    }
}

#[tokio::test]
async fn a_clients_probe_is_no_violation() {
    let sandbox = Sandbox::start(SandboxConfig::default())
        .await
        .expect("a free port");
    let got = call(&sandbox, "GET", "/", None, "").await;
    assert!(got.status == 404 && got.head.contains("date: "), "{got:?}");
    assert_eq!(sandbox.violations(), []);
    let got = call(&sandbox, "POST", "/v2.0/other", None, "{}").await;
    assert_eq!((got.status, &got.json()["errcode"]), (200, &json!(404)));
    assert_eq!(sandbox.violations().len(), 1);
}

#[tokio::test]
async fn what_the_interface_does_not_allow_is_noted() {
    let (sandbox, token) = sandbox().await;
    sandbox.publish("k", read_by(&["a", "b", "c"]));
    let cases = [
        (
            json!({ "maxResults": 0 }),
            "invalidParameter.pageSize.invalid",
        ),
        (
            json!({ "maxResults": 201 }),
            "invalidParameter.pageSize.invalid",
        ),
        (
            json!({ "maxResults": "5" }),
            "invalidParameter.param.invalid",
        ),
        (
            json!({ "nextToken": "forged+/=" }),
            "invalidParameter.cursor.invalid",
        ),
        (
            json!({ "processQueryKey": "" }),
            "invalidParameter.param.invalid",
        ),
        (json!({ "robotCode": "" }), "invalidParameter.param.invalid"),
        (
            json!({ "openConversationId": null }),
            "invalidParameter.param.invalid",
        ),
        (json!({ "cursor": 1 }), "invalidParameter.param.invalid"),
    ];
    let mut noted = 0;
    for (change, code) in cases {
        let mut asked = json!({ "processQueryKey": "k" });
        for (name, value) in change.as_object().expect("an object") {
            asked[name] = value.clone();
        }
        let got = post(&sandbox, PRIVATE, &token, &asked).await;
        assert_eq!(got.code(), code, "{asked}");
        noted += 1;
        assert_eq!(sandbox.violations().len(), noted, "{asked}");
    }
    let nothing = post(&sandbox, PRIVATE, &token, &json!({})).await;
    assert_eq!(nothing.code(), "invalidParameter.processQueryKey.missing");
    let dead = "InvalidAuthentication";
    assert_eq!(ask(&sandbox, "made-up", "k").await.code(), dead);
    assert_eq!(ask(&sandbox, "", "k").await.code(), dead);
    let got = call(&sandbox, "POST", PRIVATE, Some(&token), "no JSON").await;
    assert_eq!(got.code(), "invalidParameter.param.invalid");
    let violations = sandbox.violations();
    assert_eq!(violations.len(), noted + 4);
    assert!(violations.iter().all(|one| !one.what.contains(&token)));
}
