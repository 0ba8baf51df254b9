//! Status of a RemoteStore: what the queriers see, replica by replica. The operator never dials a far side itself.

use std::collections::{BTreeMap, BTreeSet};

use args::state::{self, ErrorClass, State, Store};
use jiff::Timestamp;
use kube::ResourceExt as _;

use super::conditions::{Conditions, millis, shorten};
use super::gateway::{self, Gateway};
use crate::api::{
    ConditionStatus, Conflict, LastError, Latency, OnConflict, RemoteEndpoint, RemoteMode, RemoteStore,
    RemoteStoreStatus, TimeRange, TlsStatus, duration_millis,
};
use crate::cluster::{ConditionType as C, Problem, Reason, ValidLink};
use crate::observe::{Assignment, PartState, Winner};

/// Certificates that end sooner are told.
const SOON_MS: i64 = 14 * 86_400_000;
/// Data from a clock that is further ahead is told.
const AHEAD_MS: i64 = -60_000;
/// How long queriers may lag behind the newest links before a link that works is called not ready.
const PATIENCE: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);
/// How old the newest data of a bucket may be: a block of two hours is cut one hour after its end, and then uploaded.
const BUCKET_LAG_MS: i64 = 4 * 3_600_000;
/// Limits of the lists in the status.
const ENDPOINTS: usize = 32;
const LABEL_SETS: usize = 32;
const CONFLICTS: usize = 8;

/// What is known about a link.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// The object.
    pub remote: &'a RemoteStore,
    /// Name of the MonitoringCluster that it belongs to.
    pub cluster: &'a str,
    /// Name of the cluster label there.
    pub cluster_label: &'a str,
    /// What the queriers are told; absent where it can't be dialled.
    pub valid: Option<&'a ValidLink>,
    /// What the queriers are told at this time, where the wish can't be carried out.
    pub told: Option<&'a args::links::Link>,
    /// What is wrong with the wish.
    pub problems: &'a [Problem],
    /// Who has the cluster name first.
    pub winner: Option<&'a Winner>,
    /// Revision of the links that queriers should have in use.
    pub revision: &'a str,
    /// How many queriers there should be.
    pub queriers: usize,
    /// What the queriers say, by pod.
    pub states: &'a BTreeMap<String, PartState>,
    /// The store gateway, of a link to a bucket.
    pub gateway: Option<&'a Gateway<'a>>,
    /// Now.
    pub now: Timestamp,
}

/// Status of a RemoteStore that belongs to no MonitoringCluster.
#[must_use]
pub fn unassigned(remote: &RemoteStore, why: &Assignment, now: Timestamp) -> RemoteStoreStatus {
    let namespace = remote.namespace().unwrap_or_default();
    let (reason, message) = match why {
        Assignment::Ambiguous(names) => (
            Reason::Ambiguous,
            format!(
                "Namespace {namespace} has the MonitoringClusters {}: name one in spec.monitoringClusterRef.",
                names.join(", ")
            ),
        ),
        Assignment::Missing(name) => (
            Reason::NoMonitoringCluster,
            format!(
                "There is no MonitoringCluster {name} in namespace {namespace}. Create it, or correct spec.monitoringClusterRef."
            ),
        ),
        Assignment::None | Assignment::To(_) => {
            (Reason::NoMonitoringCluster, format!("Namespace {namespace} has no MonitoringCluster. Create one."))
        }
    };
    let mut conditions = Conditions::default();
    conditions.no(C::Accepted, reason, message.clone());
    conditions.no(C::Ready, reason, message);
    finish(
        remote,
        conditions,
        RemoteStoreStatus { phase: Some("Pending".to_owned()), ..RemoteStoreStatus::default() },
        now,
    )
}

