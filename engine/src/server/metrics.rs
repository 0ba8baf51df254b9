//! The metrics of a process.

use super::process::ProcessMetrics;
use super::ready::Readiness;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Metric, Registry};
use std::sync::Arc;

/// The registry; clones share it. Names are written out in full (`thanos_…` where the metric exists there).
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// A registry with the metrics that every part has.
    pub fn new(component: &'static str, ready: Readiness) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics));
        registry.register_collector(Box::new(Common { component, ready }));
        Self(Arc::new(Mutex::new(registry)))
    }

    /// Registers a metric and returns it. A counter's name is given without `_total`.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        // The encoder ends every help text with a period.
        self.0.lock().register(name, help.trim_end_matches('.'), metric.clone());
        metric
    }

    /// Registers metrics that are computed when they are read.
    pub fn register_collector(&self, collector: impl Collector) {
        self.0.lock().register_collector(Box::new(collector));
    }

    /// All metrics as OpenMetrics text.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0.lock())?;
        Ok(text)
    }
}

/// A counter that is read from elsewhere, for a [`Collector`].
pub fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> Result<(), std::fmt::Error> {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)
}

/// A gauge that is read from elsewhere, for a [`Collector`].
pub fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> Result<(), std::fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

#[derive(Debug)]
struct Common {
    component: &'static str,
    ready: Readiness,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Check {
    check: &'static str,
    component: &'static str,
}

impl Collector for Common {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut status = encoder.encode_descriptor(
            "thanos_status",
            "Represents status (0 indicates failure, 1 indicates success) of the component",
            None,
            MetricType::Gauge,
        )?;
        for (check, up) in [("healthy", true), ("ready", self.ready.is_ready())] {
            let labels = Check { check, component: self.component };
            ConstGauge::new(i64::from(up)).encode(status.encode_family(&labels)?)?;
        }
        let version = [("component", self.component), ("version", env!("CARGO_PKG_VERSION"))];
        let mut build =
            encoder.encode_descriptor("panoptes_build_info", "What runs here, always 1", None, MetricType::Gauge)?;
        ConstGauge::new(1i64).encode(build.encode_family(&version)?)?;
        counter(
            &mut encoder,
            "panoptes_chunks_decoded",
            "Chunks opened for reading samples; a part that only passes chunks on stays at 0",
            tsdb::chunk::decoded(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn renders_what_is_registered_and_the_common_ones() {
        let ready = Readiness::default();
        let metrics = Metrics::new("sidecar", ready.clone());
        let c: Counter = metrics.register("thanos_demo", "A demo.", Counter::default());
        c.inc_by(3);
        ready.ready();
        let text = metrics.render().unwrap();
        for line in [
            "thanos_demo_total 3",
            "# HELP thanos_demo A demo.\n",
            "thanos_status{check=\"ready\",component=\"sidecar\"} 1",
            "panoptes_chunks_decoded_total ",
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
            "process_start_time_seconds 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
