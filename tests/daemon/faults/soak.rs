//! Hours of work with time compressed: nothing grows.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use receiptd::sandbox::{FaultPlan, SandboxConfig};

use super::harness::neighbour::Neighbour;
use super::harness::{DEFAULT_ACCOUNT, House};

/// What may not grow; the sizes are those of files.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    resident_kib: u64,
    descriptors: u64,
    wal_bytes: u64,
    database_bytes: u64,
    log_lines: u64,
    lag_ms: i64,
}

/// `SOAK_SECONDS` (20) at `SOAK_RATE` messages a second (20).
fn said(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_grows() {
    let (seconds, rate) = (said("SOAK_SECONDS", 20), said("SOAK_RATE", 20));
    // No throttling, and no token that dies under hundreds of calls a second, over and over: those are a lane's faults,
    // not time's.
    let mut faults = FaultPlan::usual(1, 0.05);
    faults.rates.retain(|(kind, _)| {
        !matches!(
            &*kind.name(),
            "dead-token" | "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"
        )
    });
    let config = SandboxConfig {
        faults: Some(faults),
        ..SandboxConfig::default()
    };
    let mut house = House::new(config, DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "6s");
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "1s");
    house.set("RECEIPTD__RETENTION__FINISHED", "3s");
    house.start();
    let ends = Arc::new(AtomicBool::new(false));
    let feeder = feed(&house, rate, ends.clone());
    let began = Instant::now();
    let mut readings = Vec::new();
    while began.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_millis((seconds * 10).clamp(250, 10_000))).await;
        assert!(house.is_running(), "{}", house.log());
        readings.push(read(&house));
    }
    ends.store(true, Ordering::Relaxed);
    let fed = feeder.join().unwrap();
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());

    // The first third fills what is meant to be filled.
    let (early, late) = readings.split_at(readings.len() / 3);
    let (early, late) = (worst(early), worst(late));
    println!(
        "{fed} messages in {seconds} s; {} readings; the first third {early:?}, the rest {late:?}",
        readings.len()
    );
    let slack_kib = 8 << 10;
    assert!(
        late.resident_kib <= early.resident_kib * 5 / 4 + slack_kib,
        "{early:?} {late:?}"
    );
    assert!(late.resident_kib <= 96 << 10, "{late:?}");
    assert!(late.descriptors <= 64 + 64, "{late:?}");
    assert!(late.wal_bytes <= 40 << 20, "{late:?}");
    assert!(late.database_bytes <= 24 << 20, "{late:?}");
    assert!(late.lag_ms <= 30_000, "{late:?}");
    // Ten lines a second on messages, one summary, and what happens now and then.
    assert!(
        late.log_lines <= 12 * began.elapsed().as_secs() + 100,
        "{late:?}"
    );

    assert!(
        house.sandbox.violations().is_empty(),
        "{:?}",
        house.sandbox.violations()
    );
    assert_eq!(
        house.sql("SELECT sum(calls) FROM api_calls"),
        [house.sandbox.counts().metered.to_string()]
    );
    assert!(house.is_sound());
}

/// Inserts rows at a rate, of keys that answer for six seconds, until it is told to end; how many it was.
fn feed(house: &House, rate: u64, ends: Arc<AtomicBool>) -> JoinHandle<u64> {
    let mut feeder = Neighbour::of(house);
    std::thread::spawn(move || {
        let (mut number, began) = (0, Instant::now());
        while !ends.load(Ordering::Relaxed) {
            while u128::from(number) * 1_000 < began.elapsed().as_millis() * u128::from(rate) {
                let chat = if number % 9 == 0 { "group" } else { "private" };
                feeder.run(&format!(
                    "INSERT INTO messages (process_query_key, chat) VALUES ('sb:readers=4,median=1s,sigma=1,expire=6s;{number}', '{chat}')"
                ));
                number += 1;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        number
    })
}

fn read(house: &House) -> Reading {
    let process = format!("/proc/{}", house.pid());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let now = house.sandbox.now().0;
    let lag = house.sql(&format!(
        "SELECT coalesce(max({now} - next_poll_at), 0) FROM messages WHERE state = 'pending' AND next_poll_at < {now}"
    ));
    let size = |name: &str| fs::metadata(house.dir.path().join(name)).map_or(0, |file| file.len());
    Reading {
        resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(),
        descriptors: u64::try_from(fs::read_dir(format!("{process}/fd")).unwrap().count()).unwrap(),
        wal_bytes: size("receiptd.db-wal"),
        database_bytes: size("receiptd.db"),
        log_lines: u64::try_from(house.log().lines().count()).unwrap(),
        lag_ms: lag[0].parse().unwrap(),
    }
}

fn worst(readings: &[Reading]) -> Reading {
    readings
        .iter()
        .fold(Reading::default(), |worst, next| Reading {
            resident_kib: worst.resident_kib.max(next.resident_kib),
            descriptors: worst.descriptors.max(next.descriptors),
            wal_bytes: worst.wal_bytes.max(next.wal_bytes),
            database_bytes: worst.database_bytes.max(next.database_bytes),
            log_lines: worst.log_lines.max(next.log_lines),
            lag_ms: worst.lag_ms.max(next.lag_ms),
        })
}
