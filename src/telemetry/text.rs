//! A line for people: time, level, message, and after it the fields, dimmed.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

pub(super) struct TextLine;

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut values = Values::default();
        event.record(&mut values);
        let level = *event.metadata().level();
        let colours = out.has_ansi_escapes();
        let [dim, reset] = if colours { [DIM, RESET] } else { [""; 2] };
        let colour = if colours { colour_of(level) } else { "" };
        out.write_str(dim)?;
        // A clock that cannot be told is no reason to lose the line.
        if SystemTime.format_time(&mut out).is_err() {
            out.write_str("<no time>")?;
        }
        write!(out, "{reset} {colour}{level:>5}{reset} {}", values.message)?;
        if !values.fields.is_empty() {
            write!(out, " {dim}{}{reset}", values.fields)?;
        }
        writeln!(out)
    }
}

fn colour_of(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// An event's message and its fields as they will be written.
#[derive(Default)]
struct Values {
    message: String,
    fields: String,
}

impl Values {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        if field.name() == "message" {
            let _ = write!(Printable(&mut self.message), "{value}");
            return;
        }
        // What the `log` bridge adds about its own macros.
        if field.name().starts_with("log.") {
            return;
        }
        if !self.fields.is_empty() {
            self.fields.push(' ');
        }
        let _ = write!(Printable(&mut self.fields), "{}={value}", field.name());
    }
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.add(field, format_args!("{value}")),
            _ => self.add(field, format_args!("{value:?}")),
        }
    }
}

/// Escapes control characters: text from a row or an answer must neither forge a second line nor command a terminal.
struct Printable<'a>(&'a mut String);

impl fmt::Write for Printable<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c.is_control() {
                true => self.0.extend(c.escape_debug()),
                false => self.0.push(c),
            }
        }
        Ok(())
    }
}
