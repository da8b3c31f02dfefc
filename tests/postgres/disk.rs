//! The server's disk.

use std::fs;

use receiptd::sandbox::SandboxConfig;
use sqlx::AssertSqlSafe;

use super::cluster::{Cluster, SOMEBODY};
use super::harness::small_disk::SmallDisk;
use super::harness::{DEFAULT_ACCOUNT, House, Server};
use super::ledger::every_call_is_counted;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_out_and_no_result_is_missing() {
    let Some(cluster) = Cluster::own() else {
        return;
    };
    let Some(disk) = SmallDisk::mount(&cluster.dir().join("small"), SOMEBODY) else {
        println!("SKIPPED: a full disk: this user may not mount a tmpfs");
        return;
    };
    let mut owner = cluster.connect("postgres").await;
    let space = format!(
        "CREATE TABLESPACE small LOCATION '{}'",
        disk.path().display()
    );
    for statement in [
        space.as_str(),
        "CREATE DATABASE small TEMPLATE template0 TABLESPACE small",
    ] {
        sqlx::query(AssertSqlSafe(statement.to_owned()))
            .execute(&mut owner)
            .await
            .unwrap();
    }
    let server = Server {
        url: cluster.url("small"),
        psql: cluster.program("psql"),
    };
    let mut house = House::on(Some(server), SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.migrate();
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "10m");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "20m");
    house.start();
    let rows: Vec<String> = (0..40)
        .map(|number| {
            format!("('sb:readers=150,median=1ms,never=0,latency=700ms;{number}', 'group', 150)")
        })
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, chat, expected_readers) VALUES {}",
        rows.join(",")
    ));
    house
        .until_true("they are called", || house.sandbox.counts().queries >= 10)
        .await;
    let filler = disk.fill();
    house.until_logged("the disk is full").await;
    fs::remove_file(filler).unwrap();
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "40",
        )
        .await;
    assert_eq!(house.sql("SELECT count(*) FROM readers"), ["6000"]);
    every_call_is_counted(&house);
    assert!(house.is_running());
}
