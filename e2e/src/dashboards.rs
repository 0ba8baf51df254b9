//! The queries of the tutorial's heaviest dashboard (Kubernetes Pod Metrics: 33 panels, 48 queries), with every
//! variable at "All", retold from its panels.

/// The 48 queries for one cluster.
pub(super) fn pod_queries(cluster: &str) -> Vec<String> {
    let pod = format!(r#"cluster="{cluster}",namespace=~".*",pod=~".*",container=~".*""#);
    let id = format!(r#"cluster="{cluster}",id!="/",kubernetes_io_hostname=~".*""#);
    let node = format!(r#"cluster="{cluster}",kubernetes_io_hostname=~".*""#);
    let cpu = |by: &str, s: &str| format!("sum by ({by}) (rate(container_cpu_usage_seconds_total{{{s}}}[1m]))");
    let irate = |by: &str| format!("sum by ({by}) (irate(container_cpu_usage_seconds_total{{{pod}}}[30s]))");
    let mem = |by: &str, s: &str| format!("sum by ({by}) (container_memory_working_set_bytes{{{s}}})");
    let count = |by: &str| format!("count by ({by}) (container_memory_usage_bytes{{{pod}}})");
    let net = |way: &str, s: &str| format!("rate(container_network_{way}_bytes_total{{{s}}}[1m])");
    let terminated =
        |reason: &str| format!(r#"sum(kube_pod_container_status_last_terminated_reason{{reason="{reason}",{pod}}})"#);
    let quota = format!("container_spec_cpu_quota{{{pod}}} / container_spec_cpu_period{{{pod}}}");
    let limit = format!("container_spec_memory_limit_bytes{{{pod}}}");
    let requests = format!("kube_pod_container_resource_requests_memory_bytes{{{pod}}}");
    let shares = format!("container_spec_cpu_shares{{{pod}}} / 1024");
    let by = "namespace, container";
    let mut q = vec![
        format!("increase(kube_pod_container_status_restarts_total{{{pod}}}[1h])"),
        format!("kube_pod_container_status_restarts_total{{{pod}}}"),
        format!("kube_pod_container_status_running{{{pod}}}"),
        terminated("Error"),
        terminated("OOMKilled"),
        terminated("ContainerCannotRun"),
        format!("kube_pod_container_status_last_terminated_reason{{{pod}}} > 0"),
        format!("kube_pod_container_status_waiting_reason{{{pod}}} > 0"),
        format!("sum(container_memory_working_set_bytes{{{pod}}}) / sum(machine_memory_bytes) * 100"),
        format!("sum(rate(container_cpu_usage_seconds_total{{{pod}}}[1m])) / sum(machine_cpu_cores{{{node}}}) * 100"),
        format!("sum(container_memory_working_set_bytes{{{pod}}})"),
        format!("sum(machine_memory_bytes{{{node}}})"),
        format!("sum(rate(container_cpu_usage_seconds_total{{{pod}}}[1m]))"),
        format!("sum(machine_cpu_cores{{{node}}})"),
        mem("container", &pod),
        format!("kubelet_volume_stats_used_bytes{{{pod}}} / (1024 * 1024 * 1024)"),
        format!("kubelet_volume_stats_used_bytes{{{pod}}} / kubelet_volume_stats_capacity_bytes{{{pod}}} * 100"),
        format!("kubelet_volume_stats_capacity_bytes{{{pod}}} / (1024 * 1024 * 1024)"),
        cpu("pod", &pod),
        cpu("id", &id),
        mem("pod", &pod),
        mem("id", &id),
        format!("{} / sum by ({by}) ({quota})", irate(by)),
        format!("{} / sum by (container) ({limit})", mem("container", &pod)),
    ];
    for (group, average) in [("id, pod", false), (by, true), (by, false)] {
        let per = |x: String| if average { format!("{x} / {}", count(group)) } else { x };
        q.push(per(irate(group)));
        q.push(per(format!("sum by ({group}) ({quota})")));
        q.push(per(format!("sum by ({group}) ({shares})")));
        q.push(per(mem(group, &pod)));
        q.push(per(format!("sum by ({group}) ({limit})")));
        q.push(per(format!("sum by ({group}) ({requests})")));
    }
    for (group, selector) in [("", &pod), ("by (pod)", &pod), ("by (id)", &id)] {
        q.push(format!("sum {group} ({})", net("receive", selector)));
        q.push(format!("-sum {group} ({})", net("transmit", selector)));
    }
    q
}
