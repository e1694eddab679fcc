//! Moves what a network namespace of the host's has into one that the pod's user namespace owns (design D9).
//!
//! CRI makes a pod's network namespace in the host's user namespace unless the pod says `hostUsers: false`, and root inside
//! would have no power over it. Whom a namespace belongs to never changes, so its content moves: interfaces with their
//! index, name, address and peer, which the kernel keeps; then what it drops, in the order in which it takes it: sysctls,
//! up, addresses, neighbours, routes, rules.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use nix::sched::{CloneFlags, setns};
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::error::{Error, OsContext, Result, StageFailure, Warning};
use crate::kernel::netlink::{Body, Socket};
use crate::kernel::reap::reap_blocking;
use crate::stage::Step;
use crate::stage::proto::{Channel, unexpected};
use crate::sys::clone::{Side, SingleThreaded, clone3, exit};

/// What a fault in the move is to be told with.
const FIELD: &str = "linux.namespaces network path";
/// Offset of `ifi_index`, `ifa_index` and `ndm_ifindex` in their structures.
const INDEX: usize = 4;
/// `IFLA_NEW_IFINDEX` of linux/if_link.h (Linux 4.16).
const IFLA_NEW_IFINDEX: u16 = 49;
/// `FRA_PRIORITY` of linux/fib_rules.h, and those of the three rules that every namespace has.
const FRA_PRIORITY: u16 = 6;
const OWN_RULES: [u32; 3] = [0, 32766, 32767];
/// `FIB_RULE_INVERT`: the only flag of a rule that is not the kernel's own.
const FIB_RULE_INVERT: u32 = 2;
/// `NFTA_TABLE_NAME` of linux/netfilter/nf_tables.h.
const NFTA_TABLE_NAME: u16 = 1;
/// `RTNH_F_ONLINK` of linux/rtnetlink.h, the same.
const RTNH_F_ONLINK: u32 = 4;

#[derive(Serialize, Deserialize)]
enum Reply {
    Moved(Vec<Warning>),
    Failed(StageFailure),
}

/// The process that moves, beside the stage: the kernel waits for grace periods of RCU at each interface.
#[derive(Debug)]
pub(super) struct Mover {
    channel: Channel,
    pidfd: OwnedFd,
}

impl Mover {
    /// Starts to move what `from` has to `to`.
    pub(super) fn spawn(
        proof: &SingleThreaded,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
    ) -> Result<Mover> {
        let (ours, theirs) = Channel::pair()?;
        match clone3(proof, 0, None, false).os("clone3", "mover of the network")? {
            Side::Child => {
                drop(ours);
                let reply = match adopt(from, to) {
                    Ok(warnings) => Reply::Moved(warnings),
                    Err(error) => Reply::Failed(StageFailure {
                        step: Step::NetworkMoved.to_string(),
                        chain: error.chain(),
                        errno: error.errno(),
                    }),
                };
                exit(i32::from(theirs.send(&reply).is_err()))
            }
            Side::Parent(pid) => {
                drop(theirs);
                let pid = rustix::process::Pid::from_raw(pid.as_raw())
                    .ok_or_else(|| unexpected("pid 0"))?;
                let pidfd = pidfd_open(pid, PidfdFlags::empty())
                    .os("pidfd_open", "mover of the network")?;
                Ok(Mover {
                    channel: ours,
                    pidfd,
                })
            }
        }
    }

    /// Waits for it; returns what could not be moved.
    pub(super) fn finish(self) -> Result<Vec<Warning>> {
        let reply = self.channel.recv::<Reply>();
        reap_blocking(&self.pidfd)?;
        match reply? {
            Some((Reply::Moved(warnings), _)) => Ok(warnings),
            Some((Reply::Failed(failure), _)) => Err(Error::Stage(failure)),
            None => Err(unexpected("the mover of the network died")),
        }
    }
}

