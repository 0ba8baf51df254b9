//! The bucket's Secret: missing, broken, good, rotated.

use args::state::{Bucket, BucketError, BucketErrorClass, State, Upload};
use operator::desired::hash;
use serde_json::json;

use crate::bench::{Bench, decode, sidecar};

const OPS: (&str, &str) = ("moncl", "ops");

fn key(id: &str) -> String {
    json!({
        "type": "service_account", "private_key_id": id, "client_email": "a@b.iam.gserviceaccount.com",
        "private_key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    })
    .to_string()
}

impl Bench {
    fn secret(&self, content: &str) {
        self.apply(
            &json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": "thanos-gcs-credentials", "namespace": self.namespace},
                "stringData": {"thanos-gcs-credentials.json": content},
            })
            .to_string(),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_broken_good_rotated() {
    let Some(bench) = Bench::start("secrets").await else { return };
    let credentials = json!({"name": "thanos-gcs-credentials", "key": "thanos-gcs-credentials.json"});
    bench.cluster(json!({
        "objectStorage": {"gcs": {"bucket": "long-term", "credentialsSecretRef": credentials}},
        "storeGateway": {"enabled": false},
    }));
    let message = bench.condition(OPS, "ObjectStorageReady", "False", "SecretMissing").await;
    assert!(message.contains("thanos-gcs-credentials"), "{message}");
    bench.until("all that needs no bucket", || bench.get("statefulset", "ops-prometheus")).await;
    assert!(bench.get("secret", "ops-objstore").is_none());

    bench.secret(r#"{"type": "service_account", "client_email": "a@b"}"#);
    let message = bench.condition(OPS, "ObjectStorageReady", "False", "SecretInvalid").await;
    assert!(message.contains("thanos-gcs-credentials.json") && message.contains("private_key"), "{message}");
    bench.secret("{not json");
    bench
        .until("the other mistake", || {
            let object = bench.get("moncl", "ops")?;
            let found = crate::bench::condition(&object, "ObjectStorageReady")?;
            found["message"].as_str()?.contains("is not JSON").then_some(())
        })
        .await;

    bench.secret(&key("first"));
    bench.condition(OPS, "ObjectStorageReady", "Unknown", "NotVerified").await;
    let rendered = || {
        let secret = bench.get("secret", "ops-objstore")?;
        Some(decode(secret["data"]["objstore.yml"].as_str()?))
    };
    let first = bench
        .until("rendered", || rendered().filter(|text| text.contains("first") && text.contains("long-term")))
        .await;

    // Ready waits for the first time that the bucket was seen well.
    bench.all_ready(vec![]).await;
    bench.condition(OPS, "Ready", "False", "NotVerified").await;
    let pod = "ops-prometheus-0";
    let config = bench.wanted().await;
    let says = |bucket: Bucket, upload: Upload| {
        bench.says(pod, State { bucket: Some(bucket), upload: Some(upload), ..sidecar(&config, None) })
    };
    let good = |text: &str| Bucket {
        name: "gcs long-term".to_owned(),
        configuration: Some(hash(text.as_bytes())),
        checked_at_ms: Some(1_795_000_000_000),
        ..Bucket::default()
    };
    says(good(&first), Upload { pending: 2, lag_ms: Some(1), ..Upload::default() }).await;
    bench.condition(OPS, "ObjectStorageReady", "True", "Verified").await;
    bench.condition(OPS, "Ready", "True", "Ready").await;
    let status = bench.get("moncl", "ops").unwrap()["status"]["objectStorage"].clone();
    assert_eq!(status["result"], json!("Ok"));
    assert_eq!((&status["verified"], &status["pending"]), (&json!("1/1"), &json!(2)));
    assert_eq!(status["lastVerified"], json!("2026-11-18T11:06:40Z"));

    // The pod is touched, so that its kubelet brings the new content at once; until then nobody is alarmed.
    let mark = || bench.get("pod", pod).unwrap()["metadata"]["annotations"]["panoptes.dev/files"].clone();
    let before = mark();
    bench.secret(&key("second"));
    let second =
        bench.until("rotated", || rendered().filter(|text| text.contains("second") && !text.contains("first"))).await;
    bench.condition(OPS, "ObjectStorageReady", "Unknown", "NotVerified").await;
    bench.until("touched", || (mark() != before).then_some(())).await;
    bench.condition(OPS, "Ready", "True", "Ready").await;

    // A right is missing: the right, the part and the bucket are named. What older credentials could not is no news.
    let error = |class, missing: Option<&str>| BucketError {
        class,
        message: "403 does not have access.".to_owned(),
        missing_right: missing.map(str::to_owned),
        since_ms: 1_795_000_000_000,
    };
    let denied = |text: &str| Bucket {
        error: Some(error(BucketErrorClass::Denied, Some("storage.objects.create"))),
        ..good(text)
    };
    says(denied(&first), Upload::default()).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    bench.condition(OPS, "ObjectStorageReady", "Unknown", "NotVerified").await;
    says(denied(&second), Upload::default()).await;
    let message = bench.condition(OPS, "ObjectStorageReady", "False", "AccessDenied").await;
    for part in [pod, "right storage.objects.create", "gcs long-term", "403"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    bench.condition(OPS, "Ready", "False", "AccessDenied").await;
    bench.until("the event", || bench.kubectl(&["get", "events"]).contains("BucketUnreachable").then_some(())).await;
    for (class, reason) in [
        (BucketErrorClass::BucketMissing, "BucketMissing"),
        (BucketErrorClass::Unreachable, "Unreachable"),
        (BucketErrorClass::ClockSkew, "ClockSkew"),
        (BucketErrorClass::Other, "Unreachable"),
    ] {
        says(Bucket { error: Some(error(class, None)), ..good(&second) }, Upload::default()).await;
        bench.condition(OPS, "ObjectStorageReady", "False", reason).await;
    }
    let refused = Bucket {
        configuration_error: Some("config.bucket is unknown".to_owned()),
        configuration_refused: Some(hash(second.as_bytes())),
        ..good(&first)
    };
    says(refused, Upload::default()).await;
    let message = bench.condition(OPS, "ObjectStorageReady", "False", "SecretInvalid").await;
    assert!(message.contains("config.bucket is unknown"), "{message}");

    let failing = |since_ms| Upload {
        failing_since_ms: Some(since_ms),
        error: Some("no space for links".to_owned()),
        ..Upload::default()
    };
    says(good(&second), failing(1_000)).await;
    let message = bench.condition(OPS, "ObjectStorageReady", "False", "UploadFailing").await;
    assert!(message.contains("no space for links") && message.contains("1970-01-01T00:00:01Z"), "{message}");
    let refused = Upload { refused: Some("Prometheus has no external labels".to_owned()), ..Upload::default() };
    says(good(&second), refused).await;
    bench
        .until("the refusal", || {
            let found = crate::bench::condition(&bench.get("moncl", "ops")?, "ObjectStorageReady")?;
            found["message"].as_str()?.contains("no external labels").then_some(())
        })
        .await;
    says(good(&second), Upload { last_upload_ms: Some(1_795_000_060_000), ..Upload::default() }).await;
    bench.condition(OPS, "ObjectStorageReady", "True", "Verified").await;
    bench.condition(OPS, "Ready", "True", "Ready").await;
    bench.until("the event", || bench.kubectl(&["get", "events"]).contains("BucketRecovered").then_some(())).await;
    let status = bench.get("moncl", "ops").unwrap()["status"]["objectStorage"].clone();
    assert_eq!(status["lastUpload"], json!("2026-11-18T11:07:40Z"));
    assert!(status.get("failingSince").is_none());
}
