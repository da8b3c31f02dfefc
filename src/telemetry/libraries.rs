//! What the libraries below receiptd warn of, kept to the rules of our own lines: once, then counted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lets one line through for each place in a library that warns, until [`Libraries::tell`]. Clones share their memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Libraries(Arc<Mutex<HashMap<Place, u64>>>);

/// A place in a library's source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Place {
    target: String,
    line: Option<u64>,
}

impl Libraries {
    /// Writes how often each warning came since it was written, and begins anew.
    pub(super) fn tell(&self) {
        let seen = std::mem::take(&mut *self.lock());
        for (Place { target, .. }, suppressed) in seen.into_iter().filter(|(_, count)| *count > 0) {
            tracing::warn!(
                warning = target,
                suppressed,
                "the library {target} repeated a warning {suppressed} times"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Libraries {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let ours = metadata.target() == "receiptd" || metadata.target().starts_with("receiptd::");
        // Finer lines are written only where the operator asks for them.
        if ours || *metadata.level() > Level::WARN {
            return true;
        }
        let mut place = Place {
            target: metadata.target().to_owned(),
            line: metadata.line().map(u64::from),
        };
        // What comes through the `log` crate says in fields where it comes from.
        event.record(&mut place);
        match self.lock().entry(place) {
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(0);
                true
            }
            std::collections::hash_map::Entry::Occupied(mut known) => {
                *known.get_mut() += 1;
                false
            }
        }
    }
}

impl Visit for Place {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            value.clone_into(&mut self.target);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "log.line" {
            self.line = Some(value);
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}
