//! A JSON Web Token as it was sent: taken apart, not yet believed.
//!
//! Base64 is read as Clerk's SDK reads it: padding is optional. The claims that are not of the expected type are kept
//! as they are, because whether that matters depends on the claim.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// `cat` of a session token.
const SESSION: &str = "cl_B7d4PD111AAA";
/// `cat` of every token of an instance that does not tell them apart.
const ANY: &str = "cl_I7d4PD111III";

/// A token in its three parts.
pub(super) struct Token<'t> {
    pub header: Header,
    pub claims: Claims,
    /// What is signed.
    pub message: &'t str,
    pub signature: &'t str,
}

/// What is read of a token's header. A field that is there and null is `Some`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Header {
    /// How the token is signed.
    #[serde(deserialize_with = "present")]
    pub alg: Option<Value>,
    /// The id of the key.
    #[serde(deserialize_with = "present")]
    pub kid: Option<Value>,
    /// The type: `JWT`.
    #[serde(deserialize_with = "present")]
    pub typ: Option<Value>,
    /// Clerk's category of a token: a session, a JWT template, a machine.
    #[serde(deserialize_with = "present")]
    pub cat: Option<Value>,
}

/// What is read of a token's claims. A claim that is there and null is `Some`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// The user.
    #[serde(deserialize_with = "present")]
    pub sub: Option<Value>,
    /// The session.
    #[serde(deserialize_with = "present")]
    pub sid: Option<Value>,
    /// The Frontend API that made the token.
    #[serde(deserialize_with = "present")]
    pub iss: Option<Value>,
    /// The origin that the token was made for.
    #[serde(deserialize_with = "present")]
    pub azp: Option<Value>,
    /// When the token was made, in seconds since 1970.
    #[serde(deserialize_with = "present")]
    pub iat: Option<Value>,
    /// From when on it is valid.
    #[serde(deserialize_with = "present")]
    pub nbf: Option<Value>,
    /// Until when it is valid.
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
    /// Takes a token apart; nothing: it is no JSON Web Token.
    pub fn parse(token: &'t str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.').filter(|(_, rest)| !rest.contains('.'))?;
        let (header, claims) = (json(header)?, json(claims)?);
        Some(Self { header, claims, message, signature: signature.trim_end_matches('=') })
    }
}

fn json<T: DeserializeOwned>(part: &str) -> Option<T> {
    let bytes = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    // A struct could also be read from a list, which is no header and no claims.
    bytes.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(&bytes).ok())?
}

impl Claims {
    /// The Frontend API that the claims name.
    pub(super) fn issuer(&self) -> Option<&str> {
        self.iss.as_ref().and_then(Value::as_str)
    }
}

impl Header {
    /// The id of the key, where it can be one.
    pub(super) fn key(&self) -> Option<&str> {
        self.kid.as_ref().and_then(Value::as_str)
    }

    /// Why a token with this header is no session token.
    pub(super) fn objection(&self) -> Option<&'static str> {
        match &self.typ {
            None => {}
            Some(Value::String(typ)) if typ == "JWT" => {}
            Some(_) => return Some("it is another kind of token: its `typ` is not `JWT`"),
        }
        match &self.cat {
            None => None,
            Some(Value::String(cat)) if cat == SESSION || cat == ANY => None,
            Some(_) => Some(
                "it is another kind of token: its `cat` is not that of a session (tokens of JWT templates and of \
                 machines sign nobody in)",
            ),
        }
    }
}
