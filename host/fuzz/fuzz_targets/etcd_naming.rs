#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| waymark_fuzz::run("etcd_naming", input));
