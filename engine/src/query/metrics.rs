//! Metrics that are computed when they are read.

use super::endpoints::Endpoints;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The connected stores by what they advertise, as Thanos counts them.
pub struct Connections(pub Arc<Endpoints>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut counts: BTreeMap<(String, String), i64> = BTreeMap::new();
        for store in self.0.stores() {
            let truth = store.truth();
            let Some(info) = truth.info.filter(|_| truth.healthy) else { continue };
            let sets: Vec<String> = info.label_sets.iter().take(16).map(ToString::to_string).collect();
            *counts.entry((sets.join(","), info.component.clone())).or_default() += 1;
        }
        let mut family = encoder.encode_descriptor(
            "thanos_store_nodes_grpc_connections",
            "Number of gRPC connection to Store APIs. Opened connection means healthy store APIs available for Querier",
            None,
            MetricType::Gauge,
        )?;
        for ((sets, component), n) in counts {
            let labels = [("external_labels", sets), ("store_type", component)];
            ConstGauge::new(n).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
