//! `receiptd sandbox`: the imitation of DingTalk's endpoint on an address.

use std::io::Write;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use crate::receipt::whole_ms;
use crate::sandbox::{App, FaultPlan, Mischief, Sandbox, SandboxConfig, Script};

/// Serve an imitation of DingTalk's endpoint, to work without an account
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8888", value_parser = address)]
    listen: SocketAddr,
    /// Listen on an address that other machines reach: whoever calls can change everything here
    #[arg(long)]
    allow_remote: bool,
    /// Write a configuration for this sandbox to a file, which must not exist yet
    #[arg(long, value_name = "FILE")]
    write_config: Option<PathBuf>,
    /// Speed up the life of messages by this factor, from 1 to 1440 (a day in a minute)
    #[arg(long, value_name = "FACTOR", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=1440))]
    time_scale: u16,
    /// What becomes of messages whose keys do not say it, for example readers=30,never=0; items as below
    #[arg(long, value_name = "ITEMS", default_value = "", hide_default_value = true, value_parser = Script::parse)]
    rule: Script,
    /// Let a share of the calls fail; may be given again. Kinds as below
    #[arg(long, value_name = "KIND=RATE", value_parser = FaultPlan::parse_rate)]
    fault: Vec<(Mischief, f64)>,
    /// Throttle an app beyond so many calls in a second; 0: never
    #[arg(long, value_name = "N", default_value_t = 20)]
    calls_per_second: u32,
    /// Refuse an app's calls beyond so many in a calendar month; 0: never
    #[arg(long, value_name = "N", default_value_t = 0)]
    monthly_calls: u64,
    /// A third-party app; may be given again
    #[arg(long, value_name = "KEY:SECRET:TICKET:CORP[,CORP]", value_parser = suite)]
    suite: Vec<App>,
    /// The same seed gives the same readers and the same faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print one line of JSON in place of the instructions
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  receiptd sandbox --write-config sandbox.toml
  receiptd sandbox --time-scale 1440 --rule readers=30      # a day in a minute
  receiptd sandbox --fault html=0.02 --fault drop=mid-body=0.01
  receiptd sandbox --suite suite1:secret:ticket:corpA,corpB

Any key has an answer. A key may say what becomes of it, between `sb:` and the first `;`. Times are \
in the time of messages, which runs faster than the clock by --time-scale.

  sb:readers=350,median=2m;first       350 recipients, half of the readers within 2 minutes
  sb:sent=1790000000000;second         sent at that Unix millisecond; else when it is first asked for
  sb:processing=5m,recall=1h;third     delivered after 5 minutes, recalled after an hour
  sb:generate=3m,expire=10h;fourth     not there for 3 minutes, gone after 10 hours
  sb:code=system.error*3;fifth         three errors, then answers
  sb:code=bot.stopped;sixth            an error, always; @2 means only on page two
  sb:code=auth.error/403;seventh       the same with another HTTP status

Items: readers=N median=TIME sigma=F never=SHARE night=FROM-TO sent=MS generate=TIME processing=TIME recall=TIME \
expire=TIME latency=TIME read_unit=s|ms|zero|absent (night=14-24: nobody reads in these hours, UTC)

What can go wrong, for keys (with @PAGE and *TIMES) and for --fault (with =RATE):
  code=CODE throttle dead-token bare401 redirect banned
  drop=before drop=after-head drop=mid-body hang=TIME slow=TIME truncate huge endless
  html html-ok empty-object empty-body errcode404
  page=repeat page=no-token page=bad-cursor fields=null fields=no-status

While it runs, in JSON: GET /sandbox/truth /sandbox/log /sandbox/violations /sandbox/counts, PUT \
/sandbox/messages. For example:
  curl -X PUT http://127.0.0.1:8888/sandbox/messages \\
    -d '{\"key\":\"mine\",\"chat\":\"group\",\"readers\":[{\"userId\":\"ann\",\"afterMs\":5000}]}'";

/// Serves until SIGINT or SIGTERM.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let (json, scale) = (args.json, args.time_scale);
    let file = args.write_config.clone();
    let database = beside(file.as_deref().unwrap_or(Path::new("sandbox.toml")))?;
    let sandbox = start(args).await?;
    let config = configuration(&sandbox.base_url(), scale, &database);
    if let Some(file) = &file {
        write_new(file, &config)?;
    }
    let text = match json {
        true => line(&sandbox),
        false => instructions(&sandbox, scale, file.as_deref(), &config, &database),
    };
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")
            .and_then(|()| out.flush())
            .context("standard output is closed")?;
    }
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        pressed = tokio::signal::ctrl_c() => pressed?,
        _ = end.recv() => {}
    }
    let violations = sandbox.violations();
    sandbox.stop().await;
    let mut out = std::io::stderr().lock();
    for one in &violations {
        // The one who reads this may be gone already.
        let _ = writeln!(out, "protocol violation in call {}: {}", one.seq, one.what);
    }
    Ok(())
}

async fn start(args: Args) -> anyhow::Result<Sandbox> {
    if !args.listen.ip().is_loopback() && !args.allow_remote {
        bail!(
            "{} can be reached from other machines, and whoever calls the sandbox can change everything in it: listen \
             on 127.0.0.1, or say --allow-remote",
            args.listen
        );
    }
    let faults = FaultPlan {
        seed: args.seed,
        rates: args.fault,
        ..FaultPlan::default()
    };
    let mut apps = SandboxConfig::default().apps;
    apps.extend(args.suite);
    let config = SandboxConfig {
        listen: args.listen,
        seed: args.seed,
        apps,
        calls_per_second: args.calls_per_second,
        monthly_calls: args.monthly_calls,
        time_scale: args.time_scale.into(),
        usual: args.rule,
        faults: (!faults.rates.is_empty()).then_some(faults),
        ..SandboxConfig::default()
    };
    Sandbox::start(config)
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))
}

