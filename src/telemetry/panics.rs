//! A panic in the log's own form: the standard hook would write several lines of text between objects of JSON, and in the
//! journal without a priority.

use std::panic::PanicHookInfo;

pub(super) fn tell(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let what = text.unwrap_or("without a word");
    let location = panic.location().map(ToString::to_string);
    let location = location.as_deref().unwrap_or("an unknown place");
    tracing::error!(
        code.location = location,
        error = what,
        "a task panicked at {location}: {what}; this is a bug: please report it"
    );
}
