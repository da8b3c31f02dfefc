//! What is in `deploy/monitoring`, held against the list of events and against what a daemon in trouble writes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};

use receiptd::sandbox::SandboxConfig;
use receiptd::telemetry::{EVENTS, EventLevel};
use serde_json::Value;

use super::harness::{DEFAULT_ACCOUNT, House};

/// Rules by their name, and the text that a line must hold.
type Rules = BTreeMap<String, String>;

/// What stands between two texts.
fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = text.split_once(before)?.1;
    Some(rest.split_once(after)?.0)
}

fn loki() -> Rules {
    let text = include_str!("../../deploy/monitoring/loki-rules.yaml");
    let rules = text.split("- alert: ").skip(1).map(|rule| {
        let name = rule.lines().next().unwrap().to_owned();
        let phrase = between(rule, "|= \"", "\"").unwrap().to_owned();
        (name, phrase)
    });
    rules.collect()
}

/// The phrase of each query.
fn elastic() -> Rules {
    let text = include_str!("../../deploy/monitoring/elastic-queries.json");
    let queries: BTreeMap<String, Value> = serde_json::from_str(text).unwrap();
    let rules = queries.into_iter().map(|(name, query)| {
        let phrase = query["query"]["bool"]["filter"][1]["match_phrase"]["message"].as_str();
        (name, phrase.unwrap().to_owned())
    });
    rules.collect()
}

/// The words that Elasticsearch's standard analyser finds.
fn words(text: &str) -> Vec<String> {
    let parted = text.split(|sign: char| !(sign.is_alphanumeric() || "._'".contains(sign)));
    let words = parted.map(|word| word.trim_matches(['.', '\'']).to_lowercase());
    words.filter(|word| !word.is_empty()).collect()
}

fn holds_phrase(message: &str, phrase: &str) -> bool {
    let (message, phrase) = (words(message), words(phrase));
    message
        .windows(phrase.len())
        .any(|found| found == &phrase[..])
}

#[test]
fn every_rule_is_about_an_event_and_every_error_has_a_rule() {
    let rules = loki();
    let codes = ["account.unknown", "corp_id.missing"];
    let matches = |text: &str, phrase: &str| {
        codes
            .iter()
            .any(|code| text.replace("{code}", code).contains(phrase))
    };
    // Where a text is but a place for what the store says, its meaning tells that.
    let says = |phrase: &str| {
        EVENTS
            .iter()
            .any(|event| matches(event.text, phrase) || event.meaning.contains(phrase))
    };
    let unheard = rules.iter().filter(|(_, phrase)| !says(phrase));
    let unheard: Vec<_> = unheard.collect();
    assert!(unheard.is_empty(), "no event says {unheard:?}");
    let errors = EVENTS
        .iter()
        .filter(|event| event.level == EventLevel::Error);
    let uncovered =
        errors.filter(|event| !rules.values().any(|phrase| matches(event.text, phrase)));
    let uncovered: Vec<_> = uncovered.map(|event| event.text).collect();
    assert!(uncovered.is_empty(), "no rule for {uncovered:?}");
    let mut same = rules;
    same.remove("ReceiptdSilent").unwrap();
    for phrase in same.values_mut() {
        *phrase = phrase.trim_matches([' ', ':']).to_owned();
    }
    assert_eq!(elastic(), same);
}

const IN_TROUBLE: &str = r#"
[accounts.default]
app_key = "sandbox"
app_secret = "sandbox"
[accounts.blocked]
app_key = "sandbox"
app_secret = "another"
[accounts.refused]
app_key = "sandbox"
app_secret = "sandbox"
[accounts.quota]
app_key = "sandbox"
app_secret = "sandbox"
[accounts.budget]
app_key = "sandbox"
app_secret = "sandbox"
monthly_calls = 1
[accounts.partner]
app = "third_party"
suite_key = "suite"
suite_secret = "suite"
"#;

