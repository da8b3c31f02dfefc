//! A token asked of each internal account, so that a wrong secret is in the log within seconds and not only when a
//! message is due. Not metered, and nothing waits for it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::daemon::Configured;
use crate::dingtalk::{Credentials, TokenRefusal};
use crate::receipt::AccountName;
use crate::settings::{Account, App};

/// Between two accounts: the questions of many stay far below the rate at which DingTalk bans an address.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks for the accounts of `configured` for which `is_asked`, one after the other, until dropped.
pub(super) fn ask(
    configured: Arc<Configured>,
    is_asked: impl Fn(&AccountName, &Account) -> bool,
) -> AbortOnDropHandle<()> {
    // A third-party app's token needs an organisation, and another one may end the live one.
    let internal = configured
        .settings
        .accounts
        .iter()
        .filter(|(_, account)| matches!(account.app, App::Internal { .. }));
    let asked = internal.filter(|(name, account)| is_asked(name, account));
    let asked: Vec<(AccountName, App)> = asked
        .map(|(name, account)| (name.clone(), account.app.clone()))
        .collect();
    AbortOnDropHandle::new(tokio::spawn(async move {
        for (account, app) in asked {
            tokio::time::sleep(PAUSE).await;
            // A secret that cannot be read was told with the settings.
            let Ok(secret) = app.credentials().1.read() else {
                continue;
            };
            let Some(credentials) = Credentials::of(&app, None) else {
                continue;
            };
            let Err(refusal) = configured
                .client
                .request_token(&credentials, &secret, None)
                .await
            else {
                tracing::debug!(%account, "account {account}: gets a token");
                continue;
            };
            tracing::warn!(%account, error = %refusal, "account {account}: gets no token: {refusal}");
            // The others would wait for the same silence.
            if matches!(refusal, TokenRefusal::Upstream(_)) {
                return;
            }
        }
    }))
}
