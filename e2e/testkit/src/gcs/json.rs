//! The JSON API, as Google's Go client (and so Thanos) speaks it: <https://cloud.google.com/storage/docs/json_api/v1>.

use bytes::Bytes;
use serde_json::{Value, json};

use super::store::{Object, Refused, Right, Store, Upload};
use super::xml::{self, count, etag};
use crate::wire::{Answer, Request, decode};

/// Most entries of one page, as over there.
const PAGE: usize = 1000;

/// Answers a request below `/storage/v1/b/`.
pub(super) fn answer(store: &mut Store, request: &Request, path: &str) -> Result<Answer, Refused> {
    let (bucket, rest) = path.split_once('/').unwrap_or((path, ""));
    let bucket = decode(bucket);
    match (request.method.as_str(), rest.strip_prefix("o/").map(decode)) {
        ("GET", None) if rest.is_empty() => {
            store.bucket(&bucket)?;
            Ok(Answer::json(
                200,
                &json!({"kind": "storage#bucket", "id": bucket, "name": bucket, "metageneration": "1"}),
            ))
        }
        ("GET", None) if rest == "o" => list(store, request, &bucket),
        ("GET", Some(name)) if request.param("alt") == Some("media") => xml::get(store, request, &bucket, &name),
        ("GET", Some(name)) => {
            count(store, "head");
            let object = store.get(&bucket, &name)?;
            Ok(Answer::json(200, &resource(&bucket, &name, object)))
        }
        ("DELETE", Some(name)) => {
            count(store, "delete");
            store.delete(&bucket, &name).map(|()| Answer::new(204))
        }
        _ => Err(Refused::Bad("no such method")),
    }
}

fn list(store: &mut Store, request: &Request, bucket: &str) -> Result<Answer, Refused> {
    count(store, "list");
    let param = |name| request.param(name).unwrap_or_default();
    let limit = request.param("maxResults").and_then(|text| text.parse().ok()).unwrap_or(PAGE).clamp(1, PAGE);
    let page = store.list(bucket, param("prefix"), param("delimiter"), param("pageToken"), limit)?;
    let items: Vec<Value> = page.objects.iter().map(|(name, object)| resource(bucket, name, object)).collect();
    let mut body = json!({"kind": "storage#objects", "items": items, "prefixes": page.prefixes});
    if let Some(next) = page.next {
        body["nextPageToken"] = json!(next);
    }
    Ok(Answer::json(200, &body))
}

fn resource(bucket: &str, name: &str, object: &Object) -> Value {
    let time = super::rfc3339(object.updated);
    json!({
        "kind": "storage#object", "id": format!("{bucket}/{name}/{}", object.generation), "name": name, "bucket": bucket,
        "generation": object.generation.to_string(), "metageneration": "1", "contentType": object.content_type,
        "size": object.bytes.len().to_string(), "etag": etag(object), "timeCreated": time, "updated": time,
        "storageClass": "STANDARD",
    })
}

