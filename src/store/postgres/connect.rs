//! Sessions as receiptd needs them: encrypted, with time-outs, on a primary, and the same one from statement to statement.

use std::str::FromStr as _;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Row as _};

use super::error::{failure, no_answer};
use crate::settings::{PostgresUrl, Secret, SecretError};
use crate::store::{LOCK_PATIENCE, Role, StoreError};

/// For the TCP and TLS handshakes, the log-in and the settings of the session. This and what follows end before a loop
/// that waits is taken for one that hangs.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// What a statement may take at the server …
const STATEMENT: Duration = Duration::from_secs(6);
/// … and until its answer is here: then the connection is thrown away.
pub(super) const ANSWER: Duration = Duration::from_secs(8);
/// The same for statements that read a whole table, which takes a tenth of a second for a million rows.
const LONG_STATEMENT: Duration = Duration::from_secs(20);
pub(super) const LONG_ANSWER: Duration = Duration::from_secs(25);
/// An open transaction that its owner has forgotten, or that a frozen process holds, is ended so that nobody waits for it.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);
/// The oldest version that receiptd is tested with.
const OLDEST: i32 = 15;

pub(super) const POOLER_HINT: &str = "a connection pooler in transaction mode (pgbouncer, RDS Proxy, a cloud's \"pooled\" \
    address) stands between receiptd and PostgreSQL: use the server's own address, or a pool in session mode";

/// Why the database could not be opened. Says which database, never a password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL cannot be read.
    #[error("database.url: {0}; write postgres://USER@HOST:PORT/NAME")]
    Url(String),
    /// The password's file cannot be read.
    #[error("database.password_file: {0}")]
    Password(#[from] SecretError),
    /// The server is not one that receiptd can work with.
    #[error("{database}: {reason}")]
    Refused {
        /// Which database.
        database: String,
        /// Why, and what to do.
        reason: String,
    },
    /// It could not be reached, or refused a statement.
    #[error("{database}: {}", error.with_source())]
    Store {
        /// Which database.
        database: String,
        /// What went wrong.
        error: StoreError,
    },
    /// A newer receiptd has been here.
    #[error(
        "{database}: its schema is of version {found}, and this receiptd knows {known} at most: run a newer receiptd"
    )]
    Newer {
        /// Which database.
        database: String,
        /// Its version.
        found: i64,
        /// The newest that we know.
        known: i64,
    },
    /// The schema is missing or older than ours.
    #[error(
        "{0}: its tables are missing or of an older version: run `receiptd migrate`, or start the daemon, first"
    )]
    Outdated(String),
    /// A migration failed; nothing of it was kept.
    #[error("{database}: the schema could not be brought up to date: {error}")]
    Migration {
        /// Which database.
        database: String,
        /// What went wrong.
        error: String,
    },
}

/// Which sessions are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Short statements.
    Serving,
    /// Statements that read a whole table.
    Counting,
    /// LISTEN.
    Listening,
}

/// Opens sessions on one database.
#[derive(Clone)]
pub(super) struct Connector {
    /// Without a password from a file, which is read each time.
    options: PgConnectOptions,
    password: Option<Secret>,
    /// Nothing can be written on its sessions.
    read_only: bool,
    /// For people: who, where, which.
    pub(super) database: String,
}

/// The database alone: sqlx's options show their password.
impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Connector").field(&self.database).finish()
    }
}

