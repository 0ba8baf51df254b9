//! The store gateway: of the cluster's own bucket, in shards, and of a link's bucket.

use std::collections::BTreeMap;

use args::StoreArgs;
use clap::{Args as _, FromArgMatches as _};
use k8s_openapi::api::apps::v1::StatefulSetStatus;
use operator::cluster::ConditionType::{Accepted, Stalled};
use operator::cluster::{Reason, validate};
use operator::desired::{Object, links_revision, objects};
use operator::observe::{Observed, references};
use serde_json::{Value, json};

use super::support::{
    carried_out, find, link, names, said, said_under, secret, service_account, templates, valid_in, wish, world,
};

fn with(gateway: Value) -> Observed {
    world(&wish(json!({"objectStorage": {"gcs": {"bucket": "b-1"}}, "storeGateway": gateway})))
}

/// The flags of a StatefulSet, read back as the part itself reads them.
fn flags(objects: &[Object], set: &str) -> StoreArgs {
    let argv = &find(objects, "StatefulSet", set).0["spec"]["template"]["spec"]["containers"][0]["args"];
    let argv: Vec<String> = serde_json::from_value(argv.clone()).expect("args");
    assert_eq!(argv[0], "store");
    let command = StoreArgs::augment_args(clap::Command::new("store").no_binary_name(true));
    let matches = command.try_get_matches_from(&argv[1..]).unwrap_or_else(|error| panic!("{error}"));
    StoreArgs::from_arg_matches(&matches).expect("flags")
}

#[test]
fn it_runs_where_there_is_a_bucket() {
    let has = |observed: &Observed| names(observed).contains(&"StatefulSet/ops-store".to_owned());
    assert!(has(&with(json!({}))));
    assert!(!has(&with(json!({"enabled": false}))));
    assert!(!has(&world(&wish(json!({})))), "without a bucket there is nothing to serve");
}

#[test]
fn what_it_is_made_of() {
    let all = objects(&valid_in(&with(json!({}))));
    let set = &find(&all, "StatefulSet", "ops-store").0;
    assert_eq!(set["spec"]["replicas"], 2);
    assert_eq!(set["spec"]["serviceName"], "ops-store-headless");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["thanos-store-api"], "true", "that is how queriers find it");
    let endpoints = &find(&all, "Service", "ops-store-api").0["spec"]["selector"];
    for (name, value) in endpoints.as_object().expect("a selector") {
        assert_eq!(&labels[name], value);
    }
    find(&all, "PodDisruptionBudget", "ops-store");
    find(&all, "ServiceAccount", "ops-store");
    let service = &find(&all, "Service", "ops-store-headless").0;
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert!(service["spec"].get("publishNotReadyAddresses").is_none(), "who is not ready is not asked");

    let flags = flags(&all, "ops-store");
    assert_eq!(flags.objstore_config_file, "/etc/panoptes/objstore/objstore.yml");
    assert_eq!(flags.data_dir, "/var/panoptes/store");
    // Small: 1Gi of memory, 10Gi of cache
    assert_eq!((flags.index_cache_size.0, flags.chunk_pool_size.0), (128 << 20, 256 << 20));
    // Of 10 GiB: an eighth is for what is being fetched.
    assert_eq!((flags.disk_cache_size.0, flags.header_max_disk_size.0), (5 << 30, 15 << 28));
    assert_eq!(flags.selector, "");
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][1], json!({"name": "data", "emptyDir": {"sizeLimit": "10Gi"}}));
}

