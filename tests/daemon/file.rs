//! The file that the database is: who may do what with it, and the lock beside it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use receiptd::sandbox::SandboxConfig;

use super::check::{check, line};
use super::harness::{DEFAULT_ACCOUNT, House};
use super::memory;
use super::notify::said;

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
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
    house.sql(&format!(
        "INSERT INTO messages (process_query_key, next_poll_at) VALUES ('later', {})",
        house.sandbox.now().0 + 3_600_000
    ));
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

/// An owner of a server's tables could drop their checks too, and its indexes take no such cell.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_rows_cost_no_memory() {
    let idle = memory::idle().await;
    let mut house = memory::house().await;
    // Cells of 3 MB that went round the checks, 180 MB in all: a third in each of three columns.
    house.sql(
        "PRAGMA ignore_check_constraints = ON;
         INSERT INTO messages (process_query_key, open_conversation_id, robot_code, account)
         SELECT 'hostile-' || value, iif(value % 3 = 0, hex(zeroblob(1500000)), NULL),
             iif(value % 3 = 1, zeroblob(3000000), NULL), iif(value % 3 = 2, hex(zeroblob(1500000)), 'default')
         FROM generate_series(0, 59)",
    );
    house.sql(memory::SOUND);
    house.start();
    house.until(memory::SOUND_STATE, "complete").await;
    let aside =
        "SELECT count(*) FROM messages WHERE state = 'failed' AND last_error LIKE 'row.invalid: %'";
    house.until(aside, "60").await;
    let peak = memory::peak(&house);
    println!("hostile rows: {peak} KiB at the most, {idle} KiB without");
    assert!(
        peak <= idle + memory::SLACK_KIB,
        "{peak} KiB, {idle} KiB without"
    );
}

/// A process that a SIGHUP would end.
struct Bystander(std::process::Child);

impl Bystander {
    fn new() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn assert_lives(&mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "it was signalled");
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        // It may have ended, which the test has noticed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_never_signals_another_process_and_says_that_no_daemon_runs() {
    let mut house = House::new(SandboxConfig::default(), DEFAULT_ACCOUNT).await;
    house.start();
    house.until_locked().await;
    let status = house.dir.path().join("receiptd.db.status");
    house
        .until_true("the daemon publishes", || status.exists())
        .await;
    let dead = house.pid().to_string();
    house.kill();
    // The number of the dead daemon is another process's now.
    let mut bystander = Bystander::new();
    let number = bystander.0.id().to_string();
    for file in [&status, &house.database().with_extension("db.lock")] {
        let text = std::fs::read_to_string(file).unwrap();
        std::fs::write(file, text.replace(&dead, &number)).unwrap();
    }
    for arguments in [&[][..], &[number.as_str()][..]] {
        let refused = house.command("reload").args(arguments).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            said(&refused).contains("no daemon serves"),
            "{}",
            said(&refused)
        );
        bystander.assert_lives();
    }
    // A daemon of another container: it holds the lock, and its number means somebody else here.
    let lock = house.database().with_extension("db.lock");
    let mut holder = Command::new("python3")
        .args(["-c", "import fcntl, sys\nf = open(sys.argv[1])\nfcntl.flock(f, fcntl.LOCK_EX)\nprint('held', flush=True)\nsys.stdin.read()"])
        .arg(&lock)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "held\n");
    let refused = house.command("reload").output().unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("cannot be told from here"),
        "{}",
        said(&refused)
    );
    bystander.assert_lives();
}
