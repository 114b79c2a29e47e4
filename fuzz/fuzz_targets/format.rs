#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| deployfs::fuzzing::check("format", bytes));
