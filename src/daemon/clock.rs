//! The wall clock, handed in so that tests can step it.

use std::fmt;
use std::sync::Arc;

use crate::receipt::UnixMs;

/// Where the daemon reads the time of day.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> UnixMs + Send + Sync>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::new(|| UnixMs(jiff::Timestamp::now().as_millisecond()))
    }

    /// A clock of the caller's own.
    pub fn new(read: impl Fn() -> UnixMs + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The time of day.
    pub fn now(&self) -> UnixMs {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({})", self.now())
    }
}
