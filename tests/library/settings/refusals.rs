//! What is refused, in which words; and what is not refused, though unwise.

use std::path::PathBuf;

use receiptd::settings::SettingsError;

use super::{ACCOUNT, FILE, loaded, read, refused};

#[test]
fn every_refusal_names_file_key_and_remedy() {
    #[rustfmt::skip] // a row a line
    let cases: &[(&str, &str)] = &[
        // Unknown keys, with the nearest known one.
        ("[cadence]\nmin_intervall = \"5s\"", "2: cadence.min_intervall is unknown; did you mean min_interval?"),
        ("[cadance]\nmin_interval = \"5s\"", "1: cadance is unknown; did you mean cadence?"),
        ("[retry]\nkey_lifetime = \"5s\"", "2: retry.key_lifetime is unknown; it belongs in [cadence]"),
        ("page_size = 5", "1: page_size is unknown; it belongs in [endpoint]"),
        ("[workers]\nzzz = 1", "2: workers.zzz is unknown; remove it"),
        ("[workers]\n\"a\\nb\" = 1", "2: workers.\"a\\nb\" is unknown; remove it"),
        ("[accounts.a]\napp_key = \"k\"\napp_secret = \"s\"\nrobot_cod = \"r\"", "4: accounts.a.robot_cod is unknown; did you mean robot_code?"),
        ("[budgets.b]\nmonthly_calls = 1\ncalls = 2", "3: budgets.b.calls is unknown; remove it"),
        ("workers = 3", "1: workers is a section, not a value; write [workers] and its keys below"),
        ("[database.url]\nx = 1", "1: database.url is no text; put it in quotes"),
        // Units.
        ("[cadence]\nmin_interval = 10", "2: cadence.min_interval has no unit: 10; write \"10s\" if seconds are meant"),
        ("[cadence]\nmin_interval = \"10\"", "2: cadence.min_interval has no unit: \"10\"; write \"10s\" if seconds are meant"),
        ("[cadence]\nmin_interval = 1.5", "2: cadence.min_interval has no unit: 1.5; write a number and a unit, as \"250ms\", \"10m\" or \"24h\""),
        ("[cadence]\nmin_interval = \"10 parsecs\"", "2: cadence.min_interval is no duration: \"10 parsecs\"; write a number and a unit"),
        ("[cadence]\nmin_interval = \"-5s\"", "2: cadence.min_interval is no duration: \"-5s\"; write a number"),
        ("[cadence]\nmin_interval = \"\"", "2: cadence.min_interval is no duration: \"\"; write a number"),
        ("[cadence]\nmin_interval = \"0s\"", "2: cadence.min_interval cannot be zero; write a number"),
        ("[cadence]\nmemory = \"3000y\"", "2: cadence.memory is too long: \"3000y\"; write at most 100 years"),
        ("[cadence]\nmin_interval = true", "2: cadence.min_interval cannot be true; write a number and a unit"),
        ("[log]\nsummary_interval = \"0s\"", "2: log.summary_interval cannot be zero; write"),
        ("[retention]\nfinished = \"always\"", "2: retention.finished is no duration: \"always\"; write a number and a unit, as \"250ms\", \"10m\" or \"24h\", or \"never\""),
        ("[retention]\nfinished = \"0s\"", "2: retention.finished cannot be zero; write"),
        // Numbers.
        ("[endpoint]\npage_size = 0", "2: endpoint.page_size cannot be 0; write a whole number from 1 to 200"),
        ("[endpoint]\npage_size = 201", "2: endpoint.page_size cannot be 201; write a whole number from 1 to 200"),
        ("[endpoint]\npage_size = -1", "2: endpoint.page_size cannot be -1; write a whole number from 1 to 200"),
        ("[endpoint]\npage_size = 1.7", "2: endpoint.page_size cannot be 1.7; write a whole number from 1 to 200"),
        ("[endpoint]\npage_size = 100.0", "2: endpoint.page_size cannot be 100.0; write a whole number from 1 to 200"),
        ("[endpoint]\npage_size = \"many\"", "2: endpoint.page_size cannot be \"many\"; write a whole number from 1 to 200"),
        ("[endpoint]\npage_size = [1]", "2: endpoint.page_size cannot be a list; write a whole number"),
        ("[endpoint]\ncalls_per_second = 0", "2: endpoint.calls_per_second cannot be 0; write a whole number from 1"),
        ("[workers]\nconcurrency = 0", "2: workers.concurrency cannot be 0; write a whole number from 1 to 65535"),
        ("[retry]\nmultiplier = 0.5", "2: retry.multiplier cannot be 0.5; write a number of 1 or more"),
        ("[retry]\nmultiplier = inf", "2: retry.multiplier cannot be inf; write a number of 1 or more"),
        ("[retry]\nrandomization_factor = 1.1", "2: retry.randomization_factor cannot be 1.1; write a number from 0 to 1"),
        ("[retry]\nrandomization_factor = nan", "2: retry.randomization_factor cannot be NaN; write a number from 0 to 1"),
        ("[cadence]\ncalls_per_message = 0", "2: cadence.calls_per_message cannot be 0; write a number above 0"),
        ("[cadence]\ncalls_per_message = \"-8\"", "2: cadence.calls_per_message cannot be \"-8\"; write a number above 0"),
        // Words and addresses.
        ("[database]\nsynchronous = \"ful\"", "2: database.synchronous cannot be \"ful\"; write \"full\" or \"normal\""),
        ("[database]\nsynchronous = true", "2: database.synchronous cannot be true; write \"full\" or \"normal\""),
        ("[log]\nformat = \"xml\"", "2: log.format cannot be \"xml\"; write \"auto\" or \"text\" or \"json\" or \"journald\""),
        ("[log]\nfilter = \"receiptd=loud\"", "2: log.filter is no filter: "),
        ("[log]\nfilter = \"inof\"", "2: log.filter says \"inof\", which is neither a level nor a part of receiptd; did you mean info?"),
        ("[log]\nfilter = \"info,recieptd=debug\"", "2: log.filter says \"recieptd\", which is neither a level nor a part of receiptd; did you mean receiptd?"),
        ("[database]\nurl = \"mysql://u:hush-hush@h/d\"", "2: database.url is no sqlite:// or postgres:// address; write \"sqlite://PATH\""),
        ("[database]\nurl = \"postgres://u:hush-hush@h:port/d\"", "2: database.url cannot be read as the address of a PostgreSQL database; write"),
        ("[database]\nurl = \"postgres://u@h/d\"\nsynchronous = \"full\"", "3: database.synchronous is SQLite's alone; remove it"),
        ("[database]\npassword_file = \"secret\"", "2: database.password_file is for PostgreSQL: a SQLite file has no password; remove it"),
        ("[database]\nurl = \"sqlite://\"", "2: database.url names no file; write"),
        ("[database]\nurl = \"sqlite::memory:\"", "2: database.url is no sqlite:// or postgres:// address; write"),
        ("[database]\nurl = \"sqlite://:memory:\"", "2: database.url names no file, and other processes could not reach"),
        ("[database]\nurl = \"sqlite://a.db?mode=rwc\"", "2: database.url holds options"),
        ("[endpoint]\nbase_url = \"http://api.dingtalk.io\"", "2: endpoint.base_url would send secrets in the clear: plain http is only for a loopback address; write https://"),
        ("[endpoint]\nbase_url = \"http://127.0.0.1.evil.example\"", "2: endpoint.base_url would send secrets in the clear"),
        ("[endpoint]\nbase_url = \"http://localhost@evil.example\"", "2: endpoint.base_url holds a user or a password"),
        ("[endpoint]\nbase_url = \"https://me:hush-hush@host\"", "2: endpoint.base_url holds a user or a password"),
        ("[endpoint]\nbase_url = \"ftp://host\"", "2: endpoint.base_url is no web address; write \"https://api.dingtalk.io\""),
        ("[endpoint]\nbase_url = \"api.dingtalk.io\"", "2: endpoint.base_url is no web address; write"),
        ("[endpoint]\nbase_url = \"https://h/?a=b\"", "2: endpoint.base_url holds a `?`"),
        ("[endpoint]\nca_file = \"\"", "2: endpoint.ca_file is empty; fill it in or remove it"),
        // Contradictions.
        ("[cadence]\nmin_interval = \"2d\"", "2: cadence.min_interval (2days) is over cadence.max_interval (1day); let min_interval be the shorter one"),
        ("[cadence]\nlast_chance = \"24h\"", "2: cadence.last_chance (1day) does not fit into cadence.key_lifetime (1day); make last_chance shorter"),
        // Accounts.
        ("[accounts.a]\napp_key = \"k\"", "1: accounts.a has no secret; add app_secret_file = \"FILE\""),
        ("[accounts.a]\napp_secret = \"s\"", "1: accounts.a has no key; add app_key = \"...\""),
        ("[accounts.a]\napp_key = \"k\"\napp_secret = \"\"", "3: accounts.a.app_secret is empty; fill it in or remove it"),
        ("[accounts.a]\napp_key = \"k\"\napp_secret = 987", "3: accounts.a.app_secret is no text; put it in quotes"),
        ("[accounts.a]\napp_key = \"k\"\napp_secret = \"hush-hush\"\napp_secret_file = \"f\"", "1: accounts.a has two secrets at once: app_secret and app_secret_file; keep one of them"),
        ("[accounts.a]\nsuite_key = \"k\"\napp_secret = \"s\"", "2: accounts.a.suite_key belongs to a third-party app, and this one is internal; write app = \"third_party\", or app_key for an internal app"),
        ("[accounts.a]\napp_key = \"k\"\nsuite_secret_file = \"s\"", "3: accounts.a.suite_secret_file belongs to a third-party app, and this one is internal; write app = \"third_party\", or app_secret_file for an internal app"),
        ("[accounts.a]\napp = \"third_party\"\nsuite_key = \"k\"", "1: accounts.a has no secret; add suite_secret_file = \"FILE\""),
        ("[accounts.a]\napp = \"third_party\"\nsuite_key = \"k\"\napp_key = \"k\"\nsuite_secret = \"s\"", "1: accounts.a sets app_key twice, by two of its names; keep one of them"),
        ("[accounts.a]\napp = \"third\"\nsuite_key = \"k\"\nsuite_secret = \"s\"", "2: accounts.a.app cannot be \"third\"; write \"internal\" or \"third_party\""),
        ("[accounts]\na = 1", "2: accounts.a is a section, not a value; write [accounts.a] and its keys below"),
        ("[budgets.main]", "1: budgets.main.monthly_calls is missing; add it"),
    ];
    for (text, expected) in cases {
        let lines = refused(text, &[]);
        let expected = format!("{FILE}:{expected}");
        assert!(
            lines[0].starts_with(&expected),
            "{text}\nexpected {expected}\ngot      {lines:#?}"
        );
        assert!(!lines.concat().contains("hush-hush"), "{lines:?}");
        // One mistake, one line; only a broken account's name may make others stumble over it.
        let broken_account = text.starts_with("[accounts]");
        assert!(lines.len() == 1 || broken_account, "{text}\n{lines:#?}");
    }
    #[rustfmt::skip] // a row a line
    let with_account: &[(&str, &str)] = &[
        ("calls_per_second = 0", "4: accounts.a.calls_per_second cannot be 0; write a whole number from 1"),
        ("robot_code = \"\"", "4: accounts.a.robot_code is empty; fill it in or remove it"),
        ("monthly_calls = 5\nbudget = \"b\"\n[budgets.b]\nmonthly_calls = 6", "5: accounts.a.budget stands beside monthly_calls; keep monthly_calls for a budget of its own, or budget for a shared one"),
        ("budget = \"shard\"\n[budgets.shared]\nmonthly_calls = 6", "4: accounts.a.budget names \"shard\", and there is no [budgets] of that name; did you mean \"shared\"?"),
        ("budget = \"b\"", "4: accounts.a.budget names \"b\", and there is no [budgets] of that name; add that section with its monthly_calls"),
        ("monthly_calls = 4000.0", "4: accounts.a.monthly_calls cannot be 4000.0; write a whole number"),
    ];
    for (rest, expected) in with_account {
        let lines = refused(&format!("{ACCOUNT}{rest}"), &[]);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].starts_with(&format!("{FILE}:{expected}")),
            "{lines:?}"
        );
    }
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    #[rustfmt::skip] // a row a line
    let cases: &[(&str, &str, &str)] = &[
        ("RECEIPTD__CADENCE__MIN_INTERVAL", "10", "cadence.min_interval has no unit: \"10\"; write \"10s\" if seconds are meant"),
        ("RECEIPTD__CADENCE__MIN_INTERVL", "10s", "cadence.min_intervl is unknown; did you mean min_interval?"),
        ("RECEIPTD__ENDPOINT__PAGE_SIZE", "1.7", "endpoint.page_size cannot be \"1.7\"; write a whole number from 1 to 200"),
        ("RECEIPTD__ENDPOINT__PAGE_SIZE", "", "endpoint.page_size cannot be \"\"; write a whole number from 1 to 200"),
        ("RECEIPTD__RETRY__MULTIPLIER", "nan", "retry.multiplier cannot be \"nan\"; write a number of 1 or more"),
        ("RECEIPTD__ENDPOINT__BASE_URL", "http://example.com", "endpoint.base_url would send secrets in the clear"),
        ("RECEIPTD__LOG__FILTER", "wran", "log.filter says \"wran\", which is neither a level nor a part of receiptd; did you mean warn?"),
        ("RECEIPTD__WORKERS", "3", "workers is a section, not a value"),
        ("RECEIPTD__", "3", "\"\" is unknown; remove it"),
        ("RECEIPTD__ACCOUNTS__X__APP_SECRET", "hush-hush", "accounts.x has no key; add app_key"),
        ("RECEIPTD__CADENCE__MIN_INTERVAL", "2d", "cadence.min_interval (2days) is over"),
        // The side that was said, not the default it contradicts.
        ("RECEIPTD__CADENCE__MAX_INTERVAL", "1s", "cadence.max_interval (1s) is under cadence.min_interval (2s); let"),
        ("RECEIPTD__CADENCE__KEY_LIFETIME", "1m", "cadence.key_lifetime (1m) does not leave room for cadence.last_chance (5m); make"),
    ];
    for (name, value, expected) in cases {
        let lines = refused("", &[(name, value)]);
        let expected = format!("environment variable {name}: {expected}");
        assert!(
            lines[0].starts_with(&expected),
            "expected {expected}\ngot      {lines:#?}"
        );
        assert!(!lines.concat().contains("hush-hush"), "{lines:?}");
    }
}

