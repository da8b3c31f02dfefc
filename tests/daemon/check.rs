//! `receiptd check`, seen from outside: what it finds, and what it says to do.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use receiptd::sandbox::{App, SandboxConfig};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::harness::{DEFAULT_ACCOUNT, House};

/// The exit code, and each finding as `result name: message; remedy`.
fn check(house: &House, arguments: &[&str]) -> (i32, Vec<String>) {
    let output = house
        .command("check")
        .arg("--json")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let object: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    let lines = object["checks"].as_array().unwrap().iter().map(|line| {
        let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        format!(
            "{} {}: {}; {}",
            word("result"),
            word("name"),
            word("message"),
            word("remedy")
        )
    });
    let lines: Vec<String> = lines.collect();
    let code = output.status.code().unwrap();
    assert_eq!(object["ok"], code == 0, "{text}");
    (code, lines)
}

/// The only line about `what`, whose verdict must be `verdict`.
fn line<'a>(lines: &'a [String], verdict: &str, what: &str) -> &'a str {
    let of_it: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains(&format!(" {what}: ")))
        .collect();
    assert_eq!(of_it.len(), 1, "{what} in {lines:#?}");
    assert!(of_it[0].starts_with(&format!("{verdict} ")), "{lines:#?}");
    of_it[0]
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_nothing_fails_and_no_metered_call_is_made() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 0, "{lines:#?}");
    for what in ["database", "endpoint", "clock", "account default"] {
        line(&lines, "ok", what);
    }
    line(&lines, "note", "daemon");
    assert!(line(&lines, "note", "permission of default").contains("check --ask"));
    let counts = house.sandbox.counts();
    assert_eq!((counts.queries, counts.token_calls), (0, 1));

    let output = house.command("check").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("ok       account default: token ok, expires in "),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_may_enter_the_directory_must_be_able_to_write_the_files() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let (directory, database) = (house.dir.path(), house.database());
    // Whoever opens a file that nobody serves may leave them behind, with the mode that it had then.
    let tidy = || {
        for suffix in ["-wal", "-shm"] {
            let left = house.dir.path().join(format!("receiptd.db{suffix}"));
            let _ = std::fs::remove_file(left);
        }
    };
    tidy();
    chmod(directory, 0o2770);
    chmod(&database, 0o660);
    line(&check(&house, &[]).1, "ok", "permissions");
    for (broken, mode, remedy) in [
        (
            directory,
            0o770,
            format!("chmod g+s {}", directory.display()),
        ),
        (
            &*database,
            0o640,
            format!("chmod g+rw {}", database.display()),
        ),
    ] {
        let before = std::fs::metadata(broken).unwrap().permissions();
        chmod(broken, mode);
        let (code, lines) = check(&house, &[]);
        assert_eq!(code, 1, "{lines:#?}");
        // A -wal of the same mode may lie beside the file.
        let said = lines
            .iter()
            .find(|line| line.starts_with("failed permissions: "))
            .unwrap();
        assert!(said.contains(&remedy), "{said}");
        std::fs::set_permissions(broken, before).unwrap();
        tidy();
    }
    chmod(directory, 0o2777);
    assert!(line(&check(&house, &[]).1, "warning", "permissions").contains("chmod o="));
    chmod(directory, 0o700);
    line(&check(&house, &[]).1, "note", "permissions");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_failure_says_what_to_do() {
    let third_party =
        "\n[accounts.suite]\napp = \"third_party\"\nsuite_key = \"suite\"\nsuite_secret = \"x\"\n";
    let wrong = DEFAULT_ACCOUNT.replace("app_secret = \"sandbox\"", "app_secret = \"hush-hush\"");
    let house = House::new(SandboxConfig::default(), &(wrong + third_party)).await;
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 1);
    let said = line(&lines, "failed", "account default");
    assert!(
        said.contains("invalidClientIdOrSecret") && said.contains("check app_key"),
        "{said}"
    );
    let said = line(&lines, "failed", "account suite");
    assert!(said.contains("suite_tickets"), "{said}");
    assert!(!lines.concat().contains("hush-hush"), "{lines:#?}");

    // The database is no database, the accounts are looked at all the same.
    std::fs::write(house.database(), "nonsense").unwrap();
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 1);
    line(&lines, "failed", "database");
    line(&lines, "failed", "account default");

    house.configure("[cadence]\nmin_intervall = \"1s\"\n");
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 2, "{lines:#?}");
    assert!(line(&lines, "failed", "settings").contains("receiptd.toml:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off_the_endpoints_is_found() {
    let house = House::new(SandboxConfig::default(), "").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            let answer = "HTTP/1.1 404 Not Found\r\nDate: Tue, 24 Nov 2020 08:00:00 GMT\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let output = house
        .command("check")
        .env("RECEIPTD__ENDPOINT__BASE_URL", format!("http://{there}"))
        .output()
        .unwrap();
    answering.abort();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("FAILED   clock: "), "{text}");
    assert!(text.contains("let NTP set"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_is_asked_for_on_request_alone_and_the_call_is_counted() {
    let accounts = format!(
        "{DEFAULT_ACCOUNT}monthly_calls = 1\n{}",
        DEFAULT_ACCOUNT
            .replace("accounts.default", "accounts.other")
            .replace("\"sandbox\"", "\"other\"")
    );
    let house = House::new(SandboxConfig::default(), &accounts).await;
    let mut app = App::internal("other", "other");
    app.refusal = Some("Forbidden.AccessDenied.AccessTokenPermissionDenied".to_owned());
    house.sandbox.add_app(app);
    let (code, lines) = check(&house, &["--ask"]);
    assert_eq!(code, 1, "{lines:#?}");
    line(&lines, "ok", "permission of default");
    let said = line(&lines, "failed", "permission of other");
    assert!(said.contains("grant the app the permission"), "{said}");
    let spent = "SELECT account, calls FROM api_calls ORDER BY account";
    assert_eq!(house.sql(spent), ["default|1", "other|1"]);
    // The budget of the first is spent now.
    let (_, lines) = check(&house, &["--ask"]);
    assert!(line(&lines, "note", "permission of default").contains("budget"));
    assert_eq!(house.sql(spent), ["default|1", "other|2"]);
    assert_eq!(house.sandbox.counts().queries, 3);
    // Messages to persons have an interface of their own, which needs the bot's code.
    house.configure(&accounts.replace("monthly_calls = 1", "robot_code = \"ding1\""));
    let (_, lines) = check(&house, &["--ask=oto"]);
    line(&lines, "ok", "permission of default");
    assert!(line(&lines, "note", "permission of other").contains("robot_code"));
    assert_eq!(house.sql(spent), ["default|2", "other|2"]);
    let calls = house.sandbox.calls_after(0);
    let to_persons = calls
        .iter()
        .filter(|call| call.path.ends_with("/readStatus"));
    assert_eq!(to_persons.count(), 1);
    // Asking for the clock is no call of the interface; nothing else is wrong.
    for violation in house.sandbox.violations() {
        assert!(violation.what.starts_with("GET / "), "{violation:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_daemon_knows_of_permissions_costs_no_call() {
    let accounts = format!(
        "{DEFAULT_ACCOUNT}{}",
        DEFAULT_ACCOUNT
            .replace("accounts.default", "accounts.other")
            .replace("\"sandbox\"", "\"other\"")
    );
    let mut house = House::new(SandboxConfig::default(), &accounts).await;
    let mut app = App::internal("other", "other");
    app.refusal = Some("Forbidden.AccessDenied.IpNotInWhiteList".to_owned());
    house.sandbox.add_app(app);
    house.start();
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0;d', 'default', 1), ('sb:readers=1;o', 'other', 1)",
    );
    house
        .until(
            "SELECT state FROM messages WHERE account = 'default'",
            "complete",
        )
        .await;
    house.until_logged("account other: blocked").await;
    // The daemon publishes every 5 s.
    let mut found = check(&house, &[]);
    let since = std::time::Instant::now();
    while !found.1.concat().contains("answered the daemon") {
        assert!(since.elapsed().as_secs() < 60, "{found:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        found = check(&house, &[]);
    }
    let (code, lines) = found;
    assert_eq!(code, 1);
    line(&lines, "ok", "daemon");
    line(&lines, "ok", "permission of default");
    let said = line(&lines, "failed", "permission of other");
    assert!(said.contains("allowed addresses"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_machine_is_no_failure_and_a_missing_directory_is_one() {
    let mut house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 0, "{lines:#?}");
    assert!(line(&lines, "note", "database").contains("`receiptd run` creates it"));
    // Nothing is said of what is not there.
    assert!(!lines.concat().contains("write-ahead log"), "{lines:#?}");
    let nowhere = house.dir.path().join("nowhere");
    house.move_database(&nowhere);
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 1, "{lines:#?}");
    let missing = format!("the directory {} does not exist", nowhere.display());
    assert!(
        line(&lines, "failed", "permissions").contains(&missing),
        "{lines:#?}"
    );
    for command in ["run", "migrate"] {
        let output = house.command(command).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&missing), "{command}: {said}");
    }
}

/// Runs a command as a user that owns nothing. `None`, and a word on standard error, where this process may not.
fn as_nobody(house: &House, subcommand: &str, arguments: &[&str]) -> Option<(i32, String)> {
    use std::os::unix::process::CommandExt as _;
    let mut command = house.command(subcommand);
    command.args(arguments).uid(65534).gid(65534);
    match command.output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Some((
                output.status.code().unwrap(),
                String::from_utf8_lossy(&said).into_owned(),
            ))
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            use std::io::Write as _;
            let line = "SKIPPED: a part of this test, since another user's part can be played by root alone\n";
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_write_is_told_which_file_and_what_to_do() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let (directory, database) = (house.dir.path().to_owned(), house.database());
    chmod(&house.config(), 0o644);
    // Root's directory, which others may only look at.
    chmod(&directory, 0o755);
    for (subcommand, arguments) in [
        ("check", &[][..]),
        ("run", &[]),
        ("migrate", &[]),
        ("add", &["key"]),
    ] {
        let Some((code, said)) = as_nobody(&house, subcommand, arguments) else {
            return;
        };
        assert_eq!(code, 1, "{subcommand}: {said}");
        let problem = format!("may not write in the directory {}", directory.display());
        assert!(said.contains(&problem), "{subcommand}: {said}");
        assert!(!said.contains("creates it"), "{subcommand}: {said}");
    }
    // A directory for all, and in it a file that `migrate` made as root.
    chmod(&directory, 0o777);
    chmod(&database, 0o600);
    for (subcommand, arguments) in [("check", &[][..]), ("run", &[]), ("add", &["key"])] {
        let (code, said) = as_nobody(&house, subcommand, arguments).unwrap();
        assert_eq!(code, 1, "{subcommand}: {said}");
        let problem = format!("may not write {}", database.display());
        assert!(
            said.contains(&problem) && said.contains("chown --reference="),
            "{subcommand}: {said}"
        );
    }
    // A daemon whose lock may not be opened is not called absent.
    chmod(&database, 0o666);
    // `run` left one of its own.
    std::fs::remove_file(database.with_extension("db.lock")).unwrap();
    house.start();
    house.until_locked().await;
    chmod(&database.with_extension("db.lock"), 0o600);
    let (_, said) = as_nobody(&house, "check", &[]).unwrap();
    assert!(
        said.contains("note     daemon: whether one runs cannot be told from here"),
        "{said}"
    );
    house.sql("INSERT INTO messages (process_query_key, next_poll_at) SELECT 'later', 1000 * strftime('%s', 'now') + 3600000");
    let (code, said) = as_nobody(&house, "status", &[]).unwrap();
    assert_eq!(code, 0, "{said}");
    assert!(
        said.starts_with("Whether a daemon runs cannot be told"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_makes_in_a_services_directory_is_the_services() {
    use std::os::unix::fs::MetadataExt as _;
    let house = House::empty(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let directory = house.dir.path();
    if std::os::unix::fs::chown(directory, Some(65534), Some(65534)).is_err() {
        use std::io::Write as _;
        std::io::stderr()
            .write_all(b"SKIPPED: only root can give a directory away\n")
            .unwrap();
        return;
    }
    assert!(house.command("migrate").output().unwrap().status.success());
    for file in std::fs::read_dir(directory).unwrap() {
        let file = file.unwrap();
        if file
            .file_name()
            .to_string_lossy()
            .starts_with("receiptd.db")
        {
            let found = file.metadata().unwrap();
            assert_eq!((found.uid(), found.gid()), (65534, 65534), "{file:?}");
        }
    }
    chmod(&house.config(), 0o644);
    let (code, said) = as_nobody(&house, "add", &["key"]).unwrap();
    assert_eq!(code, 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_are_told_as_they_come() {
    use std::io::{BufRead as _, BufReader};
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    // Takes a connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut checking = house
        .command("check")
        .env("RECEIPTD__ENDPOINT__BASE_URL", url)
        .env("RECEIPTD__ENDPOINT__REQUEST_TIMEOUT", "1h")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(checking.stdout.take().unwrap()).lines();
    let heard: Vec<String> = lines
        .by_ref()
        .map(Result::unwrap)
        .take_while(|line| !line.contains(" daemon: "))
        .collect();
    assert!(heard[0].starts_with("ok       settings: "), "{heard:?}");
    assert_eq!(
        checking.try_wait().unwrap(),
        None,
        "the endpoint is waited for"
    );
    checking.kill().unwrap();
    checking.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_partys_live_tokens_are_left_alone() {
    let suite =
        "[accounts.suite]\napp = \"third_party\"\nsuite_key = \"suite\"\nsuite_secret = \"x\"\n";
    let house = House::new(SandboxConfig::default(), suite).await;
    house.sql("INSERT INTO suite_tickets (suite_key, ticket) VALUES ('suite', 't')");
    house.sql(
        "INSERT INTO messages (process_query_key, account, corp_id) VALUES ('k', 'suite', 'c')",
    );
    let (code, lines) = check(&house, &[]);
    assert_eq!(code, 0, "{lines:#?}");
    assert!(line(&lines, "ok", "account suite").contains("suite ticket"));
    assert!(line(&lines, "note", "permission of suite").contains("of 1 of its organisations"));
    assert_eq!(house.sandbox.counts().token_calls, 0);
}
