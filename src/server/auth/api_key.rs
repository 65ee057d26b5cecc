//! API keys: how they are made, named and stored.

use aws_lc_rs::rand;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{borrow::Borrow, fmt, str::FromStr};

/// The digits of base62.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// How many of them a key has: 256 bits.
const LENGTH: usize = 43;
/// The longest name of a key.
const LONGEST_NAME: usize = 40;

/// The name of a key: small letters, digits, and `-` between them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(String);

impl Name {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The text is no name of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a key: 1 to 40 of a-z, 0-9 and, between them, `-`")]
pub(super) struct InvalidName(String);

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_name = (1..=LONGEST_NAME).contains(&name.len())
            && name.bytes().all(|b| is_plain(b) || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if is_name { Ok(Self(name.into())) } else { Err(InvalidName(name.into())) }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        name.parse()
    }
}

/// A new key: `ent_NAME_RANDOM`, so that whoever finds one knows what it is of.
pub(super) fn make(name: &Name) -> anyhow::Result<String> {
    let mut random = String::with_capacity(LENGTH);
    while random.len() < LENGTH {
        let mut bytes = [0; 64];
        rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system has no random bytes"))?;
        // Bytes from 248 on would make the first digits likelier than the others.
        let digits = bytes.into_iter().filter(|byte| *byte < 248);
        let left = LENGTH - random.len();
        random.extend(digits.take(left).map(|byte| char::from(DIGITS[usize::from(byte % 62)])));
    }
    Ok(format!("ent_{}_{random}", name.0))
}

/// The SHA-256 of a key. A key is 256 random bits, so nothing slower is needed to keep it from being guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String")]
pub(super) struct Hash(pub(super) [u8; 32]);

impl Hash {
    pub(super) fn of(key: &[u8]) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The text is no SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "sha256 must be the 64 hexadecimal digits of a key's SHA-256: `entitlements keys create` writes them"
)]
pub(super) struct InvalidHash;

impl TryFrom<String> for Hash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidHash);
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| InvalidHash)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidHash)?;
        }
        Ok(Self(hash))
    }
}
