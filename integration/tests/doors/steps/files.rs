//! Files that come from outside or go there: their owners are the same on both sides.

use anyhow::{Result, ensure};
use integration::image::Image;

use super::inner;
use crate::door::{Bed, Container, Run, Verb};

/// Owners of what a container makes and finds in a volume, seen from inside and from the node.
pub(crate) fn volumes(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell(
            "mkdir /srv/volume; cd /srv/volume; echo a >root; echo b >user; chown 1000:1001 user",
        )?
        .ok()?;
    let sharing = Run {
        words: &["/probe", "sleep"],
        volume: Some(("/srv/volume", "/volume")),
        ..Run::default()
    };
    let (first, second) = (bed.detach(&sharing)?, bed.detach(&sharing)?);
    let owners = "cd /volume; stat -c %u:%g root user";
    let seen = first.shell(owners)?;
    ensure!(seen == "0:0\n1000:1001", "inside {seen}");
    first.shell("cd /volume; echo c >made; chown 2000:2001 made; chmod 4755 made")?;
    let seen = second.shell("cd /volume; stat -c %u:%g:%a made; cat made; echo d >>made")?;
    ensure!(seen == "2000:2001:4755\nc", "in the second {seen}");
    let maps = [&first, &second].map(|one| one.shell("cat /proc/self/uid_map"));
    let [one, two] = maps;
    ensure!(one? != two?, "both have one range");
    let seen = bed
        .node
        .shell("cd /srv/volume; stat -c %u:%g made; cat made; rm -r /srv/volume/*")?
        .ok()?;
    ensure!(
        seen.stdout == "2000:2001\nc\nd\n",
        "outside {}",
        seen.stdout
    );
    first.remove()?;
    second.remove()?;
    bed.node.shell("rmdir /srv/volume")?.ok().map(drop)
}

pub(crate) fn copy_running(bed: &Bed<'_>) -> Result<()> {
    let container = to_copy(bed)?;
    copied(bed, &container)?;
    let seen = container.shell(COPIED)?;
    ensure!(seen == "in\nleaf\n0:0\n1000:1001", "{seen}");
    container.remove()
}

pub(crate) fn copy_stopped(bed: &Bed<'_>) -> Result<()> {
    let container = to_copy(bed)?;
    container.does(Verb::Stop)?;
    copied(bed, &container)?;
    container.does(Verb::Start)?;
    let seen = container.shell(COPIED)?;
    ensure!(seen == "in\nleaf\n0:0\n1000:1001", "{seen}");
    container.remove()
}

/// What was copied in, and the owner of what was there.
const COPIED: &str = "cd /root/copied; cat in tree/leaf; stat -c %u:%g in ../out";

/// A tree to copy in, and a container with a file to copy out.
fn to_copy<'b>(bed: &'b Bed<'b>) -> Result<Container<'b>> {
    bed.node
        .shell("mkdir -p /srv/copy/tree; cd /srv/copy; echo in >in; echo leaf >tree/leaf")?
        .ok()?;
    let container = bed.detach(&Run {
        words: &["/probe", "sleep"],
        ..Run::default()
    })?;
    container.shell("echo out >/root/out; chown 1000:1001 /root/out")?;
    Ok(container)
}

fn copied(bed: &Bed<'_>, container: &Container<'_>) -> Result<()> {
    container.does(Verb::CopyIn("/srv/copy", "/root/copied"))?;
    container.does(Verb::CopyOut("/root/out", "/srv/copy/out"))?;
    let seen = bed.node.shell("cat /srv/copy/out; rm -r /srv/copy")?.ok()?;
    ensure!(seen.stdout == "out\n", "{}", seen.stdout);
    Ok(())
}

/// An image made of a container has its files with their owners, and what the Docker inside has; what layers of inner
/// images delete stays deleted.
pub(crate) fn commit(bed: &Bed<'_>) -> Result<()> {
    const MADE: &str = "localhost/made:latest";
    let container = inner::dind(bed)?;
    container.shell(
        "docker import /root/bb.tar bb; echo text >/root/user; chown 1000:1001 /root/user",
    )?;
    container.shell(
        "printf 'FROM bb\nRUN mkdir /dir && touch /gone /dir/old\nRUN rm -r /gone /dir && mkdir /dir && touch /dir/new\n' \
         | docker build -q -t less -",
    )?;
    container.does(Verb::Stop)?;
    container.does(Verb::Commit(MADE))?;
    container.remove()?;
    let again = bed.detach(&Run {
        image: Some(Image::Dind),
        named: Some(MADE),
        ..Run::default()
    })?;
    inner::answers(&again)?;
    let seen =
        again.shell("cat /root/user; stat -c %u:%g /root/user; docker run --rm bb echo kept")?;
    ensure!(seen == "text\n1000:1001\nkept", "{seen}");
    let seen = again.shell("docker run --rm less find /gone /dir 2>/dev/null || true")?;
    ensure!(
        seen == "/dir\n/dir/new",
        "of inner layers that delete: {seen}"
    );
    again.does(Verb::Stop)?;
    let id = again.id.clone();
    again.remove()?;
    let gone = bed.command(&id, Verb::RemoveImage(MADE))?;
    let mut gone = gone;
    integration::process::run(&mut gone, b"", integration::node::DEADLINE)?
        .ok()
        .map(drop)
}
