//! What is an account's own: refusals of all its calls, its pace, its tickets. Never another's.

use receiptd::sandbox::{App, SandboxConfig};

use super::harness::{DEFAULT_ACCOUNT, House};

/// A second app of the sandbox, and its account.
const OTHER_ACCOUNT: &str = r#"
[accounts.other]
app = "internal"
app_key = "other"
app_secret = "other"
calls_per_second = 400
"#;

const TWO_MESSAGES: &str = "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
    ('sb:readers=1,median=1ms,never=0;o', 'other', 1), ('sb:readers=1,median=1ms,never=0;d', 'default', 1)";

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_account_waits_alone_and_probes_until_it_is_mended() {
    for code in [
        "Forbidden.AccessDenied.AccessTokenPermissionDenied",
        "Forbidden.AccessDenied.IpNotInWhiteList",
        "InvalidAuthentication",
    ] {
        let accounts = format!("{DEFAULT_ACCOUNT}{OTHER_ACCOUNT}");
        let mut house = House::new(SandboxConfig::default(), &accounts).await;
        let mut app = App::internal("other", "other");
        app.refusal = Some(code.to_owned());
        house.sandbox.add_app(app);
        house.start();
        house.sql(TWO_MESSAGES);
        house
            .until(
                "SELECT state FROM messages WHERE account = 'default'",
                "complete",
            )
            .await;
        house
            .until(
                "SELECT state, last_error FROM messages WHERE account = 'other'",
                &format!("pending|{code}"),
            )
            .await;
        assert!(
            house.log().contains("WARN account other: blocked"),
            "{}",
            house.log()
        );
        house.sandbox.change_app("other", |app| app.refusal = None);
        house
            .until(
                "SELECT state FROM messages WHERE account = 'other'",
                "complete",
            )
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_month_stops_its_account_after_one_call() {
    let accounts = format!("{DEFAULT_ACCOUNT}{OTHER_ACCOUNT}");
    let mut house = House::new(SandboxConfig::default(), &accounts).await;
    let mut app = App::internal("other", "other");
    app.refusal = Some("Forbidden.AccessDenied.ApiCountLimitForOrg".to_owned());
    house.sandbox.add_app(app);
    house.start();
    house.sql(TWO_MESSAGES);
    house.sql(
        "INSERT INTO messages (process_query_key, account) VALUES ('sb:readers=1;o2', 'other')",
    );
    house
        .until(
            "SELECT state FROM messages WHERE account = 'default'",
            "complete",
        )
        .await;
    house
        .until(
            "SELECT count(*) FROM messages WHERE last_error LIKE '%ApiCountLimitForOrg'",
            "1",
        )
        .await;
    // The next probe is an hour away: rows end with their life, and no second call goes out.
    house
        .until("SELECT count(*) FROM messages WHERE state = 'failed'", "2")
        .await;
    let calls = house.sandbox.calls_after(0);
    let asked = calls
        .iter()
        .filter(|call| call.key.ends_with(";o") || call.key.ends_with(";o2"))
        .count();
    assert_eq!(asked, 1, "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_party_app_waits_for_its_ticket_and_its_organisation() {
    let accounts = format!(
        "{DEFAULT_ACCOUNT}\n[accounts.suite]\napp = \"third_party\"\napp_key = \"suite\"\napp_secret = \"s3cret-of-suite\"\n"
    );
    let mut house = House::new(SandboxConfig::default(), &accounts).await;
    house.sandbox.add_app(App::third_party(
        "suite",
        "s3cret-of-suite",
        "ticket-1",
        &["corp-a"],
    ));
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, account, corp_id, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0;a', 'suite', 'corp-a', 1), ('sb:readers=1,median=1ms,never=0;n', 'suite', NULL, 1),
         ('sb:readers=1,median=1ms,never=0;d', 'default', NULL, 1)",
    );
    house
        .until(
            "SELECT state FROM messages WHERE account = 'default'",
            "complete",
        )
        .await;
    house
        .until(
            "SELECT last_error FROM messages WHERE account = 'suite' AND corp_id IS NULL",
            "corp_id.missing",
        )
        .await;
    house
        .until(
            "SELECT state, last_error IS NOT NULL FROM messages WHERE corp_id = 'corp-a'",
            "pending|1",
        )
        .await;
    house.sql("INSERT INTO suite_tickets (suite_key, ticket) VALUES ('suite', 'ticket-1')");
    house
        .until(
            "SELECT state FROM messages WHERE corp_id = 'corp-a'",
            "complete",
        )
        .await;
    assert!(
        !house.log().contains("s3cret-of-suite") && !house.log().contains("ticket-1"),
        "{}",
        house.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_sees_more_calls_than_the_account_may_make() {
    // A lane for each of its ten organisations would make ten times as many.
    let config = SandboxConfig {
        calls_per_second: ARRIVE_OF_20,
        ..SandboxConfig::default()
    };
    let account = DEFAULT_ACCOUNT.replace("calls_per_second = 400", "calls_per_second = 20");
    let mut house = House::new(config, &account).await;
    house.start();
    let values: Vec<String> = (0..80)
        .map(|n| format!("('sb:readers=1,median=1ms,never=0;p{n}', 1)"))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES {}",
        values.join(",")
    ));
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "80",
        )
        .await;
    // A throttled answer is a violation in the sandbox's eyes.
    assert!(
        house.sandbox.violations().is_empty(),
        "{:?}",
        house.sandbox.violations()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_the_middle_of_a_call_keeps_what_it_brings_and_a_second_signal_does_not_wait() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0,latency=1s;slow', 1)");
    let is_due = |row: &str| {
        let due: Option<i64> = row.parse().ok();
        due.is_some_and(|due| due < house.sandbox.now().0)
    };
    let due = "SELECT next_poll_at FROM messages WHERE admitted_at IS NOT NULL";
    house
        .until_true("it is asked for", || {
            house.sql(due).iter().any(|row| is_due(row))
        })
        .await;
    house.signal("TERM");
    assert!(house.ended().await.success(), "{}", house.log());
    house.start();
    house.until("SELECT state FROM messages", "complete").await;
    house.sql("INSERT INTO messages (process_query_key) VALUES ('sb:hang=1h;stuck')");
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'pending' AND admitted_at IS NOT NULL",
            "1",
        )
        .await;
    house.signal("TERM");
    house.signal("TERM");
    house.ended().await;
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%stuck'",
            "pending",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_cancelled_while_its_walk_waits_is_not_called_again() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // Trouble without end: its walk waits in backoff most of the time.
    house.sql("INSERT INTO messages (process_query_key) VALUES ('sb:code=system.error;gone')");
    house.start();
    let since = std::time::Instant::now();
    while house
        .sandbox
        .calls_after(0)
        .iter()
        .filter(|call| call.key.ends_with(";gone"))
        .count()
        < 3
    {
        assert!(since.elapsed().as_secs() < 60, "{}", house.log());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    house.sql("UPDATE messages SET state = 'cancelled' WHERE process_query_key LIKE '%;gone'");
    house
        .until(
            "SELECT call_count >= 3, finished_at IS NOT NULL FROM messages",
            "1|1",
        )
        .await;
    let last = house
        .sandbox
        .calls_after(0)
        .iter()
        .map(|call| call.seq)
        .max()
        .unwrap();
    house.sql("INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;next', 1)");
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%;next'",
            "complete",
        )
        .await;
    assert!(
        house
            .sandbox
            .calls_after(last)
            .iter()
            .all(|call| !call.key.ends_with(";gone"))
    );
    assert_eq!(
        house.sql("SELECT state FROM messages WHERE process_query_key LIKE '%;gone'"),
        ["cancelled"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_whose_calls_all_hang_leaves_places_to_the_others() {
    let accounts = format!("{DEFAULT_ACCOUNT}{OTHER_ACCOUNT}");
    let mut house = House::new(SandboxConfig::default(), &accounts).await;
    house.sandbox.add_app(App::internal("other", "other"));
    // Longer than the test waits for anything.
    house.set("RECEIPTD__ENDPOINT__REQUEST_TIMEOUT", "10m");
    house.set("RECEIPTD__WORKERS__CONCURRENCY", "8");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "1h");
    house.start();
    let answered =
        |name: &'static str| format!("('sb:readers=1,median=1ms,never=0;{name}', 'other', 1)");
    let insert = "INSERT INTO messages (process_query_key, account, expected_readers) VALUES";
    house.sql(&format!("{insert} {}", answered("first")));
    // A lane is proven once it was answered; until then it calls one at a time anyway.
    let complete = "SELECT count(*) FROM messages WHERE state = 'complete'";
    house.until(complete, "1").await;
    let hanging: Vec<String> = (0..20)
        .map(|n| format!("('sb:hang=1h;h{n}', 'other', 1)"))
        .collect();
    house.sql(&format!("{insert} {}", hanging.join(",")));
    let hung = || {
        let calls = house.sandbox.calls_after(0);
        calls.iter().filter(|call| call.key.contains(";h")).count()
    };
    let since = std::time::Instant::now();
    while hung() < 7 {
        assert!(since.elapsed().as_secs() < 60, "{}", house.log());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    house.sql(&format!(
        "{insert} {}",
        answered("second").replace("'other'", "'default'")
    ));
    house.until(complete, "2").await;
    assert_eq!(hung(), 7);
}

/// A refused lane probes with one claim, and rows that end by their age took it one after the other: behind a backlog
/// that had outlived its age, nobody found out that the lane was mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_outlived_its_age_does_not_stand_before_the_probe() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // Far from their last chances, which go first.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "1h");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "2h");
    let refusal = "Forbidden.AccessDenied.AccessTokenPermissionDenied";
    house
        .sandbox
        .change_app("sandbox", |app| app.refusal = Some(refusal.to_owned()));
    house.start();
    let row = "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;first', 1)";
    house.sql(row);
    house
        .until("SELECT last_error FROM messages", refusal)
        .await;
    let now = house.sandbox.now().0;
    house.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO messages (process_query_key, sent_at) SELECT 'old-' || i, {now} - 10800000 FROM n"
    ));
    // The only one that could probe before them.
    house.sql("UPDATE messages SET state = 'cancelled' WHERE process_query_key LIKE '%;first'");
    house.sql(&row.replace("first", "second"));
    house
        .sandbox
        .change_app("sandbox", |app| app.refusal = None);
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%;second'",
            "complete",
        )
        .await;
    // Slices end together, at one moment each.
    let moments = "SELECT count(DISTINCT finished_at) <= 100 FROM messages WHERE process_query_key LIKE 'old-%'";
    assert_eq!(house.sql(moments), ["1"]);
}

