# What a node needs before etcd, the API server and the kubelet start in it; run once.
export HOME=/root

# An address that is not loopback, which the kubelet insists on.
ip link add uplink0 type bridge
ip addr add 192.0.2.1/24 dev uplink0
ip link set uplink0 up
ip route add default dev uplink0

mkdir -p /etc/kubernetes/tunables /root/.kube
# On a disk: the file system of the node's root cannot be ID-mapped.
mkdir -p /var/lib/kubelet /var/lib/containerd/kubelet
mount --bind /var/lib/containerd/kubelet /var/lib/kubelet
cd /etc/kubernetes
openssl genrsa -out service-accounts.key 2048 2>/dev/null
cat >tokens.csv <<EOF
admin-token,admin,admin,"system:masters"
kubelet-token,system:node:$(hostname),kubelet,"system:nodes"
EOF
for who in admin kubelet; do
    cat >$who.conf <<EOF
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority: /etc/kubernetes/pki/apiserver.crt}}]
users: [{name: u, user: {token: $who-token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
EOF
done
cp admin.conf /root/.kube/config

# The kubelet's cgroups of pods need the controllers cpu and memory on cgroup v2, which a host of the tests may not have;
# nor may its root lower a score of the OOM killer. The disk's fill level is the host's affair.
cat >kubelet.yaml <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [192.0.2.1]
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
oomScoreAdj: 0
protectKernelDefaults: true
evictionHard: {memory.available: "0%", nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
EOF

# The kubelet wants these sysctls so, and they are the whole machine's: it is shown them instead of setting them.
for tunable in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    mkdir -p "tunables/$(dirname "${tunable%=*}")"
    echo "${tunable#*=}" >"tunables/${tunable%=*}"
done
cat >kubelet.sh <<'EOF'
#!/bin/sh -e
# In a mount namespace of its own, whose other mounts are the node's: a procfs that is partly covered could not be mounted
# anew in a user namespace (mount_too_revealing), and containerd has to see the kubelet's volumes.
if [ "$1" != inside ]; then exec unshare --mount --propagation unchanged "$0" inside; fi
mount --make-private /proc
cd /etc/kubernetes/tunables
find . -type f | while read -r file; do mount --bind "$file" "/proc/sys/$file"; done
cd /
echo $$ >/run/kubelet.pid
exec kubelet --config /etc/kubernetes/kubelet.yaml --kubeconfig /etc/kubernetes/kubelet.conf \
    --node-ip 192.0.2.1 --v 2
EOF
chmod +x kubelet.sh
