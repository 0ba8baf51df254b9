//! The tutorial's dashboards and alerts: one expression of each family of panels, in our own words, must parse, be an
//! instant vector, and answer on data of the shape that cAdvisor, kube-state-metrics and node-exporter give.
//! Variables are written as Grafana fills them in.

use super::support::Lab;
use promql::exec::{Plan, Times};
use promql::parse::ValueType;

const MINUTES: i64 = 60;

/// Two clusters, each with two nodes, two pods and what is known of them, every 15 s for an hour.
fn fleet() -> Lab {
    let mut lab = Lab::new();
    let steps = 0..=(MINUTES * 4);
    for (c, cluster) in ["prod", "staging"].iter().enumerate() {
        for node in 0..2i64 {
            let host = format!(r#"cluster="{cluster}",kubernetes_io_hostname="node{node}",instance="node{node}""#);
            let mut gauge = |name: &str, more: &str, v: f64| {
                let series = format!("{name}{{{host}{more}}}");
                lab = std::mem::take(&mut lab).load(15, &series, steps.clone().map(|_| v));
            };
            gauge("machine_memory_bytes", "", 8e9);
            gauge("machine_cpu_cores", "", 4.0);
            gauge("node_load1", "", 0.5);
            gauge("node_memory_MemTotal_bytes", "", 8e9);
            gauge("node_memory_MemFree_bytes", "", 1e9);
            gauge("node_memory_Buffers_bytes", "", 1e8);
            gauge("node_memory_Cached_bytes", "", 2e9);
            gauge("node_memory_Slab_bytes", "", 1e8);
            gauge("node_filesystem_size_bytes", r#",device="/dev/sda1",mountpoint="/""#, 1e11);
            gauge("node_filesystem_avail_bytes", r#",device="/dev/sda1",mountpoint="/""#, 4e10);
            gauge("node_filesystem_size_bytes", r#",device="tmpfs",mountpoint="/run""#, 1e9);
            gauge("node_filesystem_avail_bytes", r#",device="tmpfs",mountpoint="/run""#, 1e9);
            gauge("node_nf_conntrack_entries_limit", "", 1000.0);
            gauge("node_nf_conntrack_entries", "", 10.0);
            gauge("container_fs_usage_bytes", r#",device="/dev/sda1",id="/""#, 6e10);
            gauge("container_fs_limit_bytes", r#",device="/dev/sda1",id="/""#, 1e11);
            gauge("up", r#",job="node""#, 1.0);
            let mut counter = |name: &str, more: &str, per_second: f64| {
                let series = format!("{name}{{{host}{more}}}");
                lab = std::mem::take(&mut lab).load(15, &series, steps.clone().map(|i| i as f64 * 15.0 * per_second));
            };
            for cpu in ["0", "1"] {
                counter("node_cpu_seconds_total", &format!(r#",cpu="{cpu}",mode="user""#), 0.25);
                counter("node_cpu_seconds_total", &format!(r#",cpu="{cpu}",mode="system""#), 0.5);
            }
            counter("node_disk_io_time_seconds_total", r#",device="sda""#, 0.5);
            counter("node_disk_reads_completed_total", r#",device="sda""#, 10.0);
            counter("node_disk_read_bytes_total", r#",device="sda""#, 4096.0);
            counter("node_context_switches_total", "", 1000.0);
            counter("node_network_receive_bytes_total", r#",device="eth0""#, 125.0);
            for pod in 0..2 {
                let pod = format!(
                    r#",namespace="default",pod="web-{node}-{pod}",container="app",id="/kubepods/{node}/{pod}",image="web",name="k8s_app""#
                );
                counter("container_cpu_usage_seconds_total", &pod, 0.5 + c as f64);
                counter("container_network_receive_bytes_total", &pod, 100.0);
                counter("container_network_transmit_bytes_total", &pod, 50.0);
                counter("kube_pod_container_status_restarts_total", &pod, 0.001);
            }
            let mut gauge = |name: &str, more: &str, v: f64| {
                let series = format!("{name}{{{host}{more}}}");
                lab = std::mem::take(&mut lab).load(15, &series, steps.clone().map(|_| v));
            };
            for pod in 0..2 {
                let pod = format!(
                    r#",namespace="default",pod="web-{node}-{pod}",container="app",id="/kubepods/{node}/{pod}",image="web",name="k8s_app""#
                );
                gauge("container_memory_working_set_bytes", &pod, 1e9);
                gauge("container_memory_usage_bytes", &pod, 1.5e9);
                gauge("container_spec_cpu_quota", &pod, 200_000.0);
                gauge("container_spec_cpu_period", &pod, 100_000.0);
                gauge("container_spec_cpu_shares", &pod, 1024.0);
                gauge("container_spec_memory_limit_bytes", &pod, 2e9);
                gauge("kube_pod_container_resource_requests_memory_bytes", &pod, 1e9);
                gauge("kube_pod_container_status_running", &pod, 1.0);
                gauge("kube_pod_container_status_last_terminated_reason", &format!(r#"{pod},reason="OOMKilled""#), 1.0);
                gauge("kube_pod_container_status_waiting_reason", &format!(r#"{pod},reason="CrashLoopBackOff""#), 0.0);
                gauge("kubelet_volume_stats_used_bytes", &pod, 2.0 * 1024f64.powi(3));
                gauge("kubelet_volume_stats_capacity_bytes", &pod, 8.0 * 1024f64.powi(3));
            }
        }
        let plain = format!(r#"cluster="{cluster}",deployment="web",namespace="default",hpa="web""#);
        for (name, v) in [
            ("kube_deployment_status_replicas", 4.0),
            ("kube_deployment_status_replicas_available", 3.0),
            ("kube_hpa_spec_max_replicas", 4.0),
            ("kube_hpa_status_current_replicas", 4.0),
            ("eagle_node_resource_usage_cpu_cores", 2.0),
            ("eagle_node_resource_allocatable_cpu_cores", 4.0),
            ("probe_success", 0.0),
            ("probe_ssl_earliest_cert_expiry", 86_400.0),
        ] {
            lab = lab.load(15, &format!("{name}{{{plain}}}"), steps.clone().map(|_| v));
        }
        for (le, share) in [("100", 0.5), ("500", 0.9), ("+Inf", 1.0)] {
            let series = format!(r#"envoy_cluster_upstream_rq_time_bucket{{cluster="{cluster}",le="{le}"}}"#);
            lab = lab.load(15, &series, steps.clone().map(|i| i as f64 * 100.0 * share));
        }
    }
    lab
}

/// Expression, number of series and value of the first at the hour's end.
const PANELS: &[(&str, usize, f64)] = &[
    // cluster
    (
        r#"sum (container_memory_working_set_bytes{id!="/x",cluster=~"^prod$"}) / sum (machine_memory_bytes{cluster=~"^prod$"}) * 100"#,
        1,
        25.0,
    ),
    (
        r#"sum (rate (container_cpu_usage_seconds_total{cluster=~"^prod$",kubernetes_io_hostname=~"^.*$"}[1m])) / sum (machine_cpu_cores{cluster=~"^prod$"}) * 100"#,
        1,
        25.0,
    ),
    (
        r#"sum (container_fs_usage_bytes{device=~"^/dev/[sv]da[0-9]$",id="/"}) / sum (container_fs_limit_bytes{device=~"^/dev/[sv]da[0-9]$",id="/"}) * 100"#,
        1,
        60.0,
    ),
    (
        r#"sum (rate (container_cpu_usage_seconds_total{image!="",name=~"^k8s_.*",cluster=~"^staging$"}[1m])) by (pod)"#,
        4,
        1.5,
    ),
    (r#"sum (rate (container_network_receive_bytes_total{cluster=~"^prod$",}[1m]))"#, 1, 400.0),
    (r#"- sum (rate (container_network_transmit_bytes_total{cluster=~"^prod$"}[1m])) by (pod)"#, 4, -50.0),
    (r#"sum by (id) (rate(container_cpu_usage_seconds_total{id!="/",cluster=~'prod'}[1m]))"#, 4, 0.5),
    (
        r#"sum (container_memory_working_set_bytes{systemd_service_name="",cluster=~".*"}) by (container, pod)"#,
        4,
        2000000000.0,
    ),
    // deployment
    (r#"sum (container_memory_working_set_bytes{pod=~"^web.*$",pod!=""}) by (pod)"#, 4, 2000000000.0),
    (
        r#"sum(kube_deployment_status_replicas_available{deployment=~".*",cluster="prod"}) / sum(kube_deployment_status_replicas{deployment=~".*",cluster="prod"}) * 100"#,
        1,
        75.0,
    ),
    // nodes
    (
        r#"count(node_cpu_seconds_total{cluster="prod",instance=~"node0",mode="system"}) or count(node_cpu{cluster="prod",instance=~"node0",mode="system"})"#,
        1,
        2.0,
    ),
    (
        r#"sum by (mode)(irate(node_cpu_seconds_total{mode="system",instance=~"node0|node1",cluster=~"prod"}[5m])) or sum by (mode)(irate(node_cpu{mode="system"}[5m]))"#,
        1,
        2.0,
    ),
    (
        r#"node_memory_MemTotal{instance="node0"} - node_memory_MemFree{instance="node0"} or node_memory_MemTotal_bytes{instance="node0",cluster="prod"} - node_memory_MemFree_bytes{instance="node0",cluster="prod"} - node_memory_Buffers_bytes - node_memory_Cached_bytes - node_memory_Slab_bytes"#,
        1,
        4800000000.0,
    ),
    (r#"node_load1{cluster=~"prod",instance=~"node1"}"#, 1, 0.5),
    (
        r#"100.0 - 100 * (node_filesystem_avail_bytes{cluster="prod",device !~'tmpfs',device!~"by-uuid"} / node_filesystem_size_bytes{device !~'tmpfs',device!~"by-uuid"})"#,
        2,
        60.0,
    ),
    (
        r#"irate(node_disk_io_time_seconds_total{cluster="prod"}[5m]) * 100 or irate(node_disk_io_time_ms{cluster="prod"}[5m]) / 10"#,
        2,
        50.0,
    ),
    (r#"irate(node_disk_reads_completed_total{cluster="prod"}[5m]) or irate(node_disk_reads_completed[5m])"#, 2, 10.0),
    (r#"irate(node_disk_read_bytes_total{cluster="prod"}[5m]) or irate(node_disk_sectors_read[5m]) * 512"#, 2, 4096.0),
    (
        r#"irate(node_context_switches_total{instance=~"node0",cluster="prod"}[5m]) or irate(node_context_switches{}[5m])"#,
        1,
        1000.0,
    ),
    (
        r#"irate(node_network_receive_bytes_total{device!="lo",cluster="prod"}[5m])*8 or irate(node_network_receive_bytes{device!="lo"}[5m])*8"#,
        2,
        1000.0,
    ),
    (r#"node_nf_conntrack_entries_limit{cluster="prod"} - node_nf_conntrack_entries{cluster="prod"}"#, 2, 990.0),
    // pods
    (
        r#"increase(kube_pod_container_status_restarts_total{namespace="default",pod="web-0-0",cluster="prod"}[1h])"#,
        1,
        3.5999999999999996,
    ),
    (r#"kube_pod_container_status_running{cluster="prod",pod="web-0-0"}"#, 1, 1.0),
    (r#"sum(kube_pod_container_status_last_terminated_reason{reason="OOMKilled",cluster="prod"})"#, 1, 4.0),
    (r#"kube_pod_container_status_last_terminated_reason{cluster="prod",pod="web-0-0"} > 0"#, 1, 1.0),
    (r#"kube_pod_container_status_waiting_reason{cluster="prod"} > 0"#, 0, f64::NAN),
    (r#"kubelet_volume_stats_used_bytes{cluster="prod"} / (1024 * 1024 * 1024)"#, 4, 2.0),
    (
        r#"kubelet_volume_stats_used_bytes{cluster="prod"} / kubelet_volume_stats_capacity_bytes{cluster="prod"} * 100"#,
        4,
        25.0,
    ),
    (
        r#"sum(irate(container_cpu_usage_seconds_total{cluster="prod",container!=""}[30s])) by (namespace, container) / sum(container_spec_cpu_quota{cluster="prod"} / container_spec_cpu_period{cluster="prod"}) by (namespace, container)"#,
        1,
        0.25,
    ),
    (
        r#"sum(container_memory_working_set_bytes{cluster="prod"}) by (container) / sum(container_spec_memory_limit_bytes{cluster="prod"}) by (container)"#,
        1,
        0.5,
    ),
    (
        r#"sum(irate(container_cpu_usage_seconds_total{cluster="prod"}[30s])) by (container) / count(irate(container_cpu_usage_seconds_total{cluster="prod"}[30s])) by (container)"#,
        1,
        0.5,
    ),
    (r#"sum(container_spec_cpu_shares{cluster="prod"}) by (pod) / 1024"#, 4, 1.0),
    (
        r#"sum(kube_pod_container_resource_requests_memory_bytes{cluster="prod"}) by (namespace, container)"#,
        1,
        4000000000.0,
    ),
    // kube-eagle
    (
        r#"sum(eagle_node_resource_usage_cpu_cores{cluster="prod"}) / sum(eagle_node_resource_allocatable_cpu_cores{cluster="prod"})"#,
        1,
        0.5,
    ),
    (r#"sum(eagle_node_resource_usage_cpu_cores / eagle_node_resource_allocatable_cpu_cores) by (cluster)"#, 2, 0.5),
    // alerts
    ("up == 0", 0, f64::NAN),
    (r#"kube_hpa_status_current_replicas == kube_hpa_spec_max_replicas"#, 2, 4.0),
    (r#"kube_deployment_status_replicas_available != kube_deployment_status_replicas"#, 2, 3.0),
    (
        r#"(node_filesystem_avail_bytes{mountpoint="/"} / node_filesystem_size_bytes{mountpoint="/"}) * 100 < 50"#,
        4,
        40.0,
    ),
    (r#"container_spec_memory_limit_bytes < +Inf"#, 8, 2000000000.0),
    (r#"probe_ssl_earliest_cert_expiry - time() < 86400 * 30"#, 2, 82800.0),
    ("probe_success == 0", 2, 0.0),
    (
        r#"histogram_quantile(0.5, sum(rate(envoy_cluster_upstream_rq_time_bucket{cluster="prod"}[10m])) by (le))"#,
        1,
        100.0,
    ),
    (r#"sum by(cluster) (increase(kube_pod_container_status_restarts_total[15m])) > 0"#, 2, 3.6),
];

#[test]
fn every_family_of_panels_answers() {
    let lab = fleet();
    let now = MINUTES * 60;
    for (query, series, first) in PANELS {
        let plan = Plan::new(query, Times::Instant(0), &lab.options).unwrap_or_else(|e| panic!("{query}: {e}"));
        assert_eq!(plan.value_type(), ValueType::Vector, "{query}");
        let answer = lab.at(now, query);
        assert_eq!(answer.len(), *series, "{query}: {answer:?}");
        if let Some(line) = answer.first() {
            assert!(near(line, *first), "{query}: {line}, not {first}");
        }
        // A graph of the last five minutes ends with the same values.
        let graph = lab.over(now - 300, now, 15, query);
        assert!(graph.len() >= *series, "{query}: {graph:?}");
        let ends = graph.iter().filter_map(|l| l.strip_suffix(&format!("@{now}")));
        assert_eq!(ends.clone().count(), *series, "{query}: {graph:?}");
        assert!(*series != 1 || ends.clone().any(|l| near(l, *first)), "{query}: {graph:?}");
    }
}

/// True if the last number of a line is the expected one, but for rounding.
fn near(line: &str, expected: f64) -> bool {
    let v: f64 = line.rsplit(' ').next().and_then(|v| v.parse().ok()).unwrap_or(f64::NAN);
    (v - expected).abs() <= 1e-9 * expected.abs()
}
