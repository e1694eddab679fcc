//! Any text as a configuration, and any annotation over it. The first line is an annotation, the rest the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime_core::Config;
use runtime_core::Error;

fuzz_target!(|text: &str| {
    let (annotation, file) = text.split_once('\n').unwrap_or((text, ""));
    let config = match Config::from_toml_str(file) {
        Ok(config) => config,
        Err(Error::Invalid { field, remedy, .. }) => {
            assert!(!field.is_empty() && !remedy.is_empty());
            return;
        }
        Err(other) => panic!("{other:?}"),
    };
    config.validate().expect("what was loaded is valid");
    let (name, value) = annotation.split_once('=').unwrap_or((annotation, ""));
    let name = format!("io.containerd.sysbox.{name}");
    match config.with_annotations([(name.as_str(), value)]) {
        Ok(overridden) => {
            assert!(config.annotations.contains(&name), "{name} is not allowed");
            overridden.validate().expect("what was overridden is valid");
        }
        Err(Error::Invalid { field, .. }) => assert_eq!(field, format!("annotations.{name}")),
        Err(other) => panic!("{other:?}"),
    }
});
