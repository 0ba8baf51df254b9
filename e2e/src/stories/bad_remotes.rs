//! Links to what is down, speaks no gRPC, hangs, or is another cluster than claimed: each is told for what it is, and the answers for
//! the rest stay as complete and as quick as before.

use std::io::Read as _;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::metrics_source::MetricsSource;
use testkit::ports;

use super::world::{CHANGE, Link, World, eventually, fleet_tls, host, no_restarts, same_pods};
use super::{Story, Thing};
use crate::cluster::{OPS, PROD};
use crate::fleet::Stack;

pub(super) const STORY: Story = Story {
    name: "bad_remotes",
    changes: &[Thing::OpsLinks],
    needs: &[Thing::OpsPods, Thing::Prod, Thing::Staging],
    run,
};

fn run(_: &World) -> anyhow::Result<()> {
    let ops = Stack::of(OPS);
    let pods = ops.pods("query")?;
    let before = ops.up_by_cluster("")?;
    let host = host(&OPS)?;
    let http_only = MetricsSource::start_at(host)?;
    let silent = TcpListener::bind((host, ports::free()?))?;
    let silent_address = silent.local_addr()?;
    // Takes connections and never answers; ends with the process.
    std::thread::spawn(move || {
        let mut taken = Vec::new();
        for mut stream in silent.incoming().flatten() {
            taken.push(std::thread::spawn(move || {
                let mut sink = [0; 1024];
                while stream.read(&mut sink).is_ok_and(|n| n > 0) {}
            }));
        }
    });

    let link = |name: &str, address: String| Link::apply(name, &json!({"clusterName": name, "address": address}));
    let down = link("bad-down", format!("{host}:{}", ports::free()?))?;
    let no_grpc = link("bad-http", http_only.address())?;
    let hangs = link("bad-silent", silent_address.to_string())?;
    let far =
        json!({"clusterName": "bad-other", "address": format!("{}:30901", PROD.node_ip()), "tls": fleet_tls("prod")});
    let other = Link::apply("bad-other", &far)?;
    let nowhere = link("bad-name", "nowhere.monitoring.svc.cluster.local:10901".to_owned())?;

    ops.wait_reason(&down.object(), "Reachable", "False", &["ConnectRefused"], CHANGE)?;
    ops.wait_reason(&no_grpc.object(), "Reachable", "False", &["NotHTTP2", "ProtocolMismatch"], CHANGE)?;
    ops.wait_reason(&hangs.object(), "Reachable", "False", &["ConnectTimeout"], CHANGE)?;
    let wrong = ops.wait_reason(&other.object(), "ClusterMatches", "False", &["WrongCluster"], CHANGE)?;
    anyhow::ensure!(
        wrong.message.contains("prod") && wrong.message.contains("bad-other"),
        "it doesn't name both: {}",
        wrong.message
    );
    ops.wait_reason(&nowhere.object(), "Resolved", "False", &["NXDomain", "NoAddresses"], CHANGE)?;
    for bad in [&down, &no_grpc, &hangs, &other, &nowhere] {
        anyhow::ensure!(ops.condition(&bad.object(), "Ready")?.status == "False", "{} is Ready", bad.object());
    }

    // The rest goes on: the same clusters, and no query waits for the silent one.
    eventually("the same answer as before", CHANGE, || {
        let start = Instant::now();
        let now = ops.up_by_cluster("")?;
        let took = start.elapsed();
        anyhow::ensure!(now.keys().eq(before.keys()), "{before:?} became {now:?}");
        anyhow::ensure!(took < Duration::from_secs(2), "the query took {took:?}");
        Ok(())
    })?;
    for name in ["prod", "staging"] {
        anyhow::ensure!(
            ops.condition(&format!("rstore/{name}"), "Ready")?.status == "True",
            "{name} is no longer Ready"
        );
    }
    let after = ops.pods("query")?;
    same_pods(&pods, &after)?;
    no_restarts(&after)
}
