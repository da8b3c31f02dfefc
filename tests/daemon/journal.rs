//! `auto` under systemd: the journal's own protocol, fields and priorities, heard at a journal socket of the test's own.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use receiptd::sandbox::SandboxConfig;

use super::harness::{DEFAULT_ACCOUNT, House};

/// A command in mounts of its own, where `/run` is another directory: the journal's socket has a fixed place.
fn unshared() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount"]);
    command.args([
        "sh",
        "-c",
        "mount --bind \"$1\" /run && shift && exec \"$@\"",
        "sh",
    ]);
    command
}

/// The fields of a datagram: `NAME=value` lines, or a name, a length and a value of any bytes.
fn fields(datagram: &[u8]) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut fields = BTreeMap::new();
    let mut rest = datagram;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = match line.iter().position(|byte| *byte == b'=') {
            Some(sign) => {
                fields.insert(text(&line[..sign]), text(&line[sign + 1..]));
                after
            }
            None => {
                let (length, value) = after.split_at(8);
                let length =
                    usize::try_from(u64::from_le_bytes(length.try_into().unwrap())).unwrap();
                fields.insert(text(line), text(&value[..length]));
                &value[length + 1..]
            }
        };
    }
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_gets_messages_priorities_and_fields() {
    let run = tempfile::tempdir().unwrap();
    let possible = unshared()
        .arg(run.path())
        .arg("true")
        .output()
        .is_ok_and(|output| output.status.success());
    if !possible {
        println!("SKIPPED: no mounts of one's own are allowed here (unshare --user --mount)");
        return;
    }
    std::fs::create_dir_all(run.path().join("systemd/journal")).unwrap();
    let journal = UnixDatagram::bind(run.path().join("systemd/journal/socket")).unwrap();
    journal
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();

    let house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.sql(
        "INSERT INTO messages (process_query_key, account, expected_readers) VALUES
         ('sb:readers=1,median=1ms,never=0;known', 'default', 1), ('sb:readers=1;unknown', 'unknown', 1)",
    );
    let stderr_path = house.dir.path().join("stderr");
    let stderr = std::fs::File::create(&stderr_path).unwrap();
    let looked = stderr.metadata().unwrap();
    let command = house.command("run");
    let mut daemon = unshared()
        .arg(run.path())
        .arg(command.get_program())
        .args(command.get_args())
        .envs(&house.environment)
        // As systemd says that stderr leads to the journal.
        .env(
            "JOURNAL_STREAM",
            format!("{}:{}", looked.dev(), looked.ino()),
        )
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap();

    let mut entries: Vec<BTreeMap<String, String>> = Vec::new();
    let since = Instant::now();
    let has = |entries: &[BTreeMap<String, String>], name: &str, value: &str| {
        entries
            .iter()
            .any(|entry| entry.get(name).is_some_and(|found| found == value))
    };
    while !(has(&entries, "RECEIPTD_MESSAGE_STATE", "complete")
        && has(&entries, "RECEIPTD_ERROR_CODE", "account.unknown"))
    {
        assert!(since.elapsed() < Duration::from_secs(60), "{entries:#?}");
        let mut datagram = vec![0; 1 << 16];
        let length = match journal.recv(&mut datagram) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            heard => heard.unwrap(),
        };
        // The first is empty: whether there is a journal at all.
        entries.extend(Some(fields(&datagram[..length])).filter(|entry| !entry.is_empty()));
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();

    for entry in &entries {
        assert_eq!(entry["SYSLOG_IDENTIFIER"], "receiptd", "{entry:#?}");
    }
    let entry = |start: &str| {
        let found = entries
            .iter()
            .find(|entry| entry["MESSAGE"].starts_with(start));
        found.unwrap_or_else(|| panic!("no {start:?} in {entries:#?}"))
    };
    let finished = entry("message sb:readers=1,median=1ms,never=0;known: complete");
    assert_eq!(finished["PRIORITY"], "6");
    assert_eq!(
        finished["RECEIPTD_MESSAGE_KEY"],
        "sb:readers=1,median=1ms,never=0;known"
    );
    assert_eq!(finished["RECEIPTD_ACCOUNT"], "default");
    assert_eq!(finished["RECEIPTD_MESSAGE_READERS"], "1");
    assert!(!finished.contains_key("RECEIPTD_CORP_ID"), "{finished:#?}");
    let unknown = entry("account unknown: account.unknown: ");
    assert_eq!(unknown["PRIORITY"], "4");
    assert_eq!(unknown["RECEIPTD_ACCOUNT"], "unknown");
    assert_eq!(unknown["RECEIPTD_SUPPRESSED"], "0");
    let written = std::fs::read_to_string(stderr_path).unwrap();
    assert_eq!(written, "", "beside the journal");
}
