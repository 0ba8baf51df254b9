//! The store gateway: a StatefulSet per shard for the cluster's own bucket, and one for each RemoteStore that leads to a
//! bucket. All serve the StoreAPI; the querier finds the first by their label, the others by their link.

use args::{Size, StoreArgs};
use kube::ResourceExt as _;
use serde_json::{Value, json};

use crate::api::ObjectStorage;
use crate::cluster::{ValidCluster, Volume};

use super::profile::{self, Sized};
use super::{Object, meta, names, objstore, pod, prometheus};

/// Where the cache is.
pub(crate) const DATA_DIR: &str = "/var/panoptes/store";
/// Largest share of the memory limit that is kept of indexes, where the engine's default is more.
const INDEX_CACHE: u64 = 8;
/// The same for what answers hold before they are sent.
const CHUNK_POOL: u64 = 4;
/// Share of the volume for what was read from indexes and chunks.
const DISK_CACHE: u64 = 2;
/// Eighths of the volume for index-headers; the rest is for what is being fetched, and for the list of blocks.
const HEADERS: u64 = 3;

/// One StatefulSet with what it serves.
struct Gateway<'a> {
    name: String,
    part: meta::Part<'a>,
    /// The account, which shards share.
    account: String,
    bucket: &'a ObjectStorage,
    /// The Secret with the bucket's file.
    secret: String,
    cache: &'a Volume,
    /// Of how many shards it is one; see [`crate::cluster::ValidShard::of`].
    of: &'a [i32],
    /// Whether it is among the cluster's own stores.
    own: bool,
}

pub(super) fn objects(cluster: &ValidCluster) -> Vec<Object> {
    own(cluster).into_iter().chain(remote(cluster)).collect()
}

fn own(cluster: &ValidCluster) -> Vec<Object> {
    let Some(bucket) = cluster.spec.object_storage.as_ref().filter(|_| !cluster.store.is_empty()) else {
        return Vec::new();
    };
    let account = names::store(&cluster.name);
    let mut objects = service(cluster, meta::STORE, &account);
    for (shard, valid) in (0..).zip(&cluster.store) {
        if cluster.store.len() > 1 {
            let part = meta::Part { shard: Some(shard), ..meta::STORE };
            objects.push(headless(cluster, part, &names::store_shard_api(&cluster.name, shard)));
        }
        objects.extend(set(
            cluster,
            &Gateway {
                name: names::store_shard(&cluster.name, shard),
                part: meta::Part { shard: Some(shard), ..meta::STORE },
                account: account.clone(),
                bucket,
                secret: names::objstore(&cluster.name),
                cache: &valid.cache,
                of: &valid.of,
                own: true,
            },
        ));
    }
    objects
}

fn remote(cluster: &ValidCluster) -> Vec<Object> {
    let mut objects = Vec::new();
    for link in &cluster.links {
        let (Some(valid), Some(bucket)) = (&link.bucket, &link.remote.spec.bucket_ref) else { continue };
        let component = names::remote_component(&link.remote.name_any());
        let part = meta::Part { component: &component, ..meta::STORE };
        let name = names::remote(&cluster.name, &link.remote.name_any());
        let secret = names::remote_objstore(&name);
        objects.push(objstore::rendered(cluster, part, &secret, &valid.storage));
        objects.extend(service(cluster, part, &name));
        let account = name.clone();
        let gateway = Gateway { name, part, account, bucket, secret, cache: &valid.cache, of: &[1], own: false };
        objects.extend(set(cluster, &gateway));
    }
    objects
}

/// Account and governing Service, of all shards.
fn service(cluster: &ValidCluster, part: meta::Part<'_>, name: &str) -> Vec<Object> {
    vec![pod::service_account(cluster, part, name), headless(cluster, part, &names::headless(name))]
}

fn headless(cluster: &ValidCluster, part: meta::Part<'_>, name: &str) -> Object {
    let ports = json!([pod::service_port("http", args::HTTP_PORT), pod::service_port("grpc", args::GRPC_PORT)]);
    pod::service(cluster, part, name, json!({"type": "ClusterIP", "clusterIP": "None", "ports": ports}))
}

/// The names behind which a pod must be ready, or blocks are in no answer: of each shard that is needed. Where there is one shard,
/// that of all stores.
pub(super) fn expected(cluster: &ValidCluster) -> Vec<String> {
    if profile::replicas(cluster.spec.profile, cluster.spec.store_gateway.replicas) < 1 {
        return Vec::new();
    }
    if cluster.store.len() == 1 {
        return vec![names::headless(&names::store(&cluster.name))];
    }
    let needed = (0..).zip(&cluster.store).filter(|(_, shard)| shard.needed);
    needed.map(|(shard, _)| names::store_shard_api(&cluster.name, shard)).collect()
}

