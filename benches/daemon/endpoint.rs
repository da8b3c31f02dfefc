//! The endpoint of all contenders: answers as the vendor does, as cheaply as it can, and remembers who called when.
//!
//! One thread; plain HTTP and TLS. `readUserIds` names one reader for a private chat. A group's readers, as many as
//! `/control/readers/N` said last, come in pages of 200.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

/// Readers of a page.
const PAGE: u64 = 200;

/// What a call left behind.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    group_readers: AtomicU64,
    /// Unix microseconds and key of each call since the log was last asked for.
    log: Mutex<Vec<(u128, String)>>,
}

/// Serves until it is ended; says where. Its certificate authority is `ca.pem` in `directory`.
pub(crate) fn serve(directory: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let seen = Arc::new(Seen::default());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let plain = TcpListener::bind(any).await?;
        let tls = TcpListener::bind(any).await?;
        let acceptor = acceptor(directory)?;
        println!(
            "http://{} https://{}",
            plain.local_addr()?,
            tls.local_addr()?
        );
        loop {
            tokio::select! {
                accepted = plain.accept() => {
                    let stream = accepted?.0;
                    stream.set_nodelay(true)?;
                    tokio::spawn(talk(stream, seen.clone()));
                }
                accepted = tls.accept() => {
                    let stream = accepted?.0;
                    stream.set_nodelay(true)?;
                    let (seen, acceptor) = (seen.clone(), acceptor.clone());
                    tokio::spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            talk(stream, seen).await;
                        }
                    });
                }
            }
        }
    })
}

fn acceptor(directory: &str) -> anyhow::Result<TlsAcceptor> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key)?.pem();
    std::fs::write(format!("{directory}/ca.pem"), pem)?;
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate()?;
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn talk<S>(stream: S, seen: Arc<Seen>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = service_fn(|request| answer(request, &seen));
    // A client that hangs up is no failure.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, seen: &Seen) -> anyhow::Result<Response<Full<Bytes>>> {
    let group = request.uri().path().ends_with("groupMessages/query");
    if !request.uri().path().ends_with("/query") {
        return Ok(json(aside(request.uri().path(), seen)?));
    }
    let at = unix_us();
    let body = request.into_body().collect().await?.to_bytes();
    let body = std::str::from_utf8(&body)?;
    let key = field(body, "processQueryKey").context("a query without a key")?;
    seen.calls.fetch_add(1, Ordering::Relaxed);
    let mut log = seen.log.lock().unwrap_or_else(PoisonError::into_inner);
    log.push((at, key.to_owned()));
    drop(log);
    if !group {
        return Ok(json(Bytes::from_static(
            br#"{"sendStatus":"SUCCESS","readUserIds":["manager123"],"hasMore":false}"#,
        )));
    }
    let from: u64 = field(body, "nextToken").unwrap_or("0").parse()?;
    let all = seen.group_readers.load(Ordering::Relaxed);
    Ok(json(group_page(from, all)?.into()))
}

fn group_page(from: u64, all: u64) -> anyhow::Result<String> {
    let to = (from + PAGE).min(all);
    let mut text = r#"{"sendStatus":"SUCCESS","readUserIds":["#.to_owned();
    for reader in from..to {
        let comma = if reader == from { "" } else { "," };
        write!(text, "{comma}\"manager{reader:08}\"")?;
    }
    match to < all {
        true => write!(text, r#"],"nextToken":"{to}","hasMore":true}}"#)?,
        false => text.push_str(r#"],"hasMore":false}"#),
    }
    Ok(text)
}

/// What is no query: a token, or the bench itself.
fn aside(path: &str, seen: &Seen) -> anyhow::Result<Bytes> {
    let text = match path {
        "/control/calls" => seen.calls.load(Ordering::Relaxed).to_string(),
        "/control/log" => {
            let log = std::mem::take(&mut *seen.log.lock().unwrap_or_else(PoisonError::into_inner));
            let mut text = String::new();
            for (at, key) in log {
                writeln!(text, "{at} {key}")?;
            }
            text
        }
        _ => match path.strip_prefix("/control/readers/") {
            Some(number) => {
                seen.group_readers.store(number.parse()?, Ordering::Relaxed);
                String::new()
            }
            None => r#"{"accessToken":"c0ffee","expireIn":7200}"#.to_owned(),
        },
    };
    Ok(text.into())
}

fn json(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}

/// A string member of a flat object; neither keys nor page tokens of a bench need an escape.
fn field<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let from = body.find(name)? + name.len() + 3;
    body.get(from..)?.split('"').next()
}

/// Now, in microseconds, on the clock that all processes of the machine share.
pub(crate) fn unix_us() -> u128 {
    #[expect(
        clippy::disallowed_methods,
        reason = "compared between processes; nothing here steps a clock"
    )]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros()
}
