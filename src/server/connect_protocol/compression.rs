//! Compression of messages with gzip.

use super::ConnectError;
use bytes::Bytes;
use flate2::{Compression, bufread::MultiGzDecoder, write::GzEncoder};
use http::HeaderValue;
use std::io::{Read, Write};
use tonic::Status;

/// The shortest message that is worth compressing, in bytes.
const SHORTEST: usize = 1024;

/// Whether content is compressed with gzip; fails for another compression.
pub(super) fn is_gzip(name: Option<&[u8]>) -> Result<bool, ConnectError> {
    match name {
        None | Some(b"" | b"identity") => Ok(false),
        Some(name) if name.eq_ignore_ascii_case(b"gzip") => Ok(true),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let message = format!("unknown compression `{other}`: gzip and identity are supported");
            Err(Status::unimplemented(message).into())
        }
    }
}

/// Whether a list of acceptable compressions, such as `br, gzip;q=0.5`, has gzip.
pub(super) fn accepts_gzip(list: Option<&HeaderValue>) -> bool {
    let list = list.and_then(|list| list.to_str().ok()).unwrap_or_default();
    list.split(',').any(|accepted| {
        let (name, weight) = accepted.split_once(';').unwrap_or((accepted, ""));
        name.trim().eq_ignore_ascii_case("gzip") && !matches!(weight.trim(), "q=0" | "q=0.0")
    })
}

/// Decompresses content to at most `largest` bytes.
pub(super) fn decompress(content: &[u8], largest: usize) -> Result<Bytes, ConnectError> {
    let mut decompressed = Vec::new();
    let mut decoder = MultiGzDecoder::new(content).take(largest as u64 + 1);
    decoder
        .read_to_end(&mut decompressed)
        .map_err(|error| ConnectError::invalid(format!("the body is not valid gzip: {error}")))?;
    if decompressed.len() > largest {
        return Err(too_large(largest));
    }
    Ok(decompressed.into())
}

/// The error for a message of more than `largest` bytes.
pub(crate) fn too_large(largest: usize) -> ConnectError {
    let message = format!("the message is larger than {} KiB", largest / 1024);
    Status::resource_exhausted(message).into()
}

/// Compresses content that is long enough.
pub(super) fn compress(content: &[u8]) -> Option<Bytes> {
    if content.len() < SHORTEST {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).ok()?;
    encoder.finish().ok().map(Bytes::from)
}
