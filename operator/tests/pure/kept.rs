//! What ran before stays when a Secret vanishes or a file gets a mistake.

use operator::cluster::ConditionType::{Accepted, CertificatesValid, ConfigurationApplied};
use operator::cluster::Reason;
use operator::desired::{Object, hash, links_revision, objects, rules_hash};
use operator::observe::{Found, Observed};
use serde_json::json;

use super::support::{
    carried_out, cluster, config_map, find, link, said, said_under, secret, templates, valid_in, wish, world,
};

const GOOD: &str = "- job_name: first\n  static_configs: [{targets: ['a:1']}]\n- job_name: 'yes'\n  scheme: https\n";

/// A world with two sources of jobs and a rule file, carried out.
fn running() -> anyhow::Result<Observed> {
    let mut observed = world(&wish(json!({"scrape": {"additional": [
        {"configMapRef": {"name": "jobs", "key": "a"}},
        {"secretRef": {"name": "more", "key": "a"}},
    ]}})));
    observed.config_maps.extend([config_map("jobs", &[("a", GOOD)]), config_map("rules", &[("r.yaml", &rule("up"))])]);
    observed.secrets.extend([secret("more", &[("a", "- job_name: other\n")])]);
    observed.rule_config_maps.insert("rules".to_owned());
    let first = objects(&valid_in(&observed));
    carried_out(&mut observed, &first)?;
    Ok(observed)
}

fn rule(expr: &str) -> String {
    format!("groups: [{{name: g, rules: [{{alert: Mine, expr: '{expr}'}}]}}]\n")
}

#[test]
fn jobs_of_a_broken_source() -> anyhow::Result<()> {
    let before = running()?;
    let first = valid_in(&before);
    assert_eq!(first.rejected, []);
    for broken in [
        Some(config_map("jobs", &[("a", &GOOD.replace("scheme", "schema"))])),
        Some(config_map("jobs", &[("a", "- job_name: [")])),
        Some(config_map("jobs", &[("a", "- job_name: kubernetes-pods")])),
        None,
    ] {
        let mut observed = before.clone();
        observed.config_maps.remove("jobs");
        observed.config_maps.extend(broken);
        let valid = valid_in(&observed);
        assert_eq!(valid.configuration.next, first.configuration.next, "nothing is taken away");
        let (reason, message) = said_under(&observed, ConfigurationApplied);
        assert_eq!(reason, Reason::RejectedObjects);
        assert!(message.contains("jobs/a") && message.contains("previous content stays"), "{message}");
        // and so on at the next look
        carried_out(&mut observed, &objects(&valid))?;
        assert_eq!(valid_in(&observed).configuration.next, first.configuration.next);
        // the other source goes on
        observed.secrets.extend([secret("more", &[("a", "- job_name: newer\n")])]);
        let later = valid_in(&observed).configuration.next;
        assert!(later.contains("job_name: first") && later.contains("newer") && !later.contains("other"), "{later}");
        // a source that is no longer named is gone
        observed.cluster.spec.scrape.additional.remove(0);
        let later = valid_in(&observed);
        assert!(!later.configuration.next.contains("job_name: first") && later.rejected.is_empty());
    }
    Ok(())
}

#[test]
fn jobs_that_prometheus_refused_are_not_kept() -> anyhow::Result<()> {
    let mut observed = running()?;
    let good = valid_in(&observed).configuration;
    observed.loaded.insert(good.hash.clone());
    observed.config_maps.extend([config_map("jobs", &[("a", "- job_name: first\n  scrape_interval: often\n")])]);
    let refused = valid_in(&observed);
    assert_eq!(refused.configuration.last_good_hash, Some(good.hash.clone()));
    carried_out(&mut observed, &objects(&refused))?;
    observed.refused.insert(hash(refused.configuration.next.as_bytes()), "often is no duration".to_owned());
    observed.config_maps.extend([config_map("jobs", &[("a", "- job_name: [")])]);
    assert_eq!(valid_in(&observed).configuration.next, good.next, "the last good ones are");
    Ok(())
}

#[test]
fn a_broken_rule_file() -> anyhow::Result<()> {
    let mut observed = running()?;
    let first = valid_in(&observed);
    observed.config_maps.extend([config_map("rules", &[("r.yaml", &rule("sum(up"))])]);
    let valid = valid_in(&observed);
    assert_eq!((valid.rejected.len(), rules_hash(&valid)), (1, rules_hash(&first)));
    assert!(valid.rejected[0].reason.ends_with("; its previous content stays in effect"), "{:?}", valid.rejected);

    // what Prometheus would refuse at its next start is not kept, whoever wrote it
    let mut worse = observed.clone();
    for found in worse.config_maps.values_mut() {
        if let Found::Present(map) = found {
            map.data
                .iter_mut()
                .flatten()
                .filter(|(name, _)| *name == "rules_r.yaml")
                .for_each(|(_, text)| text.push('['));
        }
    }
    assert!(valid_in(&worse).rejected[0].reason.ends_with("; it is left out"));

    observed.rule_config_maps.clear();
    assert_ne!(rules_hash(&valid_in(&observed)), rules_hash(&first), "one that nobody wishes for goes");
    Ok(())
}

#[test]
fn our_own_config_maps_are_no_rule_sources() -> anyhow::Result<()> {
    let mut observed = running()?;
    let first = valid_in(&observed);
    // a selector that also matches the user's common labels
    observed.rule_config_maps = observed.config_maps.keys().cloned().collect();
    observed.rule_config_maps.remove("jobs");
    assert!(observed.rule_config_maps.len() > 1, "there are some of ours");
    assert_eq!(valid_in(&observed).rule_files, first.rule_files);
    Ok(())
}

