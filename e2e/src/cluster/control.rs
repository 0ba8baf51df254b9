//! The control plane: certificates, etcd, API server, controller manager, scheduler.

use std::fs;

use testkit::apiserver::{kubeconfig_text, write_pair};
use testkit::certs::{self, Authority, Request};

use super::{Cluster, NodeProcess};

/// Makes the authority, all certificates and the kubeconfig files.
pub(super) fn write_certificates(cluster: &Cluster) -> anyhow::Result<()> {
    let dir = cluster.pki_dir();
    fs::create_dir_all(&dir)?;
    let authority = Authority::new(&format!("ca-{}", cluster.name))?;
    fs::write(dir.join("ca.crt"), authority.cert())?;
    write_pair(&dir, "sa", &certs::bare_key()?)?;
    let node_ip = cluster.node_ip();
    let hosts = [
        "kubernetes.default.svc",
        "kubernetes",
        "kubernetes.default",
        "127.0.0.1",
        &node_ip,
        &cluster.api_service_ip(),
    ];
    write_pair(&dir, "api", &authority.server(&hosts)?)?;
    let node = authority.issue(&Request {
        name: format!("system:node:{}", cluster.node_name()),
        groups: vec!["system:nodes".to_owned()],
        hosts: vec![cluster.node_name(), node_ip.clone()],
        ..Request::default()
    })?;
    write_pair(&dir, "node", &node)?;
    write_pair(&dir, "api-to-kubelet", &authority.client("api-to-kubelet", &["system:masters"])?)?;
    let server = format!("https://{node_ip}:6443");
    let users: [(&str, &str, &[&str]); 4] = [
        ("admin", "admin", &["system:masters"]),
        ("controllers", "system:kube-controller-manager", &[]),
        ("scheduler", "system:kube-scheduler", &[]),
        ("proxy", "system:kube-proxy", &[]),
    ];
    for (file, user, groups) in users {
        let text = kubeconfig_text(&server, authority.cert(), &authority.client(user, groups)?);
        fs::write(cluster.run_dir().join(format!("{file}.kubeconfig")), text)?;
    }
    fs::write(cluster.run_dir().join("node.kubeconfig"), kubeconfig_text(&server, authority.cert(), &node))?;
    Ok(())
}

pub(super) fn etcd(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    Ok(NodeProcess::new(cluster, "etcd")?
        .arg(format!("--data-dir={}", cluster.data_dir().join("etcd").display()))
        .arg("--listen-client-urls=http://127.0.0.1:2379")
        .arg("--advertise-client-urls=http://127.0.0.1:2379")
        .arg("--listen-peer-urls=http://127.0.0.1:2380")
        // Nobody's data: a crash of the machine may lose it.
        .arg("--unsafe-no-fsync"))
}

pub(super) fn api_server(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    let pki = |name: &str| cluster.pki_dir().join(name).display().to_string();
    let policy = cluster.run_dir().join("audit-policy.yaml");
    fs::write(&policy, AUDIT_POLICY)?;
    Ok(NodeProcess::new(cluster, "kube-apiserver")?
        .arg("--etcd-servers=http://127.0.0.1:2379")
        .arg("--bind-address=0.0.0.0")
        .arg(format!("--advertise-address={}", cluster.node_ip()))
        .arg("--secure-port=6443")
        .arg(format!("--tls-cert-file={}", pki("api.crt")))
        .arg(format!("--tls-private-key-file={}", pki("api.key")))
        .arg(format!("--client-ca-file={}", pki("ca.crt")))
        .arg(format!("--service-account-key-file={}", pki("sa.crt")))
        .arg(format!("--service-account-signing-key-file={}", pki("sa.key")))
        .arg("--service-account-issuer=https://kubernetes.default.svc")
        .arg(format!("--service-cluster-ip-range={}", cluster.services_cidr()))
        .arg("--authorization-mode=Node,RBAC")
        .arg("--allow-privileged=true")
        .arg(format!("--kubelet-client-certificate={}", pki("api-to-kubelet.crt")))
        .arg(format!("--kubelet-client-key={}", pki("api-to-kubelet.key")))
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg(format!("--audit-policy-file={}", policy.display()))
        .arg(format!("--audit-log-path={}", cluster.log("audit").display()))
        .arg("--audit-log-maxsize=50")
        .arg("--audit-log-maxbackup=1"))
}

pub(super) fn controller_manager(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    let config = cluster.run_dir().join("controllers.kubeconfig").display().to_string();
    Ok(NodeProcess::new(cluster, "kube-controller-manager")?
        .arg(format!("--kubeconfig={config}"))
        .arg(format!("--authentication-kubeconfig={config}"))
        .arg(format!("--authorization-kubeconfig={config}"))
        .arg("--leader-elect=false")
        .arg(format!("--service-account-private-key-file={}", cluster.pki_dir().join("sa.key").display()))
        .arg(format!("--root-ca-file={}", cluster.pki_dir().join("ca.crt").display()))
        .arg(format!("--cluster-cidr={}", cluster.pods_cidr()))
        .arg("--allocate-node-cidrs=true")
        .arg("--use-service-account-credentials=true"))
}

pub(super) fn scheduler(cluster: &Cluster) -> anyhow::Result<NodeProcess> {
    let config = cluster.run_dir().join("scheduler.kubeconfig").display().to_string();
    Ok(NodeProcess::new(cluster, "kube-scheduler")?
        .arg(format!("--kubeconfig={config}"))
        .arg(format!("--authentication-kubeconfig={config}"))
        .arg(format!("--authorization-kubeconfig={config}"))
        .arg("--leader-elect=false"))
}

/// Who of ours asked for what, and was it allowed: nothing else.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
  {"level": "Metadata", "userGroups": ["system:serviceaccounts:panoptes-system", "system:serviceaccounts:monitoring"]},
  {"level": "None"}]}
"#;
