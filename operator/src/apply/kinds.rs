//! The kinds of children: nothing else is ever made, and nothing else is ever deleted.

/// A kind of child.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Plural, as in URLs.
    pub plural: &'static str,
    /// It lives in a namespace.
    pub namespaced: bool,
    /// It has pods, which outlive it when it must be made again.
    pub workload: bool,
}

const fn kind(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { group, version: "v1", kind, plural, namespaced: true, workload: false }
}

/// All of them.
pub const KINDS: &[Kind] = &[
    kind("", "ServiceAccount", "serviceaccounts"),
    kind("", "Secret", "secrets"),
    kind("", "ConfigMap", "configmaps"),
    kind("", "Service", "services"),
    Kind { workload: true, ..kind("apps", "StatefulSet", "statefulsets") },
    Kind { workload: true, ..kind("apps", "Deployment", "deployments") },
    Kind { workload: true, ..kind("apps", "DaemonSet", "daemonsets") },
    kind("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
    Kind { namespaced: false, ..kind("rbac.authorization.k8s.io", "ClusterRoleBinding", "clusterrolebindings") },
];
