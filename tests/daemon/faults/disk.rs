//! The disk, and the file on it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use receiptd::sandbox::SandboxConfig;

use super::harness::small_disk::SmallDisk;
use super::harness::{DEFAULT_ACCOUNT, House};
use super::ledger::every_call_is_counted;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_out_and_no_result_is_missing() {
    let mut house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let Some(disk) = SmallDisk::mount(&house.dir.path().join("small"), 0) else {
        println!("SKIPPED: a full disk: this user may not mount a tmpfs");
        return;
    };
    house.move_database(disk.path());
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "10m");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "20m");
    house.start();
    house
        .until_true("the database is there", || {
            house.database().with_extension("db.lock").exists()
                && house.try_sql("SELECT 1 FROM messages").is_some()
        })
        .await;
    for time in 0..2 {
        let rows: Vec<String> = (0..40)
            .map(|number| {
                format!("('sb:readers=150,median=1ms,never=0,latency=700ms;{time}-{number}', 'group', 150)")
            })
            .collect();
        house.sql(&format!(
            "INSERT INTO messages (process_query_key, chat, expected_readers) VALUES {}",
            rows.join(",")
        ));
        let queries = house.sandbox.counts().queries;
        house
            .until_true("they are called", || {
                house.sandbox.counts().queries >= queries + 10
            })
            .await;
        let filler = disk.fill();
        house.until_logs("the disk is full", time + 1).await;
        fs::remove_file(filler).unwrap();
        house
            .until(
                "SELECT count(*) FROM messages WHERE state = 'complete'",
                &((time + 1) * 40).to_string(),
            )
            .await;
    }
    assert_eq!(house.sql("SELECT count(*) FROM readers"), ["12000"]);
    every_call_is_counted(&house);
    assert!(house.is_sound());
    assert!(house.is_running());
}

/// Full at the start, a disk is waited out as well, wherever the opening meets its end: at the lock, at the log's index,
/// in the first migration, or at the first result.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_waits_for_room() {
    for there in [false, true] {
        for pages in [0, 1, 3, 10, 20, 40] {
            let mut house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
            let Some(disk) = SmallDisk::mount(&house.dir.path().join("small"), 0) else {
                println!("SKIPPED: a start on a full disk: this user may not mount a tmpfs");
                return;
            };
            house.move_database(disk.path());
            if there {
                assert!(house.command("migrate").status().unwrap().success());
            }
            let filler = disk.fill_up_to(pages);
            house.start();
            let waits = "receiptd waits for it";
            house
                .until_true("it waits, or serves", || {
                    let log = house.log();
                    log.contains(waits) || log.contains("receiptd serves")
                })
                .await;
            assert!(house.is_running(), "{pages} pages\n{}", house.log());
            if pages == 0 {
                assert!(house.log().contains(&format!("the disk is full: {waits}")));
            }
            fs::remove_file(filler).unwrap();
            house.until_logged("receiptd serves").await;
            house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;k', 1)");
            house.until("SELECT state FROM messages", "complete").await;
            // Who asks for the holder of a lock that was taken on a full disk is told.
            house.until_locked().await;
            house.signal("TERM");
            let status = house.ended().await;
            assert!(status.success(), "{status}\n{}", house.log());
        }
    }
}

/// A daemon that cannot go on says why and ends with a failure; it does not loop.
async fn ends_with(house: &mut House, why: &str) {
    let status = house.ended().await;
    assert_eq!(status.code(), Some(1), "{}", house.log());
    let log = house.log();
    assert!(log.contains(why), "{why:?} is not in:\n{log}");
    let file = house.database().display().to_string();
    assert!(log.contains(&file), "{file} is not in:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_replaced_or_deleted_ends_the_daemon() {
    for (what, why) in [
        ("replaced", "was replaced by another file"),
        ("deleted", "was deleted or moved"),
    ] {
        let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
        house.start();
        house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;k', 1)");
        house.until("SELECT state FROM messages", "complete").await;
        match what {
            "replaced" => {
                let other = house.dir.path().join("other.db");
                fs::copy(house.database(), &other).unwrap();
                fs::rename(other, house.database()).unwrap();
            }
            _ => fs::remove_file(house.database()).unwrap(),
        }
        ends_with(&mut house, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_foreign_file_is_refused_in_words() {
    let intact = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    intact.sql(
        "INSERT INTO messages (process_query_key) VALUES ('k'); PRAGMA wal_checkpoint(TRUNCATE)",
    );
    let bytes = fs::read(intact.database()).unwrap();
    let mut damaged = bytes.clone();
    // The first page says what the file is; all others are gone.
    damaged[4096..].fill(0x5a);
    let half = bytes[..bytes.len() / 2].to_vec();
    for (bytes, why) in [
        (damaged, "damaged"),
        (half, "damaged"),
        (
            b"this is a text file, and no database at all\n".repeat(200),
            "damaged",
        ),
        (b"short".to_vec(), "damaged"),
    ] {
        let mut house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
        fs::write(house.database(), bytes).unwrap();
        house.start();
        ends_with(&mut house, why).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_newer_is_refused_in_words() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.make_newer();
    house.start();
    ends_with(&mut house, "its schema has version 9999").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_is_refused_in_words() {
    const NOBODY: u32 = 65_534;
    for there in [false, true] {
        let house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
        if there {
            assert!(house.command("migrate").status().unwrap().success());
        }
        let mut command = house.command("run");
        // Root writes where it likes, so it sends somebody else.
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        fs::set_permissions(house.dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let output = match command.output() {
            Ok(output) => output,
            Err(error) => {
                println!(
                    "SKIPPED: a directory that cannot be written: the binary is not for other users: {error}"
                );
                return;
            }
        };
        fs::set_permissions(house.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&house.dir.path().display().to_string()),
            "{said}"
        );
        assert!(
            said.contains("may not write") || said.contains("read-only"),
            "{said}"
        );
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
