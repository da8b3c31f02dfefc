//! The commands beside a daemon, and without one.

use receiptd::sandbox::SandboxConfig;

use super::cluster::Cluster;
use super::harness::neighbour::Neighbour;
use super::harness::{DEFAULT_ACCOUNT, House};

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_on_a_server() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let (code, said) = house.say("migrate", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing to do"), "{said}");
    let (code, said) = house.say(
        "add",
        &[
            "--expected-readers",
            "1",
            "sb:readers=1,median=1ms,never=0;a",
        ],
    );
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = house.say("status", &[]);
    assert_eq!(
        code,
        Some(3),
        "something is pending and nobody serves: {said}"
    );
    let (code, said) = house.say("check", &[]);
    for word in [
        "PostgreSQL",
        "no pooler",
        "all that the daemon needs",
        "agree",
        "its schema is up to date",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = house.say("config", &["--show"]);
    let url = house.url().to_owned();
    assert!(said.contains(&url), "{url}: {said}");
    house.start();
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%;a'",
            "complete",
        )
        .await;
    let (code, said) = house.say("status", &[]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = house.say("status", &["sb:readers=1,median=1ms,never=0;a"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("complete"), "{said}");
    // Cancelled by a feeder, retried by a command: the daemon is woken by both.
    house.sql("INSERT INTO messages (process_query_key, state) VALUES ('sb:readers=1,median=1ms,never=0;c', 'cancelled')");
    let (code, said) = house.say("retry", &["--state", "cancelled"]);
    assert_eq!(code, Some(0), "{said}");
    house
        .until(
            "SELECT count(*) > 0 FROM readers WHERE process_query_key LIKE '%;c'",
            "1",
        )
        .await;
    // The file that the house had before the server.
    let file = house.dir.path().join("before.db");
    let from = format!("sqlite://{}", file.display());
    let (code, said) = house.say("migrate", &["--from", &from]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no such file"), "{said}");
    let (code, said) = house.say("prune", &["--older-than", "1ms", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "0",
        )
        .await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
    // Another user, who may not do all that the daemon does.
    house.sql("CREATE ROLE lacks LOGIN");
    house.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lacks");
    house.sql("REVOKE UPDATE ON readers FROM lacks");
    house.sql("REVOKE DELETE ON read_events FROM lacks");
    let url = url.replace("receiptd@", "lacks@");
    house.set("RECEIPTD__DATABASE__URL", &url);
    let (code, said) = house.say("check", &[]);
    assert_eq!(code, Some(1), "{said}");
    let missing = "missing: UPDATE on readers, DELETE on read_events";
    assert!(said.contains(missing), "{said}");
}

/// A clock of the server that is an hour ahead, found before its own: transactions seem so old.
const AN_HOUR_AHEAD: &str = "
CREATE SCHEMA fake;
CREATE FUNCTION fake.clock_timestamp() RETURNS TIMESTAMPTZ LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + INTERVAL ''1 hour''';
";

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_stays_open_is_named() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let database = house.url().rsplit_once('/').unwrap().1.to_owned();
    house.sql(AN_HOUR_AHEAD);
    house.sql(&format!(
        "ALTER DATABASE {database} SET search_path = fake, pg_catalog, public"
    ));
    let (_, said) = house.say("check", &[]);
    assert!(said.contains("none holds dead rows back"), "{said}");
    let mut reader = Cluster::shared().unwrap().connect(&database).await;
    let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM messages";
    sqlx::raw_sql(begin).execute(&mut reader).await.unwrap();
    let (_, said) = house.say("check", &[]);
    for word in [
        "open for 60 minutes (pid",
        "a feeder",
        "pg_terminate_backend",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

/// A row that came in the moment in which its account was new, and that the node had yet to show, was taken for nobody's: the
/// scheduler tried for ever to mark it, and nobody was asked for any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_an_account_that_the_node_has_yet_to_show_stops_nobody() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "1s");
    house.start();
    // It does what one node does for all.
    house.sql(
        "INSERT INTO messages (process_query_key, account) VALUES ('sb:readers=1;n', 'nobody')",
    );
    let marked = "SELECT last_error FROM messages WHERE account = 'nobody'";
    house.until(marked, "account.unknown").await;
    // Its signs of life wait.
    let mut neighbour = Neighbour::of(&house);
    neighbour.run("BEGIN");
    neighbour.run("LOCK TABLE nodes IN EXCLUSIVE MODE");
    let later = DEFAULT_ACCOUNT.replace("accounts.default", "accounts.later");
    house.configure(&format!("{DEFAULT_ACCOUNT}{later}"));
    house.signal("HUP");
    house.until_logged("configuration: read again").await;
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers)
         VALUES ('sb:readers=1,median=1ms,never=0,expire=1h;l', 'later', 1)",
    );
    // It looks for what nobody names every 5 s.
    let said = house.log().matches("summary:").count();
    house.until_logs("summary:", said + 7).await;
    neighbour.run("COMMIT");
    let state = "SELECT state FROM messages WHERE account = 'later'";
    house.until(state, "complete").await;
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
