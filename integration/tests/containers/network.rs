//! A network namespace that the host made for the container: its content moves to one that root inside has power over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use integration::image::Image;

use crate::bed::{Bed, Case, Container, OURS};

pub(crate) const CASES: &[Case] = &[
    Case::new("moved_network", OURS, moved),
    Case::new("moved_network_refused", OURS, refused),
    Case::new("packet_filter_is_not_lost", OURS, filter),
];

const DEADLINE: Duration = Duration::from_secs(5);

/// What a CNI plugin may leave: a veth of its own index and MTU, addresses with labels, routes of every shape, a rule, a
/// neighbour, sysctls.
const MAKE: &str = "\
ip link add br9 type bridge; ip addr add 10.77.0.1/16 dev br9; ip link set br9 up
ip netns add pod
ip link add hostside type veth peer name eth0 netns pod index 77
ip link set hostside master br9 up
n() { ip netns exec pod \"$@\"; }
n ip link set eth0 address 0a:58:0a:58:00:02 mtu 1450 txqueuelen 500 alias said up
n ip addr add 10.77.0.2/16 brd + dev eth0
n ip addr add 10.99.0.5/24 dev eth0 label eth0:1
n ip -6 addr add fd00:77::2/64 dev eth0 nodad
n ip addr add 10.66.6.6/32 dev lo
n ip link set lo up
n ip route add default via 10.77.0.1 dev eth0 mtu 1400
n ip route add 169.254.1.1 dev eth0 scope link
n ip route add 10.201.0.0/16 via 172.30.0.9 dev eth0 onlink
n ip route add 10.200.0.0/16 via 10.77.0.9 dev eth0 metric 7
n ip route add 192.0.2.0/24 dev eth0 table 77 proto static
n ip route add blackhole 198.51.100.0/24
n ip -6 route add default via fd00:77::1 dev eth0
n ip rule add not from 10.99.0.0/24 table 77 prio 1000
n ip neigh add 10.77.0.9 lladdr 0a:58:0a:58:00:09 dev eth0 nud permanent
n sysctl -qw net.ipv4.conf.eth0.rp_filter=2 net.ipv4.conf.eth0.arp_notify=1 net.ipv6.conf.eth0.accept_ra=0 \
  net.core.somaxconn=333 net.ipv4.ip_forward=1 net.ipv4.ip_unprivileged_port_start=7 net.ipv4.neigh.eth0.gc_stale_time=99
while n ip -6 addr | grep tentative; do sleep 0.1; done
";

/// The state that must be the same before and after, without what depends on the moment.
const SHOW: &str = "\
ip -d -o link show eth0 | sed 's/ state [A-Z]*//; s/qdisc [a-z]*//'
ip -o addr | sed 's/ tentative//; s/ nodad//; s/proto kernel_[a-z]*//' | tr -s ' ' | sort
ip -4 route show table all | grep -v '^multicast' | sort
ip -6 route show table all | grep -v -e '^multicast' -e '^anycast' -e '^::1 dev lo' -e ' expires ' | sort
ip rule; ip -6 rule; ip neigh show nud permanent
sysctl -a 2>/dev/null | grep -e '^net.ipv4.conf' -e '^net.ipv6.conf' -e '^net.ipv4.neigh' -e '^net.core.somaxconn' -e ip_forward -e unprivileged_port |
  grep -v -e stable_secret -e '\\.mtu'
";

fn unmake(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell("ip netns del pod; ip link del hostside 2>/dev/null || true; ip link del br9; umount /run/netns; rmdir /run/netns")?
        .ok()?;
    Ok(())
}

fn start<'a>(bed: &'a Bed<'a>) -> Result<Container<'a>> {
    bed.detached(
        &["--with-ns", "network:/run/netns/pod"],
        Image::Busybox,
        &["/probe", "sleep"],
    )
}

fn state(bed: &Bed<'_>) -> Result<String> {
    let show = format!(
        "ip netns exec pod sh -c \"{}\"",
        SHOW.replace('\n', ";").replace("|;", "|")
    );
    Ok(bed.node.shell(&show)?.ok()?.stdout)
}

fn moved(bed: &Bed<'_>) -> Result<()> {
    bed.node.shell(MAKE)?.ok()?;
    let index = "cat /sys/class/net/hostside/iflink";
    let peer = bed.node.shell(index)?.ok()?.stdout;
    let before = state(bed)?;
    ensure!(
        before.contains("10.99.0.5") && before.contains("somaxconn"),
        "{before}"
    );
    let container = start(bed)?;
    let begin = Instant::now();
    let mut after = state(bed)?;
    // The carrier comes a moment after the interface.
    while after != before && begin.elapsed() < DEADLINE {
        after = state(bed)?;
    }
    if before != after {
        let only = |a: &str, b: &str| {
            let lines = a
                .lines()
                .filter(|line| !b.lines().any(|other| other == *line));
            lines.map(|line| format!("\n  {line}")).collect::<String>()
        };
        anyhow::bail!(
            "lost:{}\nnew:{}",
            only(&before, &after),
            only(&after, &before)
        );
    }
    ensure!(
        bed.node.shell(index)?.ok()?.stdout == peer,
        "the peer's index"
    );
    // The way in and out, through the bridge.
    bed.node
        .shell(
            "ip route get 10.77.0.2; timeout 5 bash -c '</dev/tcp/10.77.0.2/1' 2>&1 | grep refused",
        )?
        .ok()?;
    container.shell("nc -w 5 10.77.0.1 1 2>&1 | grep refused")?;
    // What root inside has now.
    container.shell("ip link add br1 type bridge; ip link del br1; echo 1 >/proc/sys/net/ipv4/conf/all/forwarding; ip addr add 10.5.5.5/32 dev lo")?;
    // The second container of such a network is in the same namespaces, and nothing moves again.
    let same = bed.node.shell(&format!(
        "stat -Lc %i /run/netns/pod /proc/{}/ns/net | uniq | wc -l",
        container.pid()?
    ))?;
    ensure!(
        same.ok()?.text() == "1",
        "the path leads to another namespace"
    );
    container.remove()?;
    // As CNI DEL does.
    bed.node
        .shell("ip netns exec pod ip link del eth0; ! ip link show hostside 2>/dev/null")?
        .ok()?;
    unmake(bed)
}

fn refused(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell(&format!("{MAKE}\nmkdir -p /etc/containerd-shim-sysbox; printf '[network]\\nhost-owned = \"refuse\"\\n' >/etc/containerd-shim-sysbox/config.toml"))?
        .ok()?;
    let before = state(bed)?;
    let refused = bed.run(&["--with-ns", "network:/run/netns/pod"], &["true"])?;
    for part in [
        "network path",
        "/run/netns/pod",
        "hostUsers: false",
        "host-owned = \"move\"",
    ] {
        let said = refused.stderr.replace('\\', "");
        ensure!(refused.code != 0 && said.contains(part), "{refused:?}");
    }
    ensure!(state(bed)? == before, "something moved");
    bed.node.shell("rm -r /etc/containerd-shim-sysbox")?.ok()?;
    unmake(bed)
}

/// Rules of a mesh's plugin in the pod's namespace cannot be moved: an error, and the network stays whole.
fn filter(bed: &Bed<'_>) -> Result<()> {
    bed.node
        .shell(&format!(
            "{MAKE}\nn iptables-nft -A INPUT -p tcp --dport 81 -j ACCEPT"
        ))?
        .ok()?;
    let before = state(bed)?;
    let refused = bed.run(&["--with-ns", "network:/run/netns/pod"], &["true"])?;
    ensure!(
        refused.code != 0
            && refused.stderr.contains("nftables rules")
            && refused.stderr.contains("hostUsers: false"),
        "{refused:?}"
    );
    ensure!(state(bed)? == before, "something moved");
    unmake(bed)
}
