//! The runtime's own program, by the magic link of its process (CVE-2019-5736): it is not changed, and cannot be opened
//! for writing, neither while it runs nor after.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::{Context, Result, ensure};
use integration::bed::ctr::Bed;
use integration::node::DEADLINE;
use integration::process;
use serde_json::{Value, json};

use crate::case::Case;

pub(crate) const CASES: &[Case] = &[Case::ctr("is_not_written", written)];

/// Three forms of the same: by its name, as the interpreter of a script, through a link.
const FORMS: [&[&str]; 5] = [
    &["/proc/self/exe"],
    &["/proc/self/exe", "init"],
    &["/proc/self/exe", "exec"],
    &["/script"],
    &["/link"],
];

fn written(bed: &Bed<'_>) -> Result<()> {
    let programs = "cd /usr; sha256sum local/bin/containerd-shim-sysbox-v2 bin/containerd-shim-runc-v2 sbin/runc bin/crun 2>/dev/null || true";
    let before = bed.node.shell(programs)?.ok()?.stdout;
    ensure!(before.contains("sysbox"), "no shim: {before}");
    let image = bed.import("magic", &json!({}), |root| {
        let script = root.join("script");
        fs::write(&script, "#!/proc/self/exe init\n").context("write the script")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
            .context("make it executable")?;
        symlink("/proc/self/exe", root.join("link")).context("make the link")
    })?;
    for form in FORMS {
        // Whatever it prints, it comes back; that it has no standard input is part of it.
        bed.run_of(&image, &[], form)?;
    }
    let id = bed.id();
    bed.node
        .exec(&bed.line(&["--detach"], &image, &id, &["/probe", "sleep"]))?
        .ok()?;
    let mut watcher = bed
        .node
        .task_exec(&id, &[], &["/bin/sh", "-c", "/probe watch 4; sleep 0.1"]);
    let said = std::thread::scope(|scope| {
        let watching = std::thread::Builder::new()
            .name("watcher".to_owned())
            .spawn_scoped(scope, || process::run(&mut watcher, b"", DEADLINE))?;
        while !watching.is_finished() {
            for form in FORMS {
                process::run(&mut bed.node.task_exec(&id, &[], form), b"", DEADLINE)?;
            }
        }
        let said = watching.join();
        said.map_err(|_| anyhow::anyhow!("the watcher panicked"))?
    })?;
    let said: Value = serde_json::from_str(said.ok()?.text())?;
    let outcomes = said["programs"].as_array().context("no outcomes")?;
    ensure!(
        !outcomes.iter().any(|outcome| outcome == "ok"),
        "a runtime's program opens for writing: {said}"
    );
    bed.ctr(&["task", "rm", "--force", &id])?;
    bed.ctr(&["container", "rm", &id])?;
    bed.remove_image(&image)?;
    let after = bed.node.shell(programs)?.ok()?.stdout;
    ensure!(before == after, "{before}\n{after}");
    Ok(())
}