/// Answers a request below `/upload/storage/v1/b/`: whole, or in several requests.
pub(super) fn upload(store: &mut Store, request: &Request, path: &str, base: &str) -> Result<Answer, Refused> {
    let bucket = decode(path.split('/').next().unwrap_or_default());
    let generation = request
        .param("ifGenerationMatch")
        .map(|text| text.parse().map_err(|_| Refused::Bad("ifGenerationMatch")))
        .transpose()?;
    if let Some(id) = request.param("upload_id") {
        return resume(store, request, id);
    }
    match request.param("uploadType") {
        Some("multipart") => {
            count(store, "put");
            let (metadata, content_type, media) = related(request).ok_or(Refused::Bad("multipart body"))?;
            let name = name(request, &metadata)?;
            let object = store.put(&bucket, &name, media, &content_type, generation)?;
            Ok(Answer::json(200, &resource(&bucket, &name, &object)))
        }
        Some("media") => {
            count(store, "put");
            let name = name(request, &Value::Null)?;
            let kind = request.header("content-type").unwrap_or("application/octet-stream");
            let object = store.put(&bucket, &name, request.body.clone(), kind, generation)?;
            Ok(Answer::json(200, &resource(&bucket, &name, &object)))
        }
        Some("resumable") => {
            count(store, "multipart-start");
            store.bucket(&bucket)?;
            store.allow(&bucket, Right::Create)?;
            let metadata = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
            let kind = request.header("x-upload-content-type").unwrap_or("application/octet-stream");
            let upload = Upload {
                name: name(request, &metadata)?,
                content_type: metadata["contentType"].as_str().unwrap_or(kind).to_owned(),
                generation,
                bucket: bucket.clone(),
                ..Upload::default()
            };
            let id = format!("resumable-{}", store.next_upload());
            store.uploads.insert(id.clone(), upload);
            let location = format!("{base}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={id}");
            Ok(Answer::new(200).with("Location", location).with("X-GUploader-UploadID", id))
        }
        _ => Err(Refused::Bad("uploadType")),
    }
}

fn name(request: &Request, metadata: &Value) -> Result<String, Refused> {
    let name = request.param("name").or_else(|| metadata["name"].as_str());
    name.map(str::to_owned).ok_or(Refused::Bad("no name"))
}

/// A piece of an upload: `Content-Range: bytes 0-99/*`, with the whole size in the last one.
fn resume(store: &mut Store, request: &Request, id: &str) -> Result<Answer, Refused> {
    count(store, "multipart-part");
    let range = request.header("content-range").unwrap_or("bytes */*").to_owned();
    let upload = store.uploads.get_mut(id).ok_or(Refused::NoObject)?;
    let whole = &mut upload.whole;
    if !request.body.is_empty() {
        let from = range.trim_start_matches("bytes ").split('-').next().and_then(|text| text.parse::<usize>().ok());
        whole.truncate(from.unwrap_or(0));
        whole.extend_from_slice(&request.body);
    }
    let size = range.rsplit('/').next().and_then(|text| text.parse::<usize>().ok());
    if size != Some(whole.len()) && request.header("content-range").is_some() {
        let mut answer = Answer::new(308);
        if request.header("x-guploader-no-308").is_some() {
            answer = Answer::new(200).with("X-HTTP-Status-Code-Override", "308");
        }
        return Ok(if whole.is_empty() {
            answer
        } else {
            answer.with("Range", format!("bytes=0-{}", whole.len() - 1))
        });
    }
    let bytes = std::mem::take(whole);
    let Upload { bucket, name, content_type, generation, .. } = store.uploads.remove(id).ok_or(Refused::NoObject)?;
    let object = store.put(&bucket, &name, bytes.into(), &content_type, generation)?;
    Ok(Answer::json(200, &resource(&bucket, &name, &object)))
}

/// The two parts of `multipart/related`: metadata, and the media with its type.
fn related(request: &Request) -> Option<(Value, String, Bytes)> {
    let kind = request.header("content-type")?;
    let boundary = kind.split("boundary=").nth(1)?.trim_matches('"');
    let mark = format!("--{boundary}").into_bytes();
    let find = |from: usize, what: &[u8]| {
        request.body.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| from + at)
    };
    let mut parts = Vec::new();
    let mut at = find(0, &mark)?;
    for _ in 0..2 {
        let head = at + mark.len();
        let body = find(head, b"\r\n\r\n")? + 4;
        let end = find(body, &[b"\r\n", &mark[..]].concat())?;
        let headers = String::from_utf8_lossy(request.body.get(head..body)?).to_lowercase();
        let kind =
            headers.lines().find_map(|line| line.strip_prefix("content-type:")).unwrap_or_default().trim().to_owned();
        parts.push((kind, request.body.slice(body..end)));
        at = end + 2;
    }
    let (kind, media) = parts.pop()?;
    let (_, metadata) = parts.pop()?;
    Some((serde_json::from_slice(&metadata).ok()?, kind, media))
}
