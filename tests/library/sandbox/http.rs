//! A client that sees the bytes: one connection a call, read to its end.

use std::io;

use receiptd::sandbox::{Sandbox, SandboxConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const PRIVATE: &str = "/v1.0/robot/privateChatMessages/query";
pub(crate) const GROUP: &str = "/v1.0/robot/groupMessages/query";
pub(crate) const STATUS: &str = "/v1.0/robot/oToMessages/readStatus";
pub(crate) const TOKEN: &str = "/v1.0/oauth2/accessToken";
pub(crate) const CORP_TOKEN: &str = "/v1.0/oauth2/corpAccessToken";

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Got {
    /// 0: the connection ended without a head.
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// As many bytes came as `content-length` says.
    pub(crate) whole: bool,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn readers(&self) -> Vec<String> {
        let json = self.json();
        let ids = json["readUserIds"].as_array().expect("readUserIds");
        ids.iter()
            .map(|id| id.as_str().expect("text").to_owned())
            .collect()
    }
}

/// A call's bytes.
pub(crate) fn request(method: &str, path: &str, token: Option<&str>, body: &str) -> String {
    let token = token
        .map(|token| format!("x-acs-dingtalk-access-token: {token}\r\n"))
        .unwrap_or_default();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         {token}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) async fn call(
    sandbox: &Sandbox,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Got {
    let request = request(method, path, token, body);
    let mut bytes = Vec::new();
    let mut stream = TcpStream::connect(sandbox.addr())
        .await
        .expect("the sandbox listens");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the sandbox reads");
    let ended: io::Result<usize> = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let whole = ended.is_ok() && length.is_some_and(|n| n.parse() == Ok(body.len()));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    Got {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
        whole,
    }
}

pub(crate) async fn post(sandbox: &Sandbox, path: &str, token: &str, body: &Value) -> Got {
    call(sandbox, "POST", path, Some(token), &body.to_string()).await
}

/// A sandbox as it is without a setting, and a token of its app.
pub(crate) async fn sandbox() -> (Sandbox, String) {
    let started = Sandbox::start(SandboxConfig::default()).await;
    let sandbox = started.expect("a free port");
    let token = token(&sandbox).await;
    (sandbox, token)
}

/// A token of the usual app.
pub(crate) async fn token(sandbox: &Sandbox) -> String {
    let asked = r#"{"appKey":"sandbox","appSecret":"sandbox"}"#;
    let got = call(sandbox, "POST", TOKEN, None, asked).await;
    got.json()["accessToken"]
        .as_str()
        .expect("a token")
        .to_owned()
}

/// The first page of a key in a private chat.
pub(crate) async fn ask(sandbox: &Sandbox, token: &str, key: &str) -> Got {
    post(sandbox, PRIVATE, token, &json!({ "processQueryKey": key })).await
}

/// Every page: the last `sendStatus`, the readers, the sizes of the pages.
pub(crate) async fn walk(
    sandbox: &Sandbox,
    token: &str,
    path: &str,
    key: &str,
    size: u32,
) -> (String, Vec<String>, Vec<usize>) {
    let (mut readers, mut sizes) = (Vec::new(), Vec::new());
    let mut asked = json!({ "processQueryKey": key, "maxResults": size });
    loop {
        let got = post(sandbox, path, token, &asked).await;
        assert_eq!(got.status, 200, "{got:?}");
        let here = got.readers();
        sizes.push(here.len());
        readers.extend(here);
        let json = got.json();
        if json["hasMore"] != json!(true) {
            return (
                json["sendStatus"].as_str().expect("a status").to_owned(),
                readers,
                sizes,
            );
        }
        asked["nextToken"] = json["nextToken"].clone();
    }
}
