//! `receiptd demo`: a day of messages in a few seconds, without an account.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;

use super::common;
use super::demo_report::{self, Spent};
use crate::daemon::{self, Clock, Configured, Handle, Stop};
use crate::receipt::{Chat, MessageKey};
use crate::sandbox::{CrowdRules, Sandbox, SandboxConfig, Script};
use crate::settings::{Settings, from_text};
use crate::store::sqlite::DaemonLock;
use crate::store::{self, Role, Store};

/// Show it at work: an imitation of DingTalk, a feeder, the daemon; a day's life of a message in seconds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd demo
  receiptd demo --messages 500 --seconds 15 --seed 7

Needs no account, no configuration and no network; what it writes it removes again.")]
pub(super) struct Args {
    /// How many messages are sent
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    messages: u32,
    /// A day is pressed into so many seconds; the demo shows two of them
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..=25))]
    seconds: u32,
    /// The same seed gives the same crowd
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the results as JSON, and no progress
    #[arg(long)]
    json: bool,
}

/// A directory of our own, removed with all that is in it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let unique = fastrand::u64(..);
        let path = std::env::temp_dir().join(format!("receiptd-demo-{unique:016x}"));
        // For this user alone; fails where somebody was there first.
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing to be done in a drop; the system clears the directory of temporary files some day.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let scratch = Scratch::new().context("no directory for the demo's database can be made")?;
    tokio::select! {
        ended = play(args, &scratch.0) => ended,
        _ = tokio::signal::ctrl_c() => bail!("the demo was interrupted"),
    }
}