#[test]
fn what_can_be_set() {
    let mut observed = with(json!({
        "replicas": 3, "minTime": "-52w", "maxTime": "2026-01-01T00:00:00Z", "logLevel": "debug", "image": "example/s:1",
        "cache": {"size": "20Gi", "persistent": true, "storageClassName": "fast"},
        "resources": {"limits": {"memory": "16Gi"}},
        "extraArgs": ["--sync-block-duration=1m", "--index-cache-size=1GB"],
        "podTemplate": {"spec": {"nodeSelector": {"disk": "ssd"}}},
    }));
    let all = objects(&valid_in(&observed));
    let set = find(&all, "StatefulSet", "ops-store").0["spec"].clone();
    assert_eq!(set["template"]["spec"]["nodeSelector"]["disk"], "ssd");
    assert_eq!(set["template"]["spec"]["containers"][0]["image"], "example/s:1");
    let claim = &set["volumeClaimTemplates"][0];
    assert_eq!((&claim["metadata"]["name"], &claim["spec"]["storageClassName"]), (&json!("data"), &json!("fast")));
    assert_eq!(set["persistentVolumeClaimRetentionPolicy"], json!({"whenDeleted": "Delete", "whenScaled": "Delete"}));
    let flags = flags(&all, "ops-store");
    assert_eq!((flags.min_time.as_str(), flags.max_time.as_str()), ("-52w", "2026-01-01T00:00:00Z"));
    assert_eq!((flags.sync_interval.0, flags.index_cache_size.0), (60_000, 1 << 30), "what a person sets is theirs");
    assert_eq!(flags.chunk_pool_size.0, StoreArgs::default().chunk_pool_size.0, "no more than the default");

    // The cache can't be changed in place; what to do is said.
    carried_out(&mut observed, &all).expect("carried out");
    observed.cluster.spec.store_gateway.cache.persistent = false;
    observed.cluster.spec.store_gateway.cache.storage_class_name = None;
    let (reason, message) = said_under(&observed, Stalled);
    assert_eq!(reason, Reason::ImmutableChangeRefused);
    assert!(
        message.contains("kubectl delete statefulset ops-store") && message.contains("20Gi of class fast"),
        "{message}"
    );
    assert_eq!(templates(&objects(&valid_in(&observed))), templates(&all), "nothing is rolled");
    // The limit of an emptyDir can.
    let mut observed = with(json!({}));
    let first = objects(&valid_in(&observed));
    carried_out(&mut observed, &first).expect("carried out");
    observed.cluster.spec.store_gateway.cache.size = Some("30Gi".into());
    assert!(said(&observed).iter().all(|problem| problem.condition != Stalled));
}

#[test]
fn shards_divide_the_blocks() {
    let all = objects(&valid_in(&with(json!({"shards": 3}))));
    let mut seen = BTreeMap::new();
    for (shard, set) in ["ops-store", "ops-store-shard-1", "ops-store-shard-2"].into_iter().enumerate() {
        let body = &find(&all, "StatefulSet", set).0;
        assert_eq!(body["spec"]["selector"]["matchLabels"]["panoptes.dev/shard"], shard.to_string());
        assert_eq!(body["spec"]["serviceName"], "ops-store-headless");
        find(&all, "PodDisruptionBudget", set);
        let selector: Value = serde_saphyr::from_str(&flags(&all, set).selector).expect("YAML");
        assert_eq!(selector[0]["modulus"], 3);
        assert_eq!(selector[0]["source_labels"], json!(["__block_id"]));
        seen.insert(selector[1]["regex"].as_str().expect("text").to_owned(), set);
    }
    assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), ["0", "1", "2"]);
    let service = &find(&all, "Service", "ops-store-headless").0["spec"]["selector"];
    assert!(service.get("panoptes.dev/shard").is_none(), "one for all shards");
    // From one shard to two: what was selected before stays selected.
    let one = objects(&valid_in(&with(json!({}))));
    let of = |all: &[Object]| find(all, "StatefulSet", "ops-store").0["spec"]["selector"].clone();
    assert_eq!(of(&one), of(&all));
}

/// The pods of StatefulSets whose number changes: what each runs, as far as it was rolled out.
struct Pods {
    observed: Observed,
    run: BTreeMap<String, String>,
}

impl Pods {
    fn sets(&self) -> Vec<String> {
        self.observed.live.stateful_sets.keys().filter(|name| name.starts_with("ops-store")).cloned().collect()
    }

    /// The operator looks and applies; what is not wanted any more goes at once.
    fn reconcile(&mut self) -> Vec<Object> {
        let all = objects(&valid_in(&self.observed));
        let before = std::mem::take(&mut self.observed.live.stateful_sets);
        carried_out(&mut self.observed, &all).expect("carried out");
        for (name, set) in &mut self.observed.live.stateful_sets {
            let old = before.get(name);
            let generation = old.and_then(|old| old.metadata.generation).unwrap_or(0);
            let same = old.is_some_and(|old| old.spec == set.spec);
            set.metadata.generation = Some(if same { generation } else { generation + 1 });
            set.status = old.and_then(|old| old.status.clone());
        }
        let sets = self.sets();
        self.run.retain(|name, _| sets.contains(name));
        all
    }

