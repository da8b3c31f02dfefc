//! The settings contract: what wins, what is refused in which words, what is redacted, and that file and code agree.

mod first_hour;
mod refusals;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;
use receiptd::cadence::Rules;
use receiptd::receipt::AccountName;
use receiptd::settings::{self, App, Budget, Database, Loaded, Settings, SettingsError};
use secrecy::ExposeSecret;

const FILE: &str = "/conf/receiptd.toml";

type Variables<'a> = &'a [(&'a str, &'a str)];

fn env(variables: Variables<'_>) -> impl Iterator<Item = (String, String)> {
    let owned: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    owned.into_iter()
}

fn read(text: &str, variables: Variables<'_>) -> Result<Loaded, SettingsError> {
    settings::from_text(Path::new(FILE), text, env(variables))
}

fn loaded(text: &str, variables: Variables<'_>) -> Settings {
    match read(text, variables) {
        Ok(loaded) => loaded.settings,
        Err(error) => panic!("{text}\n{variables:?}\n{error}"),
    }
}

/// The error's lines.
fn refused(text: &str, variables: Variables<'_>) -> Vec<String> {
    match read(text, variables) {
        Ok(_) => panic!("not refused: {text} {variables:?}"),
        Err(error) => error.to_string().lines().map(str::to_owned).collect(),
    }
}

/// The embedded file with its commented settings in force: a line that starts with `#` and no space.
fn uncommented() -> String {
    let strip = |line: &'static str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest,
        _ => line,
    };
    settings::DEFAULTS
        .lines()
        .map(strip)
        .collect::<Vec<_>>()
        .join("\n")
}

/// An account that is right, to be put before what is wrong.
const ACCOUNT: &str = "[accounts.a]\napp_key = \"k\"\napp_secret = \"hush-hush\"\n";

fn write(path: &Path, content: &[u8], mode: u32) {
    // A file of mode 0400 is replaced, not written.
    let _ = fs::remove_file(path);
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_defaults_load_and_are_the_contract() {
    let settings = loaded("", &[]);
    let shown = settings.describe();
    let contract = [
        ("database.url", "sqlite:///var/lib/receiptd/receiptd.db"),
        ("database.synchronous", "full"),
        ("node.lease", "15s"),
        ("node.shared_egress", "false"),
        ("endpoint.base_url", "https://api.dingtalk.io"),
        ("endpoint.connect_timeout", "5s"),
        ("endpoint.request_timeout", "10s"),
        ("endpoint.page_size", "200"),
        ("endpoint.calls_per_second", "400"),
        ("workers.concurrency", "64"),
        ("workers.shutdown_grace", "15s"),
        ("retry.initial_interval", "500ms"),
        ("retry.multiplier", "2"),
        ("retry.randomization_factor", "0.5"),
        ("retry.max_interval", "30s"),
        ("retry.max_elapsed_time", "2m"),
        ("cadence.calls_per_message", "12"),
        ("cadence.min_interval", "2s"),
        ("cadence.max_interval", "1day"),
        ("cadence.generation_grace", "10m"),
        ("cadence.key_lifetime", "1day"),
        ("cadence.last_chance", "5m"),
        ("cadence.max_age", "7days"),
        ("cadence.memory", "30days"),
        ("log.filter", "info"),
        ("log.format", "auto"),
        ("log.summary_interval", "1m"),
        ("retention.finished", "never"),
    ];
    let contract = contract.map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(shown, BTreeMap::from(contract));
    assert_eq!(settings.cadence, Rules::default());
    assert!(settings.accounts.is_empty());
    assert_eq!(read("", &[]).unwrap().warnings, Vec::<String>::new());
}

#[test]
fn the_file_and_the_code_agree() {
    // A key that the code does not know is refused, one that the file lacks is missing: so both directions hold for
    // what has a default once it loads (above). What stands commented out must load too,
    let settings = loaded(&uncommented(), &[]);
    let [default, partner] =
        ["default", "partner"].map(|name| &settings.accounts[&AccountName::from(name)]);
    assert!(matches!(&default.app, App::Internal { app_key, .. } if app_key == "dingabc"));
    assert_eq!(default.calls_per_second, 20);
    assert_eq!(default.budget, Some(Budget::Own(4000)));
    assert!(matches!(&partner.app, App::ThirdParty { suite_key, .. } if suite_key == "suiteabc"));
    assert_eq!(partner.budget, Some(Budget::Shared("shared".to_owned())));
    // and everything that can be shown stands in the file, and the other way round, whichever account it is shown for,
    let any_name = |key: &String| match key.split('.').collect::<Vec<_>>()[..] {
        [section, _, word] => format!("{section}.*.{word}"),
        _ => key.clone(),
    };
    let shown: BTreeSet<String> = settings.describe().keys().map(any_name).collect();
    let in_file: BTreeSet<String> = keys_of(&uncommented()).iter().map(any_name).collect();
    assert_eq!(shown, in_file);
    // and the other names of secrets, in the prose.
    for word in [
        "`app_secret = ",
        "`suite_secret = ",
        "`client_id`",
        "`client_secret_file`",
        "`password_file = ",
    ] {
        assert!(settings::DEFAULTS.contains(word), "{word}");
    }
}

#[test]
fn every_default_has_a_comment_above_it() {
    let mut above = "";
    for line in settings::DEFAULTS.lines() {
        let setting = line.trim_start_matches('#').contains(" = ") && !line.starts_with("# ");
        assert!(!setting || above.starts_with("# "), "{line}");
        above = line;
    }
}

fn keys_of(text: &str) -> BTreeSet<String> {
    fn walk(table: &toml::Table, path: &str, keys: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            match value {
                toml::Value::Table(inner) => walk(inner, &path, keys),
                _ => {
                    keys.insert(path);
                }
            }
        }
    }
    let mut keys = BTreeSet::new();
    walk(&toml::from_str(text).unwrap(), "", &mut keys);
    keys
}

