//! The bucket in all its forms: what is said about its Secrets, and the file that the parts get.

use operator::cluster::ConditionType::{ObjectStorageReady, Stalled};
use operator::cluster::Reason;
use operator::desired::objects;
use operator::observe::Observed;
use serde_json::{Value, json};

use super::support::{
    BUCKETS, EXAMPLES, carried_out, cluster, find, names, said, said_under, secret, service_account, templates,
    valid_in, wish, world,
};

#[test]
fn no_bucket() {
    let (reason, message) = said_under(&world(&wish(json!({}))), ObjectStorageReady);
    assert_eq!(reason, Reason::NotConfigured);
    assert!(message.contains("spec.objectStorage"), "{message}");
}

#[test]
fn gcs_secrets() -> anyhow::Result<()> {
    let good = world(&cluster("tutorial")?);
    assert!(said(&good).iter().all(|problem| problem.condition != ObjectStorageReady), "{:?}", said(&good));
    assert!(names(&good).contains(&"Secret/ops-objstore".to_owned()));

    let without = |field: &str| {
        let mut key = service_account();
        key.as_object_mut().map(|fields| fields.remove(field));
        key.to_string()
    };
    let with = |field: &str, value: &str| {
        let mut key = service_account();
        key[field] = json!(value);
        key.to_string()
    };
    let key = "thanos-gcs-credentials.json";
    for (found, reason, part) in [
        (None, Reason::SecretMissing, "does not exist"),
        (
            Some(("other.json", service_account().to_string())),
            Reason::SecretMissing,
            "has no key \"thanos-gcs-credentials.json\"",
        ),
        (Some((key, String::new())), Reason::SecretInvalid, "is empty"),
        (Some((key, "{".to_owned())), Reason::SecretInvalid, "is not JSON (line 1, column 1)"),
        (Some((key, "[]".to_owned())), Reason::SecretInvalid, "is not a JSON object"),
        (Some((key, without("type"))), Reason::SecretInvalid, "lacks the field \"type\""),
        (Some((key, without("client_email"))), Reason::SecretInvalid, "lacks the field \"client_email\""),
        (Some((key, without("private_key"))), Reason::SecretInvalid, "lacks the field \"private_key\""),
        (Some((key, with("type", "authorized_user"))), Reason::SecretInvalid, "\"authorized_user\""),
        (Some((key, with("private_key", "secret words"))), Reason::SecretInvalid, "no PEM private key"),
    ] {
        let mut observed = good.clone();
        observed.secrets.remove("thanos-gcs-credentials");
        if let Some((key, text)) = &found {
            observed.secrets.extend([secret("thanos-gcs-credentials", &[(key, text)])]);
        }
        let (said, message) = said_under(&observed, ObjectStorageReady);
        assert_eq!(said, reason, "{message}");
        assert!(message.contains(part) && message.contains("thanos-gcs-credentials"), "{message}");
        assert!(!message.contains("secret words"), "no secret is told: {message}");
        // what needs no bucket runs
        let names = names(&observed);
        assert!(
            names.contains(&"StatefulSet/ops-prometheus".to_owned())
                && !names.contains(&"Secret/ops-objstore".to_owned())
        );
    }
    Ok(())
}

#[test]
fn thanos_files() {
    let spec = json!({"objectStorage": {"secretRef": {"name": "bucket", "key": "objstore.yml"}}});
    for (text, part) in [
        ("type: S3\nconfig: [", "is not YAML"),
        ("- a", "is not an object-storage file"),
        ("config: {}", "lacks the field \"type\""),
        ("type: FLOPPY\nconfig: {}", "the type \"FLOPPY\": GCS, S3 and AZURE"),
        ("type: COS\nconfig: {}", "the type \"COS\": GCS, S3 and AZURE"),
        ("type: FILESYSTEM\nconfig: {directory: /data}", "use spec.objectStorage.filesystem"),
        ("type: S3", "lacks the field \"config\""),
    ] {
        let mut observed = world(&wish(spec.clone()));
        observed.secrets.extend([secret("bucket", &[("objstore.yml", text)])]);
        let (reason, message) = said_under(&observed, ObjectStorageReady);
        assert_eq!(reason, Reason::SecretInvalid);
        assert!(message.contains(part), "{message}");
    }
    let mut observed = world(&wish(spec));
    observed.secrets.extend([secret("bucket", &[("objstore.yml", "type: s3\nconfig: {bucket: b}\n")])]);
    let storage = valid_in(&observed).object_storage.expect("it is good");
    assert_eq!(storage.files["objstore.yml"], b"type: s3\nconfig: {bucket: b}\n", "as it is");
}

