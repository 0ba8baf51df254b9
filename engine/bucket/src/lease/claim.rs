//! Which scope a stream belongs to. Two selections of streams may meet in one; then the first one has it, as long as its lease
//! lives.
//!
//! ```text
//! panoptes/v1/claim/<hash>      the scope that has the stream; created once, then only updated
//! ```

use super::{Error, Lease, Record, Watch, read};
use crate::error::Kind;
use crate::store::Version;
use crate::{Bucket, Operation, document};
use futures::StreamExt as _;
use model::Labels;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Where claims lie.
const ROOT: &str = "panoptes/v1/claim/";
const KIND: &str = "claim";
/// Largest claim that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Claims that are read at the same time.
const CONCURRENCY: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Claim {
    /// The stream's labels, for people.
    stream: String,
    /// The scope that has it.
    scope: String,
    /// The run and the epoch that took it.
    run: String,
    epoch: u64,
}

/// A stream that another scope has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The scope.
    pub scope: String,
    /// Who holds its lease.
    pub holder: String,
    /// The longest that this can last if that lease is not renewed; none if waiting does not help.
    pub left: Option<Duration>,
}

/// The name of a stream's claim.
pub fn claim_path(stream: &Labels) -> String {
    format!("{ROOT}{:016x}", stream.shard_hash(|_| true))
}

/// The claims of one tenure: of the time that one lease is held.
#[derive(Debug)]
pub struct Claims {
    bucket: Bucket,
    lease: Lease,
    ours: BTreeSet<Labels>,
    others: BTreeMap<String, Watch>,
}

impl Claims {
    /// None yet.
    pub fn new(bucket: Bucket, lease: Lease) -> Self {
        Self { bucket, lease, ours: BTreeSet::new(), others: BTreeMap::new() }
    }

    /// Claims these streams; gives those that others have. They are asked about again by the next call.
    ///
    /// # Errors
    /// When the lease is lost, or the bucket does not answer.
    pub async fn claim(&mut self, streams: &BTreeSet<Labels>) -> Result<BTreeMap<Labels, Taken>, Error> {
        let new: Vec<Labels> = streams.difference(&self.ours).cloned().collect();
        let bucket = self.bucket.clone();
        let mut reads = futures::stream::iter(new)
            .map(|stream| {
                let bucket = bucket.clone();
                async move {
                    let found = read_claim(&bucket, &stream).await;
                    (stream, found)
                }
            })
            .buffer_unordered(CONCURRENCY);
        let mut taken = BTreeMap::new();
        while let Some((stream, found)) = reads.next().await {
            let found = match found {
                // What is damaged holds up its own stream.
                Err(e) if matches!(e.kind, Kind::Corrupt | Kind::TooLarge) => {
                    taken.insert(stream, Taken { scope: "unknown".to_owned(), holder: e.to_string(), left: None });
                    continue;
                }
                found => found?,
            };
            let unchanged = match found {
                None => None,
                Some((claim, _)) if claim.scope == self.lease.record().scope => {
                    self.ours.insert(stream);
                    continue;
                }
                Some((claim, version)) => match self.holder(&claim.scope).await? {
                    Some((holder, left)) => {
                        taken.insert(stream, Taken { scope: claim.scope, holder, left: Some(left) });
                        continue;
                    }
                    None => Some(version),
                },
            };
            self.lease.check()?;
            match self.write(&stream, unchanged.as_ref()).await {
                Ok(()) => {
                    self.ours.insert(stream);
                }
                Err(e) if matches!(e.kind, Kind::Exists | Kind::Changed) => {
                    let (scope, holder) = ("another one".to_owned(), "whoever was faster".to_owned());
                    taken.insert(stream, Taken { scope, holder, left: None });
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(taken)
    }

    /// Who holds the lease of another scope, and how long without renewing it; nobody, if it is given back or over.
    async fn holder(&mut self, scope: &str) -> Result<Option<(String, Duration)>, Error> {
        let now = self.bucket.world().clock.elapsed();
        Ok(match read(&self.bucket, scope).await? {
            None | Some((Record { released: true, .. }, _)) => None,
            Some((record, version)) => {
                let over = self.others.entry(scope.to_owned()).or_default().is_over(&record, &version, now);
                over.err().map(|left| (record.holder, left))
            }
        })
    }

    async fn write(&self, stream: &Labels, unchanged: Option<&Version>) -> crate::Result<()> {
        let Record { scope, run, epoch, .. } = self.lease.record().clone();
        let path = claim_path(stream);
        let claim = Claim { stream: stream.to_string(), scope, run, epoch };
        let bytes = document::write(KIND, &claim)
            .map_err(|e| crate::Error::new(Kind::Invalid, Operation::Upload, &path, e.to_string()))?;
        match unchanged {
            None => self.bucket.create(&path, bytes).await?,
            Some(version) => self.bucket.update(&path, bytes, version).await?,
        };
        Ok(())
    }
}

async fn read_claim(bucket: &Bucket, stream: &Labels) -> crate::Result<Option<(Claim, Version)>> {
    let path = claim_path(stream);
    match bucket.get(&path, MAX_BYTES).await {
        Ok(object) => {
            let claim = document::read(KIND, &object.bytes).map_err(|e| {
                let what = format!("{e}; make sure that no compactor runs, then delete this object");
                crate::Error::new(Kind::Corrupt, Operation::Get, &path, what)
            })?;
            Ok(Some((claim, object.meta.version)))
        }
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}
