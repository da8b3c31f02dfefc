//! A settings file that may hold anything. An input is its text.

use std::path::Path;

use receiptd::settings::{Secret, from_text};
use secrecy::ExposeSecret;

/// Whatever stands in the file: settings without a secret in sight, or a refusal that says something.
pub fn settings(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let loaded = match from_text(Path::new("receiptd.toml"), text, std::iter::empty()) {
        Ok(loaded) => loaded,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut shown = format!("{loaded:?} {:?}", loaded.warnings);
    for (key, value) in loaded.settings.describe() {
        shown.push_str(&format!(" {key} = {value}"));
    }
    for account in loaded.settings.accounts.values() {
        let (_, Secret::Inline(secret)) = account.app.credentials() else {
            continue;
        };
        let secret = secret.expose_secret();
        // One that says the same elsewhere, or a word of our own, proves nothing.
        let telling = secret.len() >= 12 && text.matches(secret).count() == 1;
        assert!(
            !(telling && shown.contains(secret)),
            "a secret is shown: {shown}"
        );
    }
}
