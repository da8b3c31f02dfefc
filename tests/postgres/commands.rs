//! The commands beside a daemon, and without one.

use super::Served;

#[tokio::test(flavor = "multi_thread")]
async fn commands_work_on_a_server() {
    let Some(mut served) = Served::new().await else {
        return;
    };
    let (code, said) = served.say("migrate", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("nothing to do"), "{said}");
    let (code, said) = served.say(
        "add",
        &[
            "--expected-readers",
            "1",
            "sb:readers=1,median=1ms,never=0;a",
        ],
    );
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = served.say("status", &[]);
    assert_eq!(
        code,
        Some(3),
        "something is pending and nobody serves: {said}"
    );
    let (code, said) = served.say("check", &[]);
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
    let (_, said) = served.say("config", &["--show"]);
    let url = served.cluster.url(&served.database);
    assert!(said.contains(&url), "{url}: {said}");
    served.house.start();
    served
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%;a'",
            "complete",
        )
        .await;
    let (code, said) = served.say("status", &[]);
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = served.say("status", &["sb:readers=1,median=1ms,never=0;a"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("complete"), "{said}");
    // Cancelled by a feeder, retried by a command: the daemon is woken by both.
    served.sql("INSERT INTO messages (process_query_key, state) VALUES ('sb:readers=1,median=1ms,never=0;c', 'cancelled')");
    let (code, said) = served.say("retry", &["--state", "cancelled"]);
    assert_eq!(code, Some(0), "{said}");
    served
        .until(
            "SELECT count(*) > 0 FROM readers WHERE process_query_key LIKE '%;c'",
            "t",
        )
        .await;
    // The file that the house had before the server.
    let file = served.house.dir.path().join("before.db");
    let from = format!("sqlite://{}", file.display());
    let (code, said) = served.say("migrate", &["--from", &from]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("there is no such file"), "{said}");
    let (code, said) = served.say("prune", &["--older-than", "1ms", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    served
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "0",
        )
        .await;
    served.house.signal("TERM");
    assert!(
        served.house.ended().await.success(),
        "{}",
        served.house.log()
    );
    // Another user, who may not do all that the daemon does.
    served.sql("CREATE ROLE lacks LOGIN");
    served.sql("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lacks");
    served.sql("REVOKE UPDATE ON readers FROM lacks");
    served.sql("REVOKE DELETE ON read_events FROM lacks");
    let url = url.replace("receiptd@", "lacks@");
    served.house.set("RECEIPTD__DATABASE__URL", &url);
    let (code, said) = served.say("check", &[]);
    assert_eq!(code, Some(1), "{said}");
    let missing = "missing: UPDATE on readers, DELETE on read_events";
    assert!(said.contains(missing), "{said}");
}
