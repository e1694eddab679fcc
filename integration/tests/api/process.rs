//! What a process becomes that the spec describes and no engine's command line does.

use anyhow::{Result, ensure};
use integration::shim_api::soon;
use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use serde_json::{Value, json};

use crate::bed::Bed;

/// What the probe says of itself as init of a container with this change of the spec.
async fn facts(bed: &Bed, id: &str, change: impl FnOnce(&mut Value)) -> Result<Value> {
    let bundle = bed.bundle(id, &["/probe", "facts"], &[])?;
    let config = bed.node.path(&bundle).join("config.json");
    let mut spec = serde_json::from_slice(&std::fs::read(&config)?)?;
    change(&mut spec);
    std::fs::write(&config, spec.to_string())?;
    let shim = bed.start(id, &bundle).await?;
    let client = shim.client().await?;
    let mut request = shim.task.create_request();
    let output = format!("{bundle}/output");
    request.stdout = format!("file://{output}");
    client.create(soon(), &request).await?;
    shim.task.start(&client, "").await?;
    ensure!(shim.task.wait(&client, "").await? == 0);
    shim.task.delete(&client, "").await?;
    shim.shutdown(&client).await?;
    Ok(serde_json::from_slice(&std::fs::read(
        bed.node.path(&output),
    )?)?)
}

#[tokio::test]
async fn ids_capabilities_and_limits() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    let seen = facts(&bed, "process", |spec| {
        // As many as an image needs and not one more: 65534 is nobody.
        let ids = json!([{"containerID": 0, "hostID": 655_360, "size": 65_535}]);
        (spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]) = (ids.clone(), ids);
        if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "user"}));
        }
        let ambient = json!(["CAP_NET_BIND_SERVICE"]);
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        spec["process"]["capabilities"] = json!({
            "bounding": ambient, "permitted": ambient, "effective": ambient, "inheritable": ambient, "ambient": ambient,
        });
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 65_535, "hard": 65_536}]);
    })
    .await?;
    ensure!(
        seen["uid_map"] == json!([0, 655_360, 65_535]),
        "{}",
        seen["uid_map"]
    );
    for set in ["inheritable", "permitted", "effective", "ambient"] {
        let value = &seen["capabilities"][set];
        ensure!(value == "0000000000000400", "{set} is {value}");
    }
    // Where hard limits cannot be raised both go as far up as they can.
    let own = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let may_raise = capabilities(None)?
        .effective
        .contains(CapabilitySet::SYS_RESOURCE);
    let highest = if may_raise { u64::MAX } else { own };
    let expected = [65_535.min(highest), 65_536.min(highest)].map(|limit| limit.to_string());
    let limits = &seen["rlimits"]["Max open files"];
    ensure!(*limits == json!(expected), "{limits}, not {expected:?}");
    bed.settled()
}
