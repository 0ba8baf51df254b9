//! What can go wrong with a file of a block: which file, which section, which byte, and what to do.

use std::fmt;
use std::io;
use std::sync::Arc;

/// A file of a block that can't be read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{file}: {section} at byte {offset}: {kind}; {}", kind.next_step())]
pub struct Error {
    /// The file: its path, or the name that the reader was given.
    pub file: Arc<str>,
    /// The part of the file, in the words of its FORMAT.md: `symbols`, `series`, `postings`, `chunk`, …
    pub section: &'static str,
    /// Bytes from the start of the file to the place where reading stopped.
    pub offset: u64,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// What is wrong with a file.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ErrorKind {
    /// The operating system refused.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// The file, or the section, ends before what it announces.
    #[error("it ends early: {needed} more bytes are announced, {left} are there")]
    Truncated {
        /// Bytes that should follow.
        needed: u64,
        /// Bytes that do follow.
        left: u64,
    },
    /// A CRC32-Castagnoli does not fit.
    #[error("the checksum is {found:08x}, the file says {expected:08x}")]
    Checksum {
        /// What the file says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// A file of another kind, or of a version that this program does not know.
    #[error("{0}")]
    Version(String),
    /// Bytes that no writer produces.
    #[error("{0}")]
    Corrupt(String),
    /// What was handed in can't be written: out of order, too large, unknown symbol.
    #[error("{0}")]
    Refused(String),
}

impl ErrorKind {
    /// What a person does about it.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Io(_) => "check the disk and the rights of the file",
            Self::Truncated { .. } | Self::Checksum { .. } | Self::Corrupt(_) => {
                "the block is damaged: take it from another copy, or look at it with `panoptes tools bucket verify`"
            }
            Self::Version(_) => "read it with a version of this program that knows the format",
            Self::Refused(_) => "nothing was written; what was handed in must be put right",
        }
    }
}

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the operating system about `file`.
    pub fn io(file: impl fmt::Display, section: &'static str, error: io::Error) -> Self {
        Self::new(file, section, 0, ErrorKind::Io(Arc::new(error)))
    }

    /// Bytes of `file` that no writer produces.
    pub fn corrupt(file: impl fmt::Display, section: &'static str, offset: u64, what: impl Into<String>) -> Self {
        Self::new(file, section, offset, ErrorKind::Corrupt(what.into()))
    }

    /// Something that `file` can't hold.
    pub fn refused(file: impl fmt::Display, section: &'static str, what: impl Into<String>) -> Self {
        Self::new(file, section, 0, ErrorKind::Refused(what.into()))
    }

    /// Any error.
    pub fn new(file: impl fmt::Display, section: &'static str, offset: u64, kind: ErrorKind) -> Self {
        Self { file: file.to_string().into(), section, offset, kind }
    }

    /// True when the file (or folder) is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(&self.kind, ErrorKind::Io(e) if e.kind() == io::ErrorKind::NotFound)
    }

    /// True when bytes are wrong, as opposed to a disk that refuses or a version that is unknown.
    pub fn is_damage(&self) -> bool {
        matches!(self.kind, ErrorKind::Truncated { .. } | ErrorKind::Checksum { .. } | ErrorKind::Corrupt(_))
    }
}
