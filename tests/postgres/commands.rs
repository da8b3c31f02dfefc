//! The commands beside a daemon, and without one.

use receiptd::sandbox::SandboxConfig;

use super::cluster::Cluster;
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
