//! The compactor: when it runs, what it is made of, and which settings defeat themselves.

use args::CompactArgs;
use clap::{Args as _, FromArgMatches as _};
use operator::cluster::ConditionType::{Stalled, Warning};
use operator::cluster::{Reason, validate};
use operator::desired::{Object, objects};
use operator::observe::Observed;
use serde_json::{Value, json};

use super::support::{carried_out, find, names, said, said_under, templates, valid_in, wish, world};

fn with(compactor: Value) -> Observed {
    spec(json!({"compactor": compactor}))
}

fn spec(mut more: Value) -> Observed {
    more["objectStorage"] = json!({"gcs": {"bucket": "b-1"}});
    world(&wish(more))
}

/// The flags, read back as the compactor itself reads them.
fn flags(objects: &[Object]) -> CompactArgs {
    let argv = &find(objects, "StatefulSet", "ops-compact").0["spec"]["template"]["spec"]["containers"][0]["args"];
    let argv: Vec<String> = serde_json::from_value(argv.clone()).expect("args");
    assert_eq!(argv[0], "compact");
    let command = CompactArgs::augment_args(clap::Command::new("compact").no_binary_name(true));
    let matches = command.try_get_matches_from(&argv[1..]).unwrap_or_else(|error| panic!("{error}"));
    CompactArgs::from_arg_matches(&matches).expect("flags")
}

#[test]
fn it_runs_where_there_is_a_bucket() {
    let has = |observed: &Observed| names(observed).contains(&"StatefulSet/ops-compact".to_owned());
    assert!(has(&with(json!({}))));
    assert!(!has(&with(json!({"enabled": false}))));
    assert!(!has(&world(&wish(json!({})))), "without a bucket there is nothing to compact");
}