/// The StatefulSet and its budget.
fn set(cluster: &ValidCluster, gateway: &Gateway<'_>) -> Vec<Object> {
    let spec = &cluster.spec.store_gateway;
    let replicas = profile::replicas(cluster.spec.profile, spec.replicas);
    let mut volumes = objstore::volumes_of(gateway.bucket, &gateway.secret);
    let claims = pod::data(cluster, gateway.part, gateway.cache, &mut volumes);
    let mut pod_spec = json!({
        "serviceAccountName": gateway.account,
        // longer than a query may take, so that a roll-out cuts none
        "terminationGracePeriodSeconds": 130,
        "containers": [container(cluster, gateway)],
        "volumes": volumes,
    });
    if let Value::Object(pod_spec) = &mut pod_spec {
        pod_spec.extend(pod::placement(cluster, gateway.part));
    }
    let own = [meta::STORE_API];
    let labels = if gateway.own { own.as_slice() } else { &[] };
    let template = pod::template(cluster, gateway.part, labels, "store", pod_spec, spec.pod_template.as_ref());
    let mut set = json!({
        "replicas": replicas,
        "serviceName": names::headless(&gateway.account),
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "revisionHistoryLimit": 5,
        "selector": {"matchLabels": meta::selector(cluster, gateway.part)},
        "template": template,
    });
    if !claims.is_empty() {
        set["volumeClaimTemplates"] = json!(claims);
        // a cache: whatever the policy for data says, nobody misses it
        set["persistentVolumeClaimRetentionPolicy"] = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    }
    let set = Object(json!({
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": meta::metadata(cluster, gateway.part, &gateway.name),
        "spec": set,
    }));
    pod::disruption_budget(cluster, gateway.part, &gateway.name, replicas).into_iter().chain([set]).collect()
}

fn container(cluster: &ValidCluster, gateway: &Gateway<'_>) -> Value {
    let spec = &cluster.spec.store_gateway;
    let resources = profile::resources(cluster.spec.profile, Sized::Store, spec.resources.as_ref());
    let mut mounts = objstore::mounts_of(gateway.bucket, true);
    mounts.push(prometheus::mount(pod::DATA_VOLUME, DATA_DIR, false));
    json!({
        "name": "store",
        "image": cluster.images.store,
        "args": pod::command("store", flags(cluster, gateway, profile::memory_limit(&resources)).render(), &spec.extra_args),
        "ports": [pod::container_port("http", args::HTTP_PORT), pod::container_port("grpc", args::GRPC_PORT)],
        "readinessProbe": pod::probe("/-/ready", "http", 2, 3),
        "livenessProbe": pod::probe("/-/healthy", "http", 10, 6),
        "resources": resources,
        "volumeMounts": mounts,
    })
}

fn flags(cluster: &ValidCluster, gateway: &Gateway<'_>, memory: u64) -> StoreArgs {
    let spec = &cluster.spec.store_gateway;
    let defaults = StoreArgs::default();
    let given = |flag: &str| spec.extra_args.iter().any(|arg| arg.split('=').next() == Some(flag));
    // What a person sets is theirs; else no more than the container has room for.
    let least = |flag: &str, default: Size, room: u64| {
        if given(flag) || memory == 0 { default } else { Size(default.0.min(room)) }
    };
    let mut flags = StoreArgs {
        data_dir: DATA_DIR.to_owned(),
        objstore_config_file: objstore::config_path(),
        disk_cache_size: Size(gateway.cache.bytes() / DISK_CACHE),
        header_max_disk_size: Size(gateway.cache.bytes() / 8 * HEADERS),
        index_cache_size: least("--index-cache-size", defaults.index_cache_size, memory / INDEX_CACHE),
        chunk_pool_size: least("--chunk-pool-size", defaults.chunk_pool_size, memory / CHUNK_POOL),
        ..defaults
    };
    if gateway.own {
        flags.min_time = spec.min_time.clone().unwrap_or(flags.min_time);
        flags.max_time = spec.max_time.clone().unwrap_or(flags.max_time);
    }
    if let Some(shard) = gateway.part.shard {
        flags.selector = selector(shard, gateway.of);
    }
    flags.server.log_level = prometheus::log_level(spec.log_level);
    flags
}

/// The blocks of one shard, by their ids, as a relabel configuration; JSON is YAML. Empty for all blocks.
fn selector(shard: i32, of: &[i32]) -> String {
    let divide = |label: &str, shards: i32| json!({"action": "hashmod", "source_labels": ["__block_id"], "target_label": label, "modulus": shards});
    let steps = match *of {
        [before, shards] => json!([
            divide("before", before),
            divide("shard", shards),
            {"action": "keep", "source_labels": ["before", "shard"], "regex": format!("{shard};.*|.*;{shard}")},
        ]),
        [shards] if shards > 1 => json!([
            divide("shard", shards),
            {"action": "keep", "source_labels": ["shard"], "regex": shard.to_string()},
        ]),
        _ => return String::new(),
    };
    steps.to_string()
}
