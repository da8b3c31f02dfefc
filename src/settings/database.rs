//! `[database]`: which one, and what only one of them knows.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::Deserializer;
use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;

use super::rules::Mistake;
use super::secret::{Places, Secret};
use super::types::{self, text, wrong};

/// `[database]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// One file on this machine.
    Sqlite(SqliteFile),
    /// A server.
    Postgres(PostgresUrl),
}

/// A SQLite file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteFile {
    /// Where it is.
    pub path: PathBuf,
    /// When SQLite flushes a commit to disk.
    pub synchronous: Synchronous,
}

/// SQLite's `synchronous`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Synchronous {
    /// A committed result survives a power cut.
    Full,
    /// The last commits may be lost in a power cut, the file stays sound.
    Normal,
}

/// A database of a PostgreSQL server. `Debug` and [`PostgresUrl::shown`] show no password.
#[derive(Clone, Debug)]
pub struct PostgresUrl {
    /// With a password, where one stands in it.
    url: SecretString,
    /// The password, where it has a file.
    pub password: Option<Secret>,
}

impl PostgresUrl {
    /// The URL as it came, for whoever connects.
    pub fn expose(&self) -> &str {
        self.url.expose_secret()
    }

    /// The URL as a person may see it: without a password, and without options, of which some lead to keys.
    pub fn shown(&self) -> String {
        let Ok(options) = PgConnectOptions::from_str(self.expose()) else {
            return "postgres://".to_owned();
        };
        let user = options.get_username();
        let name = options.get_database().unwrap_or(user);
        match options.get_socket() {
            Some(socket) => format!("postgres://{user}@/{name}?host={}", socket.display()),
            None => format!(
                "postgres://{user}@{}:{}/{name}",
                options.get_host(),
                options.get_port()
            ),
        }
    }
}

/// What was to be a URL of a PostgreSQL database is none. Does not show it: a password may stand in it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("cannot be read as the address of a PostgreSQL database")]
pub struct NoPostgresUrl;

impl FromStr for PostgresUrl {
    type Err = NoPostgresUrl;

    fn from_str(url: &str) -> Result<Self, NoPostgresUrl> {
        PgConnectOptions::from_str(url).map_err(|_| NoPostgresUrl)?;
        Ok(Self {
            url: url.into(),
            password: None,
        })
    }
}

impl PartialEq for PostgresUrl {
    /// For a reload that asks what changed: never with a value from outside, so its time tells nobody anything.
    fn eq(&self, other: &Self) -> bool {
        (self.expose(), &self.password) == (other.expose(), &other.password)
    }
}

impl Eq for PostgresUrl {}

impl Database {
    /// A path on this machine that is the database's alone: the files beside it are the daemon's lock and its status. The
    /// SQLite file itself; for a server a name in `/var/lib/receiptd`, which systemd makes for the service, or in the
    /// directory for temporary files.
    pub fn local_path(&self) -> PathBuf {
        match self {
            Self::Sqlite(file) => file.path.clone(),
            Self::Postgres(url) => {
                let state = Path::new("/var/lib/receiptd");
                let directory = match state.is_dir() {
                    true => state.to_owned(),
                    false => std::env::temp_dir(),
                };
                let name: String = url
                    .shown()
                    .trim_start_matches("postgres://")
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                    .collect();
                directory.join(format!("receiptd-{name}"))
            }
        }
    }
}

impl Database {
    /// Where a daemon on this machine may keep its lock and its status: one place for a SQLite file, which one daemon serves;
    /// for a server [`Database::local_path`] and as many more as there may be daemons on one machine.
    pub fn local_paths(&self) -> Vec<PathBuf> {
        let first = self.local_path();
        let more = match self {
            Self::Sqlite(_) => 1,
            Self::Postgres(_) => MOST_ON_A_MACHINE,
        };
        let others = (2..=more).map(|number| {
            let mut name = first.as_os_str().to_owned();
            name.push(format!("-{number}"));
            PathBuf::from(name)
        });
        std::iter::once(first.clone()).chain(others).collect()
    }
}