/// Status of a RemoteStore.
#[must_use]
pub fn remote_store(link: &Link<'_>) -> RemoteStoreStatus {
    let (namespace, name) = (link.remote.namespace().unwrap_or_default(), link.remote.name_any());
    let answered: Vec<(&str, &State)> =
        link.states.iter().filter_map(|(pod, state)| Some((pod.as_str(), state.as_ref().ok()?))).collect();
    let current =
        |state: &State| state.endpoints.as_ref().is_some_and(|e| e.revision.as_deref() == Some(link.revision));
    let views: Vec<(&str, &state::Link, bool)> = answered
        .iter()
        .filter_map(|(pod, state)| {
            let links = &state.endpoints.as_ref()?.links;
            let view = links.iter().find(|view| view.namespace == namespace && view.name == name)?;
            Some((*pod, view, current(state)))
        })
        .collect();
    let seen: Vec<&state::Link> = views.iter().map(|(_, view, _)| *view).collect();

    let mut conditions = Conditions::default();
    let accepted = accepted(link, &mut conditions);
    synced(link, &answered, &views, accepted, &mut conditions);
    reachable(&seen, &mut conditions);
    if let Some(gateway) = link.gateway.filter(|_| accepted) {
        gateway::judge(gateway, link.now, &mut conditions);
    }
    tls(link, &seen, &mut conditions);
    identity(link, &seen, &mut conditions);
    unique(link, &seen, &mut conditions);
    fresh(link, &seen, &mut conditions);
    let warnings: Vec<&str> =
        link.problems.iter().filter(|p| p.condition == C::Warning).map(|p| p.message.as_str()).collect();
    if !warnings.is_empty() {
        conditions.yes(C::Warning, Reason::RiskySettings, warnings.join(" "));
    }
    if link.remote.spec.mode == RemoteMode::Drained {
        let message = "The link is drained: its data is not part of any answer. Set mode: Active to use it again.";
        conditions.yes(C::Drained, Reason::DrainedBySpec, message);
    }
    ready(link, &mut conditions);
    let phase = phase(link, &conditions);

    let good = views.iter().filter(|(_, view, current)| *current && view.endpoints.iter().any(|e| e.healthy)).count();
    let spec = &link.remote.spec;
    let address = link
        .valid
        .map(|valid| valid.address.clone())
        .or_else(|| link.told.map(|told| told.address.clone()))
        .or_else(|| spec.address.clone());
    let sets: BTreeSet<&Vec<(String, String)>> =
        seen.iter().flat_map(|view| view.endpoints.iter().flat_map(|e| e.label_sets.iter())).collect();
    let mut conflicts: Vec<Conflict> = seen.iter().flat_map(|view| view.conflicts.iter().map(conflict)).collect();
    conflicts.extend(link.winner.map(|winner| loses(link, winner)));
    conflicts.sort_by(|a, b| (&a.name, &a.label_set).cmp(&(&b.name, &b.label_set)));
    conflicts.dedup();
    conflicts.truncate(CONFLICTS);
    let endpoints = endpoints(&seen);
    let status = RemoteStoreStatus {
        phase: Some(phase.to_owned()),
        address,
        queriers: Some(format!("{good}/{}", link.queriers)),
        latency: latency(&seen),
        data_lag: seen.iter().filter_map(|view| view.data_lag_ms).min().map(lag),
        time_range: time_range(&seen),
        label_sets_total: (!seen.is_empty()).then(|| i32::try_from(sets.len()).unwrap_or(i32::MAX)),
        label_sets: sets.iter().take(LABEL_SETS).map(|set| set.iter().cloned().collect()).collect(),
        tls: seen.iter().find_map(|view| view.tls.as_ref()).map(|tls| TlsStatus {
            protocol: Some(format!("TLS {}", tls.protocol)),
            peer_subject: Some(shorten(tls.peer_subject.clone(), 1_000)),
            server_not_after: tls.server_not_after_ms.and_then(millis),
            client_not_after: tls.client_not_after_ms.and_then(millis),
        }),
        conflicts,
        last_error: last_error(link, &seen),
        last_success: seen.iter().filter_map(|view| view.last_success_ms).max().and_then(millis),
        endpoints,
        ..RemoteStoreStatus::default()
    };
    finish(link.remote, conditions, status, link.now)
}

fn finish(
    remote: &RemoteStore,
    conditions: Conditions,
    status: RemoteStoreStatus,
    now: Timestamp,
) -> RemoteStoreStatus {
    let previous = remote.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let generation = remote.metadata.generation;
    RemoteStoreStatus {
        observed_generation: generation,
        conditions: conditions.finish(previous, generation, now),
        ..status
    }
}