/// The rendered file of a wish in a world with these Secrets.
fn rendered(storage: &Value, secrets: &[(&str, &[(&str, &str)])]) -> String {
    let mut observed = world(&wish(json!({"objectStorage": storage})));
    observed.secrets.extend(secrets.iter().map(|(name, data)| secret(name, data)));
    let files = valid_in(&observed).object_storage.unwrap_or_else(|| panic!("{:?}", said(&observed))).files;
    let text = String::from_utf8(files["objstore.yml"].clone()).expect("text");
    // The engine's own strict reader.
    bucket::Config::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    text
}

#[test]
fn each_form_as_the_parts_get_it() {
    let aws: &[(&str, &str)] = &[("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "a/b+c\n")];
    let with_token: &[(&str, &str)] = &[aws[0], aws[1], ("AWS_SESSION_TOKEN", "t")];
    let ca: &[(&str, &str)] = &[("ca.crt", super::support::CERTIFICATE)];
    for (storage, secrets, wanted) in [
        (json!({"gcs": {"bucket": "b-1"}}), &[][..], "type: GCS\nconfig:\n  bucket: b-1\n"),
        (
            json!({"gcs": {"bucket": "b-1", "endpoint": "http://10.0.0.1:4443"}, "prefix": "fleet/eu"}),
            &[],
            "type: GCS\nconfig:\n  bucket: b-1\n  endpoint: http://10.0.0.1:4443\nprefix: fleet/eu\n",
        ),
        (
            json!({"s3": {"bucket": "b-1", "region": "eu-west-1"}}),
            &[],
            "type: S3\nconfig:\n  bucket: b-1\n  endpoint: s3.eu-west-1.amazonaws.com\n  region: eu-west-1\n",
        ),
        (
            json!({"s3": {"bucket": "b-1", "endpoint": "http://minio:9000", "credentialsSecretRef": {"name": "aws"}}}),
            &[("aws", aws)],
            "type: S3\nconfig:\n  bucket: b-1\n  endpoint: 'minio:9000'\n  insecure: true\n  access_key: me\n  secret_key: a/b+c\n",
        ),
        (
            json!({"s3": {"bucket": "b-1", "endpoint": "https://minio", "region": "x", "credentialsSecretRef": {"name": "aws"},
                "caSecretRef": {"name": "ca", "key": "ca.crt"}}}),
            &[("aws", with_token), ("ca", ca)],
            "type: S3\nconfig:\n  bucket: b-1\n  endpoint: minio\n  region: x\n  access_key: me\n  secret_key: a/b+c\n  \
             session_token: t\n  http_config:\n    tls_config:\n      ca_file: /etc/panoptes/objstore/ca-72819a0afb33.crt\n",
        ),
        (
            json!({"azure": {"container": "c-1", "account": "acc"}}),
            &[],
            "type: AZURE\nconfig:\n  storage_account: acc\n  container: c-1\n",
        ),
        (
            json!({"azure": {"container": "c-1", "account": "acc", "endpoint": "blob.core.usgovcloudapi.net",
                "credentialsSecretRef": {"name": "az", "key": "k"}}}),
            &[("az", &[("k", "AQIDBA==\n")])],
            "type: AZURE\nconfig:\n  storage_account: acc\n  container: c-1\n  endpoint: blob.core.usgovcloudapi.net\n  \
             storage_account_key: AQIDBA==\n",
        ),
        (
            json!({"filesystem": {"volumeClaimName": "history"}}),
            &[],
            "type: FILESYSTEM\nconfig:\n  directory: /var/panoptes/bucket\n",
        ),
        (
            json!({"secretRef": {"name": "t", "key": "y"}, "prefix": "p"}),
            &[("t", &[("y", "type: S3\nconfig: {bucket: b, endpoint: e}\n")])],
            "type: S3\nconfig:\n  bucket: b\n  endpoint: e\nprefix: p\n",
        ),
    ] {
        let said: Value = serde_saphyr::from_str(&rendered(&storage, secrets)).expect("YAML");
        let wanted: Value = serde_saphyr::from_str(wanted).expect("YAML");
        assert_eq!(said, wanted, "{storage}");
    }
    let key = rendered(
        &json!({"gcs": {"bucket": "b-1", "credentialsSecretRef": {"name": "k", "key": "k.json"}}}),
        &[("k", &[("k.json", &service_account().to_string())])],
    );
    let key: Value = serde_saphyr::from_str(&key).expect("YAML");
    let inner: Value = serde_json::from_str(key["config"]["service_account"].as_str().expect("text")).expect("JSON");
    assert_eq!(inner, service_account(), "the key survives its way into YAML");
    assert!(
        bucket::Config::parse("type: GCS\nconfig:\n  bucket: b-1\n  buckett: x\n").is_err(),
        "the reader is strict"
    );
}

#[test]
fn what_is_wrong_names_the_key_and_tells_no_secret() {
    let s3 = json!({"s3": {"bucket": "b-1", "endpoint": "https://s", "credentialsSecretRef": {"name": "aws"},
        "caSecretRef": {"name": "ca", "key": "ca.crt"}}});
    let azure =
        json!({"azure": {"container": "c-1", "account": "acc", "credentialsSecretRef": {"name": "az", "key": "k"}}});
    let good: (&str, &[(&str, &str)]) = ("aws", &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);
    for (storage, secrets, reason, parts) in [
        (&s3, &[][..], Reason::SecretMissing, &["\"aws\"", "does not exist"][..]),
        (
            &s3,
            &[("aws", &[("AWS_ACCESS_KEY_ID", "a")][..])],
            Reason::SecretMissing,
            &["\"aws\"", "no key \"AWS_SECRET_ACCESS_KEY\""],
        ),
        (
            &s3,
            &[("aws", &[("AWS_ACCESS_KEY_ID", " "), ("AWS_SECRET_ACCESS_KEY", "b")])],
            Reason::SecretInvalid,
            &["AWS_ACCESS_KEY_ID", "is empty"],
        ),
        (
            &s3,
            &[("aws", &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "two words")])],
            Reason::SecretInvalid,
            &["AWS_SECRET_ACCESS_KEY", "more than one word"],
        ),
        (
            &s3,
            &[("aws", &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "two$(words!")])],
            Reason::SecretInvalid,
            &["AWS_SECRET_ACCESS_KEY", "name of a variable"],
        ),
        (&s3, &[good], Reason::SecretMissing, &["\"ca\""]),
        (
            &s3,
            &[good, ("ca", &[("ca.crt", "two words")])],
            Reason::SecretInvalid,
            &["\"ca.crt\"", "no PEM certificate"],
        ),
        (&azure, &[], Reason::SecretMissing, &["\"az\""]),
        (&azure, &[("az", &[("k", "two words")])], Reason::SecretInvalid, &["\"k\"", "more than one word"]),
        (&azure, &[("az", &[("k", "words!")])], Reason::SecretInvalid, &["\"k\"", "base64"]),
    ] {
        let mut observed = world(&wish(json!({"objectStorage": storage})));
        observed.secrets.extend(secrets.iter().map(|(name, data)| secret(name, data)));
        let (said, message) = said_under(&observed, ObjectStorageReady);
        assert_eq!(said, reason, "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
        assert!(!message.contains("two words") && !message.contains("words!"), "no secret is told: {message}");
        assert!(names(&observed).contains(&"StatefulSet/ops-prometheus".to_owned()), "the rest runs");
    }
}

