#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| receiptd_fuzz::rows::rows(input));