fn accepted(link: &Link<'_>, conditions: &mut Conditions) -> bool {
    let about = |what: C| link.problems.iter().filter(move |problem| problem.condition == what);
    let against: Vec<&Problem> = about(C::Accepted).chain(about(C::Stalled)).collect();
    let Some(first) = against.first() else {
        conditions.yes(C::Accepted, Reason::Accepted, "The queriers are told to use it.");
        return true;
    };
    let message = against.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join(" ");
    conditions.no(C::Accepted, first.reason, message.clone());
    conditions.yes(C::Stalled, first.reason, message);
    false
}

fn synced(
    link: &Link<'_>,
    answered: &[(&str, &State)],
    views: &[(&str, &state::Link, bool)],
    accepted: bool,
    conditions: &mut Conditions,
) {
    if !accepted {
        return;
    }
    let current = views.iter().filter(|(_, _, current)| *current).count();
    let wanted = link.queriers;
    if wanted == 0 {
        return conditions.no(C::Synced, Reason::QuerierUnreachable, "No querier runs: spec.querier.replicas is 0.");
    }
    let silent = link.states.iter().find_map(|(pod, state)| Some((pod, state.as_ref().err()?)));
    let refused = answered.iter().find_map(|(pod, state)| Some((*pod, state.endpoints.as_ref()?.error.as_ref()?)));
    if current >= wanted {
        conditions.yes(C::Synced, Reason::UpToDate, format!("All {wanted} queriers have the current links in use."));
    } else if let Some((pod, error)) = silent {
        conditions.no(C::Synced, Reason::QuerierUnreachable, format!("Querier {pod} can't be asked: {error}."));
    } else if let Some((pod, error)) = refused {
        conditions.no(
            C::Synced,
            Reason::QuerierNotUpdated,
            format!("Querier {pod} does not use the current links: {error}."),
        );
    } else {
        let message = format!("{current} of {wanted} queriers have the current links in use; waiting for the others.");
        conditions.no(C::Synced, Reason::QuerierNotUpdated, message);
    }
}

/// The worst failure that queriers see now.
fn failure<'a>(seen: &[&'a state::Link]) -> Option<&'a state::StoreError> {
    let errors = seen.iter().filter_map(|view| view.error.as_ref());
    errors.max_by_key(|error| (rank(error.class), error.time_ms))
}

fn rank(class: ErrorClass) -> u8 {
    match class {
        ErrorClass::WrongCluster => 3,
        ErrorClass::Timeout | ErrorClass::Connect => 1,
        _ => 2,
    }
}

fn reachable(seen: &[&state::Link], conditions: &mut Conditions) {
    if seen.is_empty() {
        conditions.unknown(C::Resolved, Reason::Pending, "No querier has asked yet.");
        conditions.unknown(C::Reachable, Reason::Pending, "No querier has asked yet.");
        return;
    }
    let error = failure(seen);
    let words = |error: &state::StoreError| sentence(&error.message);
    match error {
        Some(error) if error.class == ErrorClass::Dns => conditions.no(C::Resolved, Reason::NXDomain, words(error)),
        _ if seen.iter().all(|view| view.endpoints.is_empty()) => {
            // Nothing was tried yet, or the name has no addresses.
            if error.is_none() && seen.iter().all(|view| view.consecutive_failures == 0) {
                conditions.unknown(C::Resolved, Reason::Pending, "No querier has asked yet.");
            } else {
                let message = error.map_or_else(|| "The name has no addresses.".to_owned(), words);
                conditions.no(C::Resolved, Reason::NoAddresses, message);
            }
        }
        _ => {
            let addresses: BTreeSet<&str> =
                seen.iter().flat_map(|view| view.endpoints.iter().map(|e| e.address.as_str())).collect();
            let first = addresses.first().copied().unwrap_or_default();
            let message = match addresses.len() {
                1 => format!("It leads to {first}."),
                n => format!("It leads to {n} addresses."),
            };
            conditions.yes(C::Resolved, Reason::Resolved, message);
        }
    }
    let sees = |view: &&&state::Link| view.endpoints.iter().any(|endpoint| endpoint.healthy);
    let good = seen.iter().filter(sees).count();
    let partly =
        |total: usize| if good > 0 { format!(" ({good} of {total} queriers reach it)") } else { String::new() };
    match error {
        _ if good == seen.len() => conditions.yes(C::Reachable, Reason::Reachable, "Every querier reaches it."),
        Some(error) if error.class != ErrorClass::WrongCluster => {
            let reason = match error.class {
                ErrorClass::Connect => Reason::ConnectRefused,
                ErrorClass::Timeout => Reason::ConnectTimeout,
                ErrorClass::NotHttp2 => Reason::NotHTTP2,
                ErrorClass::Unauthorized => Reason::Unauthorized,
                ErrorClass::Protocol => Reason::ProtocolMismatch,
                _ => Reason::Unreachable,
            };
            conditions.no(C::Reachable, reason, format!("{}{}", words(error), partly(seen.len())));
        }
        _ if seen.iter().all(|view| view.last_success_ms.is_none() && view.consecutive_failures == 0) => {
            conditions.unknown(C::Reachable, Reason::Pending, "No querier has asked yet.");
        }
        _ => conditions.no(C::Reachable, Reason::Unreachable, format!("It gives no answer{}.", partly(seen.len()))),
    }
}

