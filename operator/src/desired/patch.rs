//! Merging a user's partial pod template onto ours: objects by field, the lists that Kubernetes merges by key by that key,
//! all other lists as a whole. `null` removes a field.

use serde_json::Value;

/// Lists of a pod template that are merged by key.
fn merge_key(list: &str) -> Option<&'static str> {
    Some(match list {
        "containers" | "initContainers" | "ephemeralContainers" | "volumes" | "env" | "imagePullSecrets" => "name",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "ports" => "containerPort",
        "hostAliases" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

/// Merges `patch` onto `base`.
pub(super) fn merge(base: &mut Value, patch: &Value) {
    at("", base, patch);
}

fn at(field: &str, base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    base.remove(key);
                } else {
                    at(key, base.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(base), Value::Array(patch)) if merge_key(field).is_some() => {
            let key = merge_key(field).unwrap_or_default();
            for item in patch {
                let same = |other: &&mut Value| item.get(key).is_some() && other.get(key) == item.get(key);
                match base.iter_mut().find(same) {
                    Some(found) => at("", found, item),
                    None => base.push(without_nulls(item)),
                }
            }
        }
        (base, patch) => *base = without_nulls(patch),
    }
}

fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), without_nulls(v))).collect()
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merges_as_kubectl_does() {
        let mut base = json!({"spec": {
            "containers": [{"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["--x"]}, {"name": "b"}],
            "securityContext": {"runAsUser": 1, "fsGroup": 2},
            "tolerations": [{"key": "old"}],
        }});
        merge(
            &mut base,
            &json!({"metadata": {"labels": {"team": "x", "gone": null}}, "spec": {
                "containers": [
                    {"name": "a", "env": [{"name": "X", "value": "2"}, {"name": "Y", "value": "3"}]},
                    {"name": "c", "image": "i"},
                ],
                "securityContext": {"fsGroup": null},
                "tolerations": [{"key": "new"}],
                "nodeSelector": {"disk": "ssd"},
            }}),
        );
        assert_eq!(
            base,
            json!({"metadata": {"labels": {"team": "x"}}, "spec": {
                "containers": [
                    {"name": "a", "env": [{"name": "X", "value": "2"}, {"name": "Y", "value": "3"}], "args": ["--x"]},
                    {"name": "b"},
                    {"name": "c", "image": "i"},
                ],
                "securityContext": {"runAsUser": 1},
                "tolerations": [{"key": "new"}],
                "nodeSelector": {"disk": "ssd"},
            }})
        );
    }
}
