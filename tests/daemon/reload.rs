//! What is made from settings goes when they change, and nothing else does.

use receiptd::sandbox::{App, SandboxConfig};

use super::harness::{DEFAULT_ACCOUNT, House};

const RELOADED: &str = "configuration: read again";

async fn reload(house: &House, accounts: &str) {
    let before = house.log().matches(RELOADED).count();
    house.configure(accounts);
    house.signal("HUP");
    house.until_logs(RELOADED, before + 1).await;
}

fn complete(name: &str) -> String {
    format!("SELECT state FROM messages WHERE process_query_key LIKE '%;{name}'")
}

/// Messages were asked for with the token of the app that the configuration no longer named, and failed.
#[tokio::test(flavor = "multi_thread")]
async fn another_app_is_asked_with_its_own_token() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sandbox.add_app(App::internal("other", "other"));
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0,owner=sandbox;old', 1)",
    );
    house.until(&complete("old"), "complete").await;
    let other = DEFAULT_ACCOUNT.replace("\"sandbox\"", "\"other\"");
    reload(&house, &other).await;
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0,owner=other;new', 1)",
    );
    house.until(&complete("new"), "complete").await;
}

/// 40 calls were made, and a budget of 30 that came by a reload let 30 more out.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_begins_with_what_its_accounts_spent_this_month() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    let insert = |name: &str, count: usize| {
        house.sql(&format!(
            "INSERT INTO messages (process_query_key, expected_readers)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count})
             SELECT 'sb:readers=1,median=1ms,never=0;{name}-' || i, 1 FROM n"
        ));
    };
    insert("first", 40);
    let pending = "SELECT count(*) FROM messages WHERE state = 'pending'";
    house.until(pending, "0").await;
    let spent = house.sandbox.counts().metered;
    assert!(spent >= 40);
    let own = format!("{DEFAULT_ACCOUNT}monthly_calls = 30\n");
    reload(&house, &own).await;
    insert("second", 5);
    house.until(pending, "0").await;
    assert_eq!(house.sandbox.counts().metered, spent, "{}", house.log());
    // Moved to a shared budget, and that renamed.
    for name in ["both", "all"] {
        let shared = format!(
            "{DEFAULT_ACCOUNT}budget = \"{name}\"\n[budgets.{name}]\nmonthly_calls = {}\n",
            spent + 2
        );
        reload(&house, &shared).await;
        insert(name, 5);
        house.until(pending, "0").await;
    }
    let metered = house.sandbox.counts().metered;
    assert!(metered <= spent + 2, "{metered} of {}", spent + 2);
}

/// A call that another process counted is one less for the daemon, at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_counts_is_spent() {
    let account = format!("{DEFAULT_ACCOUNT}monthly_calls = 10\n");
    let mut house = House::new(SandboxConfig::default(), &account).await;
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;one', 1)",
    );
    house.until(&complete("one"), "complete").await;
    house.sql("UPDATE api_calls SET calls = calls + 20");
    let spent = || {
        let text = std::fs::read_to_string(house.database().with_extension("db.status")).ok()?;
        let status: serde_json::Value = serde_json::from_str(&text).ok()?;
        status["budgets"][0]["spent"].as_u64()
    };
    house
        .until_true("the daemon heard of it", || {
            spent().is_some_and(|calls| calls > 20)
        })
        .await;
    let metered = house.sandbox.counts().metered;
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;two', 1)",
    );
    house.until(&complete("two"), "failed").await;
    assert_eq!(house.sandbox.counts().metered, metered);
}

/// A reload ended every pause, whatever had changed.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_no_pause_that_it_has_nothing_to_do_with() {
    let other = DEFAULT_ACCOUNT.replace("accounts.default", "accounts.other");
    let accounts = format!("{DEFAULT_ACCOUNT}{other}");
    let mut house = House::new(SandboxConfig::default(), &accounts).await;
    house.start();
    let minute = "Forbidden.AccessDenied.QpmLimitForAppkeyAndApi";
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0,code={minute}*1;waits', 'default', 1)"
    ));
    house.until_logged("account default: throttled").await;
    reload(&house, &format!("{accounts}[log]\n").replace("[log]\n", "")).await;
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;free', 'other', 1)",
    );
    house.until(&complete("free"), "complete").await;
    let calls = house.sandbox.calls_after(0);
    let asked = calls.iter().filter(|call| call.key.ends_with(";waits"));
    assert_eq!(asked.count(), 1);
}
