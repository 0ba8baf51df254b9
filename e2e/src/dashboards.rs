//! The queries of the tutorial's four dashboards (cluster 33, deployments 19, nodes 40, pods 48), with every variable at "All",
//! retold from their panels.

/// All 140, of one cluster.
pub fn all(cluster: &str) -> Vec<String> {
    [cluster_queries(cluster), deployment_queries(cluster), node_queries(cluster), pod_queries(cluster)].concat()
}

const CPU: &str = "container_cpu_usage_seconds_total";
const MEMORY: &str = "container_memory_working_set_bytes";

/// Received, and sent as a curve below zero, summed in this way.
fn network(by: &str, selector: &str) -> [String; 2] {
    let rate = |way: &str| format!("sum {by} (rate(container_network_{way}_bytes_total{{{selector}}}[1m]))");
    [rate("receive"), format!("-{}", rate("transmit"))]
}

/// Kubernetes Cluster Monitoring: 21 panels, 33 queries.
fn cluster_queries(cluster: &str) -> Vec<String> {
    let node = format!(r#"cluster=~"^{cluster}$",kubernetes_io_hostname=~"^.*$""#);
    let root = format!(r#"{node},id="/""#);
    let disk = format!(r#"{root},device=~"^/dev/[sv]da[0-9]$""#);
    let cpu = |selector: &str| format!("sum(rate({CPU}{{{selector}}}[1m]))");
    let mut q = network("", &node).to_vec();
    q.extend([
        format!("sum({MEMORY}{{{root}}}) / sum(machine_memory_bytes{{{node}}}) * 100"),
        format!("{} / sum(machine_cpu_cores{{{node}}}) * 100", cpu(&root)),
        format!("sum(container_fs_usage_bytes{{{disk}}}) / sum(container_fs_limit_bytes{{{disk}}}) * 100"),
        format!("sum({MEMORY}{{{root}}})"),
        format!("sum(machine_memory_bytes{{{node}}})"),
        cpu(&root),
        format!("sum(machine_cpu_cores{{{node}}})"),
        format!("sum(container_fs_usage_bytes{{{disk}}})"),
        format!("sum(container_fs_limit_bytes{{{disk}}})"),
    ]);
    let pods = format!(r#"{node},image!="",name=~"^k8s_.*""#);
    let services = format!(r#"{node},systemd_service_name!="""#);
    let containers = [
        ("container, pod", format!(r#"{node},image!="",name=~"^k8s_.*",container!="POD""#)),
        ("kubernetes_io_hostname, name, image", format!(r#"{node},image!="",name!~"^k8s_.*""#)),
        ("kubernetes_io_hostname, rkt_container", format!(r#"{node},rkt_container!="""#)),
    ];
    let processes = format!(r#"{node},id!="/""#);
    let mut groups = vec![("pod", pods.clone()), ("systemd_service_name", services)];
    groups.extend(containers.clone());
    groups.push(("id", processes.clone()));
    q.extend(groups.iter().map(|(by, selector)| format!("sum by ({by}) (rate({CPU}{{{selector}}}[1m]))")));
    q.extend(groups.iter().map(|(by, selector)| format!("sum by ({by}) ({MEMORY}{{{selector}}})")));
    for (by, selector) in std::iter::once(&("pod", pods)).chain(&containers).chain([&("id", processes)]) {
        q.extend(network(&format!("by ({by})"), selector));
    }
    q
}

/// Kubernetes Deployment metrics: 17 panels, 19 queries.
fn deployment_queries(cluster: &str) -> Vec<String> {
    let of = format!(r#"cluster=~"^{cluster}$",namespace=~".*",pod=~"^.*$""#);
    let deployment = format!(r#"deployment=~".*",cluster=~"^{cluster}$""#);
    let node = format!(r#"cluster=~"^{cluster}$",kubernetes_io_hostname=~"^.*$""#);
    let cpu = |by: &str| format!("sum {by} (rate({CPU}{{{of}}}[1m]))");
    let memory = |by: &str| format!("sum {by} ({MEMORY}{{{of}}})");
    let available = format!("sum(kube_deployment_status_replicas_available{{{deployment}}})");
    let replicas = format!("sum(kube_deployment_status_replicas{{{deployment}}})");
    let mut q = vec![
        format!("{} / sum(machine_memory_bytes{{{node}}}) * 100", memory("")),
        format!("{} / sum(machine_cpu_cores{{{node}}}) * 100", cpu("")),
        format!("{available} / {replicas} * 100"),
        memory(""),
        format!("sum(machine_memory_bytes{{{node}}})"),
        cpu(""),
        format!("sum(machine_cpu_cores{{{node}}})"),
        available,
        replicas,
        format!("sum by (deployment) (kube_deployment_status_replicas{{{deployment}}})"),
        cpu("by (pod)"),
        cpu("by (container, pod)"),
        cpu("by (container, pod)"),
        memory("by (pod)"),
        memory("by (id)"),
    ];
    q.extend(network("by (pod)", &format!("{of},")));
    q.extend(network("by (id)", &of));
    q
}

/// Kubernetes Nodes: 15 panels, 40 queries; each falls back to the name that older exporters use.
fn node_queries(cluster: &str) -> Vec<String> {
    let of = format!(r#"cluster=~"^{cluster}$",instance=~".*""#);
    let either = |a: String, b: String| format!("{a} or {b}");
    let irate = |name: &str| format!("irate({name}{{{of}}}[5m])");
    let bytes = |name: &str| format!("node_memory_{name}_bytes{{{of}}}");
    let mut q = vec![either(
        format!(r#"count(node_cpu_seconds_total{{{of},mode="system"}})"#),
        format!(r#"count(node_cpu{{{of},mode="system"}})"#),
    )];
    for mode in ["system", "user", "nice", "iowait", "steal", "idle", "irq", "softirq", "guest"] {
        let cpu = |name: &str| format!(r#"sum by (mode) (irate({name}{{mode="{mode}",{of}}}[5m]))"#);
        q.push(either(cpu("node_cpu_seconds_total"), cpu("node_cpu")));
    }
    let used = ["MemTotal", "MemFree", "Buffers", "Cached", "SwapCached", "Slab", "PageTables", "VmallocUsed"];
    q.push(either(used.map(bytes).join(" - "), used.map(|name| format!("node_memory_{name}{{{of}}}")).join(" - ")));
    let swap = |suffix: &str| format!("node_memory_SwapTotal{suffix}{{{of}}} - node_memory_SwapFree{suffix}{{{of}}}");
    q.push(either(swap("_bytes"), swap("")));
    let kinds = ["Slab", "PageTables", "VmallocUsed", "SwapCached", "Cached", "Buffers", "MemFree"];
    for name in kinds.into_iter().chain(["Committed_AS", "Mapped", "Active", "Inactive"]) {
        q.push(either(bytes(name), format!("node_memory_{name}{{{of}}}")));
    }
    q.push(format!("node_load1{{{of}}}"));
    let free = |suffix: &str| {
        let of = format!(r#"{of},device!~"tmpfs",device!~"by-uuid""#);
        format!("100.0 - 100 * (node_filesystem_avail{suffix}{{{of}}} / node_filesystem_size{suffix}{{{of}}})")
    };
    q.push(either(free("_bytes"), free("")));
    let busy = format!("{} * 100", irate("node_disk_io_time_seconds_total"));
    q.push(either(busy, format!("{} / 10", irate("node_disk_io_time_ms"))));
    for name in ["node_disk_reads_completed", "node_disk_writes_completed"] {
        q.push(either(irate(&format!("{name}_total")), irate(name)));
    }
    for (name, old) in [("read_bytes", "sectors_read"), ("written_bytes", "sectors_written")] {
        q.push(either(
            irate(&format!("node_disk_{name}_total")),
            format!("{} * 512", irate(&format!("node_disk_{old}"))),
        ));
    }
    q.push(format!("node_disk_io_now{{{of}}}"));
    q.push(either(irate("node_context_switches_total"), irate("node_context_switches")));
    for way in ["receive", "transmit"] {
        let rate = |suffix: &str| format!(r#"irate(node_network_{way}_bytes{suffix}{{{of},device!="lo"}}[5m])*8"#);
        q.push(either(rate("_total"), rate("")));
    }
    q.push(format!("node_netstat_Tcp_CurrEstab{{{of}}}"));
    q.extend(["InDatagrams", "InErrors", "OutDatagrams", "NoPorts"].map(|n| irate(&format!("node_netstat_Udp_{n}"))));
    q.push(format!("node_nf_conntrack_entries_limit{{{of}}} - node_nf_conntrack_entries{{{of}}}"));
    q
}

/// Kubernetes Pod Metrics: 33 panels, 48 queries.
pub fn pod_queries(cluster: &str) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    #[test]
    fn as_many_as_the_dashboards_have() {
        let (cluster, deployments, nodes, pods) = (
            super::cluster_queries("x"),
            super::deployment_queries("x"),
            super::node_queries("x"),
            super::pod_queries("x"),
        );
        assert_eq!((cluster.len(), deployments.len(), nodes.len(), pods.len()), (33, 19, 40, 48));
        for query in super::all("x") {
            promql::parse::parse_expr(&query, &promql::parse::Options::default())
                .unwrap_or_else(|e| panic!("{query}: {e}"));
        }
    }
}