#[test]
fn defaults_yield_to_the_file_and_the_file_to_the_environment() {
    let text = "[cadence]\nmin_interval = \"3s\"\nmax_interval = \"2h\"";
    let variables = [
        ("RECEIPTD__CADENCE__MIN_INTERVAL", "5s"),
        ("RECEIPTD__RETRY__MULTIPLIER", "3"),
    ];
    let cadence = loaded(text, &variables).cadence;
    assert_eq!(
        cadence.min_interval,
        Duration::from_secs(5),
        "the environment wins"
    );
    assert_eq!(
        cadence.max_interval,
        Duration::from_secs(7200),
        "the file wins"
    );
    assert_eq!(
        cadence.last_chance,
        Duration::from_secs(300),
        "a default stays"
    );
    assert_eq!(loaded(text, &variables).retry.multiplier, 3.0);
    assert_eq!(
        loaded(text, &[]).cadence.min_interval,
        Duration::from_secs(3)
    );
}

#[test]
fn the_environment_is_text_and_stays_as_it_is() {
    let account = "[accounts.Acme]\napp_key = \"k\"";
    // Each of these would be another value after a guess at its type.
    for secret in ["0123", "1e5", "true", "1.0", "a=b__c", "[1]"] {
        let settings = loaded(account, &[("RECEIPTD__ACCOUNTS__ACME__APP_SECRET", secret)]);
        let account = &settings.accounts[&AccountName::from("Acme")];
        assert_eq!(
            account.app.credentials().1.read().unwrap().expose_secret(),
            secret
        );
        assert_eq!(settings.accounts.len(), 1);
    }
    let whole = [
        ("RECEIPTD__ENDPOINT__PAGE_SIZE", "50"),
        ("RECEIPTD__CADENCE__CALLS_PER_MESSAGE", "8"),
        ("RECEIPTD__ACCOUNTS__NEW__APP_KEY", "123"),
        ("RECEIPTD__ACCOUNTS__NEW__APP_SECRET", "456"),
        ("RECEIPTD__ACCOUNTS__NEW__MONTHLY_CALLS", "4000"),
        ("UNRELATED", "x"),
    ];
    let settings = loaded("", &whole);
    assert_eq!(settings.endpoint.page_size, 50);
    assert_eq!(settings.cadence.calls_per_message, 8.0);
    let new = &settings.accounts[&AccountName::from("new")];
    assert_eq!(
        (new.app.credentials().0, &new.budget),
        ("123", &Some(Budget::Own(4000)))
    );
}

