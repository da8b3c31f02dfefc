//! What a status and a body amount to: pages, failures, and everything else that may come.

use std::time::Duration;

use proptest::prelude::*;
use receiptd::dingtalk::{Answered, Failure, Page, PageToken, Reader, read_page, read_token};
use receiptd::receipt::{Disposition, ErrorCode, SendStatus, UnixMs, UserId};

fn answered(status: u16, body: &[u8]) -> Answered<'_> {
    Answered {
        status,
        retry_after: None,
        body: body.into(),
    }
}

fn read(status: u16, body: &str) -> Result<Page, Failure> {
    read_page(&answered(status, body.as_bytes()), &[])
}

fn reader(id: &str, read_at: Option<i64>) -> Reader {
    Reader {
        user_id: UserId::from(id),
        read_at: read_at.map(UnixMs),
    }
}

fn page(status: SendStatus, readers: &[&str], next: Option<&str>) -> Page {
    Page {
        send_status: status,
        readers: readers.iter().map(|id| reader(id, None)).collect(),
        listed: None,
        next: next.and_then(PageToken::new),
    }
}

#[test]
fn the_vendors_sample_is_a_page() {
    let body = r#"{"sendStatus":"SUCCESS","readUserIds":["manager123"],"nextToken":"Kna29+/=","hasMore":true}"#;
    let expected = page(SendStatus::Success, &["manager123"], Some("Kna29+/="));
    assert_eq!(read(200, body), Ok(expected));
}

