//! The client and the endpoint agree on what counts against the month.

use std::time::Duration;

use receiptd::dingtalk::{AccessToken, Client, Query};
use receiptd::receipt::{Chat, MessageKey};
use receiptd::sandbox::{Mischief, Sandbox};
use receiptd::settings::Endpoint;

use crate::http::{sandbox, token};

/// Whether the client and the endpoint count a call for `key`.
async fn counted(client: &Client, sandbox: &Sandbox, key: &str) -> (bool, bool) {
    let token = AccessToken::new(&token(sandbox).await).expect("a token");
    let query = Query {
        chat: Chat::Group,
        key: &MessageKey::from(key),
        robot_code: None,
        conversation: None,
        page_size: 200,
        next_token: None,
    };
    let answer = client.query(&token, &query).await;
    let by_client = answer.map_or_else(|failure| failure.metered, |_| true);
    let last = sandbox.calls_after(0).pop().expect("a call");
    assert_eq!(last.key, key);
    (by_client, last.metered)
}

#[tokio::test]
async fn the_client_counts_what_the_endpoint_does() {
    let (sandbox, _) = sandbox().await;
    let client = Client::new(&Endpoint {
        base_url: sandbox.base_url(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(1),
        page_size: 200,
        calls_per_second: 400,
        ca_file: None,
    });
    let client = client.expect("a client");
    for name in Mischief::names() {
        let name = name
            .replace("CODE/STATUS", "some.code/418")
            .replace("CODE", "bot.stopped");
        // Also where there is no good answer that it could spoil.
        for rule in [name.clone(), format!("{name},expire=0s")] {
            let key = format!("sb:{rule};x");
            let (by_client, by_endpoint) = counted(&client, &sandbox, &key).await;
            assert_eq!(by_client, by_endpoint, "{key}");
        }
    }
}
