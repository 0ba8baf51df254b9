//! What changes at run time (configuration, rules, links, certificates' contents) never changes a pod template.

use operator::desired::{links_revision, objects};
use operator::observe::{Observed, Winner};
use serde_json::json;

use super::support::{
    CERTIFICATE, carried_out, cluster, config_map, find, link, remote, secret, templates, valid_in, wish, world,
};

fn rolls_nothing(before: &Observed, after: &Observed) {
    let (before, after) = (objects(&valid_in(before)), objects(&valid_in(after)));
    assert_ne!(before, after, "something changed");
    assert_eq!(templates(&before), templates(&after));
}

#[test]
fn links() -> anyhow::Result<()> {
    let none = world(&cluster("ops")?);
    let mut two = none.clone();
    two.remotes = vec![remote("remote-prod")?, remote("remote-staging")?];
    rolls_nothing(&none, &two);

    let mut thousand = two.clone();
    thousand.remotes = (0..1000)
        .map(|i| {
            link(
                &format!("c{i}"),
                json!({"clusterName": format!("c{i}"), "address": format!("10.1.{}.{}:10901", i / 250, i % 250),
                    "tls": {"caSecretRef": {"name": format!("ca-{i}")}, "clientSecretRef": {"name": "ops-store-api-client"}}}),
            )
        })
        .collect();
    thousand.secrets.extend((0..1000).map(|i| {
        let body = "QUJD".repeat(400 + i);
        secret(
            &format!("ca-{i}"),
            &[("ca.crt", &format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"))],
        )
    }));
    rolls_nothing(&two, &thousand);
    let valid = valid_in(&thousand);
    assert!(
        valid.problems.iter().all(|p| p.reason != operator::cluster::Reason::ConfigTooLarge),
        "{:?}",
        valid.problems
    );
    let slots: Vec<_> = objects(&valid).into_iter().filter(|o| o.name().contains("-query-endpoints-")).collect();
    assert_eq!(slots.len(), 8);
    for slot in &slots {
        assert!(slot.0.to_string().len() * 3 / 4 < 1_048_576, "{}", slot.name());
    }
    Ok(())
}

#[test]
fn a_rejected_link_stays_as_probe_only() -> anyhow::Result<()> {
    let mut observed = world(&cluster("ops")?);
    observed.remotes = vec![remote("remote-prod")?];
    let used = links_revision(&valid_in(&observed));
    observed.conflicts.insert("prod".to_owned(), Winner::Local);
    let valid = valid_in(&observed);
    assert_ne!(used, links_revision(&valid));
    assert_eq!(valid.links[0].rejected.as_deref(), Some("same cluster as MonitoringCluster ops"));
    Ok(())
}

#[test]
fn configuration_and_rules() -> anyhow::Result<()> {
    let before = world(&wish(json!({})));
    let mut after = world(&wish(json!({
        "externalLabels": {"region": "eu"},
        "retention": {"local": "48h", "localSize": "1Gi"},
        "scrape": {"interval": "15s", "jobs": ["self"], "additional": [{"secretRef": {"name": "jobs", "key": "jobs.yaml"}}]},
    })));
    let many: String =
        (0..20_000).map(|i| format!("- job_name: job-{i}\n  static_configs: [{{targets: ['h{i}:1']}}]\n")).collect();
    after.secrets.extend([secret("jobs", &[("jobs.yaml", &many)])]);
    let long = format!("# {}\ngroups: [{{name: g, rules: [{{record: a, expr: up}}]}}]", "x".repeat(400_000));
    for i in 0..10 {
        let name = format!("rules-{i}");
        after.config_maps.extend([config_map(&name, &[("a.yaml", &long)])]);
        after.rule_config_maps.insert(name);
    }
    assert_eq!(valid_in(&after).rejected, []);
    rolls_nothing(&before, &after);
    let objects = objects(&valid_in(&after));
    let rule_bytes: usize =
        objects.iter().filter(|o| o.name().contains("-prometheus-rules-")).map(|o| o.0.to_string().len()).sum();
    assert!(rule_bytes > 4_000_000, "all ten are there: {rule_bytes}");
    Ok(())
}

#[test]
fn renewed_certificates() -> anyhow::Result<()> {
    let mut before = world(&cluster("prod")?);
    before.remotes = vec![remote("remote-staging")?];
    let mut after = before.clone();
    let renewed = CERTIFICATE.replace("AQIDBA==", "BAMCAQ==");
    after.secrets.extend([
        secret("store-api-tls", &[("tls.crt", &renewed), ("tls.key", super::support::KEY)]),
        secret("staging-store-api-ca", &[("ca.crt", &renewed)]),
    ]);
    rolls_nothing(&before, &after);
    Ok(())
}

#[test]
fn the_last_good_configuration_survives_a_bad_one() -> anyhow::Result<()> {
    let mut observed = world(&wish(json!({})));
    let first = valid_in(&observed);
    let objects_of_first = objects(&first);
    carried_out(&mut observed, &objects_of_first)?;
    observed.loaded.insert(first.configuration.hash.clone());

    // a job that the operator can't know to be wrong
    let mut broken = world(&wish(json!({"scrape": {"additional": [{"configMapRef": {"name": "jobs", "key": "a"}}]}})));
    broken.config_maps.extend([config_map("jobs", &[("a", "- job_name: bad\n  relabel_configs: [{regex: '('}]\n")])]);
    broken.secrets.extend(observed.secrets.clone());
    broken.loaded = observed.loaded.clone();
    let second = valid_in(&broken);
    assert_ne!(second.configuration.hash, first.configuration.hash);
    assert_eq!(second.configuration.last_good_hash.as_deref(), Some(first.configuration.hash.as_str()));

    // every pod is gone, so nobody reports anything
    carried_out(&mut broken, &objects(&second))?;
    broken.loaded.clear();
    let third = valid_in(&broken);
    assert_eq!(third.configuration, second.configuration);
    let config = find(&objects(&third), "Secret", "ops-prometheus-config-0").0.clone();
    assert!(config["data"]["last-good.yaml"].is_string() && config["data"]["next.yaml"].is_string());
    Ok(())
}

#[test]
fn an_existing_volume_is_kept() -> anyhow::Result<()> {
    let mut observed = world(&wish(json!({"storage": {"size": "10Gi"}})));
    let first = objects(&valid_in(&observed));
    carried_out(&mut observed, &first)?;
    let live = observed.live.clone();
    assert_eq!(valid_in(&observed).problems.iter().filter(|p| p.field == "spec.storage").count(), 0);

    for changed in [json!({"storage": {"size": "20Gi"}}), json!({"profile": "Minimal"})] {
        let mut later = world(&wish(changed));
        later.live = live.clone();
        let valid = valid_in(&later);
        let problem = valid.problems.iter().find(|p| p.field == "spec.storage").expect("it is said");
        assert!(problem.message.contains("10Gi"), "{problem}");
        let set = find(&objects(&valid), "StatefulSet", "ops-prometheus").0.clone();
        assert_eq!(set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"], "10Gi");
    }
    Ok(())
}

#[test]
fn a_newer_operator_rolls_no_pods() -> anyhow::Result<()> {
    let mut observed = world(&wish(json!({})));
    let before = objects(&valid_in(&observed));
    let status = json!({"versions": {"operator": "0.1.0", "current": "0.1.0"}});
    observed.cluster.status = Some(serde_json::from_value(status)?);
    observed.defaults.operator_version = "0.2.0".to_owned();
    observed.defaults.engine_image = "panoptes.dev/panoptes:0.2.0".to_owned();
    assert_eq!(templates(&before), templates(&objects(&valid_in(&observed))));

    observed.cluster.spec.version = Some("0.2.0".to_owned());
    let raised = objects(&valid_in(&observed));
    let container = &find(&raised, "Deployment", "ops-query").0["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "panoptes.dev/panoptes:0.2.0");
    Ok(())
}

#[test]
fn the_installations_image_keeps_its_tag() -> anyhow::Result<()> {
    let mut observed = world(&wish(json!({})));
    observed.defaults.engine_image = "registry.example/panoptes:v1".to_owned();
    let image = |observed: &Observed| valid_in(observed).images.querier;
    assert_eq!(image(&observed), "registry.example/panoptes:v1");
    observed.cluster.spec.version = Some("0.0.9".to_owned());
    assert_eq!(image(&observed), "registry.example/panoptes:0.0.9");
    Ok(())
}

#[test]
fn selectors_and_claims_name_only_what_never_changes() -> anyhow::Result<()> {
    let common = json!({"commonMetadata": {"labels": {
        "owner": "a", "app.kubernetes.io/name": "mine", "thanos-store-api": "true", "panoptes.dev/rules": "true",
    }}});
    let plain = objects(&valid_in(&world(&wish(json!({})))));
    let labelled = objects(&valid_in(&world(&wish(common))));
    for object in &plain {
        let other = find(&labelled, object.kind(), object.name());
        for field in ["/spec/selector", "/spec/volumeClaimTemplates", "/spec/serviceName"] {
            assert_eq!(object.0.pointer(field), other.0.pointer(field), "{} {}", object.kind(), object.name());
        }
        assert_eq!(other.0["metadata"]["labels"]["owner"], "a");
        assert!(
            other.0["metadata"]["labels"].get("panoptes.dev/rules").is_none(),
            "our ConfigMaps are no rule sources"
        );
        let template = |object: &operator::desired::Object| {
            object.0.pointer("/spec/template/metadata/labels/thanos-store-api").cloned()
        };
        assert_eq!(template(object), template(other), "a querier that has it would ask itself");
    }
    Ok(())
}
