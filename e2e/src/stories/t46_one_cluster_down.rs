//! T46: prod's querier is stopped. Ops answers for the others in time and says that prod is missing; the store is shown as down, the
//! link as unreachable; who wants all or nothing gets nothing; and all of it ends by itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::http;

use super::world::{CHANGE, READY, Undo, World, eventually, no_restarts, same_pods};
use super::{Story, Thing};
use crate::cluster::{OPS, PROD};
use crate::fleet::Stack;

pub(super) const STORY: Story = Story {
    name: "t46_one_cluster_down",
    changes: &[Thing::Prod],
    needs: &[Thing::OpsPods, Thing::OpsLinks, Thing::Staging],
    run,
};

/// No answer may take longer, although a cluster is gone: a connection that is refused is not waited for.
const PROMPT: Duration = Duration::from_secs(5);

fn run(_: &World) -> anyhow::Result<()> {
    let (ops, prod) = (Stack::of(OPS), Stack::of(PROD));
    let pods = ops.pods("query")?;
    let query = format!("/api/v1/query?query={}", http::encode("count by (cluster) (up)"));
    eventually("an answer that misses nobody", CHANGE, || {
        anyhow::ensure!(clusters(&ask(&ops, &query)?) == ["ops", "prod", "staging"]);
        Ok(())
    })?;
    let undo = Undo(prod.clone(), json!({"querier": {"replicas": null}}));
    prod.patch(&json!({"querier": {"replicas": 0}}))?;
    eventually("the end of prod's querier", CHANGE, || {
        let left = prod.pods("query")?;
        anyhow::ensure!(left.is_empty(), "there are {left:?}");
        Ok(())
    })?;

    eventually("an answer without prod that says so", CHANGE, || {
        let answer = ask(&ops, &query)?;
        anyhow::ensure!(clusters(&answer) == ["ops", "staging"], "it has {:?}", clusters(&answer));
        let warnings = answer["warnings"].to_string();
        anyhow::ensure!(warnings.contains("cluster prod"), "it warns {warnings}");
        Ok(())
    })?;
    let reasons = ["ConnectRefused", "ConnectTimeout", "Unreachable"];
    ops.wait_reason("rstore/prod", "Reachable", "False", &reasons, CHANGE)?;
    let stores = ops.get_query("/api/v1/stores")?;
    let mut all = stores["data"].as_object().into_iter().flat_map(|d| d.values()).filter_map(Value::as_array).flatten();
    let of_prod = |s: &&Value| s["labelSets"].as_array().is_some_and(|l| l.iter().any(|l| l["cluster"] == "prod"));
    anyhow::ensure!(all.any(|s| of_prod(&s) && s["lastError"].is_string()), "no store of prod is down in {stores}");
    // All or nothing: nothing. (Of a 422 kubectl tells no more than this; that the error names who is missing is the engine's test.)
    let refused = ask(&ops, &format!("{query}&partial_response=false")).err().map(|e| format!("{e:#}"));
    let is_422 = refused.as_ref().is_some_and(|text| text.contains("The request is invalid"));
    anyhow::ensure!(is_422, "in strict mode: {refused:?}");
    // What needs nothing of prod misses nothing.
    let others = http::encode("count by (cluster) (up{cluster!=\"prod\"})");
    let answer = ask(&ops, &format!("/api/v1/query?query={others}&partial_response=false"))?;
    anyhow::ensure!(clusters(&answer) == ["ops", "staging"], "{answer}");

    drop(undo);
    eventually("prod in the answers again", READY, || {
        let answer = ask(&ops, &query)?;
        anyhow::ensure!(clusters(&answer) == ["ops", "prod", "staging"], "it has {:?}", clusters(&answer));
        anyhow::ensure!(answer["warnings"].as_array().is_none_or(Vec::is_empty), "it warns {}", answer["warnings"]);
        Ok(())
    })?;
    ops.wait_condition("rstore/prod", "Ready", CHANGE)?;
    let after = ops.pods("query")?;
    same_pods(&pods, &after)?;
    no_restarts(&after)
}

/// An answer that came in time.
fn ask(ops: &Stack, path: &str) -> anyhow::Result<Value> {
    let start = Instant::now();
    let answer = ops.get_query(path)?;
    let took = start.elapsed();
    anyhow::ensure!(took < PROMPT, "the answer took {took:?}");
    Ok(answer)
}

fn clusters(answer: &Value) -> Vec<String> {
    let rows = answer["data"]["result"].as_array();
    let mut names: Vec<String> =
        rows.into_iter().flatten().filter_map(|r| r["metric"]["cluster"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}
