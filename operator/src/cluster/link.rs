//! RemoteStores: what can be dialled, and with which certificates.

use std::collections::BTreeMap;

use kube::ResourceExt as _;

use crate::api::{
    MonitoringCluster, OnConflict, RemoteMode, RemoteStore, RemoteStoreSpec, ServicePort, TlsMode, duration_millis,
};
use crate::desired::names;
use crate::observe::{Observed, Winner};

use super::certificates::pem;
use super::object_storage::{self, ValidObjectStorage};
use super::problem::{ConditionType, Problem, Reason};
use super::secrets::{self, Absent};
use super::volume::Volume;
use super::{kept, store};

/// A RemoteStore that can be dialled.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidLink {
    /// The object.
    pub remote: RemoteStore,
    /// What the querier dials: `host:port`, or with one of the prefixes `dns+`, `dnssrv+`, `dnssrvnoa+`.
    pub address: String,
    /// TLS; absent: plaintext.
    pub tls: Option<ValidLinkTls>,
    /// The token that is sent with every call.
    pub token: Option<Vec<u8>>,
    /// The bucket that a store gateway here serves, where it is one that is linked.
    pub bucket: Option<ValidBucket>,
    /// Why it must not be used, where another one has the same cluster.
    pub rejected: Option<String>,
    /// Milliseconds between two probes.
    pub probe_interval_ms: i64,
    /// Milliseconds that a probe may take.
    pub probe_timeout_ms: i64,
}

/// The bucket of a link and the cache of its store gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidBucket {
    /// The bucket.
    pub storage: ValidObjectStorage,
    /// The cache.
    pub cache: Volume,
}

/// TLS of a link, with the bytes of its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidLinkTls {
    /// Name that the server's certificate must carry.
    pub server_name: String,
    /// Accept any certificate.
    pub insecure_skip_verify: bool,
    /// PEM: who may sign the server's certificate; absent: the well-known authorities.
    pub ca: Option<Vec<u8>>,
    /// PEM: our certificate and its key.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

/// Judges all links of a cluster, each on its own.
pub(super) fn check(
    cluster: &MonitoringCluster,
    observed: &Observed,
) -> (Vec<ValidLink>, BTreeMap<String, Vec<Problem>>) {
    let mut links = Vec::new();
    let mut all_problems = BTreeMap::new();
    let mut remotes: Vec<_> = observed.remotes.iter().collect();
    remotes.sort_by_key(|remote| remote.name_any());
    for remote in remotes {
        let mut problems = Vec::new();
        links.extend(one(cluster, remote, observed, &mut problems));
        if !problems.is_empty() {
            all_problems.insert(remote.name_any(), problems);
        }
    }
    (links, all_problems)
}

fn one(
    cluster: &MonitoringCluster,
    remote: &RemoteStore,
    observed: &Observed,
    problems: &mut Vec<Problem>,
) -> Option<ValidLink> {
    let before = problems.len();
    let spec = &remote.spec;
    let name = cluster.name_any();
    let (address, wants_tls) = address(&name, remote, problems)?;
    let mut held = Vec::new();
    let bucket = bucket(cluster, remote, observed, problems, &mut held);
    let tls = tls(remote, wants_tls, &address, observed, problems, &mut held);
    let token = token(remote, observed, problems, &mut held);
    let (interval, timeout) = probe(remote, problems);
    let unusable =
        problems[before..].iter().any(|p| matches!(p.condition, ConditionType::Accepted | ConditionType::Stalled));
    problems.append(&mut held);
    if unusable {
        return None;
    }
    let rejected = conflict(cluster, remote, observed, problems);
    if tls.is_none() && bucket.is_none() {
        problems.push(Problem::warning(
            "spec.tls",
            "The link is plaintext: everybody on the way can read and change its data. Set tls.",
        ));
    }
    if tls.is_none() && token.is_some() {
        problems.push(Problem::warning(
            "spec.auth",
            "The token is sent in plaintext: everybody on the way can read it, and then ask as we do. Set tls.",
        ));
    }
    if tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify) {
        problems.push(Problem::warning(
            "spec.tls.insecureSkipVerify",
            "The far side's certificate is not verified: everybody on the way can pose as it. Set caSecretRef.",
        ));
    }
    if spec.mode == RemoteMode::Drained {
        problems.push(Problem::new(
            ConditionType::Drained,
            Reason::DrainedBySpec,
            "spec.mode",
            "The link is drained: its data is not part of any answer. Set mode: Active to use it again.",
        ));
    }
    Some(ValidLink {
        remote: remote.clone(),
        address,
        tls,
        token,
        bucket,
        rejected,
        probe_interval_ms: interval,
        probe_timeout_ms: timeout,
    })
}

