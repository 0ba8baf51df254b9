//! node-exporter on every node. It looks at the host, which the levels `restricted` and `baseline` forbid; beyond that it
//! has no right at all.

use serde_json::json;

use crate::cluster::ValidCluster;

use super::profile::{self, Sized};
use super::{Object, meta, names, pod};

pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    if !cluster.node_exporter {
        return Vec::new();
    }
    let spec = &cluster.spec.node_exporter;
    let part = meta::NODE_EXPORTER;
    let name = names::node_exporter(&cluster.name);
    let args = [
        vec![
            format!("--web.listen-address=:{}", spec.port),
            "--path.rootfs=/host/root".to_owned(),
            "--path.procfs=/host/root/proc".to_owned(),
            "--path.sysfs=/host/root/sys".to_owned(),
        ],
        spec.extra_args.clone(),
    ]
    .concat();
    let mut probe = pod::probe("/", "metrics", 10, 3);
    probe["httpGet"]["port"] = json!("metrics");
    let container = json!({
        "name": "node-exporter",
        "image": cluster.images.node_exporter,
        "args": args,
        "ports": [{"name": "metrics", "containerPort": spec.port, "hostPort": spec.port, "protocol": "TCP"}],
        "readinessProbe": probe,
        "livenessProbe": probe,
        "resources": profile::resources(cluster.spec.profile, Sized::NodeExporter, spec.resources.as_ref()),
        // no mountPropagation: it needs a shared mount on the host, and without it only later mounts are missed
        "volumeMounts": [{"name": "root", "mountPath": "/host/root", "readOnly": true}],
    });
    let pod_spec = json!({
        "serviceAccountName": name,
        "hostNetwork": true,
        "hostPID": true,
        "containers": [container],
        "volumes": [{"name": "root", "hostPath": {"path": "/", "type": "Directory"}}],
        // every node, whatever its taints
        "tolerations": [{"operator": "Exists"}],
    });
    let template = pod::template(cluster, part, &[], "node-exporter", pod_spec, spec.pod_template.as_ref());
    vec![
        pod::service_account(cluster, part, &name),
        Object(json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": meta::metadata(cluster, part, &name),
            "spec": {
                "revisionHistoryLimit": 5,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}},
                "selector": {"matchLabels": meta::selector(cluster, part)},
                "template": template,
            },
        })),
    ]
}
