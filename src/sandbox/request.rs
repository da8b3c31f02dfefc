//! A call as it came in, and what it breaks of the interface's rules.

use bytes::Bytes;
use serde_json::{Map, Value};

/// A call.
pub(super) struct Request {
    pub(super) path: String,
    pub(super) query: String,
    pub(super) content_type: String,
    /// `x-acs-dingtalk-access-token`
    pub(super) token: Option<String>,
    pub(super) body: Bytes,
}

/// What a query asks, and what it breaks.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) key: Option<String>,
    pub(super) robot_code: Option<String>,
    pub(super) conversation: Option<String>,
    pub(super) next: Option<String>,
    pub(super) max_results: Option<i64>,
    /// The body is no JSON object, or a field has a wrong type.
    pub(super) malformed: bool,
    pub(super) violations: Vec<String>,
}

/// A body's fields, taken out one by one.
pub(super) struct Fields {
    map: Map<String, Value>,
    pub(super) malformed: bool,
    pub(super) violations: Vec<String>,
}

impl Request {
    pub(super) fn fields(&self) -> Fields {
        let mut violations = Vec::new();
        if !self.content_type.starts_with("application/json") {
            violations.push(format!("content-type is {:?}", self.content_type));
        }
        let (map, malformed) = match serde_json::from_slice(&self.body) {
            Ok(Value::Object(map)) => (map, false),
            _ => {
                violations.push("the body is no JSON object".to_owned());
                (Map::new(), true)
            }
        };
        Fields {
            map,
            malformed,
            violations,
        }
    }

    /// The question of a POST.
    pub(super) fn json_question(&self) -> Asked {
        let mut fields = self.fields();
        let key = fields.text("processQueryKey");
        if key.is_none() {
            fields.violations.push("no processQueryKey".to_owned());
        }
        let max_results = match fields.map.remove("maxResults") {
            None => None,
            Some(value) => match value.as_i64() {
                Some(size) => {
                    if !(1..=200).contains(&size) {
                        fields.violations.push(format!("maxResults is {size}"));
                    }
                    Some(size)
                }
                None => {
                    fields.violations.push(format!("maxResults is {value}"));
                    fields.malformed = true;
                    None
                }
            },
        };
        let robot_code = fields.text("robotCode");
        let conversation = fields.text("openConversationId");
        let next = fields.text("nextToken");
        fields.finish();
        let Fields {
            malformed,
            violations,
            ..
        } = fields;
        Asked {
            key,
            robot_code,
            conversation,
            next,
            max_results,
            malformed,
            violations,
        }
    }

    /// The question of `readStatus`.
    pub(super) fn query_question(&self) -> Asked {
        let mut asked = Asked::default();
        for (name, value) in pairs(&self.query) {
            match (name.as_str(), value) {
                (name, Some(value)) if value.is_empty() => {
                    asked.violations.push(format!("{name} is empty"));
                }
                (name, None) => asked.violations.push(format!("{name} is not URL-encoded")),
                ("processQueryKey", value) => asked.key = value,
                ("robotCode", value) => asked.robot_code = value,
                (name, _) => asked.violations.push(format!("{name} is unknown")),
            }
        }
        for (name, value) in [
            ("processQueryKey", &asked.key),
            ("robotCode", &asked.robot_code),
        ] {
            if value.is_none() {
                asked.violations.push(format!("no {name}"));
            }
        }
        asked
    }
}

impl Fields {
    /// A text field; an empty string, a null or another type is a violation and counts as absent.
    pub(super) fn text(&mut self, name: &str) -> Option<String> {
        match self.map.remove(name)? {
            Value::String(text) if text.is_empty() => {
                self.violations.push(format!("{name} is empty: omit it"));
                None
            }
            Value::String(text) => Some(text),
            Value::Null => {
                self.violations.push(format!("{name} is null: omit it"));
                None
            }
            _ => {
                self.violations.push(format!("{name} is no string"));
                self.malformed = true;
                None
            }
        }
    }

    /// Whatever was not taken is unknown.
    pub(super) fn finish(&mut self) {
        for name in self.map.keys() {
            self.violations.push(format!("{name} is unknown"));
        }
    }
}

/// Names and values of a query string; a value is `None` where it is not properly encoded. A bare `+` is none: it
/// would arrive as a space.
pub(super) fn pairs(query: &str) -> Vec<(String, Option<String>)> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (name.to_owned(), decode(value))
        })
        .collect()
}

fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
            }
            b'+' | b'=' | b'/' => return None,
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}
