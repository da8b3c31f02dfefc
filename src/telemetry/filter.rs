//! `log.filter`, with the libraries below kept quiet.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::settings::LIBRARIES;

/// The operator's filter, laid over the libraries' caps.
pub(super) fn quiet(filter: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(filter)?;
    let level = filter
        .split(',')
        .rev()
        .find_map(|part| part.trim().parse::<LevelFilter>().ok());
    // A cap must never open what the operator closed: it is only for a level for all that is finer than the cap.
    if level.is_none_or(|level| level <= LevelFilter::WARN) {
        return EnvFilter::try_new(filter);
    }
    let caps = LIBRARIES.map(|library| format!("{library}=warn"));
    // A later directive for the same target replaces an earlier one, and a longer target wins over a shorter.
    EnvFilter::try_new(format!("{},{filter}", caps.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// Which of three targets are written at which level under `filter`.
    fn enabled(filter: &str) -> [bool; 6] {
        let subscriber = tracing_subscriber::registry().with(quiet(filter).unwrap());
        tracing::subscriber::with_default(subscriber, || {
            [
                tracing::enabled!(target: "receiptd::daemon", tracing::Level::INFO),
                tracing::enabled!(target: "receiptd::daemon", tracing::Level::DEBUG),
                tracing::enabled!(target: "hyper::client", tracing::Level::WARN),
                tracing::enabled!(target: "hyper::client", tracing::Level::DEBUG),
                tracing::enabled!(target: "sqlx::query", tracing::Level::WARN),
                tracing::enabled!(target: "sqlx::query", tracing::Level::DEBUG),
            ]
        })
    }

    #[test]
    fn libraries_stay_quiet_unless_they_are_named() {
        // receiptd at info, at debug; hyper at warn, at debug; sqlx at warn, at debug.
        let cases = [
            ("info", [true, false, true, false, true, false]),
            ("debug", [true, true, true, false, true, false]),
            ("trace", [true, true, true, false, true, false]),
            ("debug,hyper=debug", [true, true, true, true, true, false]),
            ("hyper=debug,debug", [true, true, true, true, true, false]),
            (
                "debug,sqlx::query=debug",
                [true, true, true, false, true, true],
            ),
            ("error", [false, false, false, false, false, false]),
            ("off", [false, false, false, false, false, false]),
            ("warn", [false, false, true, false, true, false]),
            ("receiptd=debug", [true, true, false, false, false, false]),
        ];
        for (filter, expected) in cases {
            assert_eq!(enabled(filter), expected, "{filter}");
        }
    }

    #[test]
    fn a_wrong_filter_is_an_error() {
        quiet("receiptd=loud").unwrap_err();
    }
}
