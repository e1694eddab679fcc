# A pod as the kubelet with its systemd driver asks for one: a slice of the pod's, scopes in it, limits changed while it runs.
crictl() { command crictl --timeout 40s "$@"; }
export -f crictl
systemd-run --quiet --slice=kubepods-besteffort-podu1.slice --unit=keeper sleep 1000
for handler in runc sysbox; do
cat >pod.json <<E
{"metadata": {"name": "p", "namespace": "default", "uid": "u1", "attempt": 0}, "hostname": "p", "log_directory": "$PWD",
 "linux": {"cgroup_parent": "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podu1.slice", "security_context": {"namespace_options": {"pid": 1}}}}
E
# runc takes no limit whose controller is not there.
limit=67108864
[ $handler = sysbox ] || limit=0
cat >container.json <<E
{"metadata": {"name": "c"}, "image": {"image": "localhost/busybox:latest"}, "command": ["sleep", "1000"], "log_path": "c.log",
 "linux": {"resources": {"memory_limit_in_bytes": $limit}}}
E
pod=$(crictl runp --runtime $handler pod.json)
c=$(crictl create $pod container.json pod.json)
crictl start $c >/dev/null
slice=/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podu1.slice
u=cri-containerd-$c.scope p=cri-containerd-$pod.scope
export pod c u p slice
t "$handler: scopes in the pod's slice" bash -ec 'for one in $u $p; do same "$(value $one ControlGroup)" $slice/$one; same "$(value $one Delegate)" yes; done'
[ $handler = runc ] || t "$handler: the limit" bash -ec 'same $(value $u MemoryMax) 67108864'
[ $handler = runc ] || t "$handler: changed in place" bash -ec 'crictl update --memory 134217728 $c; same $(value $u MemoryMax) 134217728
    systemctl set-property --runtime kubepods-besteffort-podu1.slice MemoryMax=1G; systemctl daemon-reload; same $(value $u MemoryMax) 134217728'
t "$handler: exec" crictl exec $c true
crictl rmp -f $pod >/dev/null
t "$handler: nothing is left but the slice" bash -ec 'gone $u; gone $p; same $(value kubepods-besteffort-podu1.slice ActiveState) active'
done