async fn play(args: &Args, scratch: &Path) -> anyhow::Result<ExitCode> {
    // A day of sending, and the day that the last message lives on.
    let life = Duration::from_secs(args.seconds.into());
    let sandbox = Sandbox::start(SandboxConfig {
        seed: args.seed,
        key_lifetime: life,
        crowd: crowd(life),
        ..SandboxConfig::default()
    })
    .await
    .context("the imitation of DingTalk cannot be started")?;
    let database = scratch.join("demo.db");
    let settings = settings(scratch, &database, &sandbox.base_url(), life)?;
    let rules = settings.cadence.clone();
    let lock = DaemonLock::acquire(&database)?;
    let store = store::open(&settings.database, Role::Owner, &mut |_| ()).await?;
    let (_kept, watched) = watch::channel(Configured::new(settings)?);
    let stop = Stop::default();
    let mut daemon = tokio::spawn({
        let (store, stop) = (Arc::clone(&store), stop.clone());
        daemon::run(store, watched, Clock::system(), Handle::default(), stop)
    });
    if !args.json {
        common::say(&format!(
            "{} messages in {life:?}; a key answers for as long here instead of 24 h, and people read as much faster.",
            args.messages
        ))?;
    }
    let keys = keys(args);
    let bound = life.mul_f64(2.5) + Duration::from_secs(10);
    let work = async {
        // The feeder and the watcher side by side: rows arrive while others are polled.
        tokio::try_join!(
            feed(args, &database, &*store, &sandbox, &keys, life),
            watch_progress(args, &*store, &sandbox, bound),
        )
    };
    let worked = tokio::select! {
        worked = work => worked.map(|_| ()),
        ended = &mut daemon => match ended {
            Ok(Ok(())) => bail!("the daemon stopped by itself"),
            Ok(Err(error)) => return Err(anyhow::Error::new(error).context("the daemon failed")),
            Err(error) => return Err(anyhow::Error::new(error).context("the daemon failed")),
        },
    };
    stop.graceful.cancel();
    daemon.await.context("the daemon failed")??;
    worked?;
    let spent = Spent::gather(&*store, &sandbox, &keys, rules.calls_per_message).await?;
    let curve = demo_report::curve(&*store, &rules).await?;
    store.close().await;
    drop(lock);
    sandbox.stop().await;
    common::say(&match args.json {
        true => spent.to_json(args.seed).to_string(),
        false => spent.to_text(&curve),
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Half of the readers read within five minutes of a day's life.
fn crowd(life: Duration) -> CrowdRules {
    CrowdRules {
        median: life.mul_f64(300.0 / 86_400.0),
        ..CrowdRules::default()
    }
}

/// The defaults with every span of a message's life pressed together.
fn settings(
    scratch: &Path,
    database: &Path,
    base_url: &str,
    life: Duration,
) -> anyhow::Result<Settings> {
    let ms = |share: f64| format!("{}ms", life.mul_f64(share).as_millis().max(1));
    let text = format!(
        r#"
[database]
url = {url}
synchronous = "normal"
[endpoint]
base_url = "{base_url}"
calls_per_second = 1000
[retry]
initial_interval = "20ms"
max_interval = "200ms"
max_elapsed_time = "1s"
[cadence]
min_interval = "20ms"
max_interval = "{whole}"
generation_grace = "{grace}"
key_lifetime = "{whole}"
last_chance = "{last}"
max_age = "{oldest}"
memory = "{memory}"
[accounts.default]
app = "internal"
app_key = "sandbox"
app_secret = "sandbox"
calls_per_second = 1000
"#,
        // A JSON string is a TOML string too.
        url = serde_json::Value::String(format!("sqlite://{}", database.display())),
        whole = ms(1.0),
        grace = ms(1.0 / 20.0),
        last = ms(1.0 / 50.0),
        oldest = ms(1.1),
        memory = ms(30.0),
    );
    // Without the environment: the demo must not reach for somebody's real account.
    let loaded = from_text(&scratch.join("demo.toml"), &text, std::iter::empty())
        .context("the demo's own settings are refused")?;
    Ok(loaded.settings)
}

fn keys(args: &Args) -> Vec<MessageKey> {
    (1..=args.messages)
        .map(|n| MessageKey::from(format!("demo-{}-{n:05}", args.seed)))
        .collect()
}

/// Sends and inserts the messages one by one over `span`, as another service would: by SQL, on a connection of its own.
async fn feed(
    args: &Args,
    database: &Path,
    store: &dyn Store,
    sandbox: &Sandbox,
    keys: &[MessageKey],
    span: Duration,
) -> anyhow::Result<()> {
    let mut connection: SqliteConnection = SqliteConnectOptions::new()
        .filename(database)
        .busy_timeout(Duration::from_secs(10))
        .connect()
        .await
        .context("the feeder cannot open the database")?;
    let mut random = fastrand::Rng::with_seed(args.seed);
    let step = span / args.messages;
    let mut at = tokio::time::Instant::now();
    for (n, key) in keys.iter().enumerate() {
        if n == 1 {
            // The daemon plans its polls once at its start; messages sent meanwhile would lose a great part of so
            // short a day. `watch_progress` bounds the wait.
            until_polled(store, &keys[0]).await?;
            at = tokio::time::Instant::now();
        }
        tokio::time::sleep_until(at).await;
        at += step;
        let (chat, size) = match random.u32(..10) {
            0..4 => (Chat::Private, 1),
            _ => (Chat::Group, random.u32(2..=60)),
        };
        sandbox.publish(
            key.as_str(),
            Script {
                crowd_size: Some(size),
                chat: Some(chat),
                ..Script::default()
            },
        );
        sqlx::query(
            "INSERT INTO messages (process_query_key, chat, expected_readers, sent_at) VALUES (?, ?, ?, ?)",
        )
        .bind(key.as_str())
        .bind(chat.as_str())
        .bind(size)
        .bind(sandbox.now().0)
        .execute(&mut connection)
        .await
        .context("the feeder cannot insert")?;
    }
    connection.close().await?;
    Ok(())
}

/// Waits for a message's first poll.
async fn until_polled(store: &dyn Store, key: &MessageKey) -> anyhow::Result<()> {
    let mut beat = tokio::time::interval(Duration::from_millis(50));
    loop {
        beat.tick().await;
        let found = store.message(key).await?;
        if found.is_some_and(|(message, _)| message.last_polled_at.is_some()) {
            return Ok(());
        }
    }
}

/// A line a second until all messages are final.
async fn watch_progress(
    args: &Args,
    store: &dyn Store,
    sandbox: &Sandbox,
    bound: Duration,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    loop {
        beat.tick().await;
        let lanes = store.totals(common::now()).await?;
        let pending: u64 = lanes.iter().map(|lane| lane.pending).sum();
        let finished: u64 = lanes.iter().flat_map(|lane| lane.finished).sum();
        if !args.json {
            let mut line = format!("{:>3} s", start.elapsed().as_secs());
            // Writing to a String cannot fail.
            let _ = write!(
                line,
                "  {:>6} inserted  {pending:>6} pending  {finished:>6} final  {:>7} calls",
                pending + finished,
                sandbox.counts().metered
            );
            common::say(&line)?;
        }
        if finished >= u64::from(args.messages) {
            return Ok(());
        }
        if start.elapsed() > bound {
            bail!(
                "{pending} messages are still pending after {bound:?}: try fewer messages or more seconds"
            );
        }
    }
}
