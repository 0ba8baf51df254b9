//! The built-in scrape jobs: those of the tutorial, with what was wrong in them put right. Kubelets are asked directly
//! (no `nodes/proxy`), `instance` says which node or pod it is, pods that have ended are left out, and only chosen labels
//! become target labels, so that a roll-out does not double the series.

use serde_json::{Value, json};

use crate::api::ScrapeJob;
use crate::cluster::ValidCluster;

use super::configuration::has_job;

/// Names of the built-in jobs; additional ones can't take them.
pub(crate) const NAMES: &[&str] = &[
    "kubernetes-apiservers",
    "kubernetes-nodes-kubelet",
    "kubernetes-nodes-cadvisor",
    "node-exporter",
    "kube-state-metrics",
    "coredns",
    "panoptes",
    "kubernetes-pods",
    "kubernetes-service-endpoints",
];

const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// All jobs, in a fixed order, then the additional ones.
pub(super) fn render(cluster: &ValidCluster) -> Vec<Value> {
    let mut jobs = built_in(cluster);
    jobs.extend(cluster.additional_jobs.iter().map(|job| job.body.clone()));
    jobs
}

/// The jobs that are ours.
pub(super) fn built_in(cluster: &ValidCluster) -> Vec<Value> {
    let mut jobs = Vec::new();
    let mut add = |job: ScrapeJob, body: fn(&ValidCluster) -> Value| {
        if has_job(cluster, job) {
            jobs.push(body(cluster));
        }
    };
    add(ScrapeJob::Apiserver, apiserver);
    add(ScrapeJob::Kubelet, |cluster| kubelet(cluster, "kubernetes-nodes-kubelet", "/metrics"));
    add(ScrapeJob::Cadvisor, cadvisor);
    if cluster.node_exporter {
        add(ScrapeJob::NodeExporter, node_exporter);
    }
    if cluster.spec.kube_state_metrics.enabled {
        add(ScrapeJob::KubeStateMetrics, kube_state_metrics);
    }
    add(ScrapeJob::Coredns, coredns);
    add(ScrapeJob::Own, own_parts);
    if cluster.spec.scrape.annotations.enabled {
        add(ScrapeJob::Annotated, annotated_pods);
        add(ScrapeJob::Annotated, annotated_services);
    }
    jobs
}

/// A relabelling step: keep targets whose source labels, joined by `;`, match.
fn keep(sources: &[&str], regex: &str) -> Value {
    json!({"action": "keep", "source_labels": sources, "regex": regex})
}

fn drop(sources: &[&str], regex: &str) -> Value {
    json!({"action": "drop", "source_labels": sources, "regex": regex})
}

fn copy(source: &str, target: &str) -> Value {
    json!({"action": "replace", "source_labels": [source], "target_label": target})
}

fn replace(sources: &[&str], regex: &str, replacement: &str, target: &str) -> Value {
    json!({
        "action": "replace", "source_labels": sources, "regex": regex,
        "replacement": replacement, "target_label": target,
    })
}

fn apiserver(_: &ValidCluster) -> Value {
    json!({
        "job_name": "kubernetes-apiservers",
        "scheme": "https",
        "kubernetes_sd_configs": [{"role": "endpointslice", "namespaces": {"names": ["default"]}}],
        "authorization": {"credentials_file": format!("{ACCOUNT}/token")},
        "tls_config": {"ca_file": format!("{ACCOUNT}/ca.crt"), "server_name": "kubernetes.default.svc"},
        "relabel_configs": [
            keep(&["__meta_kubernetes_service_name", "__meta_kubernetes_endpointslice_port_name"], "kubernetes;https"),
        ],
        // Histograms of every verb and resource: half of an API server's series, read by no rule or dashboard of ours.
        "metric_relabel_configs": [drop(
            &["__name__"],
            "(apiserver_request_(duration|sli_duration|body_size)|apiserver_response_sizes|apiserver_watch_events_sizes\
             |apiserver_watch_(list_duration|cache_read_wait)|apiserver_admission_(controller_admission|step_admission|webhook_admission)_duration\
             |etcd_request_duration|workqueue_(queue|work)_duration)(_seconds|_bytes)?_bucket",
        )],
    })
}

