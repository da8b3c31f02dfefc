//! What is possible but unwise: said, never refused.

use humantime::format_duration;

use super::{Account, Budget, Secret, Settings};

/// Above it the vendor bans the address for five minutes: 10,000 calls in 20 s, from its documentation.
const ADDRESS_CEILING: u32 = 500;

pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    endpoint(settings, &mut warnings);
    cadence(settings, &mut warnings);
    for (name, account) in &settings.accounts {
        one_account(&name.to_string(), account, settings, &mut warnings);
    }
    for (name, calls) in &settings.budgets {
        let named = Budget::Shared(name.clone());
        if !settings
            .accounts
            .values()
            .any(|account| account.budget.as_ref() == Some(&named))
        {
            warnings.push(format!("budgets.{name} is used by no account"));
        } else if *calls == 0 {
            warnings.push(format!(
                "budgets.{name}.monthly_calls is 0: no call will ever go out"
            ));
        }
    }
    warnings
}

fn endpoint(settings: &Settings, warnings: &mut Vec<String>) {
    let endpoint = &settings.endpoint;
    if endpoint.calls_per_second > ADDRESS_CEILING {
        warnings.push(format!(
            "endpoint.calls_per_second is {}: above {ADDRESS_CEILING} the vendor bans the address for five minutes",
            endpoint.calls_per_second
        ));
    }
    if endpoint.connect_timeout > endpoint.request_timeout {
        warnings.push(format!(
            "endpoint.connect_timeout ({}) never runs out, since endpoint.request_timeout ({}) includes it",
            format_duration(endpoint.connect_timeout),
            format_duration(endpoint.request_timeout)
        ));
    }
    let retry = &settings.retry;
    if retry.initial_interval > retry.max_interval {
        warnings.push(format!(
            "retry.initial_interval ({}) is over retry.max_interval ({}): the first wait is the longest",
            format_duration(retry.initial_interval),
            format_duration(retry.max_interval)
        ));
    }
}

fn cadence(settings: &Settings, warnings: &mut Vec<String>) {
    let rules = &settings.cadence;
    let life = rules.key_lifetime.as_secs_f64();
    // The most and the fewest polls of a message that the bounds leave room for in a key's life.
    let most = life / rules.min_interval.as_secs_f64() + 1.0;
    let fewest = life / rules.max_interval.as_secs_f64();
    if rules.calls_per_message > most {
        warnings.push(format!(
            "cadence.calls_per_message is {}, and cadence.min_interval ({}) leaves room for {most:.0} at most",
            rules.calls_per_message,
            format_duration(rules.min_interval)
        ));
    } else if rules.calls_per_message < fewest {
        warnings.push(format!(
            "cadence.calls_per_message is {}, and cadence.max_interval ({}) makes it {fewest:.0} at least for a \
             message that nobody reads",
            rules.calls_per_message,
            format_duration(rules.max_interval)
        ));
    }
    if rules.max_age < rules.key_lifetime {
        warnings.push(format!(
            "cadence.max_age ({}) ends messages before their keys die (cadence.key_lifetime, {}): they get no last \
             chance",
            format_duration(rules.max_age),
            format_duration(rules.key_lifetime)
        ));
    }
}

fn one_account(name: &str, account: &Account, settings: &Settings, warnings: &mut Vec<String>) {
    let ceiling = settings.endpoint.calls_per_second;
    if account.calls_per_second > ceiling {
        warnings.push(format!(
            "accounts.{name}.calls_per_second is {}, and endpoint.calls_per_second ({ceiling}) limits it",
            account.calls_per_second
        ));
    }
    if account.budget == Some(Budget::Own(0)) {
        warnings.push(format!(
            "accounts.{name}.monthly_calls is 0: no call will ever go out"
        ));
    }
    let (_, secret) = account.app.credentials();
    if let (Secret::File { .. }, Err(error)) = (secret, secret.read()) {
        warnings.push(format!("account {name} gets no token: {error}"));
    }
    if let Some(exposed) = secret.exposed() {
        warnings.push(format!("accounts.{name}: {exposed}"));
    }
}