/// Bodies of a 200 that are pages, each with what is read of it.
#[test]
fn pages_are_read_tolerantly() {
    use SendStatus::{Other, Processing, Recalled, Success};
    let table: Vec<(&str, Page)> = vec![
        // Absent, null and unknown fields.
        (
            r#"{"sendStatus":"PROCESSING"}"#,
            page(Processing, &[], None),
        ),
        (
            r#"{"sendStatus":"RECALLED","readUserIds":null,"nextToken":null,"hasMore":null,"readUsers":null}"#,
            page(Recalled, &[], None),
        ),
        (
            r#"{"zeit":{"a":[1.5,{"b":null}]},"sendStatus":"Delayed","x":true}"#,
            page(Other("Delayed".into()), &[], None),
        ),
        // As the vendor's own samples spell it, and in other cases.
        (r#"{"sendStatus":"SUCESS"}"#, page(Success, &[], None)),
        (r#"{"sendStatus":"success"}"#, page(Success, &[], None)),
        (r#"{"SendStatus":"Recalled"}"#, page(Recalled, &[], None)),
        (
            r#"{"sendStatus":"processing"}"#,
            page(Processing, &[], None),
        ),
        // A group's other list, which adds to the first.
        (
            r#"{"sendStatus":"SUCCESS","readUsers":[{"unionId":"u","userId":"b"},{"userId":"c"},{"unionId":"d"}],"readUserIds":["a","b"]}"#,
            page(Success, &["a", "b", "c"], None),
        ),
        // Twice, empty, null, numbers, an object.
        (
            r#"{"sendStatus":"SUCCESS","readUserIds":["a","","a",null,17,-3,{"userId":"z"},"\u5f20\n"]}"#,
            page(Success, &["a", "17", "-3", "z", "张\n"], None),
        ),
        // The end of the walk: more is promised without a token, or a token without a promise.
        (
            r#"{"sendStatus":"SUCCESS","hasMore":true}"#,
            page(Success, &[], None),
        ),
        (
            r#"{"sendStatus":"SUCCESS","hasMore":true,"nextToken":""}"#,
            page(Success, &[], None),
        ),
        (
            r#"{"sendStatus":"SUCCESS","hasMore":false,"nextToken":"t"}"#,
            page(Success, &[], None),
        ),
        (
            r#"{"sendStatus":"SUCCESS","nextToken":"t"}"#,
            page(Success, &[], None),
        ),
        (
            r#"{"sendStatus":"SUCCESS","hasMore":[1],"nextToken":"t"}"#,
            page(Success, &[], None),
        ),
        // Wrong types that can be understood.
        (
            r#"{"sendStatus":"SUCCESS","hasMore":"true","nextToken":12}"#,
            page(Success, &[], Some("12")),
        ),
        (
            r#"{"sendStatus":"SUCCESS","hasMore":1,"nextToken":"t"}"#,
            page(Success, &[], Some("t")),
        ),
        (
            r#"{"sendStatus":"SUCCESS","hasMore":"1","nextToken":"t"}"#,
            page(Success, &[], Some("t")),
        ),
        (
            r#"{"sendStatus":"SUCCESS","hasMore":"True","nextToken":"t"}"#,
            page(Success, &[], Some("t")),
        ),
        (
            r#"{"sendStatus":"SUCCESS","hasMore":0,"nextToken":"t"}"#,
            page(Success, &[], None),
        ),
        (
            r#"{"sendStatus":"SUCCESS","hasMore":"false","nextToken":"t"}"#,
            page(Success, &[], None),
        ),
        // What cannot be read costs itself.
        (
            r#"{"sendStatus":"SUCCESS","readUserIds":["a"],"message":"\ud800","x":["\udfff"]}"#,
            page(Success, &["a"], None),
        ),
        // A success is one, whatever else stands there.
        (
            r#"{"code":"system.error","status":1111,"sendStatus":"SUCCESS"}"#,
            page(Success, &[], None),
        ),
    ];
    for (body, expected) in table {
        assert_eq!(read(200, body), Ok(expected), "{body}");
    }
}

/// Who got a message of a bot, with what is read of it: who has read, when, and how many are listed.
#[test]
fn a_list_of_recipients_tells_who_has_read_and_when() {
    let people = |list: &str| {
        let body =
            format!(r#"{{"errcode":0,"sendStatus":"SUCCESS","messageReadInfoList":[{list}]}}"#);
        let page = read(200, &body).unwrap();
        assert_eq!((page.send_status, page.next), (SendStatus::Success, None));
        (page.readers, page.listed)
    };
    let ms = 1_778_481_700_000;
    // Seconds, milliseconds, as text; 0, absent, null, nonsense.
    for (time, read_at) in [
        ("1778481700", Some(ms)),
        ("1778481700000", Some(ms)),
        (r#""1778481700""#, Some(ms)),
        ("0", None),
        ("-5", None),
        ("null", None),
        (r#""""#, None),
        (r#""noon""#, None),
        ("1.5", None),
        ("[1778481700]", None),
        ("99999999999999999999", None),
    ] {
        let one =
            format!(r#"{{"name":"张三","userId":"a","readStatus":"READ","readTimestamp":{time}}}"#);
        assert_eq!(
            people(&one),
            (vec![reader("a", read_at)], Some(1)),
            "{time}"
        );
    }
    let many = r#"{"userId":"a","readStatus":"read"},{"userId":"b","readStatus":"UNREAD","readTimestamp":0},
        {"readStatus":"READ"},{"userId":"","readStatus":"READ"},{"userId":"c"},{"userId":"d","readStatus":"LATER"},
        {"userId":17,"ReadStatus":"Read"},{"userId":"a","readStatus":"READ"}"#;
    let read_by = vec![reader("a", None), reader("17", None)];
    assert_eq!(people(many), (read_by, Some(6)));
    assert_eq!(people(""), (Vec::new(), Some(0)));
    // Without a list nobody is known to be all of them.
    for none in ["", r#","messageReadInfoList":null"#] {
        let body = format!(r#"{{"sendStatus":"SUCCESS"{none}}}"#);
        assert_eq!(read(200, &body).unwrap().listed, None);
    }
    let odd = r#"{"sendStatus":"SUCCESS","messageReadInfoList":{"userId":"a"}}"#;
    assert_eq!(read(200, odd).unwrap_err().code.as_str(), "http.wrongType");
}

/// Names of people are neither kept nor told, in whatever encoding they come.
#[test]
fn a_recipients_name_gets_nowhere() {
    let body = "{\"sendStatus\":\"SUCCESS\",\"messageReadInfoList\":[{\"name\":\"Zhang San\",\"userId\":\"a\",\"readStatus\":\"READ\"}]}";
    let page = read(200, body).unwrap();
    assert!(!format!("{page:?}").contains("Zhang"), "{page:?}");
    for (status, body) in [
        (500, body.to_owned()),
        (200, body.replace("SUCCESS", "")),
        (200, body.replace("\"a\"", "true")),
        (
            400,
            body.replace(
                "{\"sendStatus\"",
                "{\"code\":\"system.error\",\"sendStatus\"",
            ),
        ),
    ] {
        let failure = read(status, &body).unwrap_err();
        assert!(
            !format!("{failure:?} {failure}").contains("Zhang"),
            "{failure:?}"
        );
    }
    let (before, after) = body.split_once("Zhang San").unwrap();
    let gbk = [before.as_bytes(), b"\xd5\xc5\x95\x5c", after.as_bytes()].concat();
    let page = read_page(&answered(200, &gbk), &[]).unwrap();
    assert_eq!(page.readers, [reader("a", None)]);
}

/// A 200 proves nothing by itself.
#[test]
fn a_failing_200_is_a_failure() {
    use Disposition::{AddressBanned, NotGeneratedOrExpired, Retry};
    let table = [
        (
            r#"{"errcode":404,"errmsg":"no such path"}"#,
            Retry,
            "errcode.404",
        ),
        (r#"{"errcode":0,"errmsg":"ok"}"#, Retry, "http.emptyAnswer"),
        (
            r#"{"status":1111,"wait":5,"source":"x5","punish":"deny","uuid":"x"}"#,
            AddressBanned,
            "address.banned",
        ),
        (r#"{"status":"1111"}"#, AddressBanned, "address.banned"),
        (r#"{"status":200}"#, Retry, "http.emptyAnswer"),
        ("{}", Retry, "http.emptyAnswer"),
        ("", Retry, "http.emptyAnswer"),
        (r#"{"sendStatus":""}"#, Retry, "http.emptyAnswer"),
        (
            r#"{"sendStatus":null,"readUserIds":["a"]}"#,
            Retry,
            "http.emptyAnswer",
        ),
        (r#"{"sendStatus":1}"#, Retry, "http.emptyAnswer"),
        (r#"{"code":"system.busy"}"#, Retry, "system.busy"),
        (r#"{"code":"no.such.code"}"#, Retry, "no.such.code"),
        (
            r#"{"code":"processQueryKey.expireTime"}"#,
            NotGeneratedOrExpired,
            "processQueryKey.expireTime",
        ),
        ("<html>log in</html>", Retry, "http.notJson"),
        (
            r#"{"sendStatus":"SUCCESS","readUserIds":["a""#,
            Retry,
            "http.notJson",
        ),
        (
            r#"{"sendStatus":"SUCCESS"} and more"#,
            Retry,
            "http.notJson",
        ),
        (r#"["SUCCESS"]"#, Retry, "http.notJson"),
        ("null", Retry, "http.notJson"),
        (
            r#"{"sendStatus":"SUCCESS","readUserIds":"a"}"#,
            Retry,
            "http.wrongType",
        ),
        (
            r#"{"sendStatus":"SUCCESS","readUserIds":{"a":1}}"#,
            Retry,
            "http.wrongType",
        ),
        (
            r#"{"sendStatus":"SUCCESS","readUserIds":["a",1.5]}"#,
            Retry,
            "http.wrongType",
        ),
        (
            r#"{"sendStatus":"SUCCESS","readUserIds":[true]}"#,
            Retry,
            "http.wrongType",
        ),
        (
            r#"{"sendStatus":"SUCCESS","readUsers":[{"userId":false}]}"#,
            Retry,
            "http.wrongType",
        ),
    ];
    for (body, disposition, code) in table {
        let failure = read(200, body).unwrap_err();
        assert_eq!(failure.disposition, disposition, "{body}");
        assert_eq!(failure.code, ErrorCode::from(code), "{body}");
        assert_eq!(failure.http_status, Some(200));
    }
}

#[test]
fn only_a_200_is_a_page() {
    for status in [201, 202, 206, 302, 400, 500] {
        let failure = read(status, r#"{"sendStatus":"SUCCESS","readUserIds":["a"]}"#).unwrap_err();
        assert_eq!(failure.http_status, Some(status));
    }
    assert_eq!(read(302, "{}").unwrap_err().code.as_str(), "http.redirect");
    assert_eq!(read(503, "<html>").unwrap_err().code.as_str(), "http.503");
    assert_eq!(
        read(401, "").unwrap_err().disposition,
        Disposition::RefreshToken
    );
}

#[test]
fn an_error_is_read_in_either_case_and_any_order() {
    for body in [
        r#"{"code":"bot.stopped","requestid":"R-1","message":"机器人已停用"}"#,
        r#"{"Message":"机器人已停用","RequestId":"R-1","Code":"bot.stopped"}"#,
    ] {
        let failure = read(400, body).unwrap_err();
        assert_eq!(failure.disposition, Disposition::Blocked);
        assert_eq!(failure.code.as_str(), "bot.stopped");
        assert_eq!(failure.detail, "HTTP 400: 机器人已停用; request id R-1");
    }
}

/// A gateway that writes its messages in GBK is still one whose code can be read: `\xb2\xbb` is one character of it, and so
/// is `\x95\x5c`, whose second byte looks like a backslash.
#[test]
fn a_message_in_another_encoding_costs_no_code() {
    let table: [(&[u8], &str); 4] = [
        (
            b"{\"code\":\"InvalidAuthentication\",\"message\":\"\xb2\xbb\"}",
            "HTTP 400: \u{fffd}",
        ),
        (
            b"{\"message\":\"a\x95\x5c\",\"code\":\"InvalidAuthentication\"}",
            "HTTP 400: a\u{fffd}",
        ),
        (
            b"{\"message\":\"caf\xe9\",\"code\":\"InvalidAuthentication\"}",
            "HTTP 400: caf\u{fffd}",
        ),
        (
            b"{\"message\":\"\\ud800\",\"code\":\"InvalidAuthentication\"}",
            "HTTP 400: \"\\ud800\"",
        ),
    ];
    for (body, detail) in table {
        let failure = read_page(&answered(400, body), &[]).unwrap_err();
        assert_eq!(failure.code.as_str(), "InvalidAuthentication", "{body:?}");
        assert_eq!(failure.disposition, Disposition::RefreshToken);
        assert_eq!(failure.detail, detail);
    }
    // Names that a page holds beside its readers are nobody's to read; its readers are.
    let page_of = |body: &[u8]| read_page(&answered(200, body), &[]);
    let body = b"{\"sendStatus\":\"SUCCESS\",\"readUserIds\":[\"a\"],\"names\":[\"\xb2\xbb\"]}";
    assert_eq!(page_of(body), Ok(page(SendStatus::Success, &["a"], None)));
    let body = b"{\"sendStatus\":\"SUCCESS\",\"readUserIds\":[\"\xb2\xbb\"]}";
    assert_eq!(page_of(body).unwrap_err().code.as_str(), "http.wrongType");
}

#[test]
fn a_missing_scope_is_named() {
    let body = r#"{"code":"Forbidden.AccessDenied.AccessTokenPermissionDenied","message":"no",
        "accessdenieddetail":{"x":[1],"requiredScopes":["qyapi_robot_sendmsg",2,"b"]}}"#;
    let failure = read(403, body).unwrap_err();
    assert_eq!(failure.disposition, Disposition::LaneBlocked);
    assert_eq!(
        failure.detail,
        "HTTP 403: no; needs the scope qyapi_robot_sendmsg, 2, b"
    );
    for odd in [
        r#""some text""#,
        "null",
        "[]",
        r#"{"requiredScopes":{"a":1}}"#,
        "7",
        "1.5",
    ] {
        let body = format!(r#"{{"accessdenieddetail":{odd},"code":"auth.error"}}"#);
        assert_eq!(
            read(403, &body).unwrap_err().code.as_str(),
            "auth.error",
            "{odd}"
        );
    }
}

#[test]
fn an_echoed_secret_gets_nowhere() {
    let body =
        r#"{"code":"bad.tok3n-abc","message":"token tok3n-abc is bad","requestid":"tok3n-abc"}"#;
    let failure = read_page(&answered(400, body.as_bytes()), &["tok3n-abc"]).unwrap_err();
    assert!(
        !format!("{failure:?} {failure}").contains("tok3n-abc"),
        "{failure:?}"
    );
    assert_eq!(failure.code.as_str(), "bad.[redacted]");
    // Of a body that is no JSON nothing is shown at all.
    let failure = read(200, r#"{"accessToken":"fresh-secret","#).unwrap_err();
    assert!(!format!("{failure:?}").contains("fresh"), "{failure:?}");
}

#[test]
fn deep_and_wide_bodies_do_no_harm() {
    let deep = format!(r#"{{"sendStatus":"SUCCESS","x":{}"#, "[".repeat(500_000));
    assert_eq!(
        read(200, &deep).unwrap_err().disposition,
        Disposition::Retry
    );
    let wide = format!(
        r#"{{"sendStatus":"SUCCESS","readUserIds":[{}"a"]}}"#,
        r#""a","#.repeat(30_000)
    );
    assert_eq!(
        read(200, &wide),
        Ok(page(SendStatus::Success, &["a"], None))
    );
    assert!(read_page(&answered(200, b"{\"sendStatus\":\"\xff\"}"), &[]).is_err());
    // What would be kept is bounded too: in number, and in length.
    let wider = format!(
        r#"{{"sendStatus":"SUCCESS","readUserIds":[{}"a"]}}"#,
        r#""a","#.repeat(200_000)
    );
    let long = "x".repeat(257);
    let long_reader = format!(r#"{{"sendStatus":"SUCCESS","readUserIds":["a","{long}"]}}"#);
    let long_status = format!(r#"{{"sendStatus":"{long}"}}"#);
    let token = "x".repeat(4097);
    let long_token = format!(r#"{{"sendStatus":"SUCCESS","hasMore":true,"nextToken":"{token}"}}"#);
    for body in [wider, long_reader, long_status, long_token] {
        let failure = read(200, &body).unwrap_err();
        assert_eq!(failure.code.as_str(), "http.wrongType", "{failure:?}");
        assert_eq!(failure.disposition, Disposition::Retry);
    }
    assert!(read(200, r#"{"sendStatus":"\ud800"}"#).is_err());
}

/// Any JSON value, with our field names among its keys.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "sendStatus",
            "readUserIds",
            "readUsers",
            "userId",
            "nextToken",
            "hasMore",
            "code",
            "Code",
            "message",
            "requestid",
            "status",
            "errcode",
            "accessdenieddetail",
            "requiredScopes",
            "accessToken",
            "expireIn",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
    ];
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        prop::sample::select(vec![
            "SUCCESS",
            "true",
            "1111",
            "system.error",
            "bot.stopped"
        ])
        .prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|members| members
                .into_iter()
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

fn holds(status: u16, body: &[u8]) {
    let answered = Answered {
        status,
        retry_after: Some(Duration::from_secs(3)),
        body: body.into(),
    };
    match read_page(&answered, &["SUCCESS"]) {
        Ok(page) => {
            assert_eq!(status, 200);
            assert!(!page.send_status.as_str().is_empty());
            assert!(
                page.readers
                    .iter()
                    .all(|reader| !reader.user_id.as_str().is_empty())
            );
        }
        Err(failure) => {
            assert!(failure.detail.chars().count() <= 300);
            assert!(!failure.detail.chars().any(char::is_control));
            assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
        }
    }
    let _ = read_token(&answered, &[]);
}

proptest! {
    #[test]
    fn any_json_has_a_meaning(status in 100_u16..1000, body in any_json()) {
        holds(status, body.to_string().as_bytes());
        holds(200, body.to_string().as_bytes());
    }

    #[test]
    fn any_bytes_have_a_meaning(status in 100_u16..1000, body in prop::collection::vec(any::<u8>(), 0..200)) {
        holds(status, &body);
    }

    #[test]
    fn a_page_cut_anywhere_is_no_page(cut in 0_usize..84) {
        let body = r#"{"sendStatus":"SUCCESS","readUserIds":["manager123"],"nextToken":"K=","hasMore":true}"#;
        prop_assert_eq!(read(200, &body[..cut]).unwrap_err().disposition, Disposition::Retry);
    }
}
