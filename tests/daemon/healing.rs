//! What an operator mends heals without a restart, and never delays the others.

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_blocks_its_account_alone_until_the_file_is_mended() {
    let accounts = |house: &House| {
        format!(
            "{DEFAULT_ACCOUNT}\n[accounts.wrong]\napp = \"internal\"\napp_key = \"sandbox\"\napp_secret_file = \"{}\"\n",
            house.dir.path().join("secret").display()
        )
    };
    let mut house = House::new(SandboxConfig::default(), "").await;
    house.configure(&accounts(&house));
    let secret = house.dir.path().join("secret");
    write_secret(&secret, "not this one");
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0;wrong', 'wrong', 1), ('sb:readers=1,median=1ms,never=0;right', 'default', 1)",
    );
    house
        .until(
            "SELECT state FROM messages WHERE account = 'default'",
            "complete",
        )
        .await;
    house
        .until(
            "SELECT state, last_error FROM messages WHERE account = 'wrong'",
            "pending|invalidClientIdOrSecret",
        )
        .await;
    assert!(
        !house.log().contains("not this one"),
        "the secret is in the log"
    );
    assert!(house.log().contains("account wrong"), "{}", house.log());
    write_secret(&secret, "sandbox");
    house
        .until(
            "SELECT state, last_error IS NULL FROM messages WHERE account = 'wrong'",
            "complete|1",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_account_waits_for_the_configuration_that_names_it() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // It outlives the wait.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "10m");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "20m");
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0;later', 'later', 1), ('sb:readers=1,median=1ms,never=0;now', 'default', 1)",
    );
    house
        .until(
            "SELECT state FROM messages WHERE account = 'default'",
            "complete",
        )
        .await;
    house
        .until(
            "SELECT state, last_error FROM messages WHERE account = 'later'",
            "pending|account.unknown",
        )
        .await;
    let with_it =
        DEFAULT_ACCOUNT.to_owned() + &DEFAULT_ACCOUNT.replace("accounts.default", "accounts.later");
    house.configure(&with_it);
    house.signal("HUP");
    house
        .until(
            "SELECT state FROM messages WHERE account = 'later'",
            "complete",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_and_told_the_first_ones_pid() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    if house.is_on_a_server() {
        return;
    }
    house.start();
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;one', 1)");
    house.until("SELECT state FROM messages", "complete").await;
    let second = house.command("run").output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let pid = std::fs::read_to_string(house.database().with_extension("db.lock")).unwrap();
    assert!(said.contains(pid.trim()), "{said} does not name {pid}");
}

fn write_secret(path: &std::path::Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A bug in a loop ends the daemon, whichever loop it is: the service manager starts it again.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_any_loop_is_the_daemons() {
    for name in ["scheduler", "workers", "reconciler", "upkeep", "status"] {
        let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
        let point = format!("daemon.{name}=panic(a bug)");
        house.start_with(&[("FAILPOINTS", &point)]);
        assert_eq!(house.ended().await.code(), Some(1), "{name}");
        let log = house.log();
        assert!(
            log.contains("a bug") && log.contains("ended by itself"),
            "{name}: {log}"
        );
    }
}

/// A bug in a walk is that key's trouble, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_panics_costs_its_key_one_poll_and_the_others_nothing() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start_with(&[("FAILPOINTS", "daemon.page=1*panic(a bug)->off")]);
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0;first', 1), ('sb:readers=1,median=1ms,never=0;second', 1)",
    );
    house.until_logged("its walk panicked: ").await;
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete' AND reader_count = 1 AND last_error IS NULL",
            "2",
        )
        .await;
    assert!(
        house.log().contains("its walk panicked: a bug"),
        "{}",
        house.log()
    );
    // The call that it had made is counted all the same.
    house
        .until_true("every call is counted", || {
            let counted = house.sql("SELECT sum(calls) FROM api_calls");
            counted == [house.sandbox.counts().metered.to_string()]
        })
        .await;
}
