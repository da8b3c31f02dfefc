//! A server, a sandbox, some nodes, a feeder and a consumer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use receiptd::sandbox::{App, FaultPlan, Sandbox, SandboxConfig};
use sqlx::AssertSqlSafe;
use tokio_util::task::AbortOnDropHandle;

use super::cluster::Cluster;

/// How long a condition may take at the most.
pub(crate) const BOUND: Duration = Duration::from_secs(30);
/// Of the nodes here: short, so that the tests are.
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// A dead node's messages are asked for within its lease and so much.
pub(crate) const TAKEN_OVER: Duration = Duration::from_secs(12);

/// The accounts. Every third has a budget of its own, and two share one.
pub(crate) const ACCOUNTS: [&str; 12] = [
    "a00", "a01", "a02", "a03", "a04", "a05", "a06", "a07", "a08", "a09", "a10", "a11",
];

pub(crate) fn is_limited(account: &str) -> bool {
    matches!(account, "a00" | "a03" | "a06" | "a09" | "a10" | "a11")
}

fn account(name: &str) -> String {
    let budget = match name {
        "a10" | "a11" => "budget = \"shared\"",
        name if is_limited(name) => "monthly_calls = 100000",
        _ => "",
    };
    format!(
        "[accounts.{name}]\napp_key = \"{name}\"\napp_secret = \"secret\"\ncalls_per_second = {RATE}\n{budget}\n"
    )
}

/// Whose reads are pushed alone; what it says of the sandbox, and of how many readers.
const TOLD_RULE: &str = "readers=2,never=1,expire=10m";
const TOLD: u32 = 3;

/// The first readers that are pushed.
pub(crate) fn told(readers: u32) -> Vec<String> {
    (0..readers)
        .map(|reader| format!("told-{reader}"))
        .collect()
}

/// Who reads a message: as the sandbox has it, or as it was pushed.
pub(crate) fn readers_of(sandbox: &Sandbox, key: &str) -> Vec<String> {
    if key.contains(TOLD_RULE) {
        return told(TOLD);
    }
    let truth = sandbox.truth(key).unwrap();
    truth.readers.into_iter().map(|read| read.user_id).collect()
}

/// Calls a second of an account, by receiptd's setting and by the sandbox's.
const RATE: u32 = 20;

pub(crate) struct Town {
    pub(crate) cluster: Cluster,
    pub(crate) database: String,
    pub(crate) sandbox: Sandbox,
    pub(crate) nodes: Vec<Node>,
    dir: tempfile::TempDir,
    fed: BTreeMap<String, Vec<String>>,
    /// What a consumer with a cursor read, one line a reader.
    consumed: Arc<Mutex<Vec<String>>>,
    _consumer: AbortOnDropHandle<()>,
}

/// A `now()` that is found before the server's own.
const CLOCK: &str = "
CREATE SCHEMA fake;
CREATE TABLE fake.ahead (ms BIGINT NOT NULL);
INSERT INTO fake.ahead VALUES (0);
CREATE FUNCTION fake.now() RETURNS TIMESTAMPTZ LANGUAGE sql STABLE AS
    'SELECT pg_catalog.now() + (SELECT ms FROM fake.ahead) * INTERVAL ''1 millisecond''';
ALTER DATABASE DATABASE_NAME SET search_path = fake, pg_catalog, public;
";

/// A daemon that may run.
pub(crate) struct Node {
    pub(crate) number: usize,
    /// The address by which it calls the sandbox.
    pub(crate) host: String,
    /// Variables of its own.
    pub(crate) environment: Vec<(&'static str, &'static str)>,
    config: PathBuf,
    log: PathBuf,
    daemon: Option<Child>,
}

impl Town {
    /// `count` nodes, none of which runs. `None` without PostgreSQL.
    pub(crate) async fn new(count: usize, seed: u64, faults: bool) -> Option<Self> {
        Self::prepared(count, seed, faults, None).await
    }

    /// As [`Town::new`], with a server whose clock [`Town::set_clock_forward`] can set.
    pub(crate) async fn with_clock(count: usize, seed: u64) -> Option<Self> {
        Self::prepared(count, seed, false, Some(CLOCK)).await
    }

