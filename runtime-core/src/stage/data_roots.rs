//! Data roots (design D7), stage side: bound from beside the upper directory, ID-mapped as it is.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, chownat, openat};

use super::inroot::{self, Target};
use super::root::Layers;
use super::unlocked::Unlocked;
use crate::error::{OsContext, Result, Warning};
use crate::kernel::features::Features;
use crate::kernel::fs;
use crate::plan::{Mount, Plan};
use crate::rootfs::Overlay;
use crate::rootfs::data_roots::{self, DataRoot, copy};
use crate::sys::mount::{Change, RDONLY, set_attr};

/// Longest daemon.json that is looked at; it is the image's.
const MAX_DAEMON_JSON: u64 = 64 * 1024;

/// A data root that is going to be.
struct Wanted {
    path: String,
    root: DataRoot,
}

/// Binds every data root. `tell` hears of all that is needed for the swap at stop, and for undoing, before the first is made.
/// Returns what an image did not get.
pub(super) fn mount(
    root: &OwnedFd,
    plan: &Plan,
    overlay: &Overlay,
    layers: &mut Layers<'_>,
    features: &Features,
    unlocked: &mut Unlocked,
    tell: impl FnOnce(Vec<DataRoot>) -> Result<()>,
) -> Result<Vec<Warning>> {
    let Some((upper, _)) = &overlay.upper else {
        return Ok(Vec::new());
    };
    let (all, mut warnings) = wanted(root, plan)?;
    tell(all.iter().map(|wanted| wanted.root.clone()).collect())?;
    if all.is_empty() {
        return Ok(warnings);
    }
    let snapshot = layers.open(upper.parent().unwrap_or(upper))?;
    // First: where nothing is beside the layer, nobody looks for what to undo in it.
    let beside = data_roots::prepare(&snapshot)?;
    for Wanted { path, root: data } in all {
        let mut dir = data_roots::prepare_one(&beside, &data.name)?;
        let target = inroot::target(root, &path, Target::Directory(0o711))?;
        if data.made.is_empty() {
            copy_up(&target, &path)?;
            if let Some((filled, texts)) = fill(&target, &beside, &data.name, &dir)? {
                dir = filled;
                warnings.extend(texts.into_iter().map(|text| Warning::new(&path, text)));
            }
        }
        let tree = fs::clone_fd(features, &dir, false, &path)?;
        if plan.base.readonly {
            let change = Change {
                set: RDONLY,
                ..Change::default()
            };
            set_attr(&tree, change).os("mount_setattr read-only", &path)?;
        }
        unlocked.attach_ground(tree, &target, &path)?;
    }
    Ok(warnings)
}

/// Which data roots there are going to be in an image that nobody has changed yet, and what it does not get.
fn wanted(root: &OwnedFd, plan: &Plan) -> Result<(Vec<Wanted>, Vec<Warning>)> {
    let (mut all, mut warnings): (Vec<Wanted>, Vec<Warning>) = Default::default();
    let mut paths = plan.data_roots.clone();
    paths.extend(docker_data_root(root).filter(|path| is_clean(path)));
    let mut places = Places::new(root)?;
    for path in paths {
        let made = places.missing(&path)?;
        if let Some(link) = made.last().filter(|first| is_there(root, first)) {
            let text = format!("/{link} is a link that leads nowhere: no data root there");
            warnings.push(Warning::new(&path, text));
            continue;
        }
        let inside = places.resolve(&path, made.len())?;
        if let Some(system) = system_directory(&inside) {
            let text = format!("leads into {system} of the image: no data root there");
            warnings.push(Warning::new(&path, text));
            continue;
        }
        // A link in the image may lead two of them to one place, to the root itself, or to a volume.
        let taken = |other: &str| {
            Path::new(&inside).starts_with(other) || Path::new(other).starts_with(&inside)
        };
        let in_volume = |m: &Mount| Path::new("/").join(&inside).starts_with(&m.destination);
        if inside.is_empty()
            || all.iter().any(|wanted| taken(&wanted.root.inside))
            || plan.mounts.iter().any(in_volume)
        {
            continue;
        }
        let name = data_roots::name(&inside);
        let root = DataRoot { inside, name, made };
        all.push(Wanted { path, root });
    }
    Ok((all, warnings))
}

