//! The commands beside the daemon, as a shell calls them.

use std::process::{Command, Output};

use receiptd::sandbox::SandboxConfig;
use serde_json::Value;

use super::harness::{DEFAULT_ACCOUNT, House};

fn run(house: &House, subcommand: &str, arguments: &[&str]) -> (i32, String, String) {
    ended(&house.command(subcommand).args(arguments).output().unwrap())
}

/// Without the house's configuration and environment.
fn bare(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_receiptd"))
        .args(arguments)
        .output();
    ended(&output.unwrap())
}

fn ended(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_configuration_names_the_database() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let url = house.url();
    let database = ["--database", &url];
    let with = |words: &[&'static str]| [words, &database[..]].concat();
    let (code, said, errors) = bare(&with(&["add", "one", "two"]));
    assert_eq!((code, &*said, &*errors), (0, "2 of 2 added\n", ""));
    let (code, said, _) = bare(&with(&["add", "two", "three"]));
    assert_eq!((code, &*said), (0, "1 of 2 added; already there: two\n"));
    let (_, said, _) = bare(&with(&["add", "--json", "two", "four"]));
    assert_eq!(
        json(&said),
        serde_json::json!({"given": 2, "added": 1, "existing": ["two"]})
    );
    let (code, said, _) = bare(&with(&["status", "one"]));
    assert_eq!(code, 0, "{said}");
    let (code, said, _) = bare(&with(&["status", "--json"]));
    assert_eq!((code, &json(&said)["pending"]), (3, &Value::from(4)));
    house.sql("UPDATE messages SET state = 'cancelled' WHERE process_query_key IN ('one', 'two')");
    let (code, said, _) = bare(&with(&["retry", "one"]));
    assert_eq!((code, &*said), (0, "1 pending again\n"));
    let (code, said, _) = bare(&with(&["prune", "--older-than", "0s", "--yes"]));
    assert_eq!(code, 0);
    assert!(said.starts_with("1 message finished before 20"), "{said}");
    let (code, _, errors) = bare(&["status", "--database", "mysql://u:hush-hush@h/d"]);
    assert_eq!(code, 2);
    assert!(
        errors.contains("sqlite://") && !errors.contains("hush-hush"),
        "{errors}"
    );
    let (code, ..) = run(&house, "status", &database);
    assert_eq!(code, 2, "both are said");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_of_what_cannot_be_retried_says_why() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql("INSERT INTO messages (process_query_key) VALUES ('pending'), ('ended')");
    house.sql("UPDATE messages SET state = 'cancelled' WHERE process_query_key = 'ended'");
    let (code, said, _) = run(&house, "retry", &["ended", "pending"]);
    assert_eq!(code, 0);
    assert!(
        said.starts_with("1 pending again\npending: is pending; only failed"),
        "{said}"
    );
    let (code, said, _) = run(&house, "retry", &["nosuchkey"]);
    assert_eq!(code, 1);
    assert!(
        said.contains("nosuchkey: there is no such message"),
        "{said}"
    );
    let (code, said, _) = run(&house, "retry", &["--json", "nosuchkey"]);
    assert_eq!(
        (code, &json(&said)["unknown"][0]),
        (1, &Value::from("nosuchkey"))
    );
    // The grammar says what belongs together.
    for arguments in [
        &[][..],
        &["--account", "a", "key"],
        &["--state", "failed", "key"],
        &["--state", "pending"],
    ] {
        assert_eq!(run(&house, "retry", arguments).0, 2, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_of_less_than_a_day_wants_an_explicit_word() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql("INSERT INTO messages (process_query_key) VALUES ('ended')");
    house.sql("UPDATE messages SET state = 'cancelled'");
    // Three minutes; three months would be 3M.
    let (code, _, errors) = run(&house, "prune", &["--older-than", "3m"]);
    assert_eq!(code, 2);
    assert!(
        errors.contains("--yes") && errors.contains("finished before 20"),
        "{errors}"
    );
    assert_eq!(house.sql("SELECT count(*) FROM messages"), ["1"]);
    let (code, said, _) = run(&house, "prune", &["--older-than", "0s", "--dry-run"]);
    assert!(
        code == 0 && said.ends_with("0 readers would be removed\n"),
        "{said}"
    );
    let (code, said, _) = run(&house, "prune", &["--older-than", "0s", "--yes", "--json"]);
    assert_eq!((code, &json(&said)["messages"]), (0, &Value::from(1)));
    assert!(json(&said)["finished_before"].is_i64(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_and_probably_not_meant_is_told() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    for (arguments, warning) in [
        (
            &["--sent-at", "2020-01-01T00:00:00Z", "old"][..],
            "longer ago than [cadence] max_age (14s)",
        ),
        (
            &["--sent-at", "2099-01-01T00:00:00Z", "new"],
            "in the future",
        ),
        (
            &["--account", "nobody", "lost"],
            "account nobody is not configured",
        ),
        (&["fine"], ""),
    ] {
        let (code, said, errors) = run(&house, "add", arguments);
        assert_eq!((code, &*said), (0, "1 of 1 added\n"));
        assert!(
            errors.contains(warning) && errors.is_empty() == warning.is_empty(),
            "{errors}"
        );
    }
}

#[test]
fn the_default_configuration_is_printed_and_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let (code, printed, _) = bare(&["config"]);
    assert_eq!((code, &*printed), (0, receiptd::settings::DEFAULTS));
    let file = directory.path().join("receiptd.toml");
    std::fs::write(&file, &printed).unwrap();
    let file = file.to_str().unwrap();
    let (code, shown, _) = bare(&["config", "--show", "--config", file]);
    assert_eq!(code, 0);
    // What is shown is a configuration too.
    let again = directory.path().join("again.toml");
    std::fs::write(&again, &shown).unwrap();
    let (code, shown_again, _) = bare(&[
        "config",
        "--show",
        "--json",
        "--config",
        again.to_str().unwrap(),
    ]);
    assert_eq!(code, 0, "{shown}");
    let settings = json(&shown_again);
    let of = |key: &str| {
        settings
            .as_array()
            .unwrap()
            .iter()
            .find(|of| of["key"] == key)
            .unwrap()
    };
    assert_eq!(of("min_interval")["value"], "\"2s\"");
    assert!(
        of("min_interval")["place"]
            .as_str()
            .unwrap()
            .contains("again.toml:"),
        "{settings}"
    );
}

#[test]
fn help_lists_values_and_config_is_refused_where_it_does_nothing() {
    for (command, values) in [
        ("add", "[possible values: private, group"),
        ("retry", "[possible values: expired, failed, cancelled]"),
        (
            "prune",
            "[possible values: complete, recalled, expired, failed, cancelled]",
        ),
    ] {
        let (code, short, _) = bare(&[command, "-h"]);
        // It is wrapped.
        let short = short.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(code == 0 && short.contains(values), "{short}");
        let (_, long, _) = bare(&[command, "--help"]);
        assert!(
            long.len() > short.len() && long.contains("Example"),
            "{long}"
        );
    }
    let (code, _, errors) = bare(&["demo", "--config", "nonsense"]);
    assert_eq!(code, 2, "{errors}");
    let (code, _, errors) = bare(&["add", "--chat", "Group", "key"]);
    assert!(
        code == 2 && errors.contains("[possible values: private, group"),
        "{errors}"
    );
}
