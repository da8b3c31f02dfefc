//! A daemon as a child process, a sandbox, and a database that others read and write with `sqlite3`, or with `psql`.

#![allow(dead_code, reason = "every test target uses a part of it")]

pub(crate) mod neighbour;
pub(crate) mod small_disk;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use receiptd::sandbox::{Sandbox, SandboxConfig};

/// How long a condition may take at the most.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

pub(crate) struct House {
    pub(crate) sandbox: Sandbox,
    pub(crate) dir: tempfile::TempDir,
    /// For every command of this house: settings (`RECEIPTD__…`), points of failure (`FAILPOINTS`).
    pub(crate) environment: BTreeMap<&'static str, String>,
    database: PathBuf,
    server: Option<Server>,
    daemon: Option<Child>,
    lives: u32,
}

/// The rows of a statement, cells parted by `|`, or what is wrong with it.
pub(crate) type Asked = Result<Vec<String>, String>;

/// An empty database on a server, for houses that have no file.
pub(crate) struct Server {
    pub(crate) url: String,
    /// The program.
    pub(crate) psql: PathBuf,
}

impl Server {
    /// A `psql` that is connected, prints bare cells parted by `|`, and ends at its first error.
    fn psql(&self) -> Command {
        let mut command = Command::new(&self.psql);
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1"])
            .args(["-d", &self.url]);
        command
    }
}

/// What another node or its successor counts a node for dead after: the least that may be set.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

impl House {
    /// A running sandbox and a migrated database, on a server where the test target names one; no daemon yet. `accounts` is
    /// appended to the configuration.
    pub(crate) async fn new(config: SandboxConfig, accounts: &str) -> Self {
        let house = Self::empty(config, accounts).await;
        house.migrate();
        house
    }

    /// A running sandbox and a configuration; no tables yet.
    pub(crate) async fn empty(config: SandboxConfig, accounts: &str) -> Self {
        Self::on(crate::server().await, config, accounts).await
    }

    /// As [`Self::empty`], on a server of the caller's choice.
    pub(crate) async fn on(server: Option<Server>, config: SandboxConfig, accounts: &str) -> Self {
        needs_neighbours();
        let sandbox = Sandbox::start(config).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut house = Self {
            sandbox,
            database: dir.path().join("receiptd.db"),
            dir,
            environment: BTreeMap::new(),
            server,
            daemon: None,
            lives: 0,
        };
        house.configure(accounts);
        if let Some(url) = house.server.as_ref().map(|server| server.url.clone()) {
            house.set("RECEIPTD__DATABASE__URL", &url);
            // Rows that no node serves are marked once nobody has come or gone for a lease: within the life of these keys.
            house.set("RECEIPTD__NODE__LEASE", &format!("{}s", LEASE.as_secs()));
        }
        house
    }

    /// Makes the tables.
    pub(crate) fn migrate(&self) {
        let migrated = self.command("migrate").output().unwrap();
        assert!(
            migrated.status.success(),
            "{}",
            String::from_utf8_lossy(&migrated.stderr)
        );
    }

    /// Says a setting over the file: `house.set("RECEIPTD__CADENCE__MAX_AGE", "60s")`.
    pub(crate) fn set(&mut self, variable: &'static str, value: &str) {
        self.environment.insert(variable, value.to_owned());
    }

    /// Keeps the database in another directory, for commands to come.
    pub(crate) fn move_database(&mut self, directory: &Path) {
        self.database = directory.join("receiptd.db");
        self.set("RECEIPTD__DATABASE__URL", &self.url());
    }