/// Asks the kubelet itself, which checks the account's right `nodes/metrics`.
fn kubelet(cluster: &ValidCluster, name: &str, path: &str) -> Value {
    let tls = if cluster.spec.scrape.verify_kubelets {
        json!({"ca_file": format!("{ACCOUNT}/ca.crt")})
    } else {
        // Most installers leave kubelets with certificates that they signed themselves.
        json!({"insecure_skip_verify": true})
    };
    json!({
        "job_name": name,
        "scheme": "https",
        "metrics_path": path,
        "kubernetes_sd_configs": [{"role": "node"}],
        "authorization": {"credentials_file": format!("{ACCOUNT}/token")},
        "tls_config": tls,
        "relabel_configs": [
            copy("__meta_kubernetes_node_name", "instance"),
            copy("__meta_kubernetes_node_name", "node"),
            copy("__meta_kubernetes_node_label_kubernetes_io_hostname", "kubernetes_io_hostname"),
        ],
    })
}

fn cadvisor(cluster: &ValidCluster) -> Value {
    let mut job = kubelet(cluster, "kubernetes-nodes-cadvisor", "/metrics/cadvisor");
    // cAdvisor stamps samples with the time of its own sampling; a container that is gone still ends at once.
    job["track_timestamps_staleness"] = json!(true);
    job["metric_relabel_configs"] = json!([
        replace(&["id"], "^/system\\.slice/(.+)\\.service$", "${1}", "systemd_service_name"),
        // one per CPU thread and per failure type, read by nothing
        drop(&["__name__"], "container_(tasks_state|memory_failures_total|blkio_device_usage_total)"),
    ]);
    job
}

/// Pods of this object's part, and the port to ask.
fn own_pods(cluster: &ValidCluster, component: &str, port: &str) -> (Value, Vec<Value>) {
    (
        json!([{"role": "pod", "namespaces": {"own_namespace": true}}]),
        vec![
            keep(
                &[
                    "__meta_kubernetes_pod_label_app_kubernetes_io_part_of",
                    "__meta_kubernetes_pod_label_app_kubernetes_io_instance",
                    "__meta_kubernetes_pod_label_app_kubernetes_io_component",
                    "__meta_kubernetes_pod_container_port_name",
                ],
                &format!("panoptes;{};({component});({port})", cluster.name),
            ),
            drop(&["__meta_kubernetes_pod_phase"], "Succeeded|Failed"),
        ],
    )
}

fn node_exporter(cluster: &ValidCluster) -> Value {
    let (sd, mut relabel) = own_pods(cluster, "node-exporter", "metrics");
    relabel.extend([
        copy("__meta_kubernetes_pod_node_name", "instance"),
        copy("__meta_kubernetes_pod_node_name", "node"),
        copy("__meta_kubernetes_pod_node_name", "kubernetes_io_hostname"),
    ]);
    json!({"job_name": "node-exporter", "kubernetes_sd_configs": sd, "relabel_configs": relabel})
}

fn kube_state_metrics(cluster: &ValidCluster) -> Value {
    let (sd, mut relabel) = own_pods(cluster, "kube-state-metrics", "http");
    // Series are about objects: they must not change their name when the pod is replaced.
    relabel.push(replace(&[], "(.*)", "kube-state-metrics", "instance"));
    json!({
        "job_name": "kube-state-metrics",
        // its namespace, pod and container labels are the object's, not the target's
        "honor_labels": true,
        "kubernetes_sd_configs": sd,
        "relabel_configs": relabel,
    })
}

fn coredns(_: &ValidCluster) -> Value {
    json!({
        "job_name": "coredns",
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": ["kube-system"]}}],
        "relabel_configs": [
            keep(
                &["__meta_kubernetes_pod_label_k8s_app", "__meta_kubernetes_pod_container_port_name"],
                "kube-dns;metrics",
            ),
            drop(&["__meta_kubernetes_pod_phase"], "Succeeded|Failed"),
            copy("__meta_kubernetes_pod_name", "instance"),
            copy("__meta_kubernetes_pod_node_name", "node"),
        ],
    })
}

