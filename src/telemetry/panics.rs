//! A panic in the log's own form: the standard hook would write several lines of text between objects of JSON, and in the
//! journal without a priority.

use std::any::Any;
use std::panic::PanicHookInfo;

use super::Warnings;

/// The hook. Panics of one place are counted like any warning that repeats.
pub(super) fn hook() -> impl Fn(&PanicHookInfo<'_>) + Send + Sync + 'static {
    let warnings = Warnings::default();
    move |panic| {
        let what = panic_text(panic.payload());
        let location = panic.location().map(ToString::to_string);
        let location = location.as_deref().unwrap_or("an unknown place");
        if let Some(again) = warnings.admit(location) {
            tracing::error!(
                code.location = location,
                error = what,
                suppressed = again.count(),
                "a task panicked at {location}: {what}; this is a bug: please report it{again}"
            );
        }
    }
}

/// What a panic said, from its payload.
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a word")
}