    /// The pods of a set are those that it says.
    fn roll_out(&mut self, name: &str, all: &[Object]) {
        let set = self.observed.live.stateful_sets.get_mut(name).expect("a set");
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).expect("replicas");
        set.status = Some(StatefulSetStatus {
            observed_generation: set.metadata.generation,
            replicas,
            ready_replicas: Some(replicas),
            updated_replicas: Some(replicas),
            ..StatefulSetStatus::default()
        });
        self.run.insert(name.to_owned(), flags(all, name).selector);
    }

    fn serve(&self, block: u32) -> bool {
        self.run.values().any(|selector| keeps(selector, block))
    }
}

/// Whether a relabel configuration of ours keeps a block whose id has this hash.
fn keeps(selector: &str, hash: u32) -> bool {
    let steps: Vec<Value> =
        if selector.is_empty() { Vec::new() } else { serde_json::from_str(selector).expect("JSON") };
    let mut labels = BTreeMap::new();
    steps.iter().all(|step| match step["action"].as_str() {
        Some("hashmod") => {
            let modulus = step["modulus"].as_u64().expect("a modulus");
            labels.insert(step["target_label"].to_string(), (u64::from(hash) % modulus).to_string());
            true
        }
        _ => {
            let from = step["source_labels"].as_array().expect("labels").iter();
            let joined: Vec<&str> = from.map(|label| labels[&label.to_string()].as_str()).collect();
            let regex = model::regex::Regex::new(step["regex"].as_str().expect("a regex")).expect("a regex");
            regex.is_match(&joined.join(";"))
        }
    })
}

/// What queriers miss when nobody is behind it.
fn expected(all: &[Object]) -> Vec<String> {
    let text = all.iter().find_map(|object| object.0.pointer("/data/endpoints.yaml")?.as_str()).expect("a slot has it");
    let text = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
    let parsed: args::endpoints::Endpoints =
        serde_saphyr::from_str(&String::from_utf8(text.expect("base64")).expect("UTF-8")).expect("endpoints");
    let name = |address: &str| {
        let rest = address.strip_prefix("dnssrv+_grpc._tcp.").expect("a SRV name");
        rest.strip_suffix(".monitoring.svc").expect("of this namespace").to_owned()
    };
    let names: Vec<String> = parsed.endpoints.iter().map(|endpoint| name(&endpoint.address)).collect();
    assert_eq!(names.first().map(String::as_str), Some("ops-store-api"));
    names[1..].to_vec()
}

/// Nobody gives up blocks that nobody else serves, whatever the order in which pods come up, and when the wish changes midway.
#[test]
fn while_the_number_of_shards_changes_every_block_is_served() {
    let mut rng = testkit::goal::Rng(7);
    for numbers in [[1, 2, 2], [2, 1, 1], [2, 3, 3], [3, 2, 2], [4, 1, 3], [1, 4, 2], [3, 5, 1], [2, 6, 2], [2, 3, 4]] {
        let mut pods = Pods { observed: with(json!({"shards": numbers[0]})), run: BTreeMap::new() };
        let all = pods.reconcile();
        pods.sets().iter().for_each(|name| pods.roll_out(name, &all));
        for (wanted, steps) in [(numbers[1], 1 + rng.below(4)), (numbers[2], 40)] {
            pods.observed.cluster.spec.store_gateway.shards = wanted;
            for step in 0..steps {
                let all = pods.reconcile();
                let unserved: Vec<u32> = (0..60).filter(|block| !pods.serve(*block)).collect();
                assert_eq!(unserved, Vec::<u32>::new(), "{numbers:?}, step {step}: {:?}", pods.run);
                if let Some(name) = rng.choose(&pods.sets()) {
                    pods.roll_out(name, &all);
                }
            }
        }
        // It ends.
        let all = pods.reconcile();
        let count = usize::try_from(numbers[2]).expect("a number");
        assert_eq!(pods.sets().len(), count, "{numbers:?}");
        let owners = |block: u32| pods.run.values().filter(|selector| keeps(selector, block)).count();
        assert!((0..60).all(|block| owners(block) == 1), "{numbers:?}: {:?}", pods.run);
        assert_eq!(expected(&all).len(), count);
    }
}

