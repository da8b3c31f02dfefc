//! What must not stand in the log, under everything that the sandbox can do wrong: secrets, tokens and tickets at no level,
//! readers' ids not at `info`.

use std::os::unix::fs::PermissionsExt as _;

use futures_util::future::join_all;
use receiptd::sandbox::{App, FaultPlan, Mischief, SandboxConfig};

use super::harness::{DEFAULT_ACCOUNT, House};

/// In the configuration itself.
const INLINE: &str = "inline-hush-1f0c";
/// In a file.
const FILED: &str = "filed-hush-77ab";
/// Of a third-party app, in the database.
const TICKET: &str = "ticket-hush-90de";
/// A newer one, which replaces it.
const NEWER_TICKET: &str = "ticket-hush-91df";
/// A secret that is refused.
const WRONG: &str = "wrong-hush-3e3e";

/// One message for each kind of mischief and account, each once and then no more, so that all end.
fn messages() -> Vec<String> {
    let mischiefs = Mischief::names()
        .map(|name| {
            name.replace("CODE/STATUS", "some.code/418")
                .replace("CODE", "bot.stopped")
                .replace("=2s", "=100ms")
        })
        // Stops everything for five minutes: it comes last.
        .filter(|name| name != "banned");
    let codes = receiptd::sandbox::CODES
        .iter()
        // As above, for the rest of the month.
        .filter(|code| !code.code.ends_with("ApiCountLimitForOrg"))
        .map(|code| format!("code={}", code.code));
    mischiefs
        .chain(codes)
        .enumerate()
        .flat_map(|(n, mischief)| {
            ["default", "suite"].map(|account| {
                let corp = if account == "suite" { "'corp-a'" } else { "NULL" };
                format!("('sb:readers=3,median=1ms,never=0,{mischief}*1;{account}-{n}', '{account}', {corp}, 3)")
            })
        })
        .collect()
}

async fn log_of_everything_that_can_go_wrong(filter: &str, format: &str) -> (House, String) {
    let faults = FaultPlan {
        tokens_too: true,
        ..FaultPlan::usual(7, 0.2)
    };
    let config = SandboxConfig {
        apps: vec![
            App::internal("sandbox", INLINE),
            App::third_party("suite", FILED, TICKET, &["corp-a"]),
            App::internal("wrong", "another one"),
        ],
        faults: Some(faults),
        ..SandboxConfig::default()
    };
    let mut house = House::new(config, "").await;
    let secret = house.dir.path().join("suite_secret");
    std::fs::write(&secret, FILED).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let accounts = format!(
        "{}
         [accounts.suite]\napp = \"third_party\"\nsuite_key = \"suite\"\nsuite_secret_file = \"suite_secret\"\ncalls_per_second = 400
         [accounts.wrong]\napp_key = \"wrong\"\napp_secret = \"{WRONG}\"
         [accounts.ticketless]\napp = \"third_party\"\nsuite_key = \"ticketless\"\nsuite_secret = \"{WRONG}\"\n",
        DEFAULT_ACCOUNT.replace("app_secret = \"sandbox\"", &format!("app_secret = \"{INLINE}\""))
    );
    house.configure(&accounts);
    house.set("RECEIPTD__LOG__FILTER", filter);
    house.set("RECEIPTD__LOG__FORMAT", format);
    house.set("RECEIPTD__LOG__SUMMARY_INTERVAL", "5s");
    house.set("RECEIPTD__ENDPOINT__REQUEST_TIMEOUT", "500ms");
    // No walk gives up before it was answered, so that each message is asked for once.
    house.set("RECEIPTD__RETRY__MAX_ELAPSED_TIME", "1m");
    // None ends by its age before it was asked, however long its account was blocked.
    house.set("RECEIPTD__CADENCE__MAX_AGE", "10m");
    house.start();
    house.until_logged("receiptd serves").await;
    house.sql(&format!(
        "INSERT INTO suite_tickets (suite_key, ticket) VALUES ('suite', '{TICKET}')"
    ));
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, account, corp_id, expected_readers) VALUES {},
         ('sb:readers=1;w', 'wrong', NULL, 1), ('sb:readers=1;t', 'ticketless', 'corp-a', 1), ('sb:readers=1;u', 'unknown', NULL, 1)",
        messages().join(",")
    ));
    // In the middle of it: a new ticket, dead tokens, a reload, and one of a file that is no TOML on a secret's line.
    house.until("SELECT count(*) > 20 FROM readers", "1").await;
    house.until_logged("account.unknown").await;
    let replaced = house.sandbox.change_app("suite", |app| {
        if let Some(suite) = &mut app.suite {
            suite.ticket = NEWER_TICKET.to_owned();
        }
    });
    assert!(replaced);
    house.sandbox.revoke_tokens(None);
    house.sql(&format!(
        "UPDATE suite_tickets SET ticket = '{NEWER_TICKET}'"
    ));
    house.configure(&accounts.replace(WRONG, &format!("{WRONG}-2")));
    house.signal("HUP");
    house.until_logged("configuration: read again").await;
    house.configure(&accounts.replace(&format!("\"{INLINE}\""), &format!("\"{INLINE}")));
    house.signal("HUP");
    house.until_logged("the new one is refused").await;
    // Some codes block an account, which then probes at growing distances: each start lets it try at once.
    house.configure(&accounts);
    let keys =
        house.sql("SELECT process_query_key FROM messages WHERE account IN ('default', 'suite')");
    let unasked = |house: &House| -> Vec<&String> {
        let calls = house.sandbox.calls_after(0);
        let asked: std::collections::HashSet<&str> = calls.iter().map(|call| &*call.key).collect();
        keys.iter()
            .filter(|key| !asked.contains(key.as_str()))
            .collect()
    };
    restart_until(
        &mut house,
        |house| unasked(house).is_empty(),
        |house| {
            let waiting = house.sql("SELECT * FROM messages WHERE state = 'pending'");
            format!("{:?} are not asked: {waiting:?}", unasked(house))
        },
    )
    .await;
    // What stops a whole account, or all of them; a reload lets the accounts that are blocked by now try at once.
    house.sql("UPDATE messages SET state = 'cancelled' WHERE state = 'pending' AND account IN ('default', 'suite')");
    house.sandbox.set_faults(None);
    let reloads = house.log().matches("configuration: read again").count();
    house.signal("HUP");
    house
        .until_logs("configuration: read again", reloads + 1)
        .await;
    house.sql(
        "INSERT INTO messages (process_query_key, account, corp_id) VALUES
         ('sb:code=Forbidden.AccessDenied.ApiCountLimitForOrg;q', 'suite', 'corp-a')",
    );
    // A walk that was under way may meet a throttled minute after that reload, which another start ends.
    let used_up = "calls of this month are used up";
    let told = |house: &House| house.log().contains(used_up);
    restart_until(&mut house, told, |_| format!("not logged: {used_up}")).await;
    house.sql("INSERT INTO messages (process_query_key) VALUES ('sb:banned;b')");
    let banned = "DingTalk has banned this address";
    let told = |house: &House| house.log().contains(banned);
    restart_until(&mut house, told, |_| format!("not logged: {banned}")).await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
    let log = house.log();
    (house, log)
}