#[test]
fn what_it_is_made_of() {
    let all = objects(&valid_in(&with(json!({}))));
    let set = &find(&all, "StatefulSet", "ops-compact").0;
    assert_eq!((&set["spec"]["replicas"], &set["spec"]["serviceName"]), (&json!(1), &json!("ops-compact-headless")));
    assert!(set["spec"].get("podManagementPolicy").is_none(), "one after the other");
    let pod = &set["spec"]["template"];
    assert!(pod["metadata"]["labels"].get("thanos-store-api").is_none(), "it serves no StoreAPI");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["env"], json!([{"name": "POD_NAME", "value": "ops.monitoring.ops-compact-0"}]));
    assert!(container.pointer("/resources/limits/cpu").is_none());
    find(&all, "ServiceAccount", "ops-compact");
    assert_eq!(find(&all, "Service", "ops-compact-headless").0["spec"]["clusterIP"], "None");
    let budget = |object: &&Object| object.kind() == "PodDisruptionBudget" && object.name() == "ops-compact";
    assert!(all.iter().find(budget).is_none(), "one replica with a budget would block drains for ever");
    let claim = &set["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "50Gi");

    let flags = flags(&all);
    let days = |n: i64| n * 86_400_000;
    assert_eq!(flags.objstore_config_file, "/etc/panoptes/objstore/objstore.yml");
    assert_eq!((flags.retention_raw.0, flags.retention_5m.0, flags.retention_1h.0), (0, 0, 0), "nothing goes unasked");
    assert!(flags.retention_labels.is_empty());
    assert!(flags.wait.0 && !flags.downsampling_disable.0 && !flags.vertical.0);
    assert_eq!((flags.consistency_delay.0, flags.delete_delay.0), (1_800_000, days(2)));
    // Small enough for one machine: no claim.
    let small = objects(&valid_in(&spec(json!({"profile": "Minimal"}))));
    let pod = &find(&small, "StatefulSet", "ops-compact").0["spec"]["template"]["spec"];
    assert_eq!(pod["volumes"][1], json!({"name": "data", "emptyDir": {"sizeLimit": "5Gi"}}));
    // A bucket that is a folder is written to.
    let folder = world(&wish(json!({"objectStorage": {"filesystem": {"volumeClaimName": "blocks"}}})));
    let folder = objects(&valid_in(&folder));
    let mounts = find(&folder, "StatefulSet", "ops-compact").0["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(mounts["volumeMounts"][1], json!({"name": "bucket", "mountPath": "/var/panoptes/bucket"}));
}

#[test]
fn what_can_be_set() {
    let mut observed = spec(json!({
        "replicaLabel": "replica", "storage": {"storageClassName": "standard"},
        "retention": {"raw": "90d", "fiveMinutes": "1y", "oneHour": "10y"},
        "compactor": {
            "concurrency": 3, "consistencyDelay": "0", "deleteDelay": "12h", "verticalDedup": true, "logLevel": "debug",
            "image": "example/c:1", "storage": {"size": "20Gi"}, "resources": {"limits": {"memory": "16Gi"}},
            "extraArgs": ["--wait-interval=1m"], "podTemplate": {"spec": {"nodeSelector": {"disk": "ssd"}}},
        },
    }));
    let all = objects(&valid_in(&observed));
    let set = find(&all, "StatefulSet", "ops-compact").0["spec"].clone();
    assert_eq!(set["template"]["spec"]["nodeSelector"]["disk"], "ssd");
    assert_eq!(set["template"]["spec"]["containers"][0]["image"], "example/c:1");
    let claim = &set["volumeClaimTemplates"][0]["spec"];
    assert_eq!(
        (&claim["storageClassName"], &claim["resources"]["requests"]["storage"]),
        (&json!("standard"), &json!("20Gi"))
    );
    let flags = flags(&all);
    let days = |n: i64| n * 86_400_000;
    assert_eq!((flags.retention_raw.0, flags.retention_5m.0, flags.retention_1h.0), (days(90), days(365), days(3650)));
    assert_eq!(flags.retention_labels, ["cluster=ops"], "other clusters' blocks are theirs");
    assert_eq!((flags.compact_concurrency, flags.downsample_concurrency), (3, 3));
    assert_eq!((flags.consistency_delay.0, flags.delete_delay.0, flags.wait_interval.0), (0, 43_200_000, 60_000));
    assert!(flags.vertical.0 && flags.replica_labels == ["replica"] && flags.dedup_func == "penalty");

    // The volume can't be changed in place; what to do is said, and nothing is rolled.
    carried_out(&mut observed, &all).expect("carried out");
    observed.cluster.spec.compactor.storage.size = Some("40Gi".into());
    let (reason, message) = said_under(&observed, Stalled);
    assert_eq!(reason, Reason::ImmutableChangeRefused);
    assert!(message.contains("kubectl delete statefulset ops-compact") && message.contains("20Gi"), "{message}");
    assert_eq!(templates(&objects(&valid_in(&observed))), templates(&all));
}

#[test]
fn without_downsampling_nothing_goes_unasked() {
    let all = objects(&valid_in(&with(json!({"downsampling": false}))));
    let off = flags(&all);
    assert!(off.downsampling_disable.0);
    assert_eq!(off.retention_raw.0, 0, "nothing goes unasked");
    let asked = spec(json!({"compactor": {"downsampling": false}, "retention": {"raw": "1d"}}));
    let (reason, message) = said_under(&asked, Warning);
    assert_eq!(reason, Reason::RiskySettings);
    assert!(message.contains("no coarser copy"), "{message}");
    assert_eq!(flags(&objects(&valid_in(&asked))).retention_raw.0, 86_400_000);
}

#[test]
fn what_defeats_itself_is_refused() {
    for (wish, field, part) in [
        (json!({"retention": {"raw": "39h"}}), "spec.retention.raw", "at least 40h"),
        (json!({"retention": {"fiveMinutes": "9d23h"}}), "spec.retention.fiveMinutes", "at least 10d"),
        (json!({"retention": {"raw": "a month"}}), "spec.retention.raw", "no duration"),
        (json!({"compactor": {"deleteDelay": "soon"}}), "spec.compactor.deleteDelay", "no duration"),
        (json!({"compactor": {"storage": {"size": "0"}}}), "spec.compactor.storage.size", "no size"),
        (json!({"compactor": {"extraArgs": ["--no-wait"]}}), "spec.compactor.extraArgs", "--wait is set"),
        (
            json!({"compactor": {"extraArgs": ["--retention.resolution-raw=1d"]}}),
            "spec.compactor.extraArgs",
            "--retention.resolution-raw is set",
        ),
        (json!({"compactor": {"extraArgs": ["--no-such-flag"]}}), "spec.compactor.extraArgs", "--no-such-flag"),
        (
            json!({"compactor": {"verticalDedup": true, "extraArgs": ["--deduplication.replica-label=a"]}}),
            "spec.compactor.extraArgs",
            "--deduplication.replica-label is set",
        ),
    ] {
        let observed = spec(wish.clone());
        let problems = validate(&observed.cluster, &observed).expect_err(&wish.to_string());
        let found = problems.iter().find(|problem| problem.condition == Stalled).expect("stalled");
        assert_eq!((found.reason, found.field.as_str()), (Reason::InvalidSpec, field), "{problems:#?}");
        assert!(found.message.contains(part), "{found}");
    }
    // Both sides of each limit.
    for wish in [json!({"raw": "40h"}), json!({"fiveMinutes": "10d"}), json!({"raw": "0", "fiveMinutes": "0"})] {
        let told = said(&spec(json!({"retention": wish})));
        assert!(told.iter().all(|problem| problem.condition != Stalled), "{told:#?}");
    }
}

#[test]
fn what_gains_nothing_is_warned_about() {
    // The tutorial's own values, older and newer.
    for (raw, five, hour, part) in [
        ("15d", "10d", "10d", "Keep it at least 21d"),
        ("30d", "15d", "10d", "shorter than retention.fiveMinutes (15d)"),
        ("30d", "180d", "90d", "shorter than retention.fiveMinutes (180d)"),
        ("0", "21d", "30d", "shorter than retention.raw (for ever)"),
    ] {
        let observed = spec(json!({"retention": {"raw": raw, "fiveMinutes": five, "oneHour": hour}}));
        let told: Vec<String> =
            said(&observed).into_iter().filter(|p| p.condition == Warning).map(|p| p.message).collect();
        assert!(told.iter().any(|message| message.contains(part)), "{raw} {five} {hour}: {told:?}");
        assert!(validate(&observed.cluster, &observed).is_ok(), "it works all the same");
    }
    let good = spec(json!({"retention": {"raw": "40h", "fiveMinutes": "21d", "oneHour": "0"}}));
    assert_eq!(said(&good), []);
}