fn line(sandbox: &Sandbox) -> String {
    format!(
        r#"{{"address":"{}","base_url":"{}","app_key":"sandbox","app_secret":"sandbox"}}"#,
        sandbox.addr(),
        sandbox.base_url()
    )
}

/// The database of a configuration.
fn beside(config: &Path) -> anyhow::Result<PathBuf> {
    let config = std::path::absolute(config).context("the working directory cannot be found")?;
    Ok(config.with_file_name("sandbox.db"))
}

/// Writes a file that is not there yet, for its owner alone: a secret stands in it.
fn write_new(file: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .and_then(|mut made| made.write_all(text.as_bytes()))
        .with_context(|| format!("the configuration cannot be written to {}", file.display()))
}

/// A configuration for receiptd: the spans of a message's life are the built-in ones, as many times shorter as it lives
/// faster.
fn configuration(base_url: &str, scale: u16, database: &Path) -> String {
    // A JSON string is a TOML string too.
    let url = serde_json::Value::String(format!("sqlite://{}", database.display()));
    let span = |seconds: u64| {
        let scaled = Duration::from_secs(seconds) / u32::from(scale);
        // Cut to what a person can read.
        let cut = match scaled > Duration::from_secs(10) {
            true => Duration::from_secs(scaled.as_secs()),
            false => Duration::from_millis(whole_ms(scaled).max(20)),
        };
        humantime::format_duration(cut).to_string()
    };
    format!(
        r#"[database]
url = {url}

[endpoint]
base_url = "{base_url}"

# The built-in spans, divided by {scale}.
[cadence]
min_interval = "{min_interval}"
max_interval = "{day}"
generation_grace = "{grace}"
key_lifetime = "{day}"
last_chance = "{last}"
max_age = "{oldest}"
memory = "{memory}"

[accounts.default]
app = "internal"
app_key = "sandbox"
app_secret = "sandbox"
robot_code = "sandbox"
"#,
        min_interval = span(2),
        day = span(86_400),
        grace = span(600),
        last = span(300),
        oldest = span(7 * 86_400),
        memory = span(30 * 86_400),
    )
}

fn instructions(
    sandbox: &Sandbox,
    scale: u16,
    file: Option<&Path>,
    config: &str,
    database: &Path,
) -> String {
    let (show, name) = match file {
        Some(file) => (String::new(), file.display().to_string()),
        None => (
            format!(
                "Save this as sandbox.toml (or start again with --write-config sandbox.toml):\n\n{config}\n"
            ),
            "sandbox.toml".to_owned(),
        ),
    };
    let fast = match scale {
        1 => "Messages live as fast as the clock: receiptd first asks for a row some minutes after it was inserted.".to_owned(),
        _ => format!(
            "Messages live {scale} times as fast as the clock: a key answers for {}, and half of the readers have read after {}.",
            humantime::format_duration(Duration::from_secs(86_400 / u64::from(scale))),
            humantime::format_duration(Duration::from_millis(300_000 / u64::from(scale))),
        ),
    };
    format!(
        "An imitation of DingTalk's endpoint is at {base}. Ctrl-C ends it.
{fast}

{show}Start the daemon in another terminal:

  receiptd run --config {name}

Insert a message, and see its readers within a minute:

  sqlite3 -cmd '.timeout 5000' {database} \"INSERT INTO messages (process_query_key, chat, expected_readers)
    VALUES ('sb:readers=30,never=0,sent=' || strftime('%s', 'now') || '000;hello', 'group', 30)\"
  sqlite3 {database} 'SELECT * FROM readers'

`receiptd sandbox --help` shows what else a key can ask for. What a client does against the protocol is listed at
{base}/sandbox/violations",
        base = sandbox.base_url(),
        database = database.display()
    )
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let mut found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| "no such address".to_owned())
}

fn suite(text: &str) -> Result<App, String> {
    match text.split(':').collect::<Vec<_>>()[..] {
        [key, secret, ticket, corps] => {
            let corps: Vec<&str> = corps.split(',').collect();
            Ok(App::third_party(key, secret, ticket, &corps))
        }
        _ => Err("write KEY:SECRET:TICKET:CORP, for example suite1:secret:ticket:corpA".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::from_text;

    /// At every scale it is a configuration, and without one it says what is built in.
    #[test]
    fn the_configuration_fits() -> anyhow::Result<()> {
        let read = |text: &str| from_text(Path::new("/x/sandbox.toml"), text, std::iter::empty());
        for scale in [1, 2, 60, 1_440] {
            let text = configuration("http://127.0.0.1:8888", scale, Path::new("/x/sandbox.db"));
            let settings = read(&text)?.settings;
            assert_eq!(
                settings.cadence.key_lifetime.as_secs(),
                86_400 / u64::from(scale)
            );
            let (head, rest) = text.split_once("[cadence]").unwrap_or_default();
            let (_, tail) = rest.split_once("[accounts").unwrap_or_default();
            let built_in = read(&format!("{head}[accounts{tail}"))?.settings;
            assert_eq!(settings.cadence == built_in.cadence, scale == 1);
        }
        Ok(())
    }
}