impl Connector {
    /// Reads the URL. `node` names this process in `application_name`, and so in `pg_stat_activity`.
    pub(super) fn new(url: &PostgresUrl, role: Role, node: &str) -> Result<Self, OpenError> {
        let text = url.expose();
        let options = PgConnectOptions::from_str(text)
            // sqlx's text may quote what it could not read, and with it a password.
            .map_err(|_| OpenError::Url("it is no URL of a PostgreSQL database".to_owned()))?;
        let local = options.get_socket().is_some() || is_local(options.get_host());
        let asked = text.contains("sslmode=") || text.contains("ssl-mode=");
        let asked = asked || std::env::var_os("PGSSLMODE").is_some();
        // `require` and what is below take any certificate, and `prefer` even none.
        let options = match (asked, local) {
            (false, false) => options.ssl_mode(PgSslMode::VerifyFull),
            _ => options,
        };
        let name = match role {
            // The triggers know a daemon by this: it need not be woken by what a daemon wrote.
            Role::Owner => format!("receiptd/{node}"),
            Role::Writer | Role::Reader => format!("receiptd-command/{node}"),
        };
        let database = url.shown();
        let connector = Self {
            // A pooler refuses start-up parameters that it does not know; no number with a fraction is read.
            options: options
                .application_name(&name)
                .extra_float_digits(None)
                .disable_statement_logging(),
            password: url.password.clone(),
            read_only: role == Role::Reader,
            database,
        };
        Ok(connector)
    }

    /// What to warn of: a connection that somebody on its way could read or change.
    pub(super) fn exposed(&self) -> Option<String> {
        let weak = !matches!(self.options.get_ssl_mode(), PgSslMode::VerifyFull);
        (weak && !self.is_local()).then(|| {
            format!(
                "{}: the server's certificate is not checked fully, so whoever stands between can read and change \
                 everything: remove sslmode from database.url, or say sslmode=verify-full",
                self.database
            )
        })
    }

    /// Whether what is sent stays on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.options.get_socket().is_some() || is_local(self.options.get_host())
    }

    /// A session with its settings, on a primary.
    pub(super) async fn connect(&self, purpose: Purpose) -> Result<PgConnection, OpenError> {
        let options = self.with_password()?;
        let opening = async {
            let mut connection = options.connect().await?;
            let refused = prepare(&mut connection, purpose, self.read_only).await?;
            Ok((connection, refused))
        };
        let opened = match tokio::time::timeout(CONNECT, opening).await {
            Ok(opened) => opened.map_err(failure),
            Err(_) => Err(no_answer(CONNECT)),
        };
        match opened {
            Ok((connection, None)) => Ok(connection),
            Ok((_, Some(reason))) => Err(self.refused(reason)),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// As [`Connector::connect`], while the store is in use: what was refused may be mended meanwhile.
    pub(super) async fn reconnect(&self, purpose: Purpose) -> Result<PgConnection, StoreError> {
        self.connect(purpose).await.map_err(|error| match error {
            OpenError::Store { error, .. } => error,
            error => StoreError::Unavailable(sqlx::Error::Configuration(error.to_string().into())),
        })
    }

    /// A listener on a session of its own, which it opens again when it is lost.
    pub(super) async fn listen(&self, channels: &[&str]) -> Result<PgListener, StoreError> {
        let options = self.with_password().map_err(|error| {
            StoreError::Unavailable(sqlx::Error::Configuration(error.to_string().into()))
        })?;
        let listening = async {
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .max_lifetime(None)
                .idle_timeout(None)
                .acquire_timeout(CONNECT)
                .after_connect(|connection, _| {
                    Box::pin(async move {
                        match prepare(connection, Purpose::Listening, false).await? {
                            None => Ok(()),
                            Some(reason) => Err(sqlx::Error::Configuration(reason.into())),
                        }
                    })
                })
                .connect_lazy_with(options);
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            listener.listen_all(channels.iter().copied()).await?;
            Ok(listener)
        };
        match tokio::time::timeout(CONNECT, listening).await {
            Ok(listener) => listener.map_err(failure),
            Err(_) => Err(no_answer(CONNECT)),
        }
    }

    /// Refuses a pooler that gives each statement another session: notifications of one session must reach another one.
    pub(super) async fn check_pooler(&self) -> Result<(), OpenError> {
        let channel = format!("receiptd_check_{:016x}", fastrand::u64(..));
        let checking = async {
            let mut listener = self.listen(&[&channel]).await?;
            let mut other = self.reconnect(Purpose::Serving).await?;
            let first = backend(&mut other).await?;
            sqlx::query("SELECT pg_notify($1, '')")
                .bind(&*channel)
                .persistent(false)
                .execute(&mut other)
                .await
                .map_err(failure)?;
            let same = backend(&mut other).await? == first;
            let told = tokio::time::timeout(Duration::from_secs(5), listener.try_recv()).await;
            Ok(same && matches!(told, Ok(Ok(Some(_)))))
        };
        match tokio::time::timeout(CONNECT * 2, checking).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(self.refused(format!(
                "a notification did not arrive, or statements of one session went to several: {POOLER_HINT}"
            ))),
            // What another client's session was told came in the middle of an answer to this one.
            Ok(Err(StoreError::Unavailable(sqlx::Error::Protocol(error)))) => Err(self.refused(format!(
                "a session received what was meant for another one ({error}): {POOLER_HINT}"
            ))),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(self.failed(no_answer(CONNECT * 2))),
        }
    }

    pub(super) fn failed(&self, error: StoreError) -> OpenError {
        OpenError::Store {
            database: self.database.clone(),
            error,
        }
    }

    pub(super) fn refused(&self, reason: String) -> OpenError {
        OpenError::Refused {
            database: self.database.clone(),
            reason,
        }
    }

    /// Read again each time, so that a changed password is used at once.
    fn with_password(&self) -> Result<PgConnectOptions, OpenError> {
        Ok(match &self.password {
            Some(secret) => self
                .options
                .clone()
                .password(secret.read()?.expose_secret()),
            None => self.options.clone(),
        })
    }
}

