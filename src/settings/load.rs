//! Reads the settings from where they are.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::SettingsError;
use super::layers::{CONFIG, FileText, Layers, Origins};
use super::reading::dotted;
use super::secret::Places;
use super::{Settings, reading, rules};

/// Where the configuration is looked for unless `--config` or `$RECEIPTD_CONFIG` names another file.
pub const DEFAULT_PATH: &str = "/etc/receiptd/receiptd.toml";

/// Read permission of the file's group and of everybody else.
const GROUP_OR_OTHERS_READ: u32 = 0o044;

/// Settings, and what there is to say about them.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub settings: Settings,
    /// What is possible but unwise, a sentence each, for the log.
    pub warnings: Vec<String>,
    /// The file that was read; `None`: there is none, and defaults and environment stand alone.
    pub file: Option<PathBuf>,
    pub(super) origins: Origins,
}

/// Reads defaults, `file` (or the one that `$RECEIPTD_CONFIG` names, or [`DEFAULT_PATH`] where there is one) and
/// environment.
///
/// A file that was named must exist. Every mistake found is in the error, a line each.
pub fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, SettingsError> {
    load_or(file, Path::new(DEFAULT_PATH), &env.collect::<Vec<_>>())
}

/// The process's environment, for [`load`]; a variable that is no UTF-8 is none of ours and left out.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Reads settings from a text instead of a file; `path` stands for it in messages, and files that the text names are
/// looked for beside it.
pub fn from_text(
    path: &Path,
    text: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, SettingsError> {
    read(
        path,
        Some(&FileText { path, text }),
        None,
        &env.collect::<Vec<_>>(),
    )
}

fn load_or(
    named: Option<&Path>,
    default: &Path,
    env: &[(String, String)],
) -> Result<Loaded, SettingsError> {
    let variable = env
        .iter()
        .find(|(name, value)| name == CONFIG && !value.is_empty());
    let named = named.or(variable.map(|(_, value)| Path::new(value)));
    let path = named.unwrap_or(default);
    let unreadable = |error| SettingsError::Unreadable {
        path: path.to_owned(),
        error,
    };
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let mode = std::fs::metadata(path).map_err(unreadable)?.mode();
            read(path, Some(&FileText { path, text: &text }), Some(mode), env)
        }
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
            read(path, None, None, env)
        }
        Err(error) => Err(unreadable(error)),
    }
}

fn read(
    path: &Path,
    file: Option<&FileText<'_>>,
    mode: Option<u32>,
    env: &[(String, String)],
) -> Result<Loaded, SettingsError> {
    let layers = Layers::merge(file, env)?;
    let places = Places {
        credentials: layers.credentials.clone(),
        beside: path.parent().unwrap_or(Path::new("")).to_owned(),
    };
    let settings = reading::settings(&layers.root, &layers.origins, &places)
        .map_err(SettingsError::Refused)?;
    let mut warnings = layers.warnings;
    warnings.extend(rules::warnings(&settings));
    warnings.extend(rules::proxy(&settings.endpoint.base_url, env));
    if let Some(mode) = mode.filter(|mode| mode & GROUP_OR_OTHERS_READ != 0) {
        for (key, place) in layers.origins.in_file() {
            let Some(name) = key.last().filter(|name| name.ends_with("_secret")) else {
                continue;
            };
            warnings.push(format!(
                "{place}: {} stands in a file that more than its owner may read (mode {:04o}): chmod 600 it, or put the \
                 secret into a file of its own and name that with {name}_file",
                dotted(key),
                mode & 0o7777,
            ));
        }
    }
    Ok(Loaded {
        settings,
        warnings,
        file: file.map(|file| file.path.to_owned()),
        origins: layers.origins,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_default_file_means_defaults_and_an_absent_named_one_is_an_error() {
        let absent = Path::new("/nonexistent/receiptd.toml");
        let loaded = load_or(None, absent, &[]).unwrap();
        assert_eq!(loaded.file, None);
        assert_eq!(loaded.settings.endpoint.page_size, 200);
        let error = load_or(Some(absent), absent, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot read the configuration /nonexistent/receiptd.toml: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_default_file_that_cannot_be_read_is_no_absent_one() {
        let directory = tempfile::tempdir().unwrap();
        let error = load_or(None, directory.path(), &[]).unwrap_err();
        assert!(matches!(error, SettingsError::Unreadable { .. }), "{error}");
    }
}
