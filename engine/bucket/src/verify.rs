//! Whether a part may do in a bucket what it has to, told by trying.
//!
//! A marker with a unique name is created under `panoptes/v1/verify/<part>/`, read back, listed, and, by a part that needs
//! these rights, overwritten and deleted. A part without the right to delete leaves one small object per process start.

use crate::config::Kind as ProviderKind;
use crate::error::{Error, Kind, Operation};
use crate::{Bucket, Result};
use futures::TryStreamExt as _;
use model::BlockId;
use std::fmt;

/// Where the markers lie.
pub const ROOT: &str = "panoptes/v1/verify/";

/// What a part must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// To list names.
    List,
    /// To read objects.
    Get,
    /// To write objects that are not there.
    Create,
    /// To write over objects.
    Overwrite,
    /// To delete objects.
    Delete,
}

impl Right {
    /// What a producer needs: sidecar, ruler.
    pub const PRODUCER: &'static [Self] = &[Self::List, Self::Get, Self::Create];
    /// What a reader needs: store gateway.
    pub const READER: &'static [Self] = &[Self::List, Self::Get];
    /// What a compactor needs.
    pub const COMPACTOR: &'static [Self] = &[Self::List, Self::Get, Self::Create, Self::Overwrite, Self::Delete];

    /// The provider's own name of it, as an administrator grants it.
    pub fn permission(self, provider: ProviderKind) -> &'static str {
        match (provider, self) {
            (ProviderKind::Gcs, Self::List) => "storage.objects.list",
            (ProviderKind::Gcs, Self::Get) => "storage.objects.get",
            (ProviderKind::Gcs, Self::Create) => "storage.objects.create",
            // Over there an overwrite is a delete and a create.
            (ProviderKind::Gcs, Self::Overwrite | Self::Delete) => "storage.objects.delete",
            (ProviderKind::S3, Self::List) => "s3:ListBucket",
            (ProviderKind::S3, Self::Get) => "s3:GetObject",
            (ProviderKind::S3, Self::Create | Self::Overwrite) => "s3:PutObject",
            (ProviderKind::S3, Self::Delete) => "s3:DeleteObject",
            (ProviderKind::Azure, Self::List | Self::Get) => {
                "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"
            }
            (ProviderKind::Azure, Self::Create | Self::Overwrite) => {
                "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/write"
            }
            (ProviderKind::Azure, Self::Delete) => {
                "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/delete"
            }
            (ProviderKind::Filesystem | ProviderKind::Other, Self::List | Self::Get) => "read",
            (ProviderKind::Filesystem | ProviderKind::Other, _) => "write",
        }
    }
}

/// Why a bucket can't be used by a part.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The part that needs it.
    pub part: String,
    /// The right that is missing; none when it is not about a right (credentials, bucket, network, clock).
    pub right: Option<Right>,
    /// The right as the provider calls it, as in `storage.objects.create`.
    pub permission: Option<&'static str>,
    /// What the store said.
    pub error: Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.permission {
            Some(permission) => write!(f, "{} lacks {permission}: {}", self.part, self.error),
            None => write!(f, "{} can't use the bucket: {}", self.part, self.error),
        }
    }
}

impl std::error::Error for Failure {}

/// A part's check of one bucket, kept between two runs so that a part without the right to delete writes one marker only.
/// Make a new one when the configuration changed.
#[derive(Debug)]
pub struct Check {
    part: String,
    rights: &'static [Right],
    /// The marker that lies in the bucket.
    left: Option<String>,
    /// Whether it was read back.
    read_back: bool,
}

impl Check {
    /// The check of `part` (as in `sidecar`), which needs `rights`.
    pub fn new(part: &str, rights: &'static [Right]) -> Self {
        Self { part: part.to_owned(), rights, left: None, read_back: false }
    }

    /// Tries all rights in turn.
    ///
    /// # Errors
    /// The first one that is missing, or what else stands in the way.
    pub async fn run(&mut self, bucket: &Bucket) -> std::result::Result<(), Failure> {
        for right in self.rights {
            self.one(bucket, *right).await.map_err(|error| {
                // To create includes to read back; who may not read is told that.
                let right = if error.operation == Operation::Get { Right::Get } else { *right };
                let right = (error.kind == Kind::Denied).then_some(right);
                let permission = right.map(|r| r.permission(bucket.provider()));
                Failure { part: self.part.clone(), right, permission, error }
            })?;
        }
        if !self.rights.contains(&Right::Delete)
            && let Some(path) = self.left.take()
            && bucket.delete(&path).await.is_err()
        {
            self.left = Some(path);
        }
        Ok(())
    }

    async fn one(&mut self, bucket: &Bucket, right: Right) -> Result<()> {
        match right {
            Right::List => {
                let _ = bucket.list_dir(&format!("{ROOT}{}", self.part)).try_next().await?;
            }
            Right::Get => {
                // An object that is not there answers as well as one that is: who may not read is told so. Where reading
                // works and listing doesn't, stores say "denied" too, but listing was tried before.
                match bucket.get(&format!("{ROOT}{}/none", self.part), 1 << 10).await {
                    Ok(_) => {}
                    Err(e) if matches!(e.kind, Kind::NotFound | Kind::TooLarge) => {}
                    Err(e) => return Err(e),
                }
            }
            Right::Create => {
                let text = format!("{} may write here; this object can be deleted\n", self.part);
                let path = match &self.left {
                    Some(_) if self.read_back => return Ok(()),
                    Some(path) => path.clone(),
                    None => {
                        let world = bucket.world();
                        let id = BlockId::new(world.clock.now_ms(), &*world.entropy);
                        let path = format!("{ROOT}{}/{id}", self.part);
                        bucket.create(&path, text.clone()).await?;
                        // From here on it lies there, whether or not it can be read.
                        (self.left, self.read_back) = (Some(path.clone()), false);
                        path
                    }
                };
                let back = match bucket.get(&path, 1 << 10).await {
                    Ok(back) => back,
                    Err(e) => {
                        self.left = self.left.take().filter(|_| !e.is_not_found());
                        return Err(e);
                    }
                };
                if back.bytes != text {
                    let what = "what was written is not what is read back";
                    return Err(Error::new(Kind::Corrupt, Operation::Get, path, what));
                }
                self.read_back = true;
            }
            Right::Overwrite => {
                if let Some(path) = &self.left {
                    bucket.put(path, format!("{} may write over this; it can be deleted\n", self.part)).await?;
                }
            }
            Right::Delete => {
                if let Some(path) = self.left.take() {
                    bucket.delete(&path).await?;
                }
            }
        }
        Ok(())
    }
}

/// Tries once what `part` needs.
///
/// # Errors
/// The first right that is missing, or what else stands in the way.
pub async fn check(bucket: &Bucket, part: &str, rights: &'static [Right]) -> std::result::Result<(), Failure> {
    Check::new(part, rights).run(bucket).await
}