/// A store that vanishes is missed: it has a name of its own beside the one that it shares with Prometheus.
#[test]
fn stores_are_expected_by_name() {
    let of = |spec: Value| expected(&objects(&valid_in(&with(spec))));
    assert_eq!(of(json!({})), ["ops-store-headless"]);
    assert_eq!(of(json!({"shards": 2})), ["ops-store-shard-0-api", "ops-store-shard-1-api"]);
    assert_eq!(of(json!({"replicas": 0})), [""; 0]);
    assert_eq!(of(json!({"enabled": false})), [""; 0]);
    let all = objects(&valid_in(&with(json!({"shards": 2}))));
    for shard in ["0", "1"] {
        let service = &find(&all, "Service", &format!("ops-store-shard-{shard}-api")).0["spec"];
        assert_eq!(
            (&service["clusterIP"], &service["selector"]["panoptes.dev/shard"]),
            (&json!("None"), &json!(shard))
        );
    }

    // A shard that is new is not missed before it is needed.
    let mut pods = Pods { observed: with(json!({"shards": 2})), run: BTreeMap::new() };
    let all = pods.reconcile();
    pods.sets().iter().for_each(|name| pods.roll_out(name, &all));
    pods.observed.cluster.spec.store_gateway.shards = 3;
    let all = pods.reconcile();
    assert_eq!((pods.sets().len(), expected(&all).len()), (3, 2));
    pods.sets().iter().for_each(|name| pods.roll_out(name, &all));
    assert_eq!(expected(&pods.reconcile()).len(), 3);

    // Nor does it stand in for the one that is.
    let mut pods = Pods { observed: with(json!({})), run: BTreeMap::new() };
    let all = pods.reconcile();
    pods.roll_out("ops-store", &all);
    pods.observed.cluster.spec.store_gateway.shards = 2;
    assert_eq!(expected(&pods.reconcile()), ["ops-store-shard-0-api"]);
}

/// One shard was not told to give up its old blocks when the others were, and the wish changes.
#[test]
fn half_a_change_of_shards_is_no_reason_for_a_hole() {
    let mut pods = Pods { observed: with(json!({"shards": 2})), run: BTreeMap::new() };
    let all = pods.reconcile();
    pods.sets().iter().for_each(|name| pods.roll_out(name, &all));
    pods.observed.cluster.spec.store_gateway.shards = 3;
    let all = pods.reconcile();
    pods.sets().iter().for_each(|name| pods.roll_out(name, &all));
    let late = pods.observed.live.stateful_sets["ops-store"].clone();
    let all = pods.reconcile();
    for name in ["ops-store-shard-1", "ops-store-shard-2"] {
        pods.roll_out(name, &all);
    }
    let both = pods.run["ops-store"].clone();
    pods.observed.live.stateful_sets.insert("ops-store".to_owned(), late);
    pods.observed.cluster.spec.store_gateway.shards = 4;
    for _ in 0..2 {
        let all = pods.reconcile();
        pods.run.entry("ops-store".to_owned()).or_insert_with(|| both.clone());
        assert!((0..60).all(|block| pods.serve(block)), "{:?}", pods.run);
        for name in ["ops-store-shard-2", "ops-store-shard-3", "ops-store-shard-1"] {
            pods.roll_out(name, &all);
            assert!((0..60).all(|block| pods.serve(block)), "{name}: {:?}", pods.run);
        }
    }
}

/// What is told to do is done one StatefulSet after another, and ends.
#[test]
fn a_cache_is_changed_shard_by_shard() {
    let mut observed = with(json!({"shards": 2, "cache": {"size": "20Gi", "persistent": true}}));
    let all = objects(&valid_in(&observed));
    carried_out(&mut observed, &all).expect("carried out");
    observed.cluster.spec.store_gateway.cache.size = Some("40Gi".into());
    let size = |all: &[Object], set: &str| {
        let claim = find(all, "StatefulSet", set).0["spec"]["volumeClaimTemplates"][0].clone();
        let size = claim["spec"]["resources"]["requests"]["storage"].as_str().expect("a size").to_owned();
        (size, flags(all, set).disk_cache_size.0 >> 30)
    };
    let (large, small) = (("40Gi".to_owned(), 20), ("20Gi".to_owned(), 10));
    observed.live.stateful_sets.remove("ops-store");
    let all = objects(&valid_in(&observed));
    assert_eq!((size(&all, "ops-store"), size(&all, "ops-store-shard-1")), (large.clone(), small));
    let (_, message) = said_under(&observed, Stalled);
    assert!(message.contains("kubectl delete statefulset ops-store-shard-1"), "{message}");
    carried_out(&mut observed, &all).expect("carried out");
    observed.live.stateful_sets.remove("ops-store-shard-1");
    let all = objects(&valid_in(&observed));
    assert_eq!((size(&all, "ops-store"), size(&all, "ops-store-shard-1")), (large.clone(), large));
    assert!(said(&observed).iter().all(|problem| problem.condition != Stalled));
}

