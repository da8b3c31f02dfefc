//! A token asked of each internal account, so that a wrong secret is in the log within seconds and not only when a
//! message is due. Not metered, and nothing waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::Configured;
use crate::dingtalk::{Credentials, TokenRefusal};
use crate::receipt::AccountName;
use crate::settings::{Account, App};

/// Between two accounts: the questions of many stay far below the rate at which DingTalk bans an address.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks for the accounts of `configured` for which `is_asked` when their turn comes, one after the other, until dropped.
pub fn ask(
    configured: Arc<Configured>,
    is_asked: impl Fn(&AccountName, &Account) -> bool + Send + 'static,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(ask_all(configured, is_asked)))
}

/// As [`ask`], to its end.
pub(super) async fn ask_all(
    configured: Arc<Configured>,
    is_asked: impl Fn(&AccountName, &Account) -> bool,
) {
    // A third-party app's token needs an organisation, and another one may end the live one.
    let accounts = &configured.settings.accounts;
    let internal = accounts
        .iter()
        .filter(|(_, account)| matches!(account.app, App::Internal { .. }));
    for (name, account) in internal {
        if !is_asked(name, account) {
            continue;
        }
        tokio::time::sleep(PAUSE).await;
        // A secret that cannot be read was told with the settings.
        let Ok(secret) = account.app.credentials().1.read() else {
            continue;
        };
        let Some(credentials) = Credentials::of(&account.app, None) else {
            continue;
        };
        // It may be another process's to ask by now.
        if !is_asked(name, account) {
            continue;
        }
        let Err(refusal) = configured
            .client
            .request_token(&credentials, &secret, None)
            .await
        else {
            tracing::debug!(account = %name, "account {name}: gets a token");
            continue;
        };
        tracing::warn!(account = %name, error = %refusal, "account {name}: gets no token: {refusal}");
        // The others would wait for the same silence.
        if matches!(refusal, TokenRefusal::Upstream(_)) {
            return;
        }
    }
}
