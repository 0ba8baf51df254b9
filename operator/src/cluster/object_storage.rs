//! The bucket: its Secrets are read, checked, and turned into the file that all parts mount, in Thanos's format.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::api::{Azure, Filesystem, Gcs, KeyRef, ObjectStorage, S3};
use crate::desired::objstore::{BUCKET_DIR, CONFIG_DIR};
use crate::observe::Observed;

use super::problem::{ConditionType, Problem, Reason};
use super::secrets;

/// A bucket whose Secrets are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidObjectStorage {
    /// Keys of the Secret `<cr>-objstore`: `objstore.yml`, and files that it or a person may want beside it.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl ValidObjectStorage {
    /// Hash of `objstore.yml`, as a part that has it in use reports it.
    #[must_use]
    pub fn hash(&self) -> String {
        crate::desired::hash(self.files.get(args::files::OBJSTORE).map(Vec::as_slice).unwrap_or_default())
    }
}

/// Key file of a service account inside the rendered Secret.
pub(crate) const KEY_FILE: &str = "service-account.json";
/// What the engine can use, in Thanos's words.
const TYPES: [&str; 4] = ["GCS", "S3", "AZURE", "FILESYSTEM"];

/// Files beside `objstore.yml`.
type Files = BTreeMap<String, Vec<u8>>;

/// Says what is wrong, and gives the rendered files where nothing is. `before`: what was rendered before stays in use.
pub(super) fn check(
    storage: Option<&ObjectStorage>,
    observed: &Observed,
    before: bool,
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
    match render_form(storage, observed) {
        Ok(files) => Some(ValidObjectStorage { files }),
        Err(mut problem) => {
            if before && problem.condition == ConditionType::ObjectStorageReady {
                problem.message.push_str(" Until then the parts keep the previous content.");
            }
            problems.push(problem);
            None
        }
    }
}

/// The bucket of a link, in the same forms. What is wrong with it concerns the link alone; `before` is what was rendered
/// before, which stays in use while a Secret is not good, and is then told in `held`.
pub(super) fn of_link(
    storage: &ObjectStorage,
    observed: &Observed,
    before: Option<ValidObjectStorage>,
    problems: &mut Vec<Problem>,
    held: &mut Vec<Problem>,
) -> Option<ValidObjectStorage> {
    match render_form(storage, observed) {
        Ok(files) => Some(ValidObjectStorage { files }),
        Err(Problem { reason, message, field, .. }) => {
            let field = field.replacen("spec.objectStorage", "spec.bucketRef", 1);
            let message = message.replace("spec.objectStorage", "spec.bucketRef");
            let kept = before.filter(|_| reason != Reason::InvalidSpec);
            match &kept {
                Some(_) => {
                    let message = format!("{message} Until then its store gateway keeps the previous content.");
                    held.push(Problem::new(ConditionType::Accepted, reason, field, message));
                }
                None => problems.push(Problem::new(ConditionType::Accepted, reason, field, message)),
            }
            kept
        }
    }
}

/// The files of the one form that is given.
fn render_form(storage: &ObjectStorage, observed: &Observed) -> Result<Files, Problem> {
    let ObjectStorage { gcs, s3, azure, filesystem, secret_ref, prefix } = storage;
    let prefix = prefix.as_deref();
    let forms = [
        gcs.as_ref().map(|gcs| gcs_file(gcs, prefix, observed)),
        s3.as_ref().map(|s3| s3_file(s3, prefix, observed)),
        azure.as_ref().map(|azure| azure_file(azure, prefix, observed)),
        filesystem.as_ref().map(|filesystem| filesystem_file(filesystem, prefix, observed)),
        secret_ref.as_ref().map(|key| thanos_file(key, prefix, observed)),
    ];
    let mut forms = forms.into_iter().flatten();
    match (forms.next(), forms.next()) {
        (Some(form), None) => form,
        _ => {
            let message = "exactly one of gcs, s3, azure, filesystem and secretRef is needed";
            Err(Problem::invalid("spec.objectStorage", message))
        }
    }
}