/// Starts the daemon again and again until a condition holds: each start lets the accounts that pause try at once.
async fn restart_until(
    house: &mut House,
    condition: impl Fn(&House) -> bool,
    missing: impl Fn(&House) -> String,
) {
    let since = std::time::Instant::now();
    let mut started = std::time::Instant::now();
    while !condition(house) {
        assert!(
            since.elapsed().as_secs() < 60,
            "{}\n{}",
            missing(house),
            house.log()
        );
        if started.elapsed().as_secs() >= 2 {
            house.signal("TERM");
            assert!(house.ended().await.success(), "{}", house.log());
            house.start();
            started = std::time::Instant::now();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn nothing_secret(house: &House, log: &str) {
    let tokens = house.sandbox.tokens();
    assert!(tokens.len() > 3, "{} tokens", tokens.len());
    let secrets = [INLINE, FILED, TICKET, NEWER_TICKET, WRONG].map(str::to_owned);
    for secret in secrets.iter().chain(&tokens) {
        let found = log.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(found, None, "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_token_ticket_or_reader_stands_in_the_log_under_every_fault() {
    join_all(["text", "json"].map(|format| async move {
        let (house, log) = log_of_everything_that_can_go_wrong("info", format).await;
        nothing_secret(&house, &log);
        let readers: Vec<String> = house.sql("SELECT DISTINCT user_id FROM readers");
        assert!(readers.len() > 20, "{} readers", readers.len());
        for reader in readers {
            let found = log.lines().find(|line| line.contains(&reader));
            assert_eq!(found, None, "{reader}");
        }
        // What should be said is said.
        for text in [
            "account suite/corp-a: messages are refused",
            "account wrong: blocked",
            "account unknown: account.unknown",
        ] {
            assert!(log.contains(text), "no {text:?} in\n{log}");
        }
        if format == "json" {
            for line in log.lines() {
                let object: serde_json::Value =
                    serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
                assert!(
                    object["message"].is_string() && object["level"].is_string(),
                    "{line}"
                );
            }
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_token_or_ticket_stands_in_the_log_at_any_level() {
    join_all(["text", "json"].map(|format| async move {
        let (house, log) = log_of_everything_that_can_go_wrong("trace", format).await;
        nothing_secret(&house, &log);
        assert!(log.contains("DEBUG"), "{log}");
    }))
    .await;
}
