//! What every topic needs: the endpoint, a database as a feeder sees it, and the daemon.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tempfile::TempDir;

use super::bare::{Load, Threads};
use super::child::{Contender, this_program};

/// No pacing.
pub(crate) const UNPACED: u32 = 1_000_000;
/// The longest that anything may take.
const PATIENCE: Duration = Duration::from_secs(900);

/// A directory with an endpoint beside it.
pub(crate) struct Rig {
    directory: TempDir,
    _endpoint: Contender,
    pub(crate) http: String,
    pub(crate) https: String,
    control: reqwest::Client,
}

impl Rig {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let path = directory
            .path()
            .to_str()
            .context("a path that is no text")?;
        let (endpoint, said) = Contender::start_saying(&mut this_program(&["endpoint", path])?)?;
        let (http, https) = said.split_once(' ').context(said.clone())?;
        Ok(Self {
            http: http.to_owned(),
            https: https.to_owned(),
            control: reqwest::Client::builder()
                .no_proxy()
                .tls_certs_only([])
                .build()?,
            directory,
            _endpoint: endpoint,
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The certificate authority of the endpoint.
    pub(crate) fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// Asks the endpoint itself.
    pub(crate) async fn control(&self, what: &str) -> anyhow::Result<String> {
        let url = format!("{}/control/{what}", self.http);
        Ok(self.control.get(url).send().await?.text().await?)
    }

    /// Every call since this was last asked: Unix microseconds and key.
    pub(crate) async fn log(&self) -> anyhow::Result<Vec<(i128, String)>> {
        let text = self.control("log").await?;
        text.lines()
            .map(|line| {
                let (at, key) = line.split_once(' ').context("a line of the log")?;
                Ok((at.parse()?, key.to_owned()))
            })
            .collect()
    }

    /// A new database with the schema in it and nothing else.
    pub(crate) fn database(&self, name: &str) -> anyhow::Result<Database> {
        let path = self.path(&format!("{name}.db"));
        let config = self.config(&path, &self.http, UNPACED)?;
        let migrated = receiptd()
            .arg("migrate")
            .arg("--config")
            .arg(config)
            .output()?;
        ensure!(migrated.status.success(), "{migrated:?}");
        Ok(Database { path })
    }

    fn config(&self, database: &Path, base: &str, rate: u32) -> anyhow::Result<PathBuf> {
        let path = database.with_extension("toml");
        let text = format!(
            "[database]\nurl = \"sqlite://{}\"\n\
             [endpoint]\nbase_url = \"{base}\"\ncalls_per_second = {rate}\nca_file = \"ca.pem\"\n\
             [accounts.default]\napp_key = \"bench\"\napp_secret = \"secret\"\nrobot_code = \"bench\"\n\
             calls_per_second = {rate}\n",
            database.display()
        );
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// The daemon, serving; `rate` calls a second.
    pub(crate) fn daemon(
        &self,
        database: &Database,
        base: &str,
        rate: u32,
    ) -> anyhow::Result<Daemon> {
        let config = self.config(&database.path, base, rate)?;
        let daemon = self.spawn(&config, &[])?;
        daemon.until_ready(Duration::from_secs(60))?;
        Ok(daemon)
    }

    /// The daemon, not waited for; `more` goes into its environment.
    pub(crate) fn daemon_early(
        &self,
        database: &Database,
        rate: u32,
        more: &[(&str, &str)],
    ) -> anyhow::Result<Daemon> {
        self.spawn(&self.config(&database.path, &self.http, rate)?, more)
    }

    pub(crate) fn spawn(&self, config: &Path, more: &[(&str, &str)]) -> anyhow::Result<Daemon> {
        let notify = config.with_extension("notify");
        let _ = std::fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify)?;
        let child = receiptd()
            .arg("run")
            .arg("--config")
            .arg(config)
            .env("NOTIFY_SOCKET", &notify)
            .envs(more.iter().copied())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Daemon { child, socket })
    }

    /// The bare loop, ready.
    pub(crate) fn bare(
        &self,
        threads: Threads,
        base: &str,
        load: Load,
    ) -> anyhow::Result<Contender> {
        let authority = self.authority();
        let authority = authority.to_str().context("a path that is no text")?;
        let numbers = [load.walks, load.pages, load.rate].map(|number| number.to_string());
        let mut command = this_program(&["bare", threads.word(), base, authority])?;
        Contender::start(command.args(numbers))
    }
}

/// The program under test.
pub(crate) fn receiptd() -> Command {
    let built = env!("CARGO_BIN_EXE_receiptd");
    Command::new(std::env::var("RECEIPTD_BENCH_BIN").unwrap_or_else(|_| built.to_owned()))
}

/// A running daemon, killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    socket: UnixDatagram,
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it tells systemd that it serves.
    pub(crate) fn until_ready(&self, patience: Duration) -> anyhow::Result<()> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; 4096];
        loop {
            let length = self.socket.recv(&mut buffer)?;
            let said = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            if said.lines().any(|line| line == "READY=1") {
                return Ok(());
            }
        }
    }

    /// Asks it to stop, and waits.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        Command::new("kill").arg(self.pid().to_string()).status()?;
        ensure!(self.child.wait()?.success(), "the daemon did not stop well");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file that feeders and the daemon share.
pub(crate) struct Database {
    pub(crate) path: PathBuf,
}

impl Database {
    /// A connection as `migrations/README.md` recommends it to a feeder.
    pub(crate) async fn feeder(&self) -> anyhow::Result<SqliteConnection> {
        Ok(SqliteConnectOptions::new()
            .filename(&self.path)
            .busy_timeout(Duration::from_secs(30))
            .pragma("wal_autocheckpoint", "0")
            .disable_statement_logging()
            .connect()
            .await?)
    }
}

/// Runs a statement of the bench's own.
pub(crate) async fn execute(
    connection: &mut SqliteConnection,
    statement: impl Into<String>,
) -> anyhow::Result<u64> {
    let statement = AssertSqlSafe(statement.into());
    Ok(sqlx::raw_sql(statement)
        .execute(connection)
        .await?
        .rows_affected())
}

/// A number that a statement finds.
pub(crate) async fn number(
    connection: &mut SqliteConnection,
    statement: impl Into<String>,
) -> anyhow::Result<i64> {
    let rows = sqlx::query(AssertSqlSafe(statement.into()))
        .fetch_all(connection)
        .await?;
    Ok(rows.first().context("no row")?.try_get(0)?)
}

/// Waits until no message is pending any more.
pub(crate) async fn until_none_pending(connection: &mut SqliteConnection) -> anyhow::Result<()> {
    until(connection, "SELECT NOT EXISTS (
            SELECT 1 FROM messages WHERE state = 'pending' AND admitted_at IS NULL
        ) AND NOT EXISTS (SELECT 1 FROM messages WHERE state = 'pending' AND admitted_at IS NOT NULL)")
    .await
}

/// Waits until a statement finds 1.
pub(crate) async fn until(
    connection: &mut SqliteConnection,
    statement: &str,
) -> anyhow::Result<()> {
    let began = Instant::now();
    while number(connection, statement).await? != 1 {
        ensure!(
            began.elapsed() < PATIENCE,
            "it does not come to: {statement}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// An INSERT of `count` messages of the keys `key-FROM`…, sent an hour ago, so that each is due at once.
pub(crate) fn due_at_once(from: u64, count: u64) -> String {
    format!(
        "INSERT INTO messages (process_query_key, expected_readers, sent_at)
        WITH RECURSIVE n(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM n LIMIT {count})
        SELECT printf('key-%08d', n), 1, CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) - 3600000
        FROM n"
    )
}