/// Ten of them on an internal account's rows made a hundred calls a second of an account that may make ten.
#[tokio::test(flavor = "multi_thread")]
async fn an_internal_account_is_one_lane_whatever_its_rows_say() {
    // A lane for each of its ten organisations would make ten times as many.
    let config = SandboxConfig {
        calls_per_second: ARRIVE_OF_20,
        ..SandboxConfig::default()
    };
    let account = DEFAULT_ACCOUNT.replace("calls_per_second = 400", "calls_per_second = 20");
    let mut house = House::new(config, &account).await;
    house.start();
    let values: Vec<String> = (0..80)
        .map(|n| {
            format!(
                "('sb:readers=1,median=1ms,never=0;c{n}', 'corp-{}', 1)",
                n % 10
            )
        })
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, corp_id, expected_readers) VALUES {}",
        values.join(",")
    ));
    let complete = "SELECT count(*) FROM messages WHERE state = 'complete'";
    house.until(complete, "80").await;
    assert!(
        house.sandbox.violations().is_empty(),
        "{:?}",
        house.sandbox.violations()
    );
    let counted = house.sql("SELECT account, corp_id FROM api_calls");
    assert_eq!(counted, ["default|"]);
}

/// How many of 20 calls a second may arrive within one: a machine that has other work delays some of them on their way.
const ARRIVE_OF_20: u32 = 25;

