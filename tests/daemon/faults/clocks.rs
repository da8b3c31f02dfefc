//! A wall clock that is stepped, and a machine that sleeps: the daemon runs in this process, on a clock of the test's.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use receiptd::daemon::{self, Clock, Configured, DaemonError, Handle, Stop};
use receiptd::receipt::UnixMs;
use receiptd::sandbox::SandboxConfig;
use receiptd::settings::load;
use receiptd::store::{self, Role};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::harness::{DEFAULT_ACCOUNT, House};

const DAY_MS: i64 = 24 * 3_600_000;

struct Daemon {
    /// How far its wall clock is ahead of the machine's, in milliseconds.
    offset: Arc<AtomicI64>,
    stop: Stop,
    handle: Handle,
    running: JoinHandle<Result<(), DaemonError>>,
    /// Held: a daemon whose settings have no sender any more is none that is run.
    _configured: watch::Sender<Arc<Configured>>,
}

impl Daemon {
    async fn start(house: &House) -> Self {
        let said = house
            .environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let settings = load(Some(&house.config()), said).unwrap().settings;
        let configured = Configured::new(settings).unwrap();
        let store = store::open(&configured.settings.database, Role::Owner, &mut |_| ())
            .await
            .unwrap();
        let offset = Arc::new(AtomicI64::new(0));
        let ahead = offset.clone();
        let clock =
            Clock::new(move || UnixMs(Clock::system().now().0 + ahead.load(Ordering::Relaxed)));
        let (_configured, watched) = watch::channel(configured);
        let stop = Stop::default();
        let handle = Handle::default();
        let running = daemon::run(store, watched, clock, handle.clone(), stop.clone());
        let running = tokio::spawn(running);
        handle.ready().await;
        Self {
            offset,
            stop,
            handle,
            running,
            _configured,
        }
    }

    fn step(&self, by_ms: i64) {
        self.offset.fetch_add(by_ms, Ordering::Relaxed);
    }

    async fn stop(self) {
        self.stop.graceful.cancel();
        self.running.await.unwrap().unwrap();
    }
}

/// A message that was asked for once and waits for its reader, who comes when the test says so.
async fn waiting_house() -> (House, Daemon) {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    for (variable, value) in [
        ("RECEIPTD__CADENCE__MAX_INTERVAL", "2s"),
        ("RECEIPTD__CADENCE__KEY_LIFETIME", "1h"),
        ("RECEIPTD__CADENCE__LAST_CHANCE", "5m"),
        ("RECEIPTD__CADENCE__MAX_AGE", "2h"),
    ] {
        house.set(variable, value);
    }
    let daemon = Daemon::start(&house).await;
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=30m,sigma=0.001,never=0;k', 1)",
    );
    house
        .until("SELECT call_count >= 1 FROM messages", "1")
        .await;
    (house, daemon)
}

/// Older than `max_age` by the new clock, it is asked for all the same, and what its reader did is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_day_forwards_ends_no_message_before_a_poll() {
    let (house, daemon) = waiting_house().await;
    house.sandbox.advance(Duration::from_secs(45 * 60));
    daemon.step(DAY_MS);
    house
        .until("SELECT state, reader_count FROM messages", "complete|1")
        .await;
    daemon.stop().await;
}

/// As a step forwards: the monotonic clock stood still while the wall clock went on, with a call under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_slept_through_a_call_asks_again() {
    let (house, daemon) = waiting_house().await;
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0,latency=1s;asleep', 1)",
    );
    let calls = house.sandbox.counts().queries;
    house
        .until_true("the second message is called", || {
            house
                .sandbox
                .calls_after(calls)
                .iter()
                .any(|call| call.key.ends_with(";asleep"))
        })
        .await;
    house.sandbox.advance(Duration::from_secs(45 * 60));
    daemon.step(8 * 3_600_000);
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete' AND reader_count = 1",
            "2",
        )
        .await;
    daemon.stop().await;
}

/// What was scheduled by the old clock would wait for a day.
#[tokio::test(flavor = "multi_thread")]
async fn a_day_backwards_stops_no_message() {
    let (house, daemon) = waiting_house().await;
    daemon.step(-DAY_MS);
    let called = house.sql("SELECT call_count FROM messages");
    house
        .until(
            &format!("SELECT call_count >= {} + 3 FROM messages", called[0]),
            "1",
        )
        .await;
    house.sandbox.advance(Duration::from_secs(45 * 60));
    house
        .until("SELECT state, reader_count FROM messages", "complete|1")
        .await;
    // And forwards again: it stays as it ended.
    let calls = house.sandbox.counts().queries;
    daemon.step(DAY_MS);
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;after', 1)",
    );
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "2",
        )
        .await;
    let late = house.sandbox.calls_after(0);
    let late: Vec<_> = late
        .iter()
        .filter(|call| call.seq > calls + 1 && call.key.ends_with(";k"))
        .collect();
    assert!(late.is_empty(), "{late:?}");
    daemon.stop().await;
}

/// What is removed by a wrong clock is gone, and whoever set it wrong may set it right again.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_forward_makes_nothing_old_enough() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__RETENTION__FINISHED", "1h");
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "20ms");
    let daemon = Daemon::start(&house).await;
    let hour_ms = 3_600_000;
    let now = Clock::system().now().0;
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, state, finished_at) VALUES
         ('young', 'complete', {}), ('old', 'complete', {})",
        now - hour_ms / 6,
        now - 2 * hour_ms
    ));
    let left = "SELECT group_concat(process_query_key) FROM messages";
    house.until(left, "young").await;
    daemon.step(DAY_MS);
    // The table is counted and pruned in the same turn: two counts by the new clock, and it had its chance.
    let counted = || {
        let published = daemon.handle.published();
        let backlog = published.borrow().as_ref()?.backlog.clone()?;
        (backlog.counted_at > now + DAY_MS / 2).then_some(backlog.counted_at)
    };
    house
        .until_true("it counts by the new clock", || counted().is_some())
        .await;
    let first = counted();
    house
        .until_true("it counts again", || counted() > first)
        .await;
    assert_eq!(house.sql(left), ["young"]);
    daemon.stop().await;
}
