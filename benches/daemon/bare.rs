//! The floor: the same calls by the same HTTP library with the same settings, and nothing else. No parsing, no storing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{bail, ensure};
use reqwest::header::{CONTENT_TYPE, HeaderValue};

use super::child;

/// Calls under way at once, as the daemon has them by default.
const CONCURRENCY: u64 = 64;

/// Which runtime the loop runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    All,
}

impl Threads {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::All => "all",
        }
    }
}

/// What the loop shall do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) walks: u64,
    /// Calls of a walk.
    pub(crate) pages: u64,
    /// Walks a second, evenly; 0: as fast as it goes.
    pub(crate) rate: u64,
}

/// `THREADS BASE CA WALKS PAGES RATE`, the last three as in [`Load`].
pub(crate) fn run(arguments: &[&str]) -> anyhow::Result<()> {
    let [threads, base, authority, walks, pages, rate] = *arguments else {
        bail!("bare THREADS BASE CA WALKS PAGES RATE");
    };
    let load = Load {
        walks: walks.parse()?,
        pages: pages.parse()?,
        rate: rate.parse()?,
    };
    let mut runtime = match threads {
        "one" => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    let client = client(authority)?;
    child::ready()?;
    runtime.block_on(all(client, base, load))?;
    child::done()
}

fn client(authority: &str) -> anyhow::Result<reqwest::Client> {
    let authority = reqwest::Certificate::from_pem(&std::fs::read(authority)?)?;
    Ok(reqwest::Client::builder()
        .user_agent("bare")
        .connect_timeout(Duration::from_secs(5))
        .timeout(Duration::from_secs(10))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .http1_only()
        .no_proxy()
        .tls_certs_only([authority])
        .build()?)
}

async fn all(client: reqwest::Client, base: &str, load: Load) -> anyhow::Result<()> {
    let endpoint = if load.pages == 1 { "private" } else { "group" };
    let url = format!("{base}/v1.0/robot/{endpoint}Messages/query");
    let url = Arc::new(reqwest::Url::parse(
        &url.replace("privateM", "privateChatM"),
    )?);
    let next = Arc::new(AtomicU64::new(0));
    let pace =
        (load.rate > 0).then(|| tokio::time::interval(Duration::from_secs(1) / load.rate as u32));
    let pace = Arc::new(tokio::sync::Mutex::new(pace));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (client, url, next, pace) = (client.clone(), url.clone(), next.clone(), pace.clone());
        tasks.spawn(async move {
            loop {
                let walk = next.fetch_add(1, Ordering::Relaxed);
                if walk >= load.walks {
                    return anyhow::Ok(());
                }
                if let Some(pace) = &mut *pace.lock().await {
                    pace.tick().await;
                }
                for page in 0..load.pages {
                    call(&client, &url, walk, page).await?;
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn call(
    client: &reqwest::Client,
    url: &reqwest::Url,
    walk: u64,
    page: u64,
) -> anyhow::Result<()> {
    let next = match page {
        0 => String::new(),
        _ => format!(r#","nextToken":"{}""#, page * 200),
    };
    let body = format!(
        r#"{{"robotCode":"bench","processQueryKey":"key-{walk:08}","maxResults":200{next}}}"#
    );
    let mut request = reqwest::Request::new(reqwest::Method::POST, url.clone());
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(
        "x-acs-dingtalk-access-token",
        HeaderValue::from_static("c0ffee"),
    );
    *request.body_mut() = Some(body.into());
    let response = client.execute(request).await?;
    ensure!(response.status().is_success(), "{}", response.status());
    response.bytes().await?;
    Ok(())
}
