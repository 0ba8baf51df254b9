//! Who asks: keys of service accounts, their signed tokens, and tokens that were exchanged for those. Signatures are not
//! checked: a key is known by its id.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use super::store::{Refused, Settings};
use crate::wire::{Answer, Request};

/// Begins a token that was exchanged; behind it are the key's id and the account.
const EXCHANGED: &str = "ya29.";

/// A service account's key, as Google hands it out: what the tutorial's Secret holds. Tokens are asked for at `base`, a
/// server of ours such as `http://127.0.0.1:4443`.
///
/// # Errors
/// When no key can be made.
pub fn key(id: &str, account: &str, base: &str) -> anyhow::Result<Value> {
    Ok(json!({
        "type": "service_account",
        "project_id": "panoptes-test",
        "private_key_id": id,
        "private_key": KeyPair::generate_for(&PKCS_RSA_SHA256).context("make an RSA key")?.serialize_pem(),
        "client_email": account,
        "client_id": "100000000000000000000",
        "auth_uri": format!("{base}/auth"),
        "token_uri": format!("{base}/token"),
    }))
}

/// Who it is, for messages; or a refusal.
pub(super) fn check(request: &Request, settings: &Settings) -> Result<String, Refused> {
    let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let (id, account) = match bearer.strip_prefix(EXCHANGED) {
        Some(rest) => decode(rest).map(|value| (text(&value["kid"]), text(&value["iss"]))),
        None => signed(bearer),
    }
    .unwrap_or_default();
    let known = settings.keys.as_ref().is_none_or(|keys| keys.contains(&id));
    let who = if account.is_empty() { "Anonymous caller".to_owned() } else { account };
    known.then_some(who).ok_or(Refused::Unauthenticated)
}

/// `POST /token`: a signed token for one that can be used.
pub(super) fn exchange(request: &Request, settings: &Settings) -> Answer {
    let body = String::from_utf8_lossy(&request.body);
    let assertion = body.split('&').find_map(|pair| pair.strip_prefix("assertion=")).map(crate::wire::decode);
    let Some((id, account)) = assertion.as_deref().and_then(signed) else {
        return Answer::json(400, &json!({"error": "invalid_request", "error_description": "no assertion"}));
    };
    if settings.keys.as_ref().is_some_and(|keys| !keys.contains(&id)) {
        let error = json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."});
        return Answer::json(400, &error);
    }
    token(&id, &account)
}

/// What the metadata server gives to a pod: a token of the key `ambient`.
pub(super) fn ambient() -> Answer {
    token("ambient", "pod@panoptes-test.iam.gserviceaccount.com").with("Metadata-Flavor", "Google")
}

fn token(id: &str, account: &str) -> Answer {
    let token = format!("{EXCHANGED}{}", URL_SAFE_NO_PAD.encode(json!({"kid": id, "iss": account}).to_string()));
    Answer::json(200, &json!({"access_token": token, "expires_in": 3600, "token_type": "Bearer"}))
}

/// Key id and account of a signed token.
fn signed(token: &str) -> Option<(String, String)> {
    let mut parts = token.split('.');
    let (head, claims, _signature) = (decode(parts.next()?)?, decode(parts.next()?)?, parts.next()?);
    Some((text(&head["kid"]), text(&claims["iss"])))
}

fn decode(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
