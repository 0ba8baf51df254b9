//! All that went before ran with the rights that the installation grants: the API servers' audit logs hold no refusal for the operator or
//! for what it deploys (but for the story in which a right is missing on purpose).

use serde_json::Value;

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
            // A namespace that ends takes no new objects; a story's own just did.
            if event["responseStatus"]["message"].as_str().is_some_and(|m| m.contains("being terminated")) {
                continue;
            }
            refused.push(format!(
                "{}: {} {} {}",
                cluster.name, event["user"]["username"], event["verb"], event["requestURI"]
            ));
        }
    }
    anyhow::ensure!(seen > 100, "the audit logs hold only {seen} events: they can't show that nothing was refused");
    refused.sort();
    refused.dedup();
    refused.truncate(20);
    anyhow::ensure!(refused.is_empty(), "refused by the API server:\n{}", refused.join("\n"));
    Ok(())
}
