//! Parsers of single values; each error names the expected format.

use humantime::Duration as Span;
use std::net::SocketAddr;

/// Parses the address of a listener.
pub fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| {
        "must be ADDRESS:PORT, such as 127.0.0.1:50051, or 0.0.0.0:50051 for all addresses of this machine"
    })
}

/// Parses a duration.
pub(super) fn duration(text: &str) -> Result<Span, &'static str> {
    text.parse().map_err(|_| "must be a duration such as 250ms, 30s, 5m, 1h or 3days")
}

/// Parses a duration that must not be zero.
pub(super) fn positive_duration(text: &str) -> Result<Span, &'static str> {
    let duration = duration(text)?;
    if duration.is_zero() { Err("must be longer than 0s") } else { Ok(duration) }
}

/// Parses a number of mebibytes.
pub(super) fn mebibytes(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "must be a number of MiB without a unit, such as 256")
}

/// Parses a boolean in any of the usual spellings.
pub(super) fn switch(text: &str) -> Result<bool, &'static str> {
    match &*text.trim().to_ascii_lowercase() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("must be true or false, yes or no, on or off, 1 or 0"),
    }
}
