//! Good answers, refusals, and the life of a message.

use std::time::Duration;

use receiptd::receipt::Chat;
use receiptd::sandbox::{CODES, CrowdRules, Recipient, Sandbox, SandboxConfig, Script};
use serde_json::json;

use crate::http::{GROUP, PRIVATE, ask, call, post, token, walk};

async fn sandbox() -> Sandbox {
    Sandbox::start(SandboxConfig::default())
        .await
        .expect("a free port")
}

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
    let sandbox = sandbox().await;
    let token = token(&sandbox).await;
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
        next.contains('+') && next.contains('/') && next.contains('='),
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
    let sandbox = sandbox().await;
    let token = token(&sandbox).await;
    let users: Vec<String> = (0..950).map(|n| format!("u{n}")).collect();
    let users: Vec<&str> = users.iter().map(String::as_str).collect();
    for key in ["a", "b", "c"] {
        sandbox.publish(key, read_by(&users));
        let (status, mut readers, sizes) = walk(&sandbox, &token, GROUP, key, 100).await;
        assert_eq!(status, "SUCCESS");
        assert!(
            sizes.iter().all(|size| *size <= 100) && sizes.len() >= 10,
            "{sizes:?}"
        );
        readers.sort();
        let mut all = users.clone();
        all.sort_unstable();
        assert_eq!(readers, all);
    }
    assert_eq!(sandbox.violations(), []);
}

#[tokio::test]
async fn every_code_comes_with_its_status() {
    let sandbox = sandbox().await;
    let token = token(&sandbox).await;
    for code in CODES {
        let got = ask(&sandbox, &token, &format!("sb:code={};x", code.code)).await;
        assert_eq!(
            (got.status, got.code().as_str()),
            (code.status, code.code),
            "{got:?}"
        );
        assert!(got.json()["requestid"].is_string() && got.json()["message"].is_string());
        let got = ask(
            &sandbox,
            &token,
            &format!("sb:code={},status=418;x", code.code),
        )
        .await;
        assert_eq!((got.status, got.code().as_str()), (418, code.code));
    }
    let denied = "Forbidden.AccessDenied.AccessTokenPermissionDenied";
    let got = ask(&sandbox, &token, &format!("sb:code={denied};y")).await;
    assert_eq!(
        got.json()["accessdenieddetail"]["requiredScopes"][0],
        "qyapi_robot_sendmsg"
    );
    let got = ask(&sandbox, &token, "sb:pascal=bot.stopped;x").await;
    assert_eq!(
        (got.status, &got.json()["Code"]),
        (400, &json!("bot.stopped"))
    );
    let got = ask(&sandbox, &token, "sb:recall=often;x").await;
    assert_eq!(got.code(), "invalid.processQueryKey");
    assert!(got.body.contains("recall=often"), "{got:?}");
    assert_eq!(
        call(&sandbox, "POST", "/v2.0/other", None, "{}")
            .await
            .json()["errcode"],
        404
    );
}

#[tokio::test]
async fn the_order_of_an_errors_fields_varies() {
    let sandbox = sandbox().await;
    let token = token(&sandbox).await;
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..30 {
        let body = ask(&sandbox, &token, "sb:code=bot.stopped;x").await.body;
        first.insert(body.split(':').next().unwrap_or_default().to_owned());
    }
    assert_eq!(first.len(), 2, "{first:?}");
}

