//! `stores` and `status/*`.

use super::{Api, success};
use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The stores, by component, as Thanos shows them.
pub(super) async fn stores(State(api): State<Arc<Api>>) -> Response {
    let mut by_component: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for store in api.evaluator.fanout().endpoints().stores() {
        let truth = store.truth();
        let info = truth.info.as_ref();
        let sets: Vec<Value> = info
            .iter()
            .flat_map(|i| &i.label_sets)
            .map(|s| Value::Object(s.iter().map(|(n, v)| (n.to_owned(), Value::from(v))).collect::<Map<_, _>>()))
            .collect();
        let component = info.map(|i| i.component.as_str()).filter(|c| !c.is_empty()).unwrap_or("unknown");
        by_component.entry(component.to_owned()).or_default().push(json!({
            "name": store.place.address,
            "lastCheck": rfc3339(truth.last_check_ms.unwrap_or(0)),
            "lastError": truth.error.as_ref().map(|e| e.message.as_str()),
            "labelSets": sets,
            "minTime": info.map_or(0, |i| i.min_time),
            "maxTime": info.map_or(0, |i| i.max_time),
        }));
    }
    success(&json!(by_component).to_string(), &[], &[])
}

pub(super) async fn build() -> Response {
    let data = json!({
        "version": env!("CARGO_PKG_VERSION"), "revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": "",
    });
    success(&data.to_string(), &[], &[])
}

pub(super) async fn runtime(State(api): State<Arc<Api>>) -> Response {
    let data = json!({
        "startTime": rfc3339(api.started_ms),
        "serverTime": rfc3339(api.world.clock.now_ms()),
        "CWD": std::env::current_dir().map(|d| d.to_string_lossy().into_owned()).unwrap_or_default(),
        "reloadConfigSuccess": true,
        "storageRetention": "",
    });
    success(&data.to_string(), &[], &[])
}

pub(super) async fn flags(State(api): State<Arc<Api>>) -> Response {
    let given: Map<String, Value> = api
        .args
        .render()
        .iter()
        .filter_map(|f| f.strip_prefix("--"))
        .map(|f| f.split_once('=').unwrap_or((f, "true")))
        .map(|(n, v)| (n.to_owned(), Value::from(v)))
        .collect();
    success(&Value::Object(given).to_string(), &[], &[])
}

fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default()
}
