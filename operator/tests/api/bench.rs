//! A namespace on a shared API server with an operator at work in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use args::state::State;
use kube::api::{ApiResource, DynamicObject};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use model::world::World;
use operator::cmd::{self, ManifestsArgs};
use operator::controllers::{self, Context, Pace};
use operator::leader::Fence;
use operator::observe::Defaults;
use serde_json::{Value, json};
use testkit::apiserver::{ApiServer, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Handle;

const PEERS: [&str; 3] = ["etcd", "kube-apiserver", "kube-controller-manager"];
/// The operator's account.
pub(crate) const OPERATOR: &str = "system:serviceaccount:panoptes-system:panoptes-operator";

/// Where a part answers, and what.
type Part = (SocketAddr, Arc<Mutex<String>>);

/// The operator in a namespace of its own.
pub(crate) struct Bench {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) namespace: String,
    pub(crate) client: Client,
    pub(crate) context: Arc<Context>,
    parts: Arc<Mutex<BTreeMap<String, Part>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn server() -> Arc<ApiServer> {
    static SHARED: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(server) = shared.upgrade() {
        return server;
    }
    let server = Arc::new(ApiServer::start(&Options::with_deletion()).expect("the API server starts"));
    server.apply(&cmd::crds().unwrap()).expect("the definitions are accepted");
    let args = ManifestsArgs { image: "panoptes.dev/panoptes:test".to_owned(), replicas: 2 };
    server.apply(&cmd::manifests(&args).unwrap()).expect("the installation is accepted");
    server.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).unwrap();
    *shared = Arc::downgrade(&server);
    server
}

