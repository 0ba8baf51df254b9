//! All that went before ran with the rights that the installation grants: the API servers' audit logs hold no refusal for the operator or
//! for what it deploys (but for the story in which a right is missing on purpose).

use serde_json::Value;

use super::world::was_ending;
use super::{Story, World};
use crate::cluster::ALL;

pub(super) const STORY: Story = Story { name: "rights_suffice", changes: &[], needs: &[], run };

fn run(world: &World) -> anyhow::Result<()> {
    let mut refused = Vec::new();
    let mut seen = 0;
    for cluster in ALL {
        let Ok(log) = cluster.audit_log() else { continue };
        for line in log.lines() {
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            // Clusters may have been kept from an earlier run.
            if event["requestReceivedTimestamp"].as_str() < Some(&world.began) {
                continue;
            }
            seen += 1;
            if event["responseStatus"]["code"] != 403 || event["objectRef"]["namespace"] == "rights" {
                continue;
            }
            let text = |of: &Value| of.as_str().unwrap_or_default().to_owned();
            let at = text(&event["requestReceivedTimestamp"]);
            if was_ending(cluster, &text(&event["objectRef"]["namespace"]), &at) {
                continue;
            }
            let (verb, uri, why) = (&event["verb"], &event["requestURI"], &event["responseStatus"]["message"]);
            refused.push(format!("{at} {}: {} {}: {}", cluster.name, text(verb), text(uri), text(why)));
        }
    }
    anyhow::ensure!(seen > 100, "the audit logs hold only {seen} events: they can't show that nothing was refused");
    refused.sort();
    let first = refused.first().cloned().unwrap_or_default();
    let some = refused.get(..20).unwrap_or(&refused).join("\n");
    anyhow::ensure!(refused.is_empty(), "{} requests were refused, first {first}\n{some}", refused.len());
    Ok(())
}
