//! Volumes of StatefulSets: what the spec asks for, unless one exists, because its claim template can't be changed.

use k8s_openapi::api::apps::v1::StatefulSet;

use crate::api::{CacheVolume, MonitoringClusterSpec, Profile, Quantity};
use crate::desired::names;
use crate::desired::pod::DATA_VOLUME;
use crate::observe::Observed;

use super::problem::{ConditionType, Problem, Reason};

/// Where a part keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// In an emptyDir of at most this size.
    Ephemeral {
        /// `sizeLimit`.
        limit: String,
    },
    /// In a volume per replica.
    Claim {
        /// `resources.requests.storage`.
        size: String,
        /// `storageClassName`; the default one when absent.
        class: Option<String>,
    },
}

impl Volume {
    /// As a quantity.
    pub(crate) fn size(&self) -> &str {
        match self {
            Self::Ephemeral { limit } => limit,
            Self::Claim { size, .. } => size,
        }
    }

    /// Bytes; 0 where the size is none, which was told.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size")]
    pub(crate) fn bytes(&self) -> u64 {
        Quantity::Text(self.size().to_owned()).value().unwrap_or(0.0).max(0.0) as u64
    }
}

/// Prometheus's data.
pub(super) fn of_prometheus(
    name: &str,
    spec: &MonitoringClusterSpec,
    observed: &Observed,
    problems: &mut Vec<Problem>,
) -> Volume {
    let wanted = match (&spec.storage.size, spec.profile) {
        (None, Profile::Minimal) => Volume::Ephemeral { limit: "5Gi".to_owned() },
        (size, profile) => {
            let default = match profile {
                Profile::Minimal | Profile::Small => "50Gi",
                Profile::Medium => "200Gi",
                Profile::Large => "1Ti",
            };
            let size = size.as_ref().map_or_else(|| default.to_owned(), Quantity::to_string);
            Volume::Claim { size, class: spec.storage.storage_class_name.clone() }
        }
    };
    check_size(&wanted, "spec.storage.size", problems);
    let set = names::prometheus(name);
    let instead = "delete the StatefulSet with --cascade=orphan and its claims one at a time";
    keep(wanted, &set, ("spec.storage", instead), observed).unwrap_or_else(|(existing, problem)| {
        problems.push(problem);
        existing
    })
}

/// The cache of a store gateway.
pub(super) fn wanted_cache(cache: &CacheVolume, profile: Profile) -> Volume {
    let default = match profile {
        Profile::Minimal => "1Gi",
        Profile::Small => "10Gi",
        Profile::Medium => "50Gi",
        Profile::Large => "200Gi",
    };
    let size = cache.size.as_ref().map_or_else(|| default.to_owned(), Quantity::to_string);
    match cache.persistent {
        false => Volume::Ephemeral { limit: size },
        true => Volume::Claim { size, class: cache.storage_class_name.clone() },
    }
}

pub(super) fn check_size(volume: &Volume, field: &str, problems: &mut Vec<Problem>) {
    if volume.bytes() < 1 {
        problems.push(Problem::invalid(field, format!("{:?} is no size: write it as 50Gi", volume.size())));
    }
}

/// What is wanted, unless the StatefulSet has another: then that one, with what is to be said. `said` is the field and what a
/// person can do instead.
pub(super) fn keep(
    wanted: Volume,
    set: &str,
    (field, instead): (&str, &str),
    observed: &Observed,
) -> Result<Volume, (Volume, Problem)> {
    let existing = observed.live.stateful_sets.get(set).and_then(existing);
    let Some(existing) = existing.filter(|existing| !same(existing, &wanted)) else { return Ok(wanted) };
    let message = format!(
        "The volumes of {set} can't be changed from {} to {}. Set {field} back, or {instead}.",
        describe(&existing),
        describe(&wanted),
    );
    Err((existing, Problem::new(ConditionType::Stalled, Reason::ImmutableChangeRefused, field, message)))
}

fn existing(set: &StatefulSet) -> Option<Volume> {
    let spec = set.spec.as_ref()?;
    let Some(claim) = spec.volume_claim_templates.as_ref().and_then(|claims| claims.first()) else {
        let volumes = spec.template.spec.as_ref()?.volumes.as_ref()?;
        let data = volumes.iter().find(|volume| volume.name == DATA_VOLUME)?;
        let limit = data.empty_dir.as_ref()?.size_limit.as_ref()?.0.clone();
        return Some(Volume::Ephemeral { limit });
    };
    let claim = claim.spec.as_ref()?;
    let size = claim.resources.as_ref()?.requests.as_ref()?.get("storage")?.0.clone();
    Some(Volume::Claim { size, class: claim.storage_class_name.clone() })
}

/// The API server writes quantities in its own way, and fills in nothing else. The size of an emptyDir can be changed.
fn same(a: &Volume, b: &Volume) -> bool {
    match (a, b) {
        (Volume::Ephemeral { .. }, Volume::Ephemeral { .. }) => true,
        (Volume::Claim { class: x, .. }, Volume::Claim { class: y, .. }) => x == y && a.bytes() == b.bytes(),
        _ => false,
    }
}

fn describe(volume: &Volume) -> String {
    match volume {
        Volume::Ephemeral { .. } => "an emptyDir".to_owned(),
        Volume::Claim { size, class: Some(class) } => format!("{size} of class {class}"),
        Volume::Claim { size, class: None } => format!("{size} of the default class"),
    }
}