async fn a_sound_row_completes(house: &House) {
    house.sql(
        "INSERT INTO messages (process_query_key, expected_readers) VALUES ('sb:readers=1,median=1ms,never=0;sound', 1)",
    );
    house
        .until(
            "SELECT state FROM messages WHERE process_query_key LIKE '%;sound'",
            "complete",
        )
        .await;
}

/// Rows of ten thousand accounts that no configuration names stopped everybody for minutes.
#[tokio::test(flavor = "multi_thread")]
async fn many_invented_names_hold_up_nobody() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.set("RECEIPTD__CADENCE__MAX_AGE", "1h");
    house.start();
    house.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
         INSERT INTO messages (process_query_key, account) SELECT 'invented-' || i, 'name-' || i FROM n",
    );
    a_sound_row_completes(&house).await;
    house
        .until(
            "SELECT count(*) FROM messages WHERE last_error = 'account.unknown'",
            "10000",
        )
        .await;
    let warnings = house.log().matches("account.unknown").count();
    assert!(warnings <= 3, "{warnings} warnings");
}

/// An organisation's first message each: as many lanes at once.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_organisations_hold_up_nobody() {
    let accounts = format!(
        "{DEFAULT_ACCOUNT}\n[accounts.suite]\napp = \"third_party\"\napp_key = \"suite\"\napp_secret = \"s3cret\"\n"
    );
    let mut house = House::new(SandboxConfig::default(), &accounts).await;
    let corps: Vec<String> = (1..=2000).map(|n| format!("corp-{n}")).collect();
    let corps: Vec<&str> = corps.iter().map(String::as_str).collect();
    house
        .sandbox
        .add_app(App::third_party("suite", "s3cret", "ticket", &corps));
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "1h");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "2h");
    house.start();
    house.sql("INSERT INTO suite_tickets (suite_key, ticket) VALUES ('suite', 'ticket')");
    house.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
         INSERT INTO messages (process_query_key, account, corp_id, expected_readers)
         SELECT 'sb:readers=1,median=1ms,never=0;of-' || i, 'suite', 'corp-' || i, 1 FROM n",
    );
    a_sound_row_completes(&house).await;
    house
        .until(
            "SELECT count(*) FROM messages WHERE state = 'complete'",
            "2001",
        )
        .await;
}