/// What is dialled, and whether the address itself asks for TLS.
fn address(cluster: &str, remote: &RemoteStore, problems: &mut Vec<Problem>) -> Option<(String, bool)> {
    let mut invalid = |field: &str, message: String| {
        problems.push(Problem::new(ConditionType::Accepted, Reason::InvalidSpec, field, message));
        None
    };
    let RemoteStoreSpec { address, service_ref, bucket_ref, tls, auth, .. } = &remote.spec;
    match (address, service_ref, bucket_ref) {
        (Some(text), None, None) => match parse_address(text) {
            Ok(found) => Some(found),
            Err(wrong) => invalid("spec.address", format!("Address {text:?} {wrong}.")),
        },
        (None, Some(service), None) => {
            let own = remote.namespace().unwrap_or_default();
            let namespace = service.namespace.as_deref().unwrap_or(&own);
            Some(match &service.port {
                ServicePort::Number(port) => (format!("dns+{}.{namespace}.svc:{port}", service.name), *port == 443),
                ServicePort::Name(port) => (format!("dnssrv+_{port}._tcp.{}.{namespace}.svc", service.name), false),
            })
        }
        (None, None, Some(_)) if tls.is_some() || auth.is_some() => {
            let field = if tls.is_some() { "spec.tls" } else { "spec.auth" };
            let message = "bucketRef takes no tls and no auth: its store gateway runs in this namespace. Remove them.";
            invalid(field, message.to_owned())
        }
        (None, None, Some(_)) => {
            let set = names::remote(cluster, &remote.name_any());
            // Pods of a StatefulSet carry its name and a hash in a label of 63 characters; a Service's name is one label.
            if set.len() > names::LONGEST_SET || set.contains('.') {
                let most = names::LONGEST_SET.saturating_sub(names::remote(cluster, "").len());
                let message = format!(
                    "With bucketRef the name of a RemoteStore must be at most {most} characters of a-z, 0-9 and '-', because \
                     its store gateway is named {set}. Choose another name."
                );
                return invalid("metadata.name", message);
            }
            let service = names::headless(&set);
            let namespace = remote.namespace().unwrap_or_default();
            Some((format!("dnssrv+_grpc._tcp.{service}.{namespace}.svc"), false))
        }
        _ => invalid("spec", "Exactly one of address, serviceRef and bucketRef is needed.".to_owned()),
    }
}

/// The bucket of a link to one, with what its store gateway needs.
fn bucket(
    cluster: &MonitoringCluster,
    remote: &RemoteStore,
    observed: &Observed,
    problems: &mut Vec<Problem>,
    held: &mut Vec<Problem>,
) -> Option<ValidBucket> {
    let wanted = remote.spec.bucket_ref.as_ref()?;
    let set = names::remote(&cluster.name_any(), &remote.name_any());
    let before = kept::bucket(observed, &names::remote_objstore(&set));
    let storage = object_storage::of_link(wanted, observed, before, problems, held)?;
    let (cache, problem) = store::of_link(&set, &cluster.spec, observed);
    // The volume stays, and so the link goes on.
    held.extend(problem.map(|problem| Problem { condition: ConditionType::Accepted, ..problem }));
    Some(ValidBucket { storage, cache })
}

/// The dialled form of an address, and whether it asks for TLS.
fn parse_address(text: &str) -> Result<(String, bool), String> {
    if let Some(rest) = text.strip_prefix("https://") {
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('/') {
            return Err("has a path: gRPC has none; write https://host:port".to_owned());
        }
        let address = if has_port(rest) { rest.to_owned() } else { format!("{rest}:443") };
        host_port(&address)?;
        return Ok((address, true));
    }
    if text.contains("://") {
        return Err("has a scheme other than https: write host:port".to_owned());
    }
    for prefix in ["dnssrv+", "dnssrvnoa+"] {
        if let Some(name) = text.strip_prefix(prefix) {
            // The port comes from the record; Thanos accepts one here, which then wins.
            if name.is_empty() || !is_host(name.split(':').next().unwrap_or_default()) {
                return Err(format!("has no name after {prefix}"));
            }
            return Ok((text.to_owned(), false));
        }
    }
    host_port(text.strip_prefix("dns+").unwrap_or(text))?;
    Ok((text.to_owned(), text.ends_with(":443")))
}

fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        port.chars().all(|c| c.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']'))
    })
}