async fn client(config: Kubeconfig) -> Client {
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

impl Bench {
    /// Starts; `None` where peers are missing and that was asked for.
    pub(crate) async fn start(namespace: &str) -> Option<Self> {
        Self::with(namespace, true, OPERATOR, Duration::from_secs(20)).await
    }

    /// The same; the operator lacks the rights of a namespace.
    pub(crate) async fn unbound(namespace: &str) -> Option<Self> {
        Self::with(namespace, false, OPERATOR, Duration::from_secs(20)).await
    }

    /// The same; the operator is this user, and looks again after that long without being woken.
    pub(crate) async fn with(namespace: &str, bound: bool, user: &str, resync: Duration) -> Option<Self> {
        if testkit::peers::skip(&PEERS) {
            return None;
        }
        let server = tokio::task::spawn_blocking(server).await.unwrap();
        let (admin, operator) = {
            // All tests write the same file.
            static WRITING: Mutex<()> = Mutex::new(());
            let _writing = WRITING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let operator = server.kubeconfig_for(user, &["system:serviceaccounts"]).unwrap();
            (Kubeconfig::read_from(server.kubeconfig()).unwrap(), Kubeconfig::read_from(operator).unwrap())
        };
        let (admin, operator) = (client(admin).await, client(operator).await);
        let parts: Arc<Mutex<BTreeMap<String, Part>>> = Arc::default();
        let known = parts.clone();
        let defaults =
            Defaults { engine_image: "panoptes.dev/panoptes:test".to_owned(), operator_version: "0.1.0".to_owned() };
        let locate = move |pod: &k8s_openapi::api::core::v1::Pod| {
            known.lock().unwrap().get(pod.metadata.name.as_deref()?).map(|(address, _)| *address)
        };
        let mut context = Context::new(operator, Fence::open(), World::real(), defaults, Arc::new(locate), "bench");
        context.namespaces = vec![namespace.to_owned()];
        context.pace = Pace {
            debounce: Duration::from_millis(50),
            poll: Duration::from_millis(200),
            resync,
            forbidden: Duration::from_secs(1),
            sweep: Duration::from_secs(3600),
        };
        let context = Arc::new(context);
        let task = tokio::spawn(controllers::run(context.clone()));
        let bench = Self { server, namespace: namespace.to_owned(), client: admin, context, parts, task };
        bench.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string());
        if bound {
            bench.apply(&cmd::rbac(namespace).unwrap());
        }
        Some(bench)
    }

    pub(crate) fn apply(&self, manifest: &str) {
        if let Err(error) = self.server.apply(manifest) {
            panic!("{error}\n{manifest}");
        }
    }

    /// A MonitoringCluster `ops`, its spec on top of the least one.
    pub(crate) fn cluster(&self, spec: Value) {
        let mut object = json!({
            "apiVersion": "panoptes.dev/v1alpha1", "kind": "MonitoringCluster",
            "metadata": {"name": "ops", "namespace": self.namespace},
            "spec": {"clusterName": "ops", "profile": "Minimal"},
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        self.apply(&object.to_string());
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        let all = [&["-n", &self.namespace][..], args].concat();
        self.server.kubectl(&all).unwrap_or_else(|error| panic!("{error}"))
    }

    /// An object as JSON; not through kubectl, because tests ask for it all the time.
    pub(crate) fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let resource = resource(kind);
        let api: Api<DynamicObject> = if kind == "clusterrolebinding" {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        };
        let found = tokio::task::block_in_place(|| Handle::current().block_on(api.get_opt(name)));
        found.unwrap().map(|object| serde_json::to_value(object).unwrap())
    }

    pub(crate) fn list(&self, kinds: &str) -> Vec<Value> {
        let text = self.kubectl(&["get", kinds, "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().cloned().unwrap()
    }

    /// Waits until `what` is so.
    pub(crate) async fn until<T>(&self, what: &str, mut test: impl FnMut() -> Option<T>) -> T {
        let start = tokio::time::Instant::now();
        loop {
            if let Some(found) = test() {
                return found;
            }
            if start.elapsed() > Duration::from_secs(90) {
                let objects = self.kubectl(&["get", "moncl,rstore", "-o", "yaml"]);
                panic!("not within 90 s: {what}\n{objects}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until a condition has this status and reason; gives its message.
    pub(crate) async fn condition(&self, object: (&str, &str), about: &str, status: &str, reason: &str) -> String {
        self.until(&format!("{object:?} {about}={status}/{reason}"), || {
            let found = condition(&self.get(object.0, object.1)?, about)?;
            (found["status"] == status && found["reason"] == reason)
                .then(|| found["message"].as_str().unwrap_or_default().to_owned())
        })
        .await
    }

    /// What a pod says about itself from now on.
    pub(crate) async fn says(&self, pod: &str, state: State) {
        let body = serde_json::to_string(&state).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        if let Some((_, says)) = self.parts.lock().unwrap().get(pod) {
            *says.lock().unwrap() = answer;
            return;
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let says = Arc::new(Mutex::new(answer));
        self.parts.lock().unwrap().insert(pod.to_owned(), (listener.local_addr().unwrap(), says.clone()));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buffer = [0u8; 2048];
                let _ = stream.read(&mut buffer).await;
                let answer = says.lock().unwrap().clone();
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
    }

    /// From now on the pod answers nobody.
    pub(crate) fn silent(&self, pod: &str) {
        self.parts.lock().unwrap().remove(pod);
    }

    /// A pod of a part, ready, as its controller and a kubelet would have it.
    pub(crate) fn pod(&self, name: &str, component: &str) {
        let template = match component {
            "query" => self.get("deployment", "ops-query"),
            _ => self.get("statefulset", &format!("ops-{component}")),
        };
        let template = template.unwrap()["spec"]["template"].clone();
        let mut spec = template["spec"].clone();
        spec["serviceAccountName"] = json!("default");
        spec["serviceAccount"] = json!("default");
        spec["automountServiceAccountToken"] = json!(false);
        self.apply(
            &json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": name, "namespace": self.namespace, "labels": template["metadata"]["labels"]},
                "spec": spec,
            })
            .to_string(),
        );
        let status = json!({"status": {
            "phase": "Running", "podIP": "10.0.0.7", "hostIP": "10.77.1.2",
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        self.kubectl(&["patch", "pod", name, "--subresource=status", "--type=merge", "-p", &status.to_string()]);
    }

    /// Says that all pods of a workload are ready, as its controller would.
    pub(crate) fn settled(&self, kind: &str, name: &str) {
        let object = self.get(kind, name).unwrap();
        let generation = &object["metadata"]["generation"];
        let n = &object["spec"]["replicas"];
        let status = match kind {
            "daemonset" => json!({
                "observedGeneration": generation, "desiredNumberScheduled": 1, "currentNumberScheduled": 1,
                "numberReady": 1, "updatedNumberScheduled": 1, "numberMisscheduled": 0,
            }),
            _ => json!({"observedGeneration": generation, "replicas": n, "readyReplicas": n, "updatedReplicas": n}),
        };
        let patch = json!({"status": status}).to_string();
        self.kubectl(&["patch", kind, name, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    /// Everything that the operator made for `ops` reports ready, with one Prometheus and one querier.
    pub(crate) async fn all_ready(&self, links: Vec<args::state::Link>) {
        self.until("all workloads", || {
            self.get("daemonset", "ops-node-exporter")?;
            self.get("deployment", "ops-kube-state-metrics")
        })
        .await;
        for (kind, name) in [
            ("statefulset", "ops-prometheus"),
            ("deployment", "ops-query"),
            ("deployment", "ops-kube-state-metrics"),
            ("daemonset", "ops-node-exporter"),
        ] {
            self.settled(kind, name);
        }
        if self.get("statefulset", "ops-store").is_some() {
            self.settled("statefulset", "ops-store");
            self.pod("ops-store-0", "store");
        }
        if self.get("statefulset", "ops-compact").is_some() {
            self.settled("statefulset", "ops-compact");
            self.pod("ops-compact-0", "compact");
        }
        self.pod("ops-prometheus-0", "prometheus");
        self.pod("ops-query-0", "query");
        self.says("ops-prometheus-0", sidecar(&self.wanted().await, None)).await;
        self.says("ops-query-0", querier(&self.revision(), links)).await;
    }

    /// Hash of the configuration that the operator wants.
    pub(crate) async fn wanted(&self) -> String {
        self.until("a configuration", || {
            Some(self.get("moncl", "ops")?.pointer("/status/configuration/hash")?.as_str()?.to_owned())
        })
        .await
    }

    /// The links as the operator wrote them for the queriers.
    pub(crate) fn links(&self) -> Option<args::links::Links> {
        let slots = (0..8).filter_map(|slot| self.get("secret", &format!("ops-query-endpoints-{slot}")));
        let text = slots.filter_map(|secret| Some(decode(secret["data"]["links.yaml"].as_str()?))).next()?;
        Some(serde_saphyr::from_str(&text).unwrap())
    }

    /// Their revision.
    pub(crate) fn revision(&self) -> String {
        self.links().unwrap().revision
    }
}

fn resource(kind: &str) -> ApiResource {
    let (group, plural) = match kind {
        "moncl" => ("panoptes.dev", "monitoringclusters"),
        "rstore" => ("panoptes.dev", "remotestores"),
        "statefulset" | "deployment" | "daemonset" => ("apps", ""),
        "poddisruptionbudget" => ("policy", ""),
        "clusterrolebinding" => ("rbac.authorization.k8s.io", ""),
        "pvc" => ("", "persistentvolumeclaims"),
        _ => ("", ""),
    };
    let version = if group == "panoptes.dev" { "v1alpha1" } else { "v1" };
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}").trim_start_matches('/').to_owned(),
        kind: kind.to_owned(),
        plural: if plural.is_empty() { format!("{kind}s") } else { plural.to_owned() },
    }
}

/// A sidecar's document.
pub(crate) fn sidecar(hash: &str, error: Option<(&str, &str)>) -> State {
    let mut configuration =
        args::state::Configuration { wanted: hash.to_owned(), loaded: Some(hash.to_owned()), ..Default::default() };
    if let Some((loaded, error)) = error {
        configuration.loaded = Some(loaded.to_owned()).filter(|hash| !hash.is_empty());
        configuration.error = Some(error.to_owned());
    }
    State {
        format: 1,
        component: "sidecar".to_owned(),
        version: "0.1.0".to_owned(),
        ready: true,
        configuration: Some(configuration),
        ..State::default()
    }
}

/// A store gateway's document.
pub(crate) fn store(bucket: args::state::Bucket, blocks: args::state::Blocks) -> State {
    State {
        format: 1,
        component: "store".to_owned(),
        version: "0.1.0".to_owned(),
        ready: true,
        bucket: Some(bucket),
        blocks: Some(blocks),
        ..State::default()
    }
}

/// A compactor's document.
pub(crate) fn compactor(bucket: args::state::Bucket, compaction: args::state::Compaction) -> State {
    State {
        format: 1,
        component: "compact".to_owned(),
        version: "0.1.0".to_owned(),
        ready: true,
        bucket: Some(bucket),
        compaction: Some(compaction),
        ..State::default()
    }
}

/// A querier's document.
pub(crate) fn querier(revision: &str, links: Vec<args::state::Link>) -> State {
    let endpoints =
        args::state::Endpoints { revision: Some(revision.to_owned()), links, ..args::state::Endpoints::default() };
    State {
        format: 1,
        component: "query".to_owned(),
        version: "0.1.0".to_owned(),
        ready: true,
        endpoints: Some(endpoints),
        ..State::default()
    }
}

/// A condition of an object.
pub(crate) fn condition(object: &Value, about: &str) -> Option<Value> {
    object.pointer("/status/conditions")?.as_array()?.iter().find(|c| c["type"] == about).cloned()
}

/// Text in base64.
pub(crate) fn decode(text: &str) -> String {
    use base64::Engine as _;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(text).unwrap()).unwrap()
}
