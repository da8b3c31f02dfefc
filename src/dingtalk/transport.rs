//! Requests on their way, and calls that got no whole answer.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use hyper::body::{Body, Frame, SizeHint};
use reqwest::Response;
use reqwest::header::CONTENT_ENCODING;

use super::codes::OwnCode;
use super::failure::Failure;

/// The largest body that is read, in bytes. A page of 200 readers is under 20 KiB.
const BODY_LIMIT: usize = 1 << 20;

/// Whether a request was written whole, known to its caller while the request itself is the connection's.
///
/// A connection takes a body once it has written the head, in the same step, and our requests are far smaller than what
/// a socket takes at once. A call that got no connection, or a kept one that its peer had closed, is never taken; hyper
/// sends the latter once more, on a new connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Written(Arc<AtomicBool>);

impl Written {
    /// `bytes` as the body of a request that this will tell of.
    pub(super) fn body(&self, bytes: Vec<u8>) -> reqwest::Body {
        reqwest::Body::wrap(Outgoing {
            bytes: bytes.into(),
            written: self.clone(),
        })
    }

    fn is_whole(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct Outgoing {
    bytes: Bytes,
    written: Written,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.written.0.store(true, Ordering::Release);
        let bytes = std::mem::take(&mut self.bytes);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        let is_empty = self.bytes.is_empty();
        if is_empty {
            // A connection asks this of a request without a body, in place of taking it.
            self.written.0.store(true, Ordering::Release);
        }
        is_empty
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// The whole body, or nothing: never more than [`BODY_LIMIT`] of it in memory. A gateway may compress it though nobody
/// asked for that; what then cannot be unpacked is left as it came, and is no JSON.
pub(super) async fn read_body(mut response: Response) -> Result<Vec<u8>, Failure> {
    let status = response.status().as_u16();
    let too_large = || {
        let detail = format!("the answer is larger than {BODY_LIMIT} bytes");
        Failure::transport(OwnCode::TooLarge, true, &detail).with_status(status)
    };
    let broke_off = |error| body_failure(error).with_status(status);
    let is_packed = response
        .headers()
        .get(CONTENT_ENCODING)
        .is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"gzip"));
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broke_off)? {
        if body.len() + chunk.len() > BODY_LIMIT {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    if is_packed && let Some(unpacked) = unpack(&body) {
        body = unpacked;
    }
    match body.len() {
        0..=BODY_LIMIT => Ok(body),
        _ => Err(too_large()),
    }
}

/// What gzip packed, as far as one byte beyond [`BODY_LIMIT`].
fn unpack(packed: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    let mut limited = GzDecoder::new(packed).take(BODY_LIMIT as u64 + 1);
    limited.read_to_end(&mut plain).ok()?;
    Some(plain)
}

/// A call that ended before the head of an answer was there. One that was written whole may have arrived, and counts;
/// one that something answered which does not speak HTTP did not arrive.
pub(super) fn head_failure(error: reqwest::Error, written: &Written) -> Failure {
    let not_http = chain(&error).any(is_parse);
    let code = match find_tls(&error) {
        Some(rustls::Error::InvalidCertificate(_)) => OwnCode::Certificate,
        Some(_) => OwnCode::Handshake,
        None if error.is_builder() => OwnCode::Request,
        None if error.is_connect() => OwnCode::Connect,
        None if error.is_timeout() => OwnCode::Timeout,
        None if not_http => OwnCode::Protocol,
        None => OwnCode::Reset,
    };
    let metered = written.is_whole() && !not_http;
    Failure::transport(code, metered, &text(error))
}

/// A call whose answer broke off: it arrived.
fn body_failure(error: reqwest::Error) -> Failure {
    let code = if error.is_timeout() {
        OwnCode::Timeout
    } else {
        OwnCode::Body
    };
    Failure::transport(code, true, &text(error))
}

/// The error with its causes, and without the address.
fn text(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = String::new();
    for cause in chain(&error) {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        (*error).source()
    })
}

fn is_parse(error: &(dyn Error + 'static)) -> bool {
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_parse)
}

/// rustls's own error, which hides within an I/O error: that does not name what it wraps as its source.
fn find_tls(error: &reqwest::Error) -> Option<&rustls::Error> {
    chain(error).find_map(|cause| {
        cause.downcast_ref::<rustls::Error>().or_else(|| {
            let mut inner = cause.downcast_ref::<io::Error>()?.get_ref()?;
            loop {
                if let Some(tls) = inner.downcast_ref::<rustls::Error>() {
                    return Some(tls);
                }
                inner = inner.downcast_ref::<io::Error>()?.get_ref()?;
            }
        })
    })
}
