//! What lines look like, and that none of them can be forged.

use std::io;
use std::sync::{Arc, Mutex};

use receiptd::settings::{Log, LogFormat};
use receiptd::telemetry::{self, Shape, Surroundings, Telemetry};
use tracing_subscriber::fmt::MakeWriter;

/// Keeps what was written.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn lines(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl io::Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Page {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn logged(
    format: LogFormat,
    filter: &str,
    surroundings: &Surroundings,
    story: impl FnOnce(&Page, &Telemetry),
) -> Vec<String> {
    let log = Log {
        filter: filter.to_owned(),
        format,
        summary_interval: std::time::Duration::from_secs(60),
    };
    let page = Page::default();
    let (subscriber, telemetry) = telemetry::build(&log, surroundings, page.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || story(&page, &telemetry));
    page.lines()
}

fn finished() {
    let span = tracing::info_span!("walk", hidden = "not shown");
    let _entered = span.enter();
    tracing::info!(message.key = %"key-1", elapsed_ms = 12, state = "complete", "message key-1 is complete");
}

#[test]
fn a_text_line_is_time_level_and_message() {
    let lines = logged(
        LogFormat::Text,
        "info",
        &Surroundings::default(),
        |_, telemetry| {
            assert_eq!(telemetry.shape(), Shape::Text);
            finished();
        },
    );
    assert_eq!(lines.len(), 1);
    let (time, rest) = lines[0].split_once(' ').unwrap();
    time.parse::<jiff::Timestamp>().unwrap();
    assert_eq!(rest, " INFO message key-1 is complete");
}

#[test]
fn colours_are_for_terminals_only() {
    for colours in [true, false] {
        let surroundings = Surroundings {
            colours,
            ..Surroundings::default()
        };
        let lines = logged(LogFormat::Auto, "info", &surroundings, |_, _| finished());
        assert_eq!(lines[0].contains('\u{1b}'), colours, "{lines:?}");
    }
}

#[test]
fn a_json_line_is_one_flat_object() {
    let lines = logged(LogFormat::Json, "info", &Surroundings::default(), |_, _| {
        finished();
        tracing::warn!(account = "a\nb\u{1b}[2J", "line\nbreak");
    });
    assert_eq!(lines.len(), 2);
    let object: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    let mut keys: Vec<&str> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "elapsed_ms",
            "level",
            "message",
            "message.key",
            "state",
            "target",
            "timestamp"
        ]
    );
    assert_eq!(object["message"], "message key-1 is complete");
    assert_eq!(object["message.key"], "key-1");
    assert_eq!(object["elapsed_ms"], 12);
    assert_eq!(object["level"], "INFO");
    let object: serde_json::Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(object["account"], "a\nb\u{1b}[2J");
}

#[test]
fn a_hostile_value_forges_no_line_and_commands_no_terminal() {
    let hostile = "x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}1m";
    let surroundings = Surroundings {
        colours: false,
        ..Surroundings::default()
    };
    let lines = logged(LogFormat::Text, "info", &surroundings, |_, _| {
        tracing::info!(key = %hostile, debug = ?hostile, text = hostile, "seen {hostile}");
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(!lines[0].chars().any(char::is_control), "{lines:?}");
}

#[test]
fn the_filter_changes_while_the_log_runs() {
    logged(
        LogFormat::Text,
        "info",
        &Surroundings::default(),
        |page, telemetry| {
            tracing::debug!("unseen");
            assert_eq!(page.lines(), Vec::<String>::new());
            telemetry.set_filter("debug").unwrap();
            tracing::debug!("seen");
            tracing::debug!(target: "hyper::proto", "authorization: token");
            assert_eq!(page.lines().len(), 1);
            telemetry.set_filter("receiptd=loud").unwrap_err();
            tracing::debug!("still seen");
            assert_eq!(page.lines().len(), 1);
            telemetry.set_filter("off").unwrap();
            tracing::error!("unseen");
            assert_eq!(page.lines(), Vec::<String>::new());
        },
    );
}

#[test]
fn a_library_that_repeats_itself_is_counted() {
    logged(
        LogFormat::Text,
        "info",
        &Surroundings::default(),
        |page, telemetry| {
            let handshake = || {
                tracing::error!(target: "rustls::conn", "no certificate");
                // As the bridge from the `log` crate writes it.
                tracing::error!(target: "log", { log.target = "verifier", log.line = 7_u64 }, "unknown issuer");
            };
            (0..160).for_each(|_| handshake());
            (0..3).for_each(
                |_| tracing::error!(target: "receiptd::daemon", "our own are counted elsewhere"),
            );
            assert_eq!(page.lines().len(), 2 + 3);
            telemetry.tell_repeats();
            let told = page.lines();
            assert_eq!(told.len(), 2, "{told:?}");
            for library in ["rustls::conn", "verifier"] {
                let line = format!("WARN the library {library} repeated a warning 159 times");
                assert!(told.iter().any(|told| told.ends_with(&line)), "{told:?}");
            }
            // Then it is written again, once; nothing is told of what came once.
            handshake();
            assert_eq!(page.lines().len(), 2);
            telemetry.tell_repeats();
            assert_eq!(page.lines(), Vec::<String>::new());
        },
    );
}
