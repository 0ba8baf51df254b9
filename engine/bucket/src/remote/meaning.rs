//! What an answer of a store means. Status codes are not trusted alone: a 409 may be "try again", a 403 may be a wrong clock.

use super::client::{Refused, WrongChecksum, chain};
use crate::error::{Error, Kind, Operation};
use crate::store::Condition;
use object_store::client::{HttpError, HttpErrorKind};

/// A clock that is off by more than this is the likelier reason of a refused signature, in ms.
const SKEW_MS: i64 = 4 * 60 * 1000;

/// What was asked, as far as it matters for the meaning of the answer.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) operation: Operation,
    pub(super) path: &'a str,
    pub(super) condition: &'a Condition,
}

impl Asked<'_> {
    fn is_write(&self) -> bool {
        matches!(self.operation, Operation::Upload | Operation::Delete)
    }

    fn error(&self, kind: Kind, what: impl Into<String>) -> Error {
        Error::new(kind, self.operation, self.path, what)
    }
}

/// The meaning of an error of `object_store`.
pub(super) fn of(asked: Asked<'_>, error: &object_store::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(refused) = e.downcast_ref::<Refused>() {
            return refusal(asked, refused);
        }
        if let Some(wrong) = e.downcast_ref::<WrongChecksum>() {
            return asked.error(Kind::Corrupt, wrong.to_string());
        }
        if let Some(http) = e.downcast_ref::<HttpError>()
            && !http.kind().eq(&HttpErrorKind::Unknown)
        {
            let mut failed = asked.error(Kind::Unavailable, chain(http));
            // Without a connection nothing was sent.
            failed.uncertain = asked.is_write() && http.kind() != HttpErrorKind::Connect;
            return failed;
        }
        cause = e.source();
    }
    match error {
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            asked.error(Kind::Unsupported, error.to_string())
        }
        // A part of an answer to several requests in one, as Azure deletes.
        object_store::Error::NotFound { .. } => asked.error(Kind::NotFound, chain(error)),
        object_store::Error::PermissionDenied { .. } => asked.error(Kind::Denied, chain(error)),
        object_store::Error::Unauthenticated { .. } => asked.error(Kind::Credentials, chain(error)),
        object_store::Error::InvalidPath { .. } => asked.error(Kind::Invalid, error.to_string()),
        object_store::Error::UnknownConfigurationKey { .. } => asked.error(Kind::Config, error.to_string()),
        // An answer that can't be understood: cut short, or not from a store at all.
        _ => {
            let mut failed = asked.error(Kind::Unavailable, chain(error));
            failed.uncertain = asked.is_write();
            failed
        }
    }
}

/// Whether a request failed, and not the reading of its answer.
pub(super) fn came_from_http(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if e.is::<HttpError>() {
            return true;
        }
        cause = e.source();
    }
    false
}

fn refusal(asked: Asked<'_>, refused: &Refused) -> Error {
    let kind = kind(asked, refused);
    let mut what = refused.to_string();
    if kind == Kind::ClockSkew
        && let Some(ms) = refused.skew_ms
    {
        let (by, to) = (ms.abs() / 1000, if ms > 0 { "behind" } else { "ahead of" });
        what = format!("{what}; our clock is {by} s {to} the store's");
    }
    let mut error = asked.error(kind, what);
    error.retry_after = refused.retry_after;
    error.uncertain = kind == Kind::Unavailable && asked.is_write() && refused.status >= 500;
    error
}

