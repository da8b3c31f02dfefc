//! `log.filter`: each of its words must mean something. The filter's own parser takes any word for a target, and a
//! misspelt level for a target that nothing bears: the log would be silent, errors included.

use strsim::damerau_levenshtein;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

/// Libraries whose finer lines may show what they carry: headers with tokens, bodies with secrets, bound parameters.
/// [`telemetry`](crate::telemetry) keeps them at `warn` unless the filter names them.
pub(crate) const LIBRARIES: [&str; 9] = [
    "h2",
    "hyper",
    "hyper_util",
    "mio",
    "reqwest",
    "rustls",
    "sqlx",
    "tokio_rustls",
    "tower",
];

/// What may follow `receiptd::` in a target: the crate's modules that log.
const MODULES: [&str; 9] = [
    "cadence",
    "cli",
    "daemon",
    "dingtalk",
    "receipt",
    "sandbox",
    "settings",
    "store",
    "telemetry",
];

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why `text` is no filter for receiptd, and what would be one.
///
/// # Errors
/// The problem and the remedy.
pub(crate) fn check(text: &str) -> Result<(), (String, String)> {
    const REMEDY: &str =
        r#"write a level, as "info", or levels for modules, as "info,receiptd::dingtalk=debug""#;
    let words = text.split(',').filter(|word| !word.is_empty());
    for word in words {
        if word.parse::<LevelFilter>().is_ok() {
            continue;
        }
        let target = word.split_once('=').map_or(word, |(target, _)| target);
        if !is_known(target) {
            let remedy = match nearest(target) {
                Some(near) => format!("did you mean {near}?"),
                None => REMEDY.to_owned(),
            };
            let problem =
                format!("says {target:?}, which is neither a level nor a part of receiptd");
            return Err((problem, remedy));
        }
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(()),
        Err(problem) => Err((format!("is no filter: {problem}"), REMEDY.to_owned())),
    }
}

fn is_known(target: &str) -> bool {
    let mut parts = target.split("::");
    match (parts.next(), parts.next()) {
        (Some("receiptd"), module) => module.is_none_or(|module| MODULES.contains(&module)),
        (Some(library), _) => LIBRARIES.contains(&library),
        (None, _) => false,
    }
}

/// What `target` is a slip of the fingers away from.
fn nearest(target: &str) -> Option<String> {
    let levels = LEVELS.iter().map(|level| (*level).to_owned());
    let libraries = LIBRARIES.iter().map(|library| (*library).to_owned());
    let modules = MODULES.iter().map(|module| format!("receiptd::{module}"));
    let known = levels
        .chain(["receiptd".to_owned()])
        .chain(modules)
        .chain(libraries);
    let target = target.to_lowercase();
    known
        .map(|word| (damerau_levenshtein(&target, &word), word))
        .filter(|(slips, word)| *slips <= (word.len() / 3).max(1))
        .min()
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_must_mean_something() {
        let right = [
            "info",
            "INFO",
            "off",
            "warn,receiptd=debug",
            "receiptd",
            "info,receiptd::dingtalk::client=debug",
            "debug,sqlx::query=trace,hyper=off",
            "info,",
        ];
        for filter in right {
            assert_eq!(check(filter), Ok(()), "{filter}");
        }
        let wrong = [
            ("inof", "did you mean info?"),
            ("wran", "did you mean warn?"),
            ("debgu", "did you mean debug?"),
            ("info,recieptd=debug", "did you mean receiptd?"),
            ("receiptd::deamon=debug", "did you mean receiptd::daemon?"),
            ("debug,sqlxx=debug", "did you mean sqlx?"),
            ("info;debug", "write a level"),
            ("nonsense", "write a level"),
            ("[span]=debug", "write a level"),
            ("=debug", "write a level"),
            ("receiptd=loud", "write a level"),
            // The filter itself takes no blanks.
            ("warn, receiptd=debug", "did you mean receiptd?"),
        ];
        for (filter, expected) in wrong {
            let (_, remedy) = check(filter).unwrap_err();
            assert!(remedy.starts_with(expected), "{filter}: {remedy}");
        }
    }

    #[test]
    fn the_modules_are_those_of_the_crate() {
        let crate_root = include_str!("../lib.rs");
        let declared: Vec<&str> = crate_root
            .lines()
            .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
            .collect();
        assert_eq!(declared, MODULES);
    }
}
