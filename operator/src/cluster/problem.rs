//! What can be wrong, in a closed list of words.

use std::fmt;

/// Declares an enum whose variants are the words of the API.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($word:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the words are the documentation's page names")]
        pub enum $name { $($word),* }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$word),*];

            /// The word as it stands in the API.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$word => stringify!($word)),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Types of conditions, of both kinds.
    ConditionType {
        // both
        Ready, Reconciling, Stalled, Warning,
        // MonitoringCluster
        Available, ConfigurationApplied, ObjectStorageReady, HistoryReady, CompactionHealthy,
        StorageReady, RemoteStoresReady, CertificatesValid, Paused,
        // RemoteStore
        Accepted, Resolved, Reachable, TLSValid, ClusterMatches, LabelsUnique, Fresh, Synced, Drained,
    }
}

words! {
    /// Reasons of conditions, of both kinds.
    Reason {
        // good news
        Ready, AllAvailable, Loaded, Bound, AllReady, Valid, UpToDate, Unique, Matches, Reachable, Resolved,
        Accepted, NotUsed, Verified, AllBlocksServed, Compacting, StandingBy,
        // Reconciling
        Creating, RollingOut,
        // Stalled
        InvalidSpec, PodTemplateRejected, ForbiddenByRBAC, ImageUnavailable, Unschedulable, QuotaExceeded,
        ImmutableChangeRefused, FieldConflict, CrashLooping, AdmissionRefused,
        // Available
        PrometheusDown, QuerierDown, StoreDown, KubeStateMetricsDown, NodeExporterDown,
        // ConfigurationApplied
        WaitingForReload, ReloadFailed, ConfigTooLarge, RejectedObjects,
        // ObjectStorageReady
        NotConfigured, SecretMissing, SecretInvalid, NotVerified, AccessDenied, BucketMissing, UploadFailing,
        // HistoryReady
        BlocksMissing, SyncFailing,
        // CompactionHealthy
        CompactorDown, Halted, ForeignCompactor, NoSpace, BlocksHeld, Backlog,
        // StorageReady
        PVCPending,
        // RemoteStoresReady
        RequiredDown, OptionalDown, LabelConflict,
        // Warning, Paused
        RiskySettings, PausedBySpec,
        // RemoteStore: Accepted
        NoMonitoringCluster, Ambiguous,
        // Resolved
        NXDomain, NoAddresses,
        // Reachable
        ConnectRefused, ConnectTimeout, NotHTTP2, Unauthorized, ProtocolMismatch, Unreachable,
        // TLSValid
        Expired, ExpiringSoon, UnknownCA, WrongServerName, ClientCertRequired, Plaintext,
        // ClusterMatches
        WrongCluster, NoClusterLabel,
        // LabelsUnique
        DuplicateOf, OverlapsLocal,
        // Fresh
        Lagging, ClockSkew,
        // Synced
        QuerierNotUpdated, QuerierUnreachable,
        // Drained
        DrainedBySpec,
        // not known yet
        Pending,
    }
}

/// One thing that is wrong with a wish: which condition tells it, why, in words, and where in the object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The condition that tells it.
    pub condition: ConditionType,
    /// One word of the closed list.
    pub reason: Reason,
    /// What, where, and the next step.
    pub message: String,
    /// Path of the field that asked for it, as `spec.objectStorage.gcs`.
    pub field: String,
}

impl Problem {
    /// A problem; `field` is a path such as `spec.retention.local`.
    pub fn new(condition: ConditionType, reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { condition, reason, message: message.into(), field: field.into() }
    }

    /// A field whose value makes no sense: nothing is changed until a person corrects it.
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ConditionType::Stalled, Reason::InvalidSpec, field, message)
    }

    /// A setting that works, but is risky.
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ConditionType::Warning, Reason::RiskySettings, field, message)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
