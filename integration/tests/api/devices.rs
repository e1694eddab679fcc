//! The device policy over a container's life.

use anyhow::{Result, ensure};
use containerd_shim_protos::api::UpdateTaskRequest;
use integration::shim_api::soon;
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use crate::bed::{Bed, ROOTFS};

/// An update takes the place of the policy before it where it speaks of devices, and leaves it alone where it does not.
#[tokio::test]
async fn an_update_replaces_the_device_policy() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    // loop-control: whoever may open it may do so without harm.
    bed.node
        .shell(&format!("mknod -m 666 {ROOTFS}/node c 10 237"))?
        .ok()?;
    let shim = bed.shim("devices", &["/bin/sleep", "100000"]).await?;
    let client = shim.client().await?;
    shim.run(&client).await?;
    let rule = |access: &str| json!({"devices": [{"allow": true, "type": "c", "major": 10, "minor": 237, "access": access}]});
    let updates: [(Value, u32, u32); 6] = [
        (json!({}), 1, 1),
        (rule("r"), 0, 1),
        (json!({"pids": {"limit": 1000}}), 0, 1),
        (rule("rw"), 0, 0),
        (json!({"devices": [{"allow": true, "access": "rwm"}]}), 1, 1),
        (json!({"devices": []}), 1, 1),
    ];
    for (i, (resources, reading, writing)) in updates.into_iter().enumerate() {
        let request = UpdateTaskRequest {
            id: shim.task.id.clone(),
            resources: MessageField::some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
                value: resources.to_string().into_bytes(),
                ..Any::default()
            }),
            ..UpdateTaskRequest::default()
        };
        client.update(soon(), &request).await?;
        for (how, wanted) in [("<", reading), (">", writing)] {
            let line = format!(": {how}/node");
            let name = format!("e{i}{wanted}{}", how == "<");
            let words = ["/bin/sh", "-c", &line];
            let code = shim.task.execute(&client, &name, &words).await?;
            ensure!(code == wanted, "{how} after {resources}: {code}");
        }
    }
    shim.end(&client).await?;
    bed.node.shell(&format!("rm {ROOTFS}/node"))?.ok()?;
    bed.settled()
}
