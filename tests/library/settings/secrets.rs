//! Where secrets are found, and which of them are refused or told.

use std::fs;

use receiptd::receipt::AccountName;
use receiptd::settings::{self, Secret, SecretError};
use secrecy::ExposeSecret;

use super::{ACCOUNT, Variables, env, write};

#[test]
fn a_secret_file_is_read_anew_and_blanks_around_it_are_none_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let secret = Secret::File {
        path: path.clone(),
        from_credentials: false,
    };
    for (content, expected) in [
        ("one\n", Some("one")),
        ("two\r\n\n", Some("two")),
        // What an editor, a copy or a shell of Windows leaves around it.
        ("\u{feff} three \t\r\n", Some("three")),
        ("\u{feff}\n", None),
        ("", None),
        ("\n", None),
    ] {
        write(&path, content.as_bytes(), 0o640);
        match (secret.read(), expected) {
            (Ok(found), Some(expected)) => assert_eq!(found.expose_secret(), expected),
            (Err(SecretError::Empty(_)), None) => {}
            (found, _) => panic!("{content:?}: {found:?}"),
        }
    }
}

#[test]
fn a_secret_file_that_cannot_be_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    let shown = path.display();
    let full = vec![b'x'; 64 * 1024];
    let over = vec![b'x'; 64 * 1024 + 1];
    let cases: [(&[u8], u32, Option<String>); 4] = [
        (&full, 0o600, None),
        (
            &over,
            0o600,
            Some(format!(
                "the secret file {shown} is over 64 KiB; name one that holds the secret alone"
            )),
        ),
        (
            b"hush-hush\xff",
            0o600,
            Some(format!(
                "the secret file {shown} holds bytes that are no UTF-8 text; write the secret as text"
            )),
        ),
        (
            b"\n",
            0o600,
            Some(format!(
                "the secret file {shown} is empty; write the secret into it"
            )),
        ),
    ];
    let secret = Secret::File {
        path: path.clone(),
        from_credentials: false,
    };
    for (content, mode, expected) in cases {
        write(&path, content, mode);
        let error = secret.read().err().map(|error| {
            assert!(!format!("{error:?}").contains("hush-hush"));
            error.to_string()
        });
        assert_eq!(error, expected);
    }
    let folder = Secret::File {
        path: directory.path().to_owned(),
        from_credentials: false,
    };
    assert!(matches!(folder.read(), Err(SecretError::NoFile(_))));
    let absent = Secret::File {
        path: directory.path().join("absent"),
        from_credentials: false,
    };
    assert!(matches!(absent.read(), Err(SecretError::Unreadable { .. })));
}

#[test]
fn a_secret_file_that_others_may_read_is_used_and_told() {
    // As Kubernetes mounts them, as Docker does, and from a directory that cannot be written.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("secret");
    for (mode, told) in [(0o400, false), (0o640, false), (0o444, true), (0o644, true)] {
        write(&path, b"hush-hush\n", mode);
        let text = format!(
            "[accounts.a]\napp_key = \"k\"\napp_secret_file = {:?}",
            path.display().to_string()
        );
        let loaded = super::read(&text, &[]).unwrap();
        let account = &loaded.settings.accounts[&AccountName::from("a")];
        let secret = account.app.credentials().1.read().unwrap();
        assert_eq!(secret.expose_secret(), "hush-hush");
        let expected = match told {
            false => vec![],
            true => vec![format!(
                "accounts.a: the secret file {0} can be read by every user of this machine (mode {mode:04o}); unless a \
                 container mounts it so: chmod o-r {0}",
                path.display()
            )],
        };
        assert_eq!(loaded.warnings, expected, "{mode:o}");
    }
}

#[test]
fn a_relative_secret_file_is_a_credential_first_and_lies_beside_the_configuration_else() {
    let root = tempfile::tempdir().unwrap();
    let [credentials, conf] = ["credentials", "conf"].map(|name| root.path().join(name));
    for directory in [&credentials, &conf] {
        fs::create_dir(directory).unwrap();
    }
    write(&credentials.join("both"), b"of systemd", 0o400);
    write(&conf.join("both"), b"beside", 0o600);
    write(&conf.join("local"), b"local", 0o600);
    let config = conf.join("receiptd.toml");
    let cases = [
        ("both", true, credentials.join("both"), true),
        ("both", false, conf.join("both"), false),
        ("local", true, conf.join("local"), false),
        ("absent", true, conf.join("absent"), false),
    ];
    for (named, with_credentials, expected, from_credentials) in cases {
        let text = format!("[accounts.a]\napp_key = \"k\"\napp_secret_file = \"{named}\"");
        write(&config, text.as_bytes(), 0o644);
        let directory = credentials.to_string_lossy().into_owned();
        let variables = [("CREDENTIALS_DIRECTORY", directory.as_str())];
        let variables = if with_credentials {
            &variables[..]
        } else {
            &[]
        };
        let loaded = settings::load(Some(&config), env(variables)).unwrap();
        let account = &loaded.settings.accounts[&AccountName::from("a")];
        assert_eq!(
            *account.app.credentials().1,
            Secret::File {
                path: expected,
                from_credentials
            },
            "{named}"
        );
        assert_eq!(loaded.file.as_deref(), Some(config.as_path()));
    }
}

#[test]
fn an_inline_secret_in_a_file_that_others_may_read_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("receiptd.toml");
    let from_environment = [("RECEIPTD__ACCOUNTS__A__APP_SECRET", "hush-hush")];
    let cases: [(u32, Variables<'_>, bool); 4] = [
        (0o600, &[], false),
        (0o640, &[], true),
        (0o604, &[], true),
        (0o644, &from_environment, false),
    ];
    for (mode, variables, told) in cases {
        write(&path, ACCOUNT.as_bytes(), mode);
        let warnings = settings::load(Some(&path), env(variables))
            .unwrap()
            .warnings;
        assert_eq!(warnings.len(), usize::from(told), "{mode:o}: {warnings:?}");
        for warning in warnings {
            let start = format!(
                "{}:3: accounts.a.app_secret stands in a file",
                path.display()
            );
            assert!(warning.starts_with(&start), "{warning}");
            assert!(
                warning.contains("app_secret_file") && !warning.contains("hush-hush"),
                "{warning}"
            );
        }
    }
}
