//! A server that says what it is told to, byte by byte, and keeps what it was asked.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use receiptd::dingtalk::{AccessToken, Client, Failure, Page, Query};
use receiptd::receipt::{Chat, MessageKey};
use receiptd::settings::Endpoint;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What to do with a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// Send this, and keep the connection.
    Say(Vec<u8>),
    /// Send this, and end the connection.
    SayAndClose(Vec<u8>),
    /// Send nothing and keep the connection.
    Hang,
}

impl Reply {
    /// A whole answer with these header lines, each ended by CRLF.
    pub(crate) fn http(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text =
            format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        Self::Say(text.into_bytes())
    }

    pub(crate) fn json(status: u16, body: &str) -> Self {
        Self::http(status, "content-type: application/json\r\n", body)
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(replies: Vec<Reply>) -> Self {
        Self::start_with(replies, None).await
    }

    /// Replies in order, one a request, over however many connections. After the last it closes without a word.
    pub(crate) async fn start_with(replies: Vec<Reply>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let connections = Arc::new(Mutex::new(0));
        let script = Arc::new(Mutex::new(replies.into_iter()));
        let (seen, count) = (Arc::clone(&requests), Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *count.lock().unwrap() += 1;
                let (seen, script, tls) = (Arc::clone(&seen), Arc::clone(&script), tls.clone());
                open.spawn(async move {
                    let Some(tls) = tls else {
                        return converse(stream, &seen, &script).await;
                    };
                    // A client that refuses our certificate ends it here, as it should in one test.
                    if let Ok(stream) = tls.accept(stream).await {
                        converse(stream, &seen, &script).await;
                    }
                });
            }
        });
        Self {
            address,
            requests,
            connections,
            task,
        }
    }

    /// Every request so far, head and body.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        endpoint(&format!("http://{}", self.address))
    }
}

pub(crate) fn endpoint(base_url: &str) -> Endpoint {
    Endpoint {
        base_url: base_url.to_owned(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(10),
        page_size: 200,
        calls_per_second: 400,
        ca_file: None,
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    seen: &Mutex<Vec<String>>,
    script: &Mutex<std::vec::IntoIter<Reply>>,
) {
    while let Some(request) = read_request(&mut stream).await {
        seen.lock().unwrap().push(request);
        let reply = script.lock().unwrap().next();
        match reply {
            Some(Reply::Say(bytes)) => {
                // The client may have had enough of it, as with a body that is too large.
                if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Some(Reply::SayAndClose(bytes)) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Some(Reply::Hang) => {
                let _ = stream.read(&mut [0; 1]).await;
                return;
            }
            None => return,
        }
    }
}

/// One request; `None` at the end of the connection.
async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(length) => bytes.extend_from_slice(&buffer[..length]),
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            return Some(text);
        }
    }
}

/// A query of a message that needs nothing but its key.
pub(crate) async fn ask(client: &Client, chat: Chat) -> Result<Page, Failure> {
    let query = Query {
        chat,
        key: &MessageKey::from("k"),
        robot_code: None,
        conversation: None,
        page_size: 200,
        next_token: None,
    };
    client
        .query(&AccessToken::new("t0ken").unwrap(), &query)
        .await
}
