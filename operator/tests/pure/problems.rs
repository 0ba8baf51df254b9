//! Everything that can be wrong with a wish: what is said, and that the rest goes on.

use std::collections::BTreeMap;

use operator::cluster::ConditionType::{
    Accepted, CertificatesValid, ConfigurationApplied, LabelsUnique, Stalled, Warning,
};
use operator::cluster::{Reason, validate};
use operator::observe::{Found, Winner};
use operator::status::{Link, remote_store};
use serde_json::{Value, json};

use super::support::{CERTIFICATE, cluster, config_map, link, names, said, said_under, secret, valid_in, wish, world};

#[test]
fn a_secret_that_may_not_be_read() -> anyhow::Result<()> {
    let mut observed = world(&cluster("tutorial")?);
    observed.secrets.insert("thanos-gcs-credentials".to_owned(), Found::Forbidden("no".to_owned()));
    let (reason, message) = said_under(&observed, Stalled);
    assert_eq!(reason, Reason::ForbiddenByRBAC);
    assert!(message.contains("panoptes operator rbac -n monitoring | kubectl apply -f -"), "{message}");
    assert!(validate(&observed.cluster, &observed).is_ok(), "the rest goes on");
    Ok(())
}

#[test]
fn what_stops_everything() {
    for (spec, field, part) in [
        (json!({"scrape": {"interval": "1x"}}), "spec.scrape.interval", "no duration"),
        (json!({"scrape": {"interval": "0"}}), "spec.scrape", "longer than 0"),
        (json!({"scrape": {"interval": "5s"}}), "spec.scrape.timeout", "longer than the interval"),
        (json!({"retention": {"local": "1h"}}), "spec.retention.local", "too short"),
        (json!({"retention": {"localSize": "60Gi"}}), "spec.retention.localSize", "more than the volume holds"),
        (json!({"storage": {"size": "0"}}), "spec.storage.size", "no size"),
        (json!({"prometheusVersion": "2.55.0"}), "spec.prometheusVersion", "too old"),
        (json!({"externalLabels": {"cluster": "x"}}), "spec.externalLabels", "set by the operator"),
        (json!({"externalLabels": {"a-b": "x"}}), "spec.externalLabels", "no label name"),
        (json!({"externalLabels": {"region": "$(REGION)"}}), "spec.externalLabels", "'$'"),
        (json!({"externalLabels": {"region": "a$X"}}), "spec.externalLabels", "'$'"),
        (json!({"storeAPI": {"serviceName": "ops-query"}}), "spec.storeAPI.serviceName", "another Service"),
        (json!({"prometheus": {"maximumStartup": "30s"}}), "spec.prometheus.maximumStartup", "at least 1m"),
        (
            json!({"prometheus": {"extraArgs": ["--config.file=x"]}}),
            "spec.prometheus.extraArgs",
            "--config.file is set",
        ),
        (json!({"prometheus": {"extraArgs": ["x"]}}), "spec.prometheus.extraArgs", "does not start with --"),
        (json!({"querier": {"extraArgs": ["--no-such-flag"]}}), "spec.querier.extraArgs", "--no-such-flag"),
        (json!({"querier": {"extraArgs": ["--store=x"]}}), "spec.querier.extraArgs", "--endpoint"),
        (json!({"querier": {"extraArgs": ["--query.timeout=soon"]}}), "spec.querier.extraArgs", "soon"),
        (json!({"sidecar": {"extraArgs": ["--reloader.once"]}}), "spec.sidecar.extraArgs", "--reloader.once is set"),
        (json!({"kubeStateMetrics": {"extraArgs": ["--port=1"]}}), "spec.kubeStateMetrics.extraArgs", "--port is set"),
        (
            json!({"nodeExporter": {"extraArgs": ["--path.rootfs=/"]}}),
            "spec.nodeExporter.extraArgs",
            "--path.rootfs is set",
        ),
    ] {
        let observed = world(&wish(spec.clone()));
        let problems = validate(&observed.cluster, &observed).expect_err(&spec.to_string());
        let found = problems.iter().find(|problem| problem.condition == Stalled).expect("stalled");
        assert_eq!((found.reason, found.field.as_str()), (Reason::InvalidSpec, field), "{spec}: {problems:#?}");
        assert!(found.message.contains(part), "{spec}: {found}");
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let observed = world(&wish(json!({
        "retention": {"local": "1h"},
        "prometheus": {"extraArgs": ["--config.file=x"], "podTemplate": {"spec": {"hostname": "x"}}},
        "expose": {"storeAPI": {"type": "NodePort", "allowPlaintext": true}},
    })));
    let problems = validate(&observed.cluster, &observed).expect_err("wrong");
    assert_eq!(problems.len(), 5, "{problems:#?}");
}

#[test]
fn pod_templates() {
    for (patch, at, part) in [
        (json!({"metadata": {"labels": {"thanos-store-api": "false"}}}), ".metadata.labels", "protected"),
        (json!({"metadata": {"name": "x"}}), ".metadata", "only labels and annotations"),
        (json!({"spec": {"serviceAccountName": "x"}}), ".spec", "protected"),
        (json!({"spec": {"containers": [{"name": "query", "args": ["x"]}]}}), ".spec.containers[query]", "extraArgs"),
        (json!({"spec": {"containers": [{"name": "query", "ports": []}]}}), ".spec.containers[query]", "fixed"),
        (json!({"spec": {"containers": [{"image": "x"}]}}), ".spec.containers[0]", "no name"),
        (json!({"spec": {"volumes": {"a": 1}}}), ".spec.volumes", "no list"),
        (json!({"spec": {"containers": [{"$patch": "delete", "name": "x"}]}}), "", "$patch"),
        (json!({"template": {}}), "", "\"template\""),
        (json!({"spec": 3}), ".spec", "no object"),
        (json!({"metadata": {"labels": null}}), ".metadata.labels", "no object"),
        (json!({"metadata": {"annotations": null}}), ".metadata.annotations", "no object"),
        (json!({"metadata": {"labels": {"panoptes.dev/shard": "1"}}}), ".metadata.labels", "protected"),
        (
            json!({"spec": {"volumes": [{"name": "grpc-tls", "secret": null, "emptyDir": {}}]}}),
            ".spec.volumes[grpc-tls]",
            "volume of ours",
        ),
        (
            json!({"spec": {"containers": [{"name": "query", "volumeMounts": null}]}}),
            ".spec.containers[query].volumeMounts",
            "no list",
        ),
        (
            json!({"spec": {"containers": [
                {"name": "query", "volumeMounts": [{"name": "x", "mountPath": "/etc/panoptes/endpoints/"}]},
            ]}}),
            ".spec.containers[query].volumeMounts",
            "mount of ours",
        ),
    ] {
        let observed = world(&wish(json!({"querier": {"podTemplate": patch}})));
        let problems = validate(&observed.cluster, &observed).expect_err(&patch.to_string());
        let found = problems.iter().find(|problem| problem.condition == Stalled).expect("stalled");
        assert_eq!(found.reason, Reason::PodTemplateRejected);
        assert_eq!(found.field, format!("spec.querier.podTemplate{at}"), "{patch}: {problems:#?}");
        assert!(found.message.contains(part), "{patch}: {found}");
    }
    for (container, at) in [("sidecar", "containers"), ("init-config", "initContainers")] {
        let variable = json!([{"name": "POD_NAME", "value": "x", "valueFrom": null}]);
        let patch = json!({"spec": {at: [{"name": container, "env": variable}]}});
        let problems = said(&world(&wish(json!({"prometheus": {"podTemplate": patch}}))));
        let found = problems.iter().find(|problem| problem.condition == Stalled).expect("stalled");
        assert_eq!(found.field, format!("spec.prometheus.podTemplate.spec.{at}[{container}].env"));
    }
    let good = json!({"metadata": {"labels": {"team": "x"}}, "spec": {"tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "query", "env": [{"name": "A", "value": "b"}]}, {"name": "mine", "image": "x", "args": ["y"]}]}});
    valid_in(&world(&wish(json!({"querier": {"podTemplate": good}}))));
}

#[test]
fn scrape_configurations_are_left_out_one_by_one() {
    let spec = json!({"scrape": {"additional": [
        {"configMapRef": {"name": "good", "key": "a"}},
        {"configMapRef": {"name": "bad", "key": "a"}},
        {"secretRef": {"name": "gone", "key": "a"}},
    ]}});
    let mut observed = world(&wish(spec));
    observed.config_maps.extend([
        config_map("good", &[("a", "- job_name: mine\n  static_configs: [{targets: ['a:1']}]\n")]),
        config_map("bad", &[("a", "- job_name: [\n")]),
    ]);
    let valid = valid_in(&observed);
    assert!(valid.configuration.next.contains("job_name: mine"));
    let rejected: Vec<_> = valid.rejected.iter().map(|r| (r.kind.as_str(), r.name.as_str())).collect();
    assert_eq!(rejected, [("ConfigMap", "bad/a"), ("Secret", "gone/a")]);
    let (reason, message) = said_under(&observed, ConfigurationApplied);
    assert_eq!(reason, Reason::RejectedObjects);
    assert!(message.contains("bad/a") && message.contains("1 more"), "{message}");
}

#[test]
fn rule_files_are_left_out_one_by_one() {
    let file = |rule: &str| format!("groups:\n- name: g\n  rules:\n  - {rule}\n");
    let bad = [
        ("yaml.yaml", "groups: [".to_owned(), "no rule file"),
        ("field.yaml", file("{record: a, expr: up, form: 1m}"), "form"),
        ("expr.yaml", file("{record: a, expr: 'sum(up'}"), "parse error"),
        ("type.yaml", file("{record: a, expr: 'rate(up)'}"), "expected type range vector"),
        ("both.yaml", file("{record: a, alert: b, expr: up}"), "exactly one"),
        ("name.yaml", file("{record: 'a{}', expr: up}"), "no metric name"),
        ("for.yaml", file("{alert: a, expr: up, for: soon}"), "no duration"),
        ("experimental.yaml", file("{record: a, expr: 'limitk(1, up)'}"), "experimental"),
        (
            "template.yaml",
            file("{alert: a, expr: up, annotations: {summary: '{{ $label.x }}'}}"),
            "$label is not defined",
        ),
        ("label.yaml", file("{alert: a, expr: up, labels: {__name__: x}}"), "__name__"),
        ("twice.yaml", "groups: [{name: g}, {name: g}]".to_owned(), "there twice"),
        ("limit.yaml", "groups: [{name: g, limit: 10000000000000000000}]".to_owned(), "no rule file"),
    ];
    let mut observed = world(&wish(json!({})));
    let mut data: Vec<(&str, &str)> = bad.iter().map(|(key, text, _)| (*key, text.as_str())).collect();
    let good = file("{alert: a, expr: 'up == 0', for: 1m, labels: {severity: page}, annotations: {summary: x}}");
    data.extend([("good.yml", good.as_str()), ("README.md", "not a rule file")]);
    observed.config_maps.extend([config_map("mine", &data)]);
    observed.rule_config_maps.insert("mine".to_owned());
    let valid = valid_in(&observed);
    assert_eq!(valid.rule_files.keys().collect::<Vec<_>>(), ["mine_good.yaml"]);
    assert_eq!(valid.rejected.len(), bad.len());
    for (key, _, part) in &bad {
        let found = valid.rejected.iter().find(|r| r.name == format!("mine/{key}")).expect(key);
        assert!(found.reason.contains(part), "{key}: {}", found.reason);
    }
}

#[test]
fn exposure_needs_good_certificates() -> anyhow::Result<()> {
    let good = world(&cluster("prod")?);
    assert!(names(&good).contains(&"Service/prod-query-grpc".to_owned()));
    for (name, found, reason, part) in [
        ("store-api-tls", None, Reason::SecretMissing, "does not exist"),
        ("store-api-tls", Some(vec![("tls.crt", CERTIFICATE), ("tls.key", "x")]), Reason::SecretInvalid, "\"tls.key\""),
        ("store-api-client-ca", Some(vec![("ca.crt", "x")]), Reason::SecretInvalid, "\"ca.crt\""),
    ] {
        let mut observed = good.clone();
        observed.secrets.remove(name);
        observed.secrets.extend(found.map(|data| secret(name, &data)));
        let all = said(&observed);
        let problem = all.iter().find(|p| p.condition == CertificatesValid).expect("said");
        assert_eq!(problem.reason, reason, "{problem}");
        assert!(problem.message.contains(part) && problem.message.contains("not exposed"), "{problem}");
        let names = names(&observed);
        assert!(
            names.contains(&"Deployment/prod-query".to_owned())
                && !names.contains(&"Service/prod-query-grpc".to_owned())
        );
    }
    Ok(())
}

#[test]
fn risky_settings_are_told() {
    let plaintext = world(&wish(json!({"expose": {"storeAPI": {"type": "NodePort", "allowPlaintext": true}}})));
    assert!(said_under(&plaintext, Warning).1.contains("plaintext"));

    let anybody = world(&wish(
        json!({"expose": {"storeAPI": {"type": "NodePort", "tls": {"secretRef": {"name": "store-api-tls"}}}}}),
    ));
    assert!(said_under(&anybody, Warning).1.contains("without client certificates"));

    let common = world(&wish(json!({"commonMetadata": {"labels": {"thanos-store-api": "true", "team": "x"}}})));
    assert!(said_under(&common, Warning).1.contains("\"thanos-store-api\""));

    let mut restricted = world(&wish(json!({})));
    restricted.namespace_labels.insert("pod-security.kubernetes.io/enforce".to_owned(), "restricted".to_owned());
    assert!(said_under(&restricted, Warning).1.contains("nodeExporter.enabled: false"));
    let names = names(&restricted);
    assert!(!names.iter().any(|name| name.contains("node-exporter")), "{names:?}");
}

fn said_of_link(spec: Value) -> Vec<operator::cluster::Problem> {
    let mut observed = world(&wish(json!({})));
    observed.remotes = vec![link("prod", spec)];
    valid_in(&observed).link_problems.remove("prod").unwrap_or_default()
}

#[test]
fn links() {
    for (spec, condition, reason, part) in [
        (json!({"address": "prod"}), Accepted, Reason::InvalidSpec, "host:port"),
        (json!({"address": "http://prod:1"}), Accepted, Reason::InvalidSpec, "scheme"),
        (json!({}), Accepted, Reason::InvalidSpec, "Exactly one"),
        (
            json!({"address": "p:1", "tls": {"caSecretRef": {"name": "gone"}}}),
            Accepted,
            Reason::SecretMissing,
            "\"gone\"",
        ),
        (
            json!({"address": "p:1", "tls": {"clientSecretRef": {"name": "store-api-client-ca"}}}),
            Accepted,
            Reason::SecretMissing,
            "\"tls.crt\"",
        ),
        (json!({"address": "p:1", "tls": {"mode": "Mutual"}}), Accepted, Reason::InvalidSpec, "clientSecretRef"),
        (json!({"address": "p:1", "probe": {"interval": "1s"}}), Accepted, Reason::InvalidSpec, "at least 5s"),
        (
            json!({"address": "p:1", "probe": {"timeout": "10s"}}),
            Accepted,
            Reason::InvalidSpec,
            "shorter than the interval",
        ),
        (json!({"address": "p:1"}), Warning, Reason::RiskySettings, "plaintext"),
        (
            json!({"address": "p:1", "tls": {"insecureSkipVerify": true}}),
            Warning,
            Reason::RiskySettings,
            "not verified",
        ),
    ] {
        let mut spec = spec;
        spec["clusterName"] = json!("prod");
        let problems = said_of_link(spec.clone());
        let found =
            problems.iter().find(|p| p.condition == condition).unwrap_or_else(|| panic!("{spec}: {problems:?}"));
        assert_eq!(found.reason, reason, "{found}");
        assert!(found.message.contains(part), "{found}");
    }
    let good = json!({"clusterName": "prod", "address": "https://prod.example"});
    assert_eq!(said_of_link(good), []);
}

#[test]
fn two_links_to_one_cluster() {
    let observed = |on_conflict: &str, winner: Winner| {
        let mut observed = world(&wish(json!({})));
        observed.remotes =
            vec![link("b", json!({"clusterName": "prod", "address": "https://b", "onConflict": on_conflict}))];
        observed.conflicts.insert("b".to_owned(), winner);
        valid_in(&observed)
    };
    let valid = observed("Reject", Winner::Older("a".to_owned()));
    assert_eq!(
        (valid.link_problems["b"][0].condition, valid.link_problems["b"][0].reason),
        (LabelsUnique, Reason::DuplicateOf)
    );
    assert!(valid.links[0].rejected.is_some());
    assert_eq!(observed("Warn", Winner::Older("a".to_owned())).links[0].rejected, None);
    // with the cluster's own name nothing could be told apart
    let local = observed("Warn", Winner::Local);
    assert_eq!(local.link_problems["b"][0].reason, Reason::OverlapsLocal);
    assert!(local.links[0].rejected.is_some());
    // and the status says what the queriers are told
    for (on_conflict, winner, phase, said) in [
        ("Warn", Winner::Local, "Conflict", "not queried"),
        ("Reject", Winner::Older("a".to_owned()), "Conflict", "not queried"),
        ("Warn", Winner::Older("a".to_owned()), "Connecting", "Both are queried"),
    ] {
        let valid = observed(on_conflict, winner.clone());
        let status = remote_store(&Link {
            remote: &valid.links[0].remote,
            cluster: "ops",
            cluster_label: "cluster",
            valid: Some(&valid.links[0]),
            problems: &valid.link_problems["b"],
            winner: Some(&winner),
            revision: "r",
            queriers: 2,
            gateway: None,
            states: &BTreeMap::new(),
            told: None,
            now: jiff::Timestamp::UNIX_EPOCH,
        });
        assert_eq!(status.phase.as_deref(), Some(phase), "{on_conflict} {winner:?}");
        let unique = status.conditions.iter().find(|condition| condition.type_ == LabelsUnique.as_str());
        assert!(unique.is_some_and(|unique| unique.message.contains(said)), "{unique:?}");
    }
}
