//! What the daemon says of itself: its beginning, its settings, its end.

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_start_settings_and_stop_and_no_secret() {
    let account = DEFAULT_ACCOUNT.replace("\"sandbox\"\ncalls", "\"hush-hush\"\ncalls");
    assert!(account.contains("app_secret = \"hush-hush\""), "{account}");
    let mut house = House::new(SandboxConfig::default(), &account).await;
    house.start();
    house.until_logged("receiptd serves").await;
    house.signal("TERM");
    assert!(house.ended().await.success());
    let log = house.log();
    let version = env!("CARGO_PKG_VERSION");
    let configured = house.dir.path().join("receiptd.toml");
    let (url, database) = (house.url(), house.shown());
    let expected = [
        format!(
            "INFO receiptd {version} starts, configured by {} and the environment",
            configured.display()
        ),
        "INFO settings that were set: accounts.default.app = \"internal\", accounts.default.app_key = \"sandbox\", accounts.default.app_secret = \"[redacted]\", accounts.default.calls_per_second = 400".to_owned(),
        format!(", database.url = \"{url}\""),
        "WARN configuration: ".to_owned(),
        format!("INFO receiptd serves {database}"),
        "INFO receiptd stops (SIGTERM): the calls under way have 15s to end".to_owned(),
        "INFO receiptd has stopped after ".to_owned(),
    ];
    let mut rest = log.as_str();
    for line in expected {
        let Some((_, after)) = rest.split_once(&line) else {
            panic!("{line:?} is not there, or not in its place:\n{log}");
        };
        rest = after;
    }
    assert!(!log.contains("hush-hush"), "{log}");
    // What is a default is not told, nor is anything twice.
    assert!(!log.contains("concurrency"), "{log}");
    assert_eq!(log.matches("\"[redacted]\"").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_needs_a_person_is_an_error_in_the_log_itself() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.make_newer();
    house.start();
    assert_eq!(house.ended().await.code(), Some(1));
    let log = house.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("ERROR receiptd ends: "), "{log}");
    assert!(last.contains(&house.shown()), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_that_repeats_is_written_once() {
    let config = SandboxConfig {
        calls_per_second: 2,
        ..SandboxConfig::default()
    };
    let mut house = House::new(config, DEFAULT_ACCOUNT).await;
    let values: Vec<String> = (0..40)
        .map(|n| format!("('sb:readers=1;r{n}', 'default')"))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, account) VALUES {}, ('sb:readers=1;u1', 'unknown')",
        values.join(",")
    ));
    house.start();
    // Throttled again and again, with an answer in between each time.
    house
        .until(
            "SELECT throttled >= 5 FROM api_calls WHERE account = 'default'",
            "1",
        )
        .await;
    house.sql(
        "INSERT INTO messages (process_query_key, account) VALUES ('sb:readers=1;u2', 'unknown')",
    );
    house
        .until(
            "SELECT count(*) FROM messages WHERE last_error = 'account.unknown'",
            "2",
        )
        .await;
    house.signal("TERM");
    assert!(house.ended().await.success());
    let log = house.log();
    for warning in [
        "account default: throttled",
        "account unknown: account.unknown",
    ] {
        assert_eq!(
            log.matches(&format!("WARN {warning}")).count(),
            1,
            "{warning}:\n{log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_is_in_the_log_before_any_message_is_due() {
    let wrong = DEFAULT_ACCOUNT.replace("app_secret = \"sandbox\"", "app_secret = \"hush-hush\"");
    let third_party = "[accounts.suite]\napp = \"third_party\"\nsuite_key = \"s\"\nsuite_secret = \"hush-hush\"\n";
    let mut house = House::new(SandboxConfig::default(), &(wrong + third_party)).await;
    house.start();
    house
        .until_logged("WARN account default: gets no token: DingTalk refuses the credentials")
        .await;
    // After a reload only those that changed are asked.
    let asked = house.sandbox.counts().token_calls;
    house.configure(&DEFAULT_ACCOUNT.replace("app_secret = \"sandbox\"", "app_secret = \"other\""));
    house.signal("HUP");
    house.until_logs("gets no token", 2).await;
    assert_eq!(house.sandbox.counts().token_calls, asked + 1);
    assert!(!house.log().contains("hush-hush"), "{}", house.log());
}
