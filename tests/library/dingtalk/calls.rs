//! What goes over the wire, and what is made of a wire that misbehaves.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use receiptd::dingtalk::{
    AccessToken, Client, Credentials, Failure, Page, PageToken, Query, TokenRefusal,
};
use receiptd::receipt::{Chat, CorpId, Disposition, MessageKey, SendStatus, UnixMs, UserId};

use super::server::{Reply, Server, endpoint};

const PAGE: &str = r#"{"sendStatus":"SUCCESS","readUserIds":["u1"]}"#;

fn token() -> AccessToken {
    AccessToken::new("t0ken-hidden").unwrap()
}

fn key() -> MessageKey {
    MessageKey::from("Kna+/x0Q=")
}

fn plain(key: &MessageKey) -> Query<'_> {
    Query {
        chat: Chat::Private,
        key,
        robot_code: None,
        conversation: None,
        page_size: 200,
        next_token: None,
    }
}

async fn ask(server: &Server) -> Result<Page, Failure> {
    let client = Client::new(&server.endpoint()).unwrap();
    client.query(&token(), &plain(&key())).await
}

async fn ask_once(reply: Reply) -> Result<Page, Failure> {
    ask(&Server::start(vec![reply]).await).await
}

fn head_and_body(request: &str) -> (&str, &str) {
    request.split_once("\r\n\r\n").unwrap()
}

#[tokio::test]
async fn a_query_says_what_is_set_and_nothing_else() {
    let server = Server::start(vec![Reply::json(200, PAGE); 4]).await;
    let client = Client::new(&server.endpoint()).unwrap();
    let key = key();
    let next = PageToken::new("Kna29+/=").unwrap();
    let queries = [
        Query {
            robot_code: Some("ding\"1"),
            conversation: Some("cid6Ke=="),
            next_token: Some(&next),
            ..plain(&key)
        },
        Query {
            chat: Chat::Group,
            ..plain(&key)
        },
        Query {
            robot_code: Some(""),
            conversation: Some(""),
            page_size: 0,
            ..plain(&key)
        },
        Query {
            page_size: 999,
            ..plain(&key)
        },
    ];
    for query in &queries {
        let page = client.query(&token(), query).await.unwrap();
        assert_eq!(page.send_status, SendStatus::Success);
    }
    let requests = server.requests();
    let bodies: Vec<_> = requests
        .iter()
        .map(|request| head_and_body(request).1)
        .collect();
    assert_eq!(
        bodies,
        [
            r#"{"openConversationId":"cid6Ke==","robotCode":"ding\"1","processQueryKey":"Kna+/x0Q=","maxResults":200,"nextToken":"Kna29+/="}"#,
            r#"{"processQueryKey":"Kna+/x0Q=","maxResults":200}"#,
            r#"{"processQueryKey":"Kna+/x0Q=","maxResults":1}"#,
            r#"{"processQueryKey":"Kna+/x0Q=","maxResults":200}"#,
        ]
    );
    let (head, _) = head_and_body(&requests[0]);
    assert!(
        head.starts_with("POST /v1.0/robot/privateChatMessages/query HTTP/1.1\r\n"),
        "{head}"
    );
    assert!(
        head.contains("\r\nx-acs-dingtalk-access-token: t0ken-hidden"),
        "{head}"
    );
    assert!(
        head.contains("\r\ncontent-type: application/json"),
        "{head}"
    );
    let agent = format!("\r\nuser-agent: receiptd/{}", env!("CARGO_PKG_VERSION"));
    assert!(head.contains(&agent), "{head}");
    let (head, _) = head_and_body(&requests[1]);
    assert!(
        head.starts_with("POST /v1.0/robot/groupMessages/query HTTP/1.1\r\n"),
        "{head}"
    );
    assert_eq!(server.connections(), 1, "the connection is kept");
}

