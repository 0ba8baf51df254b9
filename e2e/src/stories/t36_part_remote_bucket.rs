//! T36, without a network path: the bucket of another cluster is linked. A store gateway for it runs here with rights to read only; its
//! data is in the answers, and goes with the link. Nobody else restarts.

use serde_json::json;
use testkit::gcs::Right;
use testkit::http;

use super::t22_part_apply_and_delete::{KINDS, names};
use super::world::{CHANGE, READY, World, eventually, no_restarts, now, same_pods};
use super::{Story, Thing};
use crate::cluster::LAB;
use crate::fleet::{CREDENTIALS, CREDENTIALS_KEY};
use crate::made::{self, SPAN_MS, Wish, block_of};

pub(super) const STORY: Story = Story { name: "t36_part_remote_bucket", changes: &[], needs: &[Thing::Lab], run };

fn run(world: &World) -> anyhow::Result<()> {
    let sandbox = world.sandbox(LAB, "t36bucket")?;
    let stack = &sandbox.stack;
    // The hub itself has no bucket.
    sandbox.apply(json!({}))?;
    stack.wait_ready(&stack.object(), READY)?;
    let pods = [stack.pods("prometheus")?, stack.pods("query")?].concat();

    let bucket = sandbox.bucket(&["reader"])?;
    bucket.allow(&["reader"], &[Right::Create, Right::Delete])?;
    bucket.put_key("reader")?;
    // A block that ended two hours ago, as a bucket has it.
    let start_ms = block_of((now() * 1000.0) as i64) - 2 * SPAN_MS;
    let dir = tempfile::tempdir()?;
    let value = |series: usize, sample: usize| (series + sample) as f64;
    let (replica, span_ms) = ("dr-prometheus-0", SPAN_MS);
    let wish = Wish { cluster: "dr", replica, metric: "far", prefix: "f", series: 5, start_ms, span_ms, value };
    let block = made::own(dir.path(), &wish, 36)?;
    made::upload(&bucket.server, &bucket.name, &block)?;
    let stranger = Wish { cluster: "stranger", metric: "far", prefix: "x", ..wish };
    made::upload(&bucket.server, &bucket.name, &made::own(dir.path(), &stranger, 37)?)?;

    let credentials = json!({"name": CREDENTIALS, "key": CREDENTIALS_KEY});
    let gcs = json!({"bucket": bucket.name, "endpoint": bucket.server.url(), "credentialsSecretRef": credentials});
    let link = json!({
        "apiVersion": "panoptes.dev/v1alpha1", "kind": "RemoteStore",
        "metadata": {"name": "dr", "namespace": stack.namespace},
        "spec": {"clusterName": "dr", "bucketRef": {"gcs": gcs}},
    });
    LAB.apply(&link.to_string())?;
    stack.wait_ready("rstore/dr", READY)?;
    let at = (start_ms + SPAN_MS - made::STEP_MS) / 1000;
    let path = format!("/api/v1/query?query={}&time={at}", http::encode("sum by (cluster) (far)"));
    let rows = || anyhow::Ok(stack.get_query(&path)?["data"]["result"].take());
    eventually("the other cluster's series, and no stranger's", CHANGE, || {
        let found = rows()?;
        let wanted = (0..5).map(|series| value(series, 479)).sum::<f64>();
        let right = found.as_array().is_some_and(|rows| rows.len() == 1)
            && found[0]["metric"] == json!({"cluster": "dr"})
            && found[0]["value"][1].as_str().and_then(|v| v.parse().ok()) == Some(wanted);
        anyhow::ensure!(right, "it is {found}, not {wanted}");
        Ok(())
    })?;
    anyhow::ensure!(
        bucket.server.names(&bucket.name)?.iter().all(|name| !name.starts_with("panoptes/")),
        "something was written into a bucket that is only read"
    );

    // A right that is withdrawn is named, in the link and nowhere else.
    bucket.put_key("nobody")?;
    let said = stack.wait_reason("rstore/dr", "Reachable", "False", &["AccessDenied"], CHANGE)?;
    anyhow::ensure!(said.message.contains(&format!("{}-remote-dr-0", stack.name)), "{}", said.message);
    stack.wait_reason(&stack.object(), "Ready", "True", &["Ready"], CHANGE)?;
    bucket.put_key("reader")?;
    stack.wait_ready("rstore/dr", CHANGE)?;
    no_restarts(&stack.pods("remote-dr")?)?;

    let gateway = format!("app.kubernetes.io/instance={},app.kubernetes.io/component=remote-dr", stack.name);
    let made = names(stack, KINDS, &gateway)?;
    for kind in ["statefulset.apps/", "secret/", "serviceaccount/", "service/"] {
        anyhow::ensure!(made.iter().any(|name| name.starts_with(kind)), "the selector finds no {kind} in {made:?}");
    }
    stack.kubectl(&["delete", "rstore", "dr"])?;
    eventually("its end", CHANGE, || {
        let (found, left) = (rows()?, names(stack, &format!("{KINDS},pods,persistentvolumeclaims"), &gateway)?);
        anyhow::ensure!(found.as_array().is_some_and(Vec::is_empty) && left.is_empty(), "{found}, {left:?}");
        Ok(())
    })?;
    let after = [stack.pods("prometheus")?, stack.pods("query")?].concat();
    same_pods(&pods, &after)?;
    no_restarts(&after)
}
