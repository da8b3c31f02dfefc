//! A private PostgreSQL cluster, started by the tests themselves and gone with them.
//!
//! It runs as a user who is not root, since PostgreSQL refuses him, in a directory of its own. A shell guards it, whose
//! input ends with the test's process, however that ends: then it stops the server and removes the directory.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod proxy;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _};

/// The user `nobody`.
pub(crate) const SOMEBODY: u32 = 65_534;

/// A running server.
pub(crate) struct Cluster {
    /// Ends the guard when dropped.
    guard: Option<ChildStdin>,
    child: Child,
    dir: PathBuf,
    bin: PathBuf,
    port: u16,
    databases: AtomicU32,
}

const GUARD: &str = r#"
set -eu
umask 077
dir=$(mktemp -d "${TMPDIR:-/tmp}/receiptd-postgres.XXXXXX")
cd "$dir"
trap 'for data in data standby; do "$BIN/pg_ctl" -D "$dir/$data" -m immediate stop >/dev/null 2>&1 || true; done; rm -rf "$dir"' EXIT
# A server whose own order of text is not that of bytes, where it can be had.
"$BIN/initdb" -D data -U receiptd -A trust -E UTF8 --no-sync --locale=C.UTF-8 --locale-provider=icu --icu-locale=en >log 2>&1 ||
    { rm -rf data; "$BIN/initdb" -D data -U receiptd -A trust -E UTF8 --no-sync --locale=C >log 2>&1; } ||
    { cat log >&2; exit 1; }
cat >>data/postgresql.conf <<END
port = $PORT
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir'
max_connections = 200
shared_buffers = 32MB
wal_level = replica
fsync = off
END
"$BIN/pg_ctl" -D "$dir/data" -l "$dir/log" -w start >/dev/null 2>&1 || { cat log >&2; exit 1; }
echo "$dir"
cat >/dev/null
"#;

