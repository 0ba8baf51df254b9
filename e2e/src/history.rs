//! What a store gateway must give: first a Prometheus says what it has of the blocks that were uploaded, then it goes, and the
//! querier must say the same.

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::http;

use crate::blocks::{Held, asked, local, same};
use crate::fleet::Stack;
use crate::stories::world::{BLOCK, CHANGE, eventually};

/// An uploaded block, and what the Prometheus that made it says it has of that time.
#[derive(Debug, Clone)]
pub struct Archived {
    /// Its id.
    pub id: String,
    /// Value of the replica label.
    pub replica: String,
    /// Begin, ms since the epoch, inclusive.
    pub min: i64,
    /// End, exclusive.
    pub max: i64,
    /// What it holds.
    pub held: Held,
}

/// Waits until each of so many replicas has uploaded a block; gives all, with what their Prometheus says. `metas` are the bucket's
/// whole blocks.
///
/// # Errors
/// When none is uploaded in time.
pub fn archived(
    stack: &Stack,
    replicas: usize,
    metas: impl Fn() -> anyhow::Result<Vec<Value>>,
) -> anyhow::Result<Vec<Archived>> {
    let names: Vec<String> = (0..replicas).map(|n| format!("{}-prometheus-{n}", stack.name)).collect();
    let replica = |meta: &Value| {
        let of = &meta["thanos"]["labels"]["prometheus_replica"];
        names.iter().position(|name| of.as_str() == Some(name))
    };
    let found = eventually("a block of each replica in the bucket", BLOCK, || {
        let metas = metas()?;
        let missing = (0..replicas).find(|n| !metas.iter().any(|meta| replica(meta) == Some(*n)));
        anyhow::ensure!(missing.is_none(), "{} blocks, none of replica {missing:?}", metas.len());
        Ok(metas)
    })?;
    let number = |meta: &Value, field: &str| meta[field].as_i64().with_context(|| format!("no {field} in {meta}"));
    found
        .iter()
        .map(|meta| {
            let at = replica(meta).with_context(|| format!("a block of a stranger: {meta}"))?;
            let (min, max) = (number(meta, "minTime")?, number(meta, "maxTime")?);
            let id = meta["ulid"].as_str().context("no ulid")?.to_owned();
            Ok(Archived { id, replica: names[at].clone(), min, max, held: local(stack, at, min, max)? })
        })
        .collect()
}

/// Takes every Prometheus away, and waits until the querier gives all that the blocks hold.
///
/// # Errors
/// When something of it is missing, or more is there than was.
pub fn only_history(stack: &Stack, blocks: &[Archived]) -> anyhow::Result<()> {
    stack.patch(&json!({"prometheus": {"replicas": 0}}))?;
    eventually("the end of every Prometheus", CHANGE, || {
        let left = stack.pods("prometheus")?;
        anyhow::ensure!(left.is_empty(), "there are {left:?}");
        Ok(())
    })?;
    eventually("every uploaded sample in the answers", CHANGE, || {
        for block in blocks {
            let Archived { id, replica, min, max, held } = block;
            same(asked(stack, replica, *min, *max)?, *held).with_context(|| format!("block {id} of {replica}"))?;
        }
        Ok(())
    })?;
    // And as people ask: replicas merged, nobody told that something is missing.
    let last = blocks.iter().map(|block| block.max).max().context("no block")?;
    let at = last - 1;
    let path = format!(
        "/api/v1/query?query={}&time={}.{:03}",
        http::encode("count(max_over_time(up[2m]))"),
        at.div_euclid(1000),
        at.rem_euclid(1000)
    );
    // A Prometheus that is just gone is missed until its name is gone too.
    eventually("an answer that misses nobody", CHANGE, || {
        let answer = stack.get_query(&path)?;
        let count = answer["data"]["result"][0]["value"][1].as_str().and_then(|count| count.parse::<u32>().ok());
        anyhow::ensure!(count.is_some_and(|count| count > 0), "the answer is {answer}");
        anyhow::ensure!(answer["warnings"].as_array().is_none_or(Vec::is_empty), "it warns: {}", answer["warnings"]);
        Ok(())
    })
}