#[test]
fn the_data_of_a_server_is_no_bucket() {
    let mut observed =
        world(&wish(json!({"objectStorage": {"filesystem": {"volumeClaimName": "data-ops-prometheus-0"}}})));
    observed.live.claims.insert("data-ops-prometheus-0".to_owned(), Default::default());
    let (reason, message) = said_under(&observed, Stalled);
    assert!(reason == Reason::InvalidSpec && message.contains("take another claim"), "{message}");
}

fn container<'a>(template: &'a Value, name: &str) -> &'a Value {
    let containers = template["spec"]["containers"].as_array().expect("containers");
    containers.iter().find(|container| container["name"] == name).expect("the container")
}

fn args_of(observed: &Observed, name: &str) -> Vec<String> {
    let template = &templates(&objects(&valid_in(observed)))["StatefulSet/ops-prometheus"];
    serde_json::from_value(container(template, name)["args"].clone()).expect("args")
}

fn has(args: &[String], flag: &str) -> bool {
    args.iter().any(|arg| arg.starts_with(flag))
}

/// operators.md: what keeps Prometheus from compacting what is not uploaded yet.
#[test]
fn blocks_wait_for_their_upload() {
    const FILE: &str = "--storage.tsdb.delay-compact-file.path=/prometheus/thanos.shipper.json";
    let with = |more: Value| {
        let mut spec = json!({"objectStorage": {"gcs": {"bucket": "b-1"}}});
        spec.as_object_mut().into_iter().for_each(|spec| spec.extend(more.as_object().cloned().unwrap_or_default()));
        world(&wish(spec))
    };
    let without = world(&wish(json!({})));
    assert!(
        !has(&args_of(&without, "prometheus"), "--storage.tsdb.delay")
            && !has(&args_of(&without, "sidecar"), "--objstore")
    );

    let now = with(json!({}));
    assert!(has(&args_of(&now, "prometheus"), FILE) && !has(&args_of(&now, "prometheus"), "--storage.tsdb.min-block"));
    assert!(has(&args_of(&now, "sidecar"), "--objstore.config-file=/etc/panoptes/objstore/objstore.yml"));

    let old = with(json!({"prometheusVersion": "3.5.0"}));
    let args = args_of(&old, "prometheus");
    assert!(!has(&args, FILE));
    assert!(has(&args, "--storage.tsdb.min-block-duration=2h") && has(&args, "--storage.tsdb.max-block-duration=2h"));

    // The length of blocks is the user's where nothing depends on it.
    let short = json!({"prometheus": {"extraArgs": ["--storage.tsdb.min-block-duration=1m", "--storage.tsdb.max-block-duration=2m"]}});
    assert!(has(&args_of(&with(short.clone()), "prometheus"), "--storage.tsdb.max-block-duration=2m"));
    let mut both = short;
    both["prometheusVersion"] = json!("3.5.0");
    let (reason, message) = {
        let all = said(&with(both));
        let first = all.iter().find(|problem| problem.condition == Stalled).expect("said").clone();
        (first.reason, first.message)
    };
    assert!(reason == Reason::InvalidSpec && message.contains("block-duration is set by the operator"), "{message}");
    let unknown = with(json!({"prometheus": {"extraArgs": ["--some.new-flag=1"]}}));
    assert!(
        has(&args_of(&unknown, "prometheus"), "--some.new-flag=1"),
        "flags of a newer Prometheus are not ours to refuse"
    );
}