impl Cluster {
    /// The cluster that the tests of this binary share; `None`, and a word on it, where PostgreSQL is not installed.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        SHARED.get_or_init(Self::own).as_ref()
    }

    /// A cluster of a test's own, which it may stop and restart.
    pub(crate) fn own() -> Option<Self> {
        let Some(bin) = binaries() else {
            // Not by a macro: the harness would keep it to itself.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: no PostgreSQL on this machine (Debian: apt-get install postgresql)"
            );
            return None;
        };
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut child = as_somebody("sh")
            .args(["-c", GUARD])
            .env("BIN", &bin)
            .env("PORT", port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let guard = child.stdin.take();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "PostgreSQL did not start: see above");
        Some(Self {
            guard,
            child,
            dir: line.trim_end().into(),
            bin,
            port,
            databases: AtomicU32::new(0),
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a database, over TCP.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://receiptd@127.0.0.1:{}/{database}", self.port)
    }

    /// An empty database; its name.
    pub(crate) async fn database(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await;
        // Databases are copied one at a time.
        loop {
            let create = AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"));
            match sqlx::query(create).execute(&mut connection).await {
                Ok(_) => return name,
                Err(error) if error.to_string().contains("being accessed") => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits for the disk at each commit, which tests do without.
    pub(crate) fn durable(&self) {
        let file = self.dir.join("data/postgresql.conf");
        assert!(self.shell(&format!("echo 'fsync = on' >>{}", file.display())));
        self.control(&["restart", "-m", "fast"]);
    }

    /// Removes a database, whoever is connected.
    pub(crate) fn drop_database(&self, name: &str) {
        let dropped = self
            .command("dropdb")
            .args([
                "--force",
                "--if-exists",
                "--host=127.0.0.1",
                "--username=receiptd",
            ])
            .arg(format!("--port={}", self.port))
            .arg(name)
            .status();
        assert!(
            dropped.is_ok_and(|status| status.success()),
            "dropdb {name}"
        );
    }

    /// A connection of another program.
    pub(crate) async fn connect(&self, database: &str) -> PgConnection {
        let options: PgConnectOptions = self.url(database).parse().unwrap();
        options
            .application_name("a feeder")
            .disable_statement_logging()
            .connect()
            .await
            .unwrap()
    }

    /// Runs `pg_ctl`, and waits for it.
    pub(crate) fn control(&self, arguments: &[&str]) {
        self.control_of("data", arguments);
    }

    fn control_of(&self, data: &str, arguments: &[&str]) {
        let done = self
            .command("pg_ctl")
            .arg("-D")
            .arg(self.dir.join(data))
            .arg("-l")
            .arg(self.dir.join("log"))
            .arg("-w")
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(done.success(), "pg_ctl {arguments:?}");
    }

    /// Gives the server a standby for which every commit waits.
    pub(crate) async fn add_standby(&self) {
        let copied = self
            .command("pg_basebackup")
            .arg("-D")
            .arg(self.dir.join("standby"))
            .args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"])
            .args(["--host=127.0.0.1", "--username=receiptd"])
            .arg(format!("--port={}", self.port))
            .status();
        assert!(copied.is_ok_and(|status| status.success()), "pg_basebackup");
        // Until it is promoted it is reached by nobody but through its own directory.
        let away = format!(
            "-c listen_addresses= -c unix_socket_directories={}/standby",
            self.dir.display()
        );
        self.control_of("standby", &["-o", &away, "start"]);
        let mut connection = self.connect("postgres").await;
        for statement in [
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            "SELECT pg_reload_conf()",
        ] {
            sqlx::query(statement)
                .execute(&mut connection)
                .await
                .unwrap();
        }
        let attached = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
        while sqlx::query_scalar::<_, i64>(attached)
            .fetch_one(&mut connection)
            .await
            .unwrap()
            == 0
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// The server dies, and its standby takes its place at the same address.
    pub(crate) fn fail_over(&self) {
        self.control(&["stop", "-m", "immediate"]);
        self.control_of("standby", &["promote"]);
        // It waits for no standby of its own, and listens where the old one did.
        let alone = "-c synchronous_standby_names=";
        self.control_of("standby", &["-m", "fast", "-o", alone, "restart"]);
    }

    /// A program of PostgreSQL.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// As [`Self::program`], run by the user who owns the cluster.
    pub(crate) fn command(&self, program: &str) -> Command {
        as_somebody(self.program(program).to_str().unwrap())
    }

    /// Runs a line of shell as the user who owns the cluster; whether it succeeded.
    pub(crate) fn shell(&self, line: &str) -> bool {
        let done = as_somebody("sh").args(["-c", line]).status();
        done.is_ok_and(|status| status.success())
    }

    /// The cluster's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guard.take());
        let _ = self.child.wait();
    }
}

/// Where PostgreSQL's programs are, the newest version first.
fn binaries() -> Option<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(version, bin)| *version >= 15 && bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().map(|(_, bin)| bin).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .find(|dir| dir.join("initdb").exists() && dir.join("postgres").exists())
    })
}

/// A command as the user of the tests, or as nobody where that is root.
pub(crate) fn as_somebody(program: &str) -> Command {
    let root = std::fs::metadata("/proc/self")
        .is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        &format!("--reuid={SOMEBODY}"),
        &format!("--regid={SOMEBODY}"),
        "--clear-groups",
        "--",
        program,
    ]);
    command.current_dir("/");
    command
}

/// A Python that has the driver of PostgreSQL: Debian's own, where another one is first.
pub(crate) fn python_with_driver() -> Option<&'static str> {
    let has_driver = |python: &&str| {
        let tried = Command::new(python)
            .args(["-c", "import psycopg2"])
            .output();
        tried.is_ok_and(|output| output.status.success())
    };
    ["python3", "/usr/bin/python3"].into_iter().find(has_driver)
}
