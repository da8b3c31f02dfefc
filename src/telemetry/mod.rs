//! Logs: text for people, JSON for log stores, the journal under systemd; and what keeps them short.
//!
//! A line reads on its own: the message says it all. The same values are fields with dotted names, which JSON and the
//! journal carry; text is the message alone. No format shows the spans around an event.
//!
//! In the journal a field gets the prefix `RECEIPTD_` and capitals, dots becoming underscores, so that it collides with
//! none of systemd's own: `account` is found by `journalctl RECEIPTD_ACCOUNT=default`, `message.key` by
//! `RECEIPTD_MESSAGE_KEY=...`.

mod events;
mod filter;
mod libraries;
mod panics;
mod repeats;
mod surroundings;
mod text;

use std::io;

use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

pub use events::{EVENTS, Event, Level as EventLevel};
pub use panics::panic_text;
pub use repeats::{Again, LineBudget, Repeats, Warnings};
pub use surroundings::Surroundings;

use self::libraries::Libraries;
use crate::settings::{Log, LogFormat};

/// The log as it runs.
#[derive(Clone, Debug)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    libraries: Libraries,
    shape: Shape,
}

/// How lines look, once `auto` is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Text for people, on stderr.
    Text,
    /// One object a line, on stderr.
    Json,
    /// The journal's own protocol.
    Journal,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.filter` is none.
    #[error("log.filter is no filter; write a level, as \"info\"")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// `log.format = "journald"`, and there is no journal.
    #[error("the journal cannot be reached; write log.format = \"auto\", \"text\" or \"json\"")]
    Journal(#[source] io::Error),
    /// The process has a log already.
    #[error("the log was set up before")]
    Twice(#[from] TryInitError),
    /// The log that the handle belongs to is gone.
    #[error("the log's filter cannot be changed")]
    Gone(#[from] reload::Error),
}

type Filtered = Layered<Libraries, Layered<reload::Layer<EnvFilter, Registry>, Registry>>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// Sets the process's log up, once. A panic is said there too, as one line.
pub fn init(log: &Log, surroundings: &Surroundings) -> Result<Telemetry, TelemetryError> {
    let (subscriber, telemetry) = build(log, surroundings, BoxMakeWriter::new(io::stderr))?;
    subscriber.try_init()?;
    std::panic::set_hook(Box::new(panics::hook()));
    Ok(telemetry)
}

/// A log that is not yet the process's own: with `tracing::subscriber::with_default` and a writer of its own, a
/// test reads what was written.
pub fn build<W>(
    log: &Log,
    surroundings: &Surroundings,
    writer: W,
) -> Result<(impl tracing::Subscriber + Send + Sync + use<W>, Telemetry), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter::quiet(&log.filter)?);
    let (lines, shape) = lines(log.format, surroundings, writer)?;
    let libraries = Libraries::default();
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(libraries.clone())
        .with(lines);
    let telemetry = Telemetry {
        filter: handle,
        libraries,
        shape,
    };
    Ok((subscriber, telemetry))
}

impl Telemetry {
    /// Puts another `log.filter` in force; what is wrong leaves the old one.
    pub fn set_filter(&self, filter: &str) -> Result<(), TelemetryError> {
        self.filter.reload(filter::quiet(filter)?)?;
        Ok(())
    }

    /// Writes how often libraries repeated their warnings, each of which is written once between two calls. For once a
    /// minute.
    pub fn tell_repeats(&self) {
        self.libraries.tell();
    }

    /// How lines look.
    pub fn shape(&self) -> Shape {
        self.shape
    }
}

fn lines<W>(
    format: LogFormat,
    surroundings: &Surroundings,
    writer: W,
) -> Result<(Lines, Shape), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let journal = match format {
        LogFormat::Journald => Some(journal().map_err(TelemetryError::Journal)?),
        // Without a journal to speak to (a container that inherited the variable), text serves as well.
        LogFormat::Auto if surroundings.stderr_is_the_journal() => journal().ok(),
        _ => None,
    };
    if let Some(journal) = journal {
        return Ok((journal, Shape::Journal));
    }
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    Ok(match format {
        LogFormat::Json => {
            let json = layer.json().flatten_event(true);
            (
                json.with_current_span(false).with_span_list(false).boxed(),
                Shape::Json,
            )
        }
        _ => {
            let text = layer
                .with_ansi(surroundings.colours)
                .event_format(text::TextLine);
            (text.boxed(), Shape::Text)
        }
    })
}

fn journal() -> io::Result<Lines> {
    use tracing_journald::{Priority, PriorityMappings};
    // systemd's own use of the levels: `info` is informational, not a notice.
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    let layer = tracing_journald::layer()?
        .with_field_prefix(Some("RECEIPTD".to_owned()))
        .with_syslog_identifier("receiptd".to_owned())
        .with_priority_mappings(priorities);
    Ok(layer.boxed())
}
