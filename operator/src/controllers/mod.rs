//! The watch graph, and what happens after errors; nothing else. One actor per namespace that holds objects of ours: it
//! is woken by watches (metadata only), by what the parts say about themselves, and from time to time.

mod actor;
mod backoff;
mod metrics;
mod poll;
mod reconcile;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{ListParams, Resource};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use kube_runtime::events::{Event, Recorder, Reporter};
use model::world::World;
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use crate::api::{MonitoringCluster, RemoteStore};
use crate::apply;
use crate::leader::Fence;
use crate::observe::{Defaults, Locate, call};
use crate::status::Happening;

pub use metrics::{Metrics, Write};

/// How often things happen.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// From a trigger to the reconciliation, so that a burst of triggers makes one.
    pub debounce: Duration,
    /// Between two looks at what the parts say.
    pub poll: Duration,
    /// Without any trigger.
    pub resync: Duration,
    /// After a missing right, whose granting can't be watched.
    pub forbidden: Duration,
    /// Between two sweeps of what belongs to the whole Kubernetes cluster.
    pub sweep: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            debounce: Duration::from_millis(200),
            poll: Duration::from_secs(2),
            resync: Duration::from_secs(120),
            forbidden: Duration::from_secs(10),
            sweep: Duration::from_secs(3600),
        }
    }
}

/// What every actor shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Asked before every write.
    pub fence: Fence,
    /// Time and randomness.
    pub world: World,
    /// What the installation sets.
    pub defaults: Defaults,
    /// Namespaces to work in; all when empty.
    pub namespaces: Vec<String>,
    /// Where pods answer.
    pub locate: Locate,
    /// How often things happen.
    pub pace: Pace,
    /// Numbers about ourselves.
    pub metrics: Arc<Metrics>,
    recorder: Recorder,
}

impl Context {
    /// A context; `identity` names this replica in events.
    #[must_use]
    pub fn new(client: Client, fence: Fence, world: World, defaults: Defaults, locate: Locate, identity: &str) -> Self {
        let reporter = Reporter { controller: "panoptes.dev/operator".to_owned(), instance: Some(identity.to_owned()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            metrics: Arc::default(),
            namespaces: Vec::new(),
            pace: Pace::default(),
            client,
            fence,
            world,
            defaults,
            locate,
        }
    }

    /// Publishes events; one that can't be written is only logged.
    async fn publish(&self, about: &ObjectReference, happenings: Vec<Happening>) {
        for happening in happenings {
            if !self.fence.holds() {
                return;
            }
            let event = Event {
                type_: happening.kind,
                reason: happening.reason.to_owned(),
                note: Some(happening.note),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            let name = about.name.clone().unwrap_or_default();
            if let Err(fault) =
                call("create", "events.events.k8s.io", &name, self.recorder.publish(&event, about)).await
            {
                tracing::debug!(%fault, "an event was not written");
            }
        }
    }
}

/// Works until dropped.
pub async fn run(context: Arc<Context>) {
    let (wake, mut woken) = mpsc::unbounded_channel::<String>();
    let mut watches = JoinSet::new();
    let scopes: Vec<Option<String>> = match context.namespaces.as_slice() {
        [] => vec![None],
        some => some.iter().cloned().map(Some).collect(),
    };
    for scope in scopes {
        watches.spawn(watch::primary::<MonitoringCluster>(context.clone(), scope.clone(), wake.clone()));
        watches.spawn(watch::primary::<RemoteStore>(context.clone(), scope, wake.clone()));
    }
    let mut actors: BTreeMap<String, (Arc<Notify>, AbortHandle)> = BTreeMap::new();
    let mut running: JoinSet<String> = JoinSet::new();
    let mut sweep = Instant::now();
    loop {
        tokio::select! {
            Some(namespace) = woken.recv() => {
                let alive = actors.get(&namespace).filter(|(_, handle)| !handle.is_finished());
                if let Some((trigger, _)) = alive {
                    trigger.notify_one();
                    continue;
                }
                let trigger = Arc::new(Notify::new());
                trigger.notify_one();
                let handle = running.spawn(actor::run(context.clone(), namespace.clone(), trigger.clone()));
                actors.insert(namespace, (trigger, handle));
                context.metrics.namespaces.set(i64::try_from(actors.len()).unwrap_or(i64::MAX));
            }
            Some(ended) = running.join_next() => {
                // One that ended while it was woken is started again.
                if let Ok(namespace) = ended
                    && actors.get(&namespace).is_some_and(|(_, handle)| handle.is_finished())
                {
                    actors.remove(&namespace);
                } else {
                    let dead: Vec<String> =
                        actors.iter().filter(|(_, (_, h))| h.is_finished()).map(|(name, _)| name.clone()).collect();
                    for namespace in dead {
                        tracing::error!(namespace, "a reconciliation broke off; starting it again");
                        actors.remove(&namespace);
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        // The receiver is ours: sending can't fail.
                        let _ = wake.send(namespace);
                    }
                }
                context.metrics.namespaces.set(i64::try_from(actors.len()).unwrap_or(i64::MAX));
            }
            () = sleep_until(sweep) => {
                let again = match sweep_now(&context).await {
                    Ok(deleted) => {
                        if !deleted.is_empty() {
                            tracing::info!(?deleted, "swept what belonged to deleted objects");
                        }
                        context.pace.sweep
                    }
                    Err(fault) => {
                        tracing::warn!(%fault, "sweeping failed");
                        Duration::from_secs(60)
                    }
                };
                sweep = Instant::now() + again;
            }
        }
    }
}

/// Deletes what belongs to the whole Kubernetes cluster and to no MonitoringCluster any more.
async fn sweep_now(context: &Context) -> Result<Vec<String>, crate::observe::Fault> {
    let found = apply::far(&context.client).await?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut alive = BTreeSet::new();
    let scopes: Vec<Api<PartialObjectMeta<MonitoringCluster>>> = match context.namespaces.as_slice() {
        [] => vec![Api::all(context.client.clone())],
        some => some.iter().map(|namespace| Api::namespaced(context.client.clone(), namespace)).collect(),
    };
    let resource = format!("{}.{}", MonitoringCluster::plural(&()), crate::api::GROUP);
    for api in scopes {
        let found = call("list", &resource, "", api.list(&ListParams::default())).await?;
        alive.extend(found.items.iter().filter_map(ResourceExt::uid));
    }
    apply::sweep(&context.client, &context.fence, found, &alive, &context.namespaces).await
}
