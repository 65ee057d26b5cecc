//! Reads single values, and says how they are written.

use humantime::Duration as Span;
use std::net::SocketAddr;

/// Where to listen.
pub fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| {
        "must be as ADDRESS:PORT: 127.0.0.1:50051, or 0.0.0.0:50051 for all addresses of this machine"
    })
}

/// How long.
pub(super) fn span(text: &str) -> Result<Span, &'static str> {
    text.parse().map_err(|_| "must be as 250ms, 30s, 5m, 1h or 3days")
}

/// How long, where nothing would work in no time.
pub(super) fn some_time(text: &str) -> Result<Span, &'static str> {
    let span = span(text)?;
    if span.is_zero() { Err("must be longer than 0s") } else { Ok(span) }
}

/// Yes or no, as people and tools write it.
pub(super) fn switch(text: &str) -> Result<bool, &'static str> {
    match &*text.trim().to_ascii_lowercase() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("must be as true or false, yes or no, on or off, 1 or 0"),
    }
}
