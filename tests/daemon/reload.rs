//! What is made from settings goes when they change, and nothing else does.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use receiptd::sandbox::{App, SandboxConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

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
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;old', 1)",
    );
    house.until(&complete("old"), "complete").await;
    let other = DEFAULT_ACCOUNT.replace("\"sandbox\"", "\"other\"");
    reload(&house, &other).await;
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;new', 1)",
    );
    house.until(&complete("new"), "complete").await;
    let calls = house.sandbox.calls_after(0);
    let callers = |name: &str| -> Vec<String> {
        let of = calls.iter().filter(|call| call.key.ends_with(name));
        of.map(|call| call.caller.clone()).collect()
    };
    assert!(callers(";old").iter().all(|caller| caller == "sandbox"));
    assert!(callers(";new").iter().all(|caller| caller == "other"));
}

/// 40 calls were made, and a budget of 30 that came by a reload let 30 more out.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_begins_with_what_its_accounts_spent_this_month() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // For what no call is left ends with its life.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "4s");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "5s");
    house.start();
    let insert = |name: &str, count: usize| {
        house.sql(&format!(
            "INSERT INTO messages (process_query_key, expected_readers)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
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
    if house.is_on_a_server() {
        return;
    }
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

/// Rows that were placed under an organisation's name would never have been asked for again.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_changes_its_kind_takes_its_rows_along() {
    let suite =
        "[accounts.default]\napp = \"third_party\"\napp_key = \"suite\"\napp_secret = \"s3cret\"\n";
    let mut house = House::new(SandboxConfig::default(), suite).await;
    let app = App::third_party("suite", "s3cret", "ticket", &["corp-a"]);
    house.sandbox.add_app(app);
    house.sql("INSERT INTO suite_tickets (suite_key, ticket) VALUES ('suite', 'ticket')");
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, corp_id, expected_readers) VALUES
         ('sb:readers=1,median=2s,sigma=0.01,never=0;moves', 'corp-a', 1)",
    );
    let asked =
        "SELECT count(*) FROM messages WHERE last_complete_at IS NOT NULL AND lane_corp = 'corp-a'";
    house.until(asked, "1").await;
    reload(&house, DEFAULT_ACCOUNT).await;
    house.until(&complete("moves"), "complete").await;
    let calls = house.sandbox.calls_after(0);
    let last = calls.iter().rev().find(|call| call.key.ends_with(";moves"));
    assert_eq!(last.unwrap().caller, "sandbox");
}

/// A refresh that failed was tried with every query, without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_replaced_serves_on_while_it_lives() {
    let config = SandboxConfig {
        token_life: Duration::from_secs(40),
        ..SandboxConfig::default()
    };
    let mut house = House::new(config, "").await;
    let secret = house.dir.path().join("secret");
    house.configure(&format!(
        "[accounts.default]\napp_key = \"sandbox\"\napp_secret_file = \"{}\"\ncalls_per_second = 400\n",
        secret.display()
    ));
    std::fs::write(&secret, "sandbox").unwrap();
    house.start();
    let insert = |name: &str| {
        house.sql(&format!(
            "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;{name}', 1)"
        ));
    };
    insert("first");
    house.until(&complete("first"), "complete").await;
    std::fs::write(&secret, "another").unwrap();
    // It is asked for anew by a call in the last part of its life.
    let replaced = || house.log().contains("the token could not be replaced");
    let mut number = 0;
    while !replaced() {
        number += 1;
        assert!(number < 100, "{}", house.log());
        insert(&format!("call-{number}"));
        house
            .until(&complete(&format!("call-{number}")), "complete")
            .await;
    }
    insert("after");
    house.until(&complete("after"), "complete").await;
    let calls = house.sandbox.calls_after(0);
    let refused = calls
        .iter()
        .filter(|call| call.path.contains("accessToken") && call.status != 200);
    assert!(refused.count() <= 4);
}

/// Its name was compared, not what it held: every call failed until a restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_ca_file_that_was_replaced_in_place_is_read_again() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let ca_file = house.dir.path().join("ca.pem");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("https://localhost:{port}");
    house.set("RECEIPTD__ENDPOINT__BASE_URL", &url);
    house.set("RECEIPTD__ENDPOINT__CA_FILE", ca_file.to_str().unwrap());
    let sandbox = house.sandbox.base_url();
    let sandbox: SocketAddr = sandbox.trim_start_matches("http://").parse().unwrap();
    let (acceptor, acceptors) = watch::channel(authority(&ca_file));
    tokio::spawn(tls_front(listener, acceptors, sandbox));
    house.start();
    let insert = |name: &str| {
        house.sql(&format!(
            "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;{name}', 1)"
        ));
    };
    insert("before");
    house.until(&complete("before"), "complete").await;
    // The endpoint is vouched for by another authority, under the same names.
    acceptor.send(authority(&ca_file)).unwrap();
    reload(&house, DEFAULT_ACCOUNT).await;
    assert!(
        house.log().contains("read again, 0 changes"),
        "{}",
        house.log()
    );
    insert("after");
    house.until(&complete("after"), "complete").await;

    // What cannot be called with changes nothing, and says so.
    std::fs::write(&ca_file, "no certificate").unwrap();
    house.configure(&format!("{DEFAULT_ACCOUNT}monthly_calls = 1\n"));
    house.signal("HUP");
    house
        .until_logged("the new one is refused, the old one stays")
        .await;
    assert_eq!(house.log().matches(RELOADED).count(), 1, "{}", house.log());
    insert("last");
    house.until(&complete("last"), "complete").await;
}

/// A new authority's certificate in `ca_file`, and who answers for `localhost` by it.
fn authority(ca_file: &Path) -> TlsAcceptor {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(ca_file, ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// Passes what comes encrypted on to `sandbox`; its connections end where another acceptor comes.
async fn tls_front(
    listener: TcpListener,
    mut acceptors: watch::Receiver<TlsAcceptor>,
    sandbox: SocketAddr,
) {
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            biased;
            Ok(()) = acceptors.changed() => {
                connections.shutdown().await;
                continue;
            }
            accepted = listener.accept() => accepted.unwrap().0,
        };
        let acceptor = acceptors.borrow().clone();
        connections.spawn(async move {
            let mut client = acceptor.accept(client).await?;
            let mut behind = TcpStream::connect(sandbox).await?;
            tokio::io::copy_bidirectional(&mut client, &mut behind).await
        });
    }
}