#[test]
fn blanks_around_a_value_are_none_of_it() {
    let settings = loaded(
        "\u{feff}[accounts.a]\napp_key = \" k \"",
        &[(
            "RECEIPTD__ACCOUNTS__A__APP_SECRET",
            "\u{feff} hush-hush\r\n",
        )],
    );
    let (key, secret) = settings.accounts[&AccountName::from("a")].app.credentials();
    assert_eq!(key, "k");
    assert_eq!(secret.read().unwrap().expose_secret(), "hush-hush");
}

#[test]
fn key_and_secret_have_the_names_of_the_console_too() {
    let expected = loaded(ACCOUNT, &[]);
    let text = ACCOUNT
        .replace("app_key", "client_id")
        .replace("app_secret", "client_secret");
    assert_eq!(loaded(&text, &[]), expected);
    let variables = [
        ("RECEIPTD__ACCOUNTS__A__CLIENT_ID", "k"),
        ("RECEIPTD__ACCOUNTS__A__CLIENT_SECRET", "hush-hush"),
    ];
    assert_eq!(loaded("", &variables), expected);
    let text = "[accounts.a]\nclient_id = \"k\"\nclient_secret_file = \"/s\"";
    assert_eq!(
        loaded(text, &[]),
        loaded(
            &text
                .replace("client_id", "app_key")
                .replace("client_", "app_"),
            &[]
        )
    );
    // One name hides nothing that another says.
    let lines = refused(&format!("{ACCOUNT}client_id = \"other\""), &[]);
    assert!(
        lines[0].contains("accounts.a sets app_key twice"),
        "{lines:?}"
    );
    let lines = refused(&format!("{ACCOUNT}client_secret_file = \"f\""), &[]);
    assert!(
        lines[0].contains("two secrets at once: app_secret and client_secret_file"),
        "{lines:?}"
    );
}

#[test]
fn the_configuration_may_be_named_by_a_variable() {
    let directory = tempfile::tempdir().unwrap();
    let [named, other] = ["named.toml", "other.toml"].map(|name| directory.path().join(name));
    write(&named, b"[workers]\nconcurrency = 7", 0o600);
    write(&other, b"[workers]\nconcurrency = 8", 0o600);
    let path = named.display().to_string();
    let found = settings::load(None, env(&[("RECEIPTD_CONFIG", &path)])).unwrap();
    assert_eq!(found.settings.workers.concurrency, 7);
    assert_eq!(found.file, Some(named));
    assert_eq!(found.warnings, Vec::<String>::new());
    // --config wins.
    let found = settings::load(Some(&other), env(&[("RECEIPTD_CONFIG", &path)])).unwrap();
    assert_eq!(found.settings.workers.concurrency, 8);
    let absent = [("RECEIPTD_CONFIG", "/nonexistent/receiptd.toml")];
    let error = settings::load(None, env(&absent)).unwrap_err();
    assert!(matches!(error, SettingsError::Unreadable { .. }), "{error}");
}

