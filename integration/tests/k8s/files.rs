//! What the kubelet mounts, and whose it is.

use anyhow::Result;
use serde_json::json;

use crate::cluster::Cluster;
use crate::pod::{Kind, container, same};

const OBJECTS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: ci}
data: {key: value}
---
apiVersion: v1
kind: Secret
metadata: {name: password, namespace: ci}
stringData: {word: secret}
";

/// The same names, owners, modes and contents whatever the runtime: as the pod's specification has them.
pub(crate) fn volumes(cluster: &Cluster, kind: Kind) -> Result<()> {
    cluster.try_create(&["apply", "-f", "-"], OBJECTS)?.ok()?;
    let mounts = json!([
        {"name": "settings", "mountPath": "/settings"},
        {"name": "settings", "mountPath": "/one/key", "subPath": "key"},
        {"name": "password", "mountPath": "/password"},
        {"name": "about", "mountPath": "/about"},
        {"name": "all", "mountPath": "/all"},
        {"name": "disk", "mountPath": "/disk"},
        {"name": "memory", "mountPath": "/memory"},
    ]);
    let pod = cluster.pod(
        kind,
        json!({
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsUser": 1000, "runAsGroup": 1001, "fsGroup": 2000, "supplementalGroups": [3000]},
            "volumes": [
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "password", "secret": {"secretName": "password", "defaultMode": 0o400}},
                {"name": "about", "downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
                {"name": "all", "projected": {"sources": [
                    {"configMap": {"name": "settings"}}, {"secret": {"name": "password"}},
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}},
                ]}},
                {"name": "disk", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
            "containers": [
                container(json!({"volumeMounts": mounts})),
                container(json!({"name": "root", "volumeMounts": mounts, "securityContext": {"runAsUser": 0, "runAsGroup": 0}})),
            ],
        }),
    )?;
    pod.ready()?;
    let look = "id; cd /; stat -L -c '%n %u:%g %a' settings settings/key one/key password password/word about/namespace \
        all/key all/word all/token disk memory etc/hosts etc/hostname dev/termination-log \
        var/run/secrets/kubernetes.io/serviceaccount/token; cat settings/key one/key password/word about/namespace all/word; \
        echo; grep -c . all/token; touch disk/mine memory/mine; stat -c '%n %u:%g' disk/mine memory/mine; \
        df -k memory | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2; touch settings/new 2>&1 || true; hostname";
    let seen = pod.shell(look)?.replace(&pod.name, "POD");
    same(&seen, AS_USER)?;
    let root = pod.shell_in("root", "cd /; stat -c '%n %u:%g' disk/mine memory/mine; touch disk/roots; chown 0:7 disk/roots; stat -c '%n %u:%g' disk/roots; cat password/word; id -u")?;
    same(
        &root,
        "disk/mine 1000:2000\nmemory/mine 1000:2000\ndisk/roots 0:7\nsecret0",
    )?;
    pod.delete()
}

const AS_USER: &str = "uid=1000(user) gid=1001(extra) groups=1001(extra),2000,3000
settings 0:2000 2777
settings/key 0:2000 644
one/key 0:2000 644
password 0:2000 3777
password/word 0:2000 440
about/namespace 0:2000 644
all/key 0:2000 644
all/word 0:2000 644
all/token 0:2000 640
disk 0:2000 2777
memory 0:2000 3777
etc/hosts 0:0 644
etc/hostname 0:0 644
dev/termination-log 0:0 666
var/run/secrets/kubernetes.io/serviceaccount/token 0:2000 640
valuevaluesecretcisecret
1
disk/mine 1000:2000
memory/mine 1000:2000
1024
touch: settings/new: Read-only file system
POD";