fn gcs_file(gcs: &Gcs, prefix: Option<&str>, observed: &Observed) -> Result<Files, Problem> {
    const FIELD: &str = "spec.objectStorage.gcs.credentialsSecretRef";
    let mut config = json!({"bucket": gcs.bucket});
    let mut files = Files::new();
    if let Some(endpoint) = &gcs.endpoint {
        // Not in Thanos's file, which has no way to say it; only our own parts read this one.
        config["endpoint"] = json!(endpoint);
    }
    if let Some(key) = &gcs.credentials_secret_ref {
        let bytes = read(observed, key, FIELD)?;
        let text = service_account(bytes).map_err(|wrong| invalid(FIELD, &key.name, &key.key, &wrong))?;
        // Inline: Thanos's file format has the key's text, and a copied file then works on its own.
        config["service_account"] = Value::from(text);
        files.insert(KEY_FILE.to_owned(), bytes.to_vec());
    }
    render("GCS", config, prefix, files)
}

/// Checks the key of a Google service account; gives its text.
fn service_account(bytes: &[u8]) -> Result<&str, String> {
    let text = text(bytes)?;
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

fn s3_file(s3: &S3, prefix: Option<&str>, observed: &Observed) -> Result<Files, Problem> {
    const FIELD: &str = "spec.objectStorage.s3.credentialsSecretRef";
    const CA: &str = "spec.objectStorage.s3.caSecretRef";
    let mut config = json!({"bucket": s3.bucket});
    let mut files = Files::new();
    match (&s3.endpoint, &s3.region) {
        (Some(url), _) => {
            config["endpoint"] = json!(url.trim_start_matches("https://").trim_start_matches("http://"));
            if url.starts_with("http://") {
                config["insecure"] = json!(true);
            }
        }
        (None, Some(region)) => config["endpoint"] = json!(format!("s3.{region}.amazonaws.com")),
        (None, None) => {
            return Err(Problem::invalid("spec.objectStorage.s3", "endpoint is needed, or region for Amazon's own"));
        }
    }
    if let Some(region) = &s3.region {
        config["region"] = json!(region);
    }
    if let Some(secret) = &s3.credentials_secret_ref {
        let mut pairs = vec![("AWS_ACCESS_KEY_ID", "access_key"), ("AWS_SECRET_ACCESS_KEY", "secret_key")];
        let token = KeyRef { name: secret.name.clone(), key: "AWS_SESSION_TOKEN".to_owned() };
        if secrets::secret(observed, &token).is_ok() {
            pairs.push(("AWS_SESSION_TOKEN", "session_token"));
        }
        for (name, field) in pairs {
            let key = KeyRef { name: secret.name.clone(), key: name.to_owned() };
            let value = word(read(observed, &key, FIELD)?);
            config[field] = json!(value.map_err(|wrong| invalid(FIELD, &key.name, name, &wrong))?);
        }
    }
    if let Some(key) = &s3.ca_secret_ref {
        let bytes = read(observed, key, CA)?;
        if !String::from_utf8_lossy(bytes).contains("-----BEGIN CERTIFICATE-----") {
            return Err(invalid(CA, &key.name, &key.key, "holds no PEM certificate"));
        }
        // Its name tells its content, so that a renewed one changes objstore.yml, which is what parts watch.
        let name = format!("ca-{}.crt", &crate::desired::hash(bytes)[..12]);
        config["http_config"] = json!({"tls_config": {"ca_file": format!("{CONFIG_DIR}/{name}")}});
        files.insert(name, bytes.to_vec());
    }
    render("S3", config, prefix, files)
}

fn azure_file(azure: &Azure, prefix: Option<&str>, observed: &Observed) -> Result<Files, Problem> {
    const FIELD: &str = "spec.objectStorage.azure.credentialsSecretRef";
    let mut config = json!({"storage_account": azure.account, "container": azure.container});
    if let Some(endpoint) = &azure.endpoint {
        config["endpoint"] = json!(endpoint);
    }
    if let Some(key) = &azure.credentials_secret_ref {
        let wrong = |wrong: &str| invalid(FIELD, &key.name, &key.key, wrong);
        let value = word(read(observed, key, FIELD)?).map_err(|what| wrong(&what))?;
        STANDARD.decode(value).map_err(|_| wrong("is no account key: it must be base64"))?;
        config["storage_account_key"] = json!(value);
    }
    render("AZURE", config, prefix, Files::new())
}

fn filesystem_file(volume: &Filesystem, prefix: Option<&str>, observed: &Observed) -> Result<Files, Problem> {
    if observed.live.claims.contains_key(&volume.volume_claim_name) {
        return Err(Problem::invalid(
            "spec.objectStorage.filesystem.volumeClaimName",
            format!("{:?} is the volume of a pod of ours: take another claim", volume.volume_claim_name),
        ));
    }
    render("FILESYSTEM", json!({"directory": BUCKET_DIR}), prefix, Files::new())
}

fn thanos_file(key: &KeyRef, prefix: Option<&str>, observed: &Observed) -> Result<Files, Problem> {
    const FIELD: &str = "spec.objectStorage.secretRef";
    let bytes = read(observed, key, FIELD)?;
    let wrong = |what: &str| invalid(FIELD, &key.name, &key.key, what);
    let text = text(bytes).map_err(|what| wrong(&what))?;
    let mut document: Value = args::yaml::read_small(text).map_err(|e| wrong(&format!("is not YAML{}", at(&e))))?;
    let fields = document.as_object_mut().ok_or_else(|| wrong("is not an object-storage file (type: …, config: …)"))?;
    let kind = fields.get("type").and_then(Value::as_str).ok_or_else(|| wrong("lacks the field \"type\""))?;
    match kind.to_uppercase().as_str() {
        "FILESYSTEM" => {
            return Err(wrong("is of the type FILESYSTEM, which needs a volume: use spec.objectStorage.filesystem"));
        }
        known if TYPES.contains(&known) => {}
        _ => return Err(wrong(&format!("has the type {kind:?}: GCS, S3 and AZURE are known"))),
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
            yaml(&document)?
        }
    };
    Ok(Files::from([(args::files::OBJSTORE.to_owned(), body)]))
}

