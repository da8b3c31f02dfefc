//! HTTP: connections, routes, and answers on their way.

use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admin::admin;
use super::bodies::unknown_path;
use super::grants::{Grant, grant};
use super::query::{Endpoint, query};
use super::reply::{Played, Reply};
use super::request::Request;
use super::state::Shared;
use crate::receipt::Chat;

/// Largest body of a vendor's call that is read.
const CALL_CAP: usize = 64 << 10;
/// Largest body of a call to `/sandbox/`.
const ADMIN_CAP: usize = 256 << 20;

/// Which door a connection came through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Endpoint,
    /// Where redirects lead: nobody should come.
    Trap,
}

/// Serves until cancelled.
pub(super) async fn serve(
    listener: TcpListener,
    door: Door,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, door, Arc::clone(&shared));
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection => {}
                    }
                });
            }
            // Out of descriptors, or a peer that left again: let others finish first.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}

async fn connection(stream: TcpStream, door: Door, shared: Arc<Shared>) {
    // Without it small answers may wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(request, door, Arc::clone(&shared)));
    // An error here is a peer that left, or a connection that we cut on purpose.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(
    incoming: hyper::Request<Incoming>,
    door: Door,
    shared: Arc<Shared>,
) -> Result<Response<Played>, io::Error> {
    let cut = || io::Error::new(io::ErrorKind::ConnectionReset, "cut on purpose");
    let (head, body) = incoming.into_parts();
    let text = |name: &str| {
        let value = head.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let path = head.uri.path().to_owned();
    let cap = if path.starts_with("/sandbox/") {
        ADMIN_CAP
    } else {
        CALL_CAP
    };
    let body: Bytes = match Limited::new(body, cap).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Err(cut()),
    };
    let request = Request {
        path,
        query: head.uri.query().unwrap_or_default().to_owned(),
        content_type: text(CONTENT_TYPE.as_str()).unwrap_or_default(),
        token: text("x-acs-dingtalk-access-token"),
        body,
    };
    let reply = match door {
        Door::Trap => trapped(&shared, &request),
        Door::Endpoint => route(&shared, &head.method, &request),
    };
    if !reply.wait.is_zero() {
        tokio::time::sleep(reply.wait).await;
    }
    reply.into_response().ok_or_else(cut)
}

fn route(shared: &Shared, method: &Method, request: &Request) -> Reply {
    match (method.as_str(), request.path.as_str()) {
        ("POST", "/v1.0/robot/privateChatMessages/query") => {
            query(shared, Endpoint::Query(Chat::Private), request)
        }
        ("POST", "/v1.0/robot/groupMessages/query") => {
            query(shared, Endpoint::Query(Chat::Group), request)
        }
        ("GET", "/v1.0/robot/oToMessages/readStatus") => {
            query(shared, Endpoint::ReadStatus, request)
        }
        ("POST", "/v1.0/oauth2/accessToken") => grant(shared, Grant::Internal, request),
        ("POST", "/v1.0/oauth2/corpAccessToken") => grant(shared, Grant::Corp, request),
        (method, path) if path.starts_with("/sandbox/") => admin(shared, method, request),
        (method, path) => {
            let mut inner = shared.lock();
            let seq = inner.log.next_seq();
            inner.log.violation(
                seq,
                "",
                format!("{method} {path} is no path of the endpoint"),
            );
            unknown_path()
        }
    }
}

fn trapped(shared: &Shared, request: &Request) -> Reply {
    let mut inner = shared.lock();
    let seq = inner.log.next_seq();
    let with = if request.token.is_some() {
        ", and the token came along"
    } else {
        ""
    };
    inner
        .log
        .violation(seq, "", format!("a redirect was followed{with}"));
    Reply::json(
        200,
        r#"{"sendStatus":"SUCCESS","readUserIds":["thief"],"hasMore":false}"#,
    )
}
