#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| iotupd_fuzz::signature(bytes));
