//! What stops an answer, or a part of it.

use crate::store::Trouble;
use crate::store::blocks::Block;
use crate::store::cpu::Broken;
use crate::store::limits::Refused;
use std::sync::Arc;
use tonic::Status;

/// What stops an attempt at an answer.
#[derive(Debug)]
pub enum Fault {
    /// These blocks can't be read: the rest of the answer is planned anew without them.
    Blocks(Vec<(Arc<Block>, Trouble)>),
    /// The request takes more than it may.
    Refused(Refused),
    /// Nothing can be done about it here.
    Status(Status),
}

impl Fault {
    /// Of one block.
    pub fn of(block: &Arc<Block>, trouble: Trouble) -> Self {
        match Refused::try_from(trouble) {
            Ok(refused) => Self::Refused(refused),
            Err(trouble) => Self::Blocks(vec![(Arc::clone(block), trouble)]),
        }
    }

    /// As [`Fault::of`], to map an error with.
    pub fn from_block<E: Into<Trouble>>(block: &Arc<Block>) -> impl FnOnce(E) -> Self {
        let block = Arc::clone(block);
        move |e| Self::of(&block, e.into())
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Status> for Fault {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Self {
        Self::Status(Status::internal(broken.to_string()))
    }
}