fn kind(asked: Asked<'_>, refused: &Refused) -> Kind {
    let skewed = refused.skew_ms.is_some_and(|ms| ms.abs() > SKEW_MS);
    let code = refused.code.as_str();
    if refused.credentials {
        return match refused.status {
            429 => Kind::Throttled,
            500.. => Kind::Unavailable,
            _ if skewed => Kind::ClockSkew,
            _ => Kind::Credentials,
        };
    }
    match code {
        "NoSuchBucket" | "ContainerNotFound" | "ContainerBeingDeleted" | "AccountNotFound" => {
            return Kind::MissingBucket;
        }
        "RequestTimeTooSkewed" | "RequestExpired" => return Kind::ClockSkew,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServerBusy"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "BandwidthLimitExceeded" => return Kind::Throttled,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "AuthenticationFailed"
        | "InvalidSecurity"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "AuthenticationRequired"
        | "NoAuthenticationInformation"
        | "InvalidAuthenticationInfo"
        | "UNAUTHENTICATED"
        | "XAdminUserNotFound" => {
            return if skewed { Kind::ClockSkew } else { Kind::Credentials };
        }
        "AuthorizationHeaderMalformed"
        | "InvalidBucketName"
        | "PermanentRedirect"
        | "IllegalLocationConstraintException" => {
            return Kind::Config;
        }
        "BadDigest" | "InvalidDigest" | "IncompleteBody" | "Md5Mismatch" | "XAmzContentSHA256Mismatch" => {
            return Kind::Corrupt;
        }
        "NotImplemented" | "MethodNotAllowed" => return Kind::Unsupported,
        "RequestTimeout" | "OperationTimedOut" | "InternalError" => return Kind::Unavailable,
        "BlobAlreadyExists" if *asked.condition == Condition::Absent => return Kind::Exists,
        _ => {}
    }
    match (refused.status, asked.condition) {
        (404 | 412, Condition::Unchanged(_)) => Kind::Changed,
        (304 | 412, Condition::Absent) => Kind::Exists,
        (404, Condition::Absent) => Kind::MissingBucket,
        (404, Condition::None) if asked.operation == Operation::Iter => Kind::MissingBucket,
        (404, Condition::None) => Kind::NotFound,
        (401, _) if skewed => Kind::ClockSkew,
        (401, _) => Kind::Credentials,
        (403, _) => Kind::Denied,
        // Two requests met; which one won, the next attempt tells.
        (409, _) => Kind::Unavailable,
        (408 | 425, _) => Kind::Unavailable,
        (429, _) => Kind::Throttled,
        (501, _) => Kind::Unsupported,
        (500.., _) => Kind::Unavailable,
        (301..=308, _) => Kind::Config,
        _ => Kind::Invalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Version;

    fn of(status: u16, code: &str, operation: Operation, condition: &Condition, skew_ms: i64) -> Error {
        let refused = Refused {
            method: "PUT".into(),
            status,
            code: code.into(),
            message: String::new(),
            credentials: false,
            retry_after: None,
            skew_ms: Some(skew_ms),
        };
        let http = HttpError::new(HttpErrorKind::Unknown, refused);
        let error = object_store::Error::Generic { store: "x", source: Box::new(http) };
        super::of(Asked { operation, path: "p", condition }, &error)
    }

    #[test]
    fn codes_by_meaning() {
        use Operation::{Get, Iter, Upload};
        let unchanged = Condition::Unchanged(Version::default());
        let (none, absent) = (Condition::None, Condition::Absent);
        for (status, code, operation, condition, skew, kind) in [
            (404, "NoSuchKey", Get, &none, 0, Kind::NotFound),
            (404, "NoSuchBucket", Get, &none, 0, Kind::MissingBucket),
            (404, "", Iter, &none, 0, Kind::MissingBucket),
            (404, "NoSuchKey", Upload, &unchanged, 0, Kind::Changed),
            (412, "PreconditionFailed", Upload, &unchanged, 0, Kind::Changed),
            (412, "PreconditionFailed", Upload, &absent, 0, Kind::Exists),
            (409, "ConditionalRequestConflict", Upload, &absent, 0, Kind::Unavailable),
            (409, "OperationAborted", Upload, &unchanged, 0, Kind::Unavailable),
            (409, "BlobAlreadyExists", Upload, &absent, 0, Kind::Exists),
            (403, "AccessDenied", Upload, &none, 0, Kind::Denied),
            (403, "SignatureDoesNotMatch", Get, &none, 0, Kind::Credentials),
            (403, "SignatureDoesNotMatch", Get, &none, 600_000, Kind::ClockSkew),
            (403, "RequestTimeTooSkewed", Get, &none, 0, Kind::ClockSkew),
            (400, "ExpiredToken", Get, &none, 0, Kind::Credentials),
            (401, "", Get, &none, 0, Kind::Credentials),
            (503, "SlowDown", Get, &none, 0, Kind::Throttled),
            (503, "", Get, &none, 0, Kind::Unavailable),
            (429, "", Get, &none, 0, Kind::Throttled),
            (501, "NotImplemented", Upload, &absent, 0, Kind::Unsupported),
            (301, "PermanentRedirect", Get, &none, 0, Kind::Config),
        ] {
            let error = of(status, code, operation, condition, skew);
            assert_eq!(error.kind, kind, "{status} {code}");
        }
        assert!(of(500, "", Upload, &none, 0).uncertain);
        assert!(!of(500, "", Get, &none, 0).uncertain);
        assert!(of(403, "RequestTimeTooSkewed", Get, &none, 900_000).to_string().contains("900 s behind"));
    }
}
