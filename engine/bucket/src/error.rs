//! What can go wrong with an object store, by meaning and not by status code.

use std::fmt;
use std::time::Duration;

/// What was tried. The names are those of Thanos's `operation` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// A listing.
    Iter,
    /// A whole object.
    Get,
    /// A part of an object.
    GetRange,
    /// Whether an object is there.
    Exists,
    /// Size, time and version of an object.
    Attributes,
    /// Any write: overwrite, create, update, upload of a file.
    Upload,
    /// A delete.
    Delete,
    /// Opening the bucket: configuration, credentials, client.
    Open,
}

impl Operation {
    /// All that reach the store.
    pub const ALL: [Self; 7] =
        [Self::Iter, Self::Get, Self::GetRange, Self::Exists, Self::Attributes, Self::Upload, Self::Delete];

    /// The value of Thanos's `operation` label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iter => "iter",
            Self::Get => "get",
            Self::GetRange => "get_range",
            Self::Exists => "exists",
            Self::Attributes => "attributes",
            Self::Upload => "upload",
            Self::Delete => "delete",
            Self::Open => "open",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The meaning of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// There is no such object.
    NotFound,
    /// A create found an object there that is not ours.
    Exists,
    /// An update found another version than the one it was based on.
    Changed,
    /// The store knows who we are, and we may not do this.
    Denied,
    /// The store does not accept our credentials, or there are none.
    Credentials,
    /// The bucket itself is not there.
    MissingBucket,
    /// The store refuses our signature because our clock is off.
    ClockSkew,
    /// The store asks to slow down.
    Throttled,
    /// The store can't be reached, answers with a failure of its own, or stopped answering.
    Unavailable,
    /// The bytes are not what the store said they are: cut short, too long, wrong checksum.
    Corrupt,
    /// The object is larger than the caller's bound.
    TooLarge,
    /// The store can't do this (a conditional write, as a rule).
    Unsupported,
    /// The configuration is wrong.
    Config,
    /// The request itself is wrong: a path that no object can have, a range outside of the object.
    Invalid,
    /// A local file could not be read or written.
    Local,
}

/// What the caller should do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// Try again later; it was already tried as often as the budget allows.
    Retry,
    /// This object only: go on with others.
    Skip,
    /// Nothing will work until a person acts: tell, and stop trying for a while.
    Stop,
}

/// A failure of an object store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What it means.
    pub kind: Kind,
    /// What was tried.
    pub operation: Operation,
    /// The object, or the prefix of a listing; empty when it is about the whole bucket.
    pub path: String,
    /// What happened, in a person's words; holds no credentials.
    pub what: String,
    /// A write that may have happened although no answer says so.
    pub uncertain: bool,
    /// How long the store asks us to wait.
    pub retry_after: Option<Duration>,
}

impl Error {
    /// A failure of `operation` on `path`.
    pub fn new(kind: Kind, operation: Operation, path: impl Into<String>, what: impl Into<String>) -> Self {
        Self { kind, operation, path: path.into(), what: what.into(), uncertain: false, retry_after: None }
    }

    /// A wrong configuration.
    pub fn config(what: impl Into<String>) -> Self {
        Self::new(Kind::Config, Operation::Open, "", what)
    }

    /// What to do about it.
    pub fn advice(&self) -> Advice {
        match self.kind {
            Kind::Throttled | Kind::Unavailable => Advice::Retry,
            Kind::NotFound
            | Kind::Exists
            | Kind::Changed
            | Kind::Corrupt
            | Kind::TooLarge
            | Kind::Invalid
            | Kind::Local => Advice::Skip,
            Kind::Denied
            | Kind::Credentials
            | Kind::MissingBucket
            | Kind::ClockSkew
            | Kind::Unsupported
            | Kind::Config => Advice::Stop,
        }
    }

    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// Whether this is an answer and no failure of the store: not found, exists, changed.
    pub fn is_answer(&self) -> bool {
        matches!(self.kind, Kind::NotFound | Kind::Exists | Kind::Changed)
    }

    fn next_step(&self) -> Option<&'static str> {
        Some(match self.kind {
            Kind::Denied => "grant the right on the bucket",
            Kind::Credentials => "check the credentials in the object storage configuration",
            Kind::MissingBucket => "create the bucket or correct its name",
            Kind::ClockSkew => "set this machine's clock",
            Kind::Throttled => "the store limits requests; it is tried again later",
            Kind::Unavailable => "it is tried again later; check the endpoint and the network if it stays so",
            Kind::Corrupt => "compare the object with its source",
            Kind::TooLarge => "the object is not what it should be; look at it by hand",
            Kind::Unsupported => "use a store with conditional writes",
            Kind::NotFound | Kind::Exists | Kind::Changed | Kind::Config | Kind::Invalid | Kind::Local => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.operation, self.path.is_empty()) {
            (Operation::Open, _) => f.write_str("object storage: ")?,
            (operation, true) => write!(f, "{operation}: ")?,
            (operation, false) => write!(f, "{operation} {}: ", self.path)?,
        }
        f.write_str(&self.what)?;
        if self.uncertain {
            f.write_str(" (it may have happened all the same)")?;
        }
        match self.next_step() {
            Some(step) => write!(f, "; {step}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
