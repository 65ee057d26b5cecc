//! A message of a call, between the encoding of the request and protobuf's binary encoding.

use super::{ConnectError, Head, compression, json_keys::UniqueKeys};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body_util::Full;
use prost::Message as _;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use std::fmt::Display;
use tonic::{Status, body::Body};

/// The length of the prefix of a frame: flags, and the length of the message.
pub(super) const PREFIX_LEN: usize = 5;
/// The flag of a compressed frame.
pub(super) const COMPRESSED: u8 = 1;

/// The encoding of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// protobuf's JSON.
    Json,
    /// protobuf's binary encoding.
    Proto,
}

impl Encoding {
    /// The media type of a message, or of a stream of messages.
    pub(super) fn media_type(self, is_stream: bool) -> &'static str {
        match (self, is_stream) {
            (Self::Json, false) => "application/json",
            (Self::Proto, false) => "application/proto",
            (Self::Json, true) => "application/connect+json",
            (Self::Proto, true) => "application/connect+proto",
        }
    }
}

/// The flags of the frame at the beginning of some bytes, and the length of its message; `None`: the prefix is incomplete.
pub(super) fn prefix(bytes: &[u8]) -> Option<(u8, usize)> {
    let (flags, rest) = bytes.split_first()?;
    let length = u32::from_be_bytes(*rest.first_chunk()?);
    Some((*flags, usize::try_from(length).ok()?))
}

/// A message in protobuf's binary encoding.
pub(super) struct Message(Bytes);

impl Message {
    /// The message of a request.
    pub(super) fn input(head: &Head, content: Bytes) -> Result<Self, ConnectError> {
        let (content, is_gzip) =
            if head.is_stream { enveloped(head, content)? } else { (content, head.is_gzip) };
        let content =
            if is_gzip { compression::decompress(&content, head.largest)? } else { content };
        match head.encoding {
            Encoding::Proto => Ok(Self(content)),
            Encoding::Json => from_json(head.method.input(), &content).map(Self),
        }
    }

    /// The body of a gRPC request.
    pub(super) fn framed(self) -> Body {
        let mut frame = BytesMut::with_capacity(PREFIX_LEN + self.0.len());
        put_frame(&mut frame, 0, &self.0);
        Body::new(Full::new(frame.freeze()))
    }
}

/// The only message of a request whose answer is a stream, and whether it is compressed.
fn enveloped(head: &Head, mut content: Bytes) -> Result<(Bytes, bool), ConnectError> {
    let invalid = || {
        ConnectError::invalid(
            "the body must be one message with a prefix of 5 bytes: flags, length",
        )
    };
    let (flags, length) = prefix(&content).ok_or_else(invalid)?;
    content.advance(PREFIX_LEN);
    let is_compressed = match flags {
        0 => false,
        COMPRESSED if head.is_gzip => true,
        _ => return Err(invalid()),
    };
    if length != content.len() {
        return Err(invalid());
    }
    Ok((content, is_compressed))
}

/// Writes a frame.
pub(super) fn put_frame(into: &mut BytesMut, flags: u8, message: &[u8]) {
    into.put_u8(flags);
    into.put_u32(u32::try_from(message.len()).expect("a message is shorter than 4 GiB"));
    into.put_slice(message);
}

fn from_json(kind: MessageDescriptor, json: &[u8]) -> Result<Bytes, ConnectError> {
    if json.is_empty() {
        return Err(ConnectError::invalid("the body is empty: send a JSON object, such as {}"));
    }
    serde_json::from_slice::<UniqueKeys>(json)
        .map_err(|error| ConnectError::invalid(format!("the JSON of the message: {error}")))?;
    let mut json = serde_json::Deserializer::from_slice(json);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    // A field that is mistyped would otherwise change the question silently.
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(kind, tracked, &options);
    let ended = message.and_then(|message| json.end().map(|()| message));
    let message = ended.map_err(|error| {
        let path = track.path().to_string();
        let field = if path == "." { String::new() } else { format!("{path}: ") };
        ConnectError::invalid(format!("the JSON of the message: {field}{error}"))
    })?;
    Ok(message.encode_to_vec().into())
}

/// A message of an answer in this encoding.
pub(super) fn output(
    encoding: Encoding,
    kind: MessageDescriptor,
    message: Bytes,
) -> Result<Bytes, ConnectError> {
    if encoding == Encoding::Proto {
        return Ok(message);
    }
    let internal = |error: &dyn Display| {
        ConnectError::from(Status::internal(format!("the answer has no JSON: {error}")))
    };
    let message = DynamicMessage::decode(kind, message).map_err(|error| internal(&error))?;
    let mut json = Vec::with_capacity(512);
    // Default values are written, so that a person who reads a denial sees it.
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut serializer = serde_json::Serializer::new(&mut json);
    message.serialize_with_options(&mut serializer, &options).map_err(|error| internal(&error))?;
    Ok(json.into())
}
