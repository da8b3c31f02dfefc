//! The programs in `deploy/examples`: each inserts, follows the cursor and cancels beside a working daemon, on both databases.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use receiptd::sandbox::{Sandbox, SandboxConfig};

use super::cluster::{Cluster, python_with_driver};
use super::harness::{DEFAULT_ACCOUNT, House, Server};

/// The command that runs the example of a language: its program and the first arguments.
fn example(language: &str) -> Command {
    let path = |file: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
        path.join(file).into_os_string()
    };
    let mut command = match language {
        "python" => Command::new(python_with_driver().unwrap_or("python3")),
        "node" => Command::new("node"),
        "java" => {
            let mut java = Command::new("java");
            java.args(["-cp", &format!("{}:{}", sqlite_jdbc(), postgres_jdbc())]);
            java
        }
        _ => Command::new("sh"),
    };
    command.arg(match language {
        "python" => path("python/feeder.py"),
        "node" => path("node/feeder.js"),
        "java" => path("java/Feeder.java"),
        _ => path("shell/feeder"),
    });
    command
}

/// Java's driver for SQLite: Debian's, or the one that is named.
fn sqlite_jdbc() -> String {
    std::env::var("SQLITE_JDBC").unwrap_or_else(|_| "/usr/share/java/sqlite-jdbc.jar".to_owned())
}

/// As [`sqlite_jdbc`], for PostgreSQL.
fn postgres_jdbc() -> String {
    std::env::var("POSTGRES_JDBC").unwrap_or_else(|_| "/usr/share/java/postgresql.jar".to_owned())
}

fn works(program: &str, arguments: &[&str]) -> bool {
    let tried = Command::new(program).args(arguments).output();
    tried.is_ok_and(|output| output.status.success())
}

/// Where the example of a language finds the database of a house.
fn database(language: &str, house: &House) -> String {
    if !house.is_on_a_server() {
        return house.database().display().to_string();
    }
    match language {
        "java" => {
            let url = house.url();
            let place = url.trim_start_matches("postgres://receiptd@");
            format!("jdbc:postgresql://{place}?user=receiptd")
        }
        _ => house.url(),
    }
}

async fn feeds_and_follows_in_a_file(language: &str) {
    feeds_and_follows(language, None).await;
}

async fn feeds_and_follows_on_a_server(language: &str) {
    let Some(cluster) = Cluster::shared() else {
        return;
    };
    let server = Server {
        url: cluster.url(&cluster.database().await),
        psql: cluster.program("psql"),
    };
    feeds_and_follows(language, Some(server)).await;
}

/// Inserts two messages, follows their readers through a restart, and cancels one.
async fn feeds_and_follows(language: &str, server: Option<Server>) {
    let mut house = House::on(server, SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.migrate();
    // Java compiles its example anew each time: no message may end meanwhile.
    house.set("RECEIPTD__CADENCE__KEY_LIFETIME", "1h");
    house.set("RECEIPTD__CADENCE__MAX_AGE", "2h");
    let database = database(language, &house);
    let run = |arguments: &[&str]| {
        let mut command = example(language);
        command.args(arguments);
        let output = command
            .env("RECEIPTD_DATABASE", &database)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success(), said, errors)
    };
    let read = "sb:readers=2,median=1ms,never=0;it's-read";
    let unread = "sb:readers=1,never=1;unread";

    let (ok, said, errors) = run(&["add", read, "2"]);
    assert!(ok && said == "added", "{said} {errors}");
    let (ok, said, errors) = run(&["add", read, "2"]);
    assert!(ok && said == "known", "{said} {errors}");
    let (ok, said, errors) = run(&["add", unread]);
    assert!(ok && said == "added", "{said} {errors}");
    // What the table refuses is an error that says why.
    let (ok, said, errors) = run(&["add", "two words"]);
    let constraint = "process_query_key_is_1_to_512_printable_ascii_characters";
    assert!(
        !ok && said.is_empty() && errors.contains(constraint),
        "{said} {errors}"
    );
    let rows = house.sql("SELECT process_query_key, expected_readers FROM messages ORDER BY id");
    assert_eq!(rows, [format!("{read}|2"), format!("{unread}|")]);

    let (ok, said, errors) = run(&["cancel", unread]);
    assert!(ok && said == "cancelled", "{said} {errors}");
    let (ok, said, errors) = run(&["cancel", unread]);
    assert!(ok && said == "not pending", "{said} {errors}");

    house.start();
    let seen = following(language, &house, 2).await;
    let readers = house.sql("SELECT user_id FROM readers ORDER BY id");
    let expected: Vec<String> = readers
        .iter()
        .map(|user| format!("{user} has read {read}"))
        .collect();
    assert_eq!(seen, expected);
    // Started again, it goes on behind what it printed.
    let later = "sb:readers=1,median=1ms,never=0;later";
    assert_eq!(run(&["add", later, "1"]).1, "added");
    let seen = following(language, &house, 1).await;
    let [one] = &seen[..] else {
        panic!("{seen:?}");
    };
    assert!(one.ends_with(&format!(" has read {later}")), "{one}");
}

