//! Splits and decodes a JSON Web Token, without verifying it.
//!
//! Padding of base64 is optional, as in Clerk's SDK. A claim of an unexpected type is kept, because some claims may
//! have one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// `cat` of a session token.
const SESSION_CATEGORY: &str = "cl_B7d4PD111AAA";
/// `cat` of every token of an instance that uses one category for all tokens.
const SHARED_CATEGORY: &str = "cl_I7d4PD111III";

/// A token, split into its three parts.
pub(super) struct Token<'t> {
    pub header: Header,
    pub claims: Claims,
    /// The signed text.
    pub message: &'t str,
    pub signature: &'t str,
}

/// The fields of a token's header that are used. A field with the value null is `Some`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Header {
    /// The signature algorithm.
    #[serde(deserialize_with = "present")]
    pub alg: Option<Value>,
    /// The id of the key.
    #[serde(deserialize_with = "present")]
    pub kid: Option<Value>,
    /// The type: `JWT`.
    #[serde(deserialize_with = "present")]
    pub typ: Option<Value>,
    /// Clerk's category of the token: session, JWT template or machine.
    #[serde(deserialize_with = "present")]
    pub cat: Option<Value>,
}

/// The claims of a token that are used. A claim with the value null is `Some`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// The user's id.
    #[serde(deserialize_with = "present")]
    pub sub: Option<Value>,
    /// The session's id.
    #[serde(deserialize_with = "present")]
    pub sid: Option<Value>,
    /// The Frontend API that issued the token.
    #[serde(deserialize_with = "present")]
    pub iss: Option<Value>,
    /// The origin that the token was issued for.
    #[serde(deserialize_with = "present")]
    pub azp: Option<Value>,
    /// When the token was issued, in seconds since 1970.
    #[serde(deserialize_with = "present")]
    pub iat: Option<Value>,
    /// When the token becomes valid, in seconds since 1970.
    #[serde(deserialize_with = "present")]
    pub nbf: Option<Value>,
    /// When the token expires, in seconds since 1970.
    #[serde(deserialize_with = "present")]
    pub exp: Option<Value>,
    /// `pending`: the sign-in is not complete.
    #[serde(deserialize_with = "present")]
    pub sts: Option<Value>,
    /// The version of the claims.
    #[serde(deserialize_with = "present")]
    pub v: Option<Value>,
    /// The active organization, in version 2.
    #[serde(deserialize_with = "present")]
    pub o: Option<Value>,
    /// The active organization, in all other versions.
    #[serde(deserialize_with = "present")]
    pub org_id: Option<Value>,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl<'t> Token<'t> {
    /// Splits and decodes a token; `None` if it is not a JSON Web Token.
    pub fn parse(token: &'t str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.').filter(|(_, rest)| !rest.contains('.'))?;
        let (header, claims) = (json(header)?, json(claims)?);
        Some(Self { header, claims, message, signature: signature.trim_end_matches('=') })
    }
}

fn json<T: DeserializeOwned>(part: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    // serde would also read a struct from a list.
    bytes.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(&bytes).ok())?
}

impl Claims {
    /// The `iss` claim, if it is a string.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.iss.as_ref().and_then(Value::as_str)
    }
}

impl Header {
    /// The `kid`, if it is a string.
    pub(super) fn key(&self) -> Option<&str> {
        self.kid.as_ref().and_then(Value::as_str)
    }

    /// Why a token with this header is not a session token; `None` if it is one.
    pub(super) fn objection(&self) -> Option<&'static str> {
        match &self.typ {
            None => {}
            Some(Value::String(typ)) if typ == "JWT" => {}
            Some(_) => return Some("it is another kind of token: its `typ` is not `JWT`"),
        }
        match &self.cat {
            None => None,
            Some(Value::String(cat)) if cat == SESSION_CATEGORY || cat == SHARED_CATEGORY => None,
            Some(_) => Some(
                "it is another kind of token: its `cat` is not that of a session (tokens of JWT templates and of \
                 machines are not accepted)",
            ),
        }
    }
}
