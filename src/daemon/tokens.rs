//! Fetches a lane's token: reads the secret and the ticket anew each time.

use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;

use secrecy::ExposeSecret;

use crate::dingtalk::{Client, Credentials, IssuedToken, TokenRefusal};
use crate::settings::Account;
use crate::store::Store;

type Ticket = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

/// Where suite tickets are read; the workers know no database.
#[derive(Clone)]
pub(super) struct TicketSource(Arc<dyn Fn(String) -> Ticket + Send + Sync>);

impl TicketSource {
    pub(super) fn of<S: Store>(store: &Arc<S>) -> Self {
        let store = store.clone();
        Self(Arc::new(move |suite_key| {
            let store = store.clone();
            Box::pin(async move { store.suite_ticket(&suite_key).await.ok().flatten() })
        }))
    }

    async fn ticket(&self, credentials: &Credentials) -> Option<String> {
        match credentials {
            Credentials::Internal { .. } => None,
            Credentials::ThirdParty { suite_key, .. } => (self.0)(suite_key.clone()).await,
        }
    }

    /// Asks for a token with the secret and the ticket as they are now.
    pub(super) async fn fetch(
        &self,
        client: &Client,
        account: &Account,
        credentials: &Credentials,
    ) -> Result<IssuedToken, TokenRefusal> {
        let (_, secret) = account.app.credentials();
        let secret = secret
            .read()
            .map_err(|error| TokenRefusal::secret_unreadable(&error.to_string()))?;
        let ticket = self.ticket(credentials).await;
        client
            .request_token(credentials, &secret, ticket.as_deref())
            .await
    }

    /// A number that changes when the secret or the ticket does. Lives in memory only.
    pub(super) async fn fingerprint(&self, account: &Account, credentials: &Credentials) -> u64 {
        let mut hasher = DefaultHasher::new();
        if let Ok(secret) = account.app.credentials().1.read() {
            secret.expose_secret().hash(&mut hasher);
        }
        self.ticket(credentials).await.hash(&mut hasher);
        hasher.finish()
    }
}
