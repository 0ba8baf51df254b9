//! The bucket: its Secret is read, checked, and turned into the file that all parts mount.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::{Gcs, KeyRef, ObjectStorage};
use crate::observe::Observed;

use super::problem::{ConditionType, Problem, Reason};
use super::secrets;

/// A bucket whose Secret is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidObjectStorage {
    /// Keys of the Secret `<cr>-objstore`: `objstore.yml`, and the key file of a service account.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Key file of a service account inside the rendered Secret.
pub(crate) const KEY_FILE: &str = "service-account.json";

/// Says what is wrong, and gives the rendered files where nothing is.
pub(super) fn check(
    storage: Option<&ObjectStorage>,
    observed: &Observed,
    problems: &mut Vec<Problem>,
) -> Option<ValidObjectStorage> {
    let Some(storage) = storage else {
        problems.push(Problem::new(
            ConditionType::ObjectStorageReady,
            Reason::NotConfigured,
            "spec.objectStorage",
            "No bucket is set: only what Prometheus holds locally can be asked for. Set spec.objectStorage for history.",
        ));
        return None;
    };
    let found = match (&storage.gcs, &storage.secret_ref) {
        (Some(gcs), None) => gcs_files(gcs, storage.prefix.as_deref(), observed),
        (None, Some(key)) => thanos_files(key, storage.prefix.as_deref(), observed),
        _ => Err(Problem::invalid("spec.objectStorage", "exactly one of gcs and secretRef is needed")),
    };
    match found {
        Ok(files) => Some(ValidObjectStorage { files }),
        Err(problem) => {
            problems.push(problem);
            None
        }
    }
}

fn gcs_files(gcs: &Gcs, prefix: Option<&str>, observed: &Observed) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
    const FIELD: &str = "spec.objectStorage.gcs.credentialsSecretRef";
    let mut files = BTreeMap::new();
    let mut config = json!({"bucket": gcs.bucket});
    if let Some(key) = &gcs.credentials_secret_ref {
        let bytes = secrets::secret(observed, key)
            .map_err(|absent| absent.problem(ConditionType::ObjectStorageReady, FIELD))?;
        let text = service_account(bytes).map_err(|wrong| invalid(FIELD, key, &wrong))?;
        // Inline: Thanos's file format has the key's text, and a copied file then works on its own.
        config["service_account"] = Value::from(text);
        files.insert(KEY_FILE.to_owned(), bytes.to_vec());
    }
    let mut document = json!({"type": "GCS", "config": config});
    if let Some(prefix) = prefix {
        document["prefix"] = Value::from(prefix);
    }
    files.insert(args::files::OBJSTORE.to_owned(), yaml(&document, FIELD)?);
    Ok(files)
}

/// Checks the key of a Google service account; gives its text.
fn service_account(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text".to_owned())?;
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    // The parser's message names the place, never the content, which is secret.
    let value: Value =
        serde_json::from_str(text).map_err(|e| format!("is not JSON (line {}, column {})", e.line(), e.column()))?;
    let fields = value.as_object().ok_or("is not a JSON object")?;
    let field = |name: &str| fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let kind = field("type").ok_or("lacks the field \"type\"")?;
    if kind != "service_account" {
        return Err(format!("has the type {kind:?}, not \"service_account\""));
    }
    for name in ["client_email", "private_key"] {
        field(name).ok_or_else(|| format!("lacks the field {name:?}"))?;
    }
    if field("private_key").is_some_and(|key| !key.contains("-----BEGIN ") || !key.contains("PRIVATE KEY-----")) {
        return Err("has a \"private_key\" that is no PEM private key".to_owned());
    }
    Ok(text)
}

fn thanos_files(key: &KeyRef, prefix: Option<&str>, observed: &Observed) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
    const FIELD: &str = "spec.objectStorage.secretRef";
    const TYPES: [&str; 11] =
        ["GCS", "S3", "AZURE", "SWIFT", "COS", "ALIYUNOSS", "BOS", "OCI", "OBS", "FILESYSTEM", "BAIDU"];
    let bytes =
        secrets::secret(observed, key).map_err(|absent| absent.problem(ConditionType::ObjectStorageReady, FIELD))?;
    let wrong = |what: &str| invalid(FIELD, key, what);
    let text = std::str::from_utf8(bytes).map_err(|_| wrong("is not text"))?;
    let mut document: Value = serde_saphyr::from_str(text).map_err(|e| wrong(&format!("is not YAML{}", at(&e))))?;
    let fields = document.as_object_mut().ok_or_else(|| wrong("is not an object-storage file (type: …, config: …)"))?;
    let kind = fields.get("type").and_then(Value::as_str).ok_or_else(|| wrong("lacks the field \"type\""))?;
    if !TYPES.contains(&kind.to_uppercase().as_str()) {
        return Err(wrong(&format!("has the unknown type {kind:?}")));
    }
    if !fields.get("config").is_some_and(Value::is_object) {
        return Err(wrong("lacks the field \"config\""));
    }
    let body = match prefix {
        None => bytes.to_vec(),
        Some(prefix) => {
            if fields.get("prefix").and_then(Value::as_str).is_some_and(|own| !own.is_empty() && own != prefix) {
                return Err(wrong("has a prefix of its own: remove it there or in spec.objectStorage.prefix"));
            }
            fields.insert("prefix".to_owned(), Value::from(prefix));
            yaml(&document, FIELD)?
        }
    };
    Ok(BTreeMap::from([(args::files::OBJSTORE.to_owned(), body)]))
}

fn yaml(document: &Value, field: &str) -> Result<Vec<u8>, Problem> {
    serde_saphyr::to_string(document)
        .map(String::into_bytes)
        .map_err(|e| Problem::invalid(field, format!("it can't be written as YAML: {e}")))
}

/// Line and column of a YAML error; its text could hold a part of the secret.
pub(super) fn at(error: &serde_saphyr::Error) -> String {
    error.location().map(|at| format!(" (line {}, column {})", at.line(), at.column())).unwrap_or_default()
}

fn invalid(field: &str, key: &KeyRef, what: &str) -> Problem {
    Problem::new(
        ConditionType::ObjectStorageReady,
        Reason::SecretInvalid,
        field,
        format!("Key {:?} of Secret {:?} {what}. Replace it.", key.key, key.name),
    )
}
