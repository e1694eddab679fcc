//! The base filter in hooks, which no client hands on.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use integration::calls::{self, Abi, Call, DATA};
use nix::libc;
use serde_json::{Value, json};

use crate::bed::{Bed, ROOTFS};

/// A startContainer hook is a program of the image, a createContainer hook one of the host; both run inside.
#[tokio::test]
async fn hooks_inside_are_under_the_base_filter() -> Result<()> {
    let Some(bed) = Bed::new().await? else {
        return Ok(());
    };
    // socket(AF_VSOCK, SOCK_STREAM), and the same by i386's socketcall; a socket of AF_UNIX.
    let (vsock, unix) = ([40, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]);
    let native = calls::program(Abi::X86_64, &[Call(41, vsock), Call(41, unix)], &[]);
    let foreign = calls::program(Abi::I386, &[Call(102, [1, DATA, 0, 0, 0, 0])], &vsock);
    for (name, program) in [("native", native), ("i386", foreign)] {
        for place in [ROOTFS, "/srv"] {
            let path = bed.node.path(place).join(name);
            std::fs::write(&path, &program)?;
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        }
    }
    bed.node.shell("mkdir -m 777 /srv/said")?.ok()?;
    let bundle = bed.bundle("hooks", &["/bin/sleep", "100000"], &[])?;
    let file = bed.node.path(&bundle).join("config.json");
    let mut spec: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    let hook = |name: &str, from: &str, to: &str| {
        let script = format!("exec >{to}/{name}; {from}/native; {from}/i386");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    spec["hooks"] = json!({
        "createContainer": hook("create", "/srv", "/srv/said"),
        "startContainer": hook("start", "", "/said"),
    });
    let said = json!({"type": "bind", "source": "/srv/said", "destination": "/said", "options": ["rbind"]});
    spec["mounts"]
        .as_array_mut()
        .context("no mounts")?
        .push(said);
    std::fs::write(&file, spec.to_string())?;
    let shim = bed.start("hooks", &bundle).await?;
    let client = shim.client().await?;
    shim.run(&client).await?;
    for name in ["create", "start"] {
        let said = std::fs::read(bed.node.path("/srv/said").join(name))?;
        let said: Vec<i32> = said
            .as_chunks()
            .0
            .iter()
            .map(|bytes| i32::from_le_bytes(*bytes))
            .collect();
        let [vsock, unix, socketcall] = said[..] else {
            anyhow::bail!("the {name} hook says {said:?}");
        };
        ensure!(
            (vsock, unix >= 0, socketcall) == (-libc::EAFNOSUPPORT, true, -libc::ENOSYS),
            "the {name} hook says {said:?}"
        );
    }
    shim.end(&client).await?;
    bed.node
        .shell(&format!(
            "rm -r /srv/said {ROOTFS}/said /srv/native /srv/i386 {ROOTFS}/native {ROOTFS}/i386"
        ))?
        .ok()?;
    bed.settled()
}