fn tls(link: &Link<'_>, seen: &[&state::Link], conditions: &mut Conditions) {
    let told = || link.told.map(|told| told.client.tls_config.is_some());
    let Some(encrypted) = link.valid.map(|valid| valid.tls.is_some()).or_else(told) else { return };
    if link.remote.spec.bucket_ref.is_some() {
        return; // as between the cluster's own parts
    }
    if !encrypted {
        return conditions.unknown(C::TLSValid, Reason::Plaintext, "The link is plaintext. Set spec.tls.");
    }
    if let Some(error) = failure(seen) {
        let reason = match error.class {
            ErrorClass::CertificateExpired => Some(Reason::Expired),
            ErrorClass::UnknownCa => Some(Reason::UnknownCA),
            ErrorClass::WrongServerName => Some(Reason::WrongServerName),
            ErrorClass::ClientCertificate => Some(Reason::ClientCertRequired),
            ErrorClass::TlsHandshake => Some(Reason::ProtocolMismatch),
            _ => None,
        };
        if let Some(reason) = reason {
            return conditions.no(C::TLSValid, reason, sentence(&error.message));
        }
    }
    let found: Vec<&state::Tls> = seen.iter().filter_map(|view| view.tls.as_ref()).collect();
    if found.is_empty() {
        return conditions.unknown(C::TLSValid, Reason::Pending, "No handshake yet.");
    }
    let now = link.now.as_millisecond();
    let ends = found.iter().flat_map(|tls| {
        [("The server's certificate", tls.server_not_after_ms), ("Our client certificate", tls.client_not_after_ms)]
    });
    let first = ends.filter_map(|(what, end)| Some((end?, what))).min();
    match first {
        Some((end, what)) if end < now => {
            conditions.no(
                C::TLSValid,
                Reason::Expired,
                format!("{what} ended {}. Renew it.", millis(end).unwrap_or_default()),
            );
        }
        Some((end, what)) if end < now + SOON_MS => {
            conditions.no(
                C::TLSValid,
                Reason::ExpiringSoon,
                format!("{what} ends {}. Renew it.", millis(end).unwrap_or_default()),
            );
        }
        _ => conditions.yes(C::TLSValid, Reason::Valid, "The certificates are valid."),
    }
}

fn identity(link: &Link<'_>, seen: &[&state::Link], conditions: &mut Conditions) {
    let wanted = &link.remote.spec.cluster_name;
    if let Some(view) = seen.iter().find(|view| view.cluster_matches == Some(false)) {
        return if view.clusters.is_empty() {
            let message = format!("The far side advertises no cluster label; {wanted} is expected. It is not queried.");
            conditions.no(C::ClusterMatches, Reason::NoClusterLabel, message);
        } else {
            let message = format!(
                "The far side is {}, not {wanted}. It is not queried. Correct spec.address or spec.clusterName.",
                view.clusters.join(", ")
            );
            conditions.no(C::ClusterMatches, Reason::WrongCluster, message);
        };
    }
    if seen.iter().any(|view| view.cluster_matches == Some(true)) {
        conditions.yes(C::ClusterMatches, Reason::Matches, format!("The far side is {wanted}."));
    } else {
        conditions.unknown(C::ClusterMatches, Reason::Pending, "The far side has not said yet which cluster it is.");
    }
}