    async fn prepared(count: usize, seed: u64, faults: bool, first: Option<&str>) -> Option<Self> {
        let cluster = Cluster::own()?;
        let database = cluster.database().await;
        if let Some(first) = first {
            let mut connection = cluster.connect(&database).await;
            let statement = AssertSqlSafe(first.replace("DATABASE_NAME", &database));
            sqlx::raw_sql(statement)
                .execute(&mut connection)
                .await
                .unwrap();
        }
        let plan = FaultPlan {
            seed,
            rates: ["code=system.error", "drop=before", "html", "hang=300ms"]
                .map(|kind| {
                    (
                        receiptd::sandbox::Mischief::parse(kind).unwrap().unwrap(),
                        0.02,
                    )
                })
                .to_vec(),
            in_a_row: 2,
            ..FaultPlan::default()
        };
        let sandbox = Sandbox::start(SandboxConfig {
            listen: "0.0.0.0:0".parse().unwrap(),
            seed,
            apps: ACCOUNTS
                .iter()
                .map(|name| App::internal(name, "secret"))
                .collect(),
            calls_per_second: RATE,
            faults: faults.then_some(plan),
            log_capacity: 1_000_000,
            ..SandboxConfig::default()
        })
        .await
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let consumed = Arc::default();
        let consumer = tokio::spawn(consume(cluster.url(&database), Arc::clone(&consumed)));
        let mut town = Self {
            cluster,
            database,
            sandbox,
            nodes: Vec::new(),
            dir,
            fed: BTreeMap::new(),
            consumed,
            _consumer: AbortOnDropHandle::new(consumer),
        };
        for number in 0..count {
            let port = town.cluster.port();
            town.add(number, port, &ACCOUNTS, "");
        }
        let migrated = Command::new(binary())
            .args(["migrate", "--config"])
            .arg(&town.nodes[0].config)
            .output()
            .unwrap();
        assert!(
            migrated.status.success(),
            "{}",
            String::from_utf8_lossy(&migrated.stderr)
        );
        Some(town)
    }

    /// Writes a node's configuration; `port` is where it finds the server.
    pub(crate) fn add(&mut self, number: usize, port: u16, accounts: &[&str], more: &str) {
        let host = format!("127.0.0.{}:{}", number + 2, self.sandbox.addr().port());
        let config = self.dir.path().join(format!("{number}.toml"));
        let accounts: String = accounts.iter().map(|name| account(name)).collect();
        let text = format!(
            r#"
[database]
url = "postgres://receiptd@127.0.0.1:{port}/{}?sslmode=disable"
[node]
name = "n{number}"
lease = "{}s"
[endpoint]
base_url = "http://{host}"
request_timeout = "2s"
[workers]
shutdown_grace = "5s"
[retry]
initial_interval = "50ms"
max_interval = "200ms"
max_elapsed_time = "5s"
[cadence]
calls_per_message = 12
min_interval = "200ms"
max_interval = "4s"
generation_grace = "5s"
key_lifetime = "10m"
last_chance = "10s"
max_age = "20m"
[log]
filter = "info"
[budgets.shared]
monthly_calls = 100000
{accounts}
{more}
"#,
            self.database,
            LEASE.as_secs(),
        );
        std::fs::write(&config, text).unwrap();
        let log = self.dir.path().join(format!("{number}.log"));
        let node = Node {
            number,
            host,
            environment: Vec::new(),
            config,
            log,
            daemon: None,
        };
        match self.nodes.get_mut(number) {
            Some(known) => *known = node,
            None => self.nodes.push(node),
        }
    }

    /// By `now()`, on every session.
    pub(crate) fn set_clock_forward(&self, by: Duration) {
        self.sql(&format!("UPDATE fake.ahead SET ms = {}", by.as_millis()));
    }

    /// Leaves an account out of a node's configuration, which it has yet to read again.
    pub(crate) fn forget(&self, number: usize, account: &str) {
        let config = &self.nodes[number].config;
        let text = std::fs::read_to_string(config).unwrap();
        let section = self::account(account);
        assert!(text.contains(&section));
        std::fs::write(config, text.replace(&section, "")).unwrap();
    }

    pub(crate) fn start_all(&mut self) {
        for node in &mut self.nodes {
            node.start();
        }
    }

