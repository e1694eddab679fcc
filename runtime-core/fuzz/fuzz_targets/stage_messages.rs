//! Any bytes between shim and stage: nothing panics, and what is understood survives being sent again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime_core::fuzz::{stage_message, stage_request};

fuzz_target!(|bytes: &[u8]| {
    stage_message(bytes);
    stage_request(bytes);
});