/// Puts the image's content at the path into the new, empty data root, once. Beside it first: a crash must not leave half
/// of it to be taken for all. Returns what is the data root then, and what is not as the image has it.
fn fill(
    image: &OwnedFd,
    beside: &OwnedFd,
    name: &str,
    data: &OwnedFd,
) -> Result<Option<(OwnedFd, Vec<String>)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |dir: &OwnedFd| openat(dir, ".", flags, Mode::empty()).os("open data root", name);
    let (image, data) = (open(image)?, open(data)?);
    if data_roots::is_filled(&data)?
        || !data_roots::is_empty(&data)?
        || data_roots::is_empty(&image)?
    {
        return Ok(None);
    }
    let new = data_roots::to_fill(beside, name)?;
    let copied = copy::tree(&image, &new, true)?;
    let marks = data_roots::make_marks(&new)?;
    let marks = marks.map(|text| format!("marks of overlays that came with the image: {text}"));
    data_roots::filled(beside, name, &new)?;
    Ok(Some((new, copied.into_iter().chain(marks).collect())))
}

/// Makes the directory and its parents exist in the upper directory, so that the data can be
/// swapped in there: any change of attributes does.
fn copy_up(target: &OwnedFd, path: &str) -> Result<()> {
    let stat = rustix::fs::fstat(target).os("stat", path)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(target, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).os("chown", path)
}

/// Where directories of a root file system are that nobody changes meanwhile.
struct Places<'a> {
    root: &'a OwnedFd,
    base: String,
    /// Those that are there, by the path that was asked for.
    known: BTreeMap<String, String>,
}

impl Places<'_> {
    fn new(root: &OwnedFd) -> Result<Places<'_>> {
        Ok(Places {
            root,
            base: copy::path_of(root)?,
            known: BTreeMap::new(),
        })
    }

    /// Ancestors of `path` and itself that are not there yet, deepest first, relative to the root.
    fn missing(&mut self, path: &str) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for ancestor in Path::new(path).ancestors() {
            let Some(text) = ancestor.to_str().filter(|t| *t != "/") else {
                break;
            };
            if self.place(text)?.is_some() {
                break;
            }
            missing.push(text.trim_start_matches('/').to_string());
        }
        Ok(missing)
    }

    /// Where `path` leads, relative to the root: links are followed, its last `missing` components are not there yet.
    fn resolve(&mut self, path: &str, missing: usize) -> Result<String> {
        let path = Path::new(path);
        let there = path.ancestors().nth(missing).unwrap_or(path);
        let tail = path.strip_prefix(there).unwrap_or(Path::new(""));
        let base = self.base.clone();
        let place = self.place(&there.display().to_string())?;
        let inside = place.and_then(|place| Path::new(place).strip_prefix(&base).ok());
        // Component by component: joined to nothing a path would end in a slash.
        let inside: PathBuf = inside
            .unwrap_or(tail)
            .components()
            .chain(tail.components())
            .collect();
        Ok(inside.to_string_lossy().into_owned())
    }

    /// Where `path` leads on the host, `None` where nothing is there.
    fn place(&mut self, path: &str) -> Result<Option<&str>> {
        if !self.known.contains_key(path) {
            let Some(fd) = inroot::existing(self.root, path)? else {
                return Ok(None);
            };
            self.known.insert(path.into(), copy::path_of(fd)?);
        }
        Ok(self.known.get(path).map(String::as_str))
    }
}

/// Whether something is at `path` that leads nowhere, and so is not missing.
fn is_there(root: &OwnedFd, path: &str) -> bool {
    inroot::open(root, path, OFlags::PATH | OFlags::NOFOLLOW).is_ok()
}

/// `data-root` of the image's /etc/docker/daemon.json. The file is hostile: a wrong one is no error
/// here, dockerd itself will say what it thinks of it.
fn docker_data_root(root: &OwnedFd) -> Option<String> {
    let text = inroot::read_regular(root, "/etc/docker/daemon.json", MAX_DAEMON_JSON)?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let path = json.get("data-root")?.as_str()?;
    Some(path.to_string())
}

/// Whether the image's wish is a path that can be walked.
fn is_clean(path: &str) -> bool {
    let mut components = Path::new(path).components();
    Path::new(path).is_absolute()
        && components.all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
}

/// The directory of the image that no data root may lie in, if `inside` does: the system itself, whatever a link calls it.
fn system_directory(inside: &str) -> Option<&'static str> {
    let system = [
        "proc", "sys", "dev", "etc", "usr", "bin", "lib", "lib64", "sbin",
    ];
    let within = |dir: &&str| Path::new(inside).starts_with(dir);
    system.into_iter().find(within)
}
