//! A pooler between the daemon and the server: pgbouncer, where it is installed.

use std::io::Write as _;
use std::process::{Child, Stdio};

use receiptd::sandbox::SandboxConfig;

use super::cluster::{Cluster, as_somebody};
use super::harness::{DEFAULT_ACCOUNT, House, Server};

/// A running pooler.
struct Pooler {
    child: Child,
    port: u16,
}

impl Pooler {
    /// `None`, and a word on it, where there is no pgbouncer.
    fn start(cluster: &Cluster, mode: &str) -> Option<Self> {
        let mut programs = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter();
        let Some(program) = programs.find(|path| std::path::Path::new(path).exists()) else {
            let line =
                "SKIPPED: no pgbouncer on this machine (Debian: apt-get install pgbouncer)\n";
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            return None;
        };
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let settings = format!(
            "[databases]
* = host=127.0.0.1 port={} user=receiptd
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
",
            cluster.port()
        );
        let file = cluster.dir().join(format!("pgbouncer-{port}.ini"));
        std::fs::write(&file, settings).unwrap();
        let child = as_somebody(program)
            .arg("--quiet")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, port })
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A session stays one session behind a pooler in session mode, so that all works as without one. In transaction mode locks,
/// settings and notifications are another client's a moment later: that is refused by name, before anything is written.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_worked_through_in_session_mode_and_refused_in_transaction_mode() {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let database = cluster.database().await;
    for (mode, works) in [("transaction", false), ("session", true)] {
        let Some(pooler) = Pooler::start(cluster, mode) else {
            return;
        };
        let server = Server {
            url: format!("postgres://receiptd@127.0.0.1:{}/{database}", pooler.port),
            psql: cluster.program("psql"),
        };
        let mut house = House::on(Some(server), SandboxConfig::default(), DEFAULT_ACCOUNT).await;
        house
            .until_true("the pooler answers", || house.try_sql("SELECT 1").is_some())
            .await;
        let (code, said) = house.say("migrate", &[]);
        assert_eq!(code, Some(i32::from(!works)), "{said}");
        if !works {
            assert!(said.contains("pgbouncer"), "{said}");
            assert_eq!(house.tables(), [""; 0], "nothing was written");
            continue;
        }
        house.start();
        house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=3,median=300ms,never=0;a', 3)");
        house.until("SELECT state FROM messages", "complete").await;
        let (code, said) = house.say("check", &[]);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = house.say("status", &[]);
        assert_eq!(code, Some(0), "{said}");
        house.signal("TERM");
        let status = house.ended().await;
        assert!(status.success(), "{status}\n{}", house.log());
    }
    cluster.drop_database(&database);
}
