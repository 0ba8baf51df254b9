//! Certificates in Secrets: a light check that they are there and are PEM, so that no part starts with broken ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::api::ExposeTls;
use crate::observe::Observed;

use super::kept;
use super::problem::{ConditionType, Problem, Reason};
use super::secrets::{self, Absent};

/// Secrets with the certificates of an exposed port; both are good, or were when queriers started to mount them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificates {
    /// Secret with `tls.crt` and `tls.key`.
    pub server: String,
    /// Secret with `ca.crt`: whose client certificates are accepted.
    pub client_ca: Option<String>,
}

/// Checks the Secrets of an exposed port.
pub(super) fn server(tls: &ExposeTls, observed: &Observed, problems: &mut Vec<Problem>) -> Option<ServerCertificates> {
    const FIELD: &str = "spec.expose.storeAPI.tls";
    let mut wrong = Vec::new();
    let mut need = |name: &str, key: &str, label: &str| {
        if let Err(absent) = pem(observed, name, key, label) {
            let problem = absent.problem(ConditionType::CertificatesValid, FIELD);
            wrong.push(problem);
        }
    };
    need(&tls.secret_ref.name, "tls.crt", "CERTIFICATE");
    need(&tls.secret_ref.name, "tls.key", "PRIVATE KEY");
    if let Some(ca) = &tls.client_ca_secret_ref {
        need(&ca.name, "ca.crt", "CERTIFICATE");
    }
    if wrong.is_empty() {
        return Some(ServerCertificates {
            server: tls.secret_ref.name.clone(),
            client_ca: tls.client_ca_secret_ref.as_ref().map(|ca| ca.name.clone()),
        });
    }
    // A Secret that is replaced by delete and create must not cost the port its address, nor its TLS.
    let kept = kept::server_certificates(tls, observed);
    let meanwhile = match &kept {
        Some(_) => " Until then running queriers keep the certificates that they have.",
        None => " Until then the StoreAPI is not exposed.",
    };
    problems.extend(wrong.into_iter().map(|mut problem| {
        problem.message.push_str(meanwhile);
        problem
    }));
    kept
}

/// The bytes of a key that holds PEM blocks, the label of the first one ending in `label`.
pub(super) fn pem<'a>(observed: &'a Observed, name: &str, key: &str, label: &str) -> Result<&'a [u8], Absent> {
    let bytes = secrets::secret_key(observed, name, key)?;
    if is_pem(bytes, label) {
        return Ok(bytes);
    }
    Err(Absent {
        reason: Reason::SecretInvalid,
        message: format!("Key {key:?} of Secret {name:?} is no PEM {}. Replace it.", label.to_lowercase()),
    })
}

fn is_pem(bytes: &[u8], label: &str) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut blocks = 0;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let Some((found, after)) = after.split_once("-----") else { return false };
        let Some((body, after)) = after.split_once("-----END ") else { return false };
        let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        if STANDARD.decode(body).is_ok_and(|der| !der.is_empty()) && found.ends_with(label) {
            blocks += 1;
        }
        rest = after;
    }
    blocks > 0
}

#[cfg(test)]
mod tests {
    use super::is_pem;

    #[test]
    fn pem() {
        let good = b"# comment\n-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
        assert!(is_pem(good, "CERTIFICATE"));
        assert!(!is_pem(good, "PRIVATE KEY"));
        assert!(is_pem(b"-----BEGIN EC PRIVATE KEY-----\nAQID\n-----END EC PRIVATE KEY-----\n", "PRIVATE KEY"));
        for bad in [
            &b""[..],
            b"hello",
            b"-----BEGIN CERTIFICATE-----",
            b"-----BEGIN CERTIFICATE-----\nAQ!D\n-----END CERTIFICATE-----",
            b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
            b"\xff\xfe",
        ] {
            assert!(!is_pem(bad, "CERTIFICATE"), "{bad:?}");
        }
    }
}