#[tokio::test]
async fn recipients_are_asked_for_by_encoded_parameters_and_nothing_else() {
    let body = r#"{"sendStatus":"SUCCESS","hasMore":true,"nextToken":"t","messageReadInfoList":[
        {"userId":"u1","readStatus":"READ","readTimestamp":1778481700},{"userId":"u2","readStatus":"UNREAD"}]}"#;
    let server = Server::start(vec![Reply::json(200, body); 2]).await;
    let client = Client::new(&server.endpoint()).unwrap();
    let key = key();
    for robot_code in [Some("ding+1=&x"), Some("")] {
        let query = Query {
            chat: Chat::Oto,
            robot_code,
            conversation: Some("cid6Ke=="),
            ..plain(&key)
        };
        let page = client.query(&token(), &query).await.unwrap();
        assert_eq!((page.readers.len(), page.listed), (1, Some(2)));
        assert_eq!(page.readers[0].read_at, Some(UnixMs(1_778_481_700_000)));
        assert_eq!(page.next, None, "this list has no pages");
    }
    let requests = server.requests();
    let (head, body) = head_and_body(&requests[0]);
    let path = "/v1.0/robot/oToMessages/readStatus";
    let asked = "robotCode=ding%2B1%3D%26x&processQueryKey=Kna%2B%2Fx0Q%3D";
    let line = format!("GET {path}?{asked} HTTP/1.1\r\n");
    assert!(head.starts_with(&line), "{head}");
    assert!(head.contains("\r\nx-acs-dingtalk-access-token: t0ken-hidden"));
    assert!(!head.contains("content-") && body.is_empty(), "{head}");
    let line = format!("GET {path}?processQueryKey=Kna%2B%2Fx0Q%3D HTTP/1.1\r\n");
    assert!(requests[1].starts_with(&line), "{}", requests[1]);
}