fn host_port(text: &str) -> Result<(), String> {
    let Some((host, port)) = text.rsplit_once(':').filter(|_| has_port(text)) else {
        return Err("has no port: write host:port".to_owned());
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!("has the port {port:?}: it must be a number from 1 to 65535"));
    }
    let good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    if good { Ok(()) } else { Err(format!("has {host:?} where a host name or address should be")) }
}

fn is_host(host: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !host.is_empty() && host.len() <= 253 && host.chars().all(good) && !host.starts_with(['-', '.'])
}

/// Certificates that are missing for a moment, but that queriers have from before, are told in `held`: they don't stop the
/// link.
fn tls(
    remote: &RemoteStore,
    wants_tls: bool,
    address: &str,
    observed: &Observed,
    problems: &mut Vec<Problem>,
    held: &mut Vec<Problem>,
) -> Option<ValidLinkTls> {
    let Some(spec) = &remote.spec.tls else {
        return wants_tls.then(|| ValidLinkTls { server_name: host(address), ..ValidLinkTls::default() });
    };
    let mode = spec.mode.unwrap_or(if spec.client_secret_ref.is_some() { TlsMode::Mutual } else { TlsMode::Tls });
    if mode == TlsMode::Disabled {
        if wants_tls && address.ends_with(":443") {
            problems.push(Problem::warning("spec.tls.mode", "TLS is off although the port is 443."));
        }
        return None;
    }
    let need = |name: &str, key: &str, label: &str| pem(observed, name, key, label).map(<[u8]>::to_vec);
    let before = || kept::link_tls(remote, observed);
    let mut told = |field: &str, absent: Vec<Absent>, kept: bool| {
        for absent in absent {
            let problem = Problem::new(ConditionType::Accepted, absent.reason, field, absent.message);
            if kept {
                let message = format!("{} Until then queriers keep the certificates that they have.", problem.message);
                held.push(Problem { message, ..problem });
            } else {
                // A link without its certificates isn't used; the rest of the cluster is not concerned.
                problems.push(problem);
            }
        }
    };
    let ca = spec.ca_secret_ref.as_ref().and_then(|ca| {
        need(&ca.name, "ca.crt", "CERTIFICATE").map_or_else(
            |absent| {
                let kept = before().and_then(|tls| tls.ca);
                told("spec.tls.caSecretRef", vec![absent], kept.is_some());
                kept
            },
            Some,
        )
    });
    let client = spec.client_secret_ref.as_ref().and_then(|client| {
        let pair = (need(&client.name, "tls.crt", "CERTIFICATE"), need(&client.name, "tls.key", "PRIVATE KEY"));
        match pair {
            (Ok(cert), Ok(key)) => Some((cert, key)),
            (cert, key) => {
                let kept = before().and_then(|tls| tls.client);
                let absent = [cert.err(), key.err()].into_iter().flatten().collect();
                told("spec.tls.clientSecretRef", absent, kept.is_some());
                kept
            }
        }
    });
    if mode == TlsMode::Mutual && spec.client_secret_ref.is_none() {
        problems.push(Problem::new(
            ConditionType::Accepted,
            Reason::InvalidSpec,
            "spec.tls.clientSecretRef",
            "tls.mode Mutual needs clientSecretRef.",
        ));
    }
    Some(ValidLinkTls {
        server_name: spec.server_name.clone().unwrap_or_else(|| host(address)),
        insecure_skip_verify: spec.insecure_skip_verify,
        ca,
        client,
    })
}

/// The token; one that is missing for a moment, but that queriers have from before, is told in `held`.
fn token(
    remote: &RemoteStore,
    observed: &Observed,
    problems: &mut Vec<Problem>,
    held: &mut Vec<Problem>,
) -> Option<Vec<u8>> {
    const FIELD: &str = "spec.auth.bearerTokenSecretRef";
    let key = &remote.spec.auth.as_ref()?.bearer_token_secret_ref;
    let found = secrets::secret(observed, key).and_then(|bytes| {
        let word = std::str::from_utf8(bytes).unwrap_or_default().trim();
        let good = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
        let message =
            format!("Key {:?} of Secret {:?} is no token: it must be one word. Replace it.", key.key, key.name);
        if good { Ok(word.as_bytes().to_vec()) } else { Err(Absent { reason: Reason::SecretInvalid, message }) }
    });
    found.map_or_else(
        |Absent { reason, message }| {
            let kept = kept::link_token(remote, observed);
            match &kept {
                Some(_) => {
                    let message = format!("{message} Until then queriers keep the token that they have.");
                    held.push(Problem::new(ConditionType::Accepted, reason, FIELD, message));
                }
                None => problems.push(Problem::new(ConditionType::Accepted, reason, FIELD, message)),
            }
            kept
        },
        Some,
    )
}

