//! `linux.uidMappings`, `linux.gidMappings` and the same of a mount.

use oci_spec::runtime as oci;

use super::text;
use crate::error::{Error, Result};
use crate::kernel::idmap::{IdMap, IdMapping};

/// Lines that the kernel takes (UID_GID_MAP_MAX_EXTENTS, linux/user_namespace.h).
const MAX_LINES: usize = 340;

/// Fewest ids from 0 up that a system container needs: the last is 65534, nobody.
const MIN_IDS: u64 = 65535;

/// The mappings of the container's user namespace, `None` where the spec has none.
pub(super) fn of_userns(linux: &oci::Linux) -> Result<Option<IdMap>> {
    let map = pair(
        ["linux.uidMappings", "linux.gidMappings"],
        linux.uid_mappings().as_deref(),
        linux.gid_mappings().as_deref(),
    )?;
    if let Some(map) = &map {
        system_container("linux.uidMappings", &map.uids)?;
        system_container("linux.gidMappings", &map.gids)?;
    }
    Ok(map)
}

/// The mappings of one mount, `None` where it has none.
pub(super) fn of_mount(i: usize, mount: &oci::Mount) -> Result<Option<IdMap>> {
    pair(
        [
            &format!("mounts[{i}].uidMappings"),
            &format!("mounts[{i}].gidMappings"),
        ],
        mount.uid_mappings().as_deref(),
        mount.gid_mappings().as_deref(),
    )
}

/// Both kinds or none.
fn pair(
    fields: [&str; 2],
    uids: Option<&[oci::LinuxIdMapping]>,
    gids: Option<&[oci::LinuxIdMapping]>,
) -> Result<Option<IdMap>> {
    let (uids, gids) = (uids.unwrap_or_default(), gids.unwrap_or_default());
    match (uids.is_empty(), gids.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(IdMap {
            uids: lines(fields[0], uids)?,
            gids: lines(fields[1], gids)?,
        })),
        (uids_empty, _) => {
            let missing = if uids_empty { fields[0] } else { fields[1] };
            let present = if uids_empty { fields[1] } else { fields[0] };
            Err(Error::invalid(
                missing,
                "none",
                format!("give it as well: {present} is given"),
            ))
        }
    }
}

/// Lines that the kernel would take: not empty, inside 32 bits, not overlapping on either side.
fn lines(field: &str, given: &[oci::LinuxIdMapping]) -> Result<Vec<IdMapping>> {
    text::bounded(field, given, MAX_LINES)?;
    let mut out: Vec<IdMapping> = Vec::with_capacity(given.len());
    for (i, line) in given.iter().enumerate() {
        let line = IdMapping {
            container: line.container_id(),
            host: line.host_id(),
            size: line.size(),
        };
        if line.size == 0 {
            let remedy = "map at least one id";
            return Err(Error::invalid(format!("{field}[{i}].size"), 0, remedy));
        }
        // The last id, 2^32-1, is (uid_t)-1, "no change" (user_namespaces(7)).
        for (name, first) in [("containerID", line.container), ("hostID", line.host)] {
            if first.checked_add(line.size).is_none() {
                return Err(Error::invalid(
                    format!("{field}[{i}].{name}"),
                    format!("{first} with size {}", line.size),
                    "let the range end below 4294967295",
                ));
            }
        }
        for (j, other) in out.iter().enumerate() {
            let overlap = |a: u32, b: u32| a < b + other.size && b < a + line.size;
            let name = if overlap(line.container, other.container) {
                "containerID"
            } else if overlap(line.host, other.host) {
                "hostID"
            } else {
                continue;
            };
            return Err(Error::invalid(
                format!("{field}[{i}].{name}"),
                show(&line),
                format!("let it not overlap with line {j} ({})", show(other)),
            ));
        }
        out.push(line);
    }
    Ok(out)
}

/// What a system container needs of its mappings, beyond what the kernel needs.
fn system_container(field: &str, lines: &[IdMapping]) -> Result<()> {
    if let Some((i, line)) = lines.iter().enumerate().find(|(_, line)| line.host == 0) {
        return Err(Error::invalid(
            format!("{field}[{i}].hostID"),
            show(line),
            "map onto host ids above 0: the host's root must not be inside",
        ));
    }
    let mut sorted = lines.to_vec();
    sorted.sort_by_key(|line| line.container);
    let mut mapped = 0_u64;
    for line in &sorted {
        if u64::from(line.container) != mapped {
            break;
        }
        mapped += u64::from(line.size);
    }
    if mapped == 0 {
        return Err(Error::invalid(
            field,
            lines.iter().map(show).collect::<Vec<_>>().join(", "),
            "map containerID 0: a system container has a root user",
        ));
    }
    if mapped < MIN_IDS {
        return Err(Error::invalid(
            field,
            format!("{mapped} ids from 0 up"),
            format!("map at least {MIN_IDS} ids from 0 up: images use ids up to 65534 (nobody)"),
        ));
    }
    Ok(())
}

fn show(line: &IdMapping) -> String {
    format!("{}:{}:{}", line.container, line.host, line.size)
}
