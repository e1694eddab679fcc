//! Any config.json ends in a plan that is safe to act on, or in an error that names what is wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(spec) = serde_json::from_slice(data) else {
        return;
    };
    runtime_core::fuzz::plan(&spec);
});