#[test]
fn a_relative_database_is_beside_the_file_that_names_it_and_else_in_the_working_directory() {
    let url = "sqlite://data/receiptd.db";
    let text = format!("[database]\nurl = \"{url}\"");
    assert_eq!(
        loaded(&text, &[]).database.local_path(),
        Path::new("/conf/data/receiptd.db")
    );
    let by_variable = loaded(&text, &[("RECEIPTD__DATABASE__URL", url)]);
    assert_eq!(
        by_variable.database.local_path(),
        Path::new("data/receiptd.db")
    );
    for said in [url, "data/receiptd.db"] {
        let by_argument = Settings::of_database(said).unwrap();
        assert_eq!(
            by_argument.database.local_path(),
            Path::new("data/receiptd.db")
        );
    }
    let error = Settings::of_database("mysql://u:hush-hush@h/d")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--database is no sqlite:// or postgres:// address; write"),
        "{error}"
    );
    assert!(!error.contains("hush-hush"), "{error}");
}

#[test]
fn a_postgres_database_is_shown_without_its_password() {
    let text = "[database]\nurl = \"postgres://u:hush-hush@h:6543/d?sslrootcert=/k\"\npassword_file = \"pw\"";
    let settings = loaded(text, &[]);
    let Database::Postgres(url) = &settings.database else {
        panic!("{:?}", settings.database)
    };
    assert!(url.expose().contains("hush-hush"));
    let shown = settings.describe();
    assert_eq!(shown["database.url"], "postgres://u@h:6543/d");
    assert_eq!(shown["database.password_file"], "/conf/pw");
    assert_eq!(shown.get("database.synchronous"), None);
    assert_eq!(settings.database.to_string(), "postgres://u@h:6543/d");
    let local = settings.database.local_path();
    assert!(local.is_absolute(), "{}", local.display());
    for told in [
        format!("{settings:?}"),
        format!("{shown:?}"),
        local.display().to_string(),
    ] {
        assert!(!told.contains("hush-hush"), "{told}");
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pw");
    for (mode, warned) in [(0o600, 0), (0o644, 1)] {
        std::fs::write(&file, "hush-hush").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&file, mode).unwrap();
        let path = file.display();
        let text = format!("[database]\nurl = \"postgres://u@h/d\"\npassword_file = \"{path}\"");
        let warnings = read(&text, &[]).unwrap().warnings;
        let of_password = warnings
            .iter()
            .filter(|warning| warning.contains("password_file"));
        assert_eq!(of_password.count(), warned, "{warnings:?}");
    }
    let by_argument = Settings::of_database("postgresql://u@h:6543/d").unwrap();
    assert_eq!(
        by_argument.database.local_path(),
        local,
        "one lock for one database"
    );
    assert_eq!(
        settings.needs_restart(&by_argument),
        ["database.password_file"],
        "the rest is the same database"
    );
}

#[test]
fn each_setting_in_force_is_shown_with_its_source() {
    let text = "[workers]\nconcurrency = 7\n[accounts.a]\nclient_id = \"k\"\nclient_secret = \"hush-hush\"";
    let loaded = read(text, &[("RECEIPTD__CADENCE__MIN_INTERVAL", "5s")]).unwrap();
    let shown: BTreeMap<String, String> = loaded
        .in_force()
        .iter()
        .map(|setting| (setting.to_string(), setting.place.to_string()))
        .collect();
    for (setting, place) in [
        ("workers.concurrency = 7", "/conf/receiptd.toml:2"),
        ("workers.shutdown_grace = \"15s\"", "built-in defaults"),
        (
            "cadence.min_interval = \"5s\"",
            "environment variable RECEIPTD__CADENCE__MIN_INTERVAL",
        ),
        ("accounts.a.app_key = \"k\"", "/conf/receiptd.toml:4"),
        (
            "accounts.a.app_secret = \"[redacted]\"",
            "/conf/receiptd.toml:5",
        ),
        ("accounts.a.calls_per_second = 20", "built-in defaults"),
    ] {
        assert_eq!(
            shown.get(setting).map(String::as_str),
            Some(place),
            "{shown:#?}"
        );
    }
    assert_eq!(shown.len(), loaded.settings.describe().len());
}

#[test]
fn a_variable_with_one_underscore_is_told() {
    let warnings = read("", &[("RECEIPTD_CADENCE_MIN_INTERVAL", "5s")])
        .unwrap()
        .warnings;
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("environment variable RECEIPTD_CADENCE_MIN_INTERVAL is ignored")
    );
    assert!(!warnings[0].contains("5s"));
}

