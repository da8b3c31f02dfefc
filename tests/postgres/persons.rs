//! Messages to persons, and pushed reads, on PostgreSQL: the rooms are the same, the statements are not.

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

#[tokio::test(flavor = "multi_thread")]
async fn messages_to_persons_wait_for_a_robot_and_are_complete_by_their_list() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql(
        "INSERT INTO messages (process_query_key, chat)
         SELECT 'sb:readers=' || 1 + n % 20 || ',median=500ms,sigma=0.4,never=0,read_unit=' || (ARRAY['s', 'ms', 'absent'])[1 + n % 3] || ';' || n,
            'oto' FROM generate_series(0, 29) AS n",
    );
    house.start();
    let waiting = "SELECT count(*) FROM messages WHERE last_error = 'robot_code.missing' AND state = 'pending'";
    house.until(waiting, "30").await;
    house.configure(&format!("{DEFAULT_ACCOUNT}robot_code = \"ding1\"\n"));
    house.signal("HUP");
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "30",
        )
        .await;
    let rows = house.sql(
        "SELECT process_query_key, reader_count, count(*), count(read_at), bool_and(read_at BETWEEN seen_after AND seen_at)
         FROM messages JOIN readers USING (process_query_key) GROUP BY 1, 2",
    );
    assert_eq!(rows.len(), 30);
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        let said = cells[0].strip_prefix("sb:readers=").unwrap();
        let readers = said.split_once(',').unwrap().0;
        let timed = if said.contains("=absent") {
            "0"
        } else {
            readers
        };
        assert_eq!(cells[1..4], [readers, readers, timed], "{row}");
        assert_eq!(cells[4], if timed == "0" { "" } else { "1" }, "{row}");
    }
    // Of the row's own robot nothing is left, and the account's was taken away.
    house.configure(DEFAULT_ACCOUNT);
    house.signal("HUP");
    house.sql("INSERT INTO messages (process_query_key, chat, robot_code) VALUES ('sb:readers=1,median=1ms,never=0;own', 'oto', 'ding2')");
    house
        .until(
            "SELECT state FROM messages WHERE robot_code IS NOT NULL",
            "complete",
        )
        .await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn pushed_reads_complete_messages_once_through_a_kill_at_their_commit() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    for (variable, value) in [
        ("RECEIPTD__CADENCE__KEY_LIFETIME", "24h"),
        ("RECEIPTD__CADENCE__MAX_INTERVAL", "24h"),
        ("RECEIPTD__CADENCE__LAST_CHANCE", "5m"),
        ("RECEIPTD__CADENCE__MAX_AGE", "7d"),
        ("RECEIPTD__CADENCE__CALLS_PER_MESSAGE", "2"),
    ] {
        house.set(variable, value);
    }
    // What the guide grants to a service that pushes is enough.
    house.sql(
        "CREATE ROLE pusher; GRANT INSERT ON read_events TO pusher; SET ROLE pusher;
        INSERT INTO read_events (process_query_key, user_id, read_at)
        SELECT 'sb:never=1;' || n, 'u' || r, 1780000000000 + r FROM generate_series(1, 30) AS n, generate_series(1, 3) AS r,
            generate_series(1, 2)",
    );
    house.start();
    house
        .until(
            "SELECT count(*) FROM read_events WHERE waits_since IS NOT NULL",
            "180",
        )
        .await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
    house.sql("INSERT INTO messages (process_query_key, expected_readers) SELECT 'sb:never=1;' || n, 3 FROM generate_series(1, 30) AS n");
    for point in ["store.commit.before", "store.commit.after"] {
        let points = format!("{point}=1*return");
        house.start_with(&[("FAILPOINTS", &points)]);
        house.ended().await;
        if point == "store.commit.before" {
            assert_eq!(house.sql("SELECT count(*) FROM readers"), ["0"]);
        }
    }
    house.start();
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "30",
        )
        .await;
    house.until("SELECT count(*) FROM read_events", "0").await;
    assert_eq!(
        house.sql(
            "SELECT count(*), count(DISTINCT (process_query_key, user_id)), min(from_event),
                bool_and(read_at BETWEEN seen_after AND seen_at) FROM readers"
        ),
        ["90|90|1|1"]
    );
    let calls: u32 = house.sql("SELECT sum(call_count) FROM messages")[0]
        .parse()
        .unwrap();
    assert!(calls <= 30, "{calls}");
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
}