#[test]
fn what_is_refused() {
    for (gateway, field, part) in [
        (json!({"minTime": "yesterday"}), "spec.storeGateway.minTime", "neither a time"),
        (json!({"maxTime": "-2 weeks"}), "spec.storeGateway.maxTime", "neither a time"),
        (json!({"minTime": "-1d", "maxTime": "-2d"}), "spec.storeGateway.minTime", "swap them"),
        (
            json!({"minTime": "2026-01-02T00:00:00Z", "maxTime": "2026-01-01T00:00:00Z"}),
            "spec.storeGateway.minTime",
            "swap them",
        ),
        (json!({"cache": {"size": "0"}}), "spec.storeGateway.cache.size", "no size"),
        (json!({"extraArgs": ["--data-dir=/x"]}), "spec.storeGateway.extraArgs", "--data-dir is set"),
        (json!({"extraArgs": ["--min-time=-1d"]}), "spec.storeGateway.extraArgs", "--min-time is set"),
        (json!({"extraArgs": ["--no-such-flag"]}), "spec.storeGateway.extraArgs", "--no-such-flag"),
        (json!({"extraArgs": ["--sync-block-duration=soon"]}), "spec.storeGateway.extraArgs", "soon"),
        (
            json!({"shards": 2, "extraArgs": ["--selector.relabel-config=[]"]}),
            "spec.storeGateway.extraArgs",
            "--selector.relabel-config is set",
        ),
    ] {
        let observed = with(gateway.clone());
        let problems = validate(&observed.cluster, &observed).expect_err(&gateway.to_string());
        let found = problems.iter().find(|problem| problem.condition == Stalled).expect("stalled");
        assert_eq!((found.reason, found.field.as_str()), (Reason::InvalidSpec, field), "{problems:#?}");
        assert!(found.message.contains(part), "{found}");
    }
    let own = with(json!({"extraArgs": ["--selector.relabel-config=[]"]}));
    assert!(validate(&own.cluster, &own).is_ok(), "one shard: the selector is free");
    let mount = json!({"spec": {"containers": [{"name": "store", "volumeMounts": [
        {"name": "x", "mountPath": "/var/panoptes/store"}]}]}});
    let observed = with(json!({"podTemplate": mount}));
    assert_eq!(
        validate(&observed.cluster, &observed).expect_err("a mount of ours")[0].reason,
        Reason::PodTemplateRejected
    );
}