/// Prometheus, sidecar, store gateway, compactor and querier: each its own job, named after the container.
fn own_parts(cluster: &ValidCluster) -> Value {
    let (sd, mut relabel) = own_pods(cluster, "prometheus|query|store|compact|remote-.+", "web|http");
    relabel.extend([
        copy("__meta_kubernetes_pod_container_name", "job"),
        copy("__meta_kubernetes_pod_name", "instance"),
        copy("__meta_kubernetes_namespace", "namespace"),
        copy("__meta_kubernetes_pod_name", "pod"),
        copy("__meta_kubernetes_pod_container_name", "container"),
    ]);
    json!({"job_name": "panoptes", "kubernetes_sd_configs": sd, "relabel_configs": relabel})
}

/// Steps that pods and Services have in common: keep, scheme, path. `object` is `pod` or `service`.
fn annotated(cluster: &ValidCluster, object: &str) -> (String, Vec<Value>) {
    let prefix: String = cluster
        .spec
        .scrape
        .annotations
        .prefix
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let label = format!("__meta_kubernetes_{object}_annotation_{prefix}");
    let steps = vec![
        keep(&[&format!("{label}_scrape")], "true"),
        drop(&["__meta_kubernetes_pod_phase"], "Succeeded|Failed"),
        drop(&["__meta_kubernetes_pod_container_init"], "true"),
        replace(&[&format!("{label}_scheme")], "(https?)", "${1}", "__scheme__"),
        replace(&[&format!("{label}_path")], "(.+)", "${1}", "__metrics_path__"),
    ];
    (label, steps)
}

fn annotated_pods(cluster: &ValidCluster) -> Value {
    let (label, mut relabel) = annotated(cluster, "pod");
    let port = format!("{label}_port");
    relabel.extend([
        replace(&[&port, "__meta_kubernetes_pod_ip"], "([0-9]+);([0-9.]+)", "${2}:${1}", "__address__"),
        replace(&[&port, "__meta_kubernetes_pod_ip"], "([0-9]+);(.*:.*)", "[${2}]:${1}", "__address__"),
        copy("__meta_kubernetes_namespace", "namespace"),
        copy("__meta_kubernetes_pod_name", "pod"),
        copy("__meta_kubernetes_pod_node_name", "node"),
        copy("__meta_kubernetes_pod_label_app", "app"),
        replace(&["__meta_kubernetes_pod_label_app_kubernetes_io_name"], "(.+)", "${1}", "app"),
    ]);
    json!({
        "job_name": "kubernetes-pods",
        "kubernetes_sd_configs": [{"role": "pod"}],
        "relabel_configs": relabel,
    })
}

fn annotated_services(cluster: &ValidCluster) -> Value {
    let (label, mut relabel) = annotated(cluster, "service");
    let port = format!("{label}_port");
    relabel.extend([
        replace(&["__address__", &port], "([^:]+)(?::[0-9]+)?;([0-9]+)", "${1}:${2}", "__address__"),
        replace(&["__address__", &port], "(\\[.+\\])(?::[0-9]+)?;([0-9]+)", "${1}:${2}", "__address__"),
        copy("__meta_kubernetes_namespace", "namespace"),
        copy("__meta_kubernetes_service_name", "service"),
        copy("__meta_kubernetes_pod_name", "pod"),
        copy("__meta_kubernetes_pod_node_name", "node"),
        copy("__meta_kubernetes_service_label_app", "app"),
        replace(&["__meta_kubernetes_service_label_app_kubernetes_io_name"], "(.+)", "${1}", "app"),
    ]);
    json!({
        "job_name": "kubernetes-service-endpoints",
        "kubernetes_sd_configs": [{"role": "endpointslice"}],
        "relabel_configs": relabel,
    })
}
