//! Why bytes of a block can't be had, and so what a request does about it.

/// Why bytes of a block can't be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Trouble {
    /// The bucket has the object no more. The block was deleted under the request, or it is damaged: ask
    /// [`crate::store::blocks::Set::gone`], which knows then, and plan anew on the snapshot that it gives.
    #[error("{0}")]
    Gone(String),
    /// Bytes are wrong: the block is named as missing, with this reason; others go on.
    #[error("{0}")]
    Damaged(String),
    /// The bucket or the local disk can't be used now: the block is named as missing from this answer, or the request fails.
    #[error("{0}")]
    Unavailable(String),
    /// The request would read more bytes than [`crate::store::ranges::Budget`] allows: it is refused.
    #[error("the request reads more than {limit} bytes: narrow it, or raise --store.grpc.downloaded-bytes-limit")]
    OverBudget {
        /// Bytes that a request may read.
        limit: u64,
    },
}

impl From<bucket::Error> for Trouble {
    fn from(error: bucket::Error) -> Self {
        use bucket::Kind;
        match error.kind {
            Kind::NotFound => Self::Gone(error.to_string()),
            // A range behind the end of an object: the object is shorter than the index says.
            Kind::Corrupt | Kind::TooLarge | Kind::Invalid => Self::Damaged(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<tsdb::Error> for Trouble {
    fn from(error: tsdb::Error) -> Self {
        match error.kind {
            tsdb::ErrorKind::Io(_) | tsdb::ErrorKind::Refused(_) => Self::Unavailable(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}
