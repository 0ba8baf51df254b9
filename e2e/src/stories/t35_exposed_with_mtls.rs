//! T35: the exposed StoreAPI refuses plaintext and clients without a certificate of the fleet, answers Info to one with it; plaintext
//! only when the object opts in.

use anyhow::Context as _;
use serde_json::json;
use testkit::certs::{Authority, Pair};

use super::world::{READY, World, eventually};
use super::{Story, Thing};
use crate::cluster::{PROD, STAGING};
use crate::grpc;

pub(super) const STORY: Story =
    Story { name: "t35_exposed_with_mtls", changes: &[], needs: &[Thing::Prod, Thing::Staging], run };

fn run(world: &World) -> anyhow::Result<()> {
    let certificates = world.certificates()?;
    let address = format!("{}:30901", PROD.node_ip());
    let ca = certificates.authority.cert();
    let tls = |client: Option<&Pair>| grpc::Tls {
        ca: ca.to_owned(),
        name: "store.prod.example".to_owned(),
        client: client.cloned(),
    };
    let answer =
        grpc::info(&address, Some(tls(Some(&certificates.client)))).context("with a certificate of the fleet")?;
    anyhow::ensure!(answer.component == "query", "it says to be {}", answer.component);
    anyhow::ensure!(answer.labels.contains(&("cluster".to_owned(), "prod".to_owned())), "labels: {:?}", answer.labels);

    let stranger = Authority::new("stranger")?.client("ops", &[])?;
    for (who, tls) in [
        ("a client without a certificate", Some(tls(None))),
        ("a client with a stranger's certificate", Some(tls(Some(&stranger)))),
        ("a client without TLS", None),
    ] {
        anyhow::ensure!(grpc::info(&address, tls).is_err(), "{who} is let in");
    }

    // Plaintext: not by default, but if asked for.
    let sandbox = world.sandbox(STAGING, "t35")?;
    let refused = sandbox.apply(json!({"expose": {"storeAPI": {"type": "NodePort", "nodePort": 30936}}}));
    let refused = refused.err().context("plaintext was accepted without a word")?;
    anyhow::ensure!(format!("{refused:#}").contains("allowPlaintext"), "{refused:#}");
    sandbox.apply(json!({"expose": {"storeAPI": {"type": "NodePort", "nodePort": 30936, "allowPlaintext": true}}}))?;
    sandbox.stack.wait_ready(&sandbox.stack.object(), READY)?;
    eventually("an answer in plaintext", READY, || {
        let answer = grpc::info(&format!("{}:30936", STAGING.node_ip()), None)?;
        anyhow::ensure!(
            answer.labels.contains(&("cluster".to_owned(), "t35".to_owned())),
            "labels: {:?}",
            answer.labels
        );
        Ok(())
    })
}
