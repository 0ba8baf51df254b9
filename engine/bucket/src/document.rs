//! Our own documents in a bucket: one line that tells format and checksum, then JSON.
//!
//! ```text
//! {"panoptes":"commit","format":1,"crc32c":"e3069283"}
//! {"block":"01ARZ3NDEKTSV4RRFFQ69G5FAV", …}
//! ```
//!
//! Unknown fields of the JSON are ignored; what can't be ignored raises the format number. The checksum is CRC-32C over
//! all bytes after the first line feed.

use model::protection;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The only format that this program writes and reads.
pub const FORMAT: u32 = 1;
/// Longest first line, in bytes.
const HEADER_MAX: usize = 256;

#[derive(Serialize, Deserialize)]
struct Header {
    panoptes: String,
    format: u32,
    #[serde(default)]
    crc32c: String,
}

/// Why a document can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It was written by a newer program.
    #[error("format {0} of a {1} is not known, only {FORMAT}")]
    Format(u32, String),
    /// It is damaged, or not one of ours.
    #[error("{0}")]
    Broken(String),
}

/// Writes a document of this kind.
///
/// # Errors
/// When the body can't be written as JSON.
pub fn write<T: Serialize>(kind: &str, body: &T) -> Result<Vec<u8>, Unreadable> {
    let broken = |e: serde_json::Error| Unreadable::Broken(e.to_string());
    let mut json = serde_json::to_vec(body).map_err(broken)?;
    json.push(b'\n');
    let crc32c = format!("{:08x}", crc32c::crc32c(&json));
    let mut out = serde_json::to_vec(&Header { panoptes: kind.to_owned(), format: FORMAT, crc32c }).map_err(broken)?;
    out.push(b'\n');
    out.append(&mut json);
    Ok(out)
}

/// Reads a document of this kind, about one block: some thousands of JSON values and one more per 16 bytes.
///
/// # Errors
/// [`Unreadable`].
pub fn read<T: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Result<T, Unreadable> {
    let body = body(kind, bytes)?;
    tsdb::json::read(kind, "document", body).map_err(|e| Unreadable::Broken(e.to_string()))
}

/// Reads a document of this kind whose type bounds by itself what it costs to read, as [`crate::catalogue::Snapshot`] does.
///
/// # Errors
/// [`Unreadable`].
pub fn read_many<T: DeserializeOwned>(kind: &str, bytes: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(body(kind, bytes)?).map_err(|e| Unreadable::Broken(e.to_string()))
}

/// What is behind the first line, as its writer wrote it.
fn body<'a>(kind: &str, bytes: &'a [u8]) -> Result<&'a [u8], Unreadable> {
    let end = bytes.iter().take(HEADER_MAX).position(|b| *b == b'\n');
    let (header, body) = end
        .and_then(|end| bytes.split_at_checked(end))
        .ok_or_else(|| Unreadable::Broken(format!("a {kind} begins with one line of JSON")))?;
    let body = body.get(1..).unwrap_or_default();
    let header: Header =
        serde_json::from_slice(header).map_err(|e| Unreadable::Broken(format!("first line of a {kind}: {e}")))?;
    if header.panoptes != kind {
        return Err(Unreadable::Broken(format!("a {kind} was expected, this is a {:.40}", header.panoptes)));
    }
    if header.format != FORMAT {
        return Err(Unreadable::Format(header.format, kind.to_owned()));
    }
    let crc = format!("{:08x}", crc32c::crc32c(body));
    if crc != header.crc32c && !protection::off("catalogue-crc") {
        return Err(Unreadable::Broken(format!("the checksum of a {kind} is {crc}, it says {:.16}", header.crc32c)));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = write("commit", &vec![1, 2, 3]).unwrap();
        assert_eq!(read::<Vec<u32>>("commit", &bytes).unwrap(), [1, 2, 3]);
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(read::<Vec<u32>>("commit", &bad).is_err(), "byte {at}");
            assert!(read::<Vec<u32>>("commit", &bytes[..at]).is_err(), "cut at {at}");
        }
        let newer = String::from_utf8(bytes).unwrap().replace("\"format\":1", "\"format\":2");
        // Right header, right checksum, far more values than a real document of its size.
        let flood = write("commit", &vec![0; 100_000]).unwrap();
        assert!(read::<serde_json::Value>("commit", &flood).unwrap_err().to_string().contains("more values"));
        assert_eq!(
            read::<Vec<u32>>("commit", newer.as_bytes()).unwrap_err(),
            Unreadable::Format(2, "commit".to_owned())
        );
    }
}
