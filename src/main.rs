//! Parse, load, hand over.

fn main() -> std::process::ExitCode {
    // Only what `cargo test` builds has points of failure for $FAILPOINTS to name.
    let _points = fail::has_failpoints().then(fail::FailScenario::setup);
    receiptd::cli::main_with(std::env::args_os())
}
