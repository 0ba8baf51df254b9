//! The list of blocks as Thanos's page of a bucket asks for it: `GET /api/v1/blocks?view=global|loaded`.

use axum::Router;
use axum::body::Body;
use axum::extract::Query;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use std::sync::Arc;
use tsdb::BlockMeta;

/// Metas that are written at a time: all of a large bucket would take hundreds of megabytes.
const BATCH: usize = 200;

/// Which blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All of the bucket.
    Global,
    /// Those that are served.
    Loaded,
}

/// The blocks.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// What their meta.json say.
    pub metas: Vec<Arc<BlockMeta>>,
    /// When the bucket was last looked at, in ms since the epoch.
    pub refreshed_ms: Option<i64>,
    /// Why it can't be looked at now.
    pub error: Option<String>,
}

/// Gives the blocks.
pub type ListFn = Arc<dyn Fn(View) -> Listing + Send + Sync>;

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    view: String,
}

/// The route. `label` is the external label by which a page groups blocks.
pub fn router(label: String, list: ListFn) -> Router {
    let answer = move |Query(asked): Query<Asked>| {
        let (label, list) = (label.clone(), Arc::clone(&list));
        async move {
            match asked.view.as_str() {
                "loaded" => success(&label, list(View::Loaded)),
                "" | "global" => success(&label, list(View::Global)),
                other => {
                    let error = format!("view={other} is not known: ask for global or loaded");
                    let body = serde_json::json!({"status": "error", "errorType": "bad_data", "error": error});
                    (StatusCode::BAD_REQUEST, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response()
                }
            }
        }
    };
    Router::new().route("/api/v1/blocks", get(answer))
}

fn success(label: &str, listing: Listing) -> Response {
    let at = listing.refreshed_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let at = at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string());
    let text = |s: &str| serde_json::Value::from(s).to_string();
    let error = listing.error.as_deref().map_or_else(|| "null".to_owned(), text);
    let head = format!("{{\"status\":\"success\",\"data\":{{\"label\":{},\"blocks\":[", text(label));
    let tail = format!("],\"refreshedAt\":{},\"err\":{error}}}}}", text(&at));
    let count = listing.metas.len().div_ceil(BATCH);
    let batches = futures::stream::iter(0..count).map(move |n| {
        let mut out = Vec::new();
        for (i, meta) in listing.metas.iter().enumerate().skip(n * BATCH).take(BATCH) {
            if i > 0 {
                out.push(b',');
            }
            serde_json::to_writer(&mut out, &**meta)?;
        }
        Ok::<_, serde_json::Error>(Bytes::from(out))
    });
    let piece = |text: String| futures::stream::iter([Ok(Bytes::from(text))]);
    let body = Body::from_stream(piece(head).chain(batches).chain(piece(tail)));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::BlockId;
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn blocks_as_thanos_tells_them() {
        let list: ListFn = Arc::new(|view| {
            let many = if view == View::Global { 451 } else { 1 };
            let meta = |n| Arc::new(BlockMeta::new(BlockId::from_parts(n, 1), 0, 1));
            Listing { metas: (0..many).map(meta).collect(), refreshed_ms: Some(0), error: None }
        });
        let app = router("replica".into(), list);
        let ask = |path: &str| {
            let request = http::Request::get(path).body(Body::empty()).unwrap();
            let app = app.clone();
            async move {
                let answer = app.oneshot(request).await.unwrap();
                let status = answer.status();
                let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
                (status, serde_json::from_slice::<serde_json::Value>(&body).unwrap())
            }
        };
        for (path, many) in [("/api/v1/blocks", 451), ("/api/v1/blocks?view=loaded", 1)] {
            let (status, body) = ask(path).await;
            let data = &body["data"];
            assert_eq!((status, data["blocks"].as_array().unwrap().len()), (StatusCode::OK, many));
            assert_eq!((&data["label"], &data["refreshedAt"]), (&"replica".into(), &"1970-01-01T00:00:00Z".into()));
            assert!(data["err"].is_null() && data["blocks"][0]["ulid"].is_string());
        }
        assert_eq!(ask("/api/v1/blocks?view=all").await.0, StatusCode::BAD_REQUEST);
    }
}
