//! The pod's network: ours to have, the engine's to make and to take away.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::bed::{ANY, ANY_AND_OLDEST, Bed, Case, OURS, same};

pub(crate) const CASES: &[Case] = &[
    Case::new("in_and_out", ANY_AND_OLDEST, in_and_out),
    Case::new("host_port_and_port_forward", ANY_AND_OLDEST, ports),
    Case::new("sysctls", ANY, sysctls),
    Case::new("root_has_power_over_the_network", OURS, power),
];

const SERVER: &str = "mkdir /www; echo served >/www/index.html; exec httpd -f -p 8080 -h /www";

/// A shell function of the node: what a server says.
const GET: &str = "get() { bash -c \"exec 3<>/dev/tcp/$1/$2; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3\" | grep served; }";

fn in_and_out(bed: &Bed<'_>) -> Result<()> {
    let (one, two) = (bed.pod(json!({}))?, bed.pod(json!({}))?);
    one.run(json!({"command": ["/bin/sh", "-c", SERVER]}))?;
    let address = one.address()?;
    let client = two.sleeper()?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    // As a kubelet's probe, from another pod, and both families.
    bed.node
        .shell(&format!("{GET}; get {address} 8080"))?
        .ok()?;
    same(
        &client.shell(&format!("wget -qO- http://{address}:8080/"))?,
        "served",
    )?;
    client.shell("ip route | grep default; ip -6 route | grep default; ip -6 addr show eth0 | grep fd00:88; nc -w 3 10.88.0.1 1 2>&1 | grep -i refused")?;
    one.remove()?;
    two.remove()
}

fn ports(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(
        json!({"port_mappings": [{"protocol": 0, "container_port": 8080, "host_port": 18080}]}),
    )?;
    let server = pod.run(json!({"command": ["/bin/sh", "-c", SERVER]}))?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    bed.node
        .shell(&format!(
            "{GET}; get $(ip -4 -o addr show cni0 | tr -s ' /' ' ' | cut -d ' ' -f 4) 18080"
        ))?
        .ok()?;
    bed.node
        .shell(&format!(
            "{GET}; crictl port-forward {} 18081:8080 >/dev/null 2>&1 & p=$!; for i in $(seq 50); do get 127.0.0.1 18081 && break; sleep 0.1; done; \
             get 127.0.0.1 18081; kill $p",
            pod.id
        ))?
        .ok()?;
    drop(server);
    pod.remove()?;
    // CNI DEL has found what it had made.
    let left = bed.node.shell("iptables-save 2>/dev/null | grep -c 18080 || true; nft list ruleset 2>/dev/null | grep -c 18080 || true")?.ok()?;
    ensure!(
        left.stdout.lines().all(|count| count == "0"),
        "{}",
        left.stdout
    );
    Ok(())
}

fn sysctls(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({"linux": {"sysctls": {"net.core.somaxconn": "777", "net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1"}}}))?;
    let read = "cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced";
    same(&pod.sleeper()?.shell(read)?, "777\n1\n1")?;
    pod.remove()
}

fn power(bed: &Bed<'_>) -> Result<()> {
    let pod = bed.pod(json!({}))?;
    pod.sleeper()?.shell(
        "ip link add br0 type bridge; ip link set br0 up; ip addr add 10.9.9.9/24 dev br0; ip link add v0 type veth peer name v1; \
         echo 1 >/proc/sys/net/ipv4/conf/all/forwarding; ip route add 10.10.0.0/16 via 10.9.9.1",
    )?;
    // Port 80 without a word in the pod's specification.
    pod.sleeper()?
        .shell("httpd -p 80; wget -qO- http://127.0.0.1/etc/passwd | grep root")?;
    pod.remove()
}
