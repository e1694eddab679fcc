//! User and group id mappings of a user namespace (user_namespaces(7)).

use serde::{Deserialize, Serialize};

/// One line of `/proc/PID/uid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMapping {
    /// First id inside.
    pub container: u32,
    /// First id in the parent (the host's initial) namespace.
    pub host: u32,
    /// Number of ids.
    pub size: u32,
}

/// Mappings of a user namespace, both kinds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMap {
    /// User ids.
    pub uids: Vec<IdMapping>,
    /// Group ids.
    pub gids: Vec<IdMapping>,
}

impl IdMap {
    /// The same `size` ids from 0 inside onto `host` outside, for users and groups.
    pub(crate) fn single(host: u32, size: u32) -> Self {
        let line = vec![IdMapping {
            container: 0,
            host,
            size,
        }];
        IdMap {
            uids: line.clone(),
            gids: line,
        }
    }

    /// Host id of user `uid` inside, if mapped.
    pub(crate) fn host_uid(&self, uid: u32) -> Option<u32> {
        to_host(&self.uids, uid)
    }

    /// Host id of group `gid` inside, if mapped.
    pub(crate) fn host_gid(&self, gid: u32) -> Option<u32> {
        to_host(&self.gids, gid)
    }

    /// User inside whose host id `uid` is, if one has it.
    pub(crate) fn container_uid(&self, uid: u32) -> Option<u32> {
        to_container(&self.uids, uid)
    }
}

fn to_container(lines: &[IdMapping], id: u32) -> Option<u32> {
    lines.iter().find_map(|m| {
        let offset = id.checked_sub(m.host)?;
        (offset < m.size)
            .then(|| m.container.checked_add(offset))
            .flatten()
    })
}

fn to_host(lines: &[IdMapping], id: u32) -> Option<u32> {
    lines.iter().find_map(|m| {
        let offset = id.checked_sub(m.container)?;
        (offset < m.size)
            .then(|| m.host.checked_add(offset))
            .flatten()
    })
}

/// The lines as the kernel takes them in `uid_map` and `gid_map`.
pub(crate) fn format(lines: &[IdMapping]) -> String {
    lines
        .iter()
        .map(|m| format!("{} {} {}\n", m.container, m.host, m.size))
        .collect()
}

/// Parses the kernel's `uid_map` text.
pub(crate) fn parse(text: &str) -> Option<Vec<IdMapping>> {
    text.lines()
        .map(|line| {
            let mut words = line.split_ascii_whitespace().map(|w| w.parse::<u32>().ok());
            let mapping = IdMapping {
                container: words.next()??,
                host: words.next()??,
                size: words.next()??,
            };
            words.next().is_none().then_some(mapping)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_map_to_the_host_and_no_further() {
        let map = IdMap::single(1_000_000, 65536);
        assert_eq!(map.host_uid(0), Some(1_000_000));
        assert_eq!(map.host_gid(65535), Some(1_065_535));
        assert_eq!(map.host_uid(65536), None);
        assert_eq!(map.container_uid(1_000_033), Some(33));
        assert_eq!(map.container_uid(1_065_536), None);
        assert_eq!(map.container_uid(999_999), None);
    }

    #[test]
    fn kernel_text_round_trips() {
        let lines = parse("         0    1000000      65536\n").unwrap();
        assert_eq!(format(&lines), "0 1000000 65536\n");
        assert!(parse("0 1").is_none());
        assert!(parse("0 1 2 3").is_none());
    }
}