#[test]
fn the_sidecar_reaches_blocks_and_bucket() {
    let mounts = |observed: &Observed| {
        let template = templates(&objects(&valid_in(observed)))["StatefulSet/ops-prometheus"].clone();
        let mounts = container(&template, "sidecar")["volumeMounts"].as_array().cloned().unwrap_or_default();
        let of = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).cloned();
        (
            of("/prometheus"),
            of("/etc/panoptes/objstore"),
            of("/var/panoptes/bucket"),
            template["spec"]["volumes"].clone(),
        )
    };
    let (data, config, bucket, _) = mounts(&world(&wish(json!({}))));
    assert!(data.is_some_and(|mount| mount["readOnly"] == true) && config.is_none() && bucket.is_none());

    let (data, config, bucket, volumes) = mounts(&world(&wish(json!({"objectStorage": {"gcs": {"bucket": "b-1"}}}))));
    assert!(data.is_some_and(|mount| mount.get("readOnly").is_none()), "hard links are made beside the blocks");
    assert!(config.is_some_and(|mount| mount["readOnly"] == true) && bucket.is_none());
    let secret = json!({"secretName": "ops-objstore", "optional": true, "defaultMode": 0o440});
    assert!(volumes.as_array().is_some_and(|all| all.iter().any(|volume| volume["secret"] == secret)), "{volumes}");

    let (.., bucket, volumes) =
        mounts(&world(&wish(json!({"objectStorage": {"filesystem": {"volumeClaimName": "h"}}}))));
    assert!(bucket.is_some_and(|mount| mount.get("readOnly").is_none()));
    assert!(volumes.as_array().is_some_and(|all| all.iter().any(|v| v["persistentVolumeClaim"]["claimName"] == "h")));
}

