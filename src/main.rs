//! Parse, load, hand over.

fn main() -> std::process::ExitCode {
    receiptd::cli::main_with(std::env::args_os())
}
