//! Noticing another process's commit.
//!
//! A trigger notifies, and a listener on a session of its own takes it as a hint. Whatever was notified while it had no
//! connection is lost, so that every wait also ends by itself after [`LOOK`].

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgNotification;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::connect::Connector;
use super::nodes;

/// The channel of the triggers.
const CHANNEL: &str = "receiptd";
/// The longest wait: what a lost hint costs.
const LOOK: Duration = Duration::from_secs(3);
/// Between attempts to listen, doubling up to the longest.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST_AGAIN: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Wakeup {
    /// Holds one hint for whoever waits next.
    changed: Arc<Notify>,
    /// The same for nodes that came or went.
    members: Arc<Notify>,
    listening: JoinHandle<()>,
}

impl Wakeup {
    /// Begins to listen. The first wait ends at once.
    pub(super) fn new(connector: Connector) -> Self {
        let changed = Arc::new(Notify::new());
        changed.notify_one();
        let members = Arc::new(Notify::new());
        let hints = (Arc::clone(&changed), Arc::clone(&members));
        let listening = tokio::spawn(listen(connector, hints.0, hints.1));
        Self {
            changed,
            members,
            listening,
        }
    }

    /// See [`crate::store::Claims::changed`].
    pub(super) async fn changed(&self) {
        let _ = tokio::time::timeout(LOOK, self.changed.notified()).await;
    }

    /// See [`crate::store::Leases::members_changed`].
    pub(super) async fn members_changed(&self) {
        self.members.notified().await;
    }

    pub(super) fn close(&self) {
        self.listening.abort();
    }
}

impl Drop for Wakeup {
    fn drop(&mut self) {
        self.close();
    }
}

/// Hands hints on, for ever: never waits for who takes them, and is never within a transaction.
async fn listen(connector: Connector, changed: Arc<Notify>, members: Arc<Notify>) {
    let mut again = AGAIN;
    loop {
        if let Ok(mut listener) = connector.listen(&[CHANNEL, nodes::CHANNEL]).await {
            // What was written before is no longer announced.
            changed.notify_one();
            members.notify_one();
            while let Ok(heard) = listener.try_recv().await {
                let channel = heard.as_ref().map(PgNotification::channel);
                if channel != Some(CHANNEL) {
                    members.notify_one();
                }
                // `None` is a connection that was lost and opened again.
                if channel != Some(nodes::CHANNEL) {
                    changed.notify_one();
                }
                again = AGAIN;
            }
            changed.notify_one();
        }
        tokio::time::sleep(again).await;
        again = (again * 2).min(LONGEST_AGAIN);
    }
}
