//! Watches: only metadata is asked for and nothing is kept. A watch that is refused is tried again for ever; what it would
//! have told is found at the next resync at the latest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::api::{ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::{Api, Resource, ResourceExt as _};
use kube_runtime::watcher::{self, watcher};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::Context;
use super::backoff::Backoff;
use crate::api::LabelSelector;
use crate::apply::{KINDS, MANAGED_BY, MANAGER};
use crate::observe::CLAIMS;

const FIRST: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(10);

/// What of the Secrets and ConfigMaps in a namespace concerns us.
#[derive(Debug, Default)]
pub(super) struct Interest {
    /// Names, of both.
    pub(super) names: BTreeSet<String>,
    /// ConfigMaps with rules.
    pub(super) selectors: Vec<LabelSelector>,
}

impl Interest {
    /// Adds another one's.
    pub(super) fn add(&mut self, other: &Self) {
        self.names.extend(other.names.iter().cloned());
        self.selectors
            .extend(other.selectors.iter().filter(|s| !self.selectors.contains(s)).cloned().collect::<Vec<_>>());
    }
}

/// Watches one of our own kinds and wakes its namespace when the wish changes; our own status writes don't count.
pub(super) async fn primary<K>(context: Arc<Context>, scope: Option<String>, wake: mpsc::UnboundedSender<String>)
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let client = context.client.clone();
    let api: Api<PartialObjectMeta<K>> = match &scope {
        None => Api::all(client),
        Some(namespace) => Api::namespaced(client, namespace),
    };
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let mut initial: BTreeSet<String> = BTreeSet::new();
    let mut backoff = Backoff::new(FIRST, LIMIT);
    let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()));
    let what = K::plural(&());
    while let Some(event) = stream.next().await {
        let object = match event {
            Err(error) => {
                pause(&context, &mut backoff, &what, "", &error).await;
                continue;
            }
            Ok(watcher::Event::Init) => {
                initial = seen.keys().cloned().collect();
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                backoff.reset();
                // Those that went while nobody looked; their namespaces are looked at once more.
                for uid in std::mem::take(&mut initial) {
                    if let Some(mark) = seen.remove(&uid) {
                        let _ = wake.send(mark.split('\n').next().unwrap_or_default().to_owned());
                    }
                }
                continue;
            }
            Ok(watcher::Event::Delete(object)) => {
                seen.remove(&object.uid().unwrap_or_default());
                let _ = wake.send(object.namespace().unwrap_or_default());
                continue;
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => object,
        };
        let uid = object.uid().unwrap_or_default();
        initial.remove(&uid);
        let namespace = object.namespace().unwrap_or_default();
        let mark = format!(
            "{namespace}\n{:?}\n{:?}\n{:?}\n{:?}",
            object.metadata.generation,
            object.metadata.deletion_timestamp,
            object.labels(),
            object.annotations()
        );
        if seen.insert(uid, mark.clone()).as_ref() != Some(&mark) {
            // The receiver goes when everything goes.
            let _ = wake.send(namespace);
        }
    }
}

/// Watches everything that a namespace's actor depends on, beside the wishes themselves.
pub(super) async fn children(
    context: Arc<Context>,
    namespace: String,
    trigger: Arc<Notify>,
    interest: Arc<Mutex<Interest>>,
) {
    let mut kinds: Vec<(ApiResource, Option<String>)> = KINDS
        .iter()
        .filter(|kind| kind.namespaced)
        .map(|kind| {
            // Users' own Secrets and ConfigMaps matter too, so these two are watched whole.
            let whole = matches!(kind.kind, "Secret" | "ConfigMap");
            (kind.resource(), (!whole).then(|| MANAGED_BY.to_owned()))
        })
        .collect();
    kinds.push((ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()), Some(MANAGED_BY.to_owned())));
    let claims = format!("app.kubernetes.io/instance,{CLAIMS}");
    kinds.push((ApiResource::erase::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(&()), Some(claims)));
    let watches =
        kinds.into_iter().map(|(resource, labels)| child(&context, &namespace, &trigger, &interest, resource, labels));
    futures::future::join_all(watches).await;
}

async fn child(
    context: &Context,
    namespace: &str,
    trigger: &Notify,
    interest: &Mutex<Interest>,
    resource: ApiResource,
    labels: Option<String>,
) {
    let api: Api<PartialObjectMeta<DynamicObject>> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let config = watcher::Config { label_selector: labels.clone(), ..watcher::Config::default() };
    let mut backoff = Backoff::new(FIRST, LIMIT);
    let mut stream = std::pin::pin!(watcher(api, config));
    while let Some(event) = stream.next().await {
        let concerns = match event {
            Err(error) => {
                pause(context, &mut backoff, &resource.plural, namespace, &error).await;
                continue;
            }
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => false,
            Ok(watcher::Event::InitDone) => {
                backoff.reset();
                true
            }
            Ok(watcher::Event::Apply(object) | watcher::Event::Delete(object)) => {
                labels.is_some() || concerns(&object, &interest.lock())
            }
        };
        if concerns {
            trigger.notify_one();
        }
    }
}

fn concerns(object: &PartialObjectMeta<DynamicObject>, interest: &Interest) -> bool {
    let labels = object.labels();
    labels.get("app.kubernetes.io/managed-by").is_some_and(|by| by == MANAGER)
        || interest.names.contains(&object.name_any())
        || interest.selectors.iter().any(|selector| selector.matches(labels))
}

async fn pause(context: &Context, backoff: &mut Backoff, what: &str, namespace: &str, error: &watcher::Error) {
    let wait = backoff.next(context.world.entropy.as_ref());
    tracing::warn!(resource = what, namespace, %error, retry_in = ?wait, "a watch failed");
    sleep(wait).await;
}
