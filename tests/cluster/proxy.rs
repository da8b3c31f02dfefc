//! A network between a client and PostgreSQL that can be disturbed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// What is done to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The next COMMIT reaches the server; its answer reaches nobody, and the connection is cut.
    AnswerToCommitLost,
    /// The connection is cut before the next COMMIT reaches the server.
    CommitLost,
    /// Nothing that the server sends to a session that listens gets through any more, and nothing is closed.
    ListenerFrozen,
    /// Notifications are left out, as by a pooler that gives each statement another session.
    Unnotified,
}

/// A proxy on a port of its own.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// How often its fault may still happen.
    left: Arc<AtomicUsize>,
}

impl Proxy {
    /// Forwards to `server`; the fault does not happen before [`Proxy::disturb`].
    pub(crate) async fn start(server: u16, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicUsize::new(0));
        let faults = Arc::clone(&left);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", server)).await;
                let Ok(server) = server else { continue };
                let faults = Arc::clone(&faults);
                tokio::spawn(forward(client, server, fault, faults));
            }
        });
        Self { port, left }
    }

    /// The fault happens so often from now on.
    pub(crate) fn disturb(&self, times: usize) {
        self.left.store(times, Ordering::SeqCst);
    }

    /// How often it has still to happen.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }

    /// The URL of a database through it.
    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres://receiptd@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }
}

fn take(left: &AtomicUsize) -> bool {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    taken.is_ok()
}

fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}

async fn forward(client: TcpStream, server: TcpStream, fault: Fault, left: Arc<AtomicUsize>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let (listens, heard) = tokio::sync::watch::channel(false);
    let (mute, muted) = tokio::sync::watch::channel(false);
    let up = async {
        let _ = upwards(from_client, to_server, fault, &left, &listens, &mute).await;
    };
    let down = async {
        let _ = downwards(from_server, to_client, fault, &left, &heard, &muted).await;
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

async fn upwards(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    fault: Fault,
    left: &AtomicUsize,
    listens: &tokio::sync::watch::Sender<bool>,
    mute: &tokio::sync::watch::Sender<bool>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let bytes = &buffer[..read];
        if holds(bytes, b"LISTEN") {
            listens.send_replace(true);
        }
        if holds(bytes, b"COMMIT\0") {
            match fault {
                Fault::CommitLost if take(left) => return Ok(()),
                Fault::AnswerToCommitLost if take(left) => {
                    mute.send_replace(true);
                }
                _ => {}
            }
        }
        server.write_all(bytes).await?;
    }
}

async fn downwards(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    fault: Fault,
    left: &AtomicUsize,
    listens: &tokio::sync::watch::Receiver<bool>,
    muted: &tokio::sync::watch::Receiver<bool>,
) -> std::io::Result<()> {
    // Messages of the server: a letter, a length that counts itself, and so many bytes less four.
    loop {
        let frozen = fault == Fault::ListenerFrozen && *listens.borrow();
        if frozen && left.load(Ordering::SeqCst) > 0 {
            std::future::pending::<()>().await;
        }
        let mut head = [0; 5];
        server.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let mut body = vec![0; length - 4];
        server.read_exact(&mut body).await?;
        let commit_done = head[0] == b'C' && body.starts_with(b"COMMIT");
        if *muted.borrow() {
            if commit_done {
                return Ok(());
            }
            continue;
        }
        if fault == Fault::Unnotified && head[0] == b'A' && left.load(Ordering::SeqCst) > 0 {
            continue;
        }
        client.write_all(&head).await?;
        client.write_all(&body).await?;
    }
}
