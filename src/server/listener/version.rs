//! The version of HTTP that a peer speaks, by ALPN or by its first bytes.

use super::Peer;
use bytes::BytesMut;
use std::io;
use tokio::io::AsyncReadExt;

/// The beginning of HTTP/2's preface. No request of HTTP/1.1 begins with it.
/// Source: <https://www.rfc-editor.org/rfc/rfc9113#section-3.4>
const PREFACE_START: &[u8] = b"PRI ";

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1, or HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

impl HttpVersion {
    /// The version that the TLS handshake agreed on; `None`: the peer named none.
    pub(super) fn of_alpn(protocol: Option<&[u8]>) -> Option<Self> {
        match protocol? {
            b"h2" => Some(Self::Http2),
            _ => Some(Self::Http1),
        }
    }
}

impl Peer {
    /// Reads as many bytes as tell the version, and keeps them for the next reader.
    pub(super) async fn with_detected_version(mut self) -> io::Result<Self> {
        let mut read = BytesMut::with_capacity(PREFACE_START.len());
        while read.len() < PREFACE_START.len() && PREFACE_START.starts_with(&read) {
            let close = self.close.clone();
            let some = close.run_until_cancelled(self.read_buf(&mut read)).await;
            if some.ok_or(io::ErrorKind::ConnectionAborted)?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let is_http2 = read.starts_with(PREFACE_START);
        self.version = if is_http2 { HttpVersion::Http2 } else { HttpVersion::Http1 };
        self.unread = read.freeze();
        Ok(self)
    }
}
