//! T13 without its alert: a third replica goes, and all 140 queries of the tutorial's dashboards are answered, while it goes and after,
//! and who found something still does; what they see is new.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use serde_json::{Value, json};
use testkit::http;

use super::world::{CHANGE, READY, Undo, World, eventually, now};
use super::{Story, Thing};
use crate::dashboards;
use crate::fleet::Stack;

pub(super) const STORY: Story =
    Story { name: "t13_part_queries", changes: &[Thing::Tutorial], needs: &[Thing::Lab], run };

/// The tutorial scrapes every 15 s.
const INTERVAL: f64 = 15.0;

fn run(world: &World) -> anyhow::Result<()> {
    let stack = world.tutorial()?;
    let queries = dashboards::all("ops");
    anyhow::ensure!(queries.len() == 140, "the dashboards have 140 queries, not {}", queries.len());
    let before = ask(&stack, &queries)?;
    let filled = before.iter().filter(|found| found.any > 0).count();
    anyhow::ensure!(filled >= 20, "only {filled} queries find anything");

    let undo = Undo(stack.clone(), json!({"prometheus": {"replicas": 3}}));
    stack.patch(&json!({"prometheus": {"replicas": 2}}))?;
    // While it goes.
    ask(&stack, &queries)?;
    eventually("the end of the third replica", READY, || {
        let pods = stack.pods("prometheus")?;
        anyhow::ensure!(pods.len() == 2, "there are {pods:?}");
        Ok(())
    })?;
    // And without it.
    let after = ask(&stack, &queries)?;
    for ((query, before), after) in queries.iter().zip(&before).zip(&after) {
        // What was so for a moment, such as a container that waited, only the third replica may have seen.
        anyhow::ensure!(before.lasting == 0 || after.any > 0, "{query}: {} results before, none after", before.lasting);
    }
    eventually("every target's last sample to be new", CHANGE, || {
        let ages = stack.query("max(time() - timestamp(up))", &format!("&time={:.3}", now()))?;
        let age: f64 = ages[0]["value"][1].as_str().context("no age")?.parse()?;
        anyhow::ensure!(age < 3.0 * INTERVAL, "the oldest is {age:.1} s old");
        Ok(())
    })?;
    drop(undo);
    stack.wait_ready(&stack.object(), READY)
}

/// How many series an answer has.
#[derive(Debug, Default, Clone, Copy)]
struct Found {
    any: usize,
    /// Those with a value at each of the last four steps.
    lasting: usize,
}

/// Asks for the last five minutes of each, four at once.
fn ask(stack: &Stack, queries: &[String]) -> anyhow::Result<Vec<Found>> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(vec![Found::default(); queries.len()]);
    let work = || -> anyhow::Result<()> {
        loop {
            let at = next.fetch_add(1, Ordering::SeqCst);
            let Some(query) = queries.get(at) else { return Ok(()) };
            let end = now();
            let path = format!(
                "/api/v1/query_range?query={}&start={:.3}&end={end:.3}&step=15",
                http::encode(query),
                end - 300.0
            );
            let answer = stack.get_query(&path).with_context(|| query.clone())?;
            let series = answer["data"]["result"].as_array().with_context(|| format!("{query}: {answer}"))?;
            let is_late = |value: &&Value| value[0].as_f64().is_some_and(|t| t > end - 59.0);
            let lasts = |one: &&Value| one["values"].as_array().is_some_and(|v| v.iter().filter(is_late).count() >= 4);
            let mut found = found.lock().map_err(|_| anyhow::anyhow!("another thread failed"))?;
            found[at] = Found { any: series.len(), lasting: series.iter().filter(lasts).count() };
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    found.into_inner().ok().context("a thread failed")
}
