//! `receiptd status`, as a timer, a monitor and a person see it.

use std::process::Command;

use receiptd::sandbox::SandboxConfig;
use serde_json::Value;

use super::harness::{DEFAULT_ACCOUNT, House};

/// A message that is done at once, and one that waits for a far moment.
const ONE_OF_EACH: &str = "
    INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;done', 1);
    INSERT INTO messages (process_query_key, next_poll_at) SELECT 'later', 1000 * strftime('%s', 'now') + 3600000;
";

fn status(house: &House, arguments: &[&str]) -> (i32, Value) {
    let output = house
        .command("status")
        .arg("--json")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let code = output.status.code().unwrap();
    assert_eq!(object["stale"], code == 3, "{text}");
    (code, object)
}

/// How the example for monitoring agents ends, and what it says.
fn example(house: &House, span: &str) -> (i32, String) {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/examples/check_receiptd"
    );
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_receiptd"));
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", binary.parent().unwrap().display());
    let output = Command::new(script)
        .args([span, "--config"])
        .arg(house.config())
        .env("PATH", path)
        .envs(&house.environment)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code().unwrap(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_is_told_where_nobody_serves_what_is_pending_and_where_work_is_overdue() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    assert_eq!(status(&house, &[]).0, 0, "nothing is pending");
    assert_eq!(example(&house, "1h").0, 0);
    house.sql(ONE_OF_EACH);
    let (code, object) = status(&house, &[]);
    assert_eq!(code, 3, "{object}");
    assert_eq!(object["running"], false);
    let (code, said) = example(&house, "1h");
    assert_eq!(code, 2, "{said}");
    assert!(
        said.starts_with("RECEIPTD CRITICAL - No daemon runs"),
        "{said}"
    );

    house.start();
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE 'sb:%'",
            "complete",
        )
        .await;
    let (code, object) = status(&house, &[]);
    assert_eq!(code, 0, "{object}");
    assert_eq!(object["pid"], house.pid());
    assert_eq!(object["overdue_s"], Value::Null);
    assert_eq!(example(&house, "1h").0, 0);

    // Due for a minute, and no account asks for it.
    house.sql(
        "INSERT INTO messages (process_query_key, account, sent_at, next_poll_at)
         SELECT 'stuck', 'unknown', 1000 * strftime('%s', 'now') - 60000, 1000 * strftime('%s', 'now') - 60000",
    );
    let (code, object) = status(&house, &["--stale-after", "30s"]);
    assert_eq!(code, 3, "{object}");
    assert!(
        object["overdue_s"].as_u64().is_some_and(|age| age >= 60),
        "{object}"
    );
    assert_eq!(status(&house, &["--stale-after", "1h"]).0, 0);
    assert_eq!(example(&house, "30s").0, 2);
    assert_eq!(example(&house, "1h").0, 0);

    // What cannot be asked is neither.
    std::fs::write(house.config(), "nonsense = 1").unwrap();
    let (code, said) = example(&house, "1h");
    assert_eq!(code, 3, "{said}");
    assert!(said.starts_with("RECEIPTD UNKNOWN - "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_loops_publish_is_shown() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "200ms");
    house.sql(ONE_OF_EACH);
    house.start();
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE 'sb:%'",
            "complete",
        )
        .await;
    // It is published every 5 s.
    let text = |house: &House| {
        let output = house.command("status").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    house
        .until_true("the answer is published", || {
            text(&house).contains("default: ok, last answer ")
        })
        .await;
    let said = text(&house);
    assert!(said.contains(" loops turn."), "{said}");
    assert!(said.contains(": 1 pending, 0 due, "), "{said}");
    assert!(said.contains("the write-ahead log has 0 MiB"), "{said}");
    let (_, object) = status(&house, &[]);
    let daemon = &object["daemon"];
    assert_eq!(daemon["pid"], house.pid());
    let loops = daemon["loops"].as_array().unwrap();
    let names: Vec<&str> = loops.iter().filter_map(|of| of["name"].as_str()).collect();
    assert!(
        names.contains(&"scheduler") && names.contains(&"reconciler"),
        "{names:?}"
    );
    assert!(
        loops
            .iter()
            .all(|of| of["turned_ms_ago"].as_u64().is_some_and(|age| age < 20_000)),
        "{daemon}"
    );
    assert_eq!(daemon["backlog"]["pending"], 1);
    assert_eq!(daemon["backlog"]["lag_ms"], 0);
    assert!(daemon["backlog"]["wal_bytes"].is_u64(), "{daemon}");
    assert!(daemon["lanes"][0]["last_success_at"].is_i64(), "{daemon}");

    // What a daemon that is gone published says nothing of now.
    house.kill();
    let said = text(&house);
    assert!(said.starts_with("No daemon runs"), "{said}");
    assert!(!said.contains("loops turn"), "{said}");
}