/// Daemons of one database on one machine: more would be of no use to anybody.
const MOST_ON_A_MACHINE: usize = 32;

/// As a person may see it.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(file) => file.path.display().fmt(f),
            Self::Postgres(url) => f.write_str(&url.shown()),
        }
    }
}

impl Serialize for Database {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        match self {
            Self::Sqlite(file) => {
                map.serialize_entry("url", &format!("sqlite://{}", file.path.display()))?;
                map.serialize_entry("synchronous", &file.synchronous)?;
            }
            Self::Postgres(url) => {
                map.serialize_entry("url", &url.shown())?;
                if let Some(password) = &url.password {
                    map.serialize_entry("password_file", &password.shown())?;
                }
            }
        }
        map.end()
    }
}

/// The section as it stands in the configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DatabaseText {
    url: Address,
    #[serde(deserialize_with = "types::word")]
    synchronous: Synchronous,
    #[serde(default, deserialize_with = "some_path")]
    password_file: Option<PathBuf>,
}

fn some_path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path: String = text(from)?;
    Ok(Some(PathBuf::from(path)))
}

impl DatabaseText {
    /// Refuses what only the other kind of database knows; `is_said` tells what the operator said.
    pub(super) fn checked(
        self,
        places: &Places,
        beside: &Path,
        is_said: impl Fn(&str) -> bool,
    ) -> Result<Database, Mistake> {
        match self.url {
            Address::Sqlite(_) if self.password_file.is_some() => Err(Mistake::new(
                Some("password_file"),
                "is for PostgreSQL: a SQLite file has no password",
                "remove it, or write a postgres:// address into database.url",
            )),
            Address::Sqlite(path) => Ok(Database::Sqlite(SqliteFile {
                path: beside.join(path),
                synchronous: self.synchronous,
            })),
            Address::Postgres(_) if is_said("synchronous") => Err(Mistake::new(
                Some("synchronous"),
                "is SQLite's alone",
                "remove it: PostgreSQL has synchronous_commit, which its administrator sets",
            )),
            Address::Postgres(url) => Ok(Database::Postgres(PostgresUrl {
                password: self.password_file.map(|named| {
                    let (path, from_credentials) = places.find(&named);
                    Secret::File {
                        path,
                        from_credentials,
                    }
                }),
                ..url
            })),
        }
    }
}

/// `database.url`
#[derive(Debug)]
enum Address {
    Sqlite(PathBuf),
    Postgres(PostgresUrl),
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const REMEDY: &str = r#"write "sqlite://PATH", as "sqlite:///var/lib/receiptd/receiptd.db", or "postgres://USER@HOST:PORT/NAME""#;
        let url: String = text(from)?;
        // It may hold a password, so it is not shown.
        if ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            return match url.parse() {
                Ok(url) => Ok(Self::Postgres(url)),
                Err(error) => Err(wrong(error, REMEDY)),
            };
        }
        let Some(path) = url.strip_prefix("sqlite://") else {
            return Err(wrong("is no sqlite:// or postgres:// address", REMEDY));
        };
        let problem = match path {
            "" => "names no file",
            ":memory:" => "names no file, and other processes could not reach the database",
            path if path.contains(['?', '#', '\0']) => {
                "holds options or a character that no path here may have"
            }
            path => return Ok(Self::Sqlite(PathBuf::from(path))),
        };
        Err(wrong(problem, REMEDY))
    }
}

/// The database that a command was given instead of a configuration: an address, or a path alone.
pub(super) fn of_argument(url: &str, synchronous: Synchronous) -> Result<Database, String> {
    let address = match url.contains("://") {
        false => Address::Sqlite(PathBuf::from(url)),
        true => Address::deserialize(toml::Value::from(url))
            .map_err(|error| error.message().to_owned())?,
    };
    Ok(match address {
        Address::Sqlite(path) => Database::Sqlite(SqliteFile { path, synchronous }),
        Address::Postgres(url) => Database::Postgres(url),
    })
}