/// After a restart each organisation asked for its token at once, whatever the rates.
#[tokio::test(flavor = "multi_thread")]
async fn token_calls_keep_to_the_addresss_rate() {
    let accounts =
        "[accounts.suite]\napp = \"third_party\"\napp_key = \"suite\"\napp_secret = \"s3cret\"\n";
    let mut house = House::new(SandboxConfig::default(), accounts).await;
    let corps: Vec<String> = (1..=60).map(|n| format!("corp-{n}")).collect();
    let corps: Vec<&str> = corps.iter().map(String::as_str).collect();
    house
        .sandbox
        .add_app(App::third_party("suite", "s3cret", "ticket", &corps));
    house.set("RECEIPTD__ENDPOINT__CALLS_PER_SECOND", "20");
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "1h");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "2h");
    house.sql("INSERT INTO suite_tickets (suite_key, ticket) VALUES ('suite', 'ticket')");
    house.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60)
         INSERT INTO messages (process_query_key, account, corp_id)
         SELECT 'sb:readers=1;of-' || i, 'suite', 'corp-' || i FROM n",
    );
    house.start();
    house
        .until(
            "SELECT count(*) FROM messages WHERE last_complete_at IS NOT NULL",
            "60",
        )
        .await;
    let calls = house.sandbox.calls_after(0);
    for (number, first) in calls.iter().enumerate() {
        let within = |call: &&receiptd::sandbox::Call| call.at < first.at + 1000;
        let of_a_second = calls[number..].iter().take_while(within).count();
        assert!(
            of_a_second <= ARRIVE_OF_20 as usize,
            "{of_a_second} calls from {}",
            first.at
        );
    }
}

/// Throttled for a second, it was shown as throttled until its next answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_lane_is_throttled_no_longer_than_its_window() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    house.sql("INSERT INTO messages (process_query_key) VALUES ('sb:throttle*1,readers=1;t')");
    house.until_logged("account default: throttled").await;
    house.sql("UPDATE messages SET state = 'cancelled'");
    let condition = || {
        let said = house.command("status").arg("--json").output().ok()?;
        let status: serde_json::Value = serde_json::from_slice(&said.stdout).ok()?;
        Some(status["accounts"][0]["condition"].as_str()?.to_owned())
    };
    house
        .until_true("the window is over", || {
            condition().as_deref() == Some("ok")
        })
        .await;
}

/// Pages without end were read to the two-hundredth, a metered call each.
#[tokio::test(flavor = "multi_thread")]
async fn pages_that_name_nobody_new_are_not_followed_for_long() {
    let endpoint = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let address = endpoint.local_addr().unwrap();
    house.set("RECEIPTD__ENDPOINT__BASE_URL", &format!("http://{address}"));
    tokio::spawn(pages_without_end(endpoint));
    house.start();
    house.sql("INSERT INTO messages (process_query_key, chat) VALUES ('pages', 'group')");
    house
        .until("SELECT last_error FROM messages", "walk.pagesWithoutNews")
        .await;
    // Its one reader is recorded, and it is not complete.
    let found = house.sql("SELECT state, reader_count FROM messages");
    assert_eq!(found, ["pending|1"]);
    let polls = "SELECT call_count % 4 FROM messages";
    assert_eq!(
        house.sql(polls),
        ["0"],
        "a page with news and three without"
    );
}

/// A token, and pages that name the same reader, each with another page behind it.
async fn pages_without_end(endpoint: tokio::net::TcpListener) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut page = 0;
    loop {
        let (mut stream, _) = endpoint.accept().await.unwrap();
        let mut request = Vec::new();
        // The body of both requests is a JSON object, which ends them.
        while !request.ends_with(b"}") {
            if stream.read_buf(&mut request).await.unwrap() == 0 {
                break;
            }
        }
        page += 1;
        let body = if request.starts_with(b"POST /v1.0/oauth2") {
            r#"{"accessToken":"t","expireIn":7200}"#.to_owned()
        } else {
            format!(
                r#"{{"sendStatus":"SUCCESS","readUserIds":["u"],"hasMore":true,"nextToken":"page-{page}"}}"#
            )
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        let answer = head + &body;
        // Whoever hung up needs no answer.
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}
