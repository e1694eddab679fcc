//! What holds of every plan.

use std::path::Path;

use oci_spec::runtime::Spec;
use runtime_core::Error;
use runtime_core::config::Config;
use runtime_core::plan::{MountKind, Plan, PlanInput};

/// What `ctr run` writes.
#[allow(dead_code, reason = "one target's")]
pub(crate) const SPEC: &str = include_str!("../tests/plan/specs/ctr.json");

/// Plans `spec` and checks what comes of it.
pub(crate) fn plan(spec: &Spec) {
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
