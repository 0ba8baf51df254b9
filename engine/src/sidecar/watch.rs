//! What the sidecar knows of its Prometheus, kept fresh: up or down, version, external labels, oldest sample.

use super::prometheus::{PromError, Prometheus};
use crate::server::Context;
use crate::server::metrics::Metrics;
use arc_swap::ArcSwap;
use args::SidecarArgs;
use model::Labels;
use model::world::Clock;
use prometheus_client::metrics::gauge::Gauge;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How often Prometheus is asked whether it serves.
const BEAT: Duration = Duration::from_secs(5);
/// The same while it is down: a part that comes up should be seen at once.
const BEAT_DOWN: Duration = Duration::from_secs(1);
/// Deadline of the question.
const BEAT_DEADLINE: Duration = Duration::from_secs(5);

/// What is known at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// It answers, and has external labels.
    pub(super) usable: bool,
    /// It answers.
    pub(super) up: bool,
    /// Its version.
    pub(super) version: String,
    /// Its external labels.
    pub(super) external: Labels,
    /// Its oldest sample, milliseconds since the epoch; `None` if it has none.
    pub(super) lowest: Option<i64>,
    /// Why it is not usable.
    pub(super) error: Option<String>,
}

/// Watches one Prometheus; clones share what is known.
#[derive(Clone)]
pub(super) struct Watch {
    seen: Arc<ArcSwap<Seen>>,
    refresh: Arc<Notify>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let seen = Seen { error: Some("Prometheus has not answered yet".to_owned()), ..Seen::default() };
        Self { seen: Arc::new(ArcSwap::from_pointee(seen)), refresh: Arc::new(Notify::new()) }
    }

    /// What is known now.
    pub(super) fn seen(&self) -> Arc<Seen> {
        self.seen.load_full()
    }

    /// What is known of Prometheus, if it can be used.
    pub(super) fn usable(&self) -> Result<Arc<Seen>, tonic::Status> {
        let seen = self.seen();
        match &seen.error {
            None => Ok(seen),
            Some(error) => Err(tonic::Status::unavailable(error.clone())),
        }
    }

    /// Reads everything again soon: Prometheus has loaded another configuration.
    pub(super) fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// Keeps what is known fresh until `stop`. Fails if Prometheus has not answered once within the ready timeout.
    pub(super) async fn run(
        self,
        prometheus: Prometheus,
        args: &SidecarArgs,
        context: &Context,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let gauge = up_gauge(&context.metrics);
        let clock: &dyn Clock = &*context.world.clock;
        let (interval, deadline) =
            (args.prometheus_get_config_interval.duration(), args.prometheus_get_config_timeout.duration());
        let patience = args.prometheus_ready_timeout.duration();
        let (begin, mut answered, mut read_at) = (clock.elapsed(), false, None::<Duration>);
        loop {
            let before = self.seen();
            let due = !before.usable || read_at.is_none_or(|at| clock.elapsed().saturating_sub(at) >= interval);
            let ask = async {
                if due {
                    read(&prometheus, deadline).await
                } else {
                    prometheus.ready(BEAT_DEADLINE).await.map(|()| Seen::clone(&before))
                }
            };
            if due {
                read_at = Some(clock.elapsed());
            }
            let now = tokio::select! {
                now = ask => now,
                () = stop.cancelled() => return Ok(()),
            };
            let now = now.unwrap_or_else(|e| Seen {
                usable: false,
                up: false,
                error: Some(e.to_string()),
                ..Seen::clone(&before)
            });
            answered |= now.up;
            gauge.set(f64::from(u8::from(now.up)));
            tell(&before, &now, context);
            let usable = now.usable;
            self.seen.store(Arc::new(now));
            if !answered && clock.elapsed().saturating_sub(begin) > patience {
                anyhow::bail!(
                    "Prometheus has not answered within {patience:?} (--prometheus.ready_timeout): {}",
                    self.seen().error.as_deref().unwrap_or("no answer")
                );
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.refresh.notified() => read_at = None,
                () = tokio::time::sleep(if usable { BEAT.min(interval) } else { BEAT_DOWN }) => {}
            }
        }
    }
}

fn up_gauge(metrics: &Metrics) -> Gauge<f64, AtomicU64> {
    metrics.register(
        "thanos_sidecar_prometheus_up",
        "Boolean indicator whether the sidecar can reach its Prometheus peer",
        Gauge::default(),
    )
}

async fn read(prometheus: &Prometheus, deadline: Duration) -> Result<Seen, PromError> {
    prometheus.ready(BEAT_DEADLINE).await?;
    let version = prometheus.version(deadline).await?;
    let external = Labels::from_pairs(prometheus.external_labels(deadline).await?);
    let lowest = prometheus.lowest_timestamp(deadline).await?;
    let error = external.is_empty().then(|| {
        "Prometheus has no external labels: set global.external_labels in its configuration, so that its series can be told \
         from those of others"
            .to_owned()
    });
    Ok(Seen { usable: error.is_none(), up: true, version, external, lowest, error })
}

fn tell(before: &Seen, now: &Seen, context: &Context) {
    match &now.error {
        None => context.ready.ready(),
        Some(error) => context.ready.not_ready(error.clone()),
    }
    if before.error != now.error {
        match &now.error {
            None => tracing::info!(version = now.version, external_labels = %now.external, "Prometheus serves"),
            Some(error) => tracing::warn!(%error, "Prometheus can't be used"),
        }
    } else if before.usable && before.external != now.external {
        tracing::info!(external_labels = %now.external, "the external labels have changed");
    }
}
