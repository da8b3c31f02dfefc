//! `receiptd demo`: a day of messages in a few seconds, without an account.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::common;
use super::demo_report::{self, Spent};
use crate::daemon::{self, Clock, Configured, Handle, Stop};
use crate::receipt::{Chat, MessageKey};
use crate::sandbox::{Night, Sandbox, SandboxConfig, Script};
use crate::settings::{Settings, from_text};
use crate::store::sqlite::DaemonLock;
use crate::store::{self, Role, Store};

/// What the demo's seconds stand for.
const DAY: Duration = Duration::from_secs(86_400);
/// In so many hours of the day messages are sent and read; the first of them is the one in which the demo starts.
const WAKING_HOURS: u8 = 14;

/// Show it at work: an imitation of DingTalk, a feeder, the daemon; a day's life of a message in seconds
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  receiptd demo
  receiptd demo --messages 500 --seconds 15 --seed 7

Needs no account, no configuration and no network, and leaves nothing behind.")]
pub(super) struct Args {
    /// How many messages are sent
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    messages: u32,
    /// How many seconds stand for a day, 5 to 25; the demo takes about one and a half such days
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..=25))]
    seconds: u32,
    /// The same seed gives the same crowd
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the results as JSON, and no progress
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    use std::os::unix::fs::PermissionsExt as _;
    let interrupts = Interrupts::new()?;
    // For this user alone. Removed, with all that is in it, when this function ends.
    let scratch = tempfile::Builder::new()
        .prefix("receiptd-demo-")
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
        .context("no directory for the demo's database can be made")?;
    play(args, scratch.path(), interrupts).await
}

/// The signals that end the demo, from when this is made.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> io::Result<Self> {
        use SignalKind as Kind;
        let listen = |kinds: [Kind; 3]| -> io::Result<[Signal; 3]> {
            let [first, second, third] = kinds.map(signal);
            Ok([first?, second?, third?])
        };
        listen([Kind::interrupt(), Kind::terminate(), Kind::hangup()]).map(Self)
    }

    async fn any(&mut self) {
        let [first, second, third] = &mut self.0;
        tokio::select! {
            _ = first.recv() => {}
            _ = second.recv() => {}
            _ = third.recv() => {}
        }
    }
}

async fn play(args: &Args, scratch: &Path, mut interrupts: Interrupts) -> anyhow::Result<ExitCode> {
    // A day of sending, and the day that the last message lives on.
    let life = Duration::from_secs(args.seconds.into());
    let sandbox = Sandbox::start(SandboxConfig {
        seed: args.seed,
        time_scale: DAY.as_secs_f64() / life.as_secs_f64(),
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
            "{life:?} stand for a day here: {} messages are sent in {WAKING_HOURS} of its hours, a key answers for a day, and people \
             read as much faster; at night, in the other hours, nobody reads. One day is too short to learn that, so the polls \
             go by a message's age alone.",
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
        () = interrupts.any() => {
            stop.immediate.cancel();
            Err(anyhow!("the demo was interrupted"))
        }
        ended = &mut daemon => match ended {
            Ok(Ok(())) => bail!("the daemon stopped by itself"),
            Ok(Err(error)) => return Err(anyhow::Error::new(error).context("the daemon failed")),
            Err(error) => return Err(anyhow::Error::new(error).context("the daemon failed")),
        },
    };
    stop.graceful.cancel();
    daemon.await.context("the daemon failed")??;
    if let Err(error) = worked {
        // Nothing writes any more where all is to be removed.
        store.close().await;
        return Err(error);
    }
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
min_interval = "{least}"
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
robot_code = "sandbox"
calls_per_second = 1000
"#,
        // A JSON string is a TOML string too.
        url = serde_json::Value::String(format!("sqlite://{}", database.display())),
        // What a poll brought is written up to so much later: a cadence that asked for shorter intervals would not get
        // them, and would spend less than it may.
        least = "250ms",
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
    let step = span.mul_f64(f64::from(WAKING_HOURS) / 24.0) / args.messages;
    let night = night(sandbox.time_of_day());
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
        // Of messages to persons the answer lists the recipients: nobody has to say how many they are.
        let (chat, size, expected) = match random.u32(..10) {
            0..2 => (Chat::Private, 1, Some(1)),
            2..5 => (Chat::Oto, random.u32(1..=20), None),
            _ => {
                let size = random.u32(2..=60);
                (Chat::Group, size, Some(size))
            }
        };
        sandbox.publish(
            key.as_str(),
            Script {
                crowd_size: Some(size),
                chat: Some(chat),
                median: Duration::from_secs(1_800),
                night: Some(night),
                ..Script::default()
            },
        );
        sqlx::query(
            "INSERT INTO messages (process_query_key, chat, expected_readers, sent_at) VALUES (?, ?, ?, ?)",
        )
        .bind(key.as_str())
        .bind(chat.as_str())
        .bind(expected)
        .bind(sandbox.now().0)
        .execute(&mut connection)
        .await
        .context("the feeder cannot insert")?;
    }
    connection.close().await?;
    Ok(())
}

/// It begins about when the messages have been sent that are sent from now on.
fn night(time_of_day: Duration) -> Night {
    let hour = u8::try_from(time_of_day.as_secs() / 3_600).unwrap_or(0);
    Night {
        from: (hour + WAKING_HOURS) % 24,
        to: hour,
    }
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

/// A line that moves, where somebody looks at it, until all messages are final.
async fn watch_progress(
    args: &Args,
    store: &dyn Store,
    sandbox: &Sandbox,
    bound: Duration,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let shows = !args.json && io::stderr().is_terminal();
    let mut beat = tokio::time::interval(Duration::from_millis(250));
    loop {
        beat.tick().await;
        let lanes = store.totals(common::now()).await?;
        let pending: u64 = lanes.iter().map(|lane| lane.pending).sum();
        let finished: u64 = lanes.iter().flat_map(|lane| lane.finished).sum();
        if shows {
            let seconds = start.elapsed().as_secs();
            let (sent, calls) = (pending + finished, sandbox.counts().metered);
            let end = if finished >= u64::from(args.messages) {
                "\n"
            } else {
                ""
            };
            let line = format!(
                "\r{seconds:>3} s: {sent} sent, {pending} pending, {finished} finished, {calls} calls {end}"
            );
            // A terminal that is gone ends the demo by a signal.
            let _ = io::stderr().write_all(line.as_bytes());
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
