//! Specs beyond every measure (CVE-2021-43784: a length of 16 bits that overflowed): each is done as it says or refused in
//! words that fit a log, and the shim is as before.

use anyhow::{Context, Result, ensure};
use integration::bed::ctr::Bed;
use integration::image::Image;
use serde_json::{Value, json};

use crate::case::Case;

pub(crate) const CASES: &[Case] =
    &[Case::ctr("of_any_size", sizes)
        .ours("runc waits for ever where the working directory is long")];

/// A change to a spec, and whether the container may run with it.
struct Change {
    name: &'static str,
    make: fn(&mut Value),
    runs: bool,
}

fn long(length: usize) -> String {
    "x".repeat(length)
}

const fn change(name: &'static str, runs: bool, make: fn(&mut Value)) -> Change {
    Change { name, make, runs }
}

const CHANGES: &[Change] = &[
    change("nothing", true, |_| ()),
    change("5000 mappings", false, |spec| {
        let lines: Vec<_> = (0..5000)
            .map(|n| json!({"containerID": n, "hostID": 2_000_000 + n, "size": 1}))
            .collect();
        spec["linux"]["uidMappings"] = json!(lines);
        spec["linux"]["gidMappings"] = json!(lines);
        if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
            list.push(json!({"type": "user"}));
        }
    }),
    change("a mapping that overflows", false, |spec| {
        let line =
            json!([{"containerID": 1, "hostID": 4_294_967_290_u32, "size": 4_294_967_290_u32}]);
        spec["linux"]["uidMappings"] = line.clone();
        spec["linux"]["gidMappings"] = line;
        if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
            list.push(json!({"type": "user"}));
        }
    }),
    change("a long host name", false, |spec| {
        spec["hostname"] = json!(long(70_000));
        if let Some(list) = spec["linux"]["namespaces"].as_array_mut() {
            list.retain(|space| space["type"] != "uts");
            list.push(json!({"type": "uts"}));
        }
    }),
    change("a long working directory", false, |spec| {
        spec["process"]["cwd"] = json!(format!("/{}", long(70_000)));
    }),
    change("a long cgroup", false, |spec| {
        spec["linux"]["cgroupsPath"] = json!(format!("/{}", long(70_000)));
    }),
    change("a long destination", false, |spec| {
        if let Some(list) = spec["mounts"].as_array_mut() {
            list.push(json!({"destination": format!("/{}", long(70_000)), "type": "tmpfs", "source": "tmpfs"}));
        }
    }),
    change("a long variable", true, |spec| {
        if let Some(list) = spec["process"]["env"].as_array_mut() {
            list.push(json!(format!("LONG={}", long(100_000))));
        }
    }),
    change("a long argument", true, |spec| {
        if let Some(list) = spec["process"]["args"].as_array_mut() {
            list.push(json!(long(100_000)));
        }
    }),
    change("a long annotation", true, |spec| {
        spec["annotations"] = json!({"x": long(200_000)});
    }),
    change("100000 variables", true, |spec| {
        if let Some(list) = spec["process"]["env"].as_array_mut() {
            list.extend((0..40_000).map(|n| json!(format!("V{n}=x"))));
        }
    }),
    change("no user", false, |spec| {
        spec["process"]["user"]["uid"] = json!(-1);
    }),
    change("a user beyond", false, |spec| {
        spec["process"]["user"]["uid"] = json!(4_294_967_296_u64);
    }),
    change("a user of letters", false, |spec| {
        spec["process"]["user"]["uid"] = json!("1000abc");
    }),
];

fn sizes(bed: &Bed<'_>) -> Result<()> {
    let model = bed.detached(&[], Image::Busybox, &["/probe", "sleep"])?;
    let path = format!(
        "/run/containerd/io.containerd.runtime.v2.task/default/{}/config.json",
        model.id
    );
    let spec: Value = serde_json::from_slice(&std::fs::read(bed.node.path(path))?)?;
    bed.node
        .shell(
            "mkdir /srv/root; ctr images mount localhost/busybox:latest /mnt >/dev/null; cp -a /mnt/. /srv/root; ctr images unmount --rm /mnt >/dev/null",
        )?
        .ok()?;
    for change in CHANGES {
        let mut spec = spec.clone();
        spec["process"]["args"] = json!(["/bin/sh", "-c", "exit 7", "sh"]);
        spec["process"]["terminal"] = json!(false);
        spec["root"] = json!({"path": "/srv/root"});
        let id = bed.id();
        spec["linux"]["cgroupsPath"] = json!(format!("/default/{id}"));
        (change.make)(&mut spec);
        std::fs::write(bed.node.path("/srv/spec.json"), spec.to_string())
            .context("write the spec")?;
        let mut line = vec!["ctr", "run", "--rm", "--runtime", bed.runtime.handler()];
        line.extend(["--config", "/srv/spec.json", &id]);
        let output = bed.node.exec(&line)?;
        ensure!(
            (output.code == 7) == change.runs,
            "{}: {} {}",
            change.name,
            output.code,
            output.stderr.chars().take(2000).collect::<String>()
        );
        ensure!(
            output.stderr.len() < 16_384,
            "{}: {} bytes of an error",
            change.name,
            output.stderr.len()
        );
        // What ctr leaves of a container that could not start.
        bed.node
            .shell(&format!("ctr container rm {id} 2>/dev/null || true"))?
            .ok()?;
    }
    model.remove()?;
    bed.node
        .shell("rm -r /srv/root /srv/spec.json")?
        .ok()
        .map(drop)
}
