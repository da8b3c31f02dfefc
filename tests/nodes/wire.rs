//! A network between a node and the server that can be cut half-open: nothing gets through, and nobody is told.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A wire on a port of its own.
pub(crate) struct Wire {
    pub(crate) port: u16,
    is_cut: Arc<watch::Sender<bool>>,
}

impl Wire {
    /// Forwards to `server`.
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_cut = Arc::new(watch::Sender::new(false));
        let cuts = Arc::clone(&is_cut);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let cuts = Arc::clone(&cuts);
                tokio::spawn(async move {
                    whole(&mut cuts.subscribe()).await;
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pump(from_client, to_server, cuts.subscribe()) => {}
                        () = pump(from_server, to_client, cuts.subscribe()) => {}
                    }
                });
            }
        });
        Self { port, is_cut }
    }

    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub(crate) fn mend(&self) {
        self.is_cut.send_replace(false);
    }
}

async fn whole(cut: &mut watch::Receiver<bool>) {
    let _ = cut.wait_for(|cut| !cut).await;
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        whole(&mut cut).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
