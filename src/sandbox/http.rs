//! HTTP: connections, and answers on their way, which may be late, slow, cut or endless.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::control::control;
use super::endpoint::{endpoint, trapped};
use super::faults::{Canned, Mischief};
use super::state::Shared;

/// Largest body of a vendor's call that is read.
const CALL_CAP: usize = 64 << 10;
/// Largest body of a call to `/sandbox/`.
const CONTROL_CAP: usize = 256 << 20;

/// A call as it came in.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) host: String,
    pub(super) content_type: String,
    /// `x-acs-dingtalk-access-token`
    pub(super) token: Option<String>,
    pub(super) body: Bytes,
}

/// Serves until cancelled. A trap is where redirects lead: nobody should come.
pub(super) async fn serve(
    listener: TcpListener,
    is_trap: bool,
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
                let connection = connection(stream, is_trap, Arc::clone(&shared));
                let stop = stop.clone();
                tasks.spawn(async move { stop.run_until_cancelled(connection).await });
            }
            // Out of descriptors, or a peer that left again: let others finish first.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

async fn connection(stream: TcpStream, is_trap: bool, shared: Arc<Shared>) {
    // Without it small answers may wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(request, is_trap, Arc::clone(&shared)));
    // An error here is a peer that left, or a connection that we cut on purpose.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut on purpose")
}

async fn respond(
    incoming: hyper::Request<Incoming>,
    is_trap: bool,
    shared: Arc<Shared>,
) -> Result<Response<UnsyncBoxBody<Bytes, io::Error>>, io::Error> {
    let (head, body) = incoming.into_parts();
    let text = |name: &str| {
        let value = head.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let path = head.uri.path().to_owned();
    let is_control = path.starts_with("/sandbox/");
    let cap = if is_control { CONTROL_CAP } else { CALL_CAP };
    let body = Limited::new(body, cap).collect().await.map_err(|_| cut())?;
    let request = Request {
        method: head.method.to_string(),
        path,
        query: head.uri.query().unwrap_or_default().to_owned(),
        host: text(HOST.as_str()).unwrap_or_default(),
        content_type: text(CONTENT_TYPE.as_str()).unwrap_or_default(),
        token: text("x-acs-dingtalk-access-token"),
        body: body.to_bytes(),
    };
    let reply = match (is_trap, is_control) {
        (true, _) => trapped(&shared, &request),
        (_, true) => control(&shared, &request),
        (_, false) => endpoint(&shared, &request),
    };
    if !reply.wait.is_zero() {
        tokio::time::sleep(reply.wait).await;
    }
    reply.into_response().ok_or_else(cut)
}

/// What to send, and how.
#[derive(Debug)]
pub(super) struct Reply {
    /// Nothing is sent for so long.
    pub(super) wait: Duration,
    /// 0: the connection ends without an answer.
    pub(super) status: u16,
    content_type: &'static str,
    location: Option<String>,
    body: Bytes,
    way: Way,
}

/// How a body goes out.
#[derive(Debug)]
enum Way {
    Whole,
    /// So many bytes of it, and then the connection ends.
    CutAt(usize),
    /// In ten pieces over so long.
    Slow(Duration),
    /// 64 MiB of spaces within a JSON object that never ends.
    Endless,
}

/// A piece of a body.
enum Step {
    Data(Bytes),
    Wait(Duration),
    Break,
}

impl Reply {
    fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            wait: Duration::ZERO,
            status,
            content_type,
            location: None,
            body: body.into(),
            way: Way::Whole,
        }
    }

    pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::new(status, "application/json", body)
    }

    pub(super) fn nothing(wait: Duration) -> Self {
        Self {
            wait,
            ..Self::new(0, "", "")
        }
    }

    pub(super) fn redirect(to: &str) -> Self {
        Self {
            location: Some(to.to_owned()),
            ..Self::new(302, "text/html", "")
        }
    }

    pub(super) fn canned(canned: &Canned) -> Self {
        Self::new(canned.status, canned.content_type, canned.body)
    }

    /// What becomes of a good answer on its way.
    pub(super) fn spoilt(mut self, by: &Mischief) -> Self {
        let length = self.body.len();
        match by {
            Mischief::DropAfterHead => self.way = Way::CutAt(0),
            Mischief::DropMidBody => self.way = Way::CutAt(length / 2),
            Mischief::Slow(over) => self.way = Way::Slow(*over),
            Mischief::Endless => self.way = Way::Endless,
            Mischief::Truncate => self.body.truncate(length / 2),
            Mischief::Huge => {
                let padding = format!(r#","padding":"{}"}}"#, "x".repeat(2 << 20));
                self.body.truncate(length.saturating_sub(1));
                self.body = [&*self.body, padding.as_bytes()].concat().into();
            }
            _ => {}
        }
        self
    }

    /// The answer for hyper; `None`: end the connection.
    fn into_response(self) -> Option<Response<UnsyncBoxBody<Bytes, io::Error>>> {
        let mut body = self.body;
        let length = (!matches!(self.way, Way::Endless)).then_some(body.len());
        let steps = match self.way {
            Way::Whole => vec![Step::Data(body)],
            // The pause lets the head leave before the end, whatever the socket buffers.
            Way::CutAt(end) => vec![
                Step::Data(body.split_to(end)),
                Step::Wait(Duration::from_millis(20)),
                Step::Break,
            ],
            Way::Slow(over) => {
                let piece = body.len().div_ceil(10).max(1);
                let pieces = body.chunks(piece).map(Bytes::copy_from_slice);
                pieces
                    .flat_map(|piece| [Step::Wait(over / 10), Step::Data(piece)])
                    .collect()
            }
            Way::Endless => {
                let spaces = Bytes::from(vec![b' '; 1 << 20]);
                std::iter::once(Bytes::from_static(b"{"))
                    .chain(std::iter::repeat_n(spaces, 64))
                    .map(Step::Data)
                    .chain([Step::Break])
                    .collect()
            }
        };
        let frames = stream::iter(steps).filter_map(|step| async {
            match step {
                Step::Data(data) => Some(Ok(Frame::data(data))),
                Step::Break => Some(Err(cut())),
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    None
                }
            }
        });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        *response.status_mut() = StatusCode::from_u16(self.status).ok()?;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        if let Some(length) = length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if let Some(to) = self.location {
            headers.insert(LOCATION, HeaderValue::from_str(&to).ok()?);
        }
        Some(response)
    }
}
