//! Doors for `fuzz/` to what is private, in builds with `--cfg fuzzing` only.

use std::path::Path;

use oci_spec::runtime::Spec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Config;
use crate::error::Error;
use crate::plan::{MountKind, Plan, PlanInput};
use crate::stage::proto::{Channel, ExecStageRequest, InitRequest, Message};

/// Any bytes as a message between shim and stage: an error, or a message that arrives again as it was sent.
pub fn stage_message(bytes: &[u8]) {
    let Ok((ours, theirs)) = Channel::pair() else {
        return;
    };
    // Empty is end of file to the receiver; a larger one than the socket takes cannot arrive.
    if bytes.is_empty() || rustix::io::write(&ours, bytes).is_err() {
        return;
    }
    let Ok(Some((message, _))) = theirs.recv::<Message>() else {
        return;
    };
    ours.send(&message).expect("what was received can be sent");
    let (again, _) = theirs
        .recv::<Message>()
        .expect("and arrives")
        .expect("before the end");
    assert_eq!(json(&again), json(&message));
}

/// Any bytes as what a stage is asked.
pub fn stage_request(bytes: &[u8]) {
    read_again::<InitRequest>(bytes);
    read_again::<ExecStageRequest>(bytes);
}

fn read_again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<T>(bytes) {
        let sent = json(&request);
        let read: T = serde_json::from_str(&sent).expect("what is sent can be read");
        assert_eq!(json(&read), sent);
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("messages are JSON")
}

/// Plans `spec` and checks what comes of it.
pub fn plan(spec: &Spec) {
    let planned = Plan::new(PlanInput {
        spec,
        bundle: Path::new("/bundle"),
        id: "c1",
        namespace: "default",
        config: &Config::default(),
        terminal: None,
        last_cap: 40,
        seccomp_cache: None,
    });
    let plan = match planned {
        Ok(plan) => plan,
        Err(Error::Invalid { field, remedy, .. }) => {
            assert!(!field.is_empty() && !remedy.is_empty(), "{field}: {remedy}");
            return;
        }
        Err(Error::Unsupported { .. }) => return,
        Err(other) => panic!("{other:?}"),
    };
    for mount in &plan.mounts {
        assert_inside(&mount.destination);
        if let MountKind::Bind { source, .. } = &mount.kind {
            assert!(source.starts_with('/'), "source {source:?}");
        }
    }
    for path in plan
        .masked_paths
        .iter()
        .chain(&plan.readonly_paths)
        .chain(&plan.data_roots)
    {
        assert_inside(path);
    }
    assert!(plan.rootfs.path.starts_with('/'), "{}", plan.rootfs.path);
    assert!(
        !plan.cgroup_path.split('/').any(|part| part == ".."),
        "{}",
        plan.cgroup_path
    );
    // The stage gets it as JSON.
    let json = serde_json::to_vec(&plan).expect("a plan is JSON");
    let read: Plan = serde_json::from_slice(&json).expect("a plan's JSON is a plan");
    assert_eq!(read, plan);
}

/// An absolute path that leads nowhere else, and that the kernel can take.
fn assert_inside(path: &str) {
    assert!(
        path.starts_with('/') && !path.contains('\0') && !path.split('/').any(|part| part == ".."),
        "{path:?}"
    );
}
