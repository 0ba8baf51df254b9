//! Keys of Secrets and ConfigMaps that a wish names.

use crate::api::KeyRef;
use crate::observe::{Found, Observed};

use super::problem::{ConditionType, Problem, Reason};

/// Why a key can't be had, as reason and sentence.
pub(super) struct Absent {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Absent {
    /// As a problem of a condition. A missing right needs a person, whatever it is needed for.
    pub(super) fn problem(self, condition: ConditionType, field: &str) -> Problem {
        let condition = if self.reason == Reason::ForbiddenByRBAC { ConditionType::Stalled } else { condition };
        Problem::new(condition, self.reason, field, self.message)
    }
}

/// The bytes of one key of a Secret.
pub(super) fn secret<'a>(observed: &'a Observed, key: &KeyRef) -> Result<&'a [u8], Absent> {
    secret_key(observed, &key.name, &key.key)
}

/// The same, by name and key.
pub(super) fn secret_key<'a>(observed: &'a Observed, name: &str, key: &str) -> Result<&'a [u8], Absent> {
    match observed.secrets.get(name) {
        Some(Found::Present(secret)) => secret
            .data
            .as_ref()
            .and_then(|data| data.get(key))
            .map(|bytes| bytes.0.as_slice())
            .ok_or_else(|| missing_key("Secret", name, key)),
        Some(Found::Forbidden(_)) => Err(forbidden("Secret", name, observed)),
        Some(Found::Missing) | None => Err(missing("Secret", name, key)),
    }
}

/// The text of one key of a ConfigMap.
pub(super) fn config_map<'a>(observed: &'a Observed, key: &KeyRef) -> Result<&'a [u8], Absent> {
    match observed.config_maps.get(&key.name) {
        Some(Found::Present(map)) => {
            let text = map.data.as_ref().and_then(|data| data.get(&key.key)).map(String::as_bytes);
            let bytes = || map.binary_data.as_ref().and_then(|data| data.get(&key.key)).map(|b| b.0.as_slice());
            text.or_else(bytes).ok_or_else(|| missing_key("ConfigMap", &key.name, &key.key))
        }
        Some(Found::Forbidden(_)) => Err(forbidden("ConfigMap", &key.name, observed)),
        Some(Found::Missing) | None => Err(missing("ConfigMap", &key.name, &key.key)),
    }
}

fn missing(kind: &str, name: &str, key: &str) -> Absent {
    Absent {
        reason: Reason::SecretMissing,
        message: format!("{kind} {name:?} does not exist. Create it with the key {key:?}."),
    }
}

fn missing_key(kind: &str, name: &str, key: &str) -> Absent {
    Absent { reason: Reason::SecretMissing, message: format!("{kind} {name:?} has no key {key:?}. Add it.") }
}

fn forbidden(kind: &str, name: &str, observed: &Observed) -> Absent {
    let namespace = observed.cluster.metadata.namespace.as_deref().unwrap_or_default();
    Absent {
        reason: Reason::ForbiddenByRBAC,
        message: format!(
            "The operator may not read {kind} {name:?}. Grant it: panoptes operator rbac -n {namespace} | kubectl apply -f -"
        ),
    }
}