/// The host of an address, for the certificate's name. Of a service record it is the name behind `_port._protocol`.
fn host(address: &str) -> String {
    for prefix in ["dnssrv+", "dnssrvnoa+"] {
        if let Some(name) = address.strip_prefix(prefix) {
            let name = name.split(':').next().unwrap_or_default();
            return name.split('.').skip_while(|label| label.starts_with('_')).collect::<Vec<_>>().join(".");
        }
    }
    let address = address.strip_prefix("dns+").unwrap_or(address);
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

fn probe(remote: &RemoteStore, problems: &mut Vec<Problem>) -> (i64, i64) {
    let probe = &remote.spec.probe;
    let mut millis = |field: &str, text: &str| {
        let found = duration_millis(text);
        if found.is_none() {
            problems.push(Problem::new(
                ConditionType::Accepted,
                Reason::InvalidSpec,
                format!("spec.probe.{field}"),
                format!("{text:?} is no duration: write it as 30s."),
            ));
        }
        found.unwrap_or(0)
    };
    let (interval, timeout) = (millis("interval", &probe.interval), millis("timeout", &probe.timeout));
    millis("warnLag", &probe.warn_lag);
    let mut invalid = |field: &str, message: &str| {
        problems.push(Problem::new(ConditionType::Accepted, Reason::InvalidSpec, field, message));
    };
    if interval < 5_000 {
        invalid("spec.probe.interval", "The probe interval must be at least 5s.");
    }
    if timeout < 1 || timeout >= interval.max(1) {
        invalid("spec.probe.timeout", "The probe timeout must be longer than 0 and shorter than the interval.");
    }
    (interval, timeout)
}

/// Who else has this cluster's name; the older one keeps it.
fn conflict(
    cluster: &MonitoringCluster,
    remote: &RemoteStore,
    observed: &Observed,
    problems: &mut Vec<Problem>,
) -> Option<String> {
    let winner = observed.conflicts.get(&remote.name_any())?;
    let reject = remote.spec.on_conflict == OnConflict::Reject;
    let (reason, with, mut message) = match winner {
        Winner::Local => (
            Reason::OverlapsLocal,
            format!("MonitoringCluster {}", cluster.name_any()),
            format!(
                "clusterName {:?} is this cluster's own name ({}). Give the far side a name of its own.",
                remote.spec.cluster_name,
                cluster.name_any()
            ),
        ),
        Winner::Older(name) => (
            Reason::DuplicateOf,
            format!("RemoteStore {name}"),
            format!(
                "RemoteStore {name:?} leads to cluster {:?} already. Delete one of them.",
                remote.spec.cluster_name
            ),
        ),
    };
    // With the cluster's own name nothing can be told apart, whatever the spec says.
    let reject = reject || *winner == Winner::Local;
    if reject {
        message.push_str(" Until then this one is only probed.");
    }
    problems.push(Problem::new(ConditionType::LabelsUnique, reason, "spec.clusterName", message));
    reject.then(|| format!("same cluster as {with}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, dialled, tls) in [
            ("10.20.0.7:10901", "10.20.0.7:10901", false),
            ("query.example:443", "query.example:443", true),
            ("https://query.example", "query.example:443", true),
            ("https://query.example:8443/", "query.example:8443", true),
            ("https://[2001:db8::1]", "[2001:db8::1]:443", true),
            ("[2001:db8::1]:10901", "[2001:db8::1]:10901", false),
            ("dns+query.example:10901", "dns+query.example:10901", false),
            ("dnssrv+_grpc._tcp.q.ns.svc", "dnssrv+_grpc._tcp.q.ns.svc", false),
            ("dnssrvnoa+_grpc._tcp.q.ns.svc", "dnssrvnoa+_grpc._tcp.q.ns.svc", false),
        ] {
            assert_eq!(parse_address(text), Ok((dialled.to_owned(), tls)), "{text}");
        }
        for bad in [
            "",
            "host",
            "host:",
            "host:0",
            "host:70000",
            "host:grpc",
            ":1",
            "http://host:1",
            "https://",
            "https://h/x",
            "2001:db8::1",
            "[::1",
            "[zz]:1",
            "dns+",
            "dns+host",
            "dnssrv+",
            "-h:1",
            "a b:1",
        ] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_certificates_name_is_the_host() {
        assert_eq!(host("query.example:443"), "query.example");
        assert_eq!(host("dns+query.example:443"), "query.example");
        assert_eq!(host("[2001:db8::1]:443"), "2001:db8::1");
        assert_eq!(host("dnssrv+_grpc._tcp.q.ns.svc"), "q.ns.svc");
    }
}
