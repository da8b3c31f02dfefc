//! `receiptd sandbox`: the imitation of DingTalk's endpoint on an address.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::sandbox::{App, CrowdRules, FaultPlan, Mischief, Outages, Sandbox, SandboxConfig};

/// Serve an imitation of DingTalk's endpoint, to work without an account
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8888")]
    listen: SocketAddr,
    /// Listen on an address that other machines reach: whoever calls can change everything here
    #[arg(long)]
    allow_remote: bool,
    /// The same seed gives the same crowds and the same faults
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Recipients of a message (median, for groups) [default: 1 in a private chat, 40 in a group]
    #[arg(long, value_name = "MEDIAN")]
    readers: Option<u32>,
    /// Median time from sending to reading
    #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = humantime::parse_duration)]
    median: Duration,
    /// Share of the recipients who never read
    #[arg(long, value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    never: f64,
    /// Messages live so many times as fast as the clock; 1440 makes a day of a minute
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    time_scale: f64,
    /// How long a key answers, in the time of messages
    #[arg(long, value_name = "SPAN", default_value = "24h", value_parser = humantime::parse_duration)]
    key_lifetime: Duration,
    /// Throttle an app beyond so many calls in a second; 0: never
    #[arg(long, value_name = "N", default_value_t = 20)]
    calls_per_second: u32,
    /// Refuse an app's calls beyond so many in a calendar month; 0: never
    #[arg(long, value_name = "N", default_value_t = 0)]
    monthly_calls: u64,
    /// How long an access token lives
    #[arg(long, value_name = "SPAN", default_value = "2h", value_parser = humantime::parse_duration)]
    token_life: Duration,
    /// Every answer takes so long, or between two spans: 20ms or 20ms..300ms
    #[arg(long, value_name = "SPAN", default_value = "0ms", value_parser = latency)]
    latency: (Duration, Duration),
    /// Let a share of the calls fail so; may be given again. Kinds as in a key's rule, see below
    #[arg(long, value_name = "KIND=RATE", value_parser = FaultPlan::parse_rate)]
    fault: Vec<(Mischief, f64)>,
    /// Let this share of the calls fail, all the usual ways
    #[arg(long, value_name = "RATE", value_parser = share, conflicts_with = "fault")]
    faults: Option<f64>,
    /// An outage of a length in every stretch of another: 2s/60s
    #[arg(long, value_name = "LENGTH/EVERY", value_parser = outages)]
    outage: Option<Outages>,
    /// A third-party app; may be given again
    #[arg(long, value_name = "KEY:SECRET:TICKET:CORP[,CORP]", value_parser = suite)]
    suite: Vec<App>,
    /// Print one line of JSON in place of the instructions
    #[arg(long)]
    json: bool,
}

const HELP: &str = "\
Examples:
  receiptd sandbox
  receiptd sandbox --readers 30 --time-scale 1440      # a day in a minute
  receiptd sandbox --fault html=0.02 --fault drop=mid-body=0.01 --outage 3s/60s
  receiptd sandbox --suite suite1:secret:ticket:corpA,corpB

Any key has an answer. A key may say what becomes of it, between `sb:` and the first `;`:
  sb:readers=350,median=30s;first      350 recipients, half of the readers within 30 s
  sb:processing=5s,recall=1m;second    delivered after 5 s, recalled after a minute
  sb:generate=3s,expire=10m;third      not there for 3 s, gone after 10 min
  sb:code=system.error*3;fourth        three errors, then answers
  sb:code=bot.stopped;fifth            an error, always; @2 means only on page two
  sb:code=auth.error/403;sixth         the same with another HTTP status

What can go wrong, for keys (with @PAGE and *TIMES) and for --fault (with =RATE):
  code=CODE pascal=CODE throttle dead-token bare401 redirect banned
  drop=before drop=after-head drop=mid-body hang=SPAN slow=SPAN truncate huge endless
  html html-ok empty-object empty-body errcode404
  page=repeat page=no-token page=empty page=bad-cursor page=too-large
  fields=null fields=missing fields=no-status fields=wrong fields=extra

