//! What single values cannot show: what contradicts another setting is refused, what is merely unwise is a warning.

use std::collections::BTreeMap;
use std::time::Duration;

use humantime::format_duration;
use reqwest::Url;

use super::model::{AccountText, Kind};
use super::reading::nearest;
use super::secret::{Places, Secret};
use super::types::is_loopback;
use super::{Account, App, Budget, Database, Node, Settings};
use crate::cadence::Rules;

/// Above it the vendor bans the address for five minutes: 10,000 calls in 20 s, from its documentation.
const ADDRESS_CEILING: u32 = 500;

/// A mistake: the key that it is about (`None`: the section), what is wrong, what would be right.
pub(super) struct Mistake {
    pub(super) key: Option<String>,
    pub(super) problem: String,
    pub(super) remedy: String,
}

impl Mistake {
    pub(super) fn new(
        key: Option<&str>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            key: key.map(str::to_owned),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// What contradicts itself in `[cadence]`, said of the key that the operator wrote: the other one may be a default.
pub(super) fn cadence(rules: &Rules, is_said: impl Fn(&str) -> bool) -> Vec<Mistake> {
    let [min, max, last, life] = [
        rules.min_interval,
        rules.max_interval,
        rules.last_chance,
        rules.key_lifetime,
    ]
    .map(|span| format!("({})", format_duration(span)));
    let mut mistakes = Vec::new();
    if rules.min_interval > rules.max_interval {
        let remedy = "let min_interval be the shorter one";
        mistakes.push(if is_said("max_interval") && !is_said("min_interval") {
            let problem = format!("{max} is under cadence.min_interval {min}");
            Mistake::new(Some("max_interval"), problem, remedy)
        } else {
            let problem = format!("{min} is over cadence.max_interval {max}");
            Mistake::new(Some("min_interval"), problem, remedy)
        });
    }
    if rules.last_chance >= rules.key_lifetime {
        let remedy =
            "make last_chance shorter: the final poll is sent that long before the key expires";
        mistakes.push(if is_said("key_lifetime") && !is_said("last_chance") {
            let problem = format!("{life} does not leave room for cadence.last_chance {last}");
            Mistake::new(Some("key_lifetime"), problem, remedy)
        } else {
            let problem = format!("{last} does not fit into cadence.key_lifetime {life}");
            Mistake::new(Some("last_chance"), problem, remedy)
        });
    }
    mistakes
}

/// The account that is written as `text`; `keys` are the keys that were used for it.
pub(super) fn account(
    text: AccountText,
    keys: &[&str],
    budgets: &BTreeMap<String, u64>,
    places: &Places,
) -> Result<Account, Mistake> {
    let prefix = text.app.prefix();
    if let (Kind::Internal, Some(key)) =
        (text.app, keys.iter().find(|key| key.starts_with("suite_")))
    {
        let problem = "belongs to a third-party app, and this one is internal";
        let own = key.replacen("suite_", "app_", 1);
        let remedy = format!("write app = \"third_party\", or {own} for an internal app");
        return Err(Mistake::new(Some(key), problem, remedy));
    }
    let Some(key) = text.app_key else {
        return Err(Mistake::new(
            None,
            "has no key",
            format!("add {prefix}_key = \"...\""),
        ));
    };
    let secret = match (text.app_secret, text.app_secret_file) {
        (Some(_), Some(_)) => {
            let secrets: Vec<&str> = keys
                .iter()
                .copied()
                .filter(|key| key.contains("secret"))
                .collect();
            let problem = format!("has two secrets at once: {}", secrets.join(" and "));
            return Err(Mistake::new(None, problem, "keep one of them"));
        }
        (None, None) => {
            let remedy = format!("add {prefix}_secret_file = \"FILE\"");
            return Err(Mistake::new(None, "has no secret", remedy));
        }
        (Some(secret), None) => Secret::Inline(secret),
        (None, Some(named)) => {
            let (path, from_credentials) = places.find(&named);
            Secret::File {
                path,
                from_credentials,
            }
        }
    };
    let budget = match (text.monthly_calls, text.budget) {
        (Some(_), Some(_)) => {
            let remedy = "keep monthly_calls for a budget of its own, or budget for a shared one";
            return Err(Mistake::new(
                Some("budget"),
                "stands beside monthly_calls",
                remedy,
            ));
        }
        (_, Some(name)) if !budgets.contains_key(&name) => {
            let remedy = match nearest(&name, budgets.keys().map(String::as_str)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "add that section with its monthly_calls".to_owned(),
            };
            let problem = format!("names {name:?}, and there is no [budgets] of that name");
            return Err(Mistake::new(Some("budget"), problem, remedy));
        }
        (own, shared) => own.map(Budget::Own).or(shared.map(Budget::Shared)),
    };
    Ok(Account {
        app: match text.app {
            Kind::Internal => App::Internal {
                app_key: key,
                app_secret: secret,
            },
            Kind::ThirdParty => App::ThirdParty {
                suite_key: key,
                suite_secret: secret,
            },
        },
        robot_code: text.robot_code,
        calls_per_second: text.calls_per_second,
        budget,
    })
}

/// What is possible but unwise: said, never refused.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |unwise: bool, warning: String| {
        if unwise {
            warnings.push(warning);
        }
    };
    let Settings {
        endpoint,
        retry,
        cadence,
        ..
    } = settings;
    let text = format_duration;
    warn(
        endpoint.calls_per_second > ADDRESS_CEILING,
        format!(
            "endpoint.calls_per_second is {}: above {ADDRESS_CEILING} the vendor bans the address for five minutes",
            endpoint.calls_per_second
        ),
    );
    warn(
        endpoint.connect_timeout > endpoint.request_timeout,
        format!(
            "endpoint.connect_timeout ({}) has no effect, since endpoint.request_timeout ({}) includes it",
            text(endpoint.connect_timeout),
            text(endpoint.request_timeout)
        ),
    );
    warn(
        retry.initial_interval > retry.max_interval,
        format!(
            "retry.initial_interval ({}) is over retry.max_interval ({}): the first wait is the longest",
            text(retry.initial_interval),
            text(retry.max_interval)
        ),
    );
    let Node {
        name,
        lease,
        shared_egress,
    } = &settings.node;
    let is_said = name.is_some() || *shared_egress || *lease != Duration::from_secs(15);
    warn(
        is_said && matches!(settings.database, Database::Sqlite(_)),
        "[node] has no effect, since a SQLite file is served by one process".to_owned(),
    );
    let life = cadence.key_lifetime.as_secs_f64();
    // The most and the fewest polls of a message that the bounds leave room for in a key's life.
    let most = life / cadence.min_interval.as_secs_f64() + 1.0;
    let fewest = life / cadence.max_interval.as_secs_f64();
    let calls = cadence.calls_per_message;
    warn(
        calls > most,
        format!(
            "cadence.calls_per_message is {calls}, and cadence.min_interval ({}) leaves room for {most:.0} at most",
            text(cadence.min_interval)
        ),
    );
    warn(
        calls < fewest,
        format!(
            "cadence.calls_per_message is {calls}, and cadence.max_interval ({}) makes it {fewest:.0} at least for a \
             message that nobody reads",
            text(cadence.max_interval)
        ),
    );
    warn(
        cadence.max_age < cadence.key_lifetime,
        format!(
            "cadence.max_age ({}) ends messages before their keys expire (cadence.key_lifetime, {}): there is no final poll",
            text(cadence.max_age),
            text(cadence.key_lifetime)
        ),
    );
    for (name, account) in &settings.accounts {
        let ceiling = endpoint.calls_per_second;
        warn(
            account.calls_per_second > ceiling,
            format!(
                "accounts.{name}.calls_per_second is {}, and endpoint.calls_per_second ({ceiling}) limits it",
                account.calls_per_second
            ),
        );
        warn(
            account.budget == Some(Budget::Own(0)),
            format!("accounts.{name}.monthly_calls is 0: no call will ever go out"),
        );
        let (_, secret) = account.app.credentials();
        if let (Secret::File { .. }, Err(error)) = (secret, secret.read()) {
            warn(true, format!("account {name} gets no token: {error}"));
        }
        if let Some(exposed) = secret.exposed() {
            warn(true, format!("accounts.{name}: {exposed}"));
        }
    }
    if let Database::Postgres(url) = &settings.database
        && let Some(exposed) = url.password.as_ref().and_then(Secret::exposed)
    {
        warn(true, format!("database.password_file: {exposed}"));
    }
    for (name, calls) in &settings.budgets {
        let named = Some(Budget::Shared(name.clone()));
        let used = settings
            .accounts
            .values()
            .any(|account| account.budget == named);
        warn(!used, format!("budgets.{name} is used by no account"));
        warn(
            used && *calls == 0,
            format!("budgets.{name}.monthly_calls is 0: no call will ever go out"),
        );
    }
    warnings
}

/// What is wrong with the variables that name a proxy: the HTTP client ignores one that it cannot read, and calls go out
/// directly. Never shown: it may hold a password.
pub(super) fn proxy(base_url: &str, variables: &[(String, String)]) -> Option<String> {
    let url = Url::parse(base_url).ok().filter(|url| !is_loopback(url))?;
    // The first of these that is set is used, as curl does; plain http never leaves this machine.
    debug_assert_eq!(url.scheme(), "https");
    let named = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let mut set = named
        .iter()
        .filter_map(|name| variables.iter().find(|(set, _)| set == name));
    let (name, value) = set.find(|(_, value)| !value.is_empty())?;
    let address = match value.contains("://") {
        true => value.clone(),
        false => format!("http://{value}"),
    };
    let proxy = Url::parse(&address).ok();
    let usable =
        proxy.is_some_and(|proxy| matches!(proxy.scheme(), "http" | "https") && proxy.has_host());
    (!usable).then(|| {
        format!(
            "environment variable {name} names no proxy that receiptd can use, and calls go out without one: write \
             http://HOST:PORT or unset it"
        )
    })
}