#[test]
fn every_mistake_is_told_at_once() {
    let text = "[endpoint]\npage_size = 0\n[cadence]\nmin_interval = 5\n[accounts.a]\napp_key = \"k\"\n[oops]\n";
    let lines = refused(text, &[("RECEIPTD__RETRY__MULTIPLIER", "0")]);
    let starts = [
        "/conf/receiptd.toml:2: endpoint.page_size ",
        "environment variable RECEIPTD__RETRY__MULTIPLIER: retry.multiplier ",
        "/conf/receiptd.toml:4: cadence.min_interval ",
        "/conf/receiptd.toml:5: accounts.a has no secret",
        "/conf/receiptd.toml:7: oops is unknown",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\n{start}");
    }
}

#[test]
fn one_section_tells_all_its_mistakes() {
    let text = "[cadence]\nmin_interval = 5\nmax_intervall = \"1h\"\nlast_chance = \"30 parsecs\"\nmemory = 7\n\
                [accounts.a]\napp_key = 3\nrobot_cod = \"r\"\ncalls_per_second = 0\n";
    let lines = refused(text, &[]);
    let starts = [
        "2: cadence.min_interval has no unit",
        "3: cadence.max_intervall is unknown; did you mean max_interval?",
        "4: cadence.last_chance is no duration",
        "5: cadence.memory has no unit",
        "7: accounts.a.app_key is no text",
        "8: accounts.a.robot_cod is unknown",
        "9: accounts.a.calls_per_second cannot be 0",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for start in starts {
        let start = format!("{FILE}:{start}");
        assert!(
            lines.iter().any(|line| line.starts_with(&start)),
            "{start}\n{lines:#?}"
        );
    }
}

#[test]
fn what_is_no_toml_is_told_with_its_line_and_without_its_text() {
    let cases = [
        "app_secret = \"hush-hush",
        "app_secret = hush-hush",
        "app_secret = 'hush-hush",
        "app_secret \"hush-hush\"",
        "app_secret = \"hush-hush\" \"hush-hush\"",
        "app_secret = 12hush-hush",
        "app_secret = \"hush-hush\\q\"",
        "app_secret = \"hush-hush\"\napp_secret = \"hush-hush\"",
        "n = 99999999999999999999999999",
    ];
    for text in cases {
        let error = read(&format!("# a comment\n{text}"), &[]).unwrap_err();
        assert!(
            matches!(error, SettingsError::Syntax { .. }),
            "{text}: {error}"
        );
        let said = format!("{error} {error:?}");
        assert!(said.starts_with("/conf/receiptd.toml:"), "{said}");
        assert!(!said.contains("hush-hush"), "{text}: {said}");
    }
}

#[test]
fn what_is_unwise_or_unusual_is_not_refused() {
    // (text, a part of its warning; "" for none)
    #[rustfmt::skip] // a row a line
    let cases: &[(&str, &str)] = &[
        ("[endpoint]\ncalls_per_second = 501", "endpoint.calls_per_second is 501: above 500 the vendor bans"),
        ("[endpoint]\ncalls_per_second = 500", ""),
        ("[endpoint]\nconnect_timeout = \"1m\"", "endpoint.connect_timeout (1m) has no effect"),
        ("[cadence]\nmin_interval = \"12h\"", "cadence.calls_per_message is 12, and cadence.min_interval (12h) leaves room for 3 at most"),
        ("[cadence]\nmax_interval = \"1h\"", "cadence.calls_per_message is 12, and cadence.max_interval (1h) makes it 24 at least"),
        ("[cadence]\nmax_age = \"1h\"", "cadence.max_age (1h) ends messages before their keys expire"),
        ("[retry]\ninitial_interval = \"1m\"", "retry.initial_interval (1m) is over retry.max_interval (30s)"),
        ("[budgets.b]\nmonthly_calls = 5", "budgets.b is used by no account"),
        ("[accounts.a]\napp_key = \"k\"\napp_secret = \"s\"\nmonthly_calls = 0", "accounts.a.monthly_calls is 0"),
        ("[accounts.a]\napp_key = \"k\"\napp_secret = \"s\"\ncalls_per_second = 600", "accounts.a.calls_per_second is 600, and endpoint.calls_per_second (400) limits it"),
        ("[accounts.a]\napp_key = \"k\"\napp_secret_file = \"absent\"", "account a gets no token: cannot read the secret file /conf/absent: "),
        ("[retry]\nmax_elapsed_time = \"0s\"", ""),
        ("[workers]\nshutdown_grace = \"0s\"", ""),
        ("[cadence]\ngeneration_grace = \"0s\"", ""),
        ("[cadence]\nlast_chance = \"0s\"", ""),
        ("[cadence]\nmin_interval = \"24h\"\ncalls_per_message = 1", ""),
        ("[database]\nurl = \"sqlite://relative.db\"", ""),
        ("[endpoint]\nbase_url = \"http://[::1]:8080/prefix/\"", ""),
        ("[endpoint]\nbase_url = \"http://localhost:1\"", ""),
        ("[endpoint]\nbase_url = \"http://gate.localhost\"", ""),
        ("[endpoint]\nbase_url = \"http://[::ffff:127.0.0.1]:1\"", ""),
        ("[endpoint]\npage_size = \"100\"", ""),
        ("[retention]\nfinished = \"90d\"", ""),
        ("[accounts.\"with.dot\"]\napp_key = \"k\"\napp_secret = \"s\"", ""),
        ("[accounts.a]\napp = \"third_party\"\napp_key = \"k\"\napp_secret = \"s\"", ""),
    ];
    for (text, expected) in cases {
        let warnings = read(text, &[])
            .unwrap_or_else(|error| panic!("{text}\n{error}"))
            .warnings;
        match expected.is_empty() {
            true => assert_eq!(warnings, Vec::<String>::new(), "{text}"),
            false => assert!(
                warnings.len() == 1 && warnings[0].contains(expected),
                "{text}\n{warnings:#?}"
            ),
        }
    }
    let base_url = loaded("[endpoint]\nbase_url = \"http://[::1]:8080/prefix/\"", &[])
        .endpoint
        .base_url;
    assert_eq!(base_url, "http://[::1]:8080/prefix");
    let path = loaded("[database]\nurl = \"sqlite://relative.db\"", &[])
        .database
        .local_path();
    assert_eq!(path, PathBuf::from("/conf/relative.db"));
}

#[test]
fn a_proxy_that_cannot_be_used_is_told_and_not_shown() {
    let cases: [(&str, &str, bool); 8] = [
        ("HTTPS_PROXY", "http://user:hush-hush@proxy:3128", false),
        ("https_proxy", "proxy:3128", false),
        ("HTTPS_PROXY", "", false),
        ("HTTPS_PROXY", "http://user:hush-hush@proxy:port", true),
        ("ALL_PROXY", "ftp://hush-hush@proxy", true),
        ("https_proxy", "socks5://hush-hush@proxy:1080", true),
        ("HTTPS_PROXY", "http://hush-hush proxy", true),
        // Nothing is asked through it.
        ("HTTP_PROXY", "http://:", false),
    ];
    for (name, value, told) in cases {
        let warnings = read("", &[(name, value)]).unwrap().warnings;
        assert_eq!(
            warnings.len(),
            usize::from(told),
            "{name}={value}: {warnings:?}"
        );
        for warning in warnings {
            assert!(
                warning.starts_with(&format!("environment variable {name} ")),
                "{warning}"
            );
            assert!(!warning.contains("hush-hush"), "{warning}");
        }
    }
    let loopback = "[endpoint]\nbase_url = \"http://127.0.0.1:1\"";
    let warnings = read(loopback, &[("HTTPS_PROXY", "::")]).unwrap().warnings;
    assert_eq!(warnings, Vec::<String>::new());
}