/// Lets the example follow until it has printed so many lines and kept its cursor; ends it; all that it printed.
async fn following(language: &str, house: &House, lines: usize) -> Vec<String> {
    struct Ended(Child);
    impl Drop for Ended {
        fn drop(&mut self) {
            // It may have ended by itself.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let printed = house.dir.path().join("printed");
    let cursor = house.dir.path().join("cursor");
    let program = example(language)
        .arg("follow")
        .arg(&cursor)
        .env("RECEIPTD_DATABASE", database(language, house))
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&printed).unwrap())
        .spawn();
    let program = Ended(program.unwrap());
    let text = || std::fs::read_to_string(&printed).unwrap_or_default();
    house
        .until_true("the example prints the readers", || {
            text().lines().count() >= lines
        })
        .await;
    let newest = house.sql("SELECT max(id) FROM readers").concat();
    house
        .until_true("the example keeps its cursor", || {
            std::fs::read_to_string(&cursor).is_ok_and(|kept| kept.trim() == newest)
        })
        .await;
    drop(program);
    text().lines().map(str::to_owned).collect()
}

/// Says that a test did nothing, and why: not by a macro, whose words the harness keeps to itself.
fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_example_feeds_and_follows() {
    feeds_and_follows_in_a_file("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pythons_example_feeds_and_follows_on_a_server() {
    if python_with_driver().is_none() {
        return skipped("no Python with a driver for PostgreSQL (Debian: python3-psycopg2)");
    }
    feeds_and_follows_on_a_server("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shells_example_feeds_and_follows() {
    feeds_and_follows_in_a_file("shell").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shells_example_feeds_and_follows_on_a_server() {
    if !works("psql", &["--version"]) {
        return skipped("no psql (Debian: postgresql-client)");
    }
    feeds_and_follows_on_a_server("shell").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_example_feeds_and_follows() {
    let a_driver = "try { require('node:sqlite') } catch { require('better-sqlite3') }";
    if !works("node", &["-e", a_driver]) {
        return skipped(
            "no Node.js with a driver for SQLite (22.13, or better-sqlite3 in $NODE_PATH)",
        );
    }
    feeds_and_follows_in_a_file("node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_example_feeds_and_follows_on_a_server() {
    if !works("node", &["-e", "require('pg')"]) {
        return skipped("no Node.js with a driver for PostgreSQL (pg in $NODE_PATH)");
    }
    feeds_and_follows_on_a_server("node").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javas_example_feeds_and_follows() {
    if !works("java", &["--version"]) || !Path::new(&sqlite_jdbc()).exists() {
        return skipped("no Java with a driver for SQLite (Debian: libxerial-sqlite-jdbc-java)");
    }
    feeds_and_follows_in_a_file("java").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javas_example_feeds_and_follows_on_a_server() {
    if !works("java", &["--version"]) || !Path::new(&postgres_jdbc()).exists() {
        return skipped("no Java with a driver for PostgreSQL (Debian: libpostgresql-jdbc-java)");
    }
    feeds_and_follows_on_a_server("java").await;
}

/// The body of the event as DingTalk pushes it becomes a row, before its message and twice, and the reader is recorded once.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_dingtalk_pushed_becomes_a_reader() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let script = r#"
import json, sys, time
sys.path.insert(0, sys.argv[1])
import feeder
read_at = str(int(time.time() * 1000))
body = {"eventId": "e1", "processQueryKey": "sb:readers=1,never=1;told", "userId": "manager123", "operatTime": read_at,
        "robotCode": "ding1", "openConversationId": "cid1=="}
try:
    # Given to the handler as the SDK gives it, in place of its connection.
    import asyncio, dingtalk_stream
    event = dingtalk_stream.EventMessage.from_dict({"headers": {"eventType": "robot_msg_read"}, "data": json.dumps(body)})
    def run(client):
        for _ in range(2):
            assert asyncio.run(client.event_handler.process(event)) == (dingtalk_stream.AckMessage.STATUS_OK, "OK")
    dingtalk_stream.DingTalkStreamClient.start_forever = run
    feeder.listen(feeder.connect(), "dingabc", "secret")
except ImportError:
    print("dingtalk-stream is not installed: the event's body is used")
    for _ in range(2):
        feeder.add_read(feeder.connect(), body)
feeder.add(feeder.connect(), body["processQueryKey"], expected_readers=1, sent_at=int(read_at))
print(read_at)
"#;
    let said = beside_the_feeder(&house, script);
    house.start();
    house.until("SELECT state FROM messages", "complete").await;
    // Not before the first poll, if that came between and did not show it.
    let read_at = said.lines().last().unwrap();
    let readers = house.sql(&format!(
        "SELECT user_id, read_at >= {read_at} FROM readers"
    ));
    assert_eq!(readers, ["manager123|1"]);
}

/// A Python that may have the official SDK.
fn sdk_python() -> Command {
    let python = std::env::var("RECEIPTD_SDK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    Command::new(python)
}

/// Runs a script that imports the example in Python; what it printed.
fn beside_the_feeder(house: &House, script: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/python");
    let output = sdk_python()
        .args(["-B", "-c", script])
        .arg(directory)
        .env("RECEIPTD_DATABASE", house.database())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    print!("{said}");
    said
}

/// What the official SDK makes of the answer to a send becomes a row. Where it is not installed, an object of the
/// same shape stands for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_official_sdk_becomes_a_row() {
    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    let script = r#"
import sys
sys.path.insert(0, sys.argv[1])
import feeder
try:
    from alibabacloud_dingtalk.robot_1_0 import models
    private, group, persons = models.PrivateChatSendResponse(), models.OrgGroupSendResponse(), models.BatchSendOTOResponse()
    persons.body = models.BatchSendOTOResponseBody().from_map({"processQueryKey": "persons+/=", "invalidStaffIdList": ["gone"]})
    private.body = models.PrivateChatSendResponseBody().from_map({"processQueryKey": "private+/="})
    group.body = models.OrgGroupSendResponseBody().from_map({"processQueryKey": "group+/="})
except ImportError:
    from types import SimpleNamespace as Object
    print("the official SDK is not installed: its shape is used")
    private = Object(body=Object(process_query_key="private+/="))
    group = Object(body=Object(process_query_key="group+/="))
    persons = Object(body=Object(process_query_key="persons+/="))
db = feeder.connect()
for _ in range(2):
    feeder.add_sent(db, private, chat="private", expected_readers=1, robot_code="ding1", open_conversation_id="cid1==")
    feeder.add_sent(db, group, chat="group", open_conversation_id="cid2==")
    feeder.add_sent(db, persons, chat="oto", robot_code="ding1")
"#;
    beside_the_feeder(&house, script);
    let rows = house.sql(
        "SELECT process_query_key, chat, expected_readers, robot_code, open_conversation_id FROM messages ORDER BY id",
    );
    assert_eq!(
        rows,
        [
            "private+/=|private|1|ding1|cid1==",
            "group+/=|group|||cid2==",
            "persons+/=|oto||ding1|"
        ]
    );
}

/// The official SDK understands what the imitation of DingTalk answers. Where it is not installed, this says so.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdk_understands_the_sandbox() {
    let sandbox = Sandbox::start(SandboxConfig::default()).await.unwrap();
    let address = sandbox.base_url();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/query.py");
    let output = sdk_python()
        .arg("-B")
        .arg(script)
        .arg(address.trim_start_matches("http://"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    let is_skipped = output.status.code() == Some(77) && said.starts_with("skipped: ");
    assert!(output.status.success() || is_skipped, "{said}{errors}");
}
