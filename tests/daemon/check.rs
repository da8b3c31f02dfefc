//! `receiptd check`, seen from outside: what it finds, and what it says to do.

use receiptd::sandbox::{App, SandboxConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::harness::{DEFAULT_ACCOUNT, House};

/// The exit code, and each finding as `result name: message; remedy`.
pub(crate) fn check(house: &House, arguments: &[&str]) -> (i32, Vec<String>) {
    let output = house
        .command("check")
        .arg("--json")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let lines = object["checks"].as_array().unwrap().iter().map(|line| {
        let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        format!(
            "{} {}: {}; {}",
            word("result"),
            word("name"),
            word("message"),
            word("remedy")
        )
    });
    let lines: Vec<String> = lines.collect();
    let code = output.status.code().unwrap();
    assert_eq!(object["ok"], code == 0, "{text}");
    (code, lines)
}

/// What the line about who serves the database begins with.
fn serving(house: &House) -> &'static str {
    match house.is_on_a_server() {
        false => "daemon",
        true => "nodes",
    }
}

/// The only line about `what`, whose verdict must be `verdict`.
pub(crate) fn line<'a>(lines: &'a [String], verdict: &str, what: &str) -> &'a str {
    let of_it: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains(&format!(" {what}: ")))
        .collect();
    assert_eq!(of_it.len(), 1, "{what} in {lines:#?}");
    assert!(of_it[0].starts_with(&format!("{verdict} ")), "{lines:#?}");
    of_it[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_nothing_fails_and_no_metered_call_is_made() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 0, "{lines:#?}");
    for what in ["database", "endpoint", "clock", "account default"] {
        line(&lines, "ok", what);
    }
    line(&lines, "note", serving(&house));
    assert!(line(&lines, "note", "permission of default").contains("check --ask"));
    let counts = house.sandbox.counts();
    assert_eq!((counts.queries, counts.token_calls), (0, 1));

    let output = house.command("check").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("ok       account default: token ok, expires in "),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_says_what_to_do() {
    let third_party =
        "\n[accounts.suite]\napp = \"third_party\"\nsuite_key = \"suite\"\nsuite_secret = \"x\"\n";
    let wrong = DEFAULT_ACCOUNT.replace("app_secret = \"sandbox\"", "app_secret = \"hush-hush\"");
    let house = House::new(SandboxConfig::default(), &(wrong + third_party)).await;
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 1);
    let said = line(&lines, "failed", "account default");
    assert!(
        said.contains("invalidClientIdOrSecret") && said.contains("check app_key"),
        "{said}"
    );
    let said = line(&lines, "failed", "account suite");
    assert!(said.contains("suite_tickets"), "{said}");
    assert!(!lines.concat().contains("hush-hush"), "{lines:#?}");

    // The database is a later receiptd's, the accounts are looked at all the same.
    house.make_newer();
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 1);
    line(&lines, "failed", "database");
    line(&lines, "failed", "account default");

    house.configure("[cadence]\nmin_intervall = \"1s\"\n");
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 2, "{lines:#?}");
    assert!(line(&lines, "failed", "settings").contains("receiptd.toml:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_the_endpoints_is_found() {
    let house = House::new(SandboxConfig::default(), "").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let answer = "HTTP/1.1 404 Not Found\r\nDate: Tue, 24 Nov 2020 08:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let output = house
        .command("check")
        .env("RECEIPTD__ENDPOINT__BASE_URL", format!("http://{there}"))
        .output()
        .unwrap();
    answering.abort();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("FAILED   clock: "), "{text}");
    assert!(text.contains("let NTP set"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_is_asked_for_on_request_alone_and_the_call_is_counted() {
    let accounts = format!(
        "{DEFAULT_ACCOUNT}monthly_calls = 1\n{}",
        DEFAULT_ACCOUNT
            .replace("accounts.default", "accounts.other")
            .replace("\"sandbox\"", "\"other\"")
    );
    let house = House::new(SandboxConfig::default(), &accounts).await;
    let mut app = App::internal("other", "other");
    app.refusal = Some("Forbidden.AccessDenied.AccessTokenPermissionDenied".to_owned());
    house.sandbox.add_app(app);
    let (code, lines) = check(&house, &["--ask"]);
    assert_eq!(code, 1, "{lines:#?}");
    line(&lines, "ok", "permission of default");
    let said = line(&lines, "failed", "permission of other");
    assert!(said.contains("grant the app the permission"), "{said}");
    let spent = "SELECT account, calls FROM api_calls ORDER BY account";
    assert_eq!(house.sql(spent), ["default|1", "other|1"]);
    // The budget of the first is spent now.
    let (_, lines) = check(&house, &["--ask"]);
    assert!(line(&lines, "note", "permission of default").contains("budget"));
    assert_eq!(house.sql(spent), ["default|1", "other|2"]);
    assert_eq!(house.sandbox.counts().queries, 3);
    // Messages to persons have an interface of their own, which needs the bot's code.
    house.configure(&accounts.replace("monthly_calls = 1", "robot_code = \"ding1\""));
    let (_, lines) = check(&house, &["--ask=oto"]);
    line(&lines, "ok", "permission of default");
    assert!(line(&lines, "note", "permission of other").contains("robot_code"));
    assert_eq!(house.sql(spent), ["default|2", "other|2"]);
    let calls = house.sandbox.calls_after(0);
    let to_persons = calls
        .iter()
        .filter(|call| call.path.ends_with("/readStatus"));
    assert_eq!(to_persons.count(), 1);
    // Asking for the clock is no call of the interface; nothing else is wrong.
    for violation in house.sandbox.violations() {
        assert!(violation.what.starts_with("GET / "), "{violation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_daemon_knows_of_permissions_costs_no_call() {
    let accounts = format!(
        "{DEFAULT_ACCOUNT}{}",
        DEFAULT_ACCOUNT
            .replace("accounts.default", "accounts.other")
            .replace("\"sandbox\"", "\"other\"")
    );
    let mut house = House::new(SandboxConfig::default(), &accounts).await;
    let mut app = App::internal("other", "other");
    app.refusal = Some("Forbidden.AccessDenied.IpNotInWhiteList".to_owned());
    house.sandbox.add_app(app);
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0;d', 'default', 1), ('sb:readers=1;o', 'other', 1)",
    );
    house
        .until(
            "SELECT state FROM messages WHERE account = 'default'",
            "complete",
        )
        .await;
    house.until_logged("account other: blocked").await;
    // The daemon publishes every 5 s.
    let mut found = check(&house, &[]);
    let since = std::time::Instant::now();
    while !found.1.concat().contains("answered the daemon") {
        assert!(since.elapsed().as_secs() < 60, "{found:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        found = check(&house, &[]);
    }
    let (code, lines) = found;
    assert_eq!(code, 1);
    line(&lines, "ok", serving(&house));
    line(&lines, "ok", "permission of default");
    let said = line(&lines, "failed", "permission of other");
    assert!(said.contains("allowed addresses"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_told_as_they_come() {
    use std::io::{BufRead as _, BufReader};
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // Takes a connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut checking = house
        .command("check")
        .env("RECEIPTD__ENDPOINT__BASE_URL", url)
        .env("RECEIPTD__ENDPOINT__REQUEST_TIMEOUT", "60s")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(checking.stdout.take().unwrap()).lines();
    let heard: Vec<String> = lines
        .by_ref()
        .map(Result::unwrap)
        .take_while(|line| !line.contains(&format!(" {}: ", serving(&house))))
        .collect();
    assert!(heard[0].starts_with("ok       settings: "), "{heard:?}");
    assert_eq!(
        checking.try_wait().unwrap(),
        None,
        "the endpoint is waited for"
    );
    checking.kill().unwrap();
    checking.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_partys_live_tokens_are_left_alone() {
    let suite =
        "[accounts.suite]\napp = \"third_party\"\nsuite_key = \"suite\"\nsuite_secret = \"x\"\n";
    let house = House::new(SandboxConfig::default(), suite).await;
    house.sql("INSERT INTO suite_tickets (suite_key, ticket) VALUES ('suite', 't')");
    house.sql(
        "INSERT INTO messages (process_query_key, account, corp_id) VALUES ('k', 'suite', 'c')",
    );
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 0, "{lines:#?}");
    assert!(line(&lines, "ok", "account suite").contains("suite ticket"));
    assert!(line(&lines, "note", "permission of suite").contains("of 1 of its organisations"));
    assert_eq!(house.sandbox.counts().token_calls, 0);
}
