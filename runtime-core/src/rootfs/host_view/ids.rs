//! Ids as the host sees them in the view: those on disk, that is those inside the container. Shifted are owners, and the
//! ids in the two extended attributes that the kernel takes in terms of the writer's user namespace.

use rustix::io::Errno;

use crate::kernel::idmap::IdMap;

/// What an id without a place in the container is shown as (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65534;

/// File capabilities (capabilities(7)).
pub(super) const CAPABILITY: &str = "security.capability";
const CAP_REVISION_MASK: u32 = 0xff00_0000;
const CAP_REVISION_2: u32 = 0x0200_0000;
const CAP_REVISION_3: u32 = 0x0300_0000;
/// Length of the attribute in version 2; version 3 has the root's user id behind it.
const CAP_V2_LENGTH: usize = 20;

/// Access control lists (acl(5)), in the kernel's posix_acl_xattr.h form.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

/// The container's mapping.
#[derive(Debug)]
pub(super) struct Ids(pub(super) IdMap);

impl Ids {
    /// Owner as shown.
    pub(super) fn shown(&self, uid: u32, gid: u32) -> (u32, u32) {
        (
            self.0.container_uid(uid).unwrap_or(NOBODY),
            self.0.container_gid(gid).unwrap_or(NOBODY),
        )
    }

    /// Host id of a user to be set as owner.
    pub(super) fn uid(&self, shown: u32) -> Result<u32, Errno> {
        self.0.host_uid(shown).ok_or(Errno::INVAL)
    }

    /// Host id of a group to be set as owner.
    pub(super) fn gid(&self, shown: u32) -> Result<u32, Errno> {
        self.0.host_gid(shown).ok_or(Errno::INVAL)
    }

    /// Value of extended attribute `name` as it must be set.
    pub(super) fn value_to_host(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, Errno> {
        if name == CAPABILITY {
            return self.capability_to_host(value);
        }
        if ACLS.contains(&name) {
            return acl(value, |tag, id| match tag {
                ACL_USER => self.0.host_uid(id),
                _ => self.0.host_gid(id),
            });
        }
        Ok(value.to_vec())
    }

    /// Value of extended attribute `name` as it is shown.
    pub(super) fn value_shown(&self, name: &str, value: Vec<u8>) -> Result<Vec<u8>, Errno> {
        if name == CAPABILITY {
            return Ok(self.capability_shown(value));
        }
        if ACLS.contains(&name) {
            return acl(&value, |tag, id| match tag {
                ACL_USER => self.0.container_uid(id),
                _ => self.0.container_gid(id),
            });
        }
        Ok(value)
    }

    /// Version 2 means the root of the writer's namespace: version 3 says which root is meant.
    fn capability_to_host(&self, value: &[u8]) -> Result<Vec<u8>, Errno> {
        let (magic, rest) = split_u32(value).ok_or(Errno::INVAL)?;
        let root = match (magic & CAP_REVISION_MASK, value.get(CAP_V2_LENGTH..)) {
            (CAP_REVISION_2, Some([])) => 0,
            (CAP_REVISION_3, Some(root)) => split_u32(root).ok_or(Errno::INVAL)?.0,
            _ => return Err(Errno::INVAL),
        };
        let mut host = (magic & !CAP_REVISION_MASK | CAP_REVISION_3)
            .to_le_bytes()
            .to_vec();
        host.extend(rest.iter().take(CAP_V2_LENGTH - size_of::<u32>()));
        host.extend(self.uid(root)?.to_le_bytes());
        Ok(host)
    }

    /// The other way round, where the root meant is the container's.
    fn capability_shown(&self, value: Vec<u8>) -> Vec<u8> {
        let of_root = value
            .get(CAP_V2_LENGTH..)
            .and_then(split_u32)
            .is_some_and(|(root, _)| self.0.container_uid(root) == Some(0));
        match split_u32(&value) {
            Some((magic, rest)) if of_root && magic & CAP_REVISION_MASK == CAP_REVISION_3 => {
                let mut shown = (magic & !CAP_REVISION_MASK | CAP_REVISION_2)
                    .to_le_bytes()
                    .to_vec();
                shown.extend(rest.iter().take(CAP_V2_LENGTH - size_of::<u32>()));
                shown
            }
            _ => value,
        }
    }
}

/// A list with every user and group mapped.
fn acl(value: &[u8], map: impl Fn(u16, u32) -> Option<u32>) -> Result<Vec<u8>, Errno> {
    let (header, entries) = value.split_at_checked(ACL_HEADER).ok_or(Errno::INVAL)?;
    if entries.len() % ACL_ENTRY != 0 {
        return Err(Errno::INVAL);
    }
    let mut mapped = header.to_vec();
    for entry in entries.chunks_exact(ACL_ENTRY) {
        let [t0, t1, p0, p1, i0, i1, i2, i3] = *entry else {
            return Err(Errno::INVAL);
        };
        let (tag, id) = (
            u16::from_le_bytes([t0, t1]),
            u32::from_le_bytes([i0, i1, i2, i3]),
        );
        let id = match tag {
            ACL_USER | ACL_GROUP => map(tag, id).ok_or(Errno::INVAL)?,
            _ => id,
        };
        mapped.extend([t0, t1, p0, p1]);
        mapped.extend(id.to_le_bytes());
    }
    Ok(mapped)
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*first), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Ids {
        Ids(IdMap::single(1_000_000, 65536))
    }