/// A bucket that is a volume is never written to by who only reads.
#[test]
fn it_reads_only() {
    let observed = world(&wish(json!({"objectStorage": {"filesystem": {"volumeClaimName": "h"}}})));
    let all = objects(&valid_in(&observed));
    let container = &find(&all, "StatefulSet", "ops-store").0["spec"]["template"]["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let bucket = mounts.iter().find(|mount| mount["mountPath"] == "/var/panoptes/bucket").expect("the bucket");
    assert_eq!(bucket["readOnly"], true);
}

fn remote(bucket: Value) -> Observed {
    let mut observed = world(&wish(json!({"objectStorage": {"gcs": {"bucket": "b-1"}}})));
    observed.secrets.extend([secret("reader", &[("key.json", &service_account().to_string())])]);
    observed.remotes = vec![link("dr", json!({"clusterName": "dr", "bucketRef": bucket}))];
    observed
}

fn gcs() -> Value {
    json!({"gcs": {"bucket": "dr-long-term", "credentialsSecretRef": {"name": "reader", "key": "key.json"}}})
}

#[test]
fn the_bucket_of_another_cluster() {
    let observed = remote(gcs());
    let valid = valid_in(&observed);
    assert_eq!(valid.link_problems, BTreeMap::new());
    assert_eq!(valid.links[0].address, "dnssrv+_grpc._tcp.ops-remote-dr-headless.monitoring.svc");
    let all = objects(&valid);
    let set = &find(&all, "StatefulSet", "ops-remote-dr").0["spec"];
    let labels = &set["template"]["metadata"]["labels"];
    assert!(labels.get("thanos-store-api").is_none(), "it is no store of this cluster");
    assert_eq!(labels["app.kubernetes.io/component"], "remote-dr");
    assert_eq!(set["template"]["spec"]["volumes"][0]["secret"]["secretName"], "ops-remote-dr-objstore");
    find(&all, "Service", "ops-remote-dr-headless");
    let rendered = find(&all, "Secret", "ops-remote-dr-objstore").0["data"]["objstore.yml"].clone();
    assert_ne!(rendered, find(&all, "Secret", "ops-objstore").0["data"]["objstore.yml"]);
    assert_eq!(flags(&all, "ops-remote-dr").objstore_config_file, "/etc/panoptes/objstore/objstore.yml");

    // It comes and goes without touching anybody's pods.
    let mut without = observed.clone();
    without.remotes.clear();
    let mut before = templates(&all);
    before.remove("StatefulSet/ops-remote-dr");
    assert_eq!(before, templates(&objects(&valid_in(&without))));
    assert_ne!(links_revision(&valid), links_revision(&valid_in(&without)));
    // Nothing else is ever read than what is named.
    let named = references(&observed.cluster, &observed.remotes).secrets;
    assert!(named.contains("reader") && named.contains("ops-remote-dr-objstore"), "{named:?}");
}

#[test]
fn what_is_wrong_with_a_bucket_of_a_link_concerns_it_alone() {
    let long = "a".repeat(50);
    for (name, spec, reason, parts) in [
        (
            "dr",
            json!({"gcs": {"bucket": "b-1", "credentialsSecretRef": {"name": "none", "key": "k"}}}),
            Reason::SecretMissing,
            &["\"none\"", "does not exist"][..],
        ),
        (
            "dr",
            json!({"gcs": {"bucket": "b-1", "credentialsSecretRef": {"name": "bad", "key": "k"}}}),
            Reason::SecretInvalid,
            &["\"bad\"", "is not JSON"],
        ),
        ("dr", json!({}), Reason::InvalidSpec, &["exactly one of gcs"]),
        (long.as_str(), gcs(), Reason::InvalidSpec, &["at most 41 characters", "Choose another name"]),
        ("a.b", gcs(), Reason::InvalidSpec, &["Choose another name"]),
    ] {
        let mut observed = remote(gcs());
        observed.secrets.extend([secret("bad", &[("k", "{")])]);
        observed.remotes = vec![link(name, json!({"clusterName": "dr", "bucketRef": spec}))];
        let valid = valid_in(&observed);
        assert_eq!(valid.links, [], "{name} {spec}");
        let told = &valid.link_problems[name];
        assert_eq!((told[0].condition, told[0].reason), (Accepted, reason), "{told:?}");
        assert!(parts.iter().all(|part| told[0].message.contains(part)), "{told:?}");
        assert!(told[0].field.starts_with("spec.bucketRef") || told[0].field == "metadata.name", "{told:?}");
        assert!(said(&observed).iter().all(|problem| problem.condition != Stalled), "the cluster goes on");
    }
    let mut observed = remote(gcs());
    let mut both = gcs();
    both["s3"] = json!({"bucket": "abc", "region": "x"});
    observed.remotes = vec![link("dr", json!({"clusterName": "dr", "bucketRef": both}))];
    assert!(valid_in(&observed).link_problems["dr"][0].message.contains("exactly one of gcs"));
    observed.remotes =
        vec![link("dr", json!({"clusterName": "dr", "bucketRef": gcs(), "tls": {"caSecretRef": {"name": "x"}}}))];
    assert!(valid_in(&observed).link_problems["dr"][0].message.contains("takes no tls and no auth"));
}

#[test]
fn the_bucket_of_a_link_while_its_secret_is_replaced() {
    let mut observed = remote(gcs());
    let first = valid_in(&observed);
    carried_out(&mut observed, &objects(&first)).expect("carried out");
    observed.secrets.remove("reader");
    let now = valid_in(&observed);
    assert_eq!(links_revision(&now), links_revision(&first), "the link stays");
    let of = |valid| find(&objects(valid), "Secret", "ops-remote-dr-objstore").0.clone();
    assert_eq!(of(&now), of(&first));
    let told = &now.link_problems["dr"][0];
    assert_eq!((told.condition, told.reason), (Accepted, Reason::SecretMissing));
    assert!(told.message.ends_with("keeps the previous content."), "{told}");
}
