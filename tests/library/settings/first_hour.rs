//! The first hour with a configuration, as the operator sees it: the defaults printed, an account filled in, and a
//! mistake in each section.

use std::path::Path;
use std::process::Command;

use super::write;

/// The exit code and what was printed, with the directory as `DIR`.
fn receiptd(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_receiptd"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("RECEIPTD_CONFIG", directory.join("receiptd.toml"))
        .env("RECEIPTD__LOG__FORMAT", "xml")
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let directory = directory.display().to_string();
    (
        output.status.code().unwrap(),
        text.replace(&directory, "DIR"),
    )
}

const MISTAKES: &str = r#"[database]
url = "mysql://receiptd:hush-hush@db/receiptd"
[endpoint]
base_url = "http://api.dingtalk.io"
[workers]
concurency = 32
[retry]
max_interval = 30
[cadence]
last_chance = "25h"
calls_per_mesage = 8
[accounts.default]
app_key = "dingabc"
app_secret_file = "app_secret"
budget = "share"
[accounts.partner]
suite_key = "suiteabc"
suite_secret_file = "suite_secret"
[budgets.shared]
monthly_calls = -1
[log]
filter = "debgu"
[retention]
finished = "90"
"#;

const SEEN: [&str; 12] = [
    r#"DIR/receiptd.toml:2: database.url is no sqlite:// or postgres:// address; write "sqlite://PATH", as "sqlite:///var/lib/receiptd/receiptd.db", or "postgres://USER@HOST:PORT/NAME""#,
    "DIR/receiptd.toml:4: endpoint.base_url would send secrets in the clear: plain http is only for a loopback address; write https://",
    "DIR/receiptd.toml:6: workers.concurency is unknown; did you mean concurrency?",
    r#"DIR/receiptd.toml:8: retry.max_interval has no unit: 30; write "30s" if seconds are meant"#,
    "DIR/receiptd.toml:11: cadence.calls_per_mesage is unknown; did you mean calls_per_message?",
    "DIR/receiptd.toml:20: budgets.shared.monthly_calls cannot be -1; write a whole number from 0 to 4000000000",
    r#"DIR/receiptd.toml:15: accounts.default.budget names "share", and there is no [budgets] of that name; did you mean "shared"?"#,
    r#"DIR/receiptd.toml:17: accounts.partner.suite_key belongs to a third-party app, and this one is internal; write app = "third_party", or app_key for an internal app"#,
    r#"DIR/receiptd.toml:22: log.filter says "debgu", which is neither a level nor a part of receiptd; did you mean debug?"#,
    r#"environment variable RECEIPTD__LOG__FORMAT: log.format cannot be "xml"; write "auto" or "text" or "json" or "journald""#,
    r#"DIR/receiptd.toml:24: retention.finished has no unit: "90"; write "90s" if seconds are meant, or "never""#,
    // Told once the section has no other mistake.
    "DIR/receiptd.toml:10: cadence.last_chance (1day 1h) does not fit into cadence.key_lifetime (1day); make last_chance shorter: the final poll is sent that long before the key expires",
];

#[test]
fn a_mistake_in_each_section_is_seen_with_line_and_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("receiptd.toml");
    write(&file, MISTAKES.as_bytes(), 0o600);
    let (code, text) = receiptd(directory.path(), &["check", "--offline"]);
    assert_eq!(code, 2, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let seen: Vec<String> = SEEN[..11]
        .iter()
        .map(|line| format!("FAILED   settings: {line}"))
        .collect();
    assert_eq!(lines, seen);
    // Every command that reads the configuration says the same.
    for command in ["run", "status", "migrate", "reload"] {
        let (code, text) = receiptd(directory.path(), &[command]);
        let lines: Vec<&str> = text.lines().collect();
        let seen: Vec<String> = SEEN[..11]
            .iter()
            .map(|line| format!("error: {line}"))
            .collect();
        assert_eq!(
            (code, lines),
            (2, seen.iter().map(String::as_str).collect()),
            "{command}"
        );
    }
    let spelt = MISTAKES.replace("calls_per_mesage", "calls_per_message");
    write(&file, spelt.as_bytes(), 0o600);
    let (_, text) = receiptd(directory.path(), &["check", "--offline"]);
    assert!(text.contains(SEEN[11]), "{text}");
}

#[test]
fn the_printed_defaults_and_an_account_are_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let (_, defaults) = receiptd(directory.path(), &["config"]);
    let account =
        "\n[accounts.default]\nclient_id = \"dingabc\"\nclient_secret_file = \"app_secret\"\n";
    let text = defaults.replace("format = \"auto\"", "format = \"text\"") + account;
    write(
        &directory.path().join("receiptd.toml"),
        text.as_bytes(),
        0o644,
    );
    write(&directory.path().join("app_secret"), b"hush-hush\n", 0o600);
    let checked = Command::new(env!("CARGO_BIN_EXE_receiptd"))
        .args(["check", "--offline", "--config", "receiptd.toml"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(
        text,
        "ok       settings: receiptd.toml and the environment\n"
    );
    assert!(checked.status.success());
}
