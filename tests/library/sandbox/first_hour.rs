//! What somebody meets who starts `receiptd sandbox` and does as it says, or `receiptd demo`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// As long as the instructions promise.
const MINUTE: Duration = Duration::from_secs(60);

/// A process that ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &Path, arguments: &[&str], stdout: Stdio) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.current_dir(directory).args(arguments);
    command.env_remove("RUST_LOG").stderr(Stdio::null());
    Running(command.stdout(stdout).spawn().expect("receiptd starts"))
}

fn shell(directory: &Path, line: &str) -> Option<String> {
    let mut command = Command::new("sh");
    let output = command.current_dir(directory).args(["-c", line]).output();
    let output = output.expect("a shell");
    let success = output.status.success();
    success.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_row_inserted_as_it_says_is_read_within_the_minute_that_it_promises() {
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    if shell(directory, "sqlite3 --version").is_none() {
        println!("SKIPPED: sqlite3 is not installed");
        return;
    }
    let arguments = [
        "sandbox",
        "--listen",
        "localhost:0",
        "--write-config",
        "sandbox.toml",
    ];
    let mut sandbox = start(directory, &arguments, Stdio::piped());
    let said = BufReader::new(sandbox.0.stdout.take().expect("its output"));
    let lines: Vec<String> = said
        .lines()
        .map(|line| line.expect("text"))
        .take_while(|line| !line.ends_with("/sandbox/violations"))
        .collect();
    let said = lines.join("\n");
    let command = |start: &str| {
        let (_, rest) = said.split_once(&format!("\n  {start}")).expect(start);
        let end = rest.find("\n\n").unwrap_or(rest.len());
        format!("{start}{}", &rest[..end])
    };
    let run = command("receiptd run");
    let arguments: Vec<&str> = run.split(' ').skip(1).collect();
    let _daemon = start(directory, &arguments, Stdio::null());
    // The insert and the query after it, as printed.
    let both = command("sqlite3 -cmd");
    let (insert, query) = both.split_once("\n  sqlite3").expect("two commands");
    let since = Instant::now();
    while shell(directory, insert).is_none() {
        assert!(
            since.elapsed() < MINUTE,
            "the database is not there: {insert}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let since = Instant::now();
    let query = format!("sqlite3{query}");
    while shell(directory, &query).unwrap_or_default().is_empty() {
        assert!(since.elapsed() < MINUTE, "nobody has read it: {query}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_demo_that_is_ended_leaves_nothing_behind() {
    for signal in ["INT", "TERM", "HUP"] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        command.arg("demo").env("TMPDIR", directory.path());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut demo = Running(command.spawn().expect("receiptd starts"));
        let written = || {
            let mut made = directory.path().read_dir().expect("it is there");
            made.next().map(|made| made.expect("a directory").path())
        };
        let since = Instant::now();
        // Until its feeder has inserted something.
        while written().is_none_or(|made| !made.join("demo.db-wal").exists()) {
            assert!(since.elapsed() < MINUTE, "it writes nothing");
            std::thread::sleep(Duration::from_millis(10));
        }
        let kill = format!("kill -s {signal} {}", demo.0.id());
        assert!(shell(directory.path(), &kill).is_some());
        let status = demo.0.wait().expect("it ends");
        assert_eq!(status.code(), Some(1), "{signal}");
        assert_eq!(written(), None, "{signal}");
    }
}
