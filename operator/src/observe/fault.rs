//! A call to the API server that failed: what was asked, and what kind of failure it is.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

/// No single call may take longer.
const LIMIT: Duration = Duration::from_secs(15);

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What it means for us.
    pub kind: FaultKind,
    /// Such as `patch`.
    pub verb: &'static str,
    /// Plural with its group, as RBAC names it: `statefulsets.apps`.
    pub resource: String,
    /// `namespace/name`, or what of it there is.
    pub object: String,
    /// The API server's words.
    pub message: String,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// There is none.
    NotFound,
    /// A right is missing.
    Forbidden,
    /// A quota is used up.
    Quota,
    /// An admission rule of the cluster refuses it.
    Admission,
    /// Another manager owns a field, or another object has the name.
    Conflict,
    /// An immutable field.
    Immutable,
    /// The API server finds it wrong.
    Invalid,
    /// The API server could not answer; asking again may help.
    Unavailable,
}

impl Fault {
    /// Whether only a change from outside helps, so that asking again soon makes no sense.
    #[must_use]
    pub fn lasts(&self) -> bool {
        self.kind != FaultKind::Unavailable
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: {}", self.verb, self.resource, self.object, self.message)
    }
}

/// Makes one call, with a deadline; `resource` and `object` say what about.
///
/// # Errors
/// The failure, sorted.
pub async fn call<T>(
    verb: &'static str,
    resource: &str,
    object: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Fault> {
    let fault =
        |kind, message: String| Fault { kind, verb, resource: resource.to_owned(), object: object.to_owned(), message };
    // Boxed: a client's request is large, and many callers hold several at once.
    match timeout(LIMIT, Box::pin(request)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => {
            Err(fault(sort(status.code, &status.reason, &status.message), status.message))
        }
        Ok(Err(error)) => Err(fault(FaultKind::Unavailable, error.to_string())),
        Err(_) => Err(fault(FaultKind::Unavailable, format!("no answer within {} s", LIMIT.as_secs()))),
    }
}

fn sort(code: u16, reason: &str, message: &str) -> FaultKind {
    let has = |text: &str| message.contains(text);
    match code {
        404 => FaultKind::NotFound,
        403 if has("exceeded quota") => FaultKind::Quota,
        // RBAC's own sentence names the right; everything else with this code is an admission plugin's.
        403 if has(" cannot ") || has("attempting to grant RBAC permissions") => FaultKind::Forbidden,
        403 => FaultKind::Admission,
        400 if has("admission webhook") => FaultKind::Admission,
        409 => FaultKind::Conflict,
        422 if has("is immutable")
            || has("fields other than")
            || has("cannot change roleRef")
            || has("may not change once set") =>
        {
            FaultKind::Immutable
        }
        400 | 415 | 422 => FaultKind::Invalid,
        _ if reason == "Invalid" => FaultKind::Invalid,
        _ => FaultKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_api_server() {
        let cases = [
            (
                403,
                r#"secrets is forbidden: User "x" cannot list resource "secrets" in API group """#,
                FaultKind::Forbidden,
            ),
            (403, r#"pods "a" is forbidden: exceeded quota: q, requested: pods=1"#, FaultKind::Quota),
            (403, r#"pods "a" is forbidden: violates PodSecurity "restricted:latest""#, FaultKind::Admission),
            (
                422,
                r#"StatefulSet.apps "a" is invalid: spec: Forbidden: updates to statefulset spec for fields other than …"#,
                FaultKind::Immutable,
            ),
            (422, r#"Deployment.apps "a" is invalid: spec.selector: field is immutable"#, FaultKind::Immutable),
            (422, r#"Service "a" is invalid: spec.ports: Required value"#, FaultKind::Invalid),
            (409, "Apply failed with 1 conflict", FaultKind::Conflict),
            (503, "etcdserver: leader changed", FaultKind::Unavailable),
        ];
        for (code, message, kind) in cases {
            assert_eq!(sort(code, "", message), kind, "{message}");
        }
    }
}
