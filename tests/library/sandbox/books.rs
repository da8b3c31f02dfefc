//! The client and the endpoint agree on what counts against the month, and on who has read what when.

use std::time::Duration;

use receiptd::dingtalk::{AccessToken, Client, Failure, Page, Query};
use receiptd::receipt::{Chat, MessageKey};
use receiptd::sandbox::{Mischief, Sandbox};
use receiptd::settings::Endpoint;

use super::http::{sandbox, token};

fn client(sandbox: &Sandbox) -> Client {
    let client = Client::new(&Endpoint {
        base_url: sandbox.base_url(),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(1),
        page_size: 200,
        calls_per_second: 400,
        ca_file: None,
    });
    client.expect("a client")
}

async fn query(client: &Client, sandbox: &Sandbox, chat: Chat, key: &str) -> Result<Page, Failure> {
    let token = AccessToken::new(&token(sandbox).await).expect("a token");
    let query = Query {
        chat,
        key: &MessageKey::from(key),
        robot_code: Some("robot"),
        conversation: None,
        page_size: 200,
        next_token: None,
    };
    client.query(&token, &query).await
}

/// Whether the client and the endpoint count a call for `key`.
async fn counted(client: &Client, sandbox: &Sandbox, chat: Chat, key: &str) -> (bool, bool) {
    let answer = query(client, sandbox, chat, key).await;
    let by_client = answer.map_or_else(|failure| failure.metered, |_| true);
    let last = sandbox.calls_after(0).pop().expect("a call");
    assert_eq!(last.key, key);
    (by_client, last.metered)
}

#[tokio::test]
async fn the_client_counts_what_the_endpoint_does() {
    let (sandbox, _) = sandbox().await;
    let client = client(&sandbox);
    for name in Mischief::names() {
        let name = name
            .replace("CODE/STATUS", "some.code/418")
            .replace("CODE", "bot.stopped");
        // Also where there is no good answer that it could spoil.
        for rule in [name.clone(), format!("{name},expire=0s")] {
            for chat in [Chat::Group, Chat::Oto] {
                let key = format!("sb:{rule};{chat:?}");
                let (by_client, by_endpoint) = counted(&client, &sandbox, chat, &key).await;
                assert_eq!(by_client, by_endpoint, "{key}");
            }
        }
    }
}

#[tokio::test]
async fn the_client_reads_a_list_of_recipients_as_it_is() {
    let (sandbox, _) = sandbox().await;
    let client = client(&sandbox);
    for (unit, exact_to) in [("s", 1_000), ("ms", 1), ("zero", 0), ("absent", 0)] {
        let sent = sandbox.now().0 - 60_000;
        let key = format!(
            "sb:readers=19,never=0.1,median=20s,sigma=0.4,sent={sent},read_unit={unit};+/="
        );
        let page = query(&client, &sandbox, Chat::Oto, &key)
            .await
            .expect("a page");
        assert_eq!(page.listed, Some(19), "{unit}");
        let truth = sandbox.truth(&key).expect("it was asked for");
        assert!(page.readers.len() > 5, "{page:?}");
        for reader in page.readers {
            let mut all = truth.readers.iter();
            let same = all.find(|one| one.user_id == reader.user_id.as_str());
            let read_at = same.expect("a reader").read_at.0;
            match reader.read_at {
                Some(told) => assert!(read_at - told.0 < exact_to, "{unit}: {read_at} {told:?}"),
                None => assert_eq!(exact_to, 0, "{unit}"),
            }
        }
    }
    assert_eq!(sandbox.violations(), []);
}