/// Parts watch `objstore.yml`: a renewed authority beside it must change it too.
#[test]
fn a_renewed_authority_is_a_new_configuration() {
    let mut observed = world(&wish(json!({"objectStorage": {"s3": {
        "bucket": "b-1", "endpoint": "https://s", "caSecretRef": {"name": "ca", "key": "ca.crt"}}}})));
    let mut of = |certificate: &str| {
        observed.secrets.extend([secret("ca", &[("ca.crt", certificate)])]);
        valid_in(&observed).object_storage.unwrap_or_else(|| panic!("{:?}", said(&observed)))
    };
    let first = of(super::support::CERTIFICATE);
    let renewed = of(&super::support::CERTIFICATE.replace("AQIDBA==", "BAMCAQ=="));
    assert_ne!(first.hash(), renewed.hash());
    for storage in [first, renewed] {
        let text = String::from_utf8_lossy(&storage.files["objstore.yml"]).into_owned();
        let named = storage.files.keys().find(|name| name.ends_with(".crt")).expect("the file");
        assert!(text.contains(&format!("/{named}")), "{named}: {text}");
    }
}

/// A Secret that comes later, breaks, or is rotated rolls no pod.
#[test]
fn secrets_roll_nothing() -> anyhow::Result<()> {
    let good = world(&cluster("tutorial")?);
    let mut missing = good.clone();
    missing.secrets.remove("thanos-gcs-credentials");
    let mut rotated = good.clone();
    let mut key = service_account();
    key["private_key_id"] = json!("second");
    rotated.secrets.extend([secret("thanos-gcs-credentials", &[("thanos-gcs-credentials.json", &key.to_string())])]);
    let of = |observed: &Observed| objects(&valid_in(observed));
    assert_eq!(templates(&of(&missing)), templates(&of(&good)));
    assert_eq!(templates(&of(&rotated)), templates(&of(&good)));
    assert_ne!(find(&of(&rotated), "Secret", "ops-objstore").0, find(&of(&good), "Secret", "ops-objstore").0);
    Ok(())
}

#[test]
fn while_a_secret_is_broken_the_parts_keep_the_previous_content() -> anyhow::Result<()> {
    let mut observed = world(&cluster("tutorial")?);
    let first = objects(&valid_in(&observed));
    carried_out(&mut observed, &first)?;
    observed.secrets.extend([secret("thanos-gcs-credentials", &[("thanos-gcs-credentials.json", "{")])]);
    let now = valid_in(&observed);
    assert_eq!(now.object_storage, None, "it is not called good");
    assert_eq!(find(&objects(&now), "Secret", "ops-objstore").0, find(&first, "Secret", "ops-objstore").0);
    let (_, message) = said_under(&observed, ObjectStorageReady);
    assert!(message.ends_with("the parts keep the previous content."), "{message}");
    observed.cluster.spec.object_storage = None;
    assert!(!objects(&valid_in(&observed)).iter().any(|object| object.name() == "ops-objstore"));
    Ok(())
}

/// The examples' buckets are good, and the engine takes what is rendered from them.
#[test]
fn the_examples() -> anyhow::Result<()> {
    for example in EXAMPLES.iter().chain(&BUCKETS) {
        let observed = world(&cluster(example)?);
        let storage = valid_in(&observed).object_storage.unwrap_or_else(|| panic!("{example}: {:?}", said(&observed)));
        let text = std::str::from_utf8(&storage.files["objstore.yml"])?;
        bucket::Config::parse(text).unwrap_or_else(|error| panic!("{example}: {error}: {text}"));
    }
    Ok(())
}