fn render(kind: &str, config: Value, prefix: Option<&str>, mut files: Files) -> Result<Files, Problem> {
    let mut document = json!({"type": kind, "config": config});
    if let Some(prefix) = prefix {
        document["prefix"] = Value::from(prefix);
    }
    files.insert(args::files::OBJSTORE.to_owned(), yaml(&document)?);
    Ok(files)
}

fn yaml(document: &Value) -> Result<Vec<u8>, Problem> {
    serde_saphyr::to_string(document)
        .map(String::into_bytes)
        .map_err(|e| Problem::invalid("spec.objectStorage", format!("it can't be written as YAML: {e}")))
}

fn read<'a>(observed: &'a Observed, key: &KeyRef, field: &str) -> Result<&'a [u8], Problem> {
    secrets::secret(observed, key).map_err(|absent| absent.problem(ConditionType::ObjectStorageReady, field))
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text".to_owned())?;
    if text.trim().is_empty() { Err("is empty".to_owned()) } else { Ok(text) }
}

/// One word; a line's end that an editor or `echo` has added doesn't count.
fn word(bytes: &[u8]) -> Result<&str, String> {
    let word = text(bytes)?.trim();
    if word.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("is more than one word".to_owned());
    }
    if word.contains("$(") {
        return Err("holds \"$(\", which the parts would take for the name of a variable".to_owned());
    }
    Ok(word)
}

/// Line and column of a YAML error; its text could hold a part of the secret.
pub(super) fn at(error: &serde_saphyr::Error) -> String {
    error.location().map(|at| format!(" (line {}, column {})", at.line(), at.column())).unwrap_or_default()
}

fn invalid(field: &str, name: &str, key: &str, what: &str) -> Problem {
    Problem::new(
        ConditionType::ObjectStorageReady,
        Reason::SecretInvalid,
        field,
        format!("Key {key:?} of Secret {name:?} {what}. Replace it."),
    )
}