/// Which server process answers.
async fn backend(connection: &mut PgConnection) -> Result<i32, StoreError> {
    let row = sqlx::query("SELECT pg_backend_pid()")
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(failure)?;
    row.try_get(0).map_err(failure)
}

/// Whether what is sent there stays on this machine.
fn is_local(host: &str) -> bool {
    host.starts_with('/')
        || host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// Makes the session's settings and reads them back; why the server is refused, if it is.
async fn prepare(
    connection: &mut PgConnection,
    purpose: Purpose,
    for_reading: bool,
) -> Result<Option<String>, sqlx::Error> {
    let ms = |span: Duration| span.as_millis().to_string();
    let statement = match purpose {
        Purpose::Serving | Purpose::Listening => STATEMENT,
        Purpose::Counting => LONG_STATEMENT,
    };
    let mut wanted = vec![
        ("lock_timeout", ms(LOCK_PATIENCE)),
        ("statement_timeout", ms(statement)),
        (
            "idle_in_transaction_session_timeout",
            ms(IDLE_IN_TRANSACTION),
        ),
        ("default_transaction_isolation", "read committed".to_owned()),
        ("default_transaction_deferrable", "off".to_owned()),
        // Plans are short and their cost is often judged too high: to compile them costs more than to run them.
        ("jit", "off".to_owned()),
        // A plan that is kept was made for a table that may have been empty then.
        ("plan_cache_mode", "force_custom_plan".to_owned()),
    ];
    if purpose == Purpose::Serving {
        // Each of these statements has an index. Right after a burst of inserts the planner knows nothing of it yet.
        wanted.push(("enable_seqscan", "off".to_owned()));
    }
    let facts = sqlx::query(
        "SELECT current_setting('server_version_num')::INTEGER, pg_is_in_recovery(),
            current_setting('default_transaction_read_only'), current_setting('server_encoding'),
            current_setting('synchronous_commit'), inet_server_addr() IS NOT NULL, current_schema()",
    )
    .persistent(false)
    .fetch_one(&mut *connection)
    .await?;
    let (version, standby): (i32, bool) = (facts.try_get(0)?, facts.try_get(1)?);
    let (read_only, encoding): (String, String) = (facts.try_get(2)?, facts.try_get(3)?);
    let (synchronous, tcp): (String, bool) = (facts.try_get(4)?, facts.try_get(5)?);
    if version / 10_000 < OLDEST {
        return Ok(Some(format!(
            "it is PostgreSQL {}: receiptd needs {OLDEST} or newer",
            version / 10_000
        )));
    }
    if standby {
        return Ok(Some(
            "it is a standby, which cannot be written to: name the primary in database.url"
                .to_owned(),
        ));
    }
    if read_only == "on" {
        return Ok(Some(
            "it is read-only (default_transaction_read_only = on): name the primary, or turn that off for this user"
                .to_owned(),
        ));
    }
    if encoding != "UTF8" {
        return Ok(Some(format!(
            "its encoding is {encoding}, which cannot hold every name: create it with ENCODING 'UTF8'"
        )));
    }
    let schema: Option<String> = facts.try_get(6)?;
    if schema.is_none() {
        return Ok(Some(
            "its search_path names no schema that exists: create one for receiptd, or set search_path for this user"
                .to_owned(),
        ));
    }
    if for_reading {
        wanted.push(("default_transaction_read_only", "on".to_owned()));
    }
    // What is stronger than `on`, and `local`, is the operator's choice.
    if synchronous == "off" {
        wanted.push(("synchronous_commit", "on".to_owned()));
    }
    if tcp {
        // So that the server lets go of what a vanished machine holds, and of a listener that reads no more: while it waits
        // for one, no dead row of the whole database can be removed.
        wanted.extend([
            ("tcp_keepalives_idle", "5".to_owned()),
            ("tcp_keepalives_interval", "2".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
            ("tcp_user_timeout", "10000".to_owned()),
        ]);
    }
    let names: Vec<&str> = wanted.iter().map(|(name, _)| *name).collect();
    let values: Vec<&str> = wanted.iter().map(|(_, value)| value.as_str()).collect();
    sqlx::query("SELECT set_config(name, value, false) FROM unnest($1::TEXT[], $2::TEXT[]) AS new(name, value)")
        .bind(&names)
        .bind(&values)
        .persistent(false)
        .execute(&mut *connection)
        .await?;
    let rows = sqlx::query("SELECT name, setting FROM pg_settings WHERE name = ANY($1::TEXT[])")
        .bind(&names)
        .persistent(false)
        .fetch_all(connection)
        .await?;
    for (name, value) in &wanted {
        let found = rows
            .iter()
            .find(|row| row.try_get::<&str, _>(0).is_ok_and(|found| found == *name))
            .and_then(|row| row.try_get::<String, _>(1).ok());
        if found.as_deref() != Some(value.as_str()) {
            let found = found.unwrap_or_else(|| "unknown".to_owned());
            return Ok(Some(format!(
                "the setting {name} of a session is {found} and not {value}: {POOLER_HINT}"
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(url: &str) -> Connector {
        Connector::new(&url.parse().unwrap(), Role::Owner, "test").unwrap()
    }

    #[test]
    fn a_certificate_is_checked_unless_the_way_stays_on_this_machine() {
        for (url, mode, warned) in [
            ("postgres://u@db.example/n", PgSslMode::VerifyFull, false),
            (
                "postgres://u@db.example/n?sslmode=verify-full",
                PgSslMode::VerifyFull,
                false,
            ),
            (
                "postgres://u@db.example/n?sslmode=require",
                PgSslMode::Require,
                true,
            ),
            (
                "postgres://u@db.example/n?sslmode=verify-ca",
                PgSslMode::VerifyCa,
                true,
            ),
            (
                "postgres://u@192.0.2.7/n?sslmode=disable",
                PgSslMode::Disable,
                true,
            ),
            ("postgres://u@localhost/n", PgSslMode::Prefer, false),
            ("postgres://u@127.0.0.1/n", PgSslMode::Prefer, false),
            ("postgres://u@[::1]/n", PgSslMode::Prefer, false),
            (
                "postgres://u@%2Frun%2Fpostgresql/n",
                PgSslMode::Prefer,
                false,
            ),
            (
                "postgres://u@localhost.example/n",
                PgSslMode::VerifyFull,
                false,
            ),
        ] {
            let connector = connector(url);
            let found = connector.options.get_ssl_mode();
            assert_eq!(format!("{found:?}"), format!("{mode:?}"), "{url}");
            assert_eq!(connector.exposed().is_some(), warned, "{url}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let connector = connector("postgres://u:hunter2@db.example:6543/n?sslmode=disable");
        assert_eq!(connector.database, "postgres://u@db.example:6543/n");
        for text in [format!("{connector:?}"), connector.exposed().unwrap()] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}
