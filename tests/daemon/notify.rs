//! What systemd would be told, on a socket of the test's own; and the reload that waits.

use std::os::unix::net::UnixDatagram;
use std::process::Output;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use receiptd::sandbox::SandboxConfig;

use super::harness::neighbour::Neighbour;
use super::harness::{BOUND, DEFAULT_ACCOUNT, House};

/// systemd's end. It listens all the time, as systemd does: a socket that nobody reads soon blocks its writers.
struct Manager {
    /// Every message, as its lines.
    messages: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Manager {
    fn beside(house: &mut House) -> Self {
        let path = house.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        house.set("NOTIFY_SOCKET", path.to_str().unwrap());
        let messages = Arc::new(Mutex::new(Vec::new()));
        let ours = Arc::downgrade(&messages);
        // So that it notices the end of the test.
        socket
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Some(messages) = ours.upgrade() {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                    let lines = text.lines().map(str::to_owned).collect();
                    messages.lock().unwrap().push(lines);
                }
            }
        });
        Self { messages }
    }

    /// What was heard so far.
    fn heard(&self) -> Vec<Vec<String>> {
        self.messages.lock().unwrap().clone()
    }

    /// Waits for a message from the `from`-th on with a line that begins so; its place.
    async fn until(&self, from: usize, beginning: &str, house: &House) -> usize {
        let since = Instant::now();
        loop {
            let heard = self.heard();
            let found = heard
                .iter()
                .skip(from)
                .position(|message| message.iter().any(|line| line.starts_with(beginning)));
            if let Some(place) = found {
                return from + place;
            }
            assert!(
                since.elapsed() < BOUND,
                "no {beginning} in {heard:?}\n{}",
                house.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn count(&self, line: &str) -> usize {
        let heard = self.heard();
        heard
            .iter()
            .flatten()
            .filter(|heard| *heard == line)
            .count()
    }
}

/// A lane that no answer can be had for.
fn without_endpoint(house: &House) {
    let text = std::fs::read_to_string(config(house)).unwrap();
    let text = text.replace(&house.sandbox.base_url().to_string(), "http://127.0.0.1:1");
    std::fs::write(config(house), text).unwrap();
}

fn config(house: &House) -> std::path::PathBuf {
    house.dir.path().join("receiptd.toml")
}

fn reload(house: &House) -> Output {
    let pid = house.pid().to_string();
    house.command("reload").arg(pid).output().unwrap()
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_comes_after_a_long_migration_for_which_time_is_asked_and_needs_no_endpoint() {
    let mut house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    without_endpoint(&house);
    let manager = Manager::beside(&mut house);
    house.start_with(&[("FAILPOINTS", "store.migrate=pause")]);
    let migrating = manager
        .until(
            0,
            "STATUS=database: bringing the schema to version 1",
            &house,
        )
        .await;
    manager
        .until(migrating, "EXTEND_TIMEOUT_USEC=60000000", &house)
        .await;
    // More is asked for as it goes on, and it is not called ready.
    let since = manager.heard().len();
    manager
        .until(since, "EXTEND_TIMEOUT_USEC=60000000", &house)
        .await;
    assert_eq!(manager.count("READY=1"), 0);
    house.kill();

    house.start();
    manager.until(since, "READY=1", &house).await;
    house.sql("INSERT INTO messages (process_query_key) VALUES ('sb:;asked')");
    manager.until(since, "STATUS=1 pending", &house).await;
    assert_eq!(manager.count("READY=1"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_used_is_never_ready() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.make_newer();
    let manager = Manager::beside(&mut house);
    house.start();
    assert_eq!(house.ended().await.code(), Some(1), "{}", house.log());
    assert_eq!(manager.count("READY=1"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_account_the_service_does_not_start_and_says_what_to_write() {
    let mut house = House::new(SandboxConfig::default(), "").await;
    let manager = Manager::beside(&mut house);
    let started = house
        .command("run")
        .arg("--require-account")
        .output()
        .unwrap();
    assert_eq!(started.status.code(), Some(2));
    assert!(
        said(&started).contains("[accounts.default]"),
        "{}",
        said(&started)
    );
    assert_eq!(manager.count("READY=1"), 0);
    let checked = house.command("check").arg("--settings").output().unwrap();
    assert!(!checked.status.success());
    house.configure(DEFAULT_ACCOUNT);
    let checked = house.command("check").arg("--settings").output().unwrap();
    assert!(checked.status.success(), "{}", said(&checked));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_line_counts_and_names_what_is_wrong() {
    let wrong = DEFAULT_ACCOUNT
        .replace("default", "mistyped")
        .replace("app_secret = \"sandbox\"", "app_secret = \"not this one\"");
    let mut house = House::new(
        SandboxConfig::default(),
        &(DEFAULT_ACCOUNT.to_owned() + &wrong),
    )
    .await;
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "1s");
    let manager = Manager::beside(&mut house);
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0;fine', 'default', 1), ('sb:readers=1;never', 'mistyped', 1), ('sb:;unserved', 'nobody', 1)",
    );
    house
        .until(
            "SELECT state FROM messages WHERE account = 'default'",
            "complete",
        )
        .await;
    let since = Instant::now();
    loop {
        let heard = manager.heard();
        let last = heard
            .iter()
            .flatten()
            .rev()
            .find(|line| line.starts_with("STATUS="));
        let line = last.cloned().unwrap_or_default();
        let wanted = [
            " pending",
            " calls this month",
            "; mistyped blocked (invalidClientIdOrSecret)",
            "; nobody unconfigured (account.unknown)",
        ];
        if wanted.iter().all(|part| line.contains(part)) {
            assert!(
                !line.contains("default"),
                "what is well is not named: {line}"
            );
            assert!(!line.contains(" 0 calls this month"), "{line}");
            break;
        }
        assert!(since.elapsed() < BOUND, "still {line}\n{}", house.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_has_finished_when_the_command_returns_and_fails_where_it_is_refused() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let manager = Manager::beside(&mut house);
    house.start();
    let ready = manager.until(0, "READY=1", &house).await;
    manager.until(ready, "STATUS=", &house).await;
    house.configure(&(DEFAULT_ACCOUNT.to_owned() + &DEFAULT_ACCOUNT.replace("default", "later")));
    let reloaded = reload(&house);
    assert!(
        reloaded.status.success(),
        "{}\n{}",
        said(&reloaded),
        house.log()
    );
    assert!(
        house.log().contains("configuration: read again"),
        "{}",
        house.log()
    );
    let reloading = manager.until(ready, "RELOADING=1", &house).await;
    assert!(
        manager.heard()[reloading]
            .iter()
            .any(|line| line.starts_with("MONOTONIC_USEC="))
    );
    manager.until(reloading, "READY=1", &house).await;
    house.sql("INSERT INTO messages (process_query_key, account, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;later', 'later', 1)");
    house.until("SELECT state FROM messages", "complete").await;
    assert!(!house.log().contains("account.unknown"), "{}", house.log());

    // What the command can see to be wrong does not reach the daemon.
    house.configure("[accounts.default]\napp_kee = \"x\"");
    let refused = reload(&house);
    assert_eq!(refused.status.code(), Some(2));
    assert!(said(&refused).contains("app_kee"), "{}", said(&refused));
    // The daemon's own refusal: a signal by hand, and what shows only where the settings are put to use.
    let from = manager.heard().len();
    house.signal("HUP");
    let reloading = manager.until(from, "RELOADING=1", &house).await;
    manager.until(reloading, "READY=1", &house).await;
    house.until_logged("the new one is refused").await;
    house.configure(DEFAULT_ACCOUNT);
    let text = std::fs::read_to_string(config(&house)).unwrap();
    let with_ca = text.replace("[endpoint]", "[endpoint]\nca_file = \"not-there.pem\"");
    std::fs::write(config(&house), with_ca).unwrap();
    let refused = reload(&house);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains("not-there.pem"),
        "{}",
        said(&refused)
    );
    manager.until(from, "STATUS=", &house).await;
    let line = "; the new configuration is refused: ";
    let since = Instant::now();
    while !manager
        .heard()
        .iter()
        .flatten()
        .any(|heard| heard.contains(line))
    {
        assert!(since.elapsed() < BOUND, "{:?}", manager.heard());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The old one stays.
    house.sql("INSERT INTO messages (process_query_key, account, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;more', 'later', 1)");
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%;more'",
            "complete",
        )
        .await;
    // Without a process id it finds the daemon by itself.
    house.configure(DEFAULT_ACCOUNT);
    let reloaded = house.command("reload").output().unwrap();
    assert!(reloaded.status.success(), "{}", said(&reloaded));
    assert!(String::from_utf8_lossy(&reloaded.stdout).contains(&house.pid().to_string()));
    // Another process is not asked.
    let other = house.command("reload").arg("1").output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(
        said(&other).contains("process 1 does not serve"),
        "{}",
        said(&other)
    );

    let from = manager.heard().len();
    house.signal("TERM");
    let stopping = manager.until(from, "STOPPING=1", &house).await;
    // Its grace, 15 s, and some.
    assert!(
        manager.heard()[stopping].contains(&"EXTEND_TIMEOUT_USEC=25000000".to_owned()),
        "{:?}",
        manager.heard()[stopping]
    );
    assert!(house.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_reload_that_is_refused_does_not_end_the_first() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // The scheduler takes new settings when it turns: it has time to be told of others before.
    house.start_with(&[("FAILPOINTS", "daemon.claim=sleep(4000)")]);
    house.until_logged("receiptd serves").await;
    house.sql("INSERT INTO messages (process_query_key) VALUES ('sb:readers=1;one')");
    let mut first = house.command("reload").spawn().unwrap();
    house.until_logged("configuration: read again").await;
    house.configure("nonsense = 1");
    house.signal("HUP");
    assert!(first.wait().unwrap().success(), "{}", house.log());
    house.until_logged("the new one is refused").await;
    // The first was taken before.
    let log = house.log();
    assert!(
        log.find("read again") < log.find("the new one is refused"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_is_fed_while_a_foreign_process_holds_the_write_lock() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let manager = Manager::beside(&mut house);
    house.set("WATCHDOG_USEC", "2000000");
    house.start();
    manager.until(0, "READY=1", &house).await;
    // New rows to place, and results to write: scheduler and reconciler both want the lock.
    house.sql("INSERT INTO messages (process_query_key) SELECT 'sb:readers=3;' || value FROM generate_series(1, 50) AS value");
    house
        .until(
            "SELECT count(*) > 0 FROM messages WHERE call_count > 0",
            "1",
        )
        .await;
    let mut neighbour = Neighbour::of(&house);
    neighbour.lock();
    house.until_logged("results wait to be written").await;
    // Longer than a loop may stand still: 24 beats of half a second.
    let held = Instant::now();
    let before = manager.count("WATCHDOG=1");
    while manager.count("WATCHDOG=1") < before + 30 {
        assert!(
            held.elapsed() < BOUND,
            "{:?}\n{}",
            manager.heard(),
            house.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(
        held.elapsed() > Duration::from_secs(12),
        "30 beats came too fast to prove anything"
    );
    neighbour.run("COMMIT");
    assert!(!house.log().contains("has not turned"), "{}", house.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_starves_when_a_core_loop_hangs_though_the_process_lives() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let manager = Manager::beside(&mut house);
    house.set("WATCHDOG_USEC", "2000000");
    // A thread that never comes back, in the middle of a claim.
    house.start_with(&[("FAILPOINTS", "daemon.claim=pause")]);
    manager.until(0, "WATCHDOG=1", &house).await;
    house.sql(
        "INSERT INTO messages (process_query_key) VALUES ('sb:readers=1,median=1ms,never=0;one')",
    );
    house.until_logged("has not turned for").await;
    let fed = manager.count("WATCHDOG=1");
    // Three rounds more: nothing comes of them.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(manager.count("WATCHDOG=1"), fed);
    assert!(house.is_running());
}