#[tokio::test]
async fn both_token_requests_are_as_documented() {
    let issued = r#"{"accessToken":"abc","expireIn":7200}"#;
    let server = Server::start(vec![Reply::json(200, issued), Reply::json(200, issued)]).await;
    let client = Client::new(&server.endpoint()).unwrap();
    let internal = Credentials::Internal {
        app_key: "ding1".into(),
    };
    let token = client
        .request_token(&internal, &"s3cret".into(), None)
        .await
        .unwrap();
    assert_eq!(token.lifetime, Duration::from_secs(7200));
    let corp = CorpId::from("corp1");
    let third = Credentials::ThirdParty {
        suite_key: "suite1".into(),
        corp,
    };
    client
        .request_token(&third, &"s3cret".into(), Some("tick"))
        .await
        .unwrap();
    for ticket in [None, Some("")] {
        let refusal = client.request_token(&third, &"s3cret".into(), ticket).await;
        assert_eq!(refusal, Err(TokenRefusal::TicketMissing));
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 2, "nothing is asked without a ticket");
    let (head, body) = head_and_body(&requests[0]);
    assert!(
        head.starts_with("POST /v1.0/oauth2/accessToken HTTP/1.1\r\n"),
        "{head}"
    );
    assert_eq!(body, r#"{"appKey":"ding1","appSecret":"s3cret"}"#);
    let (head, body) = head_and_body(&requests[1]);
    assert!(
        head.starts_with("POST /v1.0/oauth2/corpAccessToken HTTP/1.1\r\n"),
        "{head}"
    );
    assert_eq!(
        body,
        r#"{"suiteKey":"suite1","suiteSecret":"s3cret","authCorpId":"corp1","suiteTicket":"tick"}"#
    );
}

#[tokio::test]
async fn a_redirect_does_not_carry_the_token_away() {
    let elsewhere = Server::start(vec![Reply::json(200, PAGE)]).await;
    for status in [301, 302, 303, 307, 308] {
        let location = format!("location: http://{}/x\r\n", elsewhere.address);
        let failure = ask_once(Reply::http(status, &location, ""))
            .await
            .unwrap_err();
        assert_eq!(failure.disposition, Disposition::Retry);
        assert_eq!(failure.code.as_str(), "http.redirect");
        assert_eq!(failure.http_status, Some(status));
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn an_error_brings_its_wait_and_its_code() {
    let body = r#"{"code":"Forbidden.AccessDenied.QpsLimitForApi","message":"t0ken-hidden"}"#;
    let failure = ask_once(Reply::http(403, "retry-after: 0\r\n", body))
        .await
        .unwrap_err();
    assert_eq!(
        failure.disposition,
        Disposition::Throttled {
            window: Duration::from_secs(1)
        }
    );
    assert_eq!(failure.retry_after, Some(Duration::from_secs(1)));
    assert!(!failure.metered);
    assert_eq!(failure.detail, "HTTP 403: [redacted]");
}

#[tokio::test]
async fn a_broken_wire_is_upstream_trouble() {
    let cut = "HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n{\"sendStatus\":\"SUCCESS\"";
    let chunk = "HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"sen\r\nzz\r\n";
    let half_head = "HTTP/1.1 200 X\r\ncontent-le";
    // What happens to the call, its code, and whether there was a status.
    let table: [(Vec<u8>, &str, Option<u16>); 5] = [
        (cut.into(), "http.body", Some(200)),
        (chunk.into(), "http.body", Some(200)),
        (half_head.into(), "http.reset", None),
        (b"".to_vec(), "http.reset", None),
        (
            b"220 mail.example.org ESMTP\r\n".to_vec(),
            "http.protocol",
            None,
        ),
    ];
    for (bytes, code, status) in table {
        let failure = ask_once(Reply::SayAndClose(bytes)).await.unwrap_err();
        assert_eq!(failure.code.as_str(), code, "{failure:?}");
        assert_eq!(failure.disposition, Disposition::Retry, "{failure:?}");
        assert_eq!(failure.http_status, status, "{failure:?}");
        assert!(!failure.detail.contains("127.0.0.1"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_kept_connection_that_died_is_upstream_trouble() {
    let server = Server::start(vec![Reply::json(200, PAGE)]).await;
    let client = Client::new(&server.endpoint()).unwrap();
    client.query(&token(), &plain(&key())).await.unwrap();
    // The server reads the second request on the same connection and closes it.
    let failure = client.query(&token(), &plain(&key())).await.unwrap_err();
    assert_eq!(failure.disposition, Disposition::Retry);
    assert_eq!(failure.code.as_str(), "http.reset");
}

#[tokio::test]
async fn silence_ends_in_time() {
    let head_only = b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n{".to_vec();
    for (reply, status) in [(Reply::Hang, None), (Reply::Say(head_only), Some(200))] {
        let server = Server::start(vec![reply]).await;
        let mut endpoint = server.endpoint();
        endpoint.request_timeout = Duration::from_millis(200);
        let client = Client::new(&endpoint).unwrap();
        let failure = client.query(&token(), &plain(&key())).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "http.timeout", "{failure:?}");
        assert_eq!(failure.disposition, Disposition::Retry);
        assert_eq!(failure.http_status, status);
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_read_to_its_end() {
    let long = "x".repeat(3 << 20);
    let declared = Reply::http(200, "", &long);
    let mut endless = b"HTTP/1.1 503 X\r\n\r\n".to_vec();
    endless.extend_from_slice(long.as_bytes());
    for (reply, status) in [(declared, 200), (Reply::SayAndClose(endless), 503)] {
        let failure = ask_once(reply).await.unwrap_err();
        assert_eq!(failure.code.as_str(), "http.tooLarge", "{failure:?}");
        assert_eq!(failure.disposition, Disposition::Retry);
        assert_eq!(failure.http_status, Some(status));
    }
}

#[tokio::test]
async fn a_large_page_in_many_pieces_is_read_whole() {
    let ids: Vec<String> = (0..20_000).map(|n| format!("\"reader-{n:06}\"")).collect();
    let body = format!(
        r#"{{"sendStatus":"SUCCESS","readUserIds":[{}]}}"#,
        ids.join(",")
    );
    let page = ask_once(Reply::json(200, &body)).await.unwrap();
    assert_eq!(page.readers.len(), 20_000);
    assert_eq!(page.readers[19_999].user_id.as_str(), "reader-019999");
}

/// No request asks for it, and a gateway may do it all the same.
#[tokio::test]
async fn a_compressed_answer_is_unpacked_within_the_same_bound() {
    let packed = |plain: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    };
    let answer = |status: u16, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\ncontent-encoding: gzip\r\n\r\n"
        );
        Reply::Say([head.as_bytes(), body].concat())
    };
    let page = ask_once(answer(200, &packed(PAGE.as_bytes()))).await;
    assert_eq!(page.unwrap().readers[0].user_id, UserId::from("u1"));
    let refusal = ask_once(answer(400, &packed(br#"{"code":"bot.stopped"}"#))).await;
    assert_eq!(refusal.unwrap_err().code.as_str(), "bot.stopped");
    let bomb = ask_once(answer(200, &packed(&vec![b' '; 8 << 20]))).await;
    assert_eq!(bomb.unwrap_err().code.as_str(), "http.tooLarge");
    let spoilt = ask_once(answer(200, PAGE.as_bytes())).await;
    assert_eq!(spoilt.unwrap().readers[0].user_id, UserId::from("u1"));
    let cut = packed(PAGE.as_bytes());
    let cut = ask_once(answer(200, &cut[..cut.len() / 2])).await;
    assert_eq!(cut.unwrap_err().code.as_str(), "http.notJson");
}

#[tokio::test]
async fn the_endpoints_clock_is_read_without_a_token() {
    let date = "date: Mon, 30 Nov 2026 15:59:59 GMT\r\n";
    let server = Server::start(vec![Reply::http(404, date, "no"), Reply::http(200, "", "")]).await;
    let client = Client::new(&server.endpoint()).unwrap();
    assert_eq!(
        client.probe_clock().await,
        Ok(Some(UnixMs(1_796_054_399_000)))
    );
    assert_eq!(client.probe_clock().await, Ok(None));
    let requests = server.requests();
    assert!(
        requests[0].starts_with("GET / HTTP/1.1\r\n"),
        "{}",
        requests[0]
    );
    assert!(!requests[0].contains("x-acs"), "{}", requests[0]);
    let client = Client::new(&endpoint("http://127.0.0.1:1")).unwrap();
    assert_eq!(
        client.probe_clock().await.unwrap_err().code.as_str(),
        "http.connect"
    );
}

#[tokio::test]
async fn a_token_request_that_reaches_nobody_is_to_be_repeated() {
    let client = Client::new(&endpoint("http://127.0.0.1:1")).unwrap();
    let internal = Credentials::Internal {
        app_key: "ding1".into(),
    };
    let refusal = client
        .request_token(&internal, &"s3cret".into(), None)
        .await
        .unwrap_err();
    assert!(matches!(refusal, TokenRefusal::Upstream(_)), "{refusal:?}");
    assert_eq!(refusal.code().as_str(), "http.connect");
    assert!(!format!("{refusal:?}").contains("s3cret"));
}

/// Where the child of the proxy test finds the address that it is to call directly.
const DIRECT: &str = "RECEIPTD_TEST_DIRECT";

/// A proxy is a matter of the process's environment, which a test cannot change under its neighbours: so it starts itself anew
/// as a child that runs only the test below.
#[tokio::test]
async fn the_systems_proxy_is_used_except_for_loopback() {
    let tunnel = Reply::SayAndClose(b"HTTP/1.1 200 OK\r\n\r\n".to_vec());
    let proxy = Server::start(vec![Reply::json(200, PAGE), tunnel]).await;
    let direct = Server::start(vec![Reply::json(200, PAGE)]).await;
    let proxy_url = format!("http://{}", proxy.address);
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "dingtalk::calls::a_child_of_the_proxy_test"])
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .env("HTTP_PROXY", &proxy_url)
        .env("http_proxy", &proxy_url)
        .env("HTTPS_PROXY", &proxy_url)
        .env("https_proxy", &proxy_url)
        .env(DIRECT, direct.address.to_string())
        .output()
        .await
        .unwrap();
    assert!(
        child.status.success(),
        "{}",
        String::from_utf8_lossy(&child.stdout)
    );
    let [through_proxy, tunnel] = &proxy.requests()[..] else {
        panic!("{:?}", proxy.requests())
    };
    // Of what is encrypted a proxy learns the host, and no token.
    assert!(
        tunnel.starts_with("CONNECT receipts.invalid:443 HTTP/1.1\r\n"),
        "{tunnel}"
    );
    assert!(
        !tunnel.to_ascii_lowercase().contains("access-token"),
        "{tunnel}"
    );
    let line = "POST http://receipts.invalid/v1.0/robot/privateChatMessages/query HTTP/1.1\r\n";
    assert!(through_proxy.starts_with(line), "{through_proxy}");
    assert_eq!(direct.requests().len(), 1);
}

#[tokio::test]
async fn a_child_of_the_proxy_test() {
    // Run among the other tests it has nothing to do.
    let Ok(direct) = std::env::var(DIRECT) else {
        return;
    };
    for base in [
        "http://receipts.invalid".to_owned(),
        format!("http://{direct}"),
    ] {
        let client = Client::new(&endpoint(&base)).unwrap();
        client.query(&token(), &plain(&key())).await.unwrap();
    }
    // Its tunnel leads nowhere.
    let client = Client::new(&endpoint("https://receipts.invalid")).unwrap();
    let failure = client.query(&token(), &plain(&key())).await.unwrap_err();
    assert_eq!(failure.disposition, Disposition::Retry, "{failure:?}");
}

/// Whatever comes over the wire, as a whole answer or as none: what ends a message is said in so many words, or not at all.
#[tokio::test]
async fn any_bytes_on_the_wire_have_a_disposition() {
    let seed = std::env::var("RECEIPTD_SEED")
        .map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("RECEIPTD_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let parts: [&[u8]; 14] = [
        b"HTTP/1.1 ",
        b"200 OK\r\n",
        b"400 Bad\r\n",
        b"302 Found\r\nlocation: https://elsewhere.invalid/\r\n",
        b"content-length: 9\r\n",
        b"content-length: 99999999999999999999\r\n",
        b"transfer-encoding: chunked\r\n",
        b"content-encoding: gzip\r\n",
        b"retry-after: 1e9\r\n",
        b"\r\n",
        b"ffffffffffffffff\r\n",
        br#"{"sendStatus":"SUCCESS","#,
        br#"{"code":"system.error"}"#,
        b"\x00\xff\x1b[2J\r",
    ];
    for _ in 0..200 {
        let mut bytes = Vec::new();
        if random.u8(..) < 200 {
            bytes.extend_from_slice(format!("HTTP/1.1 {} X\r\n", random.u16(90..1100)).as_bytes());
        }
        for _ in 0..random.usize(0..8) {
            bytes.extend_from_slice(parts[random.usize(..parts.len())]);
            let noise = random.usize(0..4);
            bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(noise));
        }
        match ask_once(Reply::SayAndClose(bytes.clone())).await {
            Ok(page) => assert_eq!(page.send_status, SendStatus::Success),
            Err(failure) => {
                let loses = matches!(
                    failure.disposition,
                    Disposition::Rejected
                        | Disposition::RobotRejected
                        | Disposition::NotGeneratedOrExpired
                );
                let shown = String::from_utf8_lossy(&bytes).into_owned();
                assert!(!loses, "{failure:?}\n{shown}");
                assert!(!failure.detail.contains("t0ken"), "{failure:?}\n{shown}");
            }
        }
    }
}