While it runs, in JSON: GET /sandbox/truth /sandbox/log /sandbox/violations /sandbox/counts,
PUT /sandbox/messages, POST /sandbox/faults /sandbox/outage /sandbox/accounts
/sandbox/tokens/revoke /sandbox/clock. For example:
  curl -X PUT http://127.0.0.1:8888/sandbox/messages \\
    -d '{\"key\":\"mine\",\"chat\":\"group\",\"readers\":[{\"userId\":\"ann\",\"afterMs\":5000}]}'";

/// Serves until SIGINT or SIGTERM.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let json = args.json;
    let sandbox = start(args).await?;
    let text = if json {
        line(&sandbox)
    } else {
        instructions(&sandbox)
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
        let _ = writeln!(
            out,
            "not as the interface has it: call {}: {}",
            one.seq, one.what
        );
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
    let usual = CrowdRules::default();
    let mut plan = match args.faults {
        Some(rate) => FaultPlan::usual(args.seed, rate),
        None => FaultPlan {
            seed: args.seed,
            rates: args.fault,
            ..FaultPlan::default()
        },
    };
    plan.outages = args.outage;
    let wrong = !plan.rates.is_empty() || plan.outages.is_some();
    let mut apps = SandboxConfig::default().apps;
    apps.extend(args.suite);
    let config = SandboxConfig {
        listen: args.listen,
        seed: args.seed,
        apps,
        token_life: args.token_life,
        calls_per_second: args.calls_per_second,
        monthly_calls: args.monthly_calls,
        key_lifetime: args.key_lifetime,
        time_scale: args.time_scale,
        latency: args.latency,
        crowd: CrowdRules {
            private: args.readers.unwrap_or(usual.private),
            group: args.readers.unwrap_or(usual.group),
            median: args.median,
            never: args.never,
            ..usual
        },
        faults: wrong.then_some(plan),
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

fn instructions(sandbox: &Sandbox) -> String {
    format!(
        "An imitation of DingTalk's endpoint is at {base}. Ctrl-C ends it.

In receiptd.toml:

  [endpoint]
  base_url = \"{base}\"

  [accounts.default]
  app = \"internal\"
  app_key = \"sandbox\"
  app_secret = \"sandbox\"

Then a row such as

  INSERT INTO messages (process_query_key, chat) VALUES ('sb:readers=30,median=20s;hello', 'group');

`receiptd sandbox --help` shows what else a key can ask for. Violations of the interface: {base}/sandbox/violations",
        base = sandbox.base_url()
    )
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err("it must lie between 0 and 1".to_owned()),
    }
}

fn latency(text: &str) -> Result<(Duration, Duration), String> {
    let (least, most) = text.split_once("..").unwrap_or((text, text));
    let span = |text| humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"));
    Ok((span(least)?, span(most)?))
}

fn outages(text: &str) -> Result<Outages, String> {
    let (length, every) = text
        .split_once('/')
        .ok_or("write LENGTH/EVERY, for example 2s/60s")?;
    let span = |text| humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"));
    let outages = Outages {
        every: span(every)?,
        length: span(length)?,
    };
    match outages.length <= outages.every {
        true => Ok(outages),
        false => Err("an outage cannot be longer than the stretch it lies in".to_owned()),
    }
}

fn suite(text: &str) -> Result<App, String> {
    match text.split(':').collect::<Vec<_>>()[..] {
        [key, secret, ticket, corps] => Ok(App::third_party(
            key,
            secret,
            ticket,
            &corps.split(',').collect::<Vec<_>>(),
        )),
        _ => Err("write KEY:SECRET:TICKET:CORP, for example suite1:secret:ticket:corpA".to_owned()),
    }
}
