//! The XML API, as `object_store` speaks it: <https://cloud.google.com/storage/docs/xml-api/reference-methods>.

use std::fmt::Write as _;

use super::store::{Object, Refused, Store, Upload};
use crate::wire::{Answer, Request, decode, escape};

/// Most entries of one page, as over there.
const PAGE: usize = 1000;

/// Answers a request for `/BUCKET` or `/BUCKET/OBJECT`.
pub(super) fn answer(store: &mut Store, request: &Request) -> Result<Answer, Refused> {
    let path = request.path.trim_start_matches('/');
    let (bucket, name) = path.split_once('/').map_or((path, None), |(bucket, name)| (bucket, Some(name)));
    let bucket = decode(bucket);
    match name.filter(|name| !name.is_empty()).map(decode) {
        None => match request.method.as_str() {
            "GET" => list(store, request, &bucket),
            "HEAD" => store.bucket(&bucket).map(|_| Answer::new(200)),
            _ => Err(Refused::Bad("no such method of a bucket")),
        },
        Some(name) => object(store, request, &bucket, &name),
    }
}

fn list(store: &mut Store, request: &Request, bucket: &str) -> Result<Answer, Refused> {
    count(store, "list");
    let param = |name| request.param(name).unwrap_or_default();
    let limit = request.param("max-keys").and_then(|text| text.parse().ok()).unwrap_or(PAGE).clamp(1, PAGE);
    let after = request.param("continuation-token").or_else(|| request.param("start-after")).unwrap_or_default();
    let page = store.list(bucket, param("prefix"), param("delimiter"), after, limit)?;
    let mut body = format!(
        "<ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{}</Name><Prefix>{}</Prefix><IsTruncated>{}</IsTruncated>",
        escape(bucket),
        escape(param("prefix")),
        page.next.is_some()
    );
    if let Some(next) = &page.next {
        // Writing to a String can't fail.
        let _ = write!(body, "<NextContinuationToken>{}</NextContinuationToken>", escape(next));
    }
    for (name, object) in &page.objects {
        let _ = write!(
            body,
            "<Contents><Key>{}</Key><Generation>{}</Generation><MetaGeneration>1</MetaGeneration><LastModified>{}</LastModified>\
             <ETag>{}</ETag><Size>{}</Size></Contents>",
            escape(name),
            object.generation,
            super::rfc3339(object.updated),
            escape(&etag(object)),
            object.bytes.len()
        );
    }
    for prefix in &page.prefixes {
        let _ = write!(body, "<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escape(prefix));
    }
    body.push_str("</ListBucketResult>");
    Ok(Answer::xml(200, &body))
}

fn object(store: &mut Store, request: &Request, bucket: &str, name: &str) -> Result<Answer, Refused> {
    match (request.method.as_str(), request.param("uploadId"), request.query.contains_key("uploads")) {
        ("GET" | "HEAD", ..) => get(store, request, bucket, name),
        ("DELETE", Some(id), _) => {
            count(store, "multipart-abort");
            store.uploads.remove(id);
            Ok(Answer::new(204))
        }
        ("DELETE", ..) => {
            count(store, "delete");
            store.delete(bucket, name).map(|()| Answer::new(204))
        }
        ("PUT", Some(id), _) => part(store, request, id),
        ("PUT", ..) => put(store, request, bucket, name),
        ("POST", _, true) => {
            count(store, "multipart-start");
            store.bucket(bucket)?;
            let id = format!("upload-{}", store.next_upload());
            let upload = Upload {
                bucket: bucket.to_owned(),
                name: name.to_owned(),
                content_type: content_type(request),
                generation: generation(request)?,
                ..Upload::default()
            };
            store.uploads.insert(id.clone(), upload);
            let body = format!(
                "<InitiateMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>",
                escape(bucket),
                escape(name)
            );
            Ok(Answer::xml(200, &body))
        }
        ("POST", Some(id), _) => complete(store, id),
        _ => Err(Refused::Bad("no such method of an object")),
    }
}

/// Reads an object, or what of it is asked for.
pub(super) fn get(store: &mut Store, request: &Request, bucket: &str, name: &str) -> Result<Answer, Refused> {
    let head = request.method == "HEAD";
    count(store, if head { "head" } else { "get" });
    let object = store.get(bucket, name)?;
    if request.param("generation").is_some_and(|wanted| wanted != object.generation.to_string()) {
        return Err(Refused::NoObject);
    }
    let tag = etag(object);
    if request.header("if-none-match").is_some_and(|wanted| wanted == tag) {
        return Ok(Answer::new(304).with("ETag", tag));
    }
    if request.header("if-match").is_some_and(|wanted| wanted != tag) {
        return Err(Refused::Precondition);
    }
    let size = object.bytes.len();
    let range = request.header("range").map(|text| range(text, size));
    let answer = match range {
        None => {
            let mut answer = Answer::new(200);
            answer.body = object.bytes.clone();
            answer
        }
        Some(None) => return Ok(Answer::xml(416, "<Error><Code>InvalidRange</Code></Error>")),
        Some(Some((from, to))) => {
            let mut answer = Answer::new(206).with("Content-Range", format!("bytes {from}-{}/{size}", to - 1));
            answer.body = object.bytes.slice(from..to);
            answer
        }
    };
    let mut answer = answer
        .with("ETag", tag)
        .with("Last-Modified", super::rfc9110(object.updated))
        .with("Content-Type", object.content_type.clone())
        .with("x-goog-generation", object.generation.to_string())
        .with("x-goog-metageneration", "1")
        .with("Accept-Ranges", "bytes");
    if head {
        answer.length = Some(answer.body.len());
        answer.body.clear();
    }
    Ok(answer)
}

/// The bytes that a `Range` header asks for, as a half-open range; none where there are none.
fn range(text: &str, size: usize) -> Option<(usize, usize)> {
    let (from, to) = text.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to) = match (from, to) {
        ("", last) => (size.saturating_sub(last.parse().ok()?), size),
        (from, "") => (from.parse().ok()?, size),
        (from, to) => (from.parse().ok()?, to.parse::<usize>().ok()?.saturating_add(1).min(size)),
    };
    (from < to).then_some((from, to))
}

