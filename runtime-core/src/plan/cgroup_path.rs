//! `linux.cgroupsPath`: a path, or systemd's `slice:prefix:name`.

use std::path::Path;

use super::text;
use crate::cgroup::scope::Scope;
use crate::error::{Error, Result};

const FIELD: &str = "linux.cgroupsPath";

/// Longest name of a directory (NAME_MAX, limits.h).
const NAME_MAX: usize = 255;

/// The container's cgroup relative to the root of the unified hierarchy, and the scope that it is where systemd is PID 1.
///
/// None given: `namespace/id`, as containerd itself names it. Relative paths are taken from the root too.
pub(super) fn plan_cgroup_path(
    given: Option<&Path>,
    namespace: &str,
    id: &str,
) -> Result<(String, Option<Scope>)> {
    let given = match given {
        Some(path) => text::path(FIELD, path)?,
        None => "",
    };
    text::line(FIELD, given, text::PATH_MAX)?;
    let (path, scope) = if given.is_empty() {
        (format!("{namespace}/{id}"), None)
    } else if !given.contains('/') && given.contains(':') {
        let (path, scope) = systemd(given)?;
        (path, Some(scope))
    } else {
        (given.to_string(), None)
    };
    let refuse = |remedy: &str| Err(Error::invalid(FIELD, &path, remedy));
    let components: Vec<&str> = path
        .split('/')
        .filter(|component| !matches!(*component, "" | "."))
        .collect();
    if components.is_empty() {
        return refuse("name a cgroup below the root, `/parent/container`");
    }
    if components.contains(&"..") {
        return refuse("write the path without `..`");
    }
    if components.iter().any(|c| c.len() > NAME_MAX) {
        return refuse("keep each component within 255 bytes");
    }
    Ok((components.join("/"), scope))
}

/// The unit that `slice:prefix:name` names, and the directory where systemd puts it (systemd.slice(5)).
fn systemd(given: &str) -> Result<(String, Scope)> {
    let refuse = |remedy: &str| Err(Error::invalid(FIELD, given, remedy));
    let [slice, prefix, name] = given.split(':').collect::<Vec<_>>()[..] else {
        return refuse("write it as slice:prefix:name, or as a path with a slash");
    };
    if name.is_empty() {
        return refuse("name the unit after the second colon");
    }
    let slice = if slice.is_empty() {
        "system.slice"
    } else {
        slice
    };
    if name.ends_with(".slice") {
        return refuse(
            "let the name not end in .slice: a slice cannot be delegated to a container",
        );
    }
    let unit = if prefix.is_empty() {
        format!("{name}.scope")
    } else {
        format!("{prefix}-{name}.scope")
    };
    let Some(stem) = slice.strip_suffix(".slice") else {
        return refuse("let the part before the first colon end in .slice");
    };
    let mut path = String::new();
    let scope = Scope {
        unit: unit.clone(),
        slice: slice.into(),
    };
    if stem == "-" {
        return Ok((unit, scope));
    }
    let mut parent = String::new();
    for part in stem.split('-') {
        if part.is_empty() {
            return refuse("name the slice as systemd does: no dash at an end, no two in a row");
        }
        parent.push_str(part);
        path.push_str(&format!("{parent}.slice/"));
        parent.push('-');
    }
    Ok((path + &unit, scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(given: &str) -> Result<(String, Option<Scope>)> {
        plan_cgroup_path(Some(Path::new(given)), "k8s.io", "c1")
    }

    #[test]
    fn paths_and_units_have_their_directories() {
        for (given, expected) in [
            ("/default/busybox", "default/busybox"),
            ("a//b/./c", "a/b/c"),
            ("", "k8s.io/c1"),
            ("system.slice:docker:abc", "system.slice/docker-abc.scope"),
            (":docker:abc", "system.slice/docker-abc.scope"),
            ("-.slice:docker:abc", "docker-abc.scope"),
            ("user.slice::abc", "user.slice/abc.scope"),
            (
                "kubepods-besteffort-pod1_2.slice:cri-containerd:abc",
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/cri-containerd-abc.scope",
            ),
            // The path form of a name with colons.
            ("/a:b:c", "a:b:c"),
        ] {
            assert_eq!(plan(given).unwrap().0, expected, "{given}");
        }
        let none = plan_cgroup_path(None, "moby", "id").unwrap();
        assert_eq!(none, ("moby/id".into(), None));
    }

    #[test]
    fn systemds_form_alone_names_a_scope() {
        for (given, expected) in [
            ("/default/busybox", None),
            ("/a:b:c", None),
            (":docker:abc", Some(("docker-abc.scope", "system.slice"))),
            ("-.slice:docker:abc", Some(("docker-abc.scope", "-.slice"))),
            (
                "kubepods-besteffort.slice:cri-containerd:abc",
                Some(("cri-containerd-abc.scope", "kubepods-besteffort.slice")),
            ),
        ] {
            let expected = expected.map(|(unit, slice)| Scope {
                unit: unit.into(),
                slice: slice.into(),
            });
            assert_eq!(plan(given).unwrap().1, expected, "{given}");
        }
    }

    #[test]
    fn what_names_no_cgroup_is_refused() {
        for given in [
            "/",
            "/a/../b",
            "a:b",
            "a:b:c:d",
            "a:b:c",
            "a--b.slice:x:y",
            "-a.slice:x:y",
            "a.slice:x:",
            "a.slice:x:b.slice",
            "/a\nb",
        ] {
            let text = plan(given).unwrap_err().to_string();
            assert!(text.starts_with("linux.cgroupsPath: "), "{given}: {text}");
        }
    }
}
