//! What counts against the month: how far a call got, and who answered. Against a bare listener, since an HTTP server cannot
//! behave as badly as a network does.

use std::time::Duration;

use receiptd::dingtalk::{Answered, Client, Failure, Page, read_page};
use receiptd::receipt::{Chat, Disposition};
use receiptd::settings::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::server::{ask, endpoint};

const PAGE: &str = r#"{"sendStatus":"SUCCESS","readUserIds":["u1"]}"#;

/// With a body, and without one.
const CHATS: [Chat; 2] = [Chat::Private, Chat::Oto];

async fn query(endpoint: &Endpoint, chat: Chat) -> Result<Page, Failure> {
    ask(&Client::new(endpoint).unwrap(), chat).await
}

/// What a peer does with a connection.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// Reads the first byte and closes: the rest is refused.
    ClosesWhileReading,
    /// Reads the request whole and closes.
    Closes,
    /// Reads the request whole and resets the connection.
    Resets,
    /// Reads the request whole and never answers.
    Hangs,
    /// Reads nothing and never answers.
    IsDeaf,
    /// Reads the request whole, says this and closes.
    Says(&'static str),
}

async fn read_whole(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    // Every request of these tests ends with the page's size, or with its head.
    while !(seen.ends_with(b"200}") || seen.starts_with(b"GET") && seen.ends_with(b"\r\n\r\n")) {
        if stream.read_buf(&mut seen).await.unwrap() == 0 {
            break;
        }
    }
    seen
}

async fn behave(mut stream: TcpStream, peer: Peer) {
    match peer {
        Peer::ClosesWhileReading => {
            stream.read_u8().await.unwrap();
            return;
        }
        Peer::IsDeaf => std::future::pending().await,
        _ => read_whole(&mut stream).await,
    };
    match peer {
        Peer::Hangs => std::future::pending().await,
        Peer::Resets => stream.set_zero_linger().unwrap(),
        Peer::Says(text) => stream.write_all(text.as_bytes()).await.unwrap(),
        _ => {}
    }
}

async fn meets(peer: Peer, chat: Chat) -> Failure {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut endpoint = endpoint(&format!("http://{}", listener.local_addr().unwrap()));
    endpoint.request_timeout = match peer {
        Peer::Hangs | Peer::IsDeaf => Duration::from_millis(300),
        _ => Duration::from_secs(60),
    };
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        behave(stream, peer).await;
    });
    let failure = query(&endpoint, chat).await.unwrap_err();
    server.abort();
    assert_eq!(failure.disposition, Disposition::Retry, "{peer:?}");
    failure
}

#[tokio::test]
async fn a_request_that_was_written_whole_and_not_answered_counts() {
    let table = [
        (Peer::ClosesWhileReading, "http.reset"),
        (Peer::Closes, "http.reset"),
        (Peer::Resets, "http.reset"),
        (Peer::Hangs, "http.timeout"),
        // It lies in the peer's memory: whether somebody reads it there is not to be known.
        (Peer::IsDeaf, "http.timeout"),
        (Peer::Says("HTTP/1.1 200 X\r\ncontent-le"), "http.reset"),
        (
            Peer::Says("HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\n{"),
            "http.body",
        ),
        (
            Peer::Says("HTTP/1.1 502 X\r\ncontent-length: 99\r\n\r\n<ht"),
            "http.body",
        ),
    ];
    for chat in CHATS {
        for (peer, code) in table {
            let failure = meets(peer, chat).await;
            assert_eq!(failure.code.as_str(), code, "{peer:?}: {failure:?}");
            assert!(failure.metered, "{peer:?} {chat:?}: {failure:?}");
        }
    }
}

#[tokio::test]
async fn what_does_not_speak_http_is_not_dingtalk() {
    for chat in CHATS {
        let failure = meets(Peer::Says("220 mail.example.org ESMTP\r\n"), chat).await;
        assert_eq!(failure.code.as_str(), "http.protocol");
        assert!(!failure.metered);
    }
}

#[tokio::test]
async fn a_request_that_was_not_written_is_free() {
    for chat in CHATS {
        let failure = query(&endpoint("http://127.0.0.1:1"), chat)
            .await
            .unwrap_err();
        assert_eq!(failure.code.as_str(), "http.connect");
        assert!(!failure.metered);
        // A connection whose TLS is never agreed upon, which the time for the whole call ends.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut endpoint = endpoint(&format!("https://{}", listener.local_addr().unwrap()));
        endpoint.request_timeout = Duration::from_millis(300);
        let failure = query(&endpoint, chat).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "http.timeout", "{failure:?}");
        assert!(!failure.metered, "{chat:?}");
    }
}

/// A peer that closes kept connections costs no call: a request that meets such a connection is not written to it, and
/// goes out once, on a new one.
#[tokio::test]
async fn a_kept_connection_that_was_closed_costs_no_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = endpoint(&format!("http://{}", listener.local_addr().unwrap()));
    let server = tokio::spawn(async move {
        let mut asked = 0;
        for _ in 0..40 {
            let (mut stream, _) = listener.accept().await.unwrap();
            asked += usize::from(!read_whole(&mut stream).await.is_empty());
            let length = PAGE.len();
            let answer = format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\n\r\n{PAGE}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    let client = Client::new(&endpoint).unwrap();
    for turn in 0..40 {
        ask(&client, CHATS[turn % 2]).await.unwrap();
    }
    assert_eq!(server.await.unwrap(), 40);
}

#[test]
fn what_dingtalk_answered_counts_and_what_something_else_said_does_not() {
    let table = [
        // A code, whatever the status; but for throttling.
        (400, r#"{"code":"bot.stopped"}"#, true),
        (400, r#"{"code":"no.such.code"}"#, true),
        (
            403,
            r#"{"code":"Forbidden.AccessDenied.ApiCountLimitForOrg"}"#,
            true,
        ),
        (
            403,
            r#"{"code":"Forbidden.AccessDenied.QpsLimitForApi"}"#,
            false,
        ),
        (
            403,
            r#"{"code":"Forbidden.AccessDenied.QpmLimitForApi"}"#,
            false,
        ),
        (500, r#"{"code":"system.error"}"#, true),
        (200, r#"{"code":"system.busy"}"#, true),
        // What was meant to be a page.
        (200, r#"{"sendStatus":"SUCCESS","readUserIds":"a"}"#, true),
        // Proxies, gateways, and whoever else is in the way.
        (502, "<html><h1>nginx</h1></html>", false),
        (200, "<html>log in</html>", false),
        (401, "", false),
        (403, r#"{"error":"denied by policy"}"#, false),
        (429, "slow down", false),
        (503, r#"{"message":"no upstream"}"#, false),
        (302, r#"{"code":"system.error"}"#, false),
        (200, "", false),
        (200, "{}", false),
        (200, r#"{"sendStatus":null,"readUserIds":[]}"#, false),
        (200, r#"{"sendStatus":"SUCCESS""#, false),
        (200, r#"{"errcode":404,"errmsg":"no such path"}"#, false),
        (200, r#"{"status":1111,"punish":"deny"}"#, false),
    ];
    for (status, body, counts) in table {
        let answered = Answered {
            status,
            retry_after: None,
            body: body.as_bytes().into(),
        };
        let failure = read_page(&answered, &[]).unwrap_err();
        assert_eq!(failure.metered, counts, "{status} {body}");
    }
}
