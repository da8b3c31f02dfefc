//! receiptd's job as jobs of apalis in SQLite: a job a message, which calls the endpoint and returns the readers; apalis
//! keeps them with the job (`persist_results`), in its own batches.
//!
//! `apalis-peer DATABASE BASE CA COUNT`. It speaks as every contender of the bench does: `ready`, waits for a line,
//! works, `done`, and ends with its input.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use apalis::layers::WorkerBuilderExt as _;
use apalis::prelude::*;
use apalis_sqlite::{Config, SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteStorage};
use futures::stream;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};

/// Calls under way at once, as the daemon has them by default.
const CONCURRENCY: usize = 64;
/// Jobs fetched at once: what the daemon claims ahead.
const BATCH: usize = 256;

#[derive(Debug, Serialize, Deserialize)]
struct Poll {
    process_query_key: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    read_user_ids: Vec<String>,
}

#[derive(Clone)]
struct Endpoint {
    http: reqwest::Client,
    url: reqwest::Url,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Query<'a> {
    robot_code: &'a str,
    process_query_key: &'a str,
    max_results: u16,
}

async fn poll(job: Poll, endpoint: Data<Endpoint>) -> Result<Vec<String>, BoxDynError> {
    let query = Query {
        robot_code: "bench",
        process_query_key: &job.process_query_key,
        max_results: 200,
    };
    let answer = endpoint
        .http
        .post(endpoint.url.clone())
        .header("x-acs-dingtalk-access-token", "c0ffee")
        .header(CONTENT_TYPE, "application/json")
        .json(&query)
        .send()
        .await?
        .error_for_status()?;
    Ok(answer.json::<Page>().await?.read_user_ids)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, base, authority, count] = &arguments[..] else {
        bail!("apalis-peer DATABASE BASE CA COUNT");
    };
    let count: u64 = count.parse()?;
    let pool = open(Path::new(database)).await?;
    let config = Config::default().queue("polls").batch_size(BATCH);
    let mut storage = SqliteStorage::new(&pool).with_config(config);
    let mut jobs = stream::iter((0..count).map(|number| Poll {
        process_query_key: format!("key-{number:08}"),
    }));
    storage.push_stream(&mut jobs).await?;
    let endpoint = endpoint(base, authority)?;
    println!("ready");
    line();
    let worker = WorkerBuilder::new("polls")
        .backend(storage)
        .data(endpoint)
        .concurrency(CONCURRENCY)
        .build(poll);
    let working = tokio::spawn(worker.run());
    until_all_done(&pool, count).await?;
    println!("done");
    line();
    working.abort();
    Ok(())
}

/// As durable as the daemon's database: apalis itself would set `synchronous = OFF`.
async fn open(path: &Path) -> anyhow::Result<SqlitePool> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new().connect_with(options).await?;
    SqliteStorage::migrations().run(&pool).await?;
    Ok(pool)
}

/// With the daemon's settings.
fn endpoint(base: &str, authority: &str) -> anyhow::Result<Endpoint> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = reqwest::Certificate::from_pem(&std::fs::read(authority)?)?;
    Ok(Endpoint {
        http: reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            .no_proxy()
            .tls_certs_only([authority])
            .build()?,
        url: reqwest::Url::parse(&format!("{base}/v1.0/robot/privateChatMessages/query"))?,
    })
}

async fn until_all_done(pool: &SqlitePool, count: u64) -> anyhow::Result<()> {
    let count = i64::try_from(count)?;
    loop {
        let done: Vec<i64> = sqlx::query_scalar("SELECT count(*) FROM Jobs WHERE status = 'Done'")
            .fetch_all(pool)
            .await?;
        if done.first().context("no count")? == &count {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for a line, or for the end of the input.
fn line() {
    let _ = std::io::stdin().read_line(&mut String::new());
}