/// Whether a link that is not the only one of its cluster is shut out. With this cluster's own name it always is: nothing
/// could be told apart.
fn rejects(link: &Link<'_>) -> bool {
    link.remote.spec.on_conflict == OnConflict::Reject || link.winner == Some(&Winner::Local)
}

fn unique(link: &Link<'_>, seen: &[&state::Link], conditions: &mut Conditions) {
    let cluster = &link.remote.spec.cluster_name;
    let consequence = if rejects(link) { "This one is not queried." } else { "Both are queried." };
    match link.winner {
        Some(Winner::Local) => {
            let message =
                format!("{cluster} is the name of this cluster itself. {consequence} Correct spec.clusterName.");
            return conditions.no(C::LabelsUnique, Reason::OverlapsLocal, message);
        }
        Some(Winner::Older(other)) => {
            let message = format!(
                "RemoteStore {other} is older and has the cluster {cluster} too. {consequence} Delete one of them."
            );
            return conditions.no(C::LabelsUnique, Reason::DuplicateOf, message);
        }
        None => {}
    }
    // A link that an older one shuts out does not make the older one a duplicate.
    let found = seen.iter().flat_map(|view| view.conflicts.iter()).find(|conflict| conflict.with.starts_with("store "));
    match found {
        Some(conflict) => {
            let message = format!("The labels {} are also those of {}.", labels(&conflict.label_set), conflict.with);
            conditions.no(C::LabelsUnique, Reason::OverlapsLocal, message);
        }
        None => conditions.yes(C::LabelsUnique, Reason::Unique, format!("Nobody else has the cluster {cluster}.")),
    }
}

fn fresh(link: &Link<'_>, seen: &[&state::Link], conditions: &mut Conditions) {
    let lags: Vec<i64> = seen.iter().filter_map(|view| view.data_lag_ms).collect();
    let bucket = link.remote.spec.bucket_ref.is_some();
    let least = if bucket { BUCKET_LAG_MS } else { 0 };
    let warn = duration_millis(&link.remote.spec.probe.warn_lag).unwrap_or(180_000).max(least);
    let healthy = seen.iter().any(|view| view.endpoints.iter().any(|endpoint| endpoint.healthy));
    match lags.iter().min().copied() {
        // Without the number, which always moves: status.dataLag has it.
        Some(least) if least < AHEAD_MS => {
            conditions.no(C::Fresh, Reason::ClockSkew, "Its data is more than a minute ahead of our clock.");
        }
        Some(least) if least > warn => {
            let limit = match warn {
                BUCKET_LAG_MS if bucket => "4h",
                _ => &link.remote.spec.probe.warn_lag,
            };
            conditions.no(
                C::Fresh,
                Reason::Lagging,
                format!("Its newest data is older than {limit} (spec.probe.warnLag)."),
            );
        }
        Some(_) => conditions.yes(C::Fresh, Reason::UpToDate, "Its data is up to date."),
        None if healthy => conditions.unknown(C::Fresh, Reason::Pending, "Its newest data is not known yet."),
        None => conditions.unknown(C::Fresh, Reason::Pending, "Its data can't be seen."),
    }
}

/// The worst of the rest.
fn ready(link: &Link<'_>, conditions: &mut Conditions) {
    if conditions.get(C::Drained).is_some() {
        let message = "The link is drained: its data is not part of any answer.";
        return conditions.no(C::Ready, Reason::DrainedBySpec, message);
    }
    let no = |about| conditions.when(about, ConditionStatus::False);
    let unsure = |about| conditions.when(about, ConditionStatus::Unknown);
    let rejects = rejects(link);
    let worst = no(C::Accepted)
        .or_else(|| no(C::LabelsUnique).filter(|_| rejects))
        .or_else(|| no(C::Resolved))
        .or_else(|| no(C::TLSValid).filter(|(reason, _)| *reason != Reason::ExpiringSoon))
        .or_else(|| no(C::Reachable))
        .or_else(|| no(C::ClusterMatches))
        .or_else(|| {
            no(C::Synced).filter(|(reason, _)| *reason != Reason::QuerierNotUpdated || !was_ready_just_now(link))
        })
        .or_else(|| no(C::Fresh))
        .or_else(|| unsure(C::Reachable))
        .or_else(|| unsure(C::ClusterMatches));
    let waiting =
        |reason: Reason| matches!(reason, Reason::Pending | Reason::QuerierNotUpdated | Reason::QuerierUnreachable);
    match worst {
        Some((reason, message)) => {
            if waiting(reason) {
                conditions.yes(C::Reconciling, Reason::Pending, message.clone());
            }
            conditions.no(C::Ready, reason, message);
        }
        None => conditions.yes(C::Ready, Reason::Ready, "Its data is part of the answers."),
    }
    if link.remote.spec.mode == RemoteMode::ProbeOnly
        && conditions.get(C::Ready).is_some_and(|(status, _, _)| status == ConditionStatus::True)
    {
        conditions.yes(C::Ready, Reason::Ready, "It is probed only (spec.mode): its data is not part of any answer.");
    }
}