fn exposed(objects: &[Object]) -> serde_json::Value {
    find(objects, "Service", "prod-query-grpc").0.clone()
}

#[test]
fn an_exposed_port_while_a_secret_is_replaced() -> anyhow::Result<()> {
    let mut before = world(&cluster("prod")?);
    let first = objects(&valid_in(&before));
    carried_out(&mut before, &first)?;
    for (name, found) in [
        ("store-api-tls", None),
        ("store-api-client-ca", None),
        ("store-api-tls", Some(secret("store-api-tls", &[("tls.crt", "x")]))),
    ] {
        let mut observed = before.clone();
        observed.secrets.remove(name);
        observed.secrets.extend(found);
        let all = said(&observed);
        let problem = all.iter().find(|p| p.condition == CertificatesValid).expect("said");
        assert!(problem.message.contains("keep the certificates"), "{problem}");
        let now = objects(&valid_in(&observed));
        assert_eq!(exposed(&now), exposed(&first), "its address is kept");
        assert_eq!(templates(&now), templates(&first), "no pod is rolled");
    }
    // Asking for client certificates is not answered with less.
    let mut open = cluster("prod")?;
    let tls = open.spec.expose.store_api.as_mut().and_then(|expose| expose.tls.as_mut()).expect("tls");
    let ca = tls.client_ca_secret_ref.take();
    let mut observed = world(&open);
    let first = objects(&valid_in(&observed));
    carried_out(&mut observed, &first)?;
    let tls = observed.cluster.spec.expose.store_api.as_mut().and_then(|expose| expose.tls.as_mut()).expect("tls");
    tls.client_ca_secret_ref = ca;
    observed.secrets.remove("store-api-client-ca");
    assert!(valid_in(&observed).expose.is_none());
    Ok(())
}

#[test]
fn a_link_while_its_secret_is_replaced() -> anyhow::Result<()> {
    let mut before = world(&cluster("ops")?);
    before.remotes = vec![link(
        "prod",
        json!({"clusterName": "prod", "address": "prod:443", "tls": {
            "caSecretRef": {"name": "prod-store-api-ca"}, "clientSecretRef": {"name": "ops-store-api-client"},
        }}),
    )];
    let first = valid_in(&before);
    carried_out(&mut before, &objects(&first))?;
    let mut observed = before;
    for (gone, told) in [("prod-store-api-ca", 1), ("ops-store-api-client", 3)] {
        observed.secrets.remove(gone);
        let valid = valid_in(&observed);
        assert_eq!(links_revision(&valid), links_revision(&first), "{gone}: the links stay as they are");
        assert_eq!(valid.link_problems["prod"].len(), told, "{:?}", valid.link_problems);
        for problem in &valid.link_problems["prod"] {
            assert_eq!((problem.condition, problem.reason), (Accepted, Reason::SecretMissing));
            assert!(problem.message.contains("keep the certificates"), "{problem}");
        }
    }
    // without anything from before it isn't used
    for found in observed.secrets.iter_mut().filter(|(name, _)| name.contains("-query-endpoints-")) {
        *found.1 = Found::Missing;
    }
    assert_eq!(valid_in(&observed).links, []);
    Ok(())
}

#[test]
fn a_token_travels_with_the_links() -> anyhow::Result<()> {
    let auth = |name: &str| {
        let auth = json!({"bearerTokenSecretRef": {"name": name, "key": "token"}});
        link("prod", json!({"clusterName": "prod", "address": "prod:443", "auth": auth}))
    };
    let mut observed = world(&cluster("ops")?);
    observed.remotes = vec![auth("api")];
    observed.secrets.extend([secret("api", &[("token", "s3cret-word\n")]), secret("bad", &[("token", "two words")])]);
    let first = valid_in(&observed);
    let made = objects(&first);
    let files = made.iter().filter(|object| object.name().contains("-query-endpoints-"));
    let tokens: Vec<String> = files
        .flat_map(|object| object.0["data"].as_object().cloned().unwrap_or_default())
        .filter(|(name, _)| name.ends_with(".token"))
        .map(|(_, value)| value.as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(tokens, ["czNjcmV0LXdvcmQ="], "without the line's end");
    assert!(!format!("{:?}", first.link_problems).contains("s3cret"), "{:?}", first.link_problems);
    assert_eq!(first.link_problems.get("prod").map(Vec::len), None, "the port says TLS");

    // One that is gone or broken stays in use, and is told; a new one is another revision and rolls nothing.
    carried_out(&mut observed, &made)?;
    for (name, reason) in [("none", Reason::SecretMissing), ("bad", Reason::SecretInvalid)] {
        observed.remotes = vec![auth(name)];
        let now = valid_in(&observed);
        assert_eq!(links_revision(&now), links_revision(&first), "{name}");
        let told = &now.link_problems["prod"][0];
        assert_eq!((told.condition, told.reason), (Accepted, reason));
        assert!(
            told.message.ends_with("keep the token that they have.") && !told.message.contains("two words"),
            "{told}"
        );
    }
    observed.remotes = vec![auth("api")];
    observed.secrets.extend([secret("api", &[("token", "another")])]);
    let rotated = valid_in(&observed);
    assert_ne!(links_revision(&rotated), links_revision(&first));
    assert_eq!(templates(&objects(&rotated)), templates(&made));

    let mut plain = world(&cluster("ops")?);
    plain.secrets = observed.secrets.clone();
    plain.remotes = vec![link(
        "prod",
        json!({"clusterName": "prod", "address": "prod:80",
        "auth": {"bearerTokenSecretRef": {"name": "api", "key": "token"}}}),
    )];
    let told = &valid_in(&plain).link_problems["prod"];
    assert!(told.iter().any(|problem| problem.message.contains("token is sent in plaintext")), "{told:?}");
    Ok(())
}