#[test]
fn secrets_are_shown_nowhere() {
    let text = format!(
        "{ACCOUNT}[accounts.b]\napp = \"third_party\"\nsuite_key = \"sk\"\nsuite_secret_file = \"/run/s\""
    );
    let variables = [
        ("RECEIPTD__ACCOUNTS__C__APP_KEY", "k"),
        ("RECEIPTD__ACCOUNTS__C__APP_SECRET", "hush-hush"),
    ];
    let loaded = read(&text, &variables).unwrap();
    let shown = loaded.settings.describe();
    let said = format!("{loaded:?} {loaded:#?} {shown:?}");
    assert!(!said.contains("hush-hush"), "{said}");
    for (key, value) in [
        ("accounts.a.app_secret", "[redacted]"),
        ("accounts.b.app", "third_party"),
        ("accounts.b.suite_key", "sk"),
        ("accounts.b.suite_secret_file", "/run/s"),
        ("accounts.c.app_secret", "[redacted]"),
    ] {
        assert_eq!(shown.get(key).map(String::as_str), Some(value), "{shown:?}");
    }
}

#[test]
fn a_reload_knows_what_changed_and_what_needs_a_restart() {
    let old = loaded(ACCOUNT, &[]);
    let text = ACCOUNT.replace("hush-hush", "new-hush")
        + "robot_code = \"r\"\n[workers]\nconcurrency = 9\nshutdown_grace = \"1s\"\n[log]\nformat = \"json\"\n\
           [database]\nurl = \"sqlite:///x.db\"\nsynchronous = \"normal\"";
    let new = loaded(&text, &[]);
    let restart = [
        "database.url",
        "database.synchronous",
        "workers.concurrency",
        "log.format",
    ];
    assert_eq!(old.needs_restart(&new), restart);
    assert_eq!(old.needs_restart(&old), Vec::<&str>::new());
    let changes = old.changes(&new);
    let keys: BTreeSet<&str> = changes.iter().map(|change| change.key.as_str()).collect();
    let mut expected = BTreeSet::from(restart);
    expected.extend([
        "workers.shutdown_grace",
        "accounts.a.robot_code",
        "accounts.a (secret)",
    ]);
    assert_eq!(keys, expected);
    assert!(!format!("{changes:?}").contains("-hush"));
    let in_force = new.reloaded_over(&old);
    assert_eq!(old.needs_restart(&in_force), Vec::<&str>::new());
    assert_eq!(in_force.workers.shutdown_grace, Duration::from_secs(1));
    assert_eq!(old.changes(&old), []);
}

#[test]
fn what_is_shown_can_be_said_again() {
    let first = loaded(&uncommented(), &[]);
    let names = first.describe().into_iter();
    let variables = names.map(|(key, value)| {
        let name = key.to_uppercase().replace('.', "__");
        (format!("RECEIPTD__{name}"), value)
    });
    let again = settings::from_text(Path::new(FILE), "", variables).unwrap();
    assert_eq!(first, again.settings);
}

proptest! {
    /// Proptest prints what it was given when this fails.
    #[test]
    fn no_value_makes_it_panic(line in any::<Index>(), value in r#"[-+0-9a-z."'\[\]{}=_ \PC]{0,12}"#) {
        let text = uncommented();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let settings: Vec<usize> =
            (0..lines.len()).filter(|n| !lines[*n].starts_with("# ") && lines[*n].contains(" = ")).collect();
        let chosen = settings[line.index(settings.len())];
        let key = lines[chosen].split(" = ").next().unwrap().to_owned();
        for value in [value.clone(), format!("{value:?}")] {
            lines[chosen] = format!("{key} = {value}");
            // Right or refused; a refusal always says something.
            if let Err(error) = read(&lines.join("\n"), &[]) {
                prop_assert!(error.to_string().contains(FILE), "{}", error);
            }
        }
    }
}