fn put(store: &mut Store, request: &Request, bucket: &str, name: &str) -> Result<Answer, Refused> {
    count(store, "put");
    let bytes = match request.header("x-goog-copy-source") {
        None => request.body.clone(),
        Some(source) => {
            let (from, name) = source.trim_start_matches('/').split_once('/').ok_or(Refused::Bad("copy source"))?;
            store.get(&decode(from), &decode(name))?.bytes.clone()
        }
    };
    let object = store.put(bucket, name, bytes, &content_type(request), generation(request)?)?;
    let body = if request.header("x-goog-copy-source").is_some() {
        Answer::xml(200, &format!("<CopyObjectResult><ETag>{}</ETag></CopyObjectResult>", escape(&etag(&object))))
    } else {
        Answer::new(200)
    };
    Ok(body
        .with("ETag", etag(&object))
        .with("x-goog-generation", object.generation.to_string())
        .with("x-goog-hash", goog_hash(&object.bytes)))
}

/// The checksum of what came, as answers tell it.
fn goog_hash(bytes: &[u8]) -> String {
    let crc = crc32c::crc32c(bytes).to_be_bytes();
    format!("crc32c={}", base64::engine::Engine::encode(&base64::prelude::BASE64_STANDARD, crc))
}

fn part(store: &mut Store, request: &Request, id: &str) -> Result<Answer, Refused> {
    count(store, "multipart-part");
    let bucket = store.uploads.get(id).ok_or(Refused::NoObject)?.bucket.clone();
    store.allow(&bucket, super::Right::Create)?;
    let number = request.param("partNumber").and_then(|text| text.parse().ok()).ok_or(Refused::Bad("partNumber"))?;
    let upload = store.uploads.get_mut(id).ok_or(Refused::NoObject)?;
    upload.parts.insert(number, request.body.clone());
    Ok(Answer::new(200).with("ETag", format!("\"{id}-{number}\"")).with("x-goog-hash", goog_hash(&request.body)))
}

fn complete(store: &mut Store, id: &str) -> Result<Answer, Refused> {
    count(store, "multipart-complete");
    let upload = store.uploads.remove(id).ok_or(Refused::NoObject)?;
    let bytes = upload.parts.into_values().collect::<Vec<_>>().concat().into();
    let object = store.put(&upload.bucket, &upload.name, bytes, &upload.content_type, upload.generation)?;
    let body = format!(
        "<CompleteMultipartUploadResult><Bucket>{}</Bucket><Key>{}</Key><ETag>{}</ETag></CompleteMultipartUploadResult>",
        escape(&upload.bucket),
        escape(&upload.name),
        escape(&etag(&object))
    );
    Ok(Answer::xml(200, &body).with("x-goog-generation", object.generation.to_string()))
}

fn generation(request: &Request) -> Result<Option<u64>, Refused> {
    let wanted = request.header("x-goog-if-generation-match");
    wanted.map(|text| text.parse().map_err(|_| Refused::Bad("x-goog-if-generation-match"))).transpose()
}

fn content_type(request: &Request) -> String {
    request.header("content-type").unwrap_or("application/octet-stream").to_owned()
}

pub(super) fn etag(object: &Object) -> String {
    format!("\"{:x}\"", object.generation)
}

pub(super) fn count(store: &mut Store, operation: &'static str) {
    *store.requests.entry(operation).or_default() += 1;
}

/// A refusal in XML, as over there.
pub(super) fn refused(why: &Refused, who: &str, path: &str) -> Answer {
    let (status, code, message) = match why {
        Refused::Unauthenticated => (401, "AuthenticationRequired", "Invalid Credentials".to_owned()),
        Refused::Forbidden(right) => {
            let permission = right.permission();
            (
                403,
                "AccessDenied",
                format!(
                    "{who} does not have {permission} access to the Google Cloud Storage object. Permission '{permission}' denied on resource (or it may not exist)."
                ),
            )
        }
        Refused::NoBucket => (404, "NoSuchBucket", "The specified bucket does not exist.".to_owned()),
        Refused::NoObject => (404, "NoSuchKey", "The specified key does not exist.".to_owned()),
        Refused::Precondition => {
            (412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.".to_owned())
        }
        Refused::Bad(what) => (400, "InvalidArgument", format!("Invalid argument: {what}.")),
    };
    let body = format!(
        "<Error><Code>{code}</Code><Message>{}</Message><Details>{}</Details></Error>",
        escape(&message),
        escape(path)
    );
    Answer::xml(status, &body)
}