    fn v2() -> Vec<u8> {
        let mut value = (CAP_REVISION_2 | 1).to_le_bytes().to_vec();
        value.extend([0, 4, 0, 0].repeat(4));
        value
    }

    #[test]
    fn owners_shift_and_strangers_are_nobody() {
        assert_eq!(ids().shown(1_000_000, 1_000_033), (0, 33));
        assert_eq!(ids().shown(0, 5), (NOBODY, NOBODY));
        assert_eq!(ids().uid(33), Ok(1_000_033));
        assert_eq!(ids().gid(65536), Err(Errno::INVAL));
    }

    #[test]
    fn file_capabilities_name_the_containers_root() {
        let host = ids().value_to_host(CAPABILITY, &v2()).unwrap();
        assert_eq!(host.len(), CAP_V2_LENGTH + 4);
        assert_eq!(split_u32(&host).unwrap().0, CAP_REVISION_3 | 1);
        assert_eq!(host[CAP_V2_LENGTH..], 1_000_000_u32.to_le_bytes());
        assert_eq!(ids().value_shown(CAPABILITY, host).unwrap(), v2());
        let mut foreign = v2();
        foreign[3] = 3;
        foreign.extend(7_u32.to_le_bytes());
        assert_eq!(
            ids().value_shown(CAPABILITY, foreign.clone()).unwrap(),
            foreign
        );
        assert_eq!(
            ids().value_to_host(CAPABILITY, &v2()[..19]),
            Err(Errno::INVAL)
        );
        assert_eq!(ids().value_to_host(CAPABILITY, &[]), Err(Errno::INVAL));
    }

    #[test]
    fn lists_shift_their_users_and_groups_only() {
        let entry = |tag: u16, id: u32| {
            let mut entry = tag.to_le_bytes().to_vec();
            entry.extend([6, 0]);
            entry.extend(id.to_le_bytes());
            entry
        };
        let list = |user, group| {
            let mut list = 2_u32.to_le_bytes().to_vec();
            list.extend(entry(0x01, u32::MAX));
            list.extend(entry(ACL_USER, user));
            list.extend(entry(ACL_GROUP, group));
            list
        };
        let (shown, host) = (list(33, 44), list(1_000_033, 1_000_044));
        assert_eq!(ids().value_to_host(ACLS[0], &shown), Ok(host.clone()));
        assert_eq!(ids().value_shown(ACLS[1], host), Ok(shown));
        assert_eq!(
            ids().value_to_host(ACLS[0], &list(70000, 0)),
            Err(Errno::INVAL)
        );
        assert_eq!(
            ids().value_to_host(ACLS[0], &[2, 0, 0, 0, 1]),
            Err(Errno::INVAL)
        );
        assert_eq!(ids().value_to_host("user.x", b"v"), Ok(b"v".to_vec()));
    }
}
