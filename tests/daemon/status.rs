//! `receiptd status`, as a timer, a monitor and a person see it.

use std::process::Command;

use receiptd::sandbox::SandboxConfig;
use serde_json::Value;

use super::harness::{DEFAULT_ACCOUNT, House};

/// A message that is done at once, and one that waits for a far moment.
fn insert_one_of_each(house: &House) {
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;done', 1);
         INSERT INTO messages (process_query_key, next_poll_at) VALUES ('later', {})",
        house.sandbox.now().0 + 3_600_000
    ));
}

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

/// The process that holds the file's lock, or the node of the server.
fn is_served_by(object: &Value, house: &House) {
    if house.is_on_a_server() {
        assert_eq!(object["nodes"][0]["name"], house.node(), "{object}");
    } else {
        assert_eq!(object["pid"], house.pid(), "{object}");
    }
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
    insert_one_of_each(&house);
    let (code, object) = status(&house, &[]);
    assert_eq!(code, 3, "{object}");
    assert_eq!(object["running"], false);
    let (code, said) = example(&house, "1h");
    assert_eq!(code, 2, "{said}");
    assert!(
        said.starts_with("RECEIPTD CRITICAL - No daemon runs, and 2 messages pending"),
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
    is_served_by(&object, &house);
    assert_eq!(object["overdue_s"], Value::Null);
    assert_eq!(example(&house, "1h").0, 0);

    // Due for a minute, and no account asks for it.
    let a_minute_ago = house.sandbox.now().0 - 60_000;
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, account, sent_at, next_poll_at)
         VALUES ('stuck', 'unknown', {a_minute_ago}, {a_minute_ago})"
    ));
    let stuck = "SELECT last_error FROM messages WHERE process_query_key = 'stuck'";
    house.until(stuck, "account.unknown").await;
    house.sql(&format!(
        "UPDATE messages SET next_poll_at = {a_minute_ago} WHERE process_query_key = 'stuck'"
    ));
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
    let waits = DEFAULT_ACCOUNT.replace("accounts.default", "accounts.waits");
    let accounts = format!("{DEFAULT_ACCOUNT}{waits}");
    let mut house = House::new(SandboxConfig::default(), &accounts).await;
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "200ms");
    insert_one_of_each(&house);
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, account, next_poll_at) VALUES ('another', 'waits', {})",
        house.sandbox.now().0 + 3_600_000
    ));
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
            text(&house).contains("  ok, last answer ")
        })
        .await;
    let said = text(&house);
    if !house.is_on_a_server() {
        assert!(said.contains("write-ahead log: 0 MiB"), "{said}");
    }
    // No plot that nobody asked for.
    assert!(said.lines().count() < 12, "{said}");
    let (_, object) = status(&house, &[]);
    let daemon = &object["daemon"];
    is_served_by(&object, &house);
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
    assert!(daemon["wal_bytes"].is_u64(), "{daemon}");
    let account = &object["accounts"][0];
    assert_eq!(account["account"], "default");
    assert_eq!(account["pending"], 1);
    assert_eq!(account["finished"]["complete"], 1);
    assert_eq!(account["condition"], "ok");
    assert!(account["last_success_at"].is_i64(), "{account}");
    // A lane that was never asked for has no month, rather than the first one of all.
    let published = match house.is_on_a_server() {
        true => house.sql("SELECT condition FROM nodes").concat(),
        false => std::fs::read_to_string(house.database().with_extension("db.status")).unwrap(),
    };
    let published: Value = serde_json::from_str(&published).unwrap();
    let lanes = published["lanes"].as_array().unwrap();
    let lane = |name: &str| lanes.iter().find(|lane| lane["account"] == name).unwrap();
    assert!(lane("default")["month"].is_string(), "{published}");
    assert_eq!(lane("waits")["month"], Value::Null, "{published}");
    assert_eq!(lane("waits")["calls"], 0, "{published}");

    // What a daemon that is gone published says nothing of now.
    house.kill();
    house
        .until_true("it is gone", || text(&house).starts_with("No daemon runs"))
        .await;
    let said = text(&house);
    assert!(!said.contains("write-ahead log"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_messages_json_has_what_its_text_has() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql(
        "INSERT INTO messages (process_query_key, robot_code, open_conversation_id, chat, expected_readers, corp_id)
         VALUES ('key', 'the-robot', 'the-conversation', 'group', 7, 'the-corp')",
    );
    let run = |arguments: &[&str]| {
        let output = house.command("status").args(arguments).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let text = run(&["key"]);
    let object: Value = serde_json::from_str(&run(&["key", "--json"])).unwrap();
    for (field, value) in [
        ("robot_code", "the-robot"),
        ("open_conversation_id", "the-conversation"),
        ("corp_id", "the-corp"),
        ("chat", "group"),
        ("state", "pending"),
    ] {
        assert_eq!(object[field], value, "{object}");
        assert!(text.contains(value), "{text}");
    }
    assert_eq!(object["expected_readers"], 7);
    assert!(text.contains("0 of 7"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_learned_is_plotted_on_request_alone() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers)
         SELECT 'sb:readers=5,median=100ms,never=0;' || value, 5 FROM generate_series(1, 20) AS value",
    );
    house.start();
    house.until("SELECT count(*) > 60 FROM readers", "1").await;
    house.signal("TERM");
    assert!(house.ended().await.success());
    let text = |arguments: &[&str]| {
        let output = house.command("status").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!text(&[]).contains("share of the readers"));
    let plotted = text(&["--plot"]);
    assert!(
        plotted.contains("default, chat private: share of the readers that have read"),
        "{plotted}"
    );
    let object: Value = serde_json::from_str(&text(&["--plot", "--json"])).unwrap();
    let learned = &object["accounts"][0]["learned"]["private"];
    assert!(
        learned["reads"].as_f64().is_some_and(|reads| reads > 50.0),
        "{object}"
    );
    assert!(
        learned["read_curve"]
            .as_array()
            .is_some_and(|points| points.len() == 25),
        "{object}"
    );
}