    pub(crate) fn configure(&self, accounts: &str) {
        let text = format!(
            r#"
[database]
url = "sqlite://{}"
[endpoint]
base_url = "{}"
request_timeout = "2s"
[retry]
initial_interval = "20ms"
max_interval = "100ms"
max_elapsed_time = "2s"
[cadence]
calls_per_message = 12
min_interval = "50ms"
max_interval = "8s"
generation_grace = "1500ms"
key_lifetime = "8s"
last_chance = "400ms"
max_age = "14s"
[log]
filter = "info"
{accounts}
"#,
            self.database().display(),
            self.sandbox.base_url()
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.database.clone()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("receiptd.toml")
    }

    pub(crate) fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(binary());
        command
            .arg(subcommand)
            .arg("--config")
            .arg(self.config())
            .envs(&self.environment);
        command
    }

    /// Runs a command to its end; its exit code, and all that it said.
    pub(crate) fn say(&self, subcommand: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(subcommand).args(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts the daemon with variables of its own beside the house's.
    pub(crate) fn start_with(&mut self, environment: &[(&str, &str)]) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        self.lives += 1;
        let mut command = self.command("run");
        if self.is_on_a_server() {
            command.env("RECEIPTD__NODE__NAME", self.node());
        }
        self.daemon = Some(
            command
                .envs(environment.iter().copied())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
    }

    /// The daemon's name among the nodes of a server: another one in each of its lives.
    pub(crate) fn node(&self) -> String {
        format!("life-{}", self.lives)
    }

    /// `kill -9`; how the daemon ended, which may have been before.
    pub(crate) fn kill(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().id()
    }

    /// Whether the daemon has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.daemon.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for the end of a daemon that was told to stop.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        self.ended_within(BOUND).await
    }

    /// As [`Self::ended`], where the time of the end is what was promised.
    pub(crate) async fn ended_within(&mut self, bound: Duration) -> ExitStatus {
        let mut daemon = self.daemon.take().unwrap();
        let since = Instant::now();
        loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                return status;
            }
            if since.elapsed() > bound {
                daemon.kill().unwrap();
                panic!("the daemon did not stop within {bound:?}\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until the log holds `text`.
    pub(crate) async fn until_logged(&self, text: &str) {
        self.until_logs(text, 1).await;
    }

    /// The rows of a statement, cells parted by `|`, through the `sqlite3` shell or `psql`; truth is 1.
    pub(crate) fn sql(&self, statement: &str) -> Vec<String> {
        self.ask(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// The rows of a statement that may fail.
    pub(crate) fn try_sql(&self, statement: &str) -> Option<Vec<String>> {
        self.ask(statement).ok()
    }

    fn ask(&self, statement: &str) -> Asked {
        let Some(server) = &self.server else {
            return rows(
                Command::new("sqlite3")
                    .args(["-cmd", ".timeout 10000"])
                    .arg(self.database())
                    .arg(statement),
            );
        };
        let rows = rows(server.psql().args(["-c", statement]))?;
        Ok(rows.iter().map(|row| truth_is_1(row)).collect())
    }

    /// Another service with a connection of its own, which is told by its input what to do: on a server `psql`, and for a file
    /// this program in Python, which is given its path.
    pub(crate) fn client(&self, program: &str) -> Command {
        self.server.as_ref().map_or_else(
            || {
                let mut python = Command::new("python3");
                python.args(["-c", program]).arg(self.database());
                python
            },
            Server::psql,
        )
    }

    /// Where the database is.
    pub(crate) fn url(&self) -> String {
        self.server.as_ref().map_or_else(
            || format!("sqlite://{}", self.database.display()),
            |server| server.url.clone(),
        )
    }

    /// How the database is named to people.
    pub(crate) fn shown(&self) -> String {
        self.url().trim_start_matches("sqlite://").to_owned()
    }

    /// Makes the database one that a later receiptd has migrated.
    pub(crate) fn make_newer(&self) {
        self.sql(match self.is_on_a_server() {
            false => "INSERT INTO _sqlx_migrations VALUES (9999, 'later', 0, 1, x'00', 0)",
            true => "INSERT INTO receiptd_migrations VALUES (9999, 'later', now(), true, '', 0)",
        });
    }

    /// Whether there is no file to look at.
    pub(crate) fn is_on_a_server(&self) -> bool {
        self.server.is_some()
    }

    /// The database's tables, none where it was not migrated.
    pub(crate) fn tables(&self) -> Vec<String> {
        self.sql(match self.is_on_a_server() {
            false => "SELECT name FROM sqlite_master",
            true => "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
        })
    }

    /// The file is whole. Whether a server's files are is the server's own affair.
    pub(crate) fn is_sound(&self) -> bool {
        self.is_on_a_server() || self.sql("PRAGMA integrity_check") == ["ok"]
    }

    /// Waits until the log has said something so often.
    pub(crate) async fn until_logs(&self, text: &str, times: usize) {
        self.until_true(text, || self.log().matches(text).count() >= times)
            .await;
    }

    /// Waits until the daemon is the one that serves its database: it holds the lock beside it, or leases on a server.
    pub(crate) async fn until_locked(&self) {
        if self.is_on_a_server() {
            let mine = format!(
                "SELECT count(*) > 0 FROM leases JOIN nodes USING (node_id) WHERE nodes.name = '{}'",
                self.node()
            );
            return self.until(&mine, "1").await;
        }
        let lock = self.database().with_extension("db.lock");
        let holder = format!("{}\n", self.pid());
        self.until_true("the lock is taken", || {
            std::fs::read_to_string(&lock).is_ok_and(|found| found == holder)
        })
        .await;
    }

    /// Waits until a condition holds.
    pub(crate) async fn until_true(&self, what: &str, condition: impl Fn() -> bool) {
        let since = Instant::now();
        while !condition() {
            assert!(since.elapsed() < BOUND, "still not: {what}\n{}", self.log());
            tokio::time::sleep(until_next_look(since)).await;
        }
    }

    /// Waits until `statement` prints `wanted`.
    pub(crate) async fn until(&self, statement: &str, wanted: &str) {
        let since = Instant::now();
        loop {
            let got = self.sql(statement).join("\n");
            if got == wanted {
                return;
            }
            assert!(
                since.elapsed() < BOUND,
                "{statement}: wanted {wanted}, still {got}\n{}\nnow {}, the last calls {:#?}\n{}",
                self.sql("SELECT process_query_key, state, last_error, next_poll_at FROM messages WHERE state = 'pending' LIMIT 5")
                    .join("\n"),
                self.sandbox.now(),
                self.sandbox.calls_after(0).iter().rev().take(5).collect::<Vec<_>>(),
                self.log()
            );
            tokio::time::sleep(until_next_look(since)).await;
        }
    }
}

/// From one look at a condition to the next: each starts a program, which costs the tests beside it.
fn until_next_look(since: Instant) -> Duration {
    let waited = since.elapsed() / 10;
    waited.clamp(Duration::from_millis(20), Duration::from_millis(250))
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // It may have ended by itself, which the test has noticed elsewhere.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The daemon that the tests were built with, or another one.
fn binary() -> PathBuf {
    std::env::var_os("FAULTS_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_receiptd")),
        PathBuf::from,
    )
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

/// Ends this test target, and says so, on a machine that has not got the programs by which these tests write to the
/// database as other services do.
fn needs_neighbours() {
    for program in ["sqlite3", "python3"] {
        let found = Command::new(program).arg("--version").output();
        if found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            // Past the test runner, which would keep it to itself.
            let line =
                format!("SKIPPED: the rest of these tests, since {program} is not installed\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            std::process::exit(0);
        }
    }
}

fn rows(shell: &mut Command) -> Asked {
    let output = shell.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// As SQLite shows it.
fn truth_is_1(row: &str) -> String {
    let cells = row.split('|').map(|cell| match cell {
        "t" => "1",
        "f" => "0",
        other => other,
    });
    cells.collect::<Vec<_>>().join("|")
}

/// An internal account of the sandbox's own app.
pub(crate) const DEFAULT_ACCOUNT: &str = r#"
[accounts.default]
app = "internal"
app_key = "sandbox"
app_secret = "sandbox"
calls_per_second = 400
"#;