fn adopt(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Vec<Warning>> {
    let enter = |ns| setns(ns, CloneFlags::CLONE_NEWNET).os("setns", "network namespace");
    enter(from)?;
    let mut old = Socket::route().os("open", "netlink socket")?;
    let mut warnings = Vec::new();
    refuse_filters(&mut warnings)?;
    let content = Content::read(&mut old)?;
    let wanted = sysctls();
    enter(to)?;
    let mut new = Socket::route().os("open", "netlink socket")?;
    // Loopback, and what modules put into every namespace.
    let own = names(&dump(&mut new, libc::RTM_GETLINK, &[0; 16], "interfaces")?);
    let links: Vec<_> = content
        .links
        .iter()
        .filter(|link| !own.contains(&name(link)))
        .collect();
    for (i, link) in links.iter().enumerate() {
        if let Err(source) = relocate(&mut old, link, to) {
            for link in &links[..i] {
                // So that the engine finds them where it made them; the error to report is the first.
                let _ = relocate(&mut new, link, from);
            }
            return Err(Error::Unsupported {
                feature: format!("{FIELD}: moving interface {} ({source})", name(link)),
                needs: "use `hostUsers: false`, for which the engine makes the network inside the pod's user namespace".into(),
            });
        }
    }
    write_sysctls(&wanted, &mut warnings);
    content.replay(&mut new)?;
    for (link, kind) in &content.qdiscs {
        warnings.push(Warning::new(
            FIELD,
            format!("queueing discipline {kind} of interface {link} was not moved"),
        ));
    }
    Ok(warnings)
}

/// What the kernel drops when an interface moves.
struct Content {
    links: Vec<Body>,
    addresses: Vec<Body>,
    neighbours: Vec<Body>,
    routes: Vec<Body>,
    rules: Vec<Body>,
    /// Interface and kind of those that somebody has set up.
    qdiscs: Vec<(String, String)>,
}

impl Content {
    fn read(old: &mut Socket) -> Result<Content> {
        let links = dump(old, libc::RTM_GETLINK, &[0; 16], "interfaces")?;
        let both = [libc::AF_INET, libc::AF_INET6].map(|family| family as u8);
        let (mut routes, mut rules) = (Vec::new(), Vec::new());
        for family in both {
            let mut fixed = [0; 12];
            fixed[0] = family;
            routes.extend(dump(old, libc::RTM_GETROUTE, &fixed, "routes")?);
            rules.extend(dump(old, libc::RTM_GETRULE, &fixed, "rules")?);
        }
        let qdiscs = dump(old, libc::RTM_GETQDISC, &[0; 20], "queueing disciplines")?;
        let qdiscs = qdiscs
            .iter()
            // The kernel's own have no handle.
            .filter(|qdisc| qdisc.word(8) != 0)
            .filter_map(|qdisc| {
                let link = links
                    .iter()
                    .find(|link| link.word(INDEX) == qdisc.word(4))?;
                Some((name(link), text(qdisc.attribute(libc::TCA_KIND)?)))
            })
            .collect();
        Ok(Content {
            addresses: dump(old, libc::RTM_GETADDR, &[0; 8], "addresses")?,
            neighbours: dump(old, libc::RTM_GETNEIGH, &[0; 12], "neighbours")?,
            links,
            routes,
            rules,
            qdiscs,
        })
    }

    fn replay(&self, new: &mut Socket) -> Result<()> {
        for link in &self.links {
            let mut fixed = vec![0; 16];
            fixed[INDEX..8].copy_from_slice(&link.fixed[INDEX..8]);
            let up = libc::IFF_UP as u32;
            let mut request = Body {
                fixed,
                attributes: Vec::new(),
            };
            // Loopback is up in every container.
            let is_up = link.word(8) & up != 0 || link.word(INDEX) == 1;
            request.set_word(8, if is_up { up } else { 0 });
            request.set_word(12, up);
            new.request(libc::RTM_NEWLINK, 0, &request)
                .os("set up", format!("interface {}", name(link)))?;
        }
        let set = NLM_F_CREATE | NLM_F_REPLACE;
        for address in self.addresses.iter().filter_map(address) {
            new.request(libc::RTM_NEWADDR, set, &address)
                .os("add to the pod's network", format!("address {address:?}"))?;
        }
        for neighbour in self.neighbours.iter().filter(|n| is_permanent(n)) {
            let neighbour = neighbour
                .clone()
                .without(&[libc::NDA_CACHEINFO, libc::NDA_PROBES]);
            new.request(libc::RTM_NEWNEIGH, set, &neighbour).os(
                "add to the pod's network",
                format!("neighbour {neighbour:?}"),
            )?;
        }
        let mut routes: Vec<_> = self.routes.iter().filter_map(route).collect();
        // A gateway must be reachable when its route comes.
        routes.sort_by_key(|route| {
            [libc::RTA_GATEWAY, libc::RTA_VIA, libc::RTA_MULTIPATH]
                .iter()
                .any(|kind| route.attribute(*kind).is_some())
        });
        for route in routes {
            new.request(libc::RTM_NEWROUTE, set, &route)
                .os("add to the pod's network", format!("route {route:?}"))?;
        }
        for rule in &self.rules {
            if OWN_RULES.contains(&rule.number(FRA_PRIORITY).unwrap_or(0)) {
                continue;
            }
            let mut rule = rule.clone();
            rule.set_word(8, rule.word(8) & FIB_RULE_INVERT);
            new.request(libc::RTM_NEWRULE, NLM_F_CREATE, &rule)
                .os("add to the pod's network", format!("rule {rule:?}"))?;
        }
        Ok(())
    }
}

/// An address as it is to be added: its host side has answered for it already, so nobody is asked again.
fn address(dumped: &Body) -> Option<Body> {
    // 127.0.0.1 and ::1 came with loopback.
    if dumped.fixed[3] == libc::RT_SCOPE_HOST && dumped.word(INDEX) == 1 {
        return None;
    }
    let flags = dumped.number(libc::IFA_FLAGS)?;
    let made_by_kernel = libc::IFA_F_SECONDARY | libc::IFA_F_PERMANENT | libc::IFA_F_DADFAILED;
    let mut flags = flags & !(made_by_kernel | libc::IFA_F_TENTATIVE);
    if dumped.fixed[0] == libc::AF_INET6 as u8 {
        flags |= libc::IFA_F_NODAD;
    }
    let mut address = dumped.clone().without(&[libc::IFA_FLAGS]);
    address.fixed[2] = 0;
    let flags = flags.to_ne_bytes().to_vec();
    address.attributes.push((libc::IFA_FLAGS, flags));
    Some(address)
}

/// A route as it is to be added; none for those that the kernel makes of addresses (linux/rtnetlink.h, struct rtmsg).
fn route(dumped: &Body) -> Option<Body> {
    let (protocol, kind) = (dumped.fixed[5], dumped.fixed[7]);
    let of_kernel = protocol == libc::RTPROT_KERNEL
        || [
            libc::RTN_LOCAL,
            libc::RTN_BROADCAST,
            libc::RTN_ANYCAST,
            libc::RTN_MULTICAST,
        ]
        .contains(&kind)
        || dumped.word(8) & libc::RTM_F_CLONED != 0;
    let mut route = dumped.clone().without(&[libc::RTA_CACHEINFO]);
    route.set_word(8, dumped.word(8) & RTNH_F_ONLINK);
    (!of_kernel).then_some(route)
}

fn is_permanent(neighbour: &Body) -> bool {
    let state = neighbour.fixed.get(8..10).and_then(|s| s.try_into().ok());
    // Those of loopback are the kernel's.
    state.is_some_and(|state| u16::from_ne_bytes(state) & libc::NUD_PERMANENT != 0)
        && neighbour.word(INDEX) != 1
}

/// Sends the interface `link` of `socket`'s namespace to `to`; it keeps its index there, by which its peer names it.
fn relocate(socket: &mut Socket, link: &Body, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut fixed = vec![0; 16];
    fixed[INDEX..8].copy_from_slice(&link.fixed[INDEX..8]);
    let request = Body {
        attributes: vec![
            (libc::IFLA_NET_NS_FD, to.as_raw_fd().to_ne_bytes().to_vec()),
            (IFLA_NEW_IFINDEX, link.fixed[INDEX..8].to_vec()),
        ],
        fixed,
    };
    socket.request(libc::RTM_NEWLINK, 0, &request)
}

fn dump(socket: &mut Socket, kind: u16, fixed: &[u8], what: &str) -> Result<Vec<Body>> {
    socket.dump(kind, fixed).os("list the pod's", what)
}

fn name(link: &Body) -> String {
    text(link.attribute(libc::IFLA_IFNAME).unwrap_or_default())
}

fn names(links: &[Body]) -> Vec<String> {
    links.iter().map(name).collect()
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Rules of a packet filter, which a mesh's CNI plugin may have put there, would be lost without anybody noticing.
fn refuse_filters(warnings: &mut Vec<Warning>) -> Result<()> {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8 | libc::NFT_MSG_GETTABLE) as u16;
    // A kernel without nftables has no rules of it.
    let tables = Socket::netfilter()
        .and_then(|mut socket| socket.dump(kind, &[0; 4]))
        .unwrap_or_default();
    if let Some(table) = tables.first() {
        let table = text(table.attribute(NFTA_TABLE_NAME).unwrap_or_default());
        return Err(Error::Unsupported {
            feature: format!("{FIELD}: nftables rules in the pod's network (table {table})"),
            needs: "rules cannot be moved: use `hostUsers: false`, for which the engine makes the network inside the pod's \
                    user namespace"
                .into(),
        });
    }
    for file in ["ip_tables_names", "ip6_tables_names"] {
        let tables = std::fs::read_to_string(Path::new("/proc/thread-self/net").join(file));
        if let Ok(tables) = tables
            && !tables.is_empty()
        {
            let tables = tables.split_whitespace().collect::<Vec<_>>().join(", ");
            let text =
                format!("rules of iptables-legacy, if there are any, were not moved ({tables})");
            warnings.push(Warning::new(FIELD, text));
        }
    }
    Ok(())
}

/// Older names of `base_reachable_time_ms` and `retrans_time_ms` (net/core/neighbour.c): the kernel's log complains of readers.
const DEPRECATED: [&str; 2] = ["base_reachable_time", "retrans_time"];

/// `/proc/sys/net` of this process's network namespace: what can be read and written.
fn sysctls() -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else {
                continue;
            };
            if meta.is_dir() {
                walk(&entry.path(), into);
            } else if meta.permissions().mode() & 0o600 == 0o600
                && !DEPRECATED.iter().any(|name| entry.file_name() == *name)
                && let Ok(value) = std::fs::read(entry.path())
            {
                into.insert(entry.path(), value);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(Path::new("/proc/sys/net"), &mut all);
    all
}

/// Makes the sysctls of this process's network namespace those of the other one.
fn write_sysctls(wanted: &BTreeMap<PathBuf, Vec<u8>>, warnings: &mut Vec<Warning>) {
    // Some set others (ip_forward, conf/all): the second time repairs those.
    for last in [false, true] {
        let have = sysctls();
        for (path, value) in wanted {
            if have.get(path).is_none_or(|now| now == value) {
                continue;
            }
            if let (Err(error), true) = (std::fs::write(path, value), last) {
                let text = format!("{} was not moved: {error}", path.display());
                warnings.push(Warning::new(FIELD, text));
            }
        }
    }
}