/// Whether the link was Ready in this very form and the queriers lag behind only since a moment ago: it is another link that
/// has changed, and this one is used as before.
fn was_ready_just_now(link: &Link<'_>) -> bool {
    let Some(status) = &link.remote.status else { return false };
    let before = |about: C| status.conditions.iter().find(|condition| condition.type_ == about.as_str());
    let ready = before(C::Ready).is_some_and(|condition| {
        condition.status == ConditionStatus::True && condition.observed_generation == link.remote.metadata.generation
    });
    let patient = before(C::Synced).is_some_and(|condition| {
        condition.status == ConditionStatus::True
            || condition
                .last_transition_time
                .parse::<Timestamp>()
                .is_ok_and(|since| link.now.duration_since(since) < PATIENCE)
    });
    ready && patient
}

fn phase(link: &Link<'_>, conditions: &Conditions) -> &'static str {
    let is = |about, status| conditions.get(about).is_some_and(|(now, _, _)| now == status);
    let rejects = rejects(link);
    if is(C::Drained, ConditionStatus::True) {
        "Drained"
    } else if is(C::Accepted, ConditionStatus::False) {
        "Pending"
    } else if is(C::LabelsUnique, ConditionStatus::False) && rejects {
        "Conflict"
    } else if is(C::Resolved, ConditionStatus::False) || is(C::Reachable, ConditionStatus::False) {
        "Unreachable"
    } else if is(C::Reachable, ConditionStatus::Unknown) || is(C::ClusterMatches, ConditionStatus::Unknown) {
        "Connecting"
    } else if is(C::Ready, ConditionStatus::True) && !is(C::TLSValid, ConditionStatus::False) {
        "Healthy"
    } else {
        "Degraded"
    }
}

/// Every address once, in the worst state that any querier sees.
fn endpoints(seen: &[&state::Link]) -> Vec<RemoteEndpoint> {
    let mut found: BTreeMap<&str, &Store> = BTreeMap::new();
    for endpoint in seen.iter().flat_map(|view| view.endpoints.iter()) {
        let entry = found.entry(&endpoint.address).or_insert(endpoint);
        if entry.healthy && !endpoint.healthy {
            *entry = endpoint;
        }
    }
    found
        .into_values()
        .take(ENDPOINTS)
        .map(|endpoint| RemoteEndpoint {
            address: endpoint.address.clone(),
            state: if endpoint.healthy { "Healthy" } else { "Unhealthy" }.to_owned(),
            component: Some(endpoint.component.clone()).filter(|component| !component.is_empty()),
            min_time: endpoint.min_time_ms.and_then(oldest),
            max_time: endpoint.max_time_ms.and_then(newest),
            label_sets: i32::try_from(endpoint.label_sets.len()).ok(),
            last_error: endpoint.error.as_ref().map(|error| shorten(error.message.clone(), 1_000)),
        })
        .collect()
}

fn time_range(seen: &[&state::Link]) -> Option<TimeRange> {
    let healthy = || seen.iter().flat_map(|view| view.endpoints.iter()).filter(|endpoint| endpoint.healthy);
    healthy().next()?;
    Some(TimeRange {
        min: healthy().filter_map(|endpoint| endpoint.min_time_ms).min().and_then(oldest),
        max: healthy().filter_map(|endpoint| endpoint.max_time_ms).max().and_then(newest),
    })
}

/// To the hour: it moves with every block that is dropped.
fn oldest(ms: i64) -> Option<String> {
    const HOUR: i64 = 3_600_000;
    (ms > 0).then(|| millis(ms - ms.rem_euclid(HOUR))).flatten()
}

/// Absent while it grows, which is what the largest number means; else to two hours, the span of a block.
fn newest(ms: i64) -> Option<String> {
    const BLOCK: i64 = 7_200_000;
    (ms > 0 && ms < i64::MAX / 2).then(|| millis(ms - ms.rem_euclid(BLOCK))).flatten()
}

fn latency(seen: &[&state::Link]) -> Option<Latency> {
    let mut all: Vec<i64> = seen
        .iter()
        .flat_map(|view| view.endpoints.iter())
        .filter(|endpoint| endpoint.healthy)
        .filter_map(|endpoint| endpoint.latency_us)
        .collect();
    all.sort_unstable();
    let middle = *all.get(all.len() / 2)?;
    Some(Latency { p50: duration_us(middle), p99: None })
}

/// Two significant digits.
fn duration_us(us: i64) -> String {
    let us = us.max(0);
    if us >= 10_000_000 {
        return format!("{}s", us / 1_000_000);
    }
    if us < 1_000 {
        return "<1ms".to_owned();
    }
    let ms = us / 1_000;
    let unit = if ms >= 1_000 {
        100
    } else if ms >= 100 {
        10
    } else {
        1
    };
    format!("{}ms", ms / unit * unit)
}

/// Steps of 15 seconds, as `1m30s`.
fn lag(ms: i64) -> String {
    let seconds = ms.max(0) / 15_000 * 15;
    match (seconds / 3_600, seconds % 3_600 / 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, 0) => format!("{m}m"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, 0, _) => format!("{h}h"),
        (h, m, _) => format!("{h}h{m}m"),
    }
}