    /// The rows of a statement, cells parted by `|`, through `psql`; `None` where the server is away.
    pub(crate) fn try_sql(&self, statement: &str) -> Option<Vec<String>> {
        let output = self
            .cluster
            .command("psql")
            .args(["-XAtqc", statement, "-v", "ON_ERROR_STOP=1"])
            .arg(self.cluster.url(&self.database))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        output
            .status
            .success()
            .then(|| text.lines().map(str::to_owned).collect())
    }

    pub(crate) fn sql(&self, statement: &str) -> Vec<String> {
        self.try_sql(statement)
            .unwrap_or_else(|| panic!("{statement}\n{}", self.logs()))
    }

    /// Feeds a message to each of `accounts`, as soon as the server takes it; their keys.
    pub(crate) async fn feed(
        &mut self,
        accounts: &[&str],
        rule: &str,
        expected: u32,
    ) -> Vec<String> {
        let mut keys = Vec::new();
        for account in accounts {
            let of_account = self.fed.entry((*account).to_owned()).or_default();
            let key = format!("sb:{rule};{account}-{}", of_account.len());
            of_account.push(key.clone());
            keys.push(key);
        }
        let values: Vec<String> = accounts
            .iter()
            .zip(&keys)
            .map(|(account, key)| format!("('{key}', '{account}', {expected})"))
            .collect();
        let insert = format!(
            "INSERT INTO messages (process_query_key, account, expected_readers) VALUES {} ON CONFLICT DO NOTHING",
            values.join(", ")
        );
        self.until_true("fed", || self.try_sql(&insert).is_some())
            .await;
        keys
    }

    /// A message that no poll shows to be read, and its readers as they are pushed: one before its row, all after it, twice each.
    async fn feed_told(&mut self, account: &str) -> String {
        let number = self.fed.get(account).map_or(0, Vec::len);
        let key = format!("sb:{TOLD_RULE};{account}-{number}");
        self.push(&key, 1).await;
        let fed = self.feed(&[account], TOLD_RULE, TOLD).await;
        assert_eq!(fed, [key.as_str()]);
        self.push(&key, TOLD).await;
        key
    }

    /// Events of the first readers, as soon as the server takes them.
    async fn push(&self, key: &str, readers: u32) {
        let events: Vec<String> = told(readers)
            .iter()
            .map(|user| format!("('{key}', '{user}')"))
            .collect();
        let insert = format!(
            "INSERT INTO read_events (process_query_key, user_id) VALUES {0}, {0}",
            events.join(", ")
        );
        self.until_true("pushed", || self.try_sql(&insert).is_some())
            .await;
    }

    /// A round of messages: of most a few people read within seconds, one is taken back, and of one the reads are pushed.
    pub(crate) async fn feed_round(&mut self, luck: &mut fastrand::Rng) -> Vec<String> {
        let mut fed = self
            .feed(
                &ACCOUNTS,
                "readers=3,median=2s,sigma=0.5,never=0,expire=10m",
                3,
            )
            .await;
        let one = ACCOUNTS[luck.usize(..ACCOUNTS.len())];
        fed.extend(
            self.feed(&[one], "readers=4,median=2s,recall=6s,expire=10m", 5)
                .await,
        );
        let one = ACCOUNTS[luck.usize(..ACCOUNTS.len())];
        self.feed_told(one).await;
        fed
    }

    /// Every message that was fed.
    pub(crate) fn fed(&self) -> Vec<String> {
        self.fed.values().flatten().cloned().collect()
    }

    pub(crate) fn consumed(&self) -> Vec<String> {
        self.consumed.lock().unwrap().clone()
    }

    /// Which node has which of the accounts' groups, by its name.
    pub(crate) fn holders(&self) -> BTreeMap<String, String> {
        let rows = self.try_sql(
            "SELECT unnest(l.accounts), n.name FROM leases AS l JOIN nodes AS n ON n.node_id = l.node_id",
        );
        rows.unwrap_or_default()
            .iter()
            .filter_map(|row| row.split_once('|'))
            .map(|(account, node)| (account.to_owned(), node.to_owned()))
            .collect()
    }

    /// The accounts that a node has.
    pub(crate) fn accounts_of(&self, number: usize) -> Vec<String> {
        let name = format!("n{number}");
        let held = self.holders().into_iter();
        held.filter(|(_, node)| *node == name)
            .map(|(account, _)| account)
            .collect()
    }

