//! Messages of a bot to persons: who read them and when, as the endpoint has it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use receiptd::sandbox::{Call, SandboxConfig};

use super::ROUNDING;
use super::harness::{DEFAULT_ACCOUNT, House};

/// A process that answers as DingTalk does, and ends with the test.
struct Endpoint {
    process: Child,
    port: String,
}

impl Endpoint {
    fn start(house: &House, sent_at: i64) -> Self {
        let mut process = Command::new("python3")
            .args(["-c", include_str!("read_status.py")])
            .arg(sent_at.to_string())
            .arg(house.dir.path().join("requests"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        let out = process.stdout.take().unwrap();
        BufReader::new(out).read_line(&mut port).unwrap();
        Self {
            process,
            port: port.trim().to_owned(),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const ROBOT: &str = "robot_code = \"ding+bot\"\n";
const UNITS: [&str; 4] = ["s", "ms", "zero", "absent"];
const FATES: [&str; 4] = ["all", "one-never", "recalled", "omits"];

/// When `u{number}` reads, in milliseconds after the sending: as in `read_status.py`.
fn reads(number: i64) -> i64 {
    200 + 250 * number % 4000
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_messages_to_persons_are_read_as_the_endpoint_has_it() {
    let account = format!("{DEFAULT_ACCOUNT}{ROBOT}");
    let mut house = House::new(SandboxConfig::default(), &account).await;
    let sent_at = house.sandbox.now().0;
    let endpoint = Endpoint::start(&house, sent_at);
    house.set(
        "RECEIPTD__ENDPOINT__BASE_URL",
        &format!("http://127.0.0.1:{}", endpoint.port),
    );
    house.start_with(&[("RECEIPTD__LOG__FILTER", "trace")]);
    let messages: Vec<(i64, &str, &str)> = (0..60)
        .map(|n: usize| {
            let recipients = i64::try_from(1 + n % 20).unwrap();
            (recipients, UNITS[n % 4], FATES[n / 4 % 4])
        })
        .collect();
    let mut keys: Vec<String> = messages
        .iter()
        .map(|(recipients, unit, fate)| format!("p={recipients}/{unit}/{fate}+/="))
        .collect();
    let rows: Vec<String> = keys
        .iter()
        .map(|key| format!("('{key}', 'oto', {sent_at})"))
        .collect();
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, chat, sent_at) VALUES {} ON CONFLICT DO NOTHING",
        rows.join(", ")
    ));
    house
        .until("SELECT count(*) FROM messages WHERE state = 'pending'", "0")
        .await;
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 60, "each is another message");
    for key in &keys {
        let parts: Vec<&str> = key["p=".len()..key.len() - "+/=".len()]
            .split('/')
            .collect();
        let (recipients, unit, fate): (i64, _, _) = (parts[0].parse().unwrap(), parts[1], parts[2]);
        let state = match fate {
            "recalled" => "recalled",
            "one-never" => "expired",
            _ => "complete",
        };
        let row = house.sql(&format!(
            "SELECT state, reader_count, (SELECT count(*) FROM readers AS r WHERE r.process_query_key = m.process_query_key),
                send_status, last_polled_at - sent_at
             FROM messages AS m WHERE process_query_key = '{key}'"
        ));
        let cells: Vec<&str> = row[0].split('|').collect();
        let last_polled: i64 = cells[4].parse().unwrap();
        // Those who had all read before it was recalled may have been seen before it was.
        let early = fate == "recalled" && (0..recipients).all(|n| reads(n) < 3_000);
        let right = cells[0] == state || early && cells[0] == "complete";
        assert!(right, "{key}: {row:?}");
        assert_eq!(cells[1], cells[2], "{key}: {row:?}");
        let readers = house.sql(&format!(
            "SELECT substr(user_id, 2), seen_after, seen_at, coalesce(read_at, 0) FROM readers
             WHERE process_query_key = '{key}'"
        ));
        let mut seen = 0;
        for reader in &readers {
            let cells: Vec<i64> = reader
                .split('|')
                .map(|cell| cell.parse().unwrap())
                .collect();
            let [number, after, at, read_at] = cells[..] else {
                panic!("{reader}")
            };
            assert!(number < recipients, "{key}: {reader}");
            seen += 1;
            let truth = sent_at + reads(number);
            assert!(
                at + ROUNDING >= truth,
                "{key}: seen before it was read: {reader}"
            );
            let said = match unit {
                "s" => truth / 1_000 * 1_000,
                "ms" => truth,
                _ => 0,
            };
            let believed = if said == 0 {
                0
            } else {
                said.max(after).min(at)
            };
            assert_eq!(read_at, believed, "{key}: {reader}");
            if fate != "omits" {
                assert!(
                    after <= truth + ROUNDING,
                    "{key}: the walk before had not seen it: {reader}"
                );
            }
        }
        // All whom the last answer named, whatever came of the message.
        let all = match fate {
            "one-never" => recipients - 1,
            "recalled" => (0..recipients).filter(|n| reads(*n) < 2_900).count() as i64,
            _ => recipients,
        };
        match fate {
            "recalled" if cells[0] == "complete" => assert_eq!(seen, recipients, "{key}"),
            "recalled" => assert!(seen >= all && last_polled >= 2_900, "{key}: {row:?}"),
            _ => assert_eq!(seen, all, "{key}: {row:?}"),
        }
        if fate == "one-never" {
            assert!(last_polled >= 8_000, "{key}: it expired: {row:?}");
        }
    }
    // Nothing was asked that the page does not name, and nobody's name was kept.
    let requests = std::fs::read_to_string(house.dir.path().join("requests")).unwrap();
    let of_token = "POST /v1.0/oauth2/accessToken ";
    assert!(
        requests
            .lines()
            .filter(|line| line.starts_with(of_token))
            .count()
            <= 2
    );
    for line in requests.lines().filter(|line| !line.starts_with(of_token)) {
        let query = line.strip_prefix("GET /v1.0/robot/oToMessages/readStatus?");
        let query = query.unwrap_or_else(|| panic!("{line}"));
        let query = query
            .strip_suffix(" 0")
            .unwrap_or_else(|| panic!("a body: {line}"));
        let asked: Vec<&str> = query.split('&').collect();
        assert_eq!(asked.len(), 2, "{line}");
        assert_eq!(asked[0], "robotCode=ding%2Bbot");
        let key = asked[1].strip_prefix("processQueryKey=").unwrap();
        assert!(
            key.ends_with("%2B%2F%3D") && !key.contains(['+', '/', '=']),
            "{line}"
        );
    }
    for name in ["receiptd.db", "receiptd.db-wal", "log"] {
        let bytes = std::fs::read(house.dir.path().join(name)).unwrap_or_default();
        let found = bytes.windows(11).any(|part| part == b"SECRET NAME");
        assert!(!found, "a name of a person in {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_robot_waits_until_it_or_its_account_has_one() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql(
        "INSERT INTO messages (process_query_key, chat) VALUES
            ('sb:readers=1,median=10ms,never=0;row', 'oto'), ('sb:readers=1,median=10ms,never=0;account', 'oto')",
    );
    house.start();
    let waiting = "SELECT count(*) FROM messages WHERE state = 'pending' AND last_error = 'robot_code.missing'";
    house.until(waiting, "2").await;
    house
        .until_logged("robot_code.missing: messages of chat oto")
        .await;
    let asked = |call: &Call| !call.key.is_empty();
    assert!(!house.sandbox.calls_after(0).iter().any(asked));
    let check = house.command("check").output().unwrap();
    let check = String::from_utf8(check.stdout).unwrap();
    assert!(check.contains("2 messages of chat oto wait"), "{check}");
    let complete = |key: &str| {
        format!("SELECT state = 'complete' FROM messages WHERE process_query_key LIKE '%;{key}'")
    };
    house.sql("UPDATE messages SET robot_code = 'ding1' WHERE process_query_key LIKE '%row'");
    house.until(&complete("row"), "1").await;
    assert_eq!(house.sql(&complete("account")), ["0"]);
    house.configure(&format!("{DEFAULT_ACCOUNT}robot_code = \"ding1\"\n"));
    house.signal("HUP");
    house.until(&complete("account"), "1").await;
    // It is taken away again while a message is placed and waits for its first poll.
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, chat, next_poll_at)
         VALUES ('sb:readers=1,median=10ms,never=0;later', 'oto', {})",
        house.sandbox.now().0 + 2_000
    ));
    house
        .until(
            "SELECT count(*) FROM messages WHERE lane_corp = '' AND state = 'pending'",
            "1",
        )
        .await;
    house.configure(DEFAULT_ACCOUNT);
    house.signal("HUP");
    house.until(waiting, "1").await;
    house.sql("UPDATE messages SET chat = 'private', expected_readers = 1 WHERE state = 'pending'");
    house.until(&complete("later"), "1").await;
}
