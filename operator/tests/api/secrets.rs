//! The bucket's Secret: missing, broken, good, rotated.

use serde_json::json;

use crate::bench::{Bench, decode};

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
    bench.cluster(json!({"objectStorage": {"gcs": {"bucket": "long-term", "credentialsSecretRef": credentials}}}));
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
    bench.until("rendered", || rendered().filter(|text| text.contains("first") && text.contains("long-term"))).await;
    bench.secret(&key("second"));
    bench.until("rotated", || rendered().filter(|text| text.contains("second") && !text.contains("first"))).await;

    // The bucket does not hold back Ready while nobody verifies it.
    bench.all_ready(vec![]).await;
    bench.condition(OPS, "Ready", "True", "Ready").await;
}
