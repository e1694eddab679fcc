//! Data roots (design D7), stage side: bound from beside the upper directory, ID-mapped as it is.

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, openat};

use super::inroot::{self, Target};
use super::root::Layers;
use crate::error::{OsContext, Result, Warning};
use crate::kernel::features::Features;
use crate::kernel::fs;
use crate::plan::Plan;
use crate::rootfs::Overlay;
use crate::rootfs::data_roots::{self, DataRoot, copy};

/// Longest daemon.json that is looked at; it is the image's.
const MAX_DAEMON_JSON: u64 = 64 * 1024;

/// Binds every data root; returns them for the swap at stop, and what an image did not get.
pub(super) fn mount(
    root: &OwnedFd,
    plan: &Plan,
    overlay: &Overlay,
    layers: &mut Layers<'_>,
    features: &Features,
) -> Result<(Vec<DataRoot>, Vec<Warning>)> {
    let Some((upper, _)) = &overlay.upper else {
        return Ok(Default::default());
    };
    let snapshot = layers.open(upper.parent().unwrap_or(upper))?;
    let mut wanted = plan.data_roots.clone();
    wanted.extend(docker_data_root(root).filter(|path| is_usable(path, plan)));
    let (mut mounted, mut warnings): (Vec<DataRoot>, Vec<Warning>) = Default::default();
    for path in wanted {
        let made = missing_directories(root, &path)?;
        let target = inroot::target(root, &path, Target::Directory(0o711))?;
        let inside = copy::path_of(&target)?;
        let base = copy::path_of(root)?;
        let inside = Path::new(&inside)
            .strip_prefix(&base)
            .ok()
            .and_then(Path::to_str)
            .unwrap_or("")
            .to_string();
        // A link in the image may lead two of them to one place, or to the root itself.
        if inside.is_empty()
            || mounted
                .iter()
                .any(|m| Path::new(&inside).starts_with(&m.inside) || m.inside.starts_with(&inside))
        {
            continue;
        }
        let name = data_roots::name(&inside);
        if made.is_empty() {
            copy_up(&target, &path)?;
            let texts = fill(&target, &snapshot, &name)?;
            warnings.extend(texts.into_iter().map(|text| Warning::new(&path, text)));
        }
        let data = data_roots::prepare(&snapshot, &name)?;
        let tree = fs::clone_fd(features, &data, false, &path)?;
        fs::attach(tree, &target, &path)?;
        mounted.push(DataRoot { inside, name, made });
    }
    Ok((mounted, warnings))
}

/// Puts the image's content at the path into the new, empty data root, once. Beside it first: a crash must not leave half
/// of it to be taken for all. Returns what is not as the image has it.
fn fill(image: &OwnedFd, snapshot: &OwnedFd, name: &str) -> Result<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |dir: &OwnedFd| openat(dir, ".", flags, Mode::empty()).os("open data root", name);
    let image = open(image)?;
    let data = open(&data_roots::prepare(snapshot, name)?)?;
    if data_roots::is_filled(&data)?
        || !data_roots::is_empty(&data)?
        || data_roots::is_empty(&image)?
    {
        return Ok(Vec::new());
    }
    let new = data_roots::to_fill(snapshot, name)?;
    let copied = copy::tree(&image, &new, true)?;
    let marks = data_roots::make_marks(&new)?;
    let marks = marks.map(|text| format!("marks of overlays that came with the image: {text}"));
    data_roots::filled(snapshot, name, &new)?;
    Ok(copied.into_iter().chain(marks).collect())
}

/// Makes the directory and its parents exist in the upper directory, so that the data can be
/// swapped in there: any change of attributes does.
fn copy_up(target: &OwnedFd, path: &str) -> Result<()> {
    let stat = rustix::fs::fstat(target).os("stat", path)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(target, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).os("chown", path)
}

/// Ancestors of `path` and itself that are not there yet, deepest first, relative to the root.
fn missing_directories(root: &OwnedFd, path: &str) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for ancestor in Path::new(path).ancestors() {
        let Some(text) = ancestor.to_str().filter(|t| *t != "/") else {
            break;
        };
        if inroot::existing(root, text)?.is_some() {
            break;
        }
        missing.push(text.trim_start_matches('/').to_string());
    }
    Ok(missing)
}

/// `data-root` of the image's /etc/docker/daemon.json. The file is hostile: a wrong one is no error
/// here, dockerd itself will say what it thinks of it.
fn docker_data_root(root: &OwnedFd) -> Option<String> {
    let text = inroot::read_regular(root, "/etc/docker/daemon.json", MAX_DAEMON_JSON)?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let path = json.get("data-root")?.as_str()?;
    Some(path.to_string())
}

/// Whether the image's wish is a path that a data root may lie on.
fn is_usable(path: &str, plan: &Plan) -> bool {
    let path = Path::new(path);
    let clean = path
        .components()
        .all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    let depth = path.components().count();
    let system = [
        "/proc", "/sys", "/dev", "/etc", "/usr", "/bin", "/lib", "/sbin",
    ];
    let within = |other: &str| path.starts_with(other);
    path.is_absolute()
        && clean
        && depth > 1
        && !system.into_iter().any(within)
        && !plan.data_roots.iter().any(|r| within(r))
        && !plan.mounts.iter().any(|m| within(&m.destination))
}