    /// Waits until each account is some node's, and the nodes that have one are those.
    pub(crate) async fn until_all_held(&self) {
        self.until_true("every account is some node's", || {
            self.holders().len() == ACCOUNTS.len()
        })
        .await;
    }

    /// Waits until all of `keys` were asked for after `seq`; when each was, by the sandbox's clock.
    pub(crate) async fn until_asked(&self, keys: &[String], seq: u64) -> Vec<(String, i64)> {
        let asked = |key: &String| {
            let calls = self.sandbox.calls_after(seq);
            let call = calls.iter().find(|call| call.key == *key);
            call.map(|call| (key.clone(), call.at))
        };
        self.until_true("every key is asked for", || {
            keys.iter().all(|key| asked(key).is_some())
        })
        .await;
        keys.iter().filter_map(asked).collect()
    }

    /// The number of the sandbox's last call.
    pub(crate) fn seq(&self) -> u64 {
        self.sandbox
            .calls_after(0)
            .last()
            .map_or(0, |call| call.seq)
    }

    /// Waits until a condition holds.
    pub(crate) async fn until_true(&self, what: &str, condition: impl Fn() -> bool) {
        let since = Instant::now();
        while !condition() {
            if since.elapsed() > BOUND {
                panic!("still not: {what}\n{}", self.told());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// All that a person would look at.
    pub(crate) fn told(&self) -> String {
        let asked = [
            "SELECT process_query_key, account, lane_corp, last_error, admitted_at, last_polled_at, next_poll_at, failed_walks
            FROM messages WHERE state = 'pending' LIMIT 20",
            "SELECT name, node_id, heard_of_at, expires_at, promises, condition FROM nodes",
            "SELECT name, node_id, epoch, changed_at FROM leases",
            "SELECT account, calls FROM api_calls",
            "SELECT (extract(epoch FROM now()) * 1000)::BIGINT",
        ];
        let told = asked.map(|statement| self.try_sql(statement).unwrap_or_default().join("\n"));
        format!("{}\n{}", told.join("\n\n"), self.logs())
    }

    pub(crate) fn logs(&self) -> String {
        let logs = self.nodes.iter().map(|node| {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(60);
            format!(
                "node {}:\n{}\nholders {:?}\n",
                node.number,
                lines[from..].join("\n"),
                self.holders()
            )
        });
        logs.collect()
    }
}

impl Node {
    pub(crate) fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap();
        let daemon = Command::new(binary())
            .args(["run", "--config"])
            .arg(&self.config)
            .env("TMPDIR", self.config.parent().unwrap())
            .envs(self.environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.daemon = Some(daemon.unwrap());
    }

    /// A command beside the nodes.
    pub(crate) fn say(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(binary())
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .env("TMPDIR", self.config.parent().unwrap())
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.daemon.as_ref().unwrap().id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for the end of a daemon that was told to stop.
    pub(crate) async fn ended(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        let since = Instant::now();
        loop {
            if let Some(status) = daemon.try_wait().unwrap() {
                assert!(status.success(), "{}", self.log());
                return;
            }
            assert!(since.elapsed() < BOUND, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn is_running(&mut self) -> bool {
        let daemon = self.daemon.as_mut();
        daemon.is_some_and(|daemon| daemon.try_wait().unwrap().is_none())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Node {
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
    std::env::var_os("NODES_BINARY").map_or_else(
        || PathBuf::from(env!("CARGO_BIN_EXE_receiptd")),
        PathBuf::from,
    )
}

/// Reads on from a cursor, as any service would, for ever.
async fn consume(url: String, consumed: Arc<Mutex<Vec<String>>>) {
    use sqlx::{Connection as _, Row as _};
    let mut last: i64 = 0;
    loop {
        if let Ok(mut connection) = sqlx::PgConnection::connect(&url).await {
            let query = "SELECT id, process_query_key, user_id FROM readers WHERE id > $1 ORDER BY id LIMIT 100";
            while let Ok(rows) = sqlx::query(query)
                .bind(last)
                .fetch_all(&mut connection)
                .await
            {
                for row in &rows {
                    last = row.get(0);
                    let line =
                        format!("{last}|{}|{}", row.get::<&str, _>(1), row.get::<&str, _>(2));
                    consumed.lock().unwrap().push(line);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
