//! The sidecar's readers of what others wrote, as functions of bytes: for goal G20 and the fuzz targets, not an API.

use super::{prometheus, reload, remote_read};

/// A streamed answer of remote read, to its end; the number of series.
///
/// # Errors
/// What a caller of the sidecar would be told.
pub fn remote_read_stream(bytes: &[u8]) -> Result<usize, String> {
    let mut reader = remote_read::FrameReader::default();
    let mut count = 0;
    // In pieces, as a network delivers them.
    for piece in bytes.chunks(4096) {
        reader.push(piece);
        while let Some(all) = reader.pop().map_err(|e| e.to_string())? {
            for series in all {
                remote_read::series(series).map_err(|e| e.to_string())?;
                count += 1;
            }
        }
    }
    reader.finish().map_err(|e| e.to_string())?;
    Ok(count)
}

/// An answer of remote read with plain samples; the number of series.
///
/// # Errors
/// What a caller of the sidecar would be told.
pub fn remote_read_samples(bytes: &[u8]) -> Result<usize, String> {
    let all = remote_read::samples(bytes).map_err(|e| e.to_string())?;
    Ok(all.into_iter().map(remote_read::series_of_samples).count())
}

/// Prometheus's configuration and its metrics page, as far as they are read.
///
/// # Errors
/// When the configuration can't be read.
pub fn prometheus_configuration(text: &str) -> Result<usize, String> {
    let _lowest = prometheus::lowest_timestamp(text);
    prometheus::external_labels(text).map(|labels| labels.len()).map_err(|e| e.to_string())
}

/// A configuration handed to the reloader: unpacked, its variables replaced; the length of its text.
///
/// # Errors
/// When it can't be unpacked, or names an unknown variable.
pub fn reloaded_configuration(bytes: &[u8]) -> Result<usize, String> {
    reload::expanded(bytes).map(|text| text.len())
}
