//! An answer as steps, so that it can be late, slow, cut or endless.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

/// What to send, or how to fail.
#[derive(Debug)]
pub(super) struct Reply {
    /// Nothing is sent for so long.
    pub(super) wait: Duration,
    /// `None`: the connection ends without an answer.
    pub(super) head: Option<Head>,
    pub(super) steps: VecDeque<Step>,
}

#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    /// What `content-length` says; `None`: chunked.
    pub(super) length: Option<usize>,
    pub(super) location: Option<String>,
}

/// A piece of a body.
#[derive(Debug)]
pub(super) enum Step {
    Data(Bytes),
    Wait(Duration),
    /// The connection ends here.
    Break,
}

const JSON: &str = "application/json";

impl Reply {
    pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::full(status, JSON, body.into())
    }

    pub(super) fn html(status: u16) -> Self {
        let body = "<html><head><title>Service Unavailable</title></head><body><h1>nginx</h1></body></html>";
        Self::full(status, "text/html", Bytes::from_static(body.as_bytes()))
    }

    pub(super) fn nothing(wait: Duration) -> Self {
        Self {
            wait,
            head: None,
            steps: VecDeque::new(),
        }
    }

    pub(super) fn redirect(to: String) -> Self {
        let mut reply = Self::full(302, "text/html", Bytes::new());
        if let Some(head) = &mut reply.head {
            head.location = Some(to);
        }
        reply
    }

    fn full(status: u16, content_type: &'static str, body: Bytes) -> Self {
        let head = Head {
            status,
            content_type,
            length: Some(body.len()),
            location: None,
        };
        Self {
            wait: Duration::ZERO,
            head: Some(head),
            steps: VecDeque::from([Step::Data(body)]),
        }
    }

    pub(super) fn status(&self) -> u16 {
        self.head.as_ref().map_or(0, |head| head.status)
    }

    /// Splits off the only piece of a plain answer.
    fn take_body(&mut self) -> Bytes {
        match self.steps.pop_front() {
            Some(Step::Data(body)) => body,
            _ => Bytes::new(),
        }
    }

    /// The right length is announced, and so many bytes of it come before the connection ends.
    pub(super) fn cut_at(mut self, share: fn(usize) -> usize) -> Self {
        let body = self.take_body();
        let kept = body.slice(..share(body.len()).min(body.len()));
        // The pause lets the head leave before the end, whatever the socket buffers.
        self.steps = VecDeque::from([
            Step::Data(kept),
            Step::Wait(Duration::from_millis(20)),
            Step::Break,
        ]);
        self
    }

    /// Half of the body, and no more is announced.
    pub(super) fn truncated(mut self) -> Self {
        let body = self.take_body();
        let half = body.slice(..body.len() / 2);
        if let Some(head) = &mut self.head {
            head.length = Some(half.len());
        }
        self.steps = VecDeque::from([Step::Data(half)]);
        self
    }

    /// The body in ten pieces over a time.
    pub(super) fn slow(mut self, over: Duration) -> Self {
        let mut body = self.take_body();
        let piece = body.len().div_ceil(10).max(1);
        while !body.is_empty() {
            self.steps.push_back(Step::Wait(over / 10));
            self.steps
                .push_back(Step::Data(body.split_to(piece.min(body.len()))));
        }
        self
    }

    /// 64 MiB of spaces within a JSON object that never ends.
    pub(super) fn endless(mut self) -> Self {
        let spaces = Bytes::from(vec![b' '; 1 << 20]);
        if let Some(head) = &mut self.head {
            head.length = None;
        }
        self.steps = std::iter::once(Bytes::from_static(b"{"))
            .chain(std::iter::repeat_n(spaces, 64))
            .map(Step::Data)
            .collect();
        self.steps.push_back(Step::Break);
        self
    }

    /// The answer for hyper; `None`: end the connection.
    pub(super) fn into_response(self) -> Option<Response<Played>> {
        let head = self.head?;
        let mut response = Response::new(Played::new(self.steps));
        *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(head.content_type));
        if let Some(length) = head.length {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        if let Some(to) = head.location {
            headers.insert(
                HeaderName::from_static("location"),
                HeaderValue::from_str(&to).ok()?,
            );
        }
        Some(response)
    }
}

/// A body that plays its steps.
pub(super) struct Played {
    steps: VecDeque<Step>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Played {
    fn new(steps: VecDeque<Step>) -> Self {
        Self { steps, pause: None }
    }
}

impl Body for Played {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Data(data)) if data.is_empty() => {}
                Some(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Step::Wait(time)) => self.pause = Some(Box::pin(tokio::time::sleep(time))),
                Some(Step::Break) => {
                    let cut = io::Error::new(io::ErrorKind::ConnectionReset, "cut on purpose");
                    return Poll::Ready(Some(Err(cut)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.pause.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