fn last_error(link: &Link<'_>, seen: &[&state::Link]) -> Option<LastError> {
    let previous = link.remote.status.as_ref().and_then(|status| status.last_error.clone());
    let Some(error) = failure(seen) else { return previous };
    let class = match error.class {
        ErrorClass::Dns => "DNS",
        ErrorClass::Connect => "Connect",
        ErrorClass::TlsHandshake | ErrorClass::UnknownCa | ErrorClass::ClientCertificate => "TLSHandshake",
        ErrorClass::CertificateExpired => "CertificateExpired",
        ErrorClass::WrongServerName => "WrongServerName",
        ErrorClass::Unauthorized => "Unauthorized",
        ErrorClass::Timeout => "Timeout",
        ErrorClass::Protocol | ErrorClass::NotHttp2 => "Protocol",
        ErrorClass::WrongCluster => "WrongCluster",
    };
    let message = shorten(error.message.clone(), 1_000);
    // The time is that of the first of a row of equal errors: a probe that fails again is no news.
    match previous {
        Some(before) if before.class == class && before.message == message => Some(before),
        _ => Some(LastError { time: millis(error.time_ms)?, class: class.to_owned(), message }),
    }
}

fn conflict(found: &state::Conflict) -> Conflict {
    let (kind, namespace, name) = match found.with.strip_prefix("link ").and_then(|with| with.split_once('/')) {
        Some((namespace, name)) => ("RemoteStore", namespace, name),
        None => ("Store", "", found.with.strip_prefix("store ").unwrap_or(&found.with)),
    };
    Conflict {
        label_set: shorten(labels(&found.label_set), 1_000),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: shorten(name.to_owned(), 250),
    }
}

/// The conflict that the objects alone show.
fn loses(link: &Link<'_>, winner: &Winner) -> Conflict {
    let (kind, name) = match winner {
        Winner::Local => ("MonitoringCluster", link.cluster),
        Winner::Older(name) => ("RemoteStore", name.as_str()),
    };
    Conflict {
        label_set: labels(&[(link.cluster_label.to_owned(), link.remote.spec.cluster_name.clone())]),
        kind: kind.to_owned(),
        namespace: link.remote.namespace().unwrap_or_default(),
        name: name.to_owned(),
    }
}

fn labels(set: &[(String, String)]) -> String {
    let pairs: Vec<String> = set.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}
