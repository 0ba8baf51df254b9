//! T44 with S3 (T04, T07, T14, T15 and T16 there): blocks arrive whole behind a certificate of an authority of one's own, and are served when every
//! Prometheus is gone; the compactor makes of them what it makes on Google's storage. Meanwhile the authority is replaced, and nobody restarts.

use serde_json::{Value, json};
use testkit::certs::Authority;
use testkit::s3::{ACCESS_KEY, S3, SECRET_KEY};

use super::world::{CHANGE, READY, World, host, no_restarts, same_pods};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::compaction::{attentive, whole_life};
use crate::fleet::{Stack, list, secret};

pub(super) const STORY: Story = Story { name: "t44_s3", changes: &[], needs: &[Thing::Lab], run };

const BUCKET: &str = "t44-blocks";

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t44s3")?;
    let stack = &sandbox.stack;
    let object = stack.object();
    let ip = host(&LAB)?;
    let first = Authority::new("first")?;
    let server = S3::start_at(ip, Some(&first.server(&[&ip.to_string()])?))?;
    server.make_bucket(BUCKET)?;
    put_authority(stack, &first)?;
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    apply_secret(stack, secret("keys", "Opaque", &keys))?;
    sandbox.apply(json!({
        "objectStorage": {"s3": {
            "bucket": BUCKET, "endpoint": format!("https://{}", server.address()), "region": "us-east-1",
            "credentialsSecretRef": {"name": "keys"}, "caSecretRef": {"name": "authority", "key": "ca.crt"},
        }},
        "prometheus": {"extraArgs": super::world::SHORT_BLOCKS},
        "sidecar": {"extraArgs": ["--objstore.check-interval=3s"]},
        "storeGateway": attentive(),
        "compactor": {"enabled": false},
    }))?;
    stack.wait_ready(&object, READY)?;
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE)?;
    let pods = [stack.pods("prometheus")?, stack.pods("store")?, stack.pods("query")?].concat();

    // Another authority signs the server from now on: told, and mended by the Secret alone.
    let second = Authority::new("second")?;
    let server = server.restart(Some(&second.server(&[&ip.to_string()])?))?;
    stack.wait_reason(&object, "ObjectStorageReady", "False", &["Unreachable", "AccessDenied"], CHANGE)?;
    put_authority(stack, &second)?;
    stack.wait_reason(&object, "ObjectStorageReady", "True", &["Verified"], CHANGE)?;
    let after = [stack.pods("prometheus")?, stack.pods("store")?, stack.pods("query")?].concat();
    same_pods(&pods, &after)?;
    no_restarts(&after)?;

    whole_life(stack, &server.directory().join(BUCKET))
}

fn put_authority(stack: &Stack, authority: &Authority) -> anyhow::Result<()> {
    apply_secret(stack, secret("authority", "Opaque", &[("ca.crt", authority.cert())]))
}

fn apply_secret(stack: &Stack, mut secret: Value) -> anyhow::Result<()> {
    secret["metadata"]["namespace"] = json!(stack.namespace);
    stack.cluster.apply(&list(&[secret])).map(|_| ())
}