#[tokio::test]
async fn a_message_lives_its_life() {
    let sandbox = sandbox().await;
    let token = token(&sandbox).await;
    let rule = "generate=10s,processing=20s,recall=1000s,expire=2000s";
    let reader = |user: &str, after| Recipient {
        user_id: user.into(),
        reads_after: Some(Duration::from_secs(after)),
    };
    // Nobody reads before the delivery, nor after the recall.
    let recipients = Some(vec![
        reader("early", 1),
        reader("late", 100),
        reader("never", 1_500),
    ]);
    sandbox.publish(
        "k",
        Script {
            recipients,
            ..Script::parse(rule).expect("a rule")
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
    let readers: Vec<&str> = truth
        .readers
        .iter()
        .map(|reader| reader.user_id.as_str())
        .collect();
    assert_eq!(
        (truth.final_status.as_str(), readers),
        ("RECALLED", vec!["early", "late"])
    );
    assert_eq!(
        truth.readers[0].read_at,
        truth.sent_at + Duration::from_secs(20)
    );
    assert_eq!(truth.absent, ["never"]);
}

#[tokio::test]
async fn time_runs_faster_for_messages() {
    let config = SandboxConfig {
        time_scale: 1_440.0,
        ..SandboxConfig::default()
    };
    let sandbox = Sandbox::start(config).await.expect("a free port");
    let token = token(&sandbox).await;
    sandbox.publish("k", Script::parse("recall=12h").expect("a rule"));
    sandbox.advance(Duration::from_secs(31));
    assert_eq!(
        ask(&sandbox, &token, "k").await.json()["sendStatus"],
        "RECALLED"
    );
    let truth = sandbox.truth("k").expect("it was published");
    assert_eq!(
        truth.recalled_at,
        Some(truth.sent_at + Duration::from_secs(30))
    );
}

#[tokio::test]
async fn an_unknown_keys_crowd_follows_from_the_seed() {
    let crowd = CrowdRules {
        median: Duration::ZERO,
        ..CrowdRules::default()
    };
    let mut crowds = Vec::new();
    for seed in [1, 1, 2] {
        let config = SandboxConfig {
            seed,
            crowd,
            ..SandboxConfig::default()
        };
        let sandbox = Sandbox::start(config).await.expect("a free port");
        let token = token(&sandbox).await;
        crowds.push(walk(&sandbox, &token, GROUP, "anything", 200).await.1);
        let count = walk(&sandbox, &token, GROUP, "sb:readers=300,never=0;x", 200)
            .await
            .1
            .len();
        assert_eq!(count, 300);
    }
    assert!(!crowds[0].is_empty());
    assert_eq!(crowds[0], crowds[1]);
    assert_ne!(crowds[0], crowds[2]);
}

#[tokio::test]
async fn a_message_may_ask_for_its_robot_conversation_owner_and_chat() {
    let sandbox = sandbox().await;
    let token = token(&sandbox).await;
    let rule = "robot=bot,conversation=cid,owner=sandbox,chat=group";
    sandbox.publish(
        "k",
        Script {
            chat: Some(Chat::Group),
            ..Script::parse(rule).expect("a rule")
        },
    );
    let cases = [
        (
            PRIVATE,
            json!({ "robotCode": "bot", "openConversationId": "cid" }),
            "invalid.processQueryKey",
        ),
        (GROUP, json!({}), "invalidParameter.robotCode.missing"),
        (
            GROUP,
            json!({ "robotCode": "other" }),
            "invalidParameter.robotCode.notExsit",
        ),
        (
            GROUP,
            json!({ "robotCode": "bot" }),
            "openConversationId.notExisted",
        ),
        (
            GROUP,
            json!({ "robotCode": "bot", "openConversationId": "x" }),
            "invalid.openConversationId",
        ),
    ];
    for (path, mut asked, code) in cases {
        asked["processQueryKey"] = json!("k");
        assert_eq!(post(&sandbox, path, &token, &asked).await.code(), code);
    }
    let asked = json!({ "processQueryKey": "k", "robotCode": "bot", "openConversationId": "cid" });
    assert_eq!(post(&sandbox, GROUP, &token, &asked).await.status, 200);
    sandbox.publish("k", Script::parse("owner=somebody").expect("a rule"));
    assert_eq!(
        ask(&sandbox, &token, "k").await.code(),
        "conversation.org.dismatch"
    );
}

#[tokio::test]
async fn read_status_tells_of_at_most_twenty() {
    let sandbox = sandbox().await;
    let token = token(&sandbox).await;
    sandbox.publish(
        "k+/=",
        Script::parse("readers=30,never=0,median=0s").expect("a rule"),
    );
    let path = "/v1.0/robot/oToMessages/readStatus";
    let right = format!("{path}?robotCode=r&processQueryKey=k%2B%2F%3D");
    let got = call(&sandbox, "GET", &right, Some(&token), "").await;
    let list = got.json()["messageReadInfoList"]
        .as_array()
        .expect("a list")
        .clone();
    assert_eq!(list.len(), 20);
    assert_eq!(list[0]["readStatus"], "READ");
    assert!(list[0]["readTimestamp"].is_i64() && list[0]["name"].is_string());
    assert_eq!(sandbox.violations(), []);
    let bare = format!("{path}?robotCode=r&processQueryKey=k+/=");
    call(&sandbox, "GET", &bare, Some(&token), "").await;
    assert!(
        sandbox.violations()[0].what.contains("URL-encoded"),
        "{:?}",
        sandbox.violations()
    );
}

#[tokio::test]
async fn what_the_interface_does_not_allow_is_noted() {
    let sandbox = sandbox().await;
    let token = token(&sandbox).await;
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
            "invalidParameter.processQueryKey.missing",
        ),
        (
            json!({ "processQueryKey": null }),
            "invalidParameter.processQueryKey.missing",
        ),
        (json!({ "robotCode": "" }), ""),
        (json!({ "openConversationId": null }), ""),
        (json!({ "cursor": 1 }), ""),
    ];
    for (index, (change, code)) in cases.into_iter().enumerate() {
        let mut asked = json!({ "processQueryKey": "k" });
        for (name, value) in change.as_object().expect("an object") {
            asked[name] = value.clone();
        }
        let got = post(&sandbox, PRIVATE, &token, &asked).await;
        assert_eq!(got.code(), code, "{asked}");
        assert!(sandbox.violations().len() > index, "{asked} was not noted");
    }
    let before = sandbox.violations().len();
    assert_eq!(
        ask(&sandbox, "made-up", "k").await.code(),
        "InvalidAuthentication"
    );
    assert_eq!(ask(&sandbox, "", "k").await.status, 400);
    let got = call(&sandbox, "POST", PRIVATE, Some(&token), "no JSON").await;
    assert_eq!(got.code(), "invalidParameter.param.invalid");
    assert!(sandbox.violations().len() >= before + 3);
    assert!(
        sandbox
            .violations()
            .iter()
            .all(|one| !one.what.contains(&token))
    );
}
