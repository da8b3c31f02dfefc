//! The main job, while the daemon is killed and the server is restarted and away.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use receiptd::sandbox::SandboxConfig;

use super::cluster::{Cluster, python_with_driver};
use super::harness::{DEFAULT_ACCOUNT, House};
use super::on;

/// As any service in Python would, with Debian's driver.
const PYTHON_FEEDER: &str = "
import psycopg2, sys
db = psycopg2.connect(sys.argv[1])
for line in sys.stdin:
    key, expected = line.rstrip('\\n').split('|')
    with db, db.cursor() as cursor:
        cursor.execute('INSERT INTO messages (process_query_key, expected_readers) VALUES (%s, %s) ON CONFLICT DO NOTHING',
                       (key, int(expected)))
";

/// A house with a migrated database on a server of its own, which may be stopped; no daemon yet. `None` without PostgreSQL.
async fn own_house() -> Option<(House, Cluster)> {
    let cluster = Cluster::own()?;
    let server = on(&cluster).await;
    let house = House::on(Some(server), SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.migrate();
    Some((house, cluster))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_once_through_kills_and_restarts_of_the_server() {
    let Some((mut house, cluster)) = own_house().await else {
        return;
    };
    // Keys that outlive all that happens here.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "10m");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "20m");
    house.set("RECEIPTD__CADENCE__GENERATION_GRACE", "1m");
    house.start();
    let keys: Vec<(String, u32)> = (0..160)
        .map(|n| match n % 4 {
            0 => (
                format!("sb:readers=40,median=4s,sigma=0.5,never=0,expire=10m;group-{n}"),
                40,
            ),
            1 => (
                format!("sb:readers=5,median=2s,recall=15s,expire=10m;recalled-{n}"),
                6,
            ),
            _ => (
                format!("sb:readers=3,median=9s,sigma=0.5,never=0,expire=10m;plain-{n}"),
                3,
            ),
        })
        .collect();
    let insert = |keys: &[(String, u32)]| {
        let values: Vec<String> = keys
            .iter()
            .map(|(key, n)| format!("('{key}', {n})"))
            .collect();
        let values = values.join(", ");
        format!(
            "INSERT INTO messages (process_query_key, expected_readers) VALUES {values} ON CONFLICT DO NOTHING"
        )
    };
    house.sql(&insert(&keys[..80]));
    if let Some(python) = python_with_driver() {
        let mut python = Command::new(python)
            .args(["-c", PYTHON_FEEDER, &house.url()])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = python.stdin.take().unwrap();
        for (key, expected) in &keys[80..120] {
            writeln!(input, "{key}|{expected}").unwrap();
        }
        drop(input);
        assert!(python.wait().unwrap().success());
    } else {
        let line = "SKIPPED: rows inserted by Python (Debian: apt-get install python3-psycopg2)\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        house.sql(&insert(&keys[80..120]));
    }
    house.until("SELECT count(*) > 100 FROM readers", "1").await;
    house.kill();
    house.start();
    for (mode, more) in [("fast", 120..130), ("immediate", 130..140)] {
        let before = house.sql("SELECT count(*) FROM readers")[0].clone();
        cluster.control(&["restart", "-m", mode]);
        house.sql(&insert(&keys[more]));
        house
            .until(&format!("SELECT count(*) > {before} FROM readers"), "1")
            .await;
    }
    cluster.control(&["stop", "-m", "fast"]);
    // So long that everybody who waits has met it: lessons are stored more rarely than anything else.
    let met = "what was learned cannot be stored now";
    house.until_logged(met).await;
    assert!(house.is_running(), "{}", house.log());
    cluster.control(&["start"]);
    house.sql(&insert(&keys[140..]));
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;

    let rows = house.sql(
        "SELECT m.process_query_key, m.state, m.send_status, m.reader_count, count(r.id), count(DISTINCT r.user_id)
        FROM messages m LEFT JOIN readers r USING (process_query_key) GROUP BY m.id",
    );
    assert_eq!(rows.len(), keys.len());
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let wanted = match cells[0].contains(";recalled-") {
            true => ("recalled", "RECALLED"),
            false => ("complete", "SUCCESS"),
        };
        assert_eq!((cells[1], cells[2]), wanted, "{row}\n{}", house.log());
        assert_eq!((cells[3], cells[3]), (cells[4], cells[5]), "{row}");
        let truth = house.sandbox.truth(cells[0]).unwrap();
        let all: BTreeSet<String> = truth
            .readers
            .iter()
            .map(|read| read.user_id.clone())
            .collect();
        let key = cells[0];
        let seen: BTreeSet<String> = house
            .sql(&format!(
                "SELECT user_id FROM readers WHERE process_query_key = '{key}'"
            ))
            .into_iter()
            .collect();
        assert!(seen.is_subset(&all), "{row}");
        if wanted.0 == "complete" {
            assert_eq!(seen, all, "{row}");
        }
    }
    let violations = house.sandbox.violations();
    assert!(violations.is_empty(), "{violations:?}");
    // What was asked is counted once, but for what a kill took along.
    let counted: u64 = house.sql("SELECT sum(calls) FROM api_calls")[0]
        .parse()
        .unwrap();
    let asked = house
        .sandbox
        .calls_after(0)
        .iter()
        .filter(|call| !call.key.is_empty())
        .count() as u64;
    assert!(counted <= asked, "{counted} counted, {asked} asked");
    assert!(counted + 200 >= asked, "{counted} counted, {asked} asked");
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
}

/// A service that is started before its database waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let Some((mut house, cluster)) = own_house().await else {
        return;
    };
    cluster.control(&["stop", "-m", "fast"]);
    house.start();
    house.until_logged("receiptd waits for it").await;
    cluster.control(&["start"]);
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;a', 1)");
    house.until("SELECT state FROM messages", "complete").await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
}