/// Which rules a log meets: Loki's by the whole line, Elasticsearch's by the message.
fn met(log: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let mut found = (BTreeSet::new(), BTreeSet::new());
    for line in log.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        let message = object["message"].as_str().unwrap();
        let by_line = loki()
            .into_iter()
            .filter(|(_, phrase)| line.contains(phrase));
        found.0.extend(by_line.map(|(name, _)| name));
        let by_words = elastic()
            .into_iter()
            .filter(|(_, phrase)| holds_phrase(message, phrase));
        found.1.extend(by_words.map(|(name, _)| name));
    }
    found.0.remove("ReceiptdSilent");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_find_the_trouble_in_a_log_and_nothing_in_a_quiet_one() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__LOG__FORMAT", "json");
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "200ms");
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;quiet', 1)");
    house.start();
    house.until("SELECT state FROM messages", "complete").await;
    house.until_logged("summary: ").await;
    assert_eq!(met(&house.log()), (BTreeSet::new(), BTreeSet::new()));

    house.configure(IN_TROUBLE);
    house.signal("HUP");
    house.until_logged("configuration: read again").await;
    house.sql(
        "INSERT INTO messages (process_query_key, account) VALUES
            ('blocked', 'blocked'), ('sb:code=bot.stopped;1', 'refused'),
            ('sb:code=Forbidden.AccessDenied.ApiCountLimitForOrg;1', 'quota'),
            ('unknown', 'nobody'), ('nowhere', 'partner'),
            ('sb:readers=1;1', 'budget'), ('sb:readers=1;2', 'budget'), ('sb:readers=1;3', 'budget')",
    );
    std::fs::write(house.config(), "nonsense = 1").unwrap();
    house.signal("HUP");
    let expected: BTreeSet<String> = [
        "ReceiptdAccountBlocked",
        "ReceiptdMessagesRefused",
        "ReceiptdQuotaUsedUp",
        "ReceiptdAccountUnknown",
        "ReceiptdCorpIdMissing",
        "ReceiptdBudgetSpent",
        "ReceiptdConfigurationRefused",
    ]
    .map(str::to_owned)
    .into();
    house
        .until_true("every trouble is found by both", || {
            let (by_line, by_words) = met(&house.log());
            expected.is_subset(&by_line) && expected.is_subset(&by_words)
        })
        .await;
}

/// Needs a status that was published: up to 5 s.
#[tokio::test(flavor = "multi_thread")]
async fn the_textfile_holds_what_status_says() {
    let mut house = House::new(SandboxConfig::default(), IN_TROUBLE).await;
    house.set("RECEIPTD__CADENCE__MAX_AGE", "7d");
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
            ('sb:readers=1,median=1ms,never=0;done', 'default', 1), ('blocked', 'blocked', NULL)",
    );
    let file = house.dir.path().join("receiptd.prom");
    let write = |house: &House| {
        let binary = std::path::Path::new(env!("CARGO_BIN_EXE_receiptd"));
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", binary.parent().unwrap().display());
        let ended = Command::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/deploy/monitoring/receiptd-textfile"
        ))
        .arg(&file)
        .arg("--config")
        .arg(house.config())
        .env("PATH", path)
        .envs(&house.environment)
        .stderr(Stdio::null())
        .status()
        .unwrap();
        (ended.success(), std::fs::read_to_string(&file).unwrap())
    };
    let (ok, text) = write(&house);
    assert!(ok && text.contains("\nreceiptd_running 0\n"), "{text}");
    assert!(text.contains("\nreceiptd_stale 1\n"), "{text}");

    house.start();
    house
        .until(
            "SELECT state FROM messages WHERE account = 'default'",
            "complete",
        )
        .await;
    let blocked =
        "receiptd_account_condition{account=\"blocked\",corp_id=\"\",condition=\"blocked\"} 1\n";
    house
        .until_true("the condition is written", || {
            write(&house).1.contains(blocked)
        })
        .await;
    let (ok, text) = write(&house);
    assert!(ok);
    for line in [
        "receiptd_status_ok 1",
        "receiptd_running 1",
        "receiptd_messages_finished{account=\"default\",corp_id=\"\",state=\"complete\"} 1",
        "receiptd_messages_pending{account=\"blocked\",corp_id=\"\"} 1",
        "receiptd_budget_calls{budget=\"account budget\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // Each metric is told once, before its samples, and every sample has a number.
    let mut told = BTreeSet::new();
    let mut metric = "";
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            metric = help.split(' ').next().unwrap();
            assert!(told.insert(metric), "{metric} twice\n{text}");
        } else if !line.starts_with('#') {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(name.split('{').next().unwrap(), metric, "{text}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    // Metrics that the rules for Prometheus speak of.
    let rules = include_str!("../../deploy/monitoring/prometheus-rules.yaml");
    let spoken = rules.lines().filter(|line| line.contains("expr:"));
    let names =
        spoken.flat_map(|line| line.split(|sign: char| !(sign.is_alphanumeric() || sign == '_')));
    for name in names.filter(|name| name.starts_with("receiptd_")) {
        assert!(told.contains(name), "{name}\n{text}");
    }

    std::fs::write(house.config(), "nonsense = 1").unwrap();
    let (ok, text) = write(&house);
    assert!(!ok && text.ends_with("\nreceiptd_status_ok 0\n"), "{text}");
    assert!(!text.contains("receiptd_running"), "{text}");
}
